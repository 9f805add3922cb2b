"""`GET /v1/batches/{batch_id}/events` over real HTTP: what is told, going on after a cut, places, and what it costs."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from batches import lifecycle, watching
from batches.api import events
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from tests.conftest import Api
from tests.contract.checks import assert_error
from tests.event_source import Event, EventSource, parse
from tests.factories import end_batch, make_batch
from tests.threads import wait_until

pytestmark = pytest.mark.django_db
# Closing a stream that was not read, or reading it here, closes the connection of this thread.
transactional = pytest.mark.django_db(transaction=True)
CountQueries = Callable[[], Any]
OUTPUT = '{"outputs": [], "seed": null, "timing": null, "nsfw_detected": null}'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looks follow each other quickly, and when a test ends nobody looks any more: the database must be left alone."""
    monkeypatch.setattr(watching, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(events, "HEARTBEAT", 0.1)
    yield
    gc.collect()
    wait_until(lambda: not watchers() and not events.places.taken, what="the streams of this test to be over")


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watcher"]


@pytest.fixture
def batch(api: Api) -> Batch:
    items = [{"text": "a", "client_ref": "one"}, {"text": "b"}, {"text": "c"}]
    return make_batch(organization=api.organization, items=items)[0]


def listen(server: LiveServer, api: Api, batch: Batch, last: str = "") -> EventSource:
    headers = api.headers(**({"Last-Event-ID": last} if last else {}))
    return EventSource(f"{server.url}/v1/batches/{batch.pk}/events", headers)


def claim(batch: Batch, count: int) -> list[Any]:
    return lifecycle.claim_runs(provider_id=Run.objects.filter(batch=batch)[0].provider_id, limit=count)


def settle(run: Any, status: RunStatus = RunStatus.SUCCEEDED) -> None:
    output = OUTPUT if status == RunStatus.SUCCEEDED else None
    code = "EXECUTION_FAILED" if status == RunStatus.FAILED else None
    lifecycle.settle(settlements=[Settlement(run.id, run.attempt, status, output, code)])


def counters(batch: Batch, status: str, *counts: int, cost: str | None = None) -> dict[str, Any]:
    names = ("items_succeeded", "items_failed", "items_cancelled")
    numbers = dict(zip(names, counts or (0, 0, 0), strict=True))
    return {"id": str(batch.pk), "status_code": status, "items_total": 3, **numbers, "cost": cost}


def handles(batch: Batch, *statuses: str) -> list[dict[str, Any]]:
    return [
        {
            "id": str(item.pk),
            "sequence_index": item.sequence_index,
            "run_id": str(item.run_id),
            "status_code": status,
            "client_ref": item.client_ref,
        }
        for item, status in zip(batch.items.order_by("sequence_index"), statuses, strict=True)
    ]


# --- What is told -----------------------------------------------------------------------------------------------------


def test_a_stream_tells_every_change_from_the_first_state_to_the_end(
    live_server: LiveServer, api: Api, batch: Batch
) -> None:
    with listen(live_server, api, batch) as source:
        assert source.status == 200
        assert source.wait_for(1) == [
            Event(
                "snapshot",
                "queued.0.0.0.qqq",
                counters(batch, "queued") | {"items": handles(batch, "queued", "queued", "queued")},
            )
        ]
        (first,) = claim(batch, 1)
        source.wait_for(3)
        second, third = claim(batch, 2)
        source.wait_for(5)
        settle(second, RunStatus.FAILED)
        source.wait_for(7)
        settle(first)
        source.wait_for(9)
        settle(third, RunStatus.CANCELED)
        told = source.wait_for_the_end()
    at_work, failed = handles(batch, *["dispatching"] * 3), handles(batch, *["failed"] * 3)
    succeeded, canceled = handles(batch, *["succeeded"] * 3), handles(batch, *["canceled"] * 3)
    end = counters(batch, "partial_succeeded", 1, 1, 1, cost="0.01")
    assert told[1:] == [
        Event("item", "queued.0.0.0.dqq", at_work[0]),
        Event("counters", "running.0.0.0.dqq", counters(batch, "running")),
        Event("item", "running.0.0.0.ddq", at_work[1]),
        Event("item", "running.0.0.0.ddd", at_work[2]),
        Event("item", "running.0.0.0.dfd", failed[1]),
        Event("counters", "running.0.1.0.dfd", counters(batch, "running", 0, 1, 0)),
        Event("item", "running.0.1.0.sfd", succeeded[0]),
        Event("counters", "running.1.1.0.sfd", counters(batch, "running", 1, 1, 0, cost="0.01")),
        Event("item", "running.1.1.0.sfc", canceled[2]),
        Event("counters", "partial_succeeded.1.1.1.sfc", end),
        Event("end", "end", end),
    ]
    assert (source.is_cut, source.body.startswith(b"retry: 1000\n\n")) == (False, True)


def test_its_headers_keep_everybody_from_holding_it_back(live_server: LiveServer, api: Api, batch: Batch) -> None:
    with EventSource(
        f"{live_server.url}/v1/batches/{batch.pk}/events", api.headers(**{"Accept-Encoding": "gzip"})
    ) as source:
        source.wait_for(1)
        headers = source.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("private, no-store", "no")
        assert (headers["Content-Encoding"], headers["Content-Length"]) == (None, None)
        assert headers["X-Request-Id"]


def test_a_run_that_is_given_back_is_told_too(live_server: LiveServer, api: Api, batch: Batch) -> None:
    (run,) = claim(batch, 1)
    with listen(live_server, api, batch) as source:
        source.wait_for(1)
        settle(run, RunStatus.QUEUED)
        assert source.wait_for(2)[1] == Event("item", "running.0.0.0.qqq", handles(batch, "queued", "", "")[0])


def test_a_batch_that_has_ended_is_told_at_once_without_a_place(api: Api, batch: Batch) -> None:
    end_batch(batch)
    response = api.get(f"/v1/batches/{batch.pk}/events")
    assert (response.status_code, response.streaming, events.places.taken) == (200, False, 0)
    end = counters(batch, "succeeded", 3, 0, 0, cost="0.03")
    assert parse(response.content) == [
        Event("snapshot", "succeeded.3.0.0.sss", end | {"items": handles(batch, *["succeeded"] * 3)}),
        Event("end", "end", end),
    ]


def test_who_has_seen_the_end_is_told_not_to_come_again(api: Api, batch: Batch) -> None:
    end_batch(batch)
    response = api.get(f"/v1/batches/{batch.pk}/events", **{"Last-Event-ID": "end"})
    assert (response.status_code, response.content) == (204, b"")


def test_a_batch_that_is_open_again_is_told_from_the_start(live_server: LiveServer, api: Api, batch: Batch) -> None:
    """A repair does that to what had ended too early."""
    with listen(live_server, api, batch, last="end") as source:
        assert source.wait_for(1)[0].name == "snapshot"


def test_a_batch_that_is_deleted_ends_its_stream(live_server: LiveServer, api: Api, batch: Batch) -> None:
    with listen(live_server, api, batch) as source:
        source.wait_for(1)
        batch.delete()
        assert [event.name for event in source.wait_for_the_end()] == ["snapshot"]


# --- Going on after a cut ---------------------------------------------------------------------------------------------


def test_after_a_cut_only_what_has_changed_is_told(live_server: LiveServer, api: Api, batch: Batch) -> None:
    with listen(live_server, api, batch) as source:
        last = source.wait_for(1)[-1].id
    first, _ = claim(batch, 2)
    settle(first)
    with listen(live_server, api, batch, last) as source:
        told = source.wait_for(3)
        assert told == [
            Event("item", "queued.0.0.0.sqq", handles(batch, "succeeded", "", "")[0]),
            Event("item", "queued.0.0.0.sdq", handles(batch, "", "dispatching", "")[1]),
            Event("counters", "running.1.0.0.sdq", counters(batch, "running", 1, 0, 0, cost="0.01")),
        ]
    with listen(live_server, api, batch, told[-1].id) as source:
        wait_until(lambda: b": nothing new\n\n" in source.body, what="a comment")
        assert source.events == []


@transactional
def test_wherever_it_is_cut_nothing_comes_twice_and_nothing_is_left_out(api: Api, batch: Batch) -> None:
    """Cut after each event that leads to the end: the rest is what an uninterrupted client gets."""
    first, second, third = claim(batch, 3)
    settle(first)
    settle(second, RunStatus.FAILED)
    path = f"/v1/batches/{batch.pk}/events"
    start = api.get(path)
    (snapshot,) = parse(next(iter(start.streaming_content)))
    start.close()
    settle(third)
    whole = parse(api.get(path, **{"Last-Event-ID": "queued.0.0.0.qqq"}).content)
    assert [event.name for event in whole] == ["item", "item", "item", "counters", "end"]
    for index, event in enumerate(whole[:-1]):
        assert parse(api.get(path, **{"Last-Event-ID": event.id}).content) == whole[index + 1 :]
    rest = parse(api.get(path, **{"Last-Event-ID": snapshot.id}).content)
    assert [(event.name, event.id) for event in rest] == [
        ("item", "running.1.1.0.sfs"),
        ("counters", "partial_succeeded.2.1.0.sfs"),
        ("end", "end"),
    ]


@pytest.mark.parametrize(
    "given",
    [
        "1",
        "queued.0.0.0.qq",
        "queued.0.0.0.qqqq",
        "queued.0.0.0.qqx",
        "queued.0.0.qqq",
        "stopped.0.0.0.qqq",
        "queued.0.0.-1.qqq",
        "queued.0.0.٣.qqq",
        "queued.0.0.0.qqq ,",
        "END",
        "x" * 5000,
    ],
)
def test_an_id_that_is_none_of_this_batch_is_400(api: Api, batch: Batch, given: str) -> None:
    assert_error(api.get(f"/v1/batches/{batch.pk}/events", **{"Last-Event-ID": given}), 400, "BAD_REQUEST")
    assert events.places.taken == 0


# --- Places -----------------------------------------------------------------------------------------------------------


def refused(api: Api, batch: Batch) -> bool:
    """Whether there is no place. Asserts what the refusal says."""
    response = api.get(f"/v1/batches/{batch.pk}/events")
    if response.status_code == 200:
        response.close()
        return False
    assert_error(response, 429, "RATE_LIMITED")
    assert response.headers["Retry-After"] == "25"
    return True


def test_an_organization_has_so_many_streams_and_another_has_its_own(
    live_server: LiveServer, api: Api, batch: Batch, settings: Settings
) -> None:
    settings.EVENT_STREAMS, settings.EVENT_STREAMS_PER_ORGANIZATION = 3, 2
    other = Api()
    theirs, _ = make_batch(organization=other.organization)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(listen(live_server, api, batch)).wait_for(1)
        assert refused(api, batch)
        stack.enter_context(listen(live_server, other, theirs)).wait_for(1)
        assert refused(other, theirs), "the process has no more"
        assert events.places.taken == 3
        assert api.get(f"/v1/batches/{batch.pk}").status_code == 200


def test_a_client_that_leaves_gives_its_place_back(
    live_server: LiveServer, api: Api, batch: Batch, settings: Settings
) -> None:
    settings.EVENT_STREAMS_PER_ORGANIZATION = 1
    with listen(live_server, api, batch) as source:
        source.wait_for(1)
        assert refused(api, batch)
    wait_until(lambda: not refused(api, batch), what="the place")
    wait_until(lambda: not watchers(), what="the thread that looks to end")


def test_a_stream_ends_when_its_time_is_over_and_the_next_goes_on(
    live_server: LiveServer, api: Api, batch: Batch, settings: Settings
) -> None:
    settings.EVENT_STREAM_DURATION = timedelta(seconds=0.3)
    with listen(live_server, api, batch) as source:
        assert [event.name for event in source.wait_for_the_end()] == ["snapshot"]
        assert not source.is_cut
    wait_until(lambda: events.places.taken == 0, what="the place")
    claim(batch, 1)
    with listen(live_server, api, batch, source.events[-1].id) as source:
        assert [event.name for event in source.wait_for_the_end()] == ["item", "counters"]


def test_a_stream_that_nobody_reads_gives_its_place_back() -> None:
    given_back: list[int] = []
    stream = events.Stream((b"" for _ in range(3)), lambda: given_back.append(1))
    del stream
    gc.collect()
    assert given_back == [1]
    stream = events.Stream((b"" for _ in range(3)), lambda: given_back.append(2))
    stream.close()
    assert given_back == [1, 2]
    stream.close()
    del stream
    gc.collect()
    assert given_back == [1, 2]


def test_head_takes_no_place(api: Api, batch: Batch) -> None:
    response = api.client.head(f"/v1/batches/{batch.pk}/events", headers=api.headers())
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"] == "text/event-stream"
    assert events.places.taken == 0


def test_who_may_not_see_the_batch_takes_no_place(api: Api, batch: Batch) -> None:
    path = f"/v1/batches/{batch.pk}/events"
    assert_error(Api().get(path), 404, "BATCH_NOT_FOUND")
    assert_error(api.get("/v1/batches/x/events"), 404, "BATCH_NOT_FOUND")
    assert Client().get(path).status_code == 401
    assert events.places.taken == 0


# --- What it costs ----------------------------------------------------------------------------------------------------


def connections() -> int:
    """To this database, our own left out."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


def test_streams_that_wait_hold_no_connection_and_are_looked_after_together(
    live_server: LiveServer, api: Api, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = make_batch(organization=api.organization)
    looks: list[set[UUID]] = []

    def read(*, batch_ids: list[UUID], real: Any = watching.read_states) -> dict[UUID, watching.State]:
        looks.append(set(batch_ids))
        return dict(real(batch_ids=batch_ids))

    monkeypatch.setattr(watching, "read_states", read)
    with ExitStack() as stack:
        for each in (batch, batch, other):
            stack.enter_context(listen(live_server, api, each)).wait_for(1)
        wait_until(lambda: {batch.pk, other.pk} in looks, what="a look for all of them")
        wait_until(lambda: connections() == 1, what="the connection of the thread that looks to be the only one")
        assert len(watchers()) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_a_look_is_one_statement_for_all_batches(api: Api, count_queries: CountQueries, count: int) -> None:
    batches = [make_batch(organization=api.organization, items=[{}] * 3)[0] for _ in range(count)]
    with count_queries() as log:
        states = watching.read_states(batch_ids=[batch.pk for batch in batches])
    assert len(log.captured_queries) == 1
    assert states == {
        batch.pk: watching.State("queued", 0, 0, 0, None, ("queued", "queued", "queued")) for batch in batches
    }


@transactional
def test_opening_a_stream_costs_two_statements(api: Api, batch: Batch, count_queries: CountQueries) -> None:
    api.get("/v1/batches/x")  # writes when the key was last used
    with count_queries() as log:
        response = api.get(f"/v1/batches/{batch.pk}/events")
    response.close()
    assert len(log.captured_queries) == 2
