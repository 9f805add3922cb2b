"""When the engine last did something, in rows: what tells a system that stands still from one that has nothing to do."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.db import connection

# What beats: a sweep that came to its end, and each provider whose runs were claimed.
SWEEP = "sweep"

# Many workers may claim at once: one of them a second is enough.
_BEAT = """
INSERT INTO batches_heartbeat AS heartbeat (name, beat_at) VALUES (%(name)s, statement_timestamp())
ON CONFLICT (name) DO UPDATE SET beat_at = EXCLUDED.beat_at
 WHERE heartbeat.beat_at < EXCLUDED.beat_at - interval '1 second'
"""

_IS_LATE = """
SELECT NOT EXISTS (
    SELECT 1 FROM batches_heartbeat
     WHERE name = %(name)s AND beat_at > statement_timestamp() - interval '1 second' * %(after)s)
"""


def claim_of(provider_id: UUID) -> str:
    """The name under which claims of a provider's runs beat; statements spell it too."""
    return f"claim {provider_id}"


def beat(name: str) -> None:
    """Note that this happened now. At most one beat of a name a second is written."""
    with connection.cursor() as cursor:
        cursor.execute(_BEAT, {"name": name})


def is_late(name: str, *, after: timedelta) -> bool:
    """Whether this has not happened for so long, or never."""
    with connection.cursor() as cursor:
        cursor.execute(_IS_LATE, {"name": name, "after": after.total_seconds()})
        return bool(cursor.fetchone()[0])
