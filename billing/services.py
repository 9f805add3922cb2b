"""Verbs on credit: grant it, hold it for what is created, and settle the hold when that has ended (docs/credit.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from django.db import connection, transaction

from accounts.models import Organization
from billing import sql
from billing.models import Account, SubjectType
from runflow.lib import errors
from runflow.lib.ids import uuid7
from runflow.lib.money import money


class InsufficientCredit(errors.DomainError):
    status, code, message = 402, "INSUFFICIENT_CREDIT", "There is not enough credit."


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch or a single run with a hold that has ended, and what it cost in USD."""

    subject_id: UUID
    cost: Decimal


def needs_hold(*, organization: Organization, cost: Decimal) -> bool:
    """Whether credit must be held before something may be created that costs up to so much USD."""
    return organization.is_prepaid and cost > 0


def check_credit(*, organization: Organization, cost: Decimal) -> None:
    """Raise InsufficientCredit if so much is not there now. `hold_credit` decides; this spares the work that it would undo."""
    balance = _balance(organization)
    if balance < cost:
        raise _insufficient(cost, balance)


def hold_credit(*, organization: Organization, cost: Decimal, subject_type: SubjectType, subject_id: UUID) -> None:
    """Set so much credit aside for a batch or a run, in the transaction that creates it. One statement.

    Raises InsufficientCredit. From here to the commit everybody else who creates for this organisation waits: call it last.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            sql.HOLD,
            {
                "id": uuid7(),
                "organization_id": organization.pk,
                "amount": cost,
                "subject_type": subject_type,
                "subject_id": subject_id,
            },
        )
        if cursor.fetchone() is None:
            raise _insufficient(cost, _balance(organization))


def settle_holds(*, ended: Sequence[Ended]) -> None:
    """Give back what was held for these, and take what they cost, in the transaction that ended them and holds their locks.

    Two statements however many, none for none. Never raises for want of credit: a charge is at most its hold.
    """
    if not ended:
        return
    with connection.cursor() as cursor:
        subject_ids = [each.subject_id for each in ended]
        cursor.execute(sql.LOCK_ACCOUNTS, {"subject_ids": subject_ids})
        cursor.execute(
            sql.SETTLE,
            {
                "subject_ids": subject_ids,
                "costs": [each.cost for each in ended],
                "release_ids": [uuid7() for _ in ended],
                "charge_ids": [uuid7() for _ in ended],
            },
        )


def open_account(*, organization: Organization) -> Account:
    """The account of an organisation, made if there is none yet. Its balance limits nobody until `is_prepaid` is set."""
    account, _ = Account.objects.get_or_create(organization=organization)
    return account


def set_low_balance_threshold(*, account: Account, threshold: Decimal | None) -> None:
    """Not by `save()`, which would write an old balance as well."""
    Account.objects.filter(pk=account.pk).update(low_balance_threshold=threshold)


def grant_credit(*, organization: Organization, amount: Decimal, note: str = "", created_by: str = "") -> Account:
    """Add so much USD to an organisation's balance; a negative amount takes back. Returns the account as it is then.

    Raises ValueError for 0, and InsufficientCredit where more is taken back than there is.
    """
    if not amount:
        raise ValueError("the amount must not be 0")
    with transaction.atomic(), connection.cursor() as cursor:
        account = open_account(organization=organization)
        cursor.execute(
            sql.GRANT,
            {"id": uuid7(), "account_id": account.pk, "amount": amount, "note": note, "created_by": created_by},
        )
        if cursor.fetchone() is None:
            raise _insufficient(-amount, _balance(organization))
    account.refresh_from_db()
    return account


def _balance(organization: Organization) -> Decimal:
    found = Account.objects.filter(organization=organization).values_list("balance", flat=True).first()
    return Decimal(0) if found is None else found


def _insufficient(needed: Decimal, available: Decimal) -> InsufficientCredit:
    return InsufficientCredit(f"This needs {money(needed)} USD of credit, and {money(available)} USD is available.")
