"""Mending what the audit finds, as far as the runs tell how it should be. Terminal runs are never touched.

Each step is the engine's own, under its locks, so that it can be done while the engine works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from batches import audit_sql, lifecycle, sql
from batches.audit import scope_of
from batches.events import announce, drafts
from billing.services import Ended, settle_holds
from callbacks import lifecycle as deliveries
from callbacks.models import SubjectType

# Mended in one transaction: a callback's body, which holds the outputs of its batch, is in memory. And ids read at a time.
_SLICE, _MOST_READ = 100, 10_000


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done, and to how many rows."""

    what: str
    count: int


def repair(*, batch_id: UUID | None = None, since: datetime | None = None) -> tuple[Mended, ...]:
    """Mend everything, one batch, or what was created since a time. Returns what it did; nothing that had no effect.

    1. batches whose counters, cost, status or start differ from what their runs say; those that end with it call back, and
       one that ended although runs are open is open again, since those runs will end
    2. callbacks that are missing of what ended
    3. credit that is still held for what ended
    4. expired leases of runs and of deliveries, all of them, as the sweep does
    """
    scope = scope_of(batch_id=batch_id, since=since)
    derived = ended = called = settled = 0
    # First: giving back a run of a batch whose counters are wrong may break the constraints on them.
    for rows in _slices(audit_sql.WRONG_BATCHES, scope):
        changed, completed = _derive([batch_id for (batch_id,) in rows])
        derived, ended = derived + changed, ended + completed
    for rows in _slices(audit_sql.MISSING_CALLBACKS, scope):
        called += _call_back(rows)
    for rows in _slices(audit_sql.OPEN_HOLDS, scope):
        settled += _settle([pk for _, pk in rows])
    runs = _until_done(lambda: len(lifecycle.return_expired().run_ids), lifecycle.SWEEP_LIMIT)
    sent = _until_done(deliveries.return_expired, deliveries.SWEEP_LIMIT)
    done = (
        Mended("batches derived anew from their runs", derived),
        Mended("of them ended with it", ended),
        Mended("missing callbacks made", called),
        Mended("holds of credit settled", settled),
        Mended("runs given back whose lease had expired", runs),
        Mended("deliveries given back whose lease had expired", sent),
    )
    return tuple(each for each in done if each.count)


def _slices(statement: str, scope: dict[str, Any]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of a statement by their id, which stands last, a slice at a time. What cannot be mended is met once."""
    after = UUID(int=0)
    while True:
        with connection.cursor() as cursor:
            cursor.execute(statement, scope | {"after": after, "limit": _MOST_READ})
            rows = cursor.fetchall()
        if not rows:
            return
        for start in range(0, len(rows), _SLICE):
            yield rows[start : start + _SLICE]
        after = rows[-1][-1]


def _derive(batch_ids: list[UUID]) -> tuple[int, int]:
    """Returns how many batches were changed, and how many ended with it.

    Under the locks of their open runs and their own, in the engine's order: nobody moves a run or adds to a counter meanwhile.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_OPEN, {"batch_ids": batch_ids, "run_ids": []})
        cursor.execute(sql.LOCK_BATCHES, {"batch_ids": batch_ids})
        cursor.execute(audit_sql.DERIVE_BATCHES, {"batch_ids": batch_ids})
        rows = cursor.fetchall()
        ended = [row for row in rows if row[1]]
        announce(batch_ids=[each for each, _, is_wanted, _, _ in ended if is_wanted], run_ids=[])
        settle_holds(ended=[Ended(each, cost or Decimal(0)) for each, _, _, has_hold, cost in ended if has_hold])
    return len(rows), len(ended)


def _call_back(rows: list[tuple[str, UUID]]) -> int:
    """Returns how many callbacks were made: as `announce` does, where a unique index lets no second one in."""
    subjects: dict[str, list[UUID]] = {SubjectType.BATCH: [], SubjectType.RUN: []}
    for subject_type, pk in rows:
        subjects[subject_type].append(pk)
    missing = drafts(batch_ids=subjects[SubjectType.BATCH], run_ids=subjects[SubjectType.RUN])
    return len(deliveries.create_deliveries(drafts=missing, is_automatic=True))


def _settle(ids: list[UUID]) -> int:
    """Settle the holds of these batches and runs that have ended. Returns how many."""
    with transaction.atomic(), connection.cursor() as cursor:
        ended: list[Ended] = []
        for statement in (audit_sql.LOCK_ENDED_RUNS, audit_sql.LOCK_ENDED_BATCHES):
            cursor.execute(statement, {"ids": ids})
            ended += [Ended(*row) for row in cursor.fetchall()]
        settle_holds(ended=ended)
    return len(ended)


def _until_done(step: Callable[[], int], limit: int) -> int:
    total = 0
    while True:
        count = step()
        total += count
        if count < limit:
            return total
