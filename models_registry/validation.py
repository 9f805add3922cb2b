"""Customers' values against a model's declared inputs (contract.md sections 2 and 5).

A DRF serializer is built from the declarations, once per model version. Every fault of every item is
reported, with a stable type and a path; nothing that a JSON parser can produce makes this module raise
anything else.

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

import binascii
import json
import math
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from decimal import Context, Decimal
from itertools import islice
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

import jsonschema
from referencing.exceptions import Unresolvable
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail
from rest_framework.fields import SkipField, empty

from models_registry.models import MEDIA_TYPES, DefaultBehavior, ModelInput, Validator, VariableType
from runflow.lib.errors import ErrorItem

# contract.md section 2: more errors than this help nobody and make an answer of megabytes.
MAX_ERRORS = 500
CLIENT_REF = "client_ref"
CLIENT_REF_LENGTH = 255
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
# Below the depth at which parsers, renderers and JSON Schema begin to fail on recursion.
MAX_DEPTH = 64
# The longest URL that common servers and proxies take; the same bound as callback_url (contract.md section
# 3.1).
MAX_URL_LENGTH = 2048
# A customer's megabyte of key must not come back in an answer.
MAX_ECHO = 100
MAX_MESSAGE = 300
# Compiled serializers kept per process: a few KB each, and far more models than an operator has.
CACHED_VERSIONS = 256

NOT_IN_URL = re.compile(r"[\s\x00-\x1f\x7f-\x9f\\]")
DATA_URI_HEAD = re.compile(
    r"data:(?P<kind>[a-z0-9][a-z0-9!#$&^_.+-]*)/[a-z0-9][a-z0-9!#$&^_.+-]*"
    r"(?:;[a-z0-9!#$&^_.+-]+=[^;,\s]*)*(?P<base64>;base64)?",
    re.IGNORECASE,
)
# RFC 2397 sets no bound; a head is a media type and a parameter or two.
DATA_URI_HEAD_LENGTH = 256
BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
ASSET_URI = re.compile(r"runflow://assets/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
MEDIA_SCHEMES = ("http", "https", "data", "runflow")

# Enough digits for the exact difference of any two 64-bit floats within MIN_INTEGER..MAX_INTEGER.
EXACT = Context(prec=400)

Loc = list[str | int]


@dataclass(frozen=True, slots=True)
class ItemInput:
    """A valid item: the client_ref, and what the model is given, in declaration order."""

    client_ref: str | None
    values: dict[str, Any]


class ErrorList(list[ErrorItem]):
    """The first MAX_ERRORS errors, and how many came after: one body can hold a million of them."""

    def __init__(self, errors: Iterable[ErrorItem] = ()) -> None:
        super().__init__()
        self.left_out = 0
        self.is_complete = True  # False: something was not looked at any further, so `left_out` is a lower bound
        for error in errors:
            self.add(error)

    def add(self, error: ErrorItem) -> None:
        if len(self) < MAX_ERRORS:
            self.append(error)
        else:
            self.left_out += 1


def cap_errors(*lists: Sequence[ErrorItem]) -> list[ErrorItem]:
    """Join lists of errors into one of at most MAX_ERRORS; the last says how many were left out.

    The rule is from contract.md section 2.

    Give it the lists as they are (`cap_errors(own, errors)`): what an ErrorList has left out itself is
    counted too.
    """
    errors = [error for part in lists for error in part]
    left_out = sum(part.left_out for part in lists if isinstance(part, ErrorList))
    is_complete = all(part.is_complete for part in lists if isinstance(part, ErrorList))
    if len(errors) <= MAX_ERRORS and not left_out:
        return errors
    kept = errors[: MAX_ERRORS - 1]
    left_out += len(errors) - len(kept)
    msg = f"{left_out} more errors are left out." if is_complete else f"At least {left_out} more errors are left out."
    return [*kept, {"loc": ["body"], "msg": msg, "type": "too_many_errors"}]


def shown(text: object, limit: int = MAX_ECHO) -> str:
    """A customer's text as an answer may hold it: bounded, and with U+0000 and lone surrogates escaped."""
    text = str(text)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


# --- Faults -------------------------------------------------------------------------------------------------


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


class ItemRefused(serializers.ValidationError):
    """Faults of one item: the fields' by name, and keys that are no fields."""

    def __init__(self, fields: dict[str, Refused], unknown: list[str], unknown_total: int) -> None:
        self.fields = fields
        self.unknown = unknown
        self.unknown_total = unknown_total
        self.detail = {name: refused.detail for name, refused in fields.items()}
        self.detail.update({shown(key): [unknown_input()] for key in unknown})


def refuse(msg: str, code: str, path: tuple[str | int, ...] = ()) -> NoReturn:
    raise Refused([FaultDetail(msg, code, path)])


def unknown_input() -> FaultDetail:
    return FaultDetail("The model has no input of this name.", "unknown_input")


# --- What can be stored -------------------------------------------------------------------------------------


def is_storable(text: str) -> bool:
    """PostgreSQL's text and jsonb take neither U+0000 nor lone surrogates."""
    if "\0" in text:
        return False
    if text.isascii():  # a flag of the string: no cost
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


NOT_STORABLE = "Must not contain U+0000 or a lone surrogate."
TOO_DEEP = f"Must not be nested deeper than {MAX_DEPTH} arrays and objects."
BEYOND_64_BIT = "Must be within signed 64 bits."


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


# --- Fields: the types --------------------------------------------------------------------------------------


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


def url_fault(text: str) -> str | None:
    """Why a text is no absolute URL with a host, or None."""
    if len(text) > MAX_URL_LENGTH:
        return f"Must be a URL of at most {MAX_URL_LENGTH} characters."
    if NOT_IN_URL.search(text):
        return "Must be a URL without spaces, control characters and backslashes."
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # a property: raises ValueError for a port that is none
    except ValueError:
        return "Must be a URL."
    if not (parts.scheme and parts.hostname):
        return "Must be a URL with a scheme and a host."
    if "@" in parts.netloc:
        # It would be stored with the run and shown to whoever may read it.
        return "Must be a URL without a user name or password."
    return None


def data_uri_fault(text: str, kind: str) -> str | None:
    """Why a text is no `data:` URI (RFC 2397) of this kind (`file`: of any), or None."""
    comma = text.find(",", 0, DATA_URI_HEAD_LENGTH)
    head = DATA_URI_HEAD.fullmatch(text, 0, max(comma, 0))
    if head is None:
        return "Must be a data: URI with a media type, like data:image/png;base64,…"
    if kind != VariableType.FILE and head["kind"].lower() != kind:
        return f"Must be a data: URI with a media type of {kind}/…"
    if comma + 1 == len(text):
        return "Must be a data: URI that holds data."
    if head["base64"]:
        try:
            binascii.a2b_base64(text[comma + 1 :], strict_mode=True)
        except ValueError:  # also of a text that is not ASCII
            return "Must be a data: URI whose base64 is valid and padded."
    elif NOT_IN_URL.search(text, comma) or BAD_PERCENT.search(text, comma):
        return "Must be a data: URI whose data is percent-encoded."
    return None


# --- Validators ---------------------------------------------------------------------------------------------


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


# --- From declarations to a serializer ----------------------------------------------------------------------


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


class ItemSerializer(serializers.Serializer[Any]):
    """One item, `client_ref` already taken out. Unknown keys are refused."""

    _shared: ClassVar[ItemSerializer]

    @classmethod
    def shared(cls) -> ItemSerializer:
        """The one instance that validates. It keeps no state of a call, so all threads may use it."""
        if "_shared" not in cls.__dict__:
            instance = cls()
            len(instance.fields)  # copied from the class here, once, and not for each item
            cls._shared = instance
        return cls._shared

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        # DRF's own would take a method `validate_<name>` for every input name, and Serializer has some: an
        # input called "empty_values" would run `validate_empty_values`.
        if not isinstance(data, dict):
            raise serializers.ValidationError({"non_field_errors": ["Must be an object."]}, code="wrong_type")
        values: dict[str, Any] = {}
        faults: dict[str, Refused] = {}
        fields = self.fields.fields
        known = 0
        for name, field in fields.items():
            given = data.get(name, empty)
            if given is not empty:
                known += 1
            try:
                values[name] = field.run_validation(given)
            except SkipField:
                pass
            except Refused as refused:
                faults[name] = refused
        if faults or known != len(data):
            unknown = list(islice((key for key in data if key not in fields), MAX_ERRORS))
            raise ItemRefused(faults, unknown, len(data) - known)
        return values

    def run_validation(self, data: Any = empty) -> dict[str, Any]:
        # No validators across fields are declared, and DRF's default looks for them anew for each item.
        return self.to_internal_value(data)


def compile_serializer(inputs: Iterable[ModelInput]) -> type[ItemSerializer]:
    """Build the serializer for these declarations, which must have passed declarations.check_declaration.

    Its fields, and so the validated values, have the order of `inputs`.
    """
    return type("DeclaredItemSerializer", (ItemSerializer,), {one.name: _declared_field(one) for one in inputs})


def _declared_field(declaration: ModelInput) -> StrictField:
    rules = (declaration.variable_type_code, declaration.validator_code, declaration.validator_attrs)
    if declaration.is_required:
        return make_field(*rules, required=True)
    match declaration.default_behavior_code:
        case DefaultBehavior.USE_DEFAULT:
            default = make_field(*rules).run_validation(declaration.default_value)
            # A fresh one each time: what one run does to its list must not reach the next.
            return make_field(
                *rules, default=(lambda: deepcopy(default)) if isinstance(default, list | dict) else default
            )
        case DefaultBehavior.NULL:
            return make_field(*rules, default=None)
        case _:
            return make_field(*rules, required=False)


_compiled: OrderedDict[tuple[uuid.UUID, int], type[ItemSerializer]] = OrderedDict()
_compiled_lock = threading.Lock()


def validator_for(
    model_id: uuid.UUID, version: int, load_inputs: Callable[[], Iterable[ModelInput]]
) -> type[ItemSerializer]:
    """The serializer for a model's version, compiled when this process meets it for the first time.

    `load_inputs` reads the declarations then, and only then. Read the version before the inputs: whoever
    changes inputs raises the version in the same transaction, so they are never older than the version they
    are kept under.
    """
    key = (model_id, version)
    with _compiled_lock:
        if found := _compiled.get(key):
            _compiled.move_to_end(key)
            return found
    # Outside the lock: it reads the database. Two threads may both compile; either result serves.
    made = compile_serializer(load_inputs())
    with _compiled_lock:
        _compiled[key] = made
        while len(_compiled) > CACHED_VERSIONS:
            _compiled.popitem(last=False)
    return made


def validate_items(
    serializer_class: type[ItemSerializer],
    items: Sequence[Any],
    *,
    loc: Sequence[str | int] = ("body", "input"),
) -> tuple[list[ItemInput], ErrorList]:
    """Check every item; return the valid ones in order, and all faults of all items.

    `client_ref` is taken out of each before the model's rules apply. Use the items only when there are no
    errors: one invalid item refuses the whole request (contract.md section 3.1). Pass the errors through
    `cap_errors` before they are answered. How many items there may be is the caller's rule.
    """
    valid: list[ItemInput] = []
    errors = ErrorList()
    for index, item in enumerate(items):
        at: Loc = [*loc, index]
        client_ref = None
        ref_fault = None
        if isinstance(item, dict) and CLIENT_REF in item:
            client_ref = item[CLIENT_REF]
            item = {key: value for key, value in item.items() if key != CLIENT_REF}
            if ref_fault := client_ref_fault(client_ref):
                errors.add({"loc": [*at, CLIENT_REF], "msg": ref_fault[0], "type": ref_fault[1]})
        values = _validate(serializer_class, item, at, errors)
        if values is not None and ref_fault is None:
            valid.append(ItemInput(client_ref, values))
    return valid, errors


def validate_input(
    serializer_class: type[ItemSerializer], item: Any, *, loc: Sequence[str | int] = ("body", "input")
) -> tuple[dict[str, Any] | None, ErrorList]:
    """Check the `input` of a single run; its values, or None and all its faults.

    No `client_ref` is taken out: a run has its own beside the input (contract.md section 4).
    """
    errors = ErrorList()
    return _validate(serializer_class, item, [*loc], errors), errors


def _validate(serializer_class: type[ItemSerializer], item: Any, loc: Loc, errors: ErrorList) -> dict[str, Any] | None:
    if not isinstance(item, dict):
        errors.add({"loc": loc, "msg": "Must be an object.", "type": "wrong_type"})
        return None
    try:
        return serializer_class.shared().run_validation(item)
    except ItemRefused as refused:
        _add_refused(errors, loc, refused)
        return None


def _add_refused(errors: ErrorList, loc: Loc, refused: ItemRefused) -> None:
    for name, field in refused.fields.items():
        for detail in field.details:
            errors.add({"loc": [*loc, name, *detail.path], "msg": str(detail), "type": detail.code})
        if field.has_more:
            errors.left_out += 1
            errors.is_complete = False
    for key in refused.unknown:
        detail = unknown_input()
        errors.add({"loc": [*loc, shown(key)], "msg": str(detail), "type": detail.code})
    errors.left_out += refused.unknown_total - len(refused.unknown)


def client_ref_fault(client_ref: Any) -> tuple[str, str] | None:
    """Why a client_ref is refused, as (message, type), or None (contract.md section 3.1)."""
    if client_ref is None:
        return None
    if not isinstance(client_ref, str):
        return "Must be a string.", "wrong_type"
    if len(client_ref) > CLIENT_REF_LENGTH:
        return f"Must have at most {CLIENT_REF_LENGTH} characters.", "too_long"
    if not is_storable(client_ref):
        return NOT_STORABLE, "not_storable"
    return None
