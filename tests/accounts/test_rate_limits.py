"""Rate limits of organisations over HTTP: who is limited, what the answer says, and that Redis is no condition of service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization
from accounts.services import rate_limit_of
from batches.models import Batch
from idempotency.models import IdempotencyRecord
from models_registry.models import Model
from runflow.lib.token_bucket import Limit, buckets_at
from tests.conftest import Api
from tests.contract.checks import assert_error
from tests.factories import make_batch, make_model, make_organization
from tests.relay import Relay
from tests.threads import InThread, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

HEADERS = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}


@pytest.fixture(autouse=True)
def _pools() -> Iterator[None]:
    """Pools of the Redis that only a test knows go with it."""
    yield
    buckets_at.cache_clear()


@pytest.fixture
def model() -> Model:
    return make_model()


def limited(per_minute: int | None = 1, burst: int | None = 3, **more: Any) -> Api:
    return Api(make_organization(rate_limit=per_minute, rate_limit_burst=burst), **more)


def readable(api: Api) -> str:
    """The path of something that it may read."""
    return f"/v1/batches/{make_batch(organization=api.organization)[0].pk}"


def rate_headers(response: Any) -> dict[str, str]:
    return {name: response.headers[name] for name in HEADERS if name in response.headers}


@pytest.mark.parametrize(
    ("of_settings", "own", "expected"),
    [
        ((0, 0), (None, None), None),
        ((60, 0), (None, None), Limit(60, 60)),
        ((60, 5), (None, None), Limit(60, 5)),
        ((60, 5), (0, None), None),
        ((60, 5), (600, None), Limit(600, 5)),
        ((60, 5), (None, 9), Limit(60, 9)),
        ((0, 0), (600, None), Limit(600, 600)),
        ((0, 0), (600, 9), Limit(600, 9)),
        ((0, 5), (None, 9), None),
    ],
)
def test_an_organization_s_own_numbers_come_before_the_settings(
    settings: Any, of_settings: tuple[int, int], own: tuple[int | None, int | None], expected: Limit | None
) -> None:
    settings.RATE_LIMIT_PER_MINUTE, settings.RATE_LIMIT_BURST = of_settings
    assert rate_limit_of(Organization(rate_limit=own[0], rate_limit_burst=own[1])) == expected


def test_without_a_limit_answers_say_nothing_of_one(api: Api) -> None:
    assert rate_headers(api.get(readable(api))) == {}


def test_every_answer_to_a_key_says_what_is_left(model: Model) -> None:
    api = limited(per_minute=1, burst=4)
    now = time.time()
    answers = [
        api.get(readable(api)),
        api.get("/v1/batches/x"),
        api.post(f"/v1/models/{model}/batches", {"input": [{"wrong": 1}]}),
        api.get("/v1/no/such/route"),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 422, 404]
    said = [rate_headers(answer) for answer in answers]
    assert [(each["X-RateLimit-Limit"], each["X-RateLimit-Remaining"]) for each in said] == [
        *(("1", "3"), ("1", "2"), ("1", "1"), ("1", "0"))
    ]
    resets = [int(each["X-RateLimit-Reset"]) - now for each in said]
    assert [seconds // 60 for seconds in resets] == [1, 2, 3, 4]


def test_too_many_are_429_and_are_told_when_to_come_again() -> None:
    api = limited(per_minute=6, burst=2)
    path, before = readable(api), time.time()
    assert [api.get(path).status_code for _ in range(2)] == [200, 200]
    answer = api.get(path)
    assert assert_error(answer, 429, "RATE_LIMITED") is None
    assert set(rate_headers(answer)) == HEADERS
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert 10 - (time.time() - before) <= int(answer.headers["Retry-After"]) <= 10


def test_a_refused_request_does_nothing_and_its_key_is_free(model: Model) -> None:
    api = limited(burst=1)
    body = {"input": [{"text": "a"}]}
    api.get("/v1/batches/x")
    answer = api.post(f"/v1/models/{model}/batches", body, Idempotency_Key="k")
    assert_error(answer, 429, "RATE_LIMITED")
    assert (Batch.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)
    Organization.objects.update(rate_limit=0)
    assert api.post(f"/v1/models/{model}/batches", body, Idempotency_Key="k").status_code == 201


def test_a_replayed_answer_costs_a_token_and_says_what_is_left_now(model: Model) -> None:
    api = limited(burst=2)
    path, body = f"/v1/models/{model}/batches", {"input": [{"text": "a"}]}
    answers = [api.post(path, body, Idempotency_Key="k") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[0].content == answers[1].content
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert HEADERS.isdisjoint(IdempotencyRecord.objects.get().response_headers)


def test_all_keys_of_an_organization_share_and_others_have_their_own() -> None:
    api = limited(burst=2)
    colleague, stranger = Api(api.organization), limited(burst=2)
    path = readable(api)
    assert [each.get(path).status_code for each in (api, colleague, api, colleague, stranger)] == [
        *(200, 200, 429, 429, 404)
    ]


def test_routes_that_need_no_key_and_requests_without_a_good_one_are_not_limited() -> None:
    api = limited(burst=1)
    api.get("/v1/batches/x")
    assert api.get("/v1/batches/x").status_code == 429
    for path in ("/v1/health", "/v1/readiness"):
        answer = api.get(path)
        assert (answer.status_code, rate_headers(answer)) == (200, {})
    for headers in ({}, {"Authorization": "Bearer rf_live_no"}, api.headers(**{"X-Organization-Id": "x"})):
        answer = Client().get("/v1/batches/x", headers=headers)
        assert answer.status_code in (400, 401)
        assert rate_headers(answer) == {}


def test_many_at_once_are_let_through_exactly_as_many_as_there_are_tokens() -> None:
    threads, each, burst = 6, 5, 17
    api = limited(per_minute=1, burst=burst)
    path, together = readable(api), threading.Barrier(threads)

    def work() -> list[int]:
        client = Client()
        together.wait()
        return [client.get(path, headers=api.headers()).status_code for _ in range(each)]

    others = [InThread(work).start() for _ in range(threads)]
    answers = [status for other in others for status in other.result]
    assert (answers.count(200), answers.count(429)) == (burst, threads * each - burst)


@pytest.mark.parametrize("is_silent", [True, False], ids=["says nothing", "refuses"])
def test_without_redis_everybody_is_let_through_and_it_is_asked_once(settings: Any, is_silent: bool) -> None:
    api = limited(burst=1)
    path = readable(api)
    with Relay() as relay:
        if not is_silent:
            relay.refuse()
        settings.REDIS_URL = relay.url
        with InThread(lambda: [api.get(path) for _ in range(30)]) as other:
            pass
        assert [(answer.status_code, rate_headers(answer)) for answer in other.result] == [(200, {})] * 30
        if is_silent:
            wait_until(lambda: relay.accepted > 0, what="a connection")
            assert relay.accepted == 1
