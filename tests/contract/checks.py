"""Is this answer one that contract.md promises? Shapes by schemas.json, errors by section 2, and what refusals leave behind."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
from pytest_django import DjangoCaptureOnCommitCallbacks
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from accounts.models import Organization
from batches.models import Batch, BatchItem, Run
from idempotency.models import IdempotencyRecord
from tests.conftest import Api, Rung
from tests.contract.formats import FORMATS

SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "schemas.json").read_text())
_REGISTRY: Registry[Any] = Registry().with_resource("contract", DRAFT202012.create_resource(SCHEMAS))


@lru_cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    if name not in SCHEMAS["$defs"]:
        raise LookupError(f"schemas.json has no {name}")
    return jsonschema.Draft202012Validator(
        {"$ref": f"contract#/$defs/{name}"}, registry=_REGISTRY, format_checker=FORMATS
    )


def assert_matches(schema_name: str, body: Any) -> None:
    """Assert that a body has the shape of this definition in schemas.json, formats included."""
    faults = [f"{fault.json_path}: {fault.message}" for fault in _validator(schema_name).iter_errors(body)]
    assert not faults, f"not a {schema_name}:\n" + "\n".join(faults)


def json_of(response: Any) -> Any:
    """The body of an answer that must be JSON, with what every answer carries."""
    assert response.headers["Content-Type"] == "application/json", response.headers
    assert re.fullmatch(r"[\x21-\x7e]{1,128}", response.headers["X-Request-Id"])
    return json.loads(response.content)


def assert_error(response: Any, status: int, code: str) -> Any:
    """Assert that an answer is this error in the contract's envelope; returns its `errors`."""
    body = json_of(response)
    assert (response.status_code, body["code"]) == (status, code), body
    assert_matches("ErrorResponse", body)
    assert list(body) == ["code", "message", "errors"]
    assert body["message"]
    # 422 and 409 say what is wrong, and 400 does of a list's query; nothing else has a list.
    assert bool(body["errors"]) or status not in (409, 422), body
    assert body["errors"] is None or status in (400, 409, 422), body
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    return body["errors"]


def faults_of(errors: list[dict[str, Any]]) -> list[tuple[list[str | int], str]]:
    """(loc, type) of each error: what programs rely on."""
    return [(each["loc"], each["type"]) for each in errors]


def assert_nothing_happened(rung: Rung) -> None:
    """A refused request leaves no row and rings no doorbell."""
    counts = {table.__name__: table.objects.count() for table in (Batch, Run, BatchItem, IdempotencyRecord)}
    assert counts == {"Batch": 0, "Run": 0, "BatchItem": 0, "IdempotencyRecord": 0}
    assert rung.calls == []


class CommittingApi(Api):
    """A customer whose requests run their on-commit hooks inside a test's transaction: "no doorbell" means something."""

    def __init__(
        self,
        capture: DjangoCaptureOnCommitCallbacks,
        organization: Organization | None = None,
        **key: Any,
    ) -> None:
        super().__init__(organization, **key)
        self.capture = capture

    def post(self, path: str, body: Any, **headers: str) -> Any:
        with self.capture(execute=True):
            return super().post(path, body, **headers)
