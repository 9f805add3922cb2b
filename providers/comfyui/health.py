"""Servers that answer but run nothing: seen only over time."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import NamedTuple


class _Sight(NamedTuple):
    sign: Hashable
    since: float
    looked_at: float
    is_stall: bool


class StallWatch:
    """Since when each server has shown the same sign of work. Safe for threads; times are monotonic, in seconds.

    The memory is the process's, because connections live for seconds. A process that drives a server only now and then sees a
    stall as well, if the sign is still the one it saw before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sights: dict[str, _Sight] = {}

    def needs_look(self, base_url: str, *, every: float, now: float) -> bool:
        """Whether it is time to look at the server's sign again. A server that stalls is looked at each time."""
        with self._lock:
            sight = self._sights.get(base_url)
        return sight is None or sight.is_stall or now - sight.looked_at >= every

    def observe(self, base_url: str, sign: Hashable, *, limit: float, now: float) -> float | None:
        """Seconds for which the server has shown this sign, if they are more than `limit`."""
        with self._lock:
            known = self._sights.get(base_url)
            since = known.since if known is not None and known.sign == sign else now
            is_stall = now - since > limit
            self._sights[base_url] = _Sight(sign, since, now, is_stall)
        return now - since if is_stall else None

    def forget(self, base_url: str) -> None:
        """The server has nothing to do, which is no stall."""
        with self._lock:
            self._sights.pop(base_url, None)


# One for the process.
STALLS = StallWatch()
