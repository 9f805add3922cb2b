"""The document is valid, complete, and the one that docs/openapi.json holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from runflow.lib.openapi import UNSAFE, document
from tests.conftest import Api
from tests.contract.checks import SCHEMAS
from tests.openapi.conformance import PROMISED, dereferenced, shape_of, validator
from tests.openapi.routes import operations

SNAPSHOT = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"

OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
]
NAMED = pytest.mark.parametrize(
    ("method", "path", "operation"), OPERATIONS, ids=[operation["operationId"] for *_, operation in OPERATIONS]
)


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, media type object) of everything that an operation takes and answers."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield "request", content
    for status, response in operation["responses"].items():
        for content in dereferenced(response).get("content", {}).values():
            yield status, content
    for callback in operation.get("callbacks", {}).values():
        for item in callback.values():
            for content in item["post"]["requestBody"]["content"].values():
                yield "callback", content


def test_the_document_is_valid_openapi_3_1() -> None:
    validate(document(), cls=OpenAPIV31SpecValidator)
    assert document()["openapi"] == "3.1.0"


def test_it_is_what_docs_openapi_json_holds() -> None:
    assert json.loads(SNAPSHOT.read_text()) == document(), "make openapi"


def test_it_is_what_the_server_answers_without_a_key(client: Client) -> None:
    response = client.get("/v1/openapi.json")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    assert response.json() == document()


def test_every_method_of_every_route_is_described() -> None:
    described = {(method, path) for method, path, _ in OPERATIONS}
    missing = sorted(f"{method} {path}" for method, path, _ in operations() if (method, path) not in described)
    assert missing == [], "give their views a line in `documented`: see runflow/lib/schemas.py"


def test_every_list_says_what_it_offers() -> None:
    """Whose view has a Listing, of its query: every member, operator, order and embed of it."""
    listings = [
        (path, listing)
        for _, path, view in operations()
        for listing in (getattr(view, "listing", None), getattr(view, "listing_of_any", None))
        if listing is not None
    ]
    names = {listing.name for _, listing in listings}
    assert names == {
        *("batches", "runs", "items", "any-items", "callback-secrets"),
        *("models", "public-models", "model-inputs", "prices"),
    }
    for path, listing in listings:
        said = {each["name"]: each for each in document()["paths"][path]["get"]["parameters"] if "name" in each}
        assert set(said) >= {"limit", "q", "sort_by", "fields", "pq", "from_prev"}
        for name, each in listing.filterable.items():
            assert f"- `{name}` ({' '.join(each.operators)})" in said["q"]["description"]
        assert f"By {', '.join(f'`{name}`' for name in listing.sortable)}." in said["sort_by"]["description"]
        assert f"`{listing.default_sort}`" in said["sort_by"]["description"]
        assert re.findall(r"`(\w+)`", said["fields"]["description"]) == list(listing.members)
        assert all(f"`{name}`" in said["embed"]["description"] for name in listing.embeddable)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    ["/v1/batches", "/v1/runs", "/v1/batches/any/items", "/v1/callback-secrets"],
)
def test_the_filters_that_a_list_gives_as_examples_are_understood(path: str) -> None:
    template = path.replace("any", "{batch_id}")
    said = next(each for each in document()["paths"][template]["get"]["parameters"] if each.get("name") == "q")
    examples = re.findall(r"`([^`]+)`", said["description"].rpartition("For example ")[2])
    assert len(examples) >= 3
    api = Api()
    for q in examples:
        assert api.get(f"{path}?{urlencode({'q': q})}").status_code == 200, q


def test_no_view_describes_a_method_that_it_has_not() -> None:
    extra = [
        f"{method} of {view.__name__}"
        for _, _, view in operations()
        for method in view.documented
        if not hasattr(view, method.lower())
    ]
    assert extra == []


def test_operation_ids_are_pleasant_and_each_is_there_once() -> None:
    ids = [operation["operationId"] for *_, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)
    assert [each for each in ids if not re.fullmatch(r"[a-z]+[A-Za-z]+", each)] == []


def test_every_tag_is_introduced() -> None:
    introduced = {tag["name"] for tag in document()["tags"]}
    assert {tag for *_, operation in OPERATIONS for tag in operation["tags"]} == introduced


def test_every_link_leads_to_an_operation_and_names_its_parameters() -> None:
    by_id = {operation["operationId"]: operation for *_, operation in OPERATIONS}
    for *_, operation in OPERATIONS:
        for response in operation["responses"].values():
            for link in dereferenced(response).get("links", {}).values():
                target = by_id[link["operationId"]]
                assert set(link["parameters"]) <= {dereferenced(each)["name"] for each in target["parameters"]}


@NAMED
def test_every_write_that_needs_a_key_takes_an_idempotency_key(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    headers = {dereferenced(each)["name"] for each in operation["parameters"] if dereferenced(each)["in"] == "header"}
    is_keyed_write = bool(operation["security"]) and method in UNSAFE
    assert ("Idempotency-Key" in headers) == is_keyed_write
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            assert ("Idempotent-Replayed" in response["headers"]) == is_keyed_write


@NAMED
def test_every_error_has_the_envelope_and_every_answer_its_request_id(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    for status, response in operation["responses"].items():
        whole = dereferenced(response)
        assert whole["description"]
        assert "X-Request-Id" in whole["headers"]
        if status >= "400":
            shape = dereferenced(whole["content"]["application/json"]["schema"])
            assert {"code", "message", "errors"} <= set(shape["required"])


@NAMED
def test_every_json_body_has_an_example_and_it_is_valid(method: str, path: str, operation: dict[str, Any]) -> None:
    for where, content in contents(operation):
        schema = content["schema"]
        # What has no shape has no example; what goes wrong with the server looks like every error.
        if where >= "500" or not {"properties", "items"} & set(dereferenced(schema)):
            continue
        faults = [fault.message for fault in validator(schema).iter_errors(content["example"])]
        assert faults == [], where


def test_every_answer_that_the_contract_has_a_shape_for_is_held_against_it() -> None:
    """The routes of the contract that are here, with the same success status; what is not here yet is listed in the README."""
    ours = {(method.lower(), shape_of(path)): set(operation["responses"]) for method, path, operation in OPERATIONS}
    here = {key: str(status) for key, (status, _) in PROMISED.items() if key in ours}
    assert len(here) >= 20
    assert [key for key, status in here.items() if status not in ours[key]] == []


def test_shapes_that_the_contract_names_have_at_least_its_members() -> None:
    """Its members that we never have are left out of its nullable ones only where a client cannot miss them."""
    ours = document()["components"]["schemas"]
    shared = set(ours) & set(SCHEMAS["$defs"])
    assert shared >= {
        "BatchDetail",
        "BatchCreateRequest",
        "BatchCreateResponse",
        "BatchItem",
        "CallbackSecret",
        "Asset",
    }
    for name in shared:
        theirs = SCHEMAS["$defs"][name]
        assert set(theirs.get("required", [])) <= set(ours[name].get("required", [])), name
