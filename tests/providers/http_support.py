"""What the tests of the `http` adapter share: jobs, adapters, answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from providers.base import (
    Artifact,
    AsyncAdapter,
    Connection,
    EndpointConfig,
    Finished,
    Job,
    Media,
    Outcome,
    Placed,
    ProviderConfig,
    SyncAdapter,
)
from providers.http.adapter import build

OUR_ID = "0190a1b2-0000-7000-8000-000000000001"
# The parts of an asynchronous provider's config that most tests need.
ASYNC: dict[str, Any] = {
    "mode": "async",
    "status": "GET /jobs/{job_id}",
    "poll_interval": 0,
    "outcome": {"job_id": "body.id", "state": "body.state", "states": {"succeeded": ["done"]}},
}


def no_fetch(url: str) -> Media:
    raise AssertionError(f"fetched {url}")


def make_job(
    body: Any,
    *,
    run_id: str = "run-1",
    attempt: int = 1,
    job_id: str = OUR_ID,
    media: tuple[str, ...] = (),
    fetch: Callable[[str], Media] = no_fetch,
) -> Job:
    return Job(run_id=run_id, attempt=attempt, body=body, fetch=fetch, media=media, job_id=job_id)


def sync_adapter(base_url: str, *, run_timeout: float = 20, **config: Any) -> SyncAdapter:
    adapter = build(ProviderConfig("models", run_timeout, {"base_url": base_url, **config}))
    assert not hasattr(adapter, "connect")
    return adapter


def perform(base_url: str, body: Any = None, *, job: Job | None = None, **config: Any) -> Outcome:
    """One job of one request, `POST /do` unless `body` says otherwise."""
    job = job or make_job({"path": "/do"} if body is None else body)
    (outcome,) = sync_adapter(base_url, **config).perform([job])
    return outcome


def artifacts_of(outcome: Outcome) -> tuple[Artifact, ...]:
    assert isinstance(outcome, Finished), outcome
    return outcome.artifacts


def connect(base_url: str, *, config: dict[str, Any] | None = None, **changes: Any) -> Connection:
    adapter = build(ProviderConfig("models", 600, {**(config or ASYNC), **changes}))
    assert not hasattr(adapter, "perform")
    asynchronous: AsyncAdapter = adapter
    return asynchronous.connect(EndpointConfig("endpoint-1", base_url))


def placed(job_id: str = "j1", *, age: float = 60.0) -> Placed:
    return Placed(job_id=job_id, run_id="run-1", attempt=1, age=age)
