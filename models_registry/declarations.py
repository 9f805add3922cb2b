"""Declarations that contradict themselves are refused when they are declared (contract.md section 5).

Whoever writes a ModelInput (import, admin) asks `check_declaration` first: validation.py takes declarations
at their word.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from models_registry.faults import Refused, json_fault
from models_registry.fields import make_field
from models_registry.models import MEDIA_TYPES, DefaultBehavior, ModelInput, ModelOutput, Validator, VariableType
from models_registry.templates import Fault
from models_registry.uris import MEDIA_SCHEMES
from models_registry.validation import CLIENT_REF

__all__ = [
    "DeclarationError",
    "Fault",
    "check_declaration",
    "check_model_path",
    "check_output",
    "check_value_rules",
    "refuse_bad_declaration",
]

NAME = re.compile(r"[a-z][a-z0-9_]*")
NAME_LENGTH = 100
# contract.md section 5.
OWNER = re.compile(r"[a-z0-9][a-z0-9_-]*")
OWNER_LENGTH = 100
SLUG_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]*")
SLUG_LENGTH = 200
# Those of contract.md section 5, and our own route of a model's JSON Schema.
RESERVED_SEGMENTS = frozenset({"runs", "batches", "inputs", "pricing", "examples", "schema"})
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

# Which validators say something about which type; `none` always fits.
FITTING: dict[VariableType, tuple[Validator, ...]] = {
    VariableType.STRING: (Validator.ONE_OF, Validator.LENGTH, Validator.PATTERN, Validator.URL),
    VariableType.INTEGER: (Validator.ONE_OF, Validator.RANGE),
    VariableType.NUMBER: (Validator.ONE_OF, Validator.RANGE),
    VariableType.BOOLEAN: (),
    **dict.fromkeys(MEDIA_TYPES, (Validator.URL,)),
    VariableType.ARRAY: (Validator.ITEMS,),
    VariableType.JSON: (Validator.JSON_SCHEMA,),
}
# The attributes of each validator, and whether it makes no sense without.
ATTRS: dict[Validator, dict[str, bool]] = {
    Validator.NONE: {},
    Validator.ONE_OF: {"values": True},
    Validator.RANGE: {"min": False, "max": False, "step": False},
    Validator.LENGTH: {"min": False, "max": False},
    Validator.PATTERN: {"regex": True},
    Validator.URL: {"schemes": False},
    Validator.ITEMS: {
        "type": True,
        "min_items": False,
        "max_items": False,
        "validator_code": False,
        "validator_attrs": False,
    },
    Validator.JSON_SCHEMA: {"schema": True},
}


class DeclarationError(ValueError):
    """A declaration contradicts itself. `faults` holds every reason."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def refuse_bad_declaration(declaration: ModelInput) -> None:
    """Raise DeclarationError with all faults of a declaration, if it has any."""
    if faults := check_declaration(declaration):
        raise DeclarationError(faults)


def check_declaration(declaration: ModelInput) -> list[Fault]:
    """Say in what an input's declaration contradicts itself or names what does not exist; [] for nothing.

    The paths of the faults are the names of the columns: `validator_attrs.min`. Nothing is assumed of the
    values' types, so that what was read from a file can be checked before it is stored.
    """
    faults = check_name(declaration.name)
    if declaration.name == CLIENT_REF:
        faults.append(Fault("name", f"{CLIENT_REF!r} is taken out of every item before the model sees it"))
    rule_faults = check_value_rules(
        declaration.variable_type_code, declaration.validator_code, declaration.validator_attrs
    )
    faults += rule_faults
    faults += _check_default(declaration)
    # Without sound rules there is nothing to hold the default against.
    if declaration.default_value is not None and not rule_faults:
        field = make_field(declaration.variable_type_code, declaration.validator_code, declaration.validator_attrs)
        faults += [
            fault.under("default_value") for fault in _value_faults(field.run_validation, declaration.default_value)
        ]
    return faults


def _check_default(declaration: ModelInput) -> list[Fault]:
    behavior, default = declaration.default_behavior_code, declaration.default_value
    if behavior not in DefaultBehavior.values:
        return [Fault("default_behavior_code", f"must be one of {_listed(DefaultBehavior.values)}")]
    is_required: object = declaration.is_required
    if not isinstance(is_required, bool):
        return [Fault("is_required", "must be true or false")]
    faults = []
    if declaration.is_required and behavior != DefaultBehavior.OMIT:
        faults.append(
            Fault("default_behavior_code", f"a required input is always given, {behavior!s} would never happen")
        )
    if declaration.is_required and default is not None:
        faults.append(Fault("default_value", "a required input is always given, a default would never be used"))
    if behavior == DefaultBehavior.USE_DEFAULT and default is None:
        faults.append(Fault("default_value", "use_default needs a default_value"))
    if behavior == DefaultBehavior.NULL and default is not None:
        faults.append(Fault("default_value", "default_behavior_code null puts null, a default would never be used"))
    return faults


def check_output(output: ModelOutput) -> list[Fault]:
    """Say everything that is wrong with an output's declaration."""
    faults = check_name(output.name)
    if output.variable_type_code not in VariableType.values:
        faults.append(Fault("variable_type_code", f"must be one of {_listed(VariableType.values)}"))
    return faults


def check_name(name: Any) -> list[Fault]:
    if isinstance(name, str) and len(name) <= NAME_LENGTH and NAME.fullmatch(name):
        return []
    return [Fault("name", f"must match ^{NAME.pattern}$ and have at most {NAME_LENGTH} characters")]


def check_model_path(owner: Any, slug: Any) -> list[Fault]:
    """Say what is wrong with a model's owner and slug as parts of a URL (contract.md section 5)."""
    faults = []
    if not (isinstance(owner, str) and len(owner) <= OWNER_LENGTH and OWNER.fullmatch(owner)):
        faults.append(Fault("owner", f"must match ^{OWNER.pattern}$ and have at most {OWNER_LENGTH} characters"))
    if not isinstance(slug, str) or len(slug) > SLUG_LENGTH:
        return [*faults, Fault("slug", f"must be text of at most {SLUG_LENGTH} characters")]
    for segment in slug.split("/"):
        if not SLUG_SEGMENT.fullmatch(segment):
            faults.append(Fault("slug", f"the segment {segment!r} must match ^{SLUG_SEGMENT.pattern}$"))
        elif segment in RESERVED_SEGMENTS:
            faults.append(Fault("slug", f"the segment {segment!r} is a route of the API"))
    return faults


def check_value_rules(type_code: Any, validator_code: Any, attrs: Any) -> list[Fault]:
    """Say what is wrong with a type, its validator and the validator's attributes.

    What passes, `fields.make_field` can build.
    """
    faults = []
    if type_code not in VariableType.values:
        faults.append(Fault("variable_type_code", f"must be one of {_listed(VariableType.values)}"))
    if validator_code not in Validator.values:
        faults.append(Fault("validator_code", f"must be one of {_listed(Validator.values)}"))
    if not isinstance(attrs, dict):
        faults.append(Fault("validator_attrs", "must be an object"))
    elif unstorable := json_fault(attrs):
        faults.append(Fault(_joined("validator_attrs", unstorable.path), str(unstorable)))
    if faults:
        return faults
    variable_type, validator = VariableType(type_code), Validator(validator_code)
    if validator != Validator.NONE and validator not in FITTING[variable_type]:
        fitting = _listed([Validator.NONE, *FITTING[variable_type]])
        return [Fault("validator_code", f"{validator} does not fit {variable_type}, which takes {fitting}")]
    known = ATTRS[validator]
    for key in attrs:
        if key not in known:
            takes = _listed(list(known)) if known else "none"
            faults.append(Fault(f"validator_attrs.{key}", f"unknown attribute; {validator} takes {takes}"))
    missing = [key for key, is_needed in known.items() if is_needed and key not in attrs]
    if missing:
        faults += [Fault(f"validator_attrs.{key}", f"{validator} needs this attribute") for key in missing]
    elif validator in CHECKS:
        faults += [fault.under("validator_attrs") for fault in CHECKS[validator](variable_type, attrs)]
    return faults


# --- The attributes of each validator -----------------------------------------------------------------------


def _check_one_of(variable_type: VariableType, attrs: dict[str, Any]) -> Iterator[Fault]:
    values = attrs["values"]
    if not isinstance(values, list) or not values:
        yield Fault("values", "must be a list with at least one value")
        return
    field = make_field(variable_type, Validator.NONE, {})
    seen: list[Any] = []
    for index, value in enumerate(values):
        wrong = _value_faults(field.run_validation, value)
        yield from (fault.under(f"values[{index}]") for fault in wrong)
        if not wrong and value in seen:
            yield Fault(f"values[{index}]", "is listed twice")
        seen.append(value)


def _check_range(variable_type: VariableType, attrs: dict[str, Any]) -> Iterator[Fault]:
    if not attrs:
        yield Fault("", "range needs min, max or step")
    # The bounds are values of the input's own type: 1.5 is no bound of an integer.
    field = make_field(variable_type, Validator.NONE, {})
    wrong = {
        key: faults for key, value in attrs.items() if key in ATTRS[Validator.RANGE]
        and (faults := _value_faults(field.run_validation, value))
    }  # fmt: skip
    for key, faults in wrong.items():
        yield from (fault.under(key) for fault in faults)
    if "min" in attrs and "max" in attrs and not wrong and attrs["min"] > attrs["max"]:
        yield Fault("min", f"is greater than max ({attrs['max']})")
    if "step" in attrs and "step" not in wrong and attrs["step"] <= 0:
        yield Fault("step", "must be greater than 0")


def _check_length(_variable_type: VariableType, attrs: dict[str, Any]) -> Iterator[Fault]:
    if not attrs:
        yield Fault("", "length needs min or max")
    yield from _check_counts(attrs, "min", "max")


def _check_pattern(_variable_type: VariableType, attrs: dict[str, Any]) -> Iterator[Fault]:
    if not isinstance(attrs["regex"], str):
        yield Fault("regex", "must be text")
        return
    try:
        with warnings.catch_warnings():
            # A FutureWarning says that the expression will mean something else in a later Python.
            warnings.simplefilter("error")
            re.compile(attrs["regex"])
    except (re.error, OverflowError, RecursionError, Warning) as error:
        yield Fault("regex", f"is no regular expression: {error}")


def _check_url(variable_type: VariableType, attrs: dict[str, Any]) -> Iterator[Fault]:
    if "schemes" not in attrs:
        return
    schemes = attrs["schemes"]
    if not isinstance(schemes, list) or not schemes:
        yield Fault("schemes", "must be a list with at least one scheme")
        return
    for index, scheme in enumerate(schemes):
        if not isinstance(scheme, str) or not SCHEME.fullmatch(scheme):
            yield Fault(f"schemes[{index}]", f"must match ^{SCHEME.pattern}$")
        elif variable_type in MEDIA_TYPES and scheme not in MEDIA_SCHEMES:
            yield Fault(f"schemes[{index}]", f"{variable_type} takes {_listed(list(MEDIA_SCHEMES))}")


def _check_items(_variable_type: VariableType, attrs: dict[str, Any]) -> Iterator[Fault]:
    yield from _check_counts(attrs, "min_items", "max_items")
    for fault in check_value_rules(
        attrs["type"], attrs.get("validator_code", Validator.NONE), attrs.get("validator_attrs", {})
    ):
        # Inside `items` the type is called `type`.
        yield (
            fault._replace(path=fault.path.replace("variable_type_code", "type", 1))
            if (fault.path == "variable_type_code")
            else fault
        )


def _check_json_schema(_variable_type: VariableType, attrs: dict[str, Any]) -> Iterator[Fault]:
    schema = attrs["schema"]
    if not isinstance(schema, dict | bool):
        yield Fault("schema", "must be a JSON Schema: an object or a boolean")
        return
    dialect = schema.get("$schema") if isinstance(schema, dict) else None
    if dialect is not None and not isinstance(dialect, str):
        yield Fault("schema.$schema", "must be text")
        return
    validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        validator_class.check_schema(schema)  # type: ignore[arg-type]  # booleans are schemas since draft 6
    except jsonschema.SchemaError as error:
        yield Fault(_joined("schema", tuple(error.absolute_path)), f"is no JSON Schema: {error.message}")
        return
    except RecursionError:
        yield Fault("schema", "is nested too deeply")
        return
    references = list(_check_references(schema, dialect))
    yield from references
    if not references and isinstance(schema, dict):
        try:
            probes: tuple[Any, ...] = (None, True, 0, "", [], {})
            for probe in probes:
                list(validator_class(schema).iter_errors(probe))
        except (RecursionError, Unresolvable) as error:
            yield Fault("schema", f"cannot be applied: {type(error).__name__}")


def _check_references(schema: Any, dialect: str | None) -> Iterator[Fault]:
    """References stay inside the schema: a customer's request must not make the server fetch a document."""
    resource = specification_with(dialect or "", default=DRAFT202012).create_resource(schema)
    resolver: Any = Registry().resolver_with_root(resource)
    todo: list[tuple[Any, str]] = [(schema, "schema")]
    while todo:
        here, path = todo.pop()
        if isinstance(here, list):
            todo.extend((inner, f"{path}[{index}]") for index, inner in enumerate(here))
        elif isinstance(here, dict):
            todo.extend((inner, f"{path}.{key}") for key, inner in here.items())
            for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
                target = here.get(keyword)
                if not isinstance(target, str):
                    continue  # a property of this name, or refused by the meta-schema
                if not target.startswith("#"):
                    yield Fault(f"{path}.{keyword}", 'must stay inside the schema: start with "#"')
                    continue
                try:
                    found = resolver.lookup(target).contents
                except (Unresolvable, ValueError, TypeError, LookupError):
                    found = None
                if not isinstance(found, dict | bool):
                    yield Fault(f"{path}.{keyword}", f"{target!r} is no schema inside this one")


def _check_counts(attrs: dict[str, Any], low: str, high: str) -> Iterator[Fault]:
    is_sound = True
    for key in (low, high):
        value = attrs.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            is_sound = False
            yield Fault(key, "must be an integer of at least 0")
    if is_sound and low in attrs and high in attrs and attrs[low] > attrs[high]:
        yield Fault(low, f"is greater than {high} ({attrs[high]})")


CHECKS: Mapping[Validator, Callable[[VariableType, dict[str, Any]], Iterator[Fault]]] = {
    Validator.ONE_OF: _check_one_of,
    Validator.RANGE: _check_range,
    Validator.LENGTH: _check_length,
    Validator.PATTERN: _check_pattern,
    Validator.URL: _check_url,
    Validator.ITEMS: _check_items,
    Validator.JSON_SCHEMA: _check_json_schema,
}


def _value_faults(run_validation: Callable[[Any], Any], value: Any) -> list[Fault]:
    """A customer's view of a declared value: what validation.py would answer to it."""
    try:
        if value is None:
            return [Fault("", "must not be null")]
        run_validation(value)
    except Refused as refused:
        return [Fault(_joined("", detail.path), f"is not valid: {detail}") for detail in refused.details]
    return []


def _joined(path: str, steps: tuple[str | int, ...]) -> str:
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _listed(words: list[Any]) -> str:
    return ", ".join(str(word) for word in words)
