"""Claim, begin, renew, settle, sweep: what moves, what does not, and the races, each of which fails without its guard."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.utils import OperationalError
from django.utils import timezone

from batches import lifecycle, sql
from batches.lifecycle import ClaimedRun
from batches.models import REACHED_FROM, Batch, Run, RunStatus
from batches.retry import Settlement
from tests.factories import make_batch, make_model, make_organization
from tests.threads import InThread, lock_waiters, row_by_row, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]


def claim_all(batch: Batch, limit: int = 100) -> list[ClaimedRun]:
    return lifecycle.claim_runs(provider_id=Run.objects.filter(batch=batch)[0].provider_id, limit=limit)


def succeeded(run: ClaimedRun) -> Settlement:
    return Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')


def failed(run: ClaimedRun, code: str = "EXECUTION_FAILED") -> Settlement:
    return Settlement(
        run.id,
        run.attempt,
        RunStatus.FAILED,
        failure_code=code,
        failure_message="No.",
        failure_stage_code="execute",
    )


def canceled(run: ClaimedRun) -> Settlement:
    return Settlement(run.id, run.attempt, RunStatus.CANCELED)


def counters(batch: Batch) -> tuple[str, int, int, int, Decimal | None]:
    batch.refresh_from_db()
    return (batch.status_code, batch.items_succeeded, batch.items_failed, batch.items_cancelled, batch.cost)


def expire_leases() -> None:
    Run.objects.filter(lease_expires_at__isnull=False).update(lease_expires_at=timezone.now() - timedelta(seconds=1))


def make_due() -> None:
    Run.objects.update(due_at=timezone.now() - timedelta(seconds=1))


# --- Claiming -----------------------------------------------------------------------------------------------------------


def test_a_claim_takes_the_oldest_with_an_attempt_and_a_lease_and_starts_the_batch() -> None:
    batch, handles = make_batch(items=[{"text": str(n)} for n in range(3)])
    before = timezone.now()
    claimed = claim_all(batch, limit=2)
    assert [(run.id, run.attempt, run.input) for run in claimed] == [
        (handles[0].run_id, 1, {"text": "0"}),
        (handles[1].run_id, 1, {"text": "1"}),
    ]
    rows = list(Run.objects.order_by("pk").values_list("status_code", "attempt", "started_at"))
    assert rows == [("dispatching", 1, None), ("dispatching", 1, None), ("queued", 0, None)]
    lease = Run.objects.get(pk=claimed[0].id).lease_expires_at
    assert lease is not None
    assert timedelta(seconds=59) < lease - before < timedelta(seconds=70)
    batch.refresh_from_db()
    assert batch.status_code == "running"
    assert batch.started_at is not None


def test_nothing_is_claimed_twice_and_nothing_before_it_is_due() -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    Run.objects.filter(input__text="b").update(due_at=timezone.now() + timedelta(hours=1))
    assert [run.input["text"] for run in claim_all(batch)] == ["a"]
    assert claim_all(batch) == []


def test_organizations_take_turns_oldest_first_within_one() -> None:
    model, big, small = make_model(), make_organization(), make_organization()
    first, _ = make_batch(organization=big, model=model, items=[{"text": f"big {n}"} for n in range(10)])
    make_batch(organization=small, model=model, items=[{"text": f"small {n}"} for n in range(2)])
    claims = [{run.input["text"] for run in claim_all(first, limit=2)} for _ in range(3)]
    assert claims == [{"big 0", "small 0"}, {"big 1", "small 1"}, {"big 2", "big 3"}]


def test_a_claim_stays_inside_the_cap_of_the_organization() -> None:
    organization = make_organization(max_in_flight=3)
    batch, _ = make_batch(organization=organization, items=[{"text": str(n)} for n in range(10)])
    first = claim_all(batch, limit=2)
    assert (len(first), len(claim_all(batch)), len(claim_all(batch))) == (2, 1, 0)
    lifecycle.settle(settlements=[succeeded(first[0])])
    assert len(claim_all(batch)) == 1


def test_two_claims_at_once_share_no_run_and_respect_the_cap() -> None:
    """The guard: LOCK_CLAIMS. Without it both see the same free places."""
    organization = make_organization(max_in_flight=3)
    batch, _ = make_batch(organization=organization, items=[{"text": str(n)} for n in range(10)])
    with transaction.atomic():
        first = claim_all(batch, limit=2)
        other = InThread(lambda: claim_all(batch, limit=2)).start()
        wait_until(lambda: lock_waiters() == 1 or other.is_done, what="the other to wait or to be done")
    assert len(first) == 2
    assert len(other.result) == 1
    assert {run.id for run in first}.isdisjoint(run.id for run in other.result)


def test_a_claim_skips_rows_that_somebody_holds() -> None:
    batch, handles = make_batch(items=[{"text": "a"}, {"text": "b"}])
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Run.objects.select_for_update().get(pk=handles[0].run_id)
            held.set()
            assert go.wait(10)

    with InThread(hold):
        assert held.wait(10)
        claimed = claim_all(batch)
        go.set()
    assert [run.id for run in claimed] == [handles[1].run_id]


def test_a_claim_costs_the_same_however_long_the_queue(count_queries: Callable[..., Any]) -> None:
    """Rows the plan touches, not milliseconds: 20 of 20,000 runs are read through the partial index."""
    batch, _ = make_batch(items=[{"text": str(n)} for n in range(100)])
    with connection.cursor() as cursor:
        columns = ", ".join(str(field.column) for field in Run._meta.concrete_fields if field.column != "id")
        cursor.execute(
            f"INSERT INTO batches_run (id, {columns}) "  # noqa: S608 column names of our own model
            f"SELECT gen_random_uuid(), {columns} FROM batches_run, generate_series(1, 200)"
        )
        cursor.execute("ANALYZE batches_run")
        cursor.execute(
            "EXPLAIN (ANALYZE, FORMAT TEXT) " + sql.CLAIM,
            {"provider_id": Run.objects.all()[0].provider_id, "limit": 20, "lease": 60, "endpoint_id": None},
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert batch.items_total == 100
    assert "Seq Scan on batches_run" not in plan, plan
    most_rows = max(int(float(rows)) for rows in re.findall(r"actual time=\S+ rows=([\d.]+)", plan))
    assert most_rows <= 20, plan


# --- Holding ------------------------------------------------------------------------------------------------------------


def test_begin_moves_to_running_and_tells_which_are_still_ours() -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    mine, lost = claim_all(batch)
    Run.objects.filter(pk=lost.id).update(attempt=F("attempt") + 1)
    assert lifecycle.begin_runs(runs=[mine, lost]) == [mine]
    rows = dict(Run.objects.values_list("pk", "status_code"))
    assert rows == {mine.id: "running", lost.id: "dispatching"}
    assert Run.objects.get(pk=mine.id).started_at is not None


def test_a_renewal_prolongs_our_leases_only() -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    mine, lost = claim_all(batch)
    Run.objects.filter(pk=lost.id).update(attempt=F("attempt") + 1)
    expire_leases()
    assert lifecycle.renew_leases(runs=[mine, lost]) == 1
    assert Run.objects.get(pk=mine.id).lease_expires_at > timezone.now()  # type: ignore[operator]
    assert Run.objects.get(pk=lost.id).lease_expires_at < timezone.now()  # type: ignore[operator]


# --- Settling -----------------------------------------------------------------------------------------------------------


def test_a_set_is_settled_with_counters_cost_and_status_in_one_go() -> None:
    batch, _ = make_batch(items=[{"text": str(n)} for n in range(4)])
    a, b, c, d = claim_all(batch)
    assert lifecycle.settle(settlements=[succeeded(a), failed(b)]).completed_batch_ids == ()
    assert counters(batch) == ("running", 1, 1, 0, Decimal("0.01"))
    settled = lifecycle.settle(settlements=[canceled(c), succeeded(d)])
    assert settled.completed_batch_ids == (batch.pk,)
    assert settled.run_ids == {c.id, d.id}
    assert counters(batch) == ("partial_succeeded", 2, 1, 1, Decimal("0.02"))
    assert batch.completed_at is not None
    rows = {run.pk: run for run in Run.objects.all()}
    assert [rows[run.id].status_code for run in (a, b, c, d)] == ["succeeded", "failed", "canceled", "succeeded"]
    assert [rows[run.id].cost for run in (a, b, c, d)] == [Decimal("0.01"), None, None, Decimal("0.01")]
    assert rows[b.id].failure_code == "EXECUTION_FAILED"
    assert {run.lease_expires_at for run in rows.values()} == {None}
    assert all(run.completed_at is not None for run in rows.values())


@pytest.mark.parametrize(
    ("ends", "status_code"),
    [
        ([succeeded, succeeded], "succeeded"),
        ([succeeded, failed], "partial_succeeded"),
        ([succeeded, canceled], "partial_succeeded"),
        ([failed, failed], "failed"),
        ([failed, canceled], "failed"),
        ([canceled, canceled], "canceled"),
    ],
)
def test_how_the_runs_end_decides_how_the_batch_ends(
    ends: list[Callable[[ClaimedRun], Settlement]], status_code: str
) -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    runs = claim_all(batch)
    lifecycle.settle(settlements=[end(run) for end, run in zip(ends, runs, strict=True)])
    assert counters(batch)[0] == status_code


def test_a_run_given_back_is_queued_again_later_and_counts_for_nothing() -> None:
    batch, _ = make_batch()
    [run] = claim_all(batch)
    lifecycle.begin_runs(runs=[run])
    before = timezone.now()
    settled = lifecycle.settle(settlements=[Settlement(run.id, 1, RunStatus.QUEUED, delay=30)])
    assert settled.run_ids == {run.id}
    row = Run.objects.get()
    assert (row.status_code, row.attempt, row.lease_expires_at, row.started_at) == ("queued", 1, None, None)
    assert timedelta(seconds=29) < row.due_at - before < timedelta(seconds=40)
    assert counters(batch) == ("running", 0, 0, 0, None)
    assert claim_all(batch) == []


def test_what_is_terminal_never_changes() -> None:
    batch, _ = make_batch()
    [run] = claim_all(batch)
    lifecycle.settle(settlements=[succeeded(run)])
    after = Run.objects.values().get(), Batch.objects.values().get()
    for late in (failed(run), canceled(run), Settlement(run.id, 1, RunStatus.QUEUED)):
        assert lifecycle.settle(settlements=[late]) == lifecycle.Settled(frozenset(), ())
    assert (Run.objects.values().get(), Batch.objects.values().get()) == after


def test_settling_costs_the_same_statements_for_one_run_and_for_a_hundred_of_five_batches(
    count_queries: Callable[..., Any],
) -> None:
    model = make_model()
    one, _ = make_batch(model=model)
    single = claim_all(one)
    with count_queries() as few:
        lifecycle.settle(settlements=[succeeded(run) for run in single])
    batches = [make_batch(model=model, items=[{"text": "x"}] * 20)[0] for _ in range(5)]
    hundred = claim_all(batches[0])
    assert len(hundred) == 100
    with count_queries() as many:
        settled = lifecycle.settle(settlements=[succeeded(run) for run in hundred])
    assert sorted(settled.completed_batch_ids) == sorted(batch.pk for batch in batches)
    statements = [query["sql"] for query in many.captured_queries]
    assert len(statements) == len(few.captured_queries) == 6, statements  # BEGIN, two locks, two updates, COMMIT


def test_settle_locks_runs_then_batches_in_id_order_before_it_writes(count_queries: Callable[..., Any]) -> None:
    batch, _ = make_batch()
    runs = claim_all(batch)
    with count_queries() as log:
        lifecycle.settle(settlements=[succeeded(run) for run in runs])
    verbs = [
        re.sub(r"\s+", " ", query["sql"]).strip()
        for query in log.captured_queries
        if query["sql"].strip() not in ("BEGIN", "COMMIT")
    ]
    assert [("ORDER BY" in verb, verb.split()[0]) for verb in verbs] == [
        (True, "SELECT"),
        (False, "UPDATE"),
        (True, "SELECT"),
        (False, "WITH"),
    ]
    assert "FOR NO KEY UPDATE" in verbs[0]
    assert "FOR NO KEY UPDATE" in verbs[2]


def test_two_last_finishers_complete_the_batch_exactly_once() -> None:
    """The guard: LOCK_BATCHES. Without it the second adds to counters it read before the first committed."""
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    a, b = claim_all(batch)
    with transaction.atomic():
        first = lifecycle.settle(settlements=[succeeded(a)])
        other = InThread(lambda: lifecycle.settle(settlements=[succeeded(b)])).start()
        wait_until(lambda: lock_waiters() == 1, what="the second finisher to wait for the batch")
    assert (first.completed_batch_ids, other.result.completed_batch_ids) == ((), (batch.pk,))
    assert counters(batch) == ("succeeded", 2, 0, 0, Decimal("0.02"))


def test_two_doorbells_at_once_do_every_run_once() -> None:
    """The guard: SKIP LOCKED and the status in the claim's WHERE."""
    batch, _ = make_batch(items=[{"text": str(n)} for n in range(40)])
    provider_id = Run.objects.all()[0].provider_id
    barrier = threading.Barrier(4)

    def drain() -> list[Any]:
        barrier.wait(10)
        mine = []
        while claimed := lifecycle.claim_runs(provider_id=provider_id, limit=3):
            lifecycle.settle(settlements=[succeeded(run) for run in claimed])
            mine += [run.id for run in claimed]
        return mine

    others = [InThread(drain).start() for _ in range(4)]
    done = [run_id for other in others for run_id in other.result]
    assert len(done) == len(set(done)) == 40
    assert set(Run.objects.values_list("attempt", "status_code")) == {(1, "succeeded")}
    assert counters(batch) == ("succeeded", 40, 0, 0, Decimal("0.40"))


def test_overlapping_sets_in_opposite_order_do_not_deadlock() -> None:
    """The guard: ORDER BY in LOCK_HELD. Without it the second holds `b` already while it waits for `a`."""
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}])
    a, b = claim_all(batch)

    def settle_in_opposite_order() -> lifecycle.Settled:
        row_by_row()
        return lifecycle.settle(settlements=[succeeded(b), succeeded(a)])

    with transaction.atomic():
        first = lifecycle.settle(settlements=[succeeded(a)])
        other = InThread(settle_in_opposite_order).start()
        wait_until(lambda: lock_waiters() == 1, what="the second to wait")
        Run.objects.select_for_update(nowait=True).get(pk=b.id)
    assert first.run_ids == {a.id}
    assert other.result.run_ids == {b.id}
    assert counters(batch) == ("succeeded", 2, 0, 0, Decimal("0.02"))


# --- Leases -------------------------------------------------------------------------------------------------------------


def test_an_expired_lease_gives_the_run_back_and_its_late_worker_changes_nothing() -> None:
    """The guard: `attempt` in LOCK_HELD and SETTLE_RUNS."""
    batch, _ = make_batch()
    [late] = claim_all(batch)
    lifecycle.begin_runs(runs=[late])
    expire_leases()
    assert lifecycle.return_expired().run_ids == {late.id}
    make_due()
    [current] = claim_all(batch)
    assert (current.id, current.attempt) == (late.id, 2)
    assert lifecycle.settle(settlements=[failed(late)]).run_ids == frozenset()
    assert lifecycle.renew_leases(runs=[late]) == 0
    assert lifecycle.begin_runs(runs=[late]) == []
    assert counters(batch) == ("running", 0, 0, 0, None)
    assert lifecycle.settle(settlements=[succeeded(current)]).completed_batch_ids == (batch.pk,)
    assert counters(batch) == ("succeeded", 1, 0, 0, Decimal("0.01"))


def test_a_live_lease_is_left_alone() -> None:
    batch, _ = make_batch()
    claim_all(batch)
    assert lifecycle.return_expired().run_ids == frozenset()
    assert Run.objects.get().status_code == "dispatching"


def test_a_lease_that_runs_out_on_the_last_attempt_fails_the_run_and_ends_the_batch() -> None:
    batch, _ = make_batch()
    Run.objects.update(max_attempts=1)
    claim_all(batch)
    expire_leases()
    assert lifecycle.return_expired().completed_batch_ids == (batch.pk,)
    run = Run.objects.get()
    assert (run.status_code, run.failure_code, run.failure_stage_code) == ("failed", "ATTEMPTS_EXHAUSTED", "execute")
    assert counters(batch) == ("failed", 0, 1, 0, None)


def test_two_sweeps_at_once_return_a_run_once() -> None:
    batch, _ = make_batch()
    claim_all(batch)
    expire_leases()
    with transaction.atomic():
        first = lifecycle.return_expired()
        with InThread(lifecycle.return_expired) as other:
            pass  # skips the locked row instead of waiting for it
    assert (len(first.run_ids), len(other.result.run_ids)) == (1, 0)
    assert Run.objects.get().attempt == 1


# --- The database's own word --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"status_code": "done"}, "run_status_known"),
        ({"status_code": "canceled"}, "run_completed_at_iff_terminal"),
        ({"status_code": "running"}, "run_lease_iff_live"),
        ({"cost": Decimal(1)}, "run_cost_iff_succeeded"),
        ({"failure_code": "X"}, "run_failure_code_iff_failed"),
    ],
)
def test_the_database_refuses_a_run_that_cannot_be(changes: dict[str, Any], constraint: str) -> None:
    make_batch()
    with pytest.raises(IntegrityError, match=constraint):
        Run.objects.update(**changes)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"status_code": "done"}, "batch_status_known"),
        ({"status_code": "succeeded", "items_succeeded": 1}, "batch_completed_at_iff_terminal"),
        ({"items_failed": 2}, "batch_counters_within_total"),
        ({"status_code": "failed", "completed_at": timezone.now()}, "batch_counters_sum_to_total_when_terminal"),
        ({"cost": Decimal(-1)}, "batch_cost_not_negative"),
    ],
)
def test_the_database_refuses_a_batch_that_cannot_be(changes: dict[str, Any], constraint: str) -> None:
    make_batch()
    with pytest.raises(IntegrityError, match=constraint):
        Batch.objects.update(**changes)


def test_the_diagram_and_the_code_agree() -> None:
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)", (ROOT / "docs/state_machine.md").read_text(), re.MULTILINE))
    coded = {(source.value, target.value) for target, sources in REACHED_FROM.items() for source in sources}
    assert {edge for edge in drawn if "START" not in edge and "END" not in edge} == coded


def test_the_lock_of_a_claim_is_given_up_with_its_transaction() -> None:
    batch, _ = make_batch()
    with pytest.raises(OperationalError), transaction.atomic():
        claim_all(batch)
        raise OperationalError("the worker dies here")
    with InThread(lambda: claim_all(batch)) as other:
        assert len(other.result) == 1


def test_postgresql_compiles_none_of_our_statements() -> None:
    """The planner's guess for a claim from a long queue is high enough for its JIT, which takes ten times the claim's time."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW jit")
        assert cursor.fetchone() == ("off",)
