"""Add to an organisation's prepaid credit, or take back: `manage.py grant_credit acme 50 --note "invoice 17"`."""

from __future__ import annotations

from argparse import ArgumentTypeError
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Organization
from billing.services import InsufficientCredit, grant_credit
from runflow.lib.money import money

MAX_NOTE = 255
# USD; more is a slip of the finger.
MOST = 100_000_000
_PLACES = 6


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ArgumentTypeError(f"{text!r} is no amount") from None
    if not amount.is_finite() or not 0 < abs(amount) <= MOST:
        raise ArgumentTypeError(f"must not be 0 and at most {MOST:,} either way")
    if -int(amount.normalize().as_tuple().exponent) > _PLACES:
        raise ArgumentTypeError(f"must have at most {_PLACES} decimal places")
    return amount


class Command(BaseCommand):
    help = "Grant an organization prepaid credit in USD. A negative amount takes back."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("org_slug", metavar="ORG_SLUG")
        parser.add_argument("amount", type=_amount, metavar="AMOUNT")
        parser.add_argument("--note", default="", help="why; kept in the ledger")
        parser.add_argument(
            "--prepaid", action="store_true", help="from now on, let it create only what its credit covers"
        )

    def handle(self, *, org_slug: str, amount: Decimal, note: str, prepaid: bool, **options: Any) -> None:
        if len(note) > MAX_NOTE:
            raise CommandError(f"--note must have at most {MAX_NOTE} characters.")
        organization = Organization.objects.filter(slug=org_slug).first()
        if organization is None:
            raise CommandError(f"There is no organization {org_slug!r}.")
        try:
            account = grant_credit(organization=organization, amount=amount, note=note, created_by="command line")
        except InsufficientCredit as refused:
            raise CommandError(refused.message) from None
        if prepaid and not organization.is_prepaid:
            organization.is_prepaid = True
            organization.save(update_fields=["is_prepaid", "updated_at"])
        self.stdout.write(f"{org_slug}: granted {money(amount)} USD, balance {money(account.balance)} USD.")
        if not organization.is_prepaid:
            self.stderr.write(f"{org_slug} is not on prepaid credit: its balance limits nothing until --prepaid.")
