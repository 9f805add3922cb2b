"""Credit without anything to spend it on: grants, holds and their settling, and what the database itself refuses."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from accounts.models import Organization
from billing.models import Account, LedgerEntry, SubjectType
from billing.services import Ended, InsufficientCredit, grant_credit, hold_credit, needs_hold, settle_holds
from tests.billing.ledger import assert_sums, balance_of, ledger_of
from tests.factories import make_organization, make_prepaid
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def hold(organization: Organization, cost: str, subject_id: uuid.UUID | None = None) -> uuid.UUID:
    subject_id = subject_id or uuid.uuid4()
    hold_credit(organization=organization, cost=Decimal(cost), subject_type=SubjectType.BATCH, subject_id=subject_id)
    return subject_id


def settle(*ended: tuple[uuid.UUID, str]) -> None:
    with transaction.atomic():
        settle_holds(ended=[Ended(subject_id, Decimal(cost)) for subject_id, cost in ended])


@pytest.mark.parametrize(
    ("is_prepaid", "cost", "expected"), [(True, "0.000001", True), (True, "0", False), (False, "5", False)]
)
def test_only_who_is_on_prepaid_credit_and_only_what_costs_something_needs_a_hold(
    is_prepaid: bool, cost: str, expected: bool
) -> None:
    assert needs_hold(organization=Organization(is_prepaid=is_prepaid), cost=Decimal(cost)) is expected


# --- Granting -----------------------------------------------------------------------------------------------------------


def test_a_first_grant_opens_the_account_and_later_ones_add_up() -> None:
    organization = make_organization()
    first = grant_credit(organization=organization, amount=Decimal("10.50"), note="invoice 17", created_by="ann")
    second = grant_credit(organization=organization, amount=Decimal("0.000001"))
    assert first == second
    assert (first.balance, second.balance) == (Decimal("10.50"), Decimal("10.500001"))
    assert ledger_of(organization) == [("grant", "10.5"), ("grant", "0.000001")]
    entry = LedgerEntry.objects.earliest("id")
    assert (entry.note, entry.created_by, entry.subject_type, entry.subject_id) == ("invoice 17", "ann", None, None)
    assert second.updated_at > first.updated_at


def test_no_more_is_taken_back_than_there_is() -> None:
    organization = make_prepaid("5")
    with pytest.raises(InsufficientCredit, match=r"This needs 5\.01 USD of credit, and 5\.00 USD is available\."):
        grant_credit(organization=organization, amount=Decimal("-5.01"))
    assert ledger_of(organization) == [("grant", "5")]
    assert grant_credit(organization=organization, amount=Decimal("-5")).balance == 0
    assert ledger_of(organization) == [("grant", "5"), ("grant", "-5")]


def test_a_refused_grant_leaves_no_account_behind() -> None:
    organization = make_organization()
    with pytest.raises(InsufficientCredit):
        grant_credit(organization=organization, amount=Decimal("-1"))
    with pytest.raises(ValueError, match="must not be 0"):
        grant_credit(organization=organization, amount=Decimal(0))
    assert (Account.objects.count(), LedgerEntry.objects.count()) == (0, 0)


# --- Holding ------------------------------------------------------------------------------------------------------------


def test_a_hold_leaves_the_balance_and_the_last_cent_can_be_held() -> None:
    organization = make_prepaid("1")
    hold(organization, "0.4")
    hold(organization, "0.6")
    assert balance_of(organization) == 0
    assert ledger_of(organization) == [("grant", "1"), ("hold", "-0.4"), ("hold", "-0.6")]


def test_more_than_there_is_cannot_be_held() -> None:
    organization = make_prepaid("1")
    with pytest.raises(InsufficientCredit, match=r"This needs 1\.000001 USD of credit, and 1\.00 USD is available\."):
        hold(organization, "1.000001")
    assert ledger_of(organization) == [("grant", "1")]
    assert balance_of(organization) == 1


def test_without_an_account_nothing_can_be_held() -> None:
    with pytest.raises(InsufficientCredit, match=r"and 0\.00 USD is available"):
        hold(make_organization(is_prepaid=True), "0.01")
    assert LedgerEntry.objects.count() == 0


def test_who_waited_for_the_balance_compares_with_what_is_left() -> None:
    organization = make_prepaid("1")
    with transaction.atomic():
        hold(organization, "0.6")
        other = InThread(lambda: hold(organization, "0.6")).start()
        wait_until(lambda: lock_waiters() == 1, what="the second hold")
    with pytest.raises(InsufficientCredit, match=r"needs 0\.60 USD of credit, and 0\.40 USD is available"):
        _ = other.result
    assert ledger_of(organization) == [("grant", "1"), ("hold", "-0.6")]
    assert_sums(organization)


# --- Settling -----------------------------------------------------------------------------------------------------------


def test_what_ended_is_released_as_a_whole_and_charged_what_it_cost() -> None:
    organization = make_prepaid("10")
    subject_id = hold(organization, "3")
    settle((subject_id, "2"))
    assert ledger_of(organization)[1:] == [("hold", "-3"), ("release", "3"), ("charge", "-2")]
    assert balance_of(organization) == 8
    assert set(LedgerEntry.objects.exclude(kind_code="grant").values_list("subject_type", "subject_id")) == {
        ("batch", subject_id)
    }


def test_what_cost_nothing_is_not_charged() -> None:
    organization = make_prepaid("10")
    settle((hold(organization, "3"), "0"))
    assert ledger_of(organization)[1:] == [("hold", "-3"), ("release", "3")]
    assert balance_of(organization) == 10


def test_never_is_more_charged_than_was_held() -> None:
    organization = make_prepaid("10")
    settle((hold(organization, "10"), "11"))
    assert ledger_of(organization)[1:] == [("hold", "-10"), ("release", "10"), ("charge", "-10")]
    assert balance_of(organization) == 0


def test_settling_again_changes_nothing() -> None:
    organization = make_prepaid("10")
    subject_id = hold(organization, "10")
    settle((subject_id, "0"))
    hold(organization, "10")
    before = ledger_of(organization)
    settle((subject_id, "10"))
    assert (ledger_of(organization), balance_of(organization)) == (before, Decimal(0))


def test_settling_what_nobody_held_changes_nothing() -> None:
    organization = make_prepaid("10")
    settle((uuid.uuid4(), "1"))
    settle()
    assert ledger_of(organization) == [("grant", "10")]


def test_many_of_several_organizations_are_settled_with_two_statements(count_queries: Callable[..., Any]) -> None:
    organizations = [make_prepaid("10") for _ in range(3)]
    held = [(hold(organization, "1"), "0.25") for organization in organizations for _ in range(4)]
    with transaction.atomic(), count_queries() as log:
        settle_holds(ended=[Ended(subject_id, Decimal(cost)) for subject_id, cost in held])
    assert len(log) == 2
    assert [balance_of(organization) for organization in organizations] == [9, 9, 9]
    with count_queries() as log:
        settle_holds(ended=[])
    assert len(log) == 0


def test_accounts_are_locked_in_order_before_they_are_changed(count_queries: Callable[..., Any]) -> None:
    subject_id = hold(make_prepaid("1"), "1")
    with transaction.atomic(), count_queries() as log:
        settle_holds(ended=[Ended(subject_id, Decimal(1))])
    lock, change = (query["sql"] for query in log.captured_queries)
    assert "ORDER BY id FOR NO KEY UPDATE" in lock
    assert "UPDATE billing_account" in change


# --- What the database refuses --------------------------------------------------------------------------------------------


def test_a_balance_below_zero_cannot_be_stored() -> None:
    account = Account.objects.create(organization=make_organization())
    with pytest.raises(IntegrityError, match="account_balance_not_negative"):
        Account.objects.filter(pk=account.pk).update(balance=Decimal("-0.000001"))


def test_nothing_is_held_twice() -> None:
    organization = make_prepaid("10")
    subject_id = hold(organization, "1")
    with pytest.raises(IntegrityError, match="ledgerentry_once_for_a_subject"):
        hold(organization, "1", subject_id)
    assert balance_of(organization) == 9


@pytest.mark.parametrize(
    ("entry", "constraint"),
    [
        ({"kind_code": "grant", "amount": 0}, "ledgerentry_amount_fits_kind"),
        ({"kind_code": "hold", "amount": 1}, "ledgerentry_amount_fits_kind"),
        ({"kind_code": "charge", "amount": 1}, "ledgerentry_amount_fits_kind"),
        ({"kind_code": "release", "amount": -1}, "ledgerentry_amount_fits_kind"),
        ({"kind_code": "gift", "amount": 1}, "ledgerentry_amount_fits_kind"),
        ({"kind_code": "hold", "amount": -1, "subject_id": None}, "ledgerentry_subject_unless_grant"),
        ({"kind_code": "grant", "amount": 1, "subject_id": uuid.uuid4()}, "ledgerentry_subject_unless_grant"),
    ],
)
def test_an_entry_that_makes_no_sense_cannot_be_stored(entry: dict[str, Any], constraint: str) -> None:
    account = Account.objects.create(organization=make_organization())
    values = {"subject_type": "batch", "subject_id": uuid.uuid4()} | entry
    if values["kind_code"] == "grant" and "subject_id" not in entry:
        values |= {"subject_type": None, "subject_id": None}
    with pytest.raises(IntegrityError, match=constraint):
        LedgerEntry.objects.create(account=account, created_at=account.created_at, **values)
