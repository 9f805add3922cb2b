"""Token buckets on the real Redis: exact under concurrency, by Redis's clock; and what a Redis that is away costs."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
import redis
from django.conf import settings

from runflow.lib.token_bucket import LOG_INTERVAL, PAUSE, Limit, TokenBuckets, buckets_at
from tests.relay import Relay
from tests.threads import InThread, wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def buckets() -> TokenBuckets:
    return TokenBuckets(settings.REDIS_URL)


@pytest.fixture
def name() -> str:
    return f"tests:{uuid.uuid4()}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as relay:
        yield relay


@pytest.fixture
def plain() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL)


def key_of(name: str) -> str:
    return f"runflow:bucket:{name}"


def take_all(buckets: TokenBuckets, name: str, limit: Limit, times: int) -> list[bool | None]:
    taken = [buckets.take(name, limit) for _ in range(times)]
    return [None if each is None else each.is_allowed for each in taken]


def test_a_new_bucket_is_full_and_an_empty_one_gives_nothing(buckets: TokenBuckets, name: str) -> None:
    taken = [buckets.take(name, Limit(per_minute=1, burst=3)) for _ in range(5)]
    assert [each and (each.is_allowed, each.remaining) for each in taken] == [
        *((True, 2), (True, 1), (True, 0)),
        *((False, 0), (False, 0)),
    ]


def test_it_tells_when_there_is_a_token_again_and_when_it_is_full(buckets: TokenBuckets, name: str) -> None:
    before = time.time()
    first, second = (buckets.take(name, Limit(per_minute=6, burst=2)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.next_in == 0
    assert 10 - (time.time() - before) <= second.next_in <= 10
    assert before + 10 <= first.full_at <= time.time() + 11
    assert before + 20 <= second.full_at + 1 <= time.time() + 22


def test_tokens_come_back_with_time(buckets: TokenBuckets, name: str, plain: redis.Redis) -> None:
    limit = Limit(per_minute=1, burst=3)
    assert take_all(buckets, name, limit, 4) == [True, True, True, False]
    at = int(plain.hget(key_of(name), "at") or 0)
    plain.hset(key_of(name), "at", str(at - 126_000_000))  # as if that had been 126 s ago: two tokens
    assert take_all(buckets, name, limit, 3) == [True, True, False]


def test_parts_of_a_token_are_kept(buckets: TokenBuckets, name: str, plain: redis.Redis) -> None:
    limit = Limit(per_minute=1, burst=1)
    answers = take_all(buckets, name, limit, 1)
    for seconds in (36, 0, 30):
        at = int(plain.hget(key_of(name), "at") or 0)
        plain.hset(key_of(name), "at", str(at - seconds * 1_000_000))
        answers += take_all(buckets, name, limit, 1)
    assert answers == [True, False, False, True]


def test_a_bucket_never_holds_more_than_its_burst(buckets: TokenBuckets, name: str, plain: redis.Redis) -> None:
    limit = Limit(per_minute=1, burst=2)
    assert take_all(buckets, name, limit, 1) == [True]
    plain.hset(key_of(name), "at", "0")
    assert take_all(buckets, name, limit, 3) == [True, True, False]


def test_a_clock_that_is_set_back_neither_takes_tokens_away_nor_lets_anybody_wait_for_it(
    buckets: TokenBuckets, name: str, plain: redis.Redis
) -> None:
    limit = Limit(per_minute=1, burst=3)
    assert take_all(buckets, name, limit, 2) == [True, True]
    now = int(plain.hget(key_of(name), "at") or 0)
    plain.hset(key_of(name), "at", str(now + 3_600_000_000))  # an hour ahead
    assert take_all(buckets, name, limit, 2) == [True, False]
    assert now <= int(plain.hget(key_of(name), "at") or 0) < now + 60_000_000


def test_a_lower_limit_counts_at_once(buckets: TokenBuckets, name: str) -> None:
    assert take_all(buckets, name, Limit(per_minute=1, burst=100), 1) == [True]
    assert take_all(buckets, name, Limit(per_minute=1, burst=2), 3) == [True, True, False]


def test_a_bucket_goes_when_it_would_be_full_again(buckets: TokenBuckets, name: str, plain: redis.Redis) -> None:
    limit = Limit(per_minute=1, burst=100)
    buckets.take(name, limit)
    assert 30_000 < plain.pttl(key_of(name)) <= 61_001
    assert take_all(buckets, name, limit, 60) == [True] * 60
    assert 3_600_000 < plain.pttl(key_of(name)) <= 3_661_001


def test_many_at_once_get_exactly_what_there_is(buckets: TokenBuckets, name: str) -> None:
    threads, each, burst = 8, 25, 60
    together = threading.Barrier(threads)

    def work() -> list[bool | None]:
        together.wait()
        return take_all(buckets, name, Limit(per_minute=1, burst=burst), each)

    others = [InThread(work).start() for _ in range(threads)]
    answers = [answer for other in others for answer in other.result]
    assert (answers.count(True), answers.count(False)) == (burst, threads * each - burst)


def test_two_buckets_have_nothing_to_do_with_each_other(buckets: TokenBuckets, name: str) -> None:
    limit = Limit(per_minute=1, burst=1)
    assert take_all(buckets, name, limit, 2) == [True, False]
    assert take_all(buckets, f"{name}:other", limit, 2) == [True, False]


def test_a_redis_that_has_forgotten_the_script_is_told_again(
    buckets: TokenBuckets, name: str, plain: redis.Redis
) -> None:
    limit = Limit(per_minute=1, burst=2)
    buckets.take(name, limit)
    plain.script_flush()
    assert take_all(buckets, name, limit, 2) == [True, False]


def test_a_process_has_one_pool_for_a_redis() -> None:
    assert buckets_at(settings.REDIS_URL) is buckets_at(settings.REDIS_URL)


# --- Without Redis ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_silent", [True, False], ids=["says nothing", "refuses"])
def test_a_redis_that_is_away_is_asked_once_in_a_pause(
    relay: Relay, clock: Clock, name: str, is_silent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if not is_silent:
        relay.refuse()
    buckets = TokenBuckets(relay.url, clock=clock)
    asked: list[float] = []
    buckets._pool.connection_class = counting(asked)
    with InThread(lambda: take_all(buckets, name, Limit(1, 1), 50)) as other:
        pass
    assert other.result == [None] * 50
    assert len(asked) == 1
    clock.now += PAUSE - 0.01
    assert take_all(buckets, name, Limit(1, 1), 50) == [None] * 50
    assert len(asked) == 1
    clock.now += 0.02
    assert take_all(buckets, name, Limit(1, 1), 50) == [None] * 50
    assert len(asked) == 2
    if is_silent:
        wait_until(lambda: relay.accepted == 2, what="the second connection")
    assert len([record for record in caplog.records if record.name == "runflow.lib.token_bucket"]) == 1


def counting(asked: list[float]) -> type[redis.Connection]:
    """redis-py's connection, which says when it connects."""

    class Counting(redis.Connection):
        def _connect(self) -> object:
            asked.append(time.monotonic())
            return super()._connect()  # type: ignore[no-untyped-call]

    return Counting


def test_when_the_pause_is_over_one_of_many_looks(relay: Relay, clock: Clock, name: str) -> None:
    buckets = TokenBuckets(relay.url, clock=clock)
    assert buckets.take(name, Limit(1, 1)) is None
    wait_until(lambda: relay.accepted == 1, what="the first connection")
    clock.now += PAUSE
    together = threading.Barrier(8)

    def work() -> object:
        together.wait()
        return buckets.take(name, Limit(1, 1))

    others = [InThread(work).start() for _ in range(8)]
    assert [other.result for other in others] == [None] * 8
    wait_until(lambda: relay.accepted == 2, what="the second connection")
    assert buckets.take(name, Limit(1, 1)) is None
    assert relay.accepted == 2


def test_trouble_is_logged_once_in_a_while_and_so_is_its_end(
    relay: Relay, clock: Clock, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    buckets = TokenBuckets(relay.url, clock=clock)
    started = clock.now
    while clock.now <= started + LOG_INTERVAL:
        assert buckets.take(name, Limit(1, 1)) is None
        clock.now += PAUSE
    relay.is_silent = False
    taken = buckets.take(name, Limit(1, 1))
    assert taken is not None
    assert taken.is_allowed
    assert take_all(buckets, name, Limit(1, 1), 2) == [False, False]
    said = [(record.levelno, record.getMessage().split(":")[0]) for record in caplog.records]
    assert said == [
        (logging.WARNING, "Redis does not answer, so requests are not limited"),
        (logging.WARNING, "Redis does not answer, so requests are not limited"),
        (logging.WARNING, "Redis answers again, and requests are limited"),
    ]


@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "cut"])
def test_a_connection_that_worked_and_does_no_longer_is_given_up(
    relay: Relay, clock: Clock, name: str, is_silent: bool
) -> None:
    relay.is_silent = False
    buckets = TokenBuckets(relay.url, clock=clock)
    assert take_all(buckets, name, Limit(1, 1), 1) == [True]
    if is_silent:
        relay.is_silent = True
    else:
        relay.refuse()
    assert take_all(buckets, name, Limit(1, 1), 10) == [None] * 10
