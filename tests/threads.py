"""Races on purpose: a thread with a database connection of its own, and waiting for conditions instead of sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from django.db import connection

T = TypeVar("T")
DEADLINE = 10.0


class InThread(Generic[T]):
    """Run `work` beside the test: `with InThread(lambda: …) as other: …` joins at the end; `other.result` then answers."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: list[T] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as exc:  # noqa: BLE001 raised again where the result is asked for
            self._error.append(exc)
        finally:
            connection.close()

    def start(self) -> InThread[T]:
        self._thread.start()
        return self

    def __enter__(self) -> InThread[T]:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the other thread did not end"

    @property
    def is_done(self) -> bool:
        return bool(self._result or self._error)

    @property
    def result(self) -> T:
        self._thread.join(DEADLINE)
        if self._error:
            raise self._error[0]
        return self._result[0]


def wait_until(condition: Callable[[], bool], *, what: str, deadline: float = DEADLINE) -> None:
    """Return as soon as `condition` holds; fail the test when it does not within `deadline` seconds."""
    until = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < until, f"waited {deadline} s for: {what}"
        time.sleep(0.01)


def lock_waiters() -> int:
    """How many connections to this database wait for a lock now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # within a transaction the first look is kept
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])
