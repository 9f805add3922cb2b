"""Races on purpose: a thread with a database connection of its own, and waiting for conditions instead of sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from uuid import UUID

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


_STALL = """
CREATE OR REPLACE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = TG_ARGV[0]::uuid THEN
        PERFORM pg_advisory_xact_lock(20260101);
    END IF;
    RETURN NEW;
END $$
"""


@contextmanager
def stalled_at(table: str, pk: UUID) -> Iterator[Callable[[], None]]:
    """Whoever updates this row waits, in the middle of its statement, until the function that this gives is called.

    What lies between two rows of one statement can be reached in no other way.
    """
    with connection.cursor() as cursor:
        cursor.execute(_STALL)
        # Names and ids of the test's own.
        cursor.execute(f"CREATE TRIGGER stall BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION stall('{pk}')")
        cursor.execute("SELECT pg_advisory_lock(20260101)")
        held = [True]

        def let_go() -> None:
            if held:
                held.pop()
                cursor.execute("SELECT pg_advisory_unlock(20260101)")

        try:
            yield let_go
        finally:
            let_go()
            wait_until(lambda: lock_waiters() == 0, what="who was stalled to go on")
            cursor.execute(f"DROP TRIGGER stall ON {table}")
            cursor.execute("DROP FUNCTION stall()")


def row_by_row() -> None:
    """Of this connection: joins take a row, then the next, however small the tables are."""
    with connection.cursor() as cursor:
        cursor.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")
