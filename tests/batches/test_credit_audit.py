"""What the audit finds of credit, and what the repair settles."""

from __future__ import annotations

from decimal import Decimal

import pytest

from batches.audit import verify
from batches.models import Batch, Run
from batches.repair import Mended, repair
from batches.services import check_run_request, create_run
from billing.models import LedgerEntry
from models_registry.catalogue import run_target
from tests.batches.test_audit import ITEMS, found, sql
from tests.batches.test_repair import DERIVED, ENDED
from tests.billing.ledger import assert_sums, balance_of, ledger_of
from tests.factories import end_batch, make_batch, make_model, make_prepaid

pytestmark = pytest.mark.django_db(transaction=True)

SETTLED = "holds of credit settled"


def open_batch() -> Batch:
    return make_batch(organization=make_prepaid("1"), items=ITEMS)[0]


def ended_batch() -> Batch:
    return end_batch(open_batch(), "succeeded", "succeeded", "failed")


def make_run() -> Run:
    organization, model = make_prepaid("1"), make_model()
    target = run_target(owner=model.owner, slug=model.slug, organization=organization)
    request = check_run_request(target=target, body={"input": {"text": "a"}})
    return create_run(organization=organization, target=target, request=request)


def forget(subject: Batch | Run, *kinds: str) -> None:
    """As if these entries had never been written."""
    amount = sum(
        LedgerEntry.objects.filter(subject_id=subject.pk, kind_code__in=kinds).values_list("amount", flat=True)
    )
    sql("DELETE FROM billing_ledgerentry WHERE subject_id = %s AND kind_code = ANY(%s)", subject.pk, list(kinds))
    sql("UPDATE billing_account SET balance = balance - %s WHERE organization_id = %s", amount, subject.organization_id)


def test_prepaid_work_at_any_stage_is_clean() -> None:
    open_batch()
    ended_batch()
    make_run()
    assert found(verify()) == {}
    assert repair() == ()


def test_a_balance_that_its_ledger_does_not_sum_to_is_found() -> None:
    open_batch()
    batch = open_batch()
    sql("UPDATE billing_account SET balance = balance + 0.5 WHERE organization_id = %s", batch.organization_id)
    slug, detail = batch.organization.slug, "its balance is 1.470000, its ledger sums to 0.970000"
    expected = {"credit_balance": (1, [(f"organization {slug}", detail)])}
    assert found(verify()) == expected
    assert repair() == ()
    assert found(verify()) == expected
    assert found(verify(batch_id=batch.pk)) == expected
    assert found(verify(batch_id=open_batch().pk)) == {}


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("amount = -0.02", "0.020000 is held for it, and it may cost 0.030000"),
        ("amount = -0.04", "0.040000 is held for it, and it may cost 0.030000"),
    ],
)
def test_a_hold_of_another_amount_is_found(change: str, detail: str) -> None:
    batch = open_batch()
    sql(f"UPDATE billing_ledgerentry SET {change} WHERE kind_code = 'hold'")  # noqa: S608
    assert found(verify())["credit_hold"] == (1, [(f"batch {batch.pk}", detail)])


@pytest.mark.parametrize("make", [open_batch, make_run])
def test_what_is_open_without_a_hold_is_found(make: type) -> None:
    subject = make()
    forget(subject, "hold")
    kind = type(subject).__name__.lower()
    assert found(verify()) == {"credit_hold": (1, [(f"{kind} {subject.pk}", "nothing is held for it")])}
    assert repair() == ()


def test_what_is_open_and_was_released_is_found() -> None:
    batch = ended_batch()
    Run.objects.filter(status_code="failed").update(status_code="queued", completed_at=None, failure_code=None)
    sql("UPDATE batches_batch SET items_failed = 0, status_code = 'running', completed_at = NULL")
    assert found(verify()) == {
        "credit_hold": (1, [(f"batch {batch.pk}", "it has not ended, and nothing is held for it any more")])
    }


def test_a_hold_for_what_is_not_there_is_found_and_one_that_was_released_is_history() -> None:
    batch, run, _ = open_batch(), make_run(), ended_batch()
    Run.objects.filter(pk=run.pk).update(has_hold=False)
    sql("DELETE FROM batches_batchitem")
    sql("DELETE FROM batches_run WHERE batch_id IS NOT NULL")
    sql("DELETE FROM batches_batch")
    assert found(verify()) == {
        "credit_hold": (
            2,
            [
                (f"batch {batch.pk}", "0.030000 is held for it, and it does not exist"),
                (f"run {run.pk}", "0.010000 is held for it, and it knows of none"),
            ],
        )
    }


def test_a_charge_that_is_not_the_cost_is_found() -> None:
    batch = ended_batch()
    forget(batch, "charge")
    expected = {"credit_charge": (1, [(f"batch {batch.pk}", "it cost 0.020000, and 0 was charged")])}
    assert found(verify()) == expected
    assert repair() == ()


def test_what_has_ended_and_still_has_its_hold_is_found_and_settled() -> None:
    batch, other, run = ended_batch(), open_batch(), make_run()
    forget(batch, "release", "charge")
    sql("UPDATE batches_run SET status_code = 'canceled', completed_at = now() WHERE id = %s", run.pk)
    assert found(verify()) == {
        "credit_hold": (
            2,
            [
                (f"batch {batch.pk}", "it has ended, and 0.030000 is held for it"),
                (f"run {run.pk}", "it has ended, and 0.010000 is held for it"),
            ],
        )
    }
    assert repair() == (Mended(SETTLED, 2),)
    assert found(verify()) == {}
    assert ledger_of(batch.organization)[1:] == [("hold", "-0.03"), ("release", "0.03"), ("charge", "-0.02")]
    assert ledger_of(run.organization)[1:] == [("hold", "-0.01"), ("release", "0.01")]
    assert ledger_of(other.organization)[1:] == [("hold", "-0.03")]
    assert repair() == ()


def test_a_batch_that_ends_by_a_repair_is_settled_with_it() -> None:
    batch = ended_batch()
    forget(batch, "release", "charge")
    sql("UPDATE batches_batch SET items_failed = 0, status_code = 'running', completed_at = NULL")
    assert repair() == (Mended(DERIVED, 1), Mended(ENDED, 1))
    assert found(verify()) == {}
    assert ledger_of(batch.organization)[1:] == [("hold", "-0.03"), ("release", "0.03"), ("charge", "-0.02")]


def test_a_batch_that_is_open_again_ends_without_taking_what_is_not_there() -> None:
    """Its hold was given back, and spent: the engine goes on, and the audit says what is missing."""
    batch, _ = make_batch(organization=make_prepaid("0.03"), items=ITEMS)
    end_batch(batch, "failed", "failed", "failed")
    make_batch(organization=batch.organization, items=ITEMS)
    assert balance_of(batch.organization) == 0
    sql(
        "UPDATE batches_run SET status_code = 'queued', completed_at = NULL, failure_code = NULL, due_at = now()"
        " WHERE batch_id = %s",
        batch.pk,
    )
    assert repair() == (Mended(DERIVED, 1),)
    end_batch(batch)
    assert balance_of(batch.organization) == 0
    assert_sums(batch.organization)
    assert found(verify()) == {"credit_charge": (1, [(f"batch {batch.pk}", "it cost 0.030000, and 0 was charged")])}


def test_only_what_was_created_since_is_looked_at() -> None:
    batch = ended_batch()
    forget(batch, "charge")
    assert set(found(verify(since=batch.created_at))) == {"credit_charge"}
    assert found(verify(since=batch.completed_at)) == {}
    assert Decimal(balance_of(batch.organization)) == 1
