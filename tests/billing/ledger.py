"""Reading accounts and their ledgers."""

from __future__ import annotations

from decimal import Decimal

from django.db.models import Sum

from accounts.models import Organization
from billing.models import Account, LedgerEntry


def balance_of(organization: Organization) -> Decimal:
    return Account.objects.get(organization=organization).balance


def ledger_of(organization: Organization) -> list[tuple[str, str]]:
    """Kind and amount of every entry, oldest first."""
    entries = LedgerEntry.objects.filter(account__organization=organization).order_by("id")
    return [(kind, f"{amount.normalize():f}") for kind, amount in entries.values_list("kind_code", "amount")]


def assert_sums(organization: Organization) -> None:
    """The ledger sums to the balance."""
    total = LedgerEntry.objects.filter(account__organization=organization).aggregate(total=Sum("amount"))["total"]
    assert balance_of(organization) == (total or 0)
