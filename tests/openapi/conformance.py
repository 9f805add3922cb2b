"""Is this answer one that the OpenAPI document and the contract promise? tests/conftest.py asks of every one a test gets."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from django.http import HttpRequest
from django.urls import Resolver404, resolve
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from runflow.lib.openapi import document
from tests.contract.formats import FORMATS
from tests.openapi.routes import template_of

ROOT = Path(__file__).resolve().parents[2]

# Of an address, not of a route: no method of the document can have it.
METHOD_NOT_ALLOWED = 405


def fault_of(request: HttpRequest, response: Any) -> str | None:
    """What is wrong with an answer, in one line. None also for what the document does not describe."""
    try:
        path = template_of(resolve(request.path_info).route)
    except Resolver404:
        return None
    method = "get" if request.method == "HEAD" else (request.method or "").lower()
    operation = document()["paths"].get(path, {}).get(method)
    if operation is None or response.status_code == METHOD_NOT_ALLOWED:
        return None
    where = f"{request.method} {path} -> {response.status_code}"
    declared = operation["responses"].get(str(response.status_code))
    if declared is None:
        return f"{where}: the document has no such status"
    declared = dereferenced(declared)
    missing = [
        name
        for name, header in declared.get("headers", {}).items()
        if dereferenced(header).get("required") and name not in response.headers
    ]
    if missing:
        return f"{where}: without {', '.join(missing)}"
    content = declared.get("content")
    if content is None:
        return f"{where}: it has a body" if response.streaming or response.content else None
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    if not any(fnmatch(media_type, each) for each in content):
        return f"{where}: {media_type or 'no type'}, not {' or '.join(content)}"
    if response.streaming or request.method == "HEAD" or media_type != "application/json":
        return None
    is_compressed = response.headers.get("Content-Encoding") == "gzip"
    body = json.loads(gzip.decompress(response.content) if is_compressed else response.content)
    promises = [_validator(path, method, response.status_code)]
    # The contract's shapes are those of whole objects.
    if not request.GET.get("fields"):
        promises.append(_contract(path, method, response.status_code))
    for promise in promises:
        fault = next(promise.iter_errors(body), None) if promise is not None else None
        if fault is not None:
            return f"{where}: {fault.json_path}: {fault.message}"
    return None


def dereferenced(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference into the document stands for; anything else as it is."""
    reference = value.get("$ref")
    if reference is None:
        return value
    found: Any = document()
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return dereferenced(found)


@cache
def registry() -> Registry[Any]:
    """The document, closed: a member that it does not name is a fault here, though clients must expect more."""
    found: Registry[Any] = Registry().with_resource("document", DRAFT202012.create_resource(_closed(document())))
    return found


def validator(schema: Any) -> jsonschema.Draft202012Validator:
    """For a schema of the document."""
    return jsonschema.Draft202012Validator(_absolute(_closed(schema)), registry=registry(), format_checker=FORMATS)


@cache
def _validator(path: str, method: str, status: int) -> jsonschema.Draft202012Validator | None:
    declared = dereferenced(document()["paths"][path][method]["responses"][str(status)])
    return validator(declared["content"]["application/json"]["schema"])


CONTRACT: dict[str, Any] = json.loads((ROOT / "tests" / "contract" / "schemas.json").read_text())
_CONTRACT_REGISTRY: Registry[Any] = Registry().with_resource("contract", DRAFT202012.create_resource(CONTRACT))


def shape_of(path: str) -> str:
    """The path whatever its parameters are called."""
    return re.sub(r"{\w+}", "{}", path)


# By method and path: the success status, and the name of the shape.
PROMISED = {
    (each["method"].lower(), shape_of(each["path"])): (each["success"], each["response"])
    for each in CONTRACT["x-endpoints"]
}


@cache
def _contract(path: str, method: str, status: int) -> jsonschema.Draft202012Validator | None:
    """What schemas.json says of this answer. None: nothing."""
    success, name = PROMISED.get((method, shape_of(path)), (None, None))
    if status >= 400:
        name = "ErrorResponse"
    elif status != success:
        return None
    return jsonschema.Draft202012Validator(
        {"$ref": f"contract#/$defs/{name}"}, registry=_CONTRACT_REGISTRY, format_checker=FORMATS
    )


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    is_object = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    return {"additionalProperties": False, **closed} if is_object else closed


def _absolute(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_absolute(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _absolute(value) for name, value in schema.items()}
    return made | ({"$ref": f"document{schema['$ref']}"} if "$ref" in schema else {})
