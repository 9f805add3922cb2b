"""How long it takes until what a fault has hit goes on: taken by name when the fault happens, looked at until it is over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

# Seconds, on top of what the settings of the drill allow: processes that start, and a machine that has two CPUs.
MARGIN = 10.0
LEASE, SWEEP = 3.0, 1.0

HELD_RUNS = """
SELECT id::text, attempt FROM batches_run WHERE status_code IN ('dispatching', 'running') AND endpoint_id IS NULL
"""
STILL_HELD = """
SELECT EXISTS (
    SELECT FROM batches_run AS run
      JOIN unnest(%s::uuid[], %s::int[]) AS held (id, attempt) ON run.id = held.id AND run.attempt = held.attempt
     WHERE run.status_code IN ('dispatching', 'running'))
"""
DRIVERS = """
SELECT id::text, driver_token::text FROM models_registry_endpoint
 WHERE driver_token IS NOT NULL AND EXISTS (
    SELECT FROM batches_run WHERE endpoint_id = models_registry_endpoint.id AND status_code IN ('dispatching', 'running'))
"""
STILL_DRIVEN = """
SELECT EXISTS (
    SELECT FROM models_registry_endpoint AS endpoint
      JOIN unnest(%s::uuid[], %s::uuid[]) AS held (id, token) ON endpoint.id = held.id AND endpoint.driver_token = held.token)
"""
HELD_DELIVERIES = """
SELECT id::text, attempt_count FROM callbacks_callbackdelivery WHERE lease_expires_at IS NOT NULL
"""
STILL_SENDING = """
SELECT EXISTS (
    SELECT FROM callbacks_callbackdelivery AS delivery
      JOIN unnest(%s::uuid[], %s::int[]) AS held (id, attempt)
        ON delivery.id = held.id AND delivery.attempt_count = held.attempt
     WHERE delivery.lease_expires_at IS NOT NULL)
"""
# Providers with something that could be claimed: at servers, one that is up.
WAITING = """
SELECT provider.id::text, clock_timestamp() FROM models_registry_provider AS provider
 WHERE EXISTS (
    SELECT FROM batches_run WHERE provider_id = provider.id AND status_code = 'queued' AND due_at <= clock_timestamp())
"""
STILL_WAITING = """
SELECT EXISTS (
    SELECT FROM unnest(%s::uuid[], %s::timestamptz[]) AS waiting (id, since)
     WHERE NOT EXISTS (
        SELECT FROM drill_move WHERE provider_id = waiting.id AND became = 'dispatching' AND at > waiting.since))
"""
DUE_DELIVERIES = """
SELECT id::text, 0 FROM callbacks_callbackdelivery WHERE status_code = 'pending'
"""
STILL_PENDING = """
SELECT EXISTS (
    SELECT FROM callbacks_callbackdelivery
     WHERE id = ANY(%s::uuid[]) AND status_code = 'pending' AND 0 = ALL(%s::int[]))
"""
NOW = "SELECT 'x', clock_timestamp()"
NO_SWEEP = """
SELECT %s::text[] IS NOT NULL AND NOT EXISTS (
    SELECT FROM batches_heartbeat WHERE name = 'sweep' AND beat_at > ALL(%s::timestamptz[]))
"""
NO_MOVE = """
SELECT %s::text[] IS NOT NULL AND NOT EXISTS (
    SELECT FROM drill_move WHERE at > ALL(%s::timestamptz[]))
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """`hit` finds what a fault hits, as pairs; `is_hit` whether some of these still are; `most` is the limit in seconds.

    `needs` are the targets without which nothing can recover: a time in which one of those is at fault says nothing.
    """

    name: str
    hit: str
    is_hit: str
    most: float
    needs: frozenset[str]


_WORKERS, _IO = {"worker1", "worker2"}, {"io1", "io2"}
_ENGINE = {"beat", "postgres", "valkey", *_WORKERS}
KINDS = {
    "runs": Kind(
        "runs of a worker that died or stood still: given back or done",
        HELD_RUNS,
        STILL_HELD,
        LEASE + SWEEP + MARGIN,
        frozenset(_ENGINE),
    ),
    "drivers": Kind(
        "servers whose driver died or stood still: driven again",
        DRIVERS,
        STILL_DRIVEN,
        LEASE + SWEEP + MARGIN,
        frozenset(_ENGINE | _IO | {"model1", "model2"}),
    ),
    "deliveries": Kind(
        "callbacks that were being sent: given back or recorded",
        HELD_DELIVERIES,
        STILL_SENDING,
        LEASE + SWEEP + MARGIN,
        frozenset(_ENGINE | _IO | {"receiver"}),
    ),
    "broker": Kind(
        "work that waited while the broker forgot everything: claimed",
        WAITING,
        STILL_WAITING,
        15.0,
        frozenset(_ENGINE | _IO | {"model1", "model2"}),
    ),
    "beat": Kind("after beat is back: a sweep", NOW, NO_SWEEP, SWEEP + MARGIN, frozenset(_ENGINE)),
    "database": Kind("after the database is back: a run moves", NOW, NO_MOVE, SWEEP + MARGIN, frozenset(_ENGINE | _IO)),
    "receiver": Kind(
        "callbacks that a failing receiver had not taken: delivered",
        DUE_DELIVERIES,
        STILL_PENDING,
        # The longest pause of a retry with its jitter, and a time-out.
        2.4 + 1.0 + LEASE + SWEEP + MARGIN,
        frozenset(_ENGINE | _IO | {"receiver"}),
    ),
}


class Eyes:
    """A connection of the drill's own, that survives what is done to the database."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: psycopg.Connection[Any] | None = None

    def ask(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]] | None:
        """None: the database does not answer."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=2)
            return self._connection.execute(statement.encode(), parameters or None).fetchall()
        except psycopg.OperationalError:
            self.close()
            return None

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


@dataclass(slots=True)
class Recovery:
    """One that is under way, or over: `took` seconds. `is_disturbed`: something that it needs was at fault meanwhile."""

    kind: Kind
    fault: str
    target: str
    since: float
    is_over: Callable[[], bool]
    took: float = 0.0
    is_disturbed: bool = False

    @property
    def is_too_slow(self) -> bool:
        return not self.is_disturbed and self.took > self.kind.most


@dataclass(frozen=True, slots=True)
class Slowest:
    """Of so many of a kind, in seconds: the longest that nothing disturbed, None if there was none, and the longest of all."""

    kind: Kind
    number: int
    undisturbed: float | None
    longest: float


class Recoveries:
    """All of a drill."""

    def __init__(self, eyes: Eyes) -> None:
        self._eyes = eyes
        self.open: list[Recovery] = []
        self.over: list[Recovery] = []

    def watch(self, name: str, *, fault: str, target: str) -> None:
        """From now on, unless the fault hit nothing of this kind."""
        kind = KINDS[name]
        hit = self._eyes.ask(kind.hit)
        if not hit:
            return
        first, second = [list(each) for each in zip(*hit, strict=True)]

        def is_over() -> bool:
            answer = self._eyes.ask(kind.is_hit, first, second)
            return answer is not None and not answer[0][0]

        self.open.append(Recovery(kind, fault, target, time.monotonic(), is_over))

    def look(self, at_fault: Sequence[str]) -> None:
        """Take the times of those that are over. `at_fault` are the targets that something is done to now."""
        for recovery in list(self.open):
            # Not by the fault itself, which ends before or after.
            if set(at_fault) & (recovery.kind.needs - {recovery.target}):
                recovery.is_disturbed = True
            recovery.took = time.monotonic() - recovery.since
            if recovery.is_over():
                self.open.remove(recovery)
                self.over.append(recovery)

    def longest(self) -> list[Slowest]:
        """Of each kind that there was."""
        found = []
        for kind in KINDS.values():
            mine = [each for each in self.over if each.kind is kind]
            if mine:
                undisturbed = [each.took for each in mine if not each.is_disturbed]
                found.append(Slowest(kind, len(mine), max(undisturbed, default=None), max(each.took for each in mine)))
        return found
