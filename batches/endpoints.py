"""Servers of providers: who drives one, whether it is up, and how much of its provider's work it should take."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import connection

from batches import sql
from runflow.lib.doorbell import ring

logger = logging.getLogger(__name__)

DRIVE_TASK = "batches.drive"
# Seconds. A server that is less loaded takes what is due within this; if it does not, any may.
PATIENCE = 0.5
# How far the queue is looked at: enough to share it between servers.
_MOST_COUNTED = 1000
# Seconds between looks at a server that is down: soon at first, since a restart takes a few seconds.
_FIRST_RETRY, _LONGEST_RETRY = 2.0, 60.0


def take_endpoint(*, endpoint_id: UUID) -> UUID | None:
    """Become the driver of a server, for DRIVER_LEASE. Returns the token; None when it has one, or is down for now."""
    token = uuid4()
    return token if _execute(sql.TAKE_ENDPOINT, endpoint_id, token, lease=_lease()) else None


def keep_endpoint(*, endpoint_id: UUID, token: UUID) -> bool:
    """Prolong that. False: somebody else drives it now."""
    return _execute(sql.KEEP_ENDPOINT, endpoint_id, token, lease=_lease()) == 1


def release_endpoint(*, endpoint_id: UUID, token: UUID) -> None:
    """Let the next one drive it."""
    _execute(sql.RELEASE_ENDPOINT, endpoint_id, token)


def mark_up(*, endpoint_id: UUID, token: UUID) -> None:
    """It answers and works."""
    if _execute(sql.MARK_UP, endpoint_id, token):
        logger.warning("Endpoint %s is up again", endpoint_id)


def mark_down(*, endpoint_id: UUID, token: UUID, reason: str, down_for: float) -> float:
    """It does not answer or does not work, and was already down for `down_for` seconds when it was last looked at.

    It is left alone for a while, longer each time. Returns the seconds since it was first found down.
    """
    delay = min(max(_FIRST_RETRY, down_for / 2), _LONGEST_RETRY)
    with connection.cursor() as cursor:
        cursor.execute(
            sql.MARK_DOWN, {"endpoint_id": endpoint_id, "token": token, "reason": reason[:1000], "delay": delay}
        )
        row = cursor.fetchone()
    logger.warning("Endpoint %s is down: %s", endpoint_id, reason)
    return float(row[0]) if row else 0.0


def share_of(*, free: int, loads: Sequence[tuple[int, int]], queued: int, oldest_wait: float) -> int:
    """How many runs a server should take now: a pure function.

    `loads` are (places, taken) of the provider's healthy servers, this one's first. What is queued is poured in like water, so
    that all come to be equally full; a server above that level waits until the others have had time to take it.
    """
    if free <= 0 or queued <= 0:
        return 0
    low, high = 0.0, 1.0
    for _ in range(20):  # to a millionth of the places
        level = (low + high) / 2
        poured = sum(max(0.0, level * places - taken) for places, taken in loads)
        low, high = (level, high) if poured < queued else (low, level)
    places, taken = loads[0]
    share = math.ceil(round(high * places - taken, 3))
    if share <= 0:
        return 1 if oldest_wait >= PATIENCE else 0
    return min(free, share, queued)


def places_to_fill(*, provider_id: UUID, endpoint_id: UUID, taken: int, free: int) -> int:
    """`share_of` with what the rows say, in two statements; what is free where the provider has one server.

    `taken` is what its driver knows: rows of jobs that have ended count until they are settled.
    """
    with connection.cursor() as cursor:
        cursor.execute(sql.LOADS, {"provider_id": provider_id, "endpoint_id": endpoint_id})
        loads = [(places, taken) for _, places, taken in cursor.fetchall()]
        if len(loads) < 2:
            return free
        loads[0] = (loads[0][0], taken)
        cursor.execute(sql.QUEUED, {"provider_id": provider_id, "limit": _MOST_COUNTED})
        queued, oldest_wait = cursor.fetchone()
        if not queued:
            return free  # the claim says so, and when to look again
    return share_of(free=free, loads=loads, queued=queued, oldest_wait=oldest_wait)


def count_due(*, provider_id: UUID) -> int:
    """How many runs of a provider wait to be claimed, counted up to a thousand."""
    with connection.cursor() as cursor:
        cursor.execute(sql.QUEUED, {"provider_id": provider_id, "limit": _MOST_COUNTED})
        return int(cursor.fetchone()[0])


def ring_endpoints(*, provider_id: UUID | None = None) -> int:
    """Ring for each server, of one provider or of all, that wants a driver and has none. Returns for how many."""
    with connection.cursor() as cursor:
        cursor.execute(sql.UNDRIVEN, {"provider_id": provider_id})
        endpoint_ids = [row[0] for row in cursor.fetchall()]
    for endpoint_id in endpoint_ids:
        ring(DRIVE_TASK, str(endpoint_id))
    return len(endpoint_ids)


def _lease() -> float:
    return settings.DRIVER_LEASE.total_seconds()


def _execute(statement: str, endpoint_id: UUID, token: UUID, **more: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"endpoint_id": endpoint_id, "token": token, **more})
        return int(cursor.rowcount)
