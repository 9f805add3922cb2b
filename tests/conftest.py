"""Fixtures that several apps' tests use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from tests.factories import make_key
from tests.openapi.conformance import fault_of


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-examples", type=int, default=3, help="made-up requests for each operation in each phase")
    parser.addoption("--fuzz-rounds", type=int, default=1, help="how often all of it is asked, each time otherwise")
    parser.addoption("--fuzz-seed", type=int, default=None, help="repeat a run of tests/openapi/test_fuzz.py")


class Api:
    """A customer: an organisation, its key, and HTTP."""

    def __init__(self, organization: Organization | None = None, **key: Any) -> None:
        self.caller, self.key = make_key(organization, **key)
        self.organization = self.caller.organization
        self.client = Client(raise_request_exception=False)

    def headers(self, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", **more}

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=self.headers(**headers))

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """`body` as JSON, or bytes as they are. Header names in keywords: Idempotency_Key."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content, content_type="application/json", headers=self.headers(**named))


@pytest.fixture
def api(db: None) -> Api:
    return Api()


class Rung:
    """The doorbells that would have been sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...]]] = []


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> Rung:
    """Record doorbells instead of publishing them: the broker is not this project's."""
    recorded = Rung()
    monkeypatch.setattr(
        "celery.app.base.Celery.send_task",
        lambda self, name, args=(), **options: recorded.calls.append((name, tuple(args))),
    )
    return recorded


@pytest.fixture(autouse=True)
def _no_broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests without `rung` do not leave messages behind in whatever broker is configured."""
    if "rung" not in request.fixturenames and "e2e" not in str(request.path):
        monkeypatch.setattr("celery.app.base.Celery.send_task", lambda self, name, args=(), **options: None)


@pytest.fixture(autouse=True)
def _answers_are_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer that a test gets from a described route is one that the OpenAPI document promises, to the last member."""
    ask = Client.request

    def request(self: Client, **environ: Any) -> Any:
        response = ask(self, **environ)
        fault = fault_of(response.wsgi_request, response)
        assert fault is None, fault
        return response

    monkeypatch.setattr(Client, "request", request)


@pytest.fixture
def count_queries() -> Callable[..., Any]:
    """`with count_queries() as log:` the SQL statements of the block."""

    @contextmanager
    def capture() -> Iterator[CaptureQueriesContext]:
        with CaptureQueriesContext(connection) as log:
            yield log

    return capture
