"""Streams of events from real gunicorn processes: one that dies, one that stops, one that is full, and clients that leave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from batches import lifecycle
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from tests.conftest import Api
from tests.e2e.processes import Stack, running_stack
from tests.event_source import Event, EventSource
from tests.factories import make_batch
from tests.threads import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
OUTPUT = '{"outputs": [], "seed": null, "timing": null, "nsfw_detected": null}'


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
def batch(api: Api) -> Batch:
    return make_batch(organization=api.organization, items=[{}] * 10)[0]


def listen(url: str, api: Api, batch: Batch, last: str = "") -> EventSource:
    headers = api.headers(**({"Last-Event-ID": last} if last else {}))
    return EventSource(f"{url}/v1/batches/{batch.pk}/events", headers)


def work(count: int) -> None:
    """Claim and end so many runs."""
    runs = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=count)
    lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, OUTPUT) for run in runs])


def status_of(url: str, api: Api, path: str) -> int:
    """Of an answer whose body, which may be a stream, is left unread."""
    with httpx.stream("GET", f"{url}{path}", headers=api.headers(), trust_env=False) as response:
        return response.status_code


def test_another_process_goes_on_where_one_was_killed(stack: Stack, api: Api, batch: Batch) -> None:
    first, dying = stack.web(), stack.url
    stack.web()
    told: list[Event] = []
    with listen(dying, api, batch) as source:
        source.wait_for(1)
        work(3)
        source.wait_for(5)
        first.kill()
        told += source.wait_for_the_end()
        assert source.is_cut
    work(4)
    with listen(stack.url, api, batch, told[-1].id) as source:
        source.wait_for(5)
        work(3)
        told += source.wait_for_the_end()
        assert not source.is_cut
    assert told[0].name == "snapshot"
    # A run was claimed and ended between two looks, or seen in between: each is told to have succeeded once.
    succeeded = [
        event.data["run_id"] for event in told if event.data["status_code"] == "succeeded" and event.name == "item"
    ]
    assert sorted(succeeded) == sorted(str(run.pk) for run in Run.objects.all())
    statuses: dict[str, str] = {item["run_id"]: item["status_code"] for item in told[0].data["items"]}
    for event in told[1:]:
        if event.name == "item":
            assert statuses[event.data["run_id"]] != event.data["status_code"], "told twice"
            statuses[event.data["run_id"]] = event.data["status_code"]
    counts = [event.data["items_succeeded"] for event in told if event.name == "counters"]
    assert counts == sorted(set(counts))
    assert told[-1].name == "end"
    assert told[-1].data["items_succeeded"] == 10


def test_a_client_that_leaves_gives_its_place_back_at_the_next_writes(stack: Stack, api: Api, batch: Batch) -> None:
    stack.web(EVENT_STREAMS_PER_ORGANIZATION="1")
    path = f"/v1/batches/{batch.pk}/events"
    with listen(stack.url, api, batch) as source:
        source.wait_for(1)
        assert status_of(stack.url, api, path) == 429

    def is_free() -> bool:
        if Run.objects.filter(status_code=RunStatus.QUEUED).count() > 1:
            work(1)  # something to write
        return status_of(stack.url, api, path) == 200

    wait_until(is_free, what="the place", deadline=20)
    assert Batch.objects.get().status_code == "running"


def test_a_full_process_answers_everything_else_and_stops_at_once(stack: Stack, api: Api, batch: Batch) -> None:
    process = stack.web(EVENT_STREAMS_PER_ORGANIZATION="8")
    with ExitStack() as open_streams:
        sources: list[Any] = [open_streams.enter_context(listen(stack.url, api, batch)) for _ in range(8)]
        for source in sources:
            source.wait_for(1)
        assert status_of(stack.url, api, f"/v1/batches/{batch.pk}/events") == 429
        assert [status_of(stack.url, api, f"/v1/batches/{batch.pk}") for _ in range(20)] == [200] * 20
        process.popen.terminate()
        asked = time.monotonic()
        for source in sources:
            assert [event.name for event in source.wait_for_the_end()] == ["snapshot"]
            assert not source.is_cut, "ended in the middle"
        process.popen.wait(20)
        # They would have lasted for 25 s.
        assert time.monotonic() - asked < 15
