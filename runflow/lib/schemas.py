"""What a route's description is made of. A view declares one for each of its methods, beside its `scopes`:

    class BatchView(ApiView):
        scopes = {"GET": Scope.BATCHES_READ}
        documented = {"GET": schema.GET_BATCH}

The descriptions and the shapes of an app are in its `api/schema.py`:

    BATCH = record("BatchDetail", {"id": UUID, "cost": nullable(MONEY), ...}, example={...})
    GET_BATCH = Operation(
        id="getBatch",
        tag="Batches",
        summary="Read a batch",
        answers={200: Answer(BATCH, "The batch as it is now.")},
        query=[Query("embed", STRING, "`input` adds the inputs.")],
        errors={404: "No such batch."},
    )

Everything else follows from the view: path parameters, the key and its scope, the headers, and the errors that any such route
answers (runflow.lib.openapi). `make openapi` then renews docs/openapi.json. tests/openapi names what lacks a description, and
checks the examples; tests/conftest.py holds every answer that any test gets from a route against its declaration.

Shapes are plain JSON Schema (2020-12, the dialect of OpenAPI 3.1), in which a Component stands for a reference to itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Component:
    """A shape with a name of its own, for the document and for the classes of generated clients."""

    name: str
    schema: Schema
    example: Any = None


STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
OBJECT: Schema = {"type": "object"}
UUID: Schema = {"type": "string", "format": "uuid"}
URL: Schema = {"type": "string", "format": "uri"}
# contract.md section 1: always +00:00, never Z.
TIMESTAMP: Schema = {"type": "string", "format": "date-time"}
MONEY: Schema = {
    "type": "string",
    "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    "description": "USD, a decimal string.",
}


def nullable(schema: Schema | Component) -> Schema:
    """The shape, or null."""
    if isinstance(schema, Component) or "enum" in schema or not isinstance(schema.get("type"), str):
        return {"anyOf": [schema, NULL]}
    return {**schema, "type": [schema["type"], "null"]}


def array(items: Schema | Component, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def said(schema: Schema, description: str) -> Schema:
    """The shape with a sentence about it."""
    return {**schema, "description": description}


def record(name: str, members: Mapping[str, Any], *, example: Any = None, description: str = "") -> Component:
    """An object that we answer: every member is always there; clients must expect more (contract.md, schemas.json)."""
    schema = {"type": "object", "properties": members, "required": list(members)}
    return Component(name, schema | ({"description": description} if description else {}), example)


def given(
    name: str,
    *,
    required: Mapping[str, Any] | None = None,
    optional: Mapping[str, Any] | None = None,
    example: Any = None,
) -> Component:
    """An object that clients send: other members than these are 422."""
    required, optional = required or {}, optional or {}
    schema: dict[str, Any] = {"type": "object", "properties": {**required, **optional}, "additionalProperties": False}
    if required:
        schema["required"] = list(required)
    return Component(name, schema, example)


def listed(item: Component, name: str, *, example: Any = None, **instead: Any) -> Component:
    """An object as a list with `fields` has it: any member may be left out. `instead`: members that have another shape there,
    such as the large ones, which are null unless `embed` names them."""
    members = {**item.schema["properties"], **instead}
    return Component(name, {"type": "object", "properties": members}, example or item.example)


def page(item: Component, name: str | None = None) -> Component:
    """A page of a list (contract.md section 6)."""
    cursor = nullable(STRING)
    members = {"items": array(item), "first": cursor, "next": cursor, "previous": cursor}
    example = {"items": [item.example], "first": None, "next": "bjAxYTIwYzQw", "previous": None}
    return record(name or f"{item.name}Page", members, example=example if item.example is not None else None)


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. None is required."""

    name: str
    schema: Schema
    description: str


@dataclass(frozen=True, slots=True)
class Header:
    """A header that a request may have."""

    name: str
    schema: Schema
    description: str


PAGING = (
    Query("limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, "How many a page has."),
    Query("pq", STRING, "A cursor: the `next`, `previous` or `first` of a page."),
    Query("from_prev", {"type": "boolean", "default": False}, "With a `previous` as `pq`: the page before it."),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx, a 304, or an error of a form of its own. `schema` None: it has no body.

    `headers`: names from runflow.lib.openapi.HEADERS. `also`: (shape, example) in other media types. `links` says what can be
    asked next: operation id -> {parameter: runtime expression}.
    """

    schema: Schema | Component | None
    description: str
    example: Any = None
    media_type: str = "application/json"
    also: Mapping[str, tuple[Schema, Any]] = field(default_factory=dict)
    headers: Sequence[str] = ()
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A method of a route.

    `body` None: it takes none. `errors`: statuses that not every such route answers, and own words for those that it does.
    `path`: shapes of path parameters, where they are not ids. `callbacks`: as OpenAPI has them, by name.
    """

    id: str
    tag: str
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    query: Sequence[Query] = ()
    headers: Sequence[Header] = ()
    path: Mapping[str, Schema] = field(default_factory=dict)
    body: Component | None = None
    is_body_optional: bool = False
    body_media_type: str = "application/json"
    errors: Mapping[int, str] = field(default_factory=dict)
    callbacks: Mapping[str, Any] = field(default_factory=dict)


ERROR_DETAIL = record(
    "ErrorDetail",
    {
        "loc": said(array({"type": ["string", "integer"]}), "A path from the request."),
        "msg": said(STRING, "For people."),
        "type": said(STRING, "A stable word for programs."),
    },
)
ERROR = record(
    "ErrorResponse",
    {
        "code": said(STRING, "A stable word for programs, in capitals."),
        "message": said(STRING, "For people."),
        "errors": nullable(array(ERROR_DETAIL, maxItems=500)),
    },
)
