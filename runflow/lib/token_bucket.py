"""Token buckets in Redis, shared by all processes: so many requests a minute, and a few more at once.

Fails open: whoever asks is let through when Redis does not answer, and pays at most a short time for having asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import redis

logger = logging.getLogger(__name__)

# Seconds, to connect and then for each answer. Redis takes less than one millisecond; a customer's request waits for this.
TIMEOUT = 0.1
# Seconds without asking after Redis did not answer. Then one request asks, and the others go on without until it knows.
PAUSE = 5.0
# Seconds between two lines in the log about the same trouble.
LOG_INTERVAL = 60.0

# One round trip, and atomic: Redis runs a script alone. By Redis's clock, so that servers need not agree on the time. Lua's
# numbers are doubles, and its own way of writing them keeps 14 digits, too few for microseconds since 1970.
_TAKE = """
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local per_microsecond, burst = ARGV[1] / 60000000, tonumber(ARGV[2])
local tokens = burst
if kept[1] then
  -- A clock that was set back fills nothing, and is the one that counts from here: nobody waits until it has caught up.
  tokens = math.min(burst, kept[1] + math.max(0, now - kept[2]) * per_microsecond)
end
local is_allowed = tokens >= 1
if is_allowed then tokens = tokens - 1 end
local until_full = (burst - tokens) / per_microsecond
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', now))
-- A bucket that is full again is as good as none.
redis.call('PEXPIRE', KEYS[1], math.ceil(until_full / 1000) + 1000)
local until_next = 0
if tokens < 1 then until_next = math.ceil((1 - tokens) / per_microsecond) end
return {is_allowed and 1 or 0, math.floor(tokens), until_next, math.ceil((now + until_full) / 1000000)}
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """How fast a bucket fills, and how much it holds. Both at least 1."""

    per_minute: int
    burst: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of asking for a token."""

    is_allowed: bool
    remaining: int  # tokens that are left now
    next_in: float  # seconds until there is a token again, 0 if there is one
    full_at: int  # Unix time in seconds when the bucket is full again, rounded up


class TokenBuckets:
    """The buckets at one Redis, as one process sees them. Threads share it; its connections are pooled."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            socket_connect_timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            protocol=2,
            driver_info=None,  # two round trips less for each connection
        )
        self._take = redis.Redis(connection_pool=self._pool).register_script(_TAKE)
        self._clock = clock
        self._lock = threading.Lock()
        self._asks_again_at: float | None = None  # None: Redis answers
        self._logged_at: float | None = None

    def take(self, name: str, limit: Limit) -> Taken | None:
        """Take a token out of a bucket. None: Redis does not answer, so nobody knows."""
        if not self._may_ask():
            return None
        try:
            is_allowed, remaining, microseconds, full_at = self._take(
                keys=[f"runflow:bucket:{name}"], args=[limit.per_minute, limit.burst]
            )
        except redis.RedisError as exc:
            self._note_failure(exc)
            return None
        self._note_answer()
        return Taken(bool(is_allowed), remaining, microseconds / 1_000_000, full_at)

    def _may_ask(self) -> bool:
        with self._lock:
            if self._asks_again_at is None:
                return True
            now = self._clock()
            if now < self._asks_again_at:
                return False
            self._asks_again_at = now + PAUSE  # this thread looks, and no other meanwhile
            return True

    def _note_failure(self, exc: redis.RedisError) -> None:
        with self._lock:
            now = self._clock()
            self._asks_again_at = now + PAUSE
            is_told = self._logged_at is not None and now < self._logged_at + LOG_INTERVAL
            if not is_told:
                self._logged_at = now
        if not is_told:
            logger.warning("Redis does not answer, so requests are not limited: %s", exc)

    def _note_answer(self) -> None:
        with self._lock:
            was_away = self._asks_again_at is not None
            self._asks_again_at = self._logged_at = None
        if was_away:
            logger.warning("Redis answers again, and requests are limited")


@lru_cache
def buckets_at(url: str) -> TokenBuckets:
    """The one TokenBuckets of this process for a Redis."""
    return TokenBuckets(url)
