"""What may not be written: nothing on a run that has ended or is at another attempt, and nothing of what breaks off midway."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import DataError, connection, transaction
from django.utils import timezone

from assets.models import Asset
from batches import endpoints, lifecycle, retry, sql
from batches.cancellation import cancel
from batches.lifecycle import AcceptedRun, ClaimedRun, HeldRun
from batches.models import Batch, Run, RunStatus
from batches.repair import repair
from batches.retry import Settlement
from callbacks import lifecycle as deliveries
from callbacks import sql as callbacks_sql
from callbacks.lifecycle import Attempt
from callbacks.models import CallbackDelivery
from models_registry.models import Endpoint
from tests.factories import end_batch, make_batch, make_delivery, make_model
from tests.scripted import make_servers
from tests.threads import InThread, lock_waiters, row_by_row, stalled_at, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def claim(batch: Batch, limit: int = 100) -> list[ClaimedRun]:
    return lifecycle.claim_runs(provider_id=Run.objects.filter(batch=batch)[0].provider_id, limit=limit)


def succeeded(run: ClaimedRun) -> Settlement:
    return Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')


def stored() -> tuple[list[dict[str, Any]], ...]:
    """Every row that the engine writes."""
    tables: tuple[Any, ...] = (Batch, Run, Asset, CallbackDelivery)
    return tuple(list(table.objects.order_by("pk").values()) for table in tables)


def fail_queued(run: ClaimedRun) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.FAIL_QUEUED, {"ids": [run.id], "message": "Too late."})


def held(run: ClaimedRun) -> HeldRun:
    return HeldRun(run.id, run.attempt, run.max_attempts, run.organization_id)


# What whoever holds a run may write on it.
WRITES: dict[str, Callable[[ClaimedRun], Any]] = {
    "begin": lambda run: lifecycle.begin_runs(runs=[run]),
    "renew": lambda run: lifecycle.renew_leases(runs=[run]),
    "accept": lambda run: lifecycle.accept_runs(accepted=[AcceptedRun(run, "theirs", 3)]),
    "name assets": lambda run: lifecycle.name_assets(runs=[run], assets=[]),
    "note progress": lambda run: lifecycle.note_progress(nodes_completed={held(run): 2}),
    "settle": lambda run: lifecycle.settle(settlements=[succeeded(run)]),
}


@pytest.mark.parametrize("write", [*WRITES.values(), fail_queued], ids=[*WRITES, "fail what waits"])
def test_nothing_is_written_on_a_run_that_has_ended(write: Callable[[ClaimedRun], Any]) -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}, {"text": "c"}])
    runs = claim(batch)
    done, broken, stopped = runs
    lifecycle.settle(
        settlements=[
            succeeded(done),
            Settlement(broken.id, broken.attempt, RunStatus.FAILED, failure_code="EXECUTION_FAILED"),
            Settlement(stopped.id, stopped.attempt, RunStatus.CANCELED),
        ]
    )
    before = stored()
    for run in runs:
        write(replace(run, input={"text": "other"}))
        assert stored() == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_nothing_is_written_on_a_run_by_who_holds_an_earlier_attempt(write: Callable[[ClaimedRun], Any]) -> None:
    batch, _ = make_batch()
    [late] = claim(batch)
    lifecycle.settle(settlements=[Settlement(late.id, late.attempt, RunStatus.QUEUED)])
    before = stored()
    write(replace(late, input={"text": "other"}))
    assert stored() == before, "it was given back"
    current = claim(batch)
    before = stored()
    write(replace(late, input={"text": "other"}))
    assert stored() == before, "another one hands it over"
    lifecycle.begin_runs(runs=current)
    before = stored()
    write(replace(late, input={"text": "other"}))
    assert stored() == before, "another one works on it"


def test_what_is_overdue_at_work_is_left_to_who_works_on_it() -> None:
    batch, _ = make_batch()
    [run] = claim(batch)
    before = stored()
    fail_queued(run)
    assert stored() == before


def test_what_is_overdue_and_waits_is_found_behind_what_is_at_work() -> None:
    _, run = one_at_work()
    Batch.objects.update(created_at=timezone.now() - timedelta(hours=1))
    (failed,) = lifecycle.fail_overdue(limit=1).run_ids
    assert failed != run.id
    assert lifecycle.fail_overdue(limit=1).run_ids == frozenset()


def test_a_second_claim_does_not_start_a_batch_again() -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    claim(batch, 1)
    Batch.objects.update(started_at=timezone.now() - timedelta(hours=1))
    before = Batch.objects.values().get()
    assert len(claim(batch, 1)) == 1
    assert Batch.objects.values().get() == before


def test_a_batch_that_has_ended_keeps_its_story_when_it_is_cancelled_together_with_one_that_has_not() -> None:
    ended, _ = make_batch()
    end_batch(ended)
    before = Batch.objects.values().get()
    waiting, _ = make_batch()
    assert len(cancel(batch_ids=[ended.pk, waiting.pk], reason="Enough.").ended) == 1
    assert Batch.objects.filter(pk=ended.pk).values().get() == before
    assert Batch.objects.get(pk=waiting.pk).cancel_reason == "Enough."


def test_only_the_driver_of_a_server_says_whether_it_is_up() -> None:
    make_servers()
    endpoint = Endpoint.objects.get()
    first = endpoints.take_endpoint(endpoint_id=endpoint.pk)
    assert first is not None
    endpoints.release_endpoint(endpoint_id=endpoint.pk, token=first)
    second = endpoints.take_endpoint(endpoint_id=endpoint.pk)
    assert second is not None
    endpoints.mark_down(endpoint_id=endpoint.pk, token=first, reason="Late.", down_for=0.0)
    endpoint.refresh_from_db()
    assert (endpoint.down_since, endpoint.retry_at) == (None, None)
    endpoints.mark_down(endpoint_id=endpoint.pk, token=second, reason="It is.", down_for=0.0)
    endpoints.mark_up(endpoint_id=endpoint.pk, token=first)
    endpoint.refresh_from_db()
    assert endpoint.down_since is not None
    assert endpoint.down_reason == "It is."


# --- All or nothing ---------------------------------------------------------------------------------------------------


def one_at_work() -> tuple[Batch, ClaimedRun]:
    """A batch that wants a callback: one run is at work, another one waits."""
    batch, _ = make_batch(
        model=make_model(batch_timeout=60), items=[{"text": "a"}, {"text": "b"}], callback_url="https://shop.example/"
    )
    [run] = claim(batch, 1)
    return batch, run


def claiming() -> Callable[[], object]:
    batch, _ = make_batch()
    return lambda: claim(batch)


def settling() -> Callable[[], object]:
    _, run = one_at_work()
    return lambda: lifecycle.settle(settlements=[succeeded(run)])


def settling_the_last() -> Callable[[], object]:
    batch, run = one_at_work()
    lifecycle.settle(settlements=[succeeded(each) for each in claim(batch)])
    return lambda: lifecycle.settle(settlements=[succeeded(run)])


def failing_what_is_overdue() -> Callable[[], object]:
    one_at_work()
    Batch.objects.update(created_at=timezone.now() - timedelta(hours=1))
    return lifecycle.fail_overdue


def cancelling() -> Callable[[], object]:
    batch, _ = one_at_work()
    return lambda: cancel(batch_ids=[batch.pk])


def naming_an_asset() -> Callable[[], object]:
    batch, run = one_at_work()
    asset = Asset(
        organization_id=batch.organization_id, name="a.png", storage_key="k", size_bytes=1, asset_type="image"
    )
    return lambda: lifecycle.name_assets(runs=[run], assets=[asset])


def repairing() -> Callable[[], object]:
    batch, _ = make_batch(callback_url="https://shop.example/")
    end_batch(batch)
    CallbackDelivery.objects.all().delete()
    Batch.objects.update(status_code="running", completed_at=None, items_succeeded=0)
    return repair


@pytest.mark.parametrize(
    ("prepare", "module", "statement"),
    [
        (claiming, sql, "START_BATCHES"),
        (settling, sql, "SETTLE_BATCHES"),
        (settling_the_last, callbacks_sql, "INSERT_DELIVERIES"),
        (failing_what_is_overdue, sql, "SETTLE_BATCHES"),
        (cancelling, sql, "SETTLE_BATCHES"),
        (naming_an_asset, sql, "NAME_ASSETS"),
        (repairing, callbacks_sql, "INSERT_DELIVERIES"),
    ],
)
def test_what_breaks_off_midway_leaves_all_as_it_was(
    prepare: Callable[[], Callable[[], object]], module: Any, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = prepare()
    before = stored()
    monkeypatch.setattr(module, statement, "SELECT 1 / 0")
    with pytest.raises(DataError):
        act()
    assert stored() == before


# --- Two at once ------------------------------------------------------------------------------------------------------


def test_a_run_that_is_cancelled_while_a_claim_is_at_work_is_not_claimed() -> None:
    """The guard: the status in the claim's `taken`, which is looked at again when the row is locked."""
    batch, (first, second) = make_batch(items=[{"text": "a"}, {"text": "b"}])

    def claim_slowly() -> list[ClaimedRun]:
        row_by_row()
        return claim(batch)

    with stalled_at("batches_run", first.run_id) as let_go, InThread(claim_slowly) as other:
        wait_until(lambda: lock_waiters() == 1, what="the claim to take the first run")
        assert cancel(run_ids=[second.run_id]).ended == {second.run_id}
        let_go()
    assert [run.id for run in other.result] == [first.run_id]
    assert Run.objects.get(pk=second.run_id).status_code == "canceled"


def test_a_failure_that_waits_for_a_cancellation_gets_no_other_attempt() -> None:
    """The guard: LOCK_HELD. Without it the run is read as it was before it was asked to stop."""
    batch, _ = make_batch()
    [run] = claim(batch)
    with transaction.atomic():
        cancel(batch_ids=[batch.pk])
        other = InThread(
            lambda: lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.QUEUED)])
        ).start()
        wait_until(lambda: lock_waiters() == 1, what="the settlement to wait")
    assert other.result.completed_batch_ids == (batch.pk,)
    assert Run.objects.get().status_code == "canceled"


def test_a_run_is_not_renewed_while_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard: the lock of EXPIRED lasts until the run is back in the queue."""
    batch, _ = make_batch()
    runs = claim(batch)
    Run.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    others: list[InThread[int]] = []

    def meanwhile(*args: Any, **given: Any) -> Settlement:
        others.append(InThread(lambda: lifecycle.renew_leases(runs=runs)).start())
        wait_until(lambda: lock_waiters() == 1 or others[0].is_done, what="the renewal to wait or to be done")
        return judge(*args, **given)

    judge = retry.judge
    monkeypatch.setattr(retry, "judge", meanwhile)
    assert lifecycle.return_expired().run_ids == {runs[0].id}
    assert others[0].result == 0


def test_of_two_who_fail_what_is_overdue_the_second_waits_for_nobody() -> None:
    failing_what_is_overdue()
    with transaction.atomic():
        assert len(lifecycle.fail_overdue().run_ids) == 1
        with InThread(lifecycle.fail_overdue) as other:
            assert other.result.run_ids == frozenset()


def test_whoever_locks_many_rows_locks_them_in_id_order_or_waits_for_none(count_queries: Callable[..., Any]) -> None:
    """The guard against deadlocks. By the SQL that is emitted: an order that is right by chance shows in no race."""
    batch, run = one_at_work()
    make_delivery()
    with count_queries() as log:
        claim(batch)
        lifecycle.settle(settlements=[succeeded(run)])
        cancel(batch_ids=[batch.pk])
        lifecycle.return_expired()
        failing_what_is_overdue()()
        repair()
        claimed = deliveries.claim_deliveries(limit=1)
        deliveries.record(
            attempts=[Attempt(each.id, each.attempt, each.max_attempts, timezone.now()) for each in claimed]
        )
        deliveries.return_expired()
    locking = {
        re.sub(r"\s+", " ", query["sql"]) for query in log.captured_queries if "FOR NO KEY UPDATE" in query["sql"]
    }
    waiting = {statement for statement in locking if "SKIP LOCKED" not in statement}
    assert len(locking) >= 9, locking
    assert len(waiting) >= 5, waiting
    assert any("callbacks_callbackdelivery" in statement for statement in waiting)
    for statement in waiting:
        assert re.search(r"ORDER BY (\w+\.)?id FOR NO KEY UPDATE", statement), statement
