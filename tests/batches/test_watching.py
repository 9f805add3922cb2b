"""The thread that looks for all streams: never back in time, never lost, never in the way."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError

from batches import watching
from batches.api.events import is_stopping
from batches.watching import Places, State, Watcher
from tests.threads import InThread, wait_until

BATCH, OTHER = uuid4(), uuid4()
LONG = 10.0


def state(*item_statuses: str) -> State:
    return State("running", 0, 0, 0, None, item_statuses)


OLD, NOW, NEW = state("queued"), state("dispatching"), state("running")


class Looks:
    """What each look finds, by its number from 0; the last one for ever. A look waits until it is let through."""

    def __init__(self, *found: dict[UUID, State] | Exception) -> None:
        self.found = found
        self.asked: list[set[UUID]] = []
        self.allowed = threading.Semaphore(0)

    def __call__(self, *, batch_ids: list[UUID]) -> dict[UUID, State]:
        self.asked.append(set(batch_ids))
        assert self.allowed.acquire(timeout=LONG)
        found = self.found[min(len(self.asked), len(self.found)) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    def let(self, count: int = 1000) -> None:
        self.allowed.release(count)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Looks]]:
    made: list[Looks] = []

    def use(*found: dict[UUID, State] | Exception) -> Looks:
        made.append(Looks(*found))
        monkeypatch.setattr(watching, "read_states", made[-1])
        return made[-1]

    monkeypatch.setattr(watching, "POLL_INTERVAL", 0.001)
    yield use
    for each in made:
        each.let()
    wait_until(lambda: not threads(), what="the thread to end")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watcher"]


def test_whoever_waits_is_told_of_a_change_and_of_nothing_else(look: Callable[..., Looks]) -> None:
    look({BATCH: NOW, OTHER: OLD}, {BATCH: NOW, OTHER: NEW}, {BATCH: NEW}).let()
    with Watcher().watch(BATCH) as wait:
        assert wait(seen=NOW, timeout=LONG) == NEW
        assert wait(seen=NEW, timeout=0.05) == NEW


def test_a_look_that_began_before_we_came_is_not_believed(look: Callable[..., Looks]) -> None:
    """We have read the batch ourselves since: its answer may be older than what our client was told."""
    watcher, looks = Watcher(), look({BATCH: OLD}, {BATCH: NEW})
    with watcher.watch(BATCH):
        wait_until(lambda: len(looks.asked) == 1, what="the first look")
        with watcher.watch(BATCH) as wait:
            looks.let()
            assert wait(seen=NOW, timeout=LONG) == NEW


def test_a_batch_that_is_gone_is_none(look: Callable[..., Looks]) -> None:
    look({BATCH: NOW}, {}).let()
    with Watcher().watch(BATCH) as wait:
        assert wait(seen=NOW, timeout=LONG) is None


def test_a_database_that_is_away_is_waited_for(look: Callable[..., Looks], caplog: pytest.LogCaptureFixture) -> None:
    looks = look(OperationalError("gone"), OperationalError("gone"), {BATCH: NEW})
    looks.let()
    with caplog.at_level(logging.WARNING, "batches.watching"), Watcher().watch(BATCH) as wait:
        assert wait(seen=NOW, timeout=LONG) == NEW
    assert [record.message for record in caplog.records] == ["Could not look at the batches that are watched"] * 2


def test_one_thread_looks_for_all_and_ends_when_nobody_watches(look: Callable[..., Looks]) -> None:
    watcher, looks = Watcher(), look({BATCH: NOW, OTHER: NOW})
    with watcher.watch(BATCH), watcher.watch(OTHER), watcher.watch(BATCH):
        looks.let()
        wait_until(lambda: looks.asked[-1:] == [{BATCH, OTHER}], what="a look for both")
        assert len(threads()) == 1
    wait_until(lambda: not threads(), what="the thread to end")
    count = len(looks.asked)
    # Whoever comes then gets another.
    with watcher.watch(OTHER) as wait:
        assert wait(seen=OLD, timeout=LONG) == NOW
    assert looks.asked[count] == {OTHER}


def test_who_comes_and_goes_all_the_time_is_never_left_waiting(look: Callable[..., Looks]) -> None:
    watcher = Watcher()
    look({BATCH: NOW}).let(1_000_000)
    for _ in range(300):
        with watcher.watch(BATCH) as wait:
            assert wait(seen=OLD, timeout=LONG) == NOW


def test_who_comes_while_the_thread_ends_gets_another(
    look: Callable[..., Looks], monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, may_end, is_ending = Watcher(), threading.Event(), threading.Event()

    def close() -> None:
        """The last thing that a thread does."""
        is_ending.set()
        assert may_end.wait(LONG)

    monkeypatch.setattr(watching, "connection", SimpleNamespace(close=close))
    look({BATCH: NOW}).let()
    with watcher.watch(BATCH):
        pass
    assert is_ending.wait(LONG)
    with watcher.watch(BATCH) as wait:
        assert wait(seen=OLD, timeout=LONG) == NOW
        # The end of the first does not make the second forgotten.
        may_end.set()
        wait_until(lambda: len(threads()) == 1, what="the first thread to end")
        with watcher.watch(BATCH):
            assert len(threads()) == 1


def test_waiting_ends_when_it_is_over_at_the_next_look(look: Callable[..., Looks]) -> None:
    look({BATCH: NOW}).let()
    over = threading.Event()

    def waits() -> State | None:
        with Watcher().watch(BATCH) as wait:
            return wait(seen=NOW, timeout=LONG, is_over=over.is_set)

    with InThread(waits) as other:
        assert not other.is_done
        over.set()
    assert other.result == NOW


def test_places_are_counted_for_all_and_for_each() -> None:
    places, one, two = Places(), uuid4(), uuid4()
    take: Any = lambda who: places.take(organization_id=who, most=3, most_each=2)  # noqa: E731
    assert [take(one), take(one), take(one), take(two), take(two)] == [True, True, False, True, False]
    places.give_back(one)
    assert (places.taken, take(two), take(one)) == (2, True, False)


def test_places_are_never_given_twice() -> None:
    places, start = Places(), threading.Barrier(8)

    def take() -> bool:
        start.wait(LONG)
        return places.take(organization_id=uuid4(), most=3, most_each=1)

    others = [InThread(take).start() for _ in range(8)]
    assert sorted(other.result for other in others) == [False] * 5 + [True] * 3


class Worker:
    """As gunicorn's: it has a method for SIGTERM, and says by `alive` whether that has come."""

    alive = True

    def handle_exit(self, signum: int, frame: FrameType | None) -> None:
        self.alive = False


def test_a_stream_learns_from_gunicorn_s_worker_that_it_stops() -> None:
    assert not is_stopping()
    worker = Worker()
    before = signal.signal(signal.SIGTERM, worker.handle_exit)
    try:
        assert not is_stopping()
        signal.raise_signal(signal.SIGTERM)
        assert is_stopping()
    finally:
        signal.signal(signal.SIGTERM, before)
