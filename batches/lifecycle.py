"""Moving runs, in sets: claim, begin, renew, settle, sweep. Every move is a compare-and-set; the rows are the answer."""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from assets.models import Asset
from assets.services import save_assets
from batches import retry, sql
from batches.events import announce
from batches.models import RunStatus
from batches.retry import Settlement
from billing.services import Ended, settle_holds
from providers.base import Unavailable

logger = logging.getLogger(__name__)

# One sweep returns at most this many expired leases in a transaction, so that it never holds many locks for long.
SWEEP_LIMIT = 500
# Claimed again, this attempt has no worker that could answer for it.
LEASE_LOST = Unavailable("PROVIDER_LOST", "The worker that held this run disappeared.", "execute")


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that is ours for one attempt."""

    id: UUID
    attempt: int
    max_attempts: int
    organization_id: UUID


@dataclass(frozen=True, slots=True)
class ClaimedRun(HeldRun):
    """One just taken, with all that is needed to do it. `job_id` is None unless it was taken for an endpoint."""

    batch_id: UUID | None
    model_id: UUID
    resolved_template_id: UUID | None
    job_id: str | None
    seconds: float  # that this attempt may take
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settled:
    """What `settle` changed: the runs that were still ours, and the batches that ended with them."""

    run_ids: frozenset[UUID]
    completed_batch_ids: tuple[UUID, ...]


def claim_runs(
    *, provider_id: UUID, limit: int, lease: timedelta | None = None, endpoint_id: UUID | None = None
) -> list[ClaimedRun]:
    """Take up to `limit` due runs of a provider, fair between organisations and inside their caps.

    queued -> dispatching, attempt + 1, a lease, and for an endpoint a job id; batches that were queued start. Empty: there is
    nothing for us now.
    """
    lease = lease or settings.RUN_LEASE
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_CLAIMS)
        cursor.execute(
            sql.CLAIM,
            {
                "provider_id": provider_id,
                "limit": limit,
                "lease": lease.total_seconds(),
                "endpoint_id": endpoint_id,
            },
        )
        claimed = [_claimed(row) for row in cursor.fetchall()]
        batch_ids = sorted({run.batch_id for run in claimed if run.batch_id is not None})
        if batch_ids:
            cursor.execute(sql.START_BATCHES, {"batch_ids": batch_ids})
    # RETURNING promises no order; UUIDv7 ids are in the order of the request.
    return sorted(claimed, key=lambda run: run.id)


def begin_runs(*, runs: Sequence[ClaimedRun]) -> list[ClaimedRun]:
    """dispatching -> running. Returns those that are still ours; the others have lost their lease meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute(sql.BEGIN, _held(runs))
        ours = {row[0] for row in cursor.fetchall()}
    return [run for run in runs if run.id in ours]


def renew_leases(*, runs: Sequence[HeldRun]) -> int:
    """Prolong the leases of the runs that are still ours. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(sql.RENEW, {**_held(runs), "lease": settings.RUN_LEASE.total_seconds()})
        return int(cursor.rowcount)


@dataclass(frozen=True, slots=True)
class AcceptedRun:
    """A run that a server has taken. `job_id` is what the server calls it."""

    run: HeldRun
    job_id: str
    nodes_total: int | None


@dataclass(frozen=True, slots=True)
class PlacedRun(HeldRun):
    """A run that is, or may be, at a server. `age` in seconds since it was claimed; `seconds` that are left to it."""

    job_id: str
    is_unconfirmed: bool
    is_to_cancel: bool
    age: float
    seconds: float


def accept_runs(*, accepted: Sequence[AcceptedRun]) -> frozenset[UUID]:
    """dispatching -> running, with the job's name at the server. Returns those that are still ours."""
    if not accepted:
        return frozenset()
    with connection.cursor() as cursor:
        cursor.execute(
            sql.ACCEPT,
            {
                **_held([each.run for each in accepted]),
                "job_ids": [each.job_id for each in accepted],
                "nodes_totals": [each.nodes_total for each in accepted],
            },
        )
        return frozenset(row[0] for row in cursor.fetchall())


def runs_at(*, endpoint_id: UUID) -> list[PlacedRun]:
    """What a driver takes over from its predecessor, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(sql.AT_ENDPOINT, {"endpoint_id": endpoint_id})
        return [PlacedRun(*row) for row in cursor.fetchall()]


def runs_to_cancel_at(*, endpoint_id: UUID) -> frozenset[UUID]:
    """Those at this server that somebody asked to stop."""
    with connection.cursor() as cursor:
        cursor.execute(sql.TO_CANCEL, {"endpoint_id": endpoint_id})
        return frozenset(row[0] for row in cursor.fetchall())


def runs_to_cancel(*, runs: Sequence[HeldRun]) -> frozenset[UUID]:
    """Those of these runs, held without a server, that somebody asked to stop."""
    with connection.cursor() as cursor:
        cursor.execute(sql.TO_CANCEL_HELD, {"ids": [run.id for run in runs]})
        return frozenset(row[0] for row in cursor.fetchall())


def name_assets(*, runs: Sequence[ClaimedRun], assets: Sequence[Asset]) -> None:
    """Save the rows of files that came in the inputs of these runs, and the inputs, which name them now."""
    with transaction.atomic(), connection.cursor() as cursor:
        save_assets(assets=assets)
        cursor.execute(sql.NAME_ASSETS, {**_held(runs), "inputs": [json.dumps(run.input) for run in runs]})


def note_progress(*, nodes_completed: Mapping[HeldRun, int]) -> None:
    """Write down how far runs are."""
    if not nodes_completed:
        return
    with connection.cursor() as cursor:
        cursor.execute(sql.PROGRESS, {**_held(list(nodes_completed)), "nodes": list(nodes_completed.values())})


def settle(*, settlements: Sequence[Settlement], assets: Iterable[tuple[UUID, Asset]] = ()) -> Settled:
    """Write down what became of a set of attempts, all in one transaction.

    1. lock the runs that are still ours, in id order; the others belong to a newer attempt or have ended
    2. move them: to a terminal status with output or failure and cost, or back to `queued`
    3. save the rows of the files that the succeeded ones made (`assets`: run id, asset)
    4. under their locks, in id order, add counts and cost to the batches; whose total is reached ends there and then
    5. make the callbacks of what ended and wants one
    6. charge what ended and had credit held for it

    The statements are the same five, three more for callbacks, and two more for credit, however many runs and batches the set
    has.
    """
    if not settlements:
        return Settled(frozenset(), ())
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_HELD, _fences(settlements))
        cursor.execute(sql.SETTLE_RUNS, _arguments(settlements))
        moved = cursor.fetchall()
        run_ids = frozenset(row[0] for row in moved)
        ours = [asset for run_id, asset in assets if run_id in run_ids]
        if ours:
            save_assets(assets=ours)
        return end_with_batches(cursor, moved)


# A run that was moved: id, batch, new status, cost, whether it wants a callback of its own, and has a hold of its own.
Moved = tuple[UUID, UUID | None, str, Decimal | None, bool, bool]
# A batch that ended: id, True, whether it wants a callback, whether it has a hold, and its cost.
Completed = tuple[UUID, bool, bool, bool, Decimal | None]


def end_with_batches(cursor: Any, moved: Sequence[Moved]) -> Settled:
    """The second half of every move to a terminal status: counters and costs of the batches, their end, callbacks, and credit.

    In the transaction that moved the runs and holds their locks.
    """
    completed = _settle_batches(cursor, moved)
    ended = [run for run in moved if run[2] != RunStatus.QUEUED]
    announce(
        batch_ids=[batch_id for batch_id, _, is_wanted, _, _ in completed if is_wanted],
        run_ids=[run_id for run_id, _, _, _, is_wanted, _ in ended if is_wanted],
    )
    # Last: all that an organisation has at work shares the row of its balance.
    settle_holds(
        ended=[Ended(batch_id, cost or Decimal(0)) for batch_id, _, _, has_hold, cost in completed if has_hold]
        + [Ended(run_id, cost or Decimal(0)) for run_id, _, _, cost, _, has_hold in ended if has_hold]
    )
    return Settled(frozenset(row[0] for row in moved), tuple(row[0] for row in completed))


def _settle_batches(cursor: Any, moved: Sequence[Moved]) -> list[Completed]:
    """Returns the batches that ended."""
    tally: dict[UUID, dict[str, Any]] = defaultdict(lambda: dict.fromkeys(RunStatus.values, 0) | {"cost": Decimal(0)})
    for _, batch_id, status_code, cost, _, _ in moved:
        if batch_id is not None and status_code != RunStatus.QUEUED:
            tally[batch_id][status_code] += 1
            tally[batch_id]["cost"] += cost or 0
    if not tally:
        return []
    batch_ids = sorted(tally)
    cursor.execute(sql.LOCK_BATCHES, {"batch_ids": batch_ids})
    cursor.execute(
        sql.SETTLE_BATCHES,
        {
            "batch_ids": batch_ids,
            "succeeded": [tally[batch_id][RunStatus.SUCCEEDED] for batch_id in batch_ids],
            "failed": [tally[batch_id][RunStatus.FAILED] for batch_id in batch_ids],
            "cancelled": [tally[batch_id][RunStatus.CANCELED] for batch_id in batch_ids],
            "costs": [tally[batch_id]["cost"] for batch_id in batch_ids],
        },
    )
    return [row for row in cursor.fetchall() if row[1]]


def return_expired(*, limit: int = SWEEP_LIMIT) -> Settled:
    """Give back the runs whose lease ran out: to the queue, or failed when that was their last attempt.

    Naive on purpose: a worker that merely stalled may still be at work. Its answer then meets the fence and is dropped, but
    what it did at the provider was done twice (docs/adr/0002).
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.EXPIRED, {"limit": limit})
        settlements = [
            retry.judge(
                LEASE_LOST,
                run_id=run_id,
                attempt=attempt,
                max_attempts=max_attempts,
                delays=settings.RUN_RETRY_DELAYS,
                jitter=random.random(),
            )
            for run_id, attempt, max_attempts in cursor.fetchall()
        ]
        settled = settle(settlements=settlements)
    if settled.run_ids:
        logger.warning("Returned %d runs whose lease had expired", len(settled.run_ids))
    return settled


def fail_overdue(*, limit: int = SWEEP_LIMIT) -> Settled:
    """Fail what still waits in batches whose time is over (Model.batch_timeout)."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_OVERDUE, {"limit": limit})
        ids = [row[0] for row in cursor.fetchall()]
        if not ids:
            return Settled(frozenset(), ())
        cursor.execute(sql.FAIL_QUEUED, {"ids": ids, "message": "The batch's time was over before this run began."})
        return end_with_batches(cursor, cursor.fetchall())


def waiting_providers() -> list[UUID]:
    """The active providers that have runs to claim now."""
    with connection.cursor() as cursor:
        cursor.execute(sql.WAITING_PROVIDERS)
        return [row[0] for row in cursor.fetchall()]


def _claimed(row: tuple[Any, ...]) -> ClaimedRun:
    # Django leaves jsonb to its fields: a raw cursor gives text.
    run = ClaimedRun(*row)
    return replace(run, input=json.loads(row[-1]))


def _held(runs: Sequence[HeldRun]) -> dict[str, Any]:
    return {"ids": [run.id for run in runs], "attempts": [run.attempt for run in runs]}


def _fences(settlements: Sequence[Settlement]) -> dict[str, Any]:
    return {"ids": [each.run_id for each in settlements], "attempts": [each.attempt for each in settlements]}


def _arguments(settlements: Sequence[Settlement]) -> dict[str, Any]:
    return _fences(settlements) | {
        "status_codes": [str(each.status_code) for each in settlements],
        "outputs": [each.output for each in settlements],
        "failure_codes": [each.failure_code for each in settlements],
        "failure_messages": [each.failure_message for each in settlements],
        "failure_stage_codes": [each.failure_stage_code for each in settlements],
        "delays": [each.delay for each in settlements],
    }
