"""Repairs: what the runs tell how to mend is mended, under the engine's locks; the rest is left, and no run is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.utils import timezone

from batches import lifecycle
from batches.audit import verify
from batches.models import Batch, Run, RunStatus
from batches.repair import Mended, repair
from batches.retry import Settlement
from callbacks.lifecycle import claim_deliveries
from callbacks.models import CallbackAttempt, CallbackDelivery
from tests.batches.test_audit import ITEMS, URL, ago, claim, ended_batch, found, make_run, open_batch, provider_of, sql
from tests.conftest import Rung
from tests.factories import make_batch, make_delivery
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

DERIVED, ENDED = "batches derived anew from their runs", "of them ended with it"


def terminal_runs() -> list[Any]:
    return list(Run.objects.filter(completed_at__isnull=False).order_by("pk").values())


def row_of(batch: Batch) -> Any:
    return Batch.objects.filter(pk=batch.pk).values().get()


# --- Batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [open_batch, ended_batch])
@pytest.mark.parametrize(
    "change",
    [
        "items_succeeded = 0, items_failed = items_failed + items_succeeded",
        "cost = 5",
        "cost = NULL",
    ],
)
def test_a_batch_is_again_as_its_runs_say(make: Callable[..., Batch], change: str) -> None:
    batch, other = make(callback_url=URL), make(callback_url=URL)
    before, runs, deliveries = row_of(batch), terminal_runs(), list(CallbackDelivery.objects.values())
    sql(f"UPDATE batches_batch SET {change} WHERE id = %s", batch.pk)  # noqa: S608
    untouched = row_of(other)
    assert repair() == (Mended(DERIVED, 1),)
    assert (row_of(batch), row_of(other), terminal_runs()) == (before, untouched, runs)
    assert list(CallbackDelivery.objects.values()) == deliveries
    assert found(verify()) == {}
    assert repair() == ()


@pytest.mark.parametrize(
    ("change", "status"),
    [("status_code = 'queued', started_at = NULL", "running"), ("status_code = 'queued'", "running")],
)
def test_an_open_batch_that_began_runs_since_its_first_claim(change: str, status: str) -> None:
    batch = open_batch()
    sql(f"UPDATE batches_batch SET {change}")  # noqa: S608
    assert repair() == (Mended(DERIVED, 1),)
    batch.refresh_from_db()
    first = Run.objects.filter(batch=batch).order_by("dispatched_at")[0].dispatched_at
    assert batch.status_code == status
    assert batch.started_at is not None
    assert first is not None
    assert abs(batch.started_at - first) < timedelta(seconds=1)
    assert found(verify()) == {}


def test_a_batch_whose_runs_have_all_ended_ends_and_calls_back_once(rung: Rung) -> None:
    batch = ended_batch(callback_url=URL)
    sql("DELETE FROM callbacks_callbackdelivery")
    sql("UPDATE batches_batch SET status_code = 'running', completed_at = NULL, items_succeeded = 0, cost = NULL")
    runs, before = terminal_runs(), timezone.now()
    rung.calls.clear()
    assert repair() == (Mended(DERIVED, 1), Mended(ENDED, 1))
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded, str(batch.cost)) == ("partial_succeeded", 2, "0.020000")
    assert batch.completed_at is not None
    assert batch.completed_at >= before
    assert terminal_runs() == runs
    delivery = CallbackDelivery.objects.get()
    body = json.loads(bytes(delivery.payload))
    assert (delivery.subject_id, delivery.is_automatic) == (batch.pk, True)
    assert (body["event"], body["output"]["succeeded"]) == ("batch.partial_succeeded", 2)
    assert rung.calls == [("callbacks.deliver", ())]
    assert found(verify()) == {}
    assert repair() == ()


def test_a_batch_that_ended_too_early_is_open_again_and_ends_with_its_last_run() -> None:
    batch = open_batch(callback_url=URL)
    sql("UPDATE batches_batch SET status_code = 'partial_succeeded', items_cancelled = 1, completed_at = now()")
    assert repair() == (Mended(DERIVED, 1),)
    batch.refresh_from_db()
    assert (batch.status_code, batch.completed_at, batch.items_cancelled) == ("running", None, 0)
    assert found(verify()) == {}
    (claimed,) = lifecycle.claim_runs(provider_id=provider_of(batch).pk, limit=1)
    settlement = Settlement(claimed.id, claimed.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')
    assert lifecycle.settle(settlements=[settlement]).completed_batch_ids == (batch.pk,)
    assert CallbackDelivery.objects.count() == 1
    assert found(verify()) == {}


def test_a_batch_that_has_lost_a_run_is_left_alone() -> None:
    """Nobody knows how that run ended."""
    batch = open_batch()
    run = Run.objects.get(batch=batch, status_code="queued")
    sql("DELETE FROM batches_batchitem WHERE run_id = %s", run.pk)
    sql("DELETE FROM batches_run WHERE id = %s", run.pk)
    before = row_of(batch)
    assert repair() == ()
    assert row_of(batch) == before
    assert list(found(verify())) == ["batch_runs", "batch_items", "batch_status"]


def test_a_repair_waits_for_who_settles_and_counts_what_he_did() -> None:
    """The guard: both locks, of which either would do here. Without them what was read before is written after it."""
    batch, _ = make_batch(items=ITEMS)
    runs = lifecycle.claim_runs(provider_id=provider_of(batch).pk, limit=3)
    sql("UPDATE batches_batch SET items_failed = 1")
    with transaction.atomic():
        first = Settlement(runs[0].id, runs[0].attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')
        lifecycle.settle(settlements=[first])
        other = InThread(repair).start()
        wait_until(lambda: lock_waiters() == 1 or other.is_done, what="the repair to wait or to be done")
    assert other.result == (Mended(DERIVED, 1),)
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded, batch.items_failed) == ("running", 1, 0)
    assert found(verify()) == {}


def test_who_settles_waits_for_the_repair() -> None:
    """The same guard from the other side: a settlement adds to the counters that the repair has written."""
    batch, _ = make_batch(items=ITEMS)
    runs = lifecycle.claim_runs(provider_id=provider_of(batch).pk, limit=3)
    sql("UPDATE batches_batch SET items_failed = 1")
    settlement = Settlement(runs[0].id, runs[0].attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')
    others: list[InThread[Any]] = []

    def between(execute: Any, statement: str, *rest: Any) -> Any:
        if statement.lstrip().startswith("UPDATE batches_batch"):
            other = InThread(lambda: lifecycle.settle(settlements=[settlement])).start()
            others.append(other)
            wait_until(lambda: lock_waiters() == 1 or other.is_done, what="the settlement to wait or to be done")
            assert not other.is_done
        return execute(statement, *rest)

    with connection.execute_wrapper(between):
        assert repair() == (Mended(DERIVED, 1),)
    assert others[0].result.run_ids == {runs[0].id}
    batch.refresh_from_db()
    assert (batch.items_succeeded, batch.items_failed) == (1, 0)
    assert found(verify()) == {}


def test_a_repair_waits_for_who_claims() -> None:
    """The guard: LOCK_OPEN. A claim leaves a batch alone that says it runs, so without it the claimed run is overlooked."""
    batch, _ = make_batch(items=ITEMS)
    sql("UPDATE batches_batch SET status_code = 'running', started_at = now()")
    with transaction.atomic():
        claim(batch)
        other = InThread(repair).start()
        wait_until(lambda: lock_waiters() == 1 or other.is_done, what="the repair to wait or to be done")
    assert other.result == ()
    assert found(verify()) == {}


def test_of_two_repairs_at_once_one_mends() -> None:
    """The guard: LOCK_BATCHES. Without it the second writes, and tells, what the first has done."""
    ended_batch()
    sql("UPDATE batches_batch SET cost = 5")
    with transaction.atomic():
        assert repair() == (Mended(DERIVED, 1),)
        other = InThread(repair).start()
        wait_until(lambda: lock_waiters() == 1 or other.is_done, what="the other to wait or to be done")
    assert other.result == ()
    assert found(verify()) == {}


# --- Callbacks and leases ---------------------------------------------------------------------------------------------


def test_a_missing_callback_is_made_of_batches_and_of_single_runs() -> None:
    batch, run = ended_batch(callback_url=URL), make_run(callback_url=URL)
    (claimed,) = lifecycle.claim_runs(provider_id=run.provider_id, limit=1)
    lifecycle.settle(settlements=[Settlement(run.pk, claimed.attempt, RunStatus.CANCELED)])
    sql("DELETE FROM callbacks_callbackdelivery")
    before = (row_of(batch), terminal_runs())
    assert repair() == (Mended("missing callbacks made", 2),)
    events = {row.subject_id: json.loads(bytes(row.payload))["event"] for row in CallbackDelivery.objects.all()}
    assert events == {batch.pk: "batch.partial_succeeded", run.pk: "run.cancelled"}
    assert (row_of(batch), terminal_runs()) == before
    assert found(verify()) == {}
    assert repair() == ()


def test_a_missing_callback_waits_while_a_redelivery_is_on_its_way() -> None:
    ended_batch(callback_url=URL)
    sql("UPDATE callbacks_callbackdelivery SET is_automatic = false")
    assert repair() == ()
    assert list(found(verify())) == ["callback_missing"]


def test_a_callback_that_should_not_be_there_is_left_to_a_person() -> None:
    make_delivery(subject_id=make_batch()[0].pk)
    assert repair() == ()
    assert list(found(verify())) == ["callback_unwanted"]


def test_expired_leases_are_given_back_as_the_sweep_does() -> None:
    batch = ended_batch(callback_url=URL)
    (delivery,) = claim_deliveries(limit=1)
    sql("UPDATE callbacks_callbackdelivery SET lease_expires_at = now() - interval '1 hour'")
    again, _ = make_batch()
    last, _ = make_batch()
    Run.objects.filter(batch=last).update(max_attempts=1)
    claim(again, expired_for=3600)
    claim(last, expired_for=3600)
    assert repair() == (
        Mended("runs given back whose lease had expired", 2),
        Mended("deliveries given back whose lease had expired", 1),
    )
    assert list(Run.objects.filter(batch__in=[again, last]).order_by("pk").values_list("status_code", "attempt")) == [
        ("queued", 1),
        ("failed", 1),
    ]
    last.refresh_from_db()
    assert (last.status_code, last.items_failed) == ("failed", 1)
    assert CallbackAttempt.objects.get().delivery_id == delivery.id
    assert found(verify()) == {}
    batch.refresh_from_db()
    assert batch.status_code == "partial_succeeded"


def test_an_expired_lease_of_a_batch_with_wrong_counters_is_given_back_too() -> None:
    """The batch comes first: its last run could not end, since the counters would go beyond the total."""
    batch, _ = make_batch()
    Run.objects.update(max_attempts=1)
    claim(batch, expired_for=3600)
    sql("UPDATE batches_batch SET status_code = 'succeeded', items_succeeded = 1, completed_at = now()")
    assert repair() == (Mended(DERIVED, 1), Mended("runs given back whose lease had expired", 1))
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded, batch.items_failed) == ("failed", 0, 1)
    assert found(verify()) == {}


# --- Scope, size, command ---------------------------------------------------------------------------------------------


def test_only_what_was_asked_for_is_mended() -> None:
    old, new = ended_batch(), ended_batch()
    sql("UPDATE batches_batch SET cost = 5")
    Batch.objects.filter(pk=old.pk).update(created_at=ago(7200))
    assert repair(since=ago(3600)) == (Mended(DERIVED, 1),)
    assert [str(row_of(each)["cost"]) for each in (old, new)] == ["5.000000", "0.020000"]
    assert repair(batch_id=new.pk) == ()
    assert repair(batch_id=old.pk) == (Mended(DERIVED, 1),)
    assert found(verify()) == {}


def test_many_are_mended_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batches.repair._SLICE", 2)
    monkeypatch.setattr("batches.repair._MOST_READ", 3)
    for _ in range(8):
        ended_batch(callback_url=URL)
    sql("DELETE FROM callbacks_callbackdelivery")
    sql("UPDATE batches_batch SET cost = 5")
    assert repair() == (Mended(DERIVED, 8), Mended("missing callbacks made", 8))
    assert found(verify()) == {}


def test_the_command_says_in_one_line_that_nothing_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    ended_batch(callback_url=URL)
    call_command("verify_batches")
    assert capsys.readouterr().out == "1 batches, 3 runs, 1 deliveries: nothing is off.\n"


def test_the_command_lists_what_is_off_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    batch = ended_batch()
    sql("UPDATE batches_batch SET cost = 5, items_succeeded = 3, items_failed = 0")
    with pytest.raises(CommandError, match=r"^2 of the checks found something\.$"):
        call_command("verify_batches")
    output = capsys.readouterr().out
    for text in (
        "batch_counters",
        "batch_cost",
        "error",
        str(batch.pk)[:8],
        "1 batches, 3 runs, 0 deliveries: see above.",
    ):
        assert text in output


def test_the_command_tells_what_waits_by_decision_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    batch, _ = make_batch()
    provider = provider_of(batch)
    provider.status_code = "paused"
    provider.save()
    call_command("verify_batches")
    output = capsys.readouterr().out
    assert "run_held_back" in output
    assert output.endswith("1 batches, 1 runs, 0 deliveries: nothing is off.\n")


def test_the_command_mends_and_looks_again(capsys: pytest.CaptureFixture[str]) -> None:
    ended_batch()
    sql("UPDATE batches_batch SET cost = 5")
    call_command("verify_batches", "--repair")
    assert capsys.readouterr().out == (
        "Mended: 1 batches derived anew from their runs.\n1 batches, 3 runs, 0 deliveries: nothing is off.\n"
    )


def test_the_command_answers_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    batch = ended_batch()
    sql("UPDATE batches_batch SET cost = 5")
    with pytest.raises(CommandError):
        call_command("verify_batches", "--json", "--batch", str(batch.pk), "--since", "2020-01-01")
    assert json.loads(capsys.readouterr().out) == {
        "batches": 1,
        "runs": 3,
        "deliveries": 0,
        "is_clean": False,
        "findings": [
            {
                "check": "batch_cost",
                "level": "error",
                "rule": "a batch costs what its succeeded runs cost",
                "count": 1,
                "examples": [{"subject": f"batch {batch.pk}", "detail": "says 5.000000; its runs say 0.020000"}],
            }
        ],
        "mended": [],
    }
    call_command("verify_batches", "--json", "--repair")
    answer = json.loads(capsys.readouterr().out)
    assert (answer["is_clean"], answer["mended"]) == (True, [{"what": DERIVED, "count": 1}])


def test_the_command_knows_no_batch_that_does_not_exist() -> None:
    with pytest.raises(CommandError, match="There is no batch"):
        call_command("verify_batches", "--batch", str(UUID(int=1)))
