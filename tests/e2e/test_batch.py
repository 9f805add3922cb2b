"""Batches through real processes: gunicorn, Celery workers, beat. And what happens when those die."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from django.conf import settings

from batches.models import BATCH_TERMINAL, Batch, Run
from models_registry.models import Model
from tests.contract.checks import assert_matches
from tests.e2e.processes import Stack, running_stack
from tests.factories import make_key, make_model, make_provider
from tests.threads import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    """The broker's own database. Tests empty it with FLUSHDB: FLUSHALL would take the neighbours' keys on a shared server."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


@pytest.fixture
def stack(tmp_path: Path, broker: redis.Redis) -> Iterator[Stack]:
    with running_stack(tmp_path) as stack:
        yield stack


def post_batch(stack: Stack, key: str, model: Model, items: list[dict[str, Any]]) -> dict[str, Any]:
    response = httpx.post(
        f"{stack.url}/v1/models/{model}/batches",
        json={"input": items},
        headers={"Authorization": f"Bearer {key}", "Idempotency-Key": "once"},
        trust_env=False,
    )
    assert response.status_code == 201, response.text
    return dict(response.json())


def wait_for_the_end(batch_id: str, *, deadline: float = 60.0) -> Batch:
    wait_until(
        lambda: Batch.objects.get(pk=batch_id).status_code in BATCH_TERMINAL,
        what="the batch to end",
        deadline=deadline,
    )
    return Batch.objects.get(pk=batch_id)


def assert_complete_once(batch: Batch, total: int) -> None:
    """Every run succeeded once, and the counters and the cost equal the rows."""
    runs = list(Run.objects.filter(batch=batch))
    assert Counter(run.status_code for run in runs) == {"succeeded": total}
    assert (batch.status_code, batch.items_succeeded, batch.items_failed) == ("succeeded", total, 0)
    assert batch.cost == sum(run.cost for run in runs if run.cost is not None)
    assert {run.lease_expires_at for run in runs} == {None}


def holding_model() -> Model:
    """A model whose runs wait until a file exists."""
    return make_model(
        function="hold",
        provider=make_provider(claim_size=3),
        inputs=[{"name": "path", "variable_type_code": "string", "is_required": True}],
    )


def test_a_batch_goes_through_http_broker_worker_and_back(stack: Stack) -> None:
    stack.web()
    stack.worker()
    _, key = make_key()
    created = post_batch(stack, key, make_model(), [{"text": str(n), "client_ref": f"r{n}"} for n in range(12)])
    batch = wait_for_the_end(created["id"])
    assert_complete_once(batch, 12)
    assert set(Run.objects.values_list("attempt", flat=True)) == {1}
    headers = {"Authorization": f"Bearer {key}"}
    detail = httpx.get(f"{stack.url}/v1/batches/{batch.pk}", headers=headers, trust_env=False).json()
    assert_matches("BatchDetail", detail)
    first = detail["output"]["items"][0]
    assert (first["client_ref"], first["status_code"]) == ("r0", "succeeded")
    file = httpx.get(first["output"]["outputs"][0]["url"], trust_env=False)
    assert (file.status_code, file.text) == (200, "0")


def test_a_worker_killed_in_the_middle_loses_nothing_and_the_batch_ends_once(stack: Stack, tmp_path: Path) -> None:
    stack.web()
    worker = stack.worker()
    stack.beat()
    _, key = make_key()
    release = tmp_path / "release"
    created = post_batch(stack, key, holding_model(), [{"path": str(release)}] * 10)
    wait_until(lambda: Run.objects.filter(status_code="running").count() == 6, what="two sets to be at work")
    worker.kill()
    held = set(Run.objects.filter(status_code="running").values_list("pk", flat=True))
    assert len(held) == 6
    release.touch()
    stack.worker()
    batch = wait_for_the_end(created["id"])
    assert_complete_once(batch, 10)
    assert {run.pk for run in Run.objects.filter(attempt=2)} == held
    assert set(Run.objects.exclude(pk__in=held).values_list("attempt", flat=True)) == {1}


def test_a_broker_that_forgets_everything_in_the_middle_costs_seconds(
    stack: Stack, broker: redis.Redis, tmp_path: Path
) -> None:
    stack.web()
    _, key = make_key()
    release = tmp_path / "release"
    # No worker yet: all doorbells of the creation lie in the broker.
    created = post_batch(stack, key, holding_model(), [{"path": str(release)}] * 10)
    assert broker.llen("dispatch") == 4
    broker.flushdb()
    stack.worker()
    stack.beat()
    wait_until(lambda: Run.objects.filter(status_code="running").count() == 6, what="the sweep to ring again")
    broker.flushdb()
    release.touch()
    batch = wait_for_the_end(created["id"])
    assert_complete_once(batch, 10)
    assert set(Run.objects.values_list("attempt", flat=True)) == {1}


def test_a_web_process_killed_after_its_commit_loses_nothing(stack: Stack, broker: redis.Redis) -> None:
    web = stack.web()
    _, key = make_key()
    model = make_model()
    created = post_batch(stack, key, model, [{"text": "a"}])
    web.kill()
    broker.flushdb()
    stack.web()
    again = post_batch(stack, key, model, [{"text": "a"}])
    assert json.dumps(again) == json.dumps(created)
    stack.worker()
    stack.beat()
    assert_complete_once(wait_for_the_end(created["id"]), 1)
    assert Batch.objects.count() == 1
