"""Customers' values against a model's declared inputs (contract.md sections 2 and 5).

A DRF serializer is built from the declarations, once per model version. Every fault of every item is
reported, with a stable type and a path; nothing that a JSON parser can produce makes this module raise
anything else.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.fields import SkipField, empty

from models_registry.faults import FaultDetail, Refused
from models_registry.fields import StrictField, make_field
from models_registry.models import DefaultBehavior, ModelInput
from runflow.lib.faults import MAX_ERRORS, NOT_STORABLE, ErrorList, is_storable, shown

CLIENT_REF = "client_ref"
CLIENT_REF_LENGTH = 255
# Compiled serializers kept per process: a few KB each, and far more models than an operator has.
CACHED_VERSIONS = 256

Loc = list[str | int]


@dataclass(frozen=True, slots=True)
class ItemInput:
    """A valid item: the client_ref, and what the model is given, in declaration order."""

    client_ref: str | None
    values: dict[str, Any]


class ItemRefused(serializers.ValidationError):
    """Faults of one item: the fields' by name, and keys that are no fields."""

    def __init__(self, fields: dict[str, Refused], unknown: list[str], unknown_total: int) -> None:
        self.fields = fields
        self.unknown = unknown
        self.unknown_total = unknown_total
        self.detail = {name: refused.detail for name, refused in fields.items()}
        self.detail.update({shown(key): [unknown_input()] for key in unknown})


def unknown_input() -> FaultDetail:
    return FaultDetail("The model has no input of this name.", "unknown_input")


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
