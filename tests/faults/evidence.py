"""Everything that is known when a drill is over: rows, moves, records of what ran, what clients and receivers saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from tests.faults.clients import Accepted
from tests.faults.receiver import Receipt

# Every change of a status, written down by the database itself: what the rows alone no longer tell.
LOG_MOVES = """
CREATE TABLE drill_move (
    id bigint GENERATED ALWAYS AS IDENTITY, subject text, subject_id uuid, provider_id uuid, attempt int,
    was text, became text, at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON drill_move (at);
CREATE FUNCTION drill_note_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO drill_move (subject, subject_id, provider_id, attempt, was, became)
    VALUES ('run', NEW.id, NEW.provider_id, OLD.attempt, OLD.status_code, NEW.status_code);
    RETURN NULL;
END $$;
CREATE FUNCTION drill_note_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO drill_move (subject, subject_id, was, became)
    VALUES ('batch', NEW.id, OLD.status_code, NEW.status_code);
    RETURN NULL;
END $$;
CREATE TRIGGER drill AFTER UPDATE ON batches_run FOR EACH ROW
    WHEN (OLD.status_code IS DISTINCT FROM NEW.status_code OR OLD.attempt <> NEW.attempt)
    EXECUTE FUNCTION drill_note_run();
CREATE TRIGGER drill AFTER UPDATE ON batches_batch FOR EACH ROW
    WHEN (OLD.status_code IS DISTINCT FROM NEW.status_code) EXECUTE FUNCTION drill_note_batch();
"""

_BATCHES = """
SELECT id::text, organization_id::text AS organization, status_code, items_total AS total, items_succeeded AS succeeded,
       items_failed AS failed, items_cancelled AS cancelled, callback_url IS NOT NULL AS wants_callback,
       cancel_requested_at IS NOT NULL AS is_cancel_asked
  FROM batches_batch ORDER BY id
"""
_RUNS = """
SELECT run.id::text, run.batch_id::text, run.organization_id::text AS organization, run.status_code, run.attempt,
       item.sequence_index AS position, COALESCE(run.input->>'text', run.input->>'color') AS input,
       run.input ? 'text' AS is_local, run.output, run.failure_code, run.failure_message,
       run.callback_url IS NOT NULL AS wants_callback, run.cancel_requested_at IS NOT NULL AS is_cancel_asked
  FROM batches_run AS run LEFT JOIN batches_batchitem AS item ON item.run_id = run.id
 ORDER BY run.id
"""
_MOVES = "SELECT subject, subject_id::text, attempt, was, became, at FROM drill_move ORDER BY id"
_DELIVERIES = """
SELECT id::text, subject_type, subject_id::text, status_code, attempt_count, is_automatic, payload
  FROM callbacks_callbackdelivery ORDER BY id
"""
_RECORDS = """
SELECT organization_id::text AS organization, key, response_status AS status, response_body AS body
  FROM idempotency_idempotencyrecord ORDER BY id
"""
_FILES = "SELECT id::text, storage_key FROM assets_asset"


@dataclass(frozen=True, slots=True)
class BatchRow:
    id: str
    organization: str
    status_code: str
    total: int
    succeeded: int
    failed: int
    cancelled: int
    wants_callback: bool
    is_cancel_asked: bool


@dataclass(frozen=True, slots=True)
class RunRow:
    """`position` in its batch; None for a single run."""

    id: str
    batch_id: str | None
    organization: str
    status_code: str
    attempt: int
    position: int | None
    input: str
    is_local: bool
    output: Any
    failure_code: str | None
    failure_message: str | None
    wants_callback: bool
    is_cancel_asked: bool


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a status. `attempt` is the one before it."""

    subject: str
    subject_id: str
    attempt: int | None
    was: str
    became: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    id: str
    subject_type: str
    subject_id: str
    status_code: str
    attempt_count: int
    is_automatic: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class RecordRow:
    """An answer that is kept under an Idempotency-Key."""

    organization: str
    key: str
    status: int | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Execution:
    """Something that ran: `event` is begun, done or refused. `server` and `prompt_id` of a model server's, else `pid`."""

    event: str
    run_id: str
    attempt: int
    at: float
    server: str = ""
    prompt_id: str = ""
    pid: int = 0
    is_slow: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A time, in seconds since the epoch, in which a target was at fault."""

    target: str
    mood: str
    begin: float
    end: float


@dataclass(slots=True)
class Evidence:
    accepted: list[Accepted] = field(default_factory=list)
    given_up: list[tuple[str, str]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    batches: list[BatchRow] = field(default_factory=list)
    runs: list[RunRow] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    deliveries: list[DeliveryRow] = field(default_factory=list)
    records: list[RecordRow] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    jobs: list[Execution] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    # What is in the file of an asset, by its id; None where there is none.
    files: dict[str, bytes | None] = field(default_factory=dict)
    # What `verify_batches` says.
    findings: list[str] = field(default_factory=list)
    # Recoveries that took too long, as said in `recovery`.
    slow: list[str] = field(default_factory=list)
    # Processes that ended although nothing had been done to them.
    ended: list[str] = field(default_factory=list)


def read_rows(evidence: Evidence, *, database_url: str, media: Path) -> None:
    """Fill in what the database and the file store say."""
    with psycopg.connect(database_url) as connection:
        evidence.batches = connection.cursor(row_factory=class_row(BatchRow)).execute(_BATCHES).fetchall()
        evidence.runs = connection.cursor(row_factory=class_row(RunRow)).execute(_RUNS).fetchall()
        evidence.moves = connection.cursor(row_factory=class_row(Move)).execute(_MOVES).fetchall()
        evidence.deliveries = connection.cursor(row_factory=class_row(DeliveryRow)).execute(_DELIVERIES).fetchall()
        evidence.records = connection.cursor(row_factory=class_row(RecordRow)).execute(_RECORDS).fetchall()
        for row in connection.cursor(row_factory=dict_row).execute(_FILES):
            path = media / row["storage_key"]
            evidence.files[row["id"]] = path.read_bytes() if path.is_file() else None


def read_executions(path: Path, *, newest: int = 0) -> Iterator[Execution]:
    """What a record says, or only the newest so many lines; nothing where there is none."""
    if path.exists():
        for line in path.read_text().splitlines()[-newest:]:
            yield Execution(**json.loads(line))
