"""The log of a run, read off its row: no engine writes one (docs/adr/0011)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from django.db import models

from batches.models import Run, RunStatus
from runflow.lib.pagination import Order


class Level(models.TextChoices):
    INFO = "info"
    WARNING = "warning"  # an attempt failed, the run goes on
    ERROR = "error"  # the run failed


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line. `id` is the same at each reading; `position` grows with time and tells the entries of a run apart."""

    id: UUID
    position: str
    run_id: UUID
    level_code: Level
    message: str
    timestamp: datetime
    meta: dict[str, Any]


_POSITION = re.compile(r"(?:[0-9T:+.-]{32} [0-9]{10} [0-9])?")


def _position(text: str) -> str:
    if _POSITION.fullmatch(text) is None:
        raise ValueError(text)
    return text


OLDEST_FIRST = Order("position", "l", _position, start="")

# In which order things happen that happened in the same microsecond, within one attempt.
_CREATED, _DISPATCHED, _STARTED, _GIVEN_BACK, _CANCEL_ASKED, _ENDED = range(6)
_AFTER_ALL_ATTEMPTS = 2**32


def log_of(run: Run) -> list[LogEntry]:
    """What happened to a run so far, oldest first: a few entries for each attempt. What was shown once stays."""
    return sorted(_entries(run), key=lambda entry: entry.position)


def _entries(run: Run) -> Iterator[LogEntry]:
    yield _entry(run, 0, _CREATED, run.created_at, "The run was accepted.", source_code=run.source_code)
    past = run.past_attempts or []
    for attempt in past:
        number, code = attempt["attempt"], attempt["failure_code"]
        yield from _attempt(run, number, _moment(attempt["dispatched_at"]), _moment(attempt["started_at"]))
        yield _entry(
            run,
            number,
            _GIVEN_BACK,
            datetime.fromisoformat(attempt["ended_at"]),
            f"Attempt {number} failed: {_failure(code, attempt['failure_message'])} It is tried again.",
            Level.WARNING,
            attempt=number,
            failure_code=code,
            failure_stage_code=attempt["failure_stage_code"],
            next_attempt_at=datetime.fromisoformat(attempt["due_at"]),
        )
    if run.attempt and not (past and past[-1]["attempt"] == run.attempt):
        yield from _attempt(run, run.attempt, run.dispatched_at, run.started_at)
    if run.cancel_requested_at is not None:
        yield _entry(
            run,
            _AFTER_ALL_ATTEMPTS,
            _CANCEL_ASKED,
            run.cancel_requested_at,
            "Somebody asked to cancel it.",
            reason=run.cancel_reason,
        )
    if run.completed_at is not None:
        yield _end(run, run.completed_at)


def _attempt(run: Run, number: int, dispatched_at: datetime | None, started_at: datetime | None) -> Iterator[LogEntry]:
    if dispatched_at is not None:
        message = f"Attempt {number} of {run.max_attempts} began."
        yield _entry(run, number, _DISPATCHED, dispatched_at, message, attempt=number)
    if started_at is not None:
        yield _entry(run, number, _STARTED, started_at, "The provider works on it.", attempt=number)


def _end(run: Run, at: datetime) -> LogEntry:
    match run.status_code:
        case RunStatus.SUCCEEDED:
            return _entry(run, _AFTER_ALL_ATTEMPTS, _ENDED, at, "It succeeded.", duration_ms=run.duration_ms)
        case RunStatus.FAILED:
            return _entry(
                run,
                _AFTER_ALL_ATTEMPTS,
                _ENDED,
                at,
                f"It failed: {_failure(run.failure_code, run.failure_message)}",
                Level.ERROR,
                failure_code=run.failure_code,
                failure_stage_code=run.failure_stage_code,
            )
    return _entry(run, _AFTER_ALL_ATTEMPTS, _ENDED, at, "It was canceled.")


def _failure(code: str | None, message: str | None) -> str:
    """Both were made fit for customers by whoever wrote them."""
    return ": ".join(filter(None, [code, message])) or "No reason was given."


def _entry(
    run: Run, number: int, kind: int, at: datetime, message: str, level_code: Level = Level.INFO, **meta: Any
) -> LogEntry:
    timestamp = at.astimezone(UTC)
    return LogEntry(
        id=uuid5(run.pk, f"{number} {kind}"),
        position=f"{timestamp.isoformat(timespec='microseconds')} {number:010} {kind}",
        run_id=run.pk,
        level_code=level_code,
        message=message,
        timestamp=timestamp,
        meta=meta,
    )


def _moment(text: str | None) -> datetime | None:
    """A timestamptz as jsonb_build_object writes it."""
    return None if text is None else datetime.fromisoformat(text)
