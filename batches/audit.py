"""The audit: what must hold between the rows, asked of all of them at one moment.

A few statements whatever the number of rows, in one snapshot that takes no lock: a system at work gives no false alarm, because
whatever the engine changes together it commits together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from batches import audit_sql
from batches.work import build_adapter
from models_registry.models import Provider, ProviderStatus
from providers.base import AdapterConfigError

# Beyond two sweeps: a sweep may wait for the slice and the set of the worker that takes it, and gives back 500 at a time.
LEASE_SLACK = timedelta(seconds=30)
# Deliveries are purged by the clock of a worker, which may differ from the database's.
_PURGE_MARGIN = timedelta(hours=1)
# A clock that is set back by a time server makes an end earlier than a start; more than this is a fault.
_CLOCK_STEP = timedelta(seconds=1)


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    DECISION = "decision"  # somebody wants it so: not off


# Every check, its level, and what a finding of it means.
CHECKS: dict[str, tuple[Level, str]] = {
    "batch_runs": (Level.ERROR, "a batch has as many runs as items"),
    "batch_items": (Level.ERROR, "items and runs are one to one, numbered from 0 without gaps"),
    "batch_counters": (Level.ERROR, "counters equal the rows of runs"),
    "batch_status": (Level.ERROR, "a batch is terminal if and only if all its runs are, with the status they make"),
    "batch_cost": (Level.ERROR, "a batch costs what its succeeded runs cost"),
    "batch_times": (Level.ERROR, "a batch starts with its first run and ends with its last"),
    "run_times": (Level.ERROR, "a run ends after it started"),
    "run_lease": (Level.ERROR, "expired leases of runs are given back"),
    "delivery_lease": (Level.ERROR, "expired leases of deliveries are given back"),
    "driver_lease": (Level.ERROR, "a server with runs has a driver"),
    "callback_missing": (Level.ERROR, "what ended and wants a callback has one"),
    "callback_unwanted": (Level.ERROR, "a callback tells of something that ended and wants one"),
    "credit_balance": (Level.ERROR, "an organization's ledger sums to its balance"),
    "credit_hold": (Level.ERROR, "credit is held for what is open, and released when it has ended"),
    "credit_charge": (Level.ERROR, "what has ended was charged what it cost"),
    "run_unclaimable": (Level.ERROR, "somebody can do what is queued"),
    "run_overdue": (Level.WARNING, "what is due is claimed"),
    "delivery_overdue": (Level.WARNING, "what is due is sent"),
    "run_held_back": (Level.DECISION, "queued runs that wait because somebody decided so"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One row that is wrong: which, and what is wrong with it."""

    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: how many, and the first few. Of runs that wait, their providers are counted."""

    check: str
    count: int
    examples: tuple[Example, ...]

    @property
    def level(self) -> Level:
        return CHECKS[self.check][0]

    @property
    def rule(self) -> str:
        """What should hold."""
        return CHECKS[self.check][1]


@dataclass(frozen=True, slots=True)
class Report:
    """How much was looked at, and what was found, in the order of CHECKS."""

    batches: int
    runs: int
    deliveries: int
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing is off. What waits by decision is not."""
        return all(finding.level == Level.DECISION for finding in self.findings)


def verify(*, batch_id: UUID | None = None, since: datetime | None = None, examples: int = 10) -> Report:
    """Check everything, one batch, or what was created since a time. Each finding has at most so many examples.

    Opens a transaction of its own. Providers are asked with this process's settings and environment, as workers do.
    """
    scope = scope_of(batch_id=batch_id, since=since) | {"examples": examples}
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(audit_sql.SNAPSHOT)
        cursor.execute(audit_sql.COUNTS, scope)
        batches, runs, deliveries = cursor.fetchone()
        found: dict[str, Finding] = {}
        for statement in (audit_sql.BATCHES, audit_sql.ITEMS, audit_sql.LEASES, audit_sql.CALLBACKS, audit_sql.CREDIT):
            cursor.execute(statement, scope)
            for name, count, subject, detail in cursor.fetchall():
                _add(found, name, count, Example(subject, detail))
        cursor.execute(audit_sql.WAITING, scope)
        waiting = [Waiting(*row) for row in cursor.fetchall()]
        providers = Provider.objects.in_bulk([each.provider_id for each in waiting]) if waiting else {}
    for each in waiting:
        provider = providers[each.provider_id]
        for name, detail in _judge(each, provider):
            earlier = found[name].count if name in found else 0
            _add(found, name, earlier + 1, Example(f"provider {provider.code}", detail), examples)
    return Report(batches, runs, deliveries, tuple(found[name] for name in CHECKS if name in found))


def scope_of(*, batch_id: UUID | None, since: datetime | None) -> dict[str, Any]:
    """The parameters that the statements of the audit share."""
    return {
        "batch_id": batch_id,
        "since": since,
        "lease_slack": 2 * settings.SWEEP_INTERVAL + LEASE_SLACK,
        "overdue": settings.STALLED_AFTER,
        "callback_retention": settings.CALLBACK_RETENTION - _PURGE_MARGIN,
        "clock_step": _CLOCK_STEP,
    }


def _add(found: dict[str, Finding], name: str, count: int, example: Example, most: int | None = None) -> None:
    earlier = found[name].examples if name in found else ()
    found[name] = Finding(name, count, (*earlier, example)[:most])


# --- What waits -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """A provider with queued runs. `oldest` is for how many seconds one of them could have been claimed, 0 if none could."""

    provider_id: UUID
    runs: int
    capped: int  # whose organisation may have none in flight
    endpoints: int
    active_endpoints: int
    oldest: float
    is_at_work: bool


def _judge(waiting: Waiting, provider: Provider) -> Iterator[tuple[str, str]]:
    """Whether anybody will look at them: check, and what is to be said."""
    if provider.status_code == ProviderStatus.PAUSED:
        yield "run_held_back", f"{waiting.runs} runs wait: it is paused"
        return
    try:
        has_servers = hasattr(build_adapter(provider), "connect")
    except (AdapterConfigError, ImportError) as fault:
        yield "run_unclaimable", f"{waiting.runs} runs wait, and it cannot be used: {fault}"
        return
    if has_servers and not waiting.endpoints:
        yield "run_unclaimable", f"{waiting.runs} runs wait, and it has no endpoint"
    elif has_servers and not waiting.active_endpoints:
        yield "run_held_back", f"{waiting.runs} runs wait: all its endpoints are paused"
    else:
        if waiting.capped:
            yield "run_held_back", f"{waiting.capped} runs wait: their organization may have none in flight"
        if waiting.oldest > settings.STALLED_AFTER.total_seconds() and not waiting.is_at_work:
            overdue = timedelta(seconds=round(waiting.oldest))
            yield (
                "run_overdue",
                f"{waiting.runs - waiting.capped} runs wait, one due for {overdue}, and nothing is claimed",
            )
