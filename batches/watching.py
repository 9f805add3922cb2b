"""Following batches while they change: in each process one thread asks for all that anybody watches, in one statement.

A stream of events waits here instead of asking itself, so what streams cost the database does not grow with their number, and
a stream that waits holds no connection (docs/adr/0012-events.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from django.contrib.postgres.expressions import ArraySubquery
from django.db import Error, connection
from django.db.models import OuterRef

from batches.models import BATCH_TERMINAL, Batch, BatchItem

logger = logging.getLogger(__name__)

# Seconds between two looks. What an event may be late, for people who watch a bar grow.
POLL_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class State:
    """What events tell of a batch. `item_statuses` in the order of the request."""

    status_code: str
    items_succeeded: int
    items_failed: int
    items_cancelled: int
    cost: Decimal | None
    item_statuses: tuple[str, ...]

    @property
    def is_terminal(self) -> bool:
        return self.status_code in BATCH_TERMINAL


def read_states(*, batch_ids: Collection[UUID]) -> dict[UUID, State]:
    """The states of these batches, all of one moment, in one statement. What is gone is left out."""
    items = BatchItem.objects.filter(batch=OuterRef("pk")).order_by("sequence_index")
    statuses = ArraySubquery(items.values("run__status_code"))
    columns = ("pk", "status_code", "items_succeeded", "items_failed", "items_cancelled", "cost")
    rows = Batch.objects.filter(pk__in=batch_ids).values_list(*columns, statuses)
    return {
        pk: State(status_code, succeeded, failed, cancelled, cost, tuple(item_statuses))
        for pk, status_code, succeeded, failed, cancelled, cost, item_statuses in rows
    }


class Watcher:
    """The thread that looks, and those who wait for what it sees. It is there while somebody waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: Counter[UUID] = Counter()
        # What was seen last, and in which look.
        self._states: dict[UUID, tuple[int, State | None]] = {}
        self._looks = 0
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, batch_id: UUID) -> Iterator[Callable[..., State | None]]:
        """`with watcher.watch(id) as wait:` for as long, `wait(seen=…, timeout=…)` tells of changes (see `_wait`)."""
        with self._changed:
            # A look that is under way began before the caller's own, and may be older than what the caller knows.
            since = self._looks
            self._watched[batch_id] += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
                self._thread.start()

        def wait(*, seen: State, timeout: float, is_over: Callable[[], bool] = bool) -> State | None:
            return self._wait(batch_id, since, seen, timeout, is_over)

        try:
            yield wait
        finally:
            with self._changed:
                self._watched[batch_id] -= 1
                if not self._watched[batch_id]:
                    del self._watched[batch_id]
                    self._states.pop(batch_id, None)

    def _wait(
        self, batch_id: UUID, since: int, seen: State, timeout: float, is_over: Callable[[], bool]
    ) -> State | None:
        """The state once it differs from `seen`; `seen` when that takes longer than `timeout` seconds, or when `is_over()`,
        which is asked after each look. None: the batch is gone."""

        def latest() -> State | None:
            look, state = self._states.get(batch_id, (0, seen))
            return state if look > since else seen

        with self._changed:
            self._changed.wait_for(lambda: latest() != seen or is_over(), timeout)
            return latest()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._watched:
                        # Under the lock: whoever comes next starts another.
                        self._thread = None
                        return
                    self._looks += 1
                    look, batch_ids = self._looks, list(self._watched)
                states = self._read(batch_ids)
                with self._changed:
                    if states is not None:
                        seen = {each: (look, states.get(each)) for each in batch_ids if each in self._watched}
                        self._states.update(seen)
                    self._changed.notify_all()
                time.sleep(POLL_INTERVAL)
        finally:
            connection.close()
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _read(self, batch_ids: list[UUID]) -> dict[UUID, State] | None:
        """None while the database does not answer: whoever waits goes on waiting."""
        try:
            return read_states(batch_ids=batch_ids)
        except Error:
            logger.warning("Could not look at the batches that are watched", exc_info=True)
            connection.close()
            return None


class Places:
    """How many streams this process holds, and for whom: each has a thread of the web server for itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: Counter[UUID] = Counter()

    def take(self, *, organization_id: UUID, most: int, most_each: int) -> bool:
        """Take one of `most` places, of which one organisation has no more than `most_each`. False: there is none."""
        with self._lock:
            if self._taken.total() >= most or self._taken[organization_id] >= most_each:
                return False
            self._taken[organization_id] += 1
            return True

    def give_back(self, organization_id: UUID) -> None:
        with self._lock:
            self._taken[organization_id] -= 1
            if not self._taken[organization_id]:
                del self._taken[organization_id]

    @property
    def taken(self) -> int:
        with self._lock:
            return self._taken.total()
