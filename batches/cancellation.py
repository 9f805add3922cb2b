"""Cancelling: what waits ends at once; what is being worked on is asked to stop, and tells itself how it ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from batches import lifecycle, sql
from batches.endpoints import DRIVE_TASK
from runflow.lib import errors
from runflow.lib.doorbell import ring_after_commit
from runflow.lib.faults import NOT_STORABLE, body_fault, cap_errors, is_storable, unknown_members

# contract.md section 3.3 (characters)
_SHORTEST_REASON, _LONGEST_REASON = 3, 500


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a request to cancel did: runs that ended there and then, and runs that were asked to stop."""

    ended: frozenset[UUID]
    asked: frozenset[UUID]

    @property
    def has_effect(self) -> bool:
        return bool(self.ended or self.asked)


def check_cancellation(body: Mapping[str, Any]) -> str | None:
    """The reason in the body of a request to cancel. Raises ValidationFailed with all faults at once."""
    faults, reason = unknown_members(body, known=("reason",)), body.get("reason")
    if not isinstance(reason, str | None):
        faults.append(body_fault("wrong_type", "Must be a string or null.", "reason"))
    elif reason is not None:
        if len(reason) < _SHORTEST_REASON:
            faults.append(body_fault("too_short", f"Must have at least {_SHORTEST_REASON} characters.", "reason"))
        if len(reason) > _LONGEST_REASON:
            faults.append(body_fault("too_long", f"Must have at most {_LONGEST_REASON} characters.", "reason"))
        if not is_storable(reason):
            faults.append(body_fault("not_storable", NOT_STORABLE, "reason"))
    if faults:
        raise errors.ValidationFailed(errors=cap_errors(faults))
    return reason


def cancel(*, batch_ids: Collection[UUID] = (), run_ids: Collection[UUID] = (), reason: str | None = None) -> Cancelled:
    """Cancel these batches and these single runs, in one transaction, the same statements however many.

    queued               canceled, and with the last of them their batch, which calls back
    dispatching, running asked to stop: it ends `canceled`, or as it ended if that came first
    terminal             as it is
    """
    wanted = {"batch_ids": list(batch_ids), "run_ids": list(run_ids), "reason": reason}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_OPEN, wanted)
        ids = [row[0] for row in cursor.fetchall()]
        if not ids:
            return Cancelled(frozenset(), frozenset())
        if batch_ids:
            cursor.execute(sql.NOTE_CANCEL, wanted)
        cursor.execute(sql.ASK_TO_STOP, wanted | {"ids": ids})
        asked = dict(cursor.fetchall())
        cursor.execute(sql.CANCEL_QUEUED, wanted | {"ids": ids})
        ended = lifecycle.end_with_batches(cursor, cursor.fetchall())
        # A driver at work looks by itself, and one that is not would only be found by the next sweep.
        for endpoint_id in sorted({each for each in asked.values() if each is not None}):
            ring_after_commit(DRIVE_TASK, str(endpoint_id))
    return Cancelled(ended.run_ids, frozenset(asked))
