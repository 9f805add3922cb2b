"""Batches through real workers to model servers of their own process. And what happens when those die, or their driver does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.conf import settings

from assets.models import Asset
from batches.models import Batch, Run
from models_registry.models import Endpoint
from tests.e2e.processes import Stack, running_stack
from tests.e2e.servers import fake_server, make_comfy_model
from tests.factories import make_batch
from tests.threads import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ENV = {"DRIVER_LEASE_SECONDS": "2", "ENDPOINT_DOWN_GRACE_SECONDS": "1"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    broker = redis.Redis.from_url(settings.REDIS_URL)
    broker.flushdb()
    with running_stack(tmp_path) as stack:
        stack.worker("dispatch,maintenance", **ENV)
        stack.beat()
        yield stack
    broker.flushdb()
    broker.close()


def wait_for_success(batch: Batch, *, items: int) -> None:
    wait_until(
        lambda: Batch.objects.get(pk=batch.pk).status_code == "succeeded", what="the batch to succeed", deadline=60.0
    )
    batch.refresh_from_db()
    assert (batch.items_succeeded, batch.items_total) == (items, items)
    assert Asset.objects.count() == items, "one output of each run"


def test_a_driver_that_is_killed_loses_nothing_and_nothing_is_done_twice(stack: Stack) -> None:
    with fake_server(0.01) as (url, server), fake_server(0.01) as (other_url, other):
        for process in (server, other):
            process.send_signal(signal.SIGUSR1)  # they take jobs and begin with none
        first = stack.worker("drive", "threads:4", **ENV)
        batch, _ = make_batch(
            model=make_comfy_model([url, other_url], places=10), items=[{"color": n} for n in range(20)]
        )
        wait_until(
            lambda: Run.objects.filter(status_code="running").count() == 20,
            what="all to be at the servers",
            deadline=60,
        )
        assert sorted(Endpoint.objects.values_list("base_url", flat=True)) == sorted([url, other_url])
        assert {Run.objects.filter(endpoint=endpoint).count() for endpoint in Endpoint.objects.all()} == {10}
        first.kill()
        for process in (server, other):
            process.send_signal(signal.SIGUSR2)
        stack.worker("drive", "threads:4", **ENV)
        wait_for_success(batch, items=20)
    assert set(Run.objects.values_list("attempt", flat=True)) == {1}


def test_the_jobs_of_a_server_that_dies_are_done_by_the_other(stack: Stack) -> None:
    with fake_server(0.01) as (url, server), fake_server(0.01) as (other_url, _):
        server.send_signal(signal.SIGUSR1)
        stack.worker("drive", "threads:4", **ENV)
        batch, _ = make_batch(
            model=make_comfy_model([url, other_url], places=4), items=[{"color": n} for n in range(12)]
        )
        dying = Endpoint.objects.get(base_url=url)
        held = Run.objects.filter(endpoint=dying, status_code="running")
        wait_until(lambda: held.count() == 4, what="the server to have jobs", deadline=60)
        lost = set(held.values_list("pk", flat=True))
        server.kill()
        wait_for_success(batch, items=12)
    assert set(Run.objects.filter(attempt__gt=1).values_list("pk", flat=True)) == lost
    dying.refresh_from_db()
    assert dying.down_since is not None
