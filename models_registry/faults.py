"""What can be wrong with a value, as an answer says it; and which values can be stored at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NoReturn

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from runflow.lib.faults import NOT_STORABLE, is_storable, shown

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
# Below the depth at which parsers, renderers and JSON Schema begin to fail on recursion.
MAX_DEPTH = 64

TOO_DEEP = f"Must not be nested deeper than {MAX_DEPTH} arrays and objects."
BEYOND_64_BIT = "Must be within signed 64 bits."


class FaultDetail(ErrorDetail):
    """DRF's error detail, with the path inside the field's value."""

    code: str  # the stubs allow None
    path: tuple[str | int, ...]

    def __new__(cls, msg: str, code: str, path: tuple[str | int, ...] = ()) -> FaultDetail:
        self = super().__new__(cls, msg, code)
        self.path = path
        return self


class Refused(serializers.ValidationError):
    """Faults of one field's value. (DRF's own constructor would rebuild the details without their paths.)"""

    def __init__(self, details: list[FaultDetail], *, has_more: bool = False) -> None:
        self.details = details
        self.detail = list(details)  # what DRF knows them by
        self.has_more = has_more  # more than MAX_ERRORS, and not looked at any further


def refuse(msg: str, code: str, path: tuple[str | int, ...] = ()) -> NoReturn:
    raise Refused([FaultDetail(msg, code, path)])


def json_faults(value: Any) -> Iterator[FaultDetail]:
    """The reasons why a JSON value cannot be stored and given back as it is.

    Without recursion, so no depth can exhaust the stack.
    """
    todo: list[tuple[Any, tuple[str | int, ...]]] = [(value, ())]
    while todo:
        here, path = todo.pop()
        match here:
            case str():
                if not is_storable(here):
                    yield FaultDetail(NOT_STORABLE, "not_storable", path)
            case None | bool():
                pass
            case int():
                if not MIN_INTEGER <= here <= MAX_INTEGER:
                    yield FaultDetail(BEYOND_64_BIT, "out_of_range", path)
            case float():
                if not math.isfinite(here):
                    yield FaultDetail("Must be a finite number.", "wrong_type", path)
                elif not MIN_INTEGER <= here <= MAX_INTEGER:
                    yield FaultDetail(BEYOND_64_BIT, "out_of_range", path)
            case dict() | list() if len(path) >= MAX_DEPTH:
                # Not with the path: 64 steps of it say no more.
                yield FaultDetail(TOO_DEEP, "not_storable")
            case dict():
                for key, inner in here.items():
                    if not isinstance(key, str):  # no JSON parser does this; YAML does
                        yield FaultDetail("Object keys must be text.", "wrong_type", path)
                    elif not is_storable(key):
                        yield FaultDetail(NOT_STORABLE, "not_storable", (*path, shown(key)))
                    todo.append((inner, (*path, shown(key))))
            case list():
                todo.extend((inner, (*path, index)) for index, inner in enumerate(here))
            case _:
                yield FaultDetail("Must be a JSON value.", "wrong_type", path)


def json_fault(value: Any) -> FaultDetail | None:
    """The first of json_faults, or None: there can be as many as there are values."""
    return next(json_faults(value), None)
