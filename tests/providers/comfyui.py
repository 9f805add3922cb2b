"""What the tests of the comfyui adapter share: recorded samples, jobs, and going on until something has happened."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from providers.base import (
    Accepted,
    Done,
    EndpointConfig,
    Finished,
    Job,
    Media,
    Outcome,
    Placed,
    ProviderConfig,
    Seen,
    Waiting,
)
from providers.comfyui.adapter import ComfyAdapter
from providers.comfyui.connection import ComfyConnection
from tests.providers.fake_comfyui import FakeComfyUI
from tests.threads import wait_until

SAMPLES = Path(__file__).parent / "comfyui_samples"
VERSIONS = {"A": "0.3.64", "B": "0.33.0"}
# Beyond the time in which a job that a server does not know is still waited for.
OLD = 60.0

Graph = dict[str, Any]


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def empty_image(size: int = 8, colour: int = 0) -> dict[str, Any]:
    return {"class_type": "EmptyImage", "inputs": {"width": size, "height": size, "batch_size": 1, "color": colour}}


def save_image(source: str, prefix: str = "ComfyUI") -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": prefix}}


def small_graph(colour: int = 0) -> Graph:
    """A picture of 8 x 8, saved by node 2."""
    return {"1": empty_image(colour=colour), "2": save_image("1", "shop/pic")}


def upload_graph() -> Graph:
    """What lies at /1/inputs/image, inverted and saved."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": None}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": save_image("2"),
    }


def two_steps() -> dict[str, Any]:
    """Node 1, then node 2, then node 3, which is the last."""
    return {"1": empty_image(), "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "3": save_image("2")}


def no_fetch(url: str) -> Media:
    raise AssertionError(f"fetched {url}")


def make_job(
    graph: Any,
    *,
    run_id: str = "run-1",
    attempt: int = 1,
    media: tuple[str, ...] = (),
    fetch: Callable[[str], Media] = no_fetch,
) -> Job:
    return Job(run_id, attempt, graph, fetch, media, str(uuid.uuid4()))


def small_jobs(count: int) -> list[Job]:
    return [make_job(small_graph(), run_id=f"run-{number}") for number in range(count)]


def place(job: Job, *, age: float = 0.0) -> Placed:
    return Placed(job.job_id, job.run_id, job.attempt, age)


def connect(url: str, *, run_timeout: float = 60.0, **config: Any) -> ComfyConnection:
    return ComfyAdapter(ProviderConfig("comfy", run_timeout, config)).connect(EndpointConfig("endpoint-1", url))


def submit(connection: ComfyConnection, *jobs: Job) -> None:
    """Hand jobs over one after the other, so that they queue in this order."""
    for job in jobs:
        assert connection.submit([job]) == [Accepted(job.job_id, len(job.body))]


def wait_for_end(connection: ComfyConnection, job: Job) -> Seen:
    """What became of it, once the server is done with it."""
    ends: list[Seen] = []

    def has_ended() -> bool:
        seen = connection.poll([place(job)])[job.job_id]
        if isinstance(seen, Waiting):
            return False
        ends.append(seen)
        return True

    wait_until(has_ended, what="the end of the job")
    return ends[0]


def wait_until_running(fake: FakeComfyUI, job: Job) -> None:
    wait_until(lambda: fake.running_id == job.job_id, what="the job to run")


def collect(connection: ComfyConnection, job: Job, seen: Seen) -> Outcome:
    assert isinstance(seen, Done), seen
    (outcome,) = connection.collect([(place(job), seen)])
    return outcome


def run(connection: ComfyConnection, job: Job) -> Outcome:
    """A job from submission to its outcome."""
    submit(connection, job)
    return collect(connection, job, wait_for_end(connection, job))


def finished(outcome: Outcome) -> Finished:
    assert isinstance(outcome, Finished), outcome
    return outcome


def wait_until_idle(fake: FakeComfyUI) -> None:
    wait_until(lambda: fake.life.remaining == 0, what="the queue to be empty")
