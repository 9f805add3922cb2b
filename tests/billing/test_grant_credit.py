"""`manage.py grant_credit`."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from billing.models import LedgerEntry
from tests.billing.ledger import ledger_of
from tests.factories import make_organization, make_prepaid

pytestmark = pytest.mark.django_db


def run(*args: Any) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("grant_credit", *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_it_grants_and_says_that_this_limits_nothing_yet() -> None:
    organization = make_organization(slug="acme")
    out, err = run("acme", "12.5", "--note", "invoice 17")
    assert out == "acme: granted 12.50 USD, balance 12.50 USD.\n"
    assert err == "acme is not on prepaid credit: its balance limits nothing until --prepaid.\n"
    entry = LedgerEntry.objects.get()
    assert (entry.note, entry.created_by) == ("invoice 17", "command line")
    organization.refresh_from_db()
    assert not organization.is_prepaid


def test_it_puts_an_organization_on_prepaid_credit() -> None:
    organization = make_organization(slug="acme")
    assert run("acme", "1", "--prepaid") == ("acme: granted 1.00 USD, balance 1.00 USD.\n", "")
    organization.refresh_from_db()
    assert organization.is_prepaid


def test_it_takes_back_what_is_there() -> None:
    organization = make_prepaid("5", slug="acme")
    assert run("acme", "-2") == ("acme: granted -2.00 USD, balance 3.00 USD.\n", "")
    with pytest.raises(CommandError, match=r"This needs 3\.50 USD of credit, and 3\.00 USD is available\."):
        run("acme", "-3.5")
    assert ledger_of(organization) == [("grant", "5"), ("grant", "-2")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nobody", "1"), "There is no organization 'nobody'"),
        (("acme", "much"), "'much' is no amount"),
        (("acme", "NaN"), "must not be 0 and at most 100,000,000 either way"),
        (("acme", "0"), "must not be 0"),
        (("acme", "1e9"), "must not be 0 and at most"),
        (("acme", "0.0000001"), "must have at most 6 decimal places"),
        (("acme", "1", "--note", "x" * 256), "--note must have at most 255 characters"),
    ],
)
def test_what_makes_no_sense_is_refused(args: tuple[str, ...], message: str) -> None:
    make_organization(slug="acme")
    with pytest.raises(CommandError, match=message):
        run(*args)
    assert LedgerEntry.objects.count() == 0
