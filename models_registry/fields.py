"""Serializer fields for declared types and their validators. They convert nothing and name every fault.

Rules that contract.md leaves open, decided here:
- Numbers lie within signed 64 bits, also when written as 1e20 and also inside json values: PostgreSQL gives a
  stored 1e20 back as an integer of 21 digits, which most JSON readers (and orjson) cannot carry. Beyond is
  `out_of_range`.
- `range.step` counts from `min` (from 0 without one) and is exact on the decimal text of a number: 0.3 is a
  multiple of 0.1.
- An array or json value may be 64 containers deep; deeper is `not_storable`.
- An array that is too long is reported as that; its elements are not looked at.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import jsonschema
from referencing.exceptions import Unresolvable
from rest_framework import serializers
from rest_framework.fields import empty

from models_registry.faults import (
    BEYOND_64_BIT,
    MAX_INTEGER,
    MIN_INTEGER,
    FaultDetail,
    Refused,
    json_fault,
    refuse,
)
from models_registry.models import MEDIA_TYPES, Validator, VariableType
from models_registry.uris import ASSET_URI, MEDIA_SCHEMES, data_uri_fault, url_fault
from runflow.lib.faults import MAX_ERRORS, NOT_STORABLE, is_storable, shown

MAX_MESSAGE = 300
# Enough digits for the exact difference of any two 64-bit floats within MIN_INTEGER..MAX_INTEGER.
EXACT = Context(prec=400)


# --- The types -----------------------------------------------------------------------------------------------


class StrictField(serializers.Field[Any, Any, Any, Any]):
    """A field that converts nothing. Null is "not given" (contract.md section 5)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # DRF's `validators` is a property that looks itself up for each value. Every one of ours takes the value only.
        self.rules: tuple[Callable[[Any], None], ...] = tuple(self.validators)  # type: ignore[arg-type]

    def run_validation(self, data: Any = empty) -> Any:
        # DRF's steps in one method: half a batch's time went into calling them. And DRF collects the errors of several
        # validators and rebuilds them without their paths, where here is one validator at most.
        if data is None or data is empty:
            if self.required:
                refuse("This input is required.", "missing")
            return self.get_default()
        value = self.to_internal_value(data)
        for rule in self.rules:
            rule(value)
        return value

    def to_representation(self, value: Any) -> Any:
        return value


class StringField(StrictField):
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            refuse("Must be a string.", "wrong_type")
        if not is_storable(data):
            refuse(NOT_STORABLE, "not_storable")
        return data


class IntegerField(StrictField):
    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, float) and data.is_integer():  # false for NaN and infinities
            data = int(data)
        if not isinstance(data, int) or isinstance(data, bool):
            refuse("Must be an integer.", "wrong_type")
        if not MIN_INTEGER <= data <= MAX_INTEGER:
            refuse(BEYOND_64_BIT, "out_of_range")
        return data


class NumberField(StrictField):
    def to_internal_value(self, data: Any) -> int | float:
        if not isinstance(data, int | float) or isinstance(data, bool):
            refuse("Must be a number.", "wrong_type")
        if isinstance(data, float) and not math.isfinite(data):
            refuse("Must be a finite number.", "wrong_type")
        if not MIN_INTEGER <= data <= MAX_INTEGER:
            refuse(BEYOND_64_BIT, "out_of_range")
        return data


class BooleanField(StrictField):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            refuse("Must be true or false.", "wrong_type")
        return data


class JsonField(StrictField):
    def to_internal_value(self, data: Any) -> Any:
        if fault := json_fault(data):
            raise Refused([fault])
        return data


class ArrayField(StrictField):
    """An array; with `child` each element is checked as that, without it may be any JSON value."""

    def __init__(
        self,
        *,
        child: StrictField | None = None,
        min_items: int | None = None,
        max_items: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.child = child
        self.min_items = min_items
        self.max_items = max_items

    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list):
            refuse("Must be an array.", "wrong_type")
        if self.max_items is not None and len(data) > self.max_items:
            refuse(f"Must have at most {self.max_items} element(s).", "too_long")
        # Also before typed elements are looked at: it bounds the depth of arrays in arrays.
        details: list[FaultDetail] = []
        if self.min_items is not None and len(data) < self.min_items:
            details.append(FaultDetail(f"Must have at least {self.min_items} element(s).", "too_short"))
        if self.child is None:
            if fault := json_fault(data):
                details.append(fault)
            if details:
                raise Refused(details)
            return data
        values: list[Any] = []
        for index, element in enumerate(data):
            try:
                if element is None:
                    refuse("Must not be null.", "wrong_type")
                values.append(self.child.run_validation(element))
            except Refused as refused:
                details += [FaultDetail(str(detail), detail.code, (index, *detail.path)) for detail in refused.details]
                if len(details) > MAX_ERRORS:
                    # An array of a million wrong elements must not cost seconds.
                    raise Refused(details[:MAX_ERRORS], has_more=True) from None
        if details:
            raise Refused(details)
        return values


class MediaField(StrictField):
    """A reference to an image, video, audio or file: http(s) URL, `data:` URI, or `runflow://assets/{uuid}`.

    Syntax only. Whether an address may be asked is the outbound guard's question, whether the asset exists
    the caller's.
    """

    def __init__(self, *, kind: str, schemes: Sequence[str] = MEDIA_SCHEMES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.schemes = schemes

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            refuse("Must be a string: an http(s) URL, a data: URI, or runflow://assets/{id}.", "wrong_type")
        if not is_storable(data):
            refuse(NOT_STORABLE, "not_storable")
        scheme, _, _ = data[:10].partition(":")
        # "HTTP:" is legal and harmless; "DATA:" and "RUNFLOW:" would be missed by those who read the value
        # later.
        if scheme.lower() in ("http", "https"):
            scheme = scheme.lower()
        if scheme not in self.schemes:
            refuse(f"Must start with {' or '.join(f'{name}:' for name in self.schemes)}.", "bad_url")
        match scheme:
            case "data":
                reason = data_uri_fault(data, self.kind)
            case "runflow":
                reason = None if ASSET_URI.fullmatch(data) else "Must be runflow://assets/ and the asset's id."
            case _:
                reason = url_fault(data)
        if reason:
            refuse(reason, "bad_url")
        return data


# --- Validators ----------------------------------------------------------------------------------------------


class OneOf:
    def __init__(self, values: Sequence[Any]) -> None:
        # The types have been checked on both sides, so 1 cannot meet True here.
        self.values = frozenset(values)
        listed = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
        self.msg = shown(f"Must be one of: {listed}", MAX_MESSAGE)

    def __call__(self, value: Any) -> None:
        if value not in self.values:
            refuse(self.msg, "not_allowed")


class Range:
    def __init__(self, min: float | None = None, max: float | None = None, step: float | None = None) -> None:
        self.min = min
        self.max = max
        self.step = step
        self.exact_step = None if step is None else exact(step)
        self.exact_base = exact(min or 0)

    def __call__(self, value: float) -> None:
        if self.min is not None and value < self.min:
            refuse(f"Must be at least {self.min}.", "out_of_range")
        if self.max is not None and value > self.max:
            refuse(f"Must be at most {self.max}.", "out_of_range")
        if self.exact_step is not None:
            distance = EXACT.subtract(exact(value), self.exact_base)
            if EXACT.remainder(distance, self.exact_step):
                base = f"{self.min} plus " if self.min else ""
                refuse(f"Must be {base}a multiple of {self.step}.", "out_of_range")


def exact(number: float) -> Decimal:
    """The number that was written: Decimal(0.1) would be the binary fraction next to it."""
    return Decimal(repr(number))


class Length:
    """Counted in characters (code points), as PostgreSQL counts."""

    def __init__(self, min: int | None = None, max: int | None = None) -> None:
        self.min = min
        self.max = max

    def __call__(self, value: str) -> None:
        if self.min is not None and len(value) < self.min:
            refuse(f"Must have at least {self.min} character(s).", "too_short")
        if self.max is not None and len(value) > self.max:
            refuse(f"Must have at most {self.max} character(s).", "too_long")


class Pattern:
    def __init__(self, regex: str) -> None:
        self.regex = re.compile(regex)
        self.msg = shown(f"Must match {regex}", MAX_MESSAGE)

    def __call__(self, value: str) -> None:
        if not self.regex.fullmatch(value):
            refuse(self.msg, "bad_pattern")


class Url:
    def __init__(self, schemes: Sequence[str] = ("http", "https")) -> None:
        self.schemes = schemes

    def __call__(self, value: str) -> None:
        if reason := url_fault(value):
            refuse(reason, "bad_url")
        if urlsplit(value).scheme not in self.schemes:
            refuse(
                shown(f"Must start with {' or '.join(f'{s}:' for s in self.schemes)}.", MAX_MESSAGE),
                "bad_url",
            )


class JsonSchema:
    def __init__(self, schema: Any) -> None:
        validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        self.validator = validator_class(schema)

    def __call__(self, value: Any) -> None:
        try:
            errors = list(islice(self.validator.iter_errors(value), MAX_ERRORS + 1))
        except (RecursionError, ArithmeticError, Unresolvable):
            # A schema that refers to itself can need more stack than there is; a multipleOf can overflow; a
            # reference can lead elsewhere from within a nested "$id".
            refuse("Could not be checked against the declared schema.", "schema_mismatch")
        if errors:
            details = [
                FaultDetail(
                    schema_message(error),
                    "schema_mismatch",
                    tuple(step if isinstance(step, int) else shown(step) for step in error.absolute_path),
                )
                for error in errors[:MAX_ERRORS]
            ]
            raise Refused(details, has_more=len(errors) > MAX_ERRORS)


def schema_message(error: jsonschema.ValidationError) -> str:
    """jsonschema's message unless it quotes a long value before coming to the point."""
    if len(error.message) <= MAX_MESSAGE:
        return shown(error.message, MAX_MESSAGE)
    return shown(f"Does not satisfy {error.validator} of the declared schema.", MAX_MESSAGE)


# --- From declarations to fields -----------------------------------------------------------------------------


def make_field(type_code: str, validator_code: str, attrs: Mapping[str, Any], **kwargs: Any) -> StrictField:
    """The field for a type and its validator. Both must have passed declarations.check_value_rules."""
    if type_code in MEDIA_TYPES:
        schemes = attrs.get("schemes") if validator_code == Validator.URL else None
        return MediaField(kind=str(type_code), schemes=tuple(schemes or MEDIA_SCHEMES), **kwargs)
    if type_code == VariableType.ARRAY:
        if validator_code != Validator.ITEMS:
            return ArrayField(**kwargs)
        child = make_field(
            attrs["type"], attrs.get("validator_code", Validator.NONE), attrs.get("validator_attrs") or {}
        )
        bounds = {name: attrs.get(name) for name in ("min_items", "max_items")}
        return ArrayField(child=child, **bounds, **kwargs)
    field_class = SCALARS[VariableType(type_code)]
    if validator_code != Validator.NONE:
        kwargs["validators"] = [RULES[Validator(validator_code)](**attrs)]
    return field_class(**kwargs)


SCALARS: dict[VariableType, type[StrictField]] = {
    VariableType.STRING: StringField,
    VariableType.INTEGER: IntegerField,
    VariableType.NUMBER: NumberField,
    VariableType.BOOLEAN: BooleanField,
    VariableType.JSON: JsonField,
}
RULES: dict[Validator, Callable[..., Callable[[Any], None]]] = {
    Validator.ONE_OF: OneOf,
    Validator.RANGE: Range,
    Validator.LENGTH: Length,
    Validator.PATTERN: Pattern,
    Validator.URL: Url,
    Validator.JSON_SCHEMA: JsonSchema,
}
