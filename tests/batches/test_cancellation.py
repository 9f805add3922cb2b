"""Cancelling, and time that runs out: what waits ends, what runs is asked to stop, and nothing that ended changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction
from django.utils import timezone

from batches import engine, lifecycle
from batches.cancellation import Cancelled, cancel
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from callbacks.models import CallbackDelivery
from models_registry.models import Endpoint, Model
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error, assert_matches, faults_of, json_of
from tests.factories import end_batch, make_batch, make_model
from tests.scripted import ADAPTERS, make_servers
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def statuses(batch: Batch) -> list[str]:
    return list(Run.objects.filter(batch=batch).order_by("pk").values_list("status_code", flat=True))


def claim(batch: Batch, limit: int) -> list[lifecycle.ClaimedRun]:
    return lifecycle.claim_runs(provider_id=Run.objects.filter(batch=batch)[0].provider_id, limit=limit)


def succeed(*runs: lifecycle.ClaimedRun) -> lifecycle.Settled:
    return lifecycle.settle(
        settlements=[Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}') for run in runs]
    )


# --- The verb ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_waits_is_over_at_once_and_calls_back() -> None:
    batch, handles = make_batch(items=[{"text": str(n)} for n in range(3)], callback_url="https://shop.example/")
    cancelled = cancel(batch_ids=[batch.pk], reason="Too late.")
    assert cancelled == Cancelled(frozenset(handle.run_id for handle in handles), frozenset())
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_cancelled, batch.cost, batch.cancel_reason) == (
        "canceled",
        3,
        None,
        "Too late.",
    )
    assert statuses(batch) == ["canceled"] * 3
    assert b'"event":"batch.cancelled"' in bytes(CallbackDelivery.objects.get().payload)


def test_what_is_at_work_is_asked_and_what_has_ended_stays() -> None:
    batch, _ = make_batch(items=[{"text": str(n)} for n in range(4)])
    done, working, finishing = claim(batch, 3)
    succeed(done)
    cancelled = cancel(batch_ids=[batch.pk])
    assert (len(cancelled.ended), cancelled.asked) == (1, frozenset({working.id, finishing.id}))
    assert statuses(batch) == ["succeeded", "dispatching", "dispatching", "canceled"]
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded, batch.items_cancelled) == ("running", 1, 1)
    # One finishes first, the other one stops.
    succeed(finishing)
    lifecycle.settle(settlements=[Settlement(working.id, working.attempt, RunStatus.CANCELED)])
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded, batch.items_cancelled) == ("partial_succeeded", 2, 2)


def test_asking_twice_changes_nothing() -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    (run,) = claim(batch, 1)
    assert cancel(batch_ids=[batch.pk], reason="First.").has_effect
    when = Run.objects.get(pk=run.id).cancel_requested_at
    assert not cancel(batch_ids=[batch.pk], reason="Second.").has_effect
    row = Run.objects.get(pk=run.id)
    assert (row.cancel_requested_at, row.cancel_reason) == (when, "First.")
    batch.refresh_from_db()
    assert batch.cancel_reason == "First."


def test_a_batch_that_has_ended_stays_as_it_is(rung: Rung, count_queries: Callable[..., Any]) -> None:
    batch, _ = make_batch(callback_url="https://shop.example/")
    end_batch(batch)
    rung.calls.clear()
    before = Batch.objects.values().get()
    with count_queries() as log:
        assert not cancel(batch_ids=[batch.pk]).has_effect
    assert len(log.captured_queries) == 3  # BEGIN, the look for what is open, COMMIT
    assert Batch.objects.values().get() == before
    assert CallbackDelivery.objects.count() == 1
    assert rung.calls == []


@pytest.mark.parametrize("way", ["a failure that would be retried", "a lease that ran out"])
def test_what_somebody_wants_stopped_gets_no_other_attempt(way: str) -> None:
    batch, _ = make_batch()
    (run,) = claim(batch, 1)
    cancel(batch_ids=[batch.pk])
    if way == "a lease that ran out":
        Run.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
        lifecycle.return_expired()
    else:
        lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.QUEUED, delay=1.0)])
    batch.refresh_from_db()
    assert (statuses(batch), batch.status_code, batch.items_cancelled) == (["canceled"], "canceled", 1)


def test_a_claim_and_a_cancellation_at_once_leave_each_run_to_one_of_them() -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    with transaction.atomic():
        claimed = claim(batch, 1)
        other = InThread(lambda: cancel(batch_ids=[batch.pk])).start()
        wait_until(lambda: lock_waiters() == 1, what="the cancellation to wait for the run")
    assert other.result.asked == {claimed[0].id}
    assert sorted(statuses(batch)) == ["canceled", "dispatching"]


def test_a_run_that_is_claimed_while_its_batch_is_cancelled_is_asked_to_stop() -> None:
    """The guard: LOCK_OPEN. Without it such a run is neither ended nor asked: it waits when one looks, and does not later.

    The batch is at work already, so that the claim does not hold its row.
    """
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}, {"text": "c"}])
    (first,) = claim(batch, 1)
    with transaction.atomic():
        (second,) = claim(batch, 1)
        other = InThread(lambda: cancel(batch_ids=[batch.pk])).start()
        wait_until(lambda: lock_waiters() == 1, what="the cancellation to wait for the run")
    assert other.result.asked == {first.id, second.id}
    assert sorted(statuses(batch)) == ["canceled", "dispatching", "dispatching"]


def test_a_settlement_that_waits_for_a_cancellation_ends_the_run_as_it_ended() -> None:
    batch, _ = make_batch()
    (run,) = claim(batch, 1)
    with transaction.atomic():
        cancel(batch_ids=[batch.pk])
        other = InThread(lambda: succeed(run)).start()
        wait_until(lambda: lock_waiters() == 1, what="the settlement to wait")
    assert other.result.run_ids == {run.id}
    batch.refresh_from_db()
    assert batch.status_code == "succeeded"


def test_cancelling_costs_the_same_statements_for_one_run_and_for_a_hundred(count_queries: Callable[..., Any]) -> None:
    def cost(number: int) -> int:
        batch, _ = make_batch(items=[{"text": str(n)} for n in range(number)])
        claim(batch, number // 2)
        with count_queries() as log:
            cancel(batch_ids=[batch.pk])
        return len(log.captured_queries)

    assert cost(2) == cost(100)


def test_the_driver_of_a_server_is_rung(rung: Rung, settings: Any) -> None:
    settings.PROVIDER_ADAPTERS = settings.PROVIDER_ADAPTERS | ADAPTERS
    provider, _ = make_servers()
    batch, _ = make_batch(model=make_model(provider=provider))
    endpoint = Endpoint.objects.get()
    lifecycle.claim_runs(provider_id=provider.pk, limit=1, endpoint_id=endpoint.pk)
    rung.calls.clear()
    with transaction.atomic():
        cancel(batch_ids=[batch.pk])
        assert rung.calls == [], "it would look before there is something to see"
    assert rung.calls == [("batches.drive", (str(endpoint.pk),))]


# --- Local functions look ---------------------------------------------------------------------------------------------


HOLD = ({"name": "path", "variable_type_code": "string"},)


def test_a_local_function_that_looks_stops_and_the_rest_of_its_set_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WATCH_INTERVAL", 0.02)
    model = make_model(inputs=HOLD, function="hold")
    never = str(tmp_path / "never")
    batch, _ = make_batch(model=model, items=[{"path": never}, {"path": never}])
    provider_id = Run.objects.filter(batch=batch)[0].provider_id
    with InThread(lambda: engine.execute(provider_id=provider_id)) as worker:
        wait_until(lambda: statuses(batch) == ["running", "running"], what="the work to begin")
        assert len(cancel(batch_ids=[batch.pk]).asked) == 2
    assert worker.result == 2
    batch.refresh_from_db()
    assert (batch.status_code, statuses(batch)) == ("canceled", ["canceled", "canceled"])


def test_a_local_function_that_takes_longer_than_its_model_allows_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(inputs=HOLD, function="hold")
    make_batch(model=model, items=[{"path": str(tmp_path / "never")}])
    claimed = lifecycle.claim_runs

    def impatient(**given: Any) -> list[lifecycle.ClaimedRun]:
        Model.objects.filter(pk=model.pk).update(run_timeout=1)
        runs = claimed(**given)
        assert [run.seconds for run in runs] in ([1.0], [])
        return runs

    monkeypatch.setattr(lifecycle, "claim_runs", impatient)
    engine.execute(provider_id=Run.objects.get().provider_id)
    run = Run.objects.get()
    assert (run.status_code, run.failure_code, run.failure_message) == (
        "failed",
        "PROVIDER_TIMEOUT",
        "It was not done in time.",
    )


# --- Time limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_timeout", "batch_timeout", "age", "seconds"),
    [
        (None, None, 0, 60),
        (5, None, 0, 5),
        (500, None, 0, 500),
        (None, 40, 10, 30),
        (20, 40, 10, 20),
        (None, 90, 10, 60),
    ],
)
def test_an_attempt_may_take_what_model_provider_and_batch_allow(
    run_timeout: int | None, batch_timeout: int | None, age: int, seconds: float
) -> None:
    batch, _ = make_batch(model=make_model(run_timeout=run_timeout, batch_timeout=batch_timeout))
    Batch.objects.update(created_at=timezone.now() - timedelta(seconds=age))
    (run,) = claim(batch, 1)
    assert seconds - 2 < run.seconds <= seconds


def test_what_still_waits_when_the_time_of_its_batch_is_over_fails() -> None:
    model = make_model(batch_timeout=60)
    late, _ = make_batch(model=model, items=[{"text": "a"}, {"text": "b"}], callback_url="https://shop.example/")
    (working,) = claim(late, 1)
    young, _ = make_batch(model=model)
    free, _ = make_batch()
    Batch.objects.filter(pk__in=[late.pk, free.pk]).update(created_at=timezone.now() - timedelta(seconds=61))
    engine.sweep()
    assert (statuses(late), statuses(young), statuses(free)) == (["dispatching", "failed"], ["queued"], ["queued"])
    failed = Run.objects.get(status_code="failed")
    assert (failed.failure_code, failed.failure_message) == (
        "PROVIDER_TIMEOUT",
        "The batch's time was over before this run began.",
    )
    assert CallbackDelivery.objects.count() == 0
    succeed(working)
    late.refresh_from_db()
    assert (late.status_code, late.items_failed) == ("partial_succeeded", 1)
    assert CallbackDelivery.objects.count() == 1


# --- The doors --------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_batch(api: Api) -> Batch:
    batch, _ = make_batch(
        organization=api.organization,
        model=make_model(organization=api.organization),
        items=[{"text": "a"}, {"text": "b"}],
    )
    return batch


def test_the_api_answers_201_with_the_batch_and_then_200_with_the_same(api: Api, open_batch: Batch) -> None:
    path = f"/v1/batches/{open_batch.pk}/cancellation"
    first = api.post(path, {"reason": "No longer needed."})
    body = json_of(first)
    assert first.status_code == 201
    assert_matches("BatchDetail", body)
    assert (body["status_code"], body["items_cancelled"]) == ("canceled", 2)
    assert body == json_of(api.get(f"/v1/batches/{open_batch.pk}"))
    again = api.post(path, b"")
    assert (again.status_code, json_of(again)) == (200, body)


def test_a_run_is_cancelled_alone(api: Api, open_batch: Batch) -> None:
    first, _ = Run.objects.order_by("pk")
    response = api.post(f"/v1/runs/{first.pk}/cancellation", b"")
    assert response.status_code == 201
    assert_matches("Run", json_of(response))
    assert statuses(open_batch) == ["canceled", "queued"]
    assert api.post(f"/v1/runs/{first.pk}/cancellation", {}).status_code == 200


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"reason": "no"}, [(["body", "reason"], "too_short")]),
        ({"reason": "n" * 501}, [(["body", "reason"], "too_long")]),
        ({"reason": 7}, [(["body", "reason"], "wrong_type")]),
        ({"reason": "a\u0000bc"}, [(["body", "reason"], "not_storable")]),
        ({"why": "x", "reason": "n"}, [(["body", "why"], "unknown_input"), (["body", "reason"], "too_short")]),
    ],
)
def test_a_bad_reason_cancels_nothing(
    api: Api, open_batch: Batch, body: dict[str, Any], faults: list[tuple[list[str | int], str]]
) -> None:
    errors = assert_error(api.post(f"/v1/batches/{open_batch.pk}/cancellation", body), 422, "VALIDATION_ERROR")
    assert faults_of(errors) == faults
    assert statuses(open_batch) == ["queued", "queued"]


def test_a_body_that_is_no_object_is_400(api: Api, open_batch: Batch) -> None:
    assert_error(api.post(f"/v1/batches/{open_batch.pk}/cancellation", [1]), 400, "BAD_REQUEST")
    assert statuses(open_batch) == ["queued", "queued"]


def test_the_command_counts_then_cancels(open_batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    claim(open_batch, 1)
    call_command("cancel_batch", str(open_batch.pk))
    assert capsys.readouterr().out == "Would cancel 1 run(s) that wait, and ask 1 to stop. Add --apply.\n"
    assert "canceled" not in statuses(open_batch)
    call_command("cancel_batch", str(open_batch.pk), "--apply", "--reason", "By hand.")
    assert capsys.readouterr().out == "Canceled 1 run(s), asked 1 to stop. The batch is running.\n"
    assert Batch.objects.get(pk=open_batch.pk).cancel_reason == "By hand."
    with pytest.raises(CommandError, match="There is no batch"):
        call_command("cancel_batch", "01a20c33-30d3-737b-a193-fcc95c0215a8", "--apply")
