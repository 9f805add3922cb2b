"""The OpenAPI document and its pages: what views declare (runflow.lib.schemas), assembled by drf-spectacular.

`/v1/openapi.json` serves it, `/docs` and `/docs/redoc` show it, docs/openapi.json is a copy that a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent
from rest_framework.request import Request

from runflow.lib import errors
from runflow.lib.schemas import ERROR, STRING, UUID, Answer, Component, Header, Operation, Query, Schema

Json = dict[str, Any]

DESCRIPTION = """\
A batch server for AI models: post up to 100 inputs for one model in one request, poll the batch or be called back, and read the
outputs.

- `Authorization: Bearer rf_live_…`. A key belongs to one organisation and has scopes. Another organisation's object is 404.
- Ids are UUIDs. Times are UTC, ISO 8601, `+00:00`. Money is a decimal string in USD.
- Every error has one form, `ErrorResponse`. Programs read `code`, and `errors[].type`.
- Every answer carries `X-Request-Id`: yours, if you sent 1 to 128 visible ASCII characters, else ours.
- With an `Idempotency-Key`, a request that is sent again within 24 hours gets the first answer again, byte for byte, with
  `Idempotent-Replayed: true`. Answers that are not 2xx are not kept.
- Lists are pages: follow `next` until it is null. Each says what `q` may filter by, and what `sort_by`, `fields` and `embed`
  may name. A `q` that is wrong is 400 with the place.
- An organisation may have a rate limit. Then every answer to its keys has `X-RateLimit-Limit`, `X-RateLimit-Remaining` and
  `X-RateLimit-Reset`, and 429 has `Retry-After`.
- Unknown query parameters are ignored; a boolean one is `true` or `false`. Unknown members of a body are 422. Answers may get
  more members.
- `canceled` is a status, `items_cancelled` a counter; both spellings are meant.
"""

_OWNER = r"^[a-z0-9][a-z0-9_-]*$"
_SLUG = r"^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$"
# Path parameters by name; every other one is the id of what it names.
PATH_PARAMETERS: Mapping[str, tuple[Schema, str]] = {
    "owner": ({"type": "string", "pattern": _OWNER}, "The first part of the model's name: `google`."),
    "slug": (
        {"type": "string", "pattern": _SLUG},
        "The rest of it, which may have several segments: `nano-banana-pro/edit`. Slashes may be sent as they are or as `%2F`.",
    ),
}

REQUEST_ID = "X-Request-Id"
HEADERS: Mapping[str, Json] = {
    REQUEST_ID: {"description": "Finds this request in the server's log.", "schema": STRING, "required": True},
    "Idempotent-Replayed": {
        "description": "There if this is the kept answer of an earlier request with the same `Idempotency-Key`.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
    "X-RateLimit-Limit": {
        "description": "Requests a minute. Only if the organisation has a limit, as the two others.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-RateLimit-Remaining": {
        "description": "How many would be let through now.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-RateLimit-Reset": {
        "description": "When that is at its most again, in seconds since 1970.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "ETag": {
        "description": "Of everything in the answer that can change. For `If-None-Match`.",
        "schema": STRING,
        "required": True,
    },
    "Cache-Control": {"description": "Who may keep the answer, and how long.", "schema": STRING, "required": True},
    "Vary": {"description": "By which request headers answers differ.", "schema": STRING, "required": True},
    "Content-Disposition": {"description": "The name for a file of it.", "schema": STRING, "required": True},
    "WWW-Authenticate": {"description": "`Bearer`", "schema": STRING, "required": True},
}
PARAMETERS: Mapping[str, Json] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "However often it is sent, the request happens once. 1 to 255 visible ASCII characters; kept 24 hours.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$", "maxLength": 255},
    },
    "OrganizationId": {
        "name": "X-Organization-Id",
        "in": "header",
        "description": "The key's organisation. May be left out.",
        "schema": UUID,
    },
}
_RATE_LIMIT = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
# What a route may answer beside its own: (component, when, the error's class, further headers).
ERRORS: Mapping[int, tuple[str, str, type[errors.DomainError] | tuple[str, str], Sequence[str]]] = {
    400: (
        "BadRequest",
        "No JSON, a body that is no object, a bad header, query parameter or cursor.",
        errors.BadRequest,
        (),
    ),
    401: ("Unauthorized", "No key, or an unknown, expired or revoked one.", errors.Unauthorized, ["WWW-Authenticate"]),
    402: (
        "InsufficientCredit",
        "The projected cost is above the organisation's balance. Nothing was made.",
        ("INSUFFICIENT_CREDIT", "The projected cost is above the balance."),
        (),
    ),
    403: (
        "Forbidden",
        "The key lacks the scope, or `X-Organization-Id` is not its organisation.",
        errors.PermissionDenied,
        (),
    ),
    404: ("NotFound", "There is no such thing, or it is another organisation's.", errors.NotFound, ()),
    409: (
        "Conflict",
        "The `Idempotency-Key` was used for another request (`idempotency_mismatch`), its first request still runs "
        "(`idempotency_in_flight`, with `Retry-After`), or the kept answer held a secret and can no longer be read "
        "(`idempotency_unreadable`).",
        errors.Conflict,
        ["Retry-After"],
    ),
    413: ("PayloadTooLarge", "The body is larger than this server takes.", errors.PayloadTooLarge, ()),
    415: ("UnsupportedMediaType", "The body is not `application/json`.", errors.UnsupportedMediaType, ()),
    422: ("ValidationFailed", "Not valid; `errors` says all that is wrong.", errors.ValidationFailed, ()),
    429: (
        "RateLimited",
        "More requests than the organisation may send. Nothing was done.",
        errors.RateLimited,
        ["Retry-After", *_RATE_LIMIT],
    ),
    500: ("InternalError", "A fault of the server; its log has the request id.", errors.InternalError, ()),
    503: ("ServiceUnavailable", "The database is away.", errors.ServiceUnavailable, ["Retry-After"]),
}
_CODES_WITH_ERRORS = {
    409: {"loc": ["header", "Idempotency-Key"], "msg": "…", "type": "idempotency_mismatch"},
    422: {"loc": ["body", "input", 0, "resolution"], "msg": 'Must be one of: "1K", "2K", "4K"', "type": "not_allowed"},
}
SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key: `rf_live_…`. A route names the scope that the key needs.",
}
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Declared(AutoSchema):
    """An operation as its view declares it; one that is not declared is left out, and a test names it."""

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: ComponentRegistry
    ) -> Json | None:
        # Not an ApiView: a page, or a framework's own view.
        declared: Operation | None = getattr(self.view, "documented", {}).get(method.upper())
        if declared is None:
            return None
        scope = getattr(self.view, "scopes", {}).get(method.upper())
        needs_key = bool(self.view.permission_classes)
        return _described(
            declared, path=path, method=method.upper(), scope=scope, needs_key=needs_key, registry=registry
        )


class Generator(SchemaGenerator):
    """drf-spectacular's, with the components that every route refers to."""

    def get_schema(self, request: Request | None = None, public: bool = False) -> Json:
        root: Json = super().get_schema(request, public)  # type: ignore[no-untyped-call]
        components = root["components"]
        components["headers"] = {_word(name): dict(header) for name, header in HEADERS.items()}
        components["parameters"] = {name: dict(parameter) for name, parameter in PARAMETERS.items()}
        components["responses"] = {row[0]: _error(status) for status, row in ERRORS.items()}
        components["securitySchemes"] = {"apiKey": SECURITY_SCHEME}
        root["components"] = dict(sorted(components.items()))
        root["info"]["description"] = DESCRIPTION
        return root


@cache
def document() -> Json:
    """The document; it says the same as long as the process lives."""
    return Generator().get_schema(public=True)  # type: ignore[no-untyped-call]


def _described(
    declared: Operation, *, path: str, method: str, scope: str | None, needs_key: bool, registry: ComponentRegistry
) -> Json:
    """`scope` None with `needs_key`: any key will do."""
    is_keyed_write = needs_key and method in UNSAFE
    access = f"Scope `{scope}`." if scope else "Any key, whatever its scopes." if needs_key else "Needs no key."
    _register(ERROR, registry)  # every route's error responses refer to it
    operation: Json = {
        "operationId": declared.id,
        "tags": [declared.tag],
        "summary": declared.summary,
        "description": " ".join(filter(None, [access, declared.description])),
        "parameters": [
            *_path_parameters(path, declared),
            *(_parameter(each, "query") for each in declared.query),
            *(_parameter(each, "header") for each in declared.headers),
            *([{"$ref": "#/components/parameters/IdempotencyKey"}] if is_keyed_write else []),
            *([{"$ref": "#/components/parameters/OrganizationId"}] if needs_key else []),
        ],
    }
    if declared.body is not None:
        operation["requestBody"] = {
            "required": not declared.is_body_optional,
            "content": {declared.body_media_type: _content(declared.body, declared.body.example)},
        }
    standing = [*(["Idempotent-Replayed"] if is_keyed_write else []), *(_RATE_LIMIT if needs_key else [])]
    responses = {str(status): _answer(answer, standing) for status, answer in declared.answers.items()}
    possible = _possible_errors(declared, needs_key=needs_key, is_keyed_write=is_keyed_write, has_path="{" in path)
    for status in sorted(possible):
        own_words = declared.errors.get(status)
        component = ERRORS[status][0]
        responses[str(status)] = (
            _error(status, own_words) if own_words else {"$ref": f"#/components/responses/{component}"}
        )
    operation["responses"] = responses
    # The scope, as OpenAPI 3.1 lets a scheme that is not OAuth name it.
    operation["security"] = [{"apiKey": [str(scope)] if scope else []}] if needs_key else []
    if declared.callbacks:
        operation["callbacks"] = declared.callbacks
    plain: Json = _plain(operation, registry)
    return plain


def _possible_errors(declared: Operation, *, needs_key: bool, is_keyed_write: bool, has_path: bool) -> set[int]:
    possible = {400, 500, *declared.errors}
    if needs_key:
        possible |= {401, 403, 429, 503}
    if needs_key and has_path:
        possible |= {404}
    if is_keyed_write:
        possible |= {409, 413}
    if declared.body is not None and declared.body_media_type == "application/json":
        possible |= {413, 415, 422}
    return possible - set(declared.answers)


def _path_parameters(path: str, declared: Operation) -> list[Json]:
    found = []
    for name in re.findall(r"{(\w+)}", path):
        schema, description = PATH_PARAMETERS.get(name, (UUID, ""))
        parameter = {"name": name, "in": "path", "required": True, "schema": declared.path.get(name, schema)}
        found.append(parameter | ({"description": description} if description else {}))
    return found


def _parameter(declared: Query | Header, where: str) -> Json:
    parameter = {"name": declared.name, "in": where, "description": declared.description, "schema": declared.schema}
    # Empty is "not given", but not of a boolean or of a word out of a list.
    may_be_empty = where == "query" and declared.schema.get("type") != "boolean" and "enum" not in declared.schema
    return parameter | ({"allowEmptyValue": True} if may_be_empty else {})


def _answer(answer: Answer, standing: Sequence[str]) -> Json:
    """`standing`: headers that every answer of the route may have."""
    response: Json = {"description": answer.description, "headers": _headers(REQUEST_ID, *answer.headers, *standing)}
    if answer.schema is not None:
        example = answer.example
        if example is None and isinstance(answer.schema, Component):
            example = answer.schema.example
        response["content"] = {
            answer.media_type: _content(answer.schema, example),
            **{name: _content(*other) for name, other in answer.also.items()},
        }
    if answer.links:
        response["links"] = {
            name: {"operationId": name, "parameters": dict(parameters)} for name, parameters in answer.links.items()
        }
    return response


def _error(status: int, own_words: str | None = None) -> Json:
    """An error response. In the components it refers by path: there is no registry to put the component into."""
    _, description, error, headers = ERRORS[status]
    code, message = (error.code, error.message) if isinstance(error, type) else error
    example: Json = {"code": code, "message": message, "errors": None}
    if status in _CODES_WITH_ERRORS:
        example["errors"] = [_CODES_WITH_ERRORS[status]]
    return {
        "description": own_words or description,
        "headers": _headers(REQUEST_ID, *headers),
        "content": {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{ERROR.name}"}, "example": example},
        },
    }


def _content(schema: Schema | Component, example: Any) -> Json:
    return {"schema": schema} | ({"example": example} if example is not None else {})


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{_word(name)}"} for name in names}


def _word(header: str) -> str:
    return header.removeprefix("X-").replace("-", "")


def _plain(schema: Any, registry: ComponentRegistry) -> Any:
    """The schema with references in place of its components, which are put into the registry."""
    if isinstance(schema, Component):
        _register(schema, registry)
        return {"$ref": f"#/components/schemas/{schema.name}"}
    if isinstance(schema, Mapping):
        return {key: _plain(value, registry) for key, value in schema.items()}
    if isinstance(schema, list | tuple):
        return [_plain(each, registry) for each in schema]
    return schema


def _register(component: Component, registry: ComponentRegistry) -> None:
    shape = _plain(component.schema, registry)
    resolved = ResolvedComponent(component.name, ResolvedComponent.SCHEMA, shape, Component)  # type: ignore[no-untyped-call]
    if resolved in registry and registry[resolved].schema != shape:
        raise ValueError(f"two shapes are called {component.name}")
    registry.register_on_missing(resolved)
