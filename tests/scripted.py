"""An asynchronous adapter whose servers are objects of the test: they do as they are told, and remember what was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from models_registry.models import Endpoint, Provider
from providers.base import (
    Accepted,
    Artifact,
    Canceled,
    Done,
    EndpointConfig,
    EndpointDown,
    Finished,
    Gone,
    Job,
    Outcome,
    Placed,
    ProviderConfig,
    Seen,
    Submitted,
    Waiting,
)
from tests.factories import make_provider

ADAPTERS = {"scripted": "tests.scripted.ScriptedAdapter"}


class Server:
    """`states` is what it answers about each job it has; one that it has not is Gone."""

    def __init__(self, *, is_instant: bool = False) -> None:
        self.is_instant = is_instant  # jobs are done when they arrive
        self.is_down = False
        self.states: dict[str, Seen] = {}
        self.submitted: list[Job] = []
        self.canceled: list[str] = []
        self.collected: list[str] = []
        self.most_at_once = 0
        self.on_submit: Callable[[Job], Submitted] | None = None
        self.on_poll: Callable[[], None] | None = None
        self.on_collect: Callable[[], None] | None = None
        self.connections: list[ScriptedConnection] = []
        self.lock = threading.Lock()

    def finish(self, *job_ids: str) -> None:
        with self.lock:
            for job_id in job_ids or list(self.states):
                self.states[job_id] = Done(None)

    def ids(self) -> list[str]:
        return [job.job_id for job in self.submitted]


SERVERS: dict[str, Server] = {}


def make_servers(number: int = 1, *, max_in_flight: int = 2, **provider: Any) -> tuple[Provider, list[Server]]:
    """A provider with so many servers, each with a row."""
    row = make_provider(adapter_code="scripted", config={}, **provider)
    servers = []
    for index in range(number):
        url = f"http://{row.code}-{index}.test"
        Endpoint.objects.create(provider=row, base_url=url, max_in_flight=max_in_flight)
        SERVERS[url] = Server()
        servers.append(SERVERS[url])
    return row, servers


class ScriptedAdapter:
    def __init__(self, config: ProviderConfig) -> None:
        self.config = config

    def connect(self, endpoint: EndpointConfig) -> ScriptedConnection:
        return ScriptedConnection(SERVERS[endpoint.base_url])


class ScriptedConnection:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_open = True
        server.connections.append(self)

    def submit(self, jobs: Sequence[Job]) -> list[Submitted]:
        return [self._submit(job) for job in jobs]

    def _submit(self, job: Job) -> Submitted:
        server = self.server
        with server.lock:
            server.submitted.append(job)
        if server.on_submit is not None:
            return server.on_submit(job)
        return self.take(job)

    def take(self, job: Job) -> Accepted:
        server = self.server
        with server.lock:
            server.states[job.job_id] = Done(None) if server.is_instant else Waiting()
            at_work = sum(isinstance(state, Waiting) for state in server.states.values())
            server.most_at_once = max(server.most_at_once, at_work)
        return Accepted(job.job_id, nodes_total=3)

    def poll(self, jobs: Sequence[Placed]) -> dict[str, Seen]:
        self._answer()
        if self.server.on_poll is not None:
            self.server.on_poll()
        with self.server.lock:
            return {job.job_id: self.server.states.get(job.job_id, Gone()) for job in jobs}

    def collect(self, jobs: Sequence[tuple[Placed, Done]]) -> list[Outcome]:
        if self.server.on_collect is not None and jobs:
            self.server.on_collect()
        with self.server.lock:
            for job, _ in jobs:
                self.server.collected.append(job.job_id)
                self.server.states.pop(job.job_id, None)
        return [Finished((Artifact(job.run_id.encode(), "text/plain", "text", "txt"),)) for job, _ in jobs]

    def cancel(self, jobs: Sequence[Placed]) -> None:
        self._answer()
        with self.server.lock:
            for job in jobs:
                self.server.canceled.append(job.job_id)
                if isinstance(self.server.states.get(job.job_id), Waiting):
                    self.server.states[job.job_id] = Canceled()

    def check(self) -> None:
        self._answer()

    def close(self) -> None:
        self.is_open = False

    def _answer(self) -> None:
        if self.server.is_down:
            raise EndpointDown("connection refused")
