"""What a model takes as JSON Schema (draft 2020-12): for forms, for generated clients, for checks before a request.

Every text that the server accepts, the schema accepts; the other way round as far as JSON Schema can say it. What it cannot
is said in descriptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import jsonschema

from models_registry.faults import MAX_DEPTH, MAX_INTEGER, MIN_INTEGER
from models_registry.fields import EXACT, exact
from models_registry.models import MEDIA_TYPES, DefaultBehavior, Model, ModelInput, Validator, VariableType
from models_registry.regexes import END, whole_match
from models_registry.uris import DATA_URI_HEAD_LENGTH, MAX_URL_LENGTH, MEDIA_SCHEMES
from models_registry.validation import CLIENT_REF, CLIENT_REF_LENGTH

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# More values than a form would list; then only their description tells of the steps.
MOST_LISTED = 1000

Rule = dict[str, Any]
Attrs = Mapping[str, Any]

_NOT_NULL = ["string", "number", "boolean", "object", "array"]
_GENERAL = (
    "An input that is null counts as not given. Texts hold neither U+0000 nor lone surrogates; numbers inside arrays and "
    f"objects lie within signed 64 bits; arrays and objects are nested at most {MAX_DEPTH} deep. In a batch each element of "
    f"`input` may also have a `{CLIENT_REF}`, a string of at most {CLIENT_REF_LENGTH} characters."
)


def input_schema(model: Model, inputs: Iterable[ModelInput]) -> Rule:
    """The JSON Schema of one run's `input`. The declarations must have passed declarations.check_declaration."""
    declared = list(inputs)
    return {
        "$schema": DIALECT,
        "title": model.name,
        "description": _joined(model.description, _GENERAL),
        "type": "object",
        "properties": {one.name: _property(one) for one in declared},
        "required": [one.name for one in declared if one.is_required],
        "additionalProperties": False,
    }


def _property(declaration: ModelInput) -> Rule:
    notes: list[str] = []
    rule = _rule(
        declaration.variable_type_code,
        declaration.validator_code,
        declaration.validator_attrs,
        notes=notes,
        resource=f"urn:uuid:{declaration.pk}",
    )
    shown: Rule = {"title": declaration.display_name or declaration.name}
    if description := _joined(declaration.description, *notes):
        shown["description"] = description
    if declaration.default_behavior_code == DefaultBehavior.USE_DEFAULT:
        shown["default"] = declaration.default_value
    elif declaration.default_behavior_code == DefaultBehavior.NULL:
        shown["default"] = None
    return shown | (rule if declaration.is_required else {"anyOf": [rule, {"type": "null"}]})


def _rule(type_code: str, validator_code: str, attrs: Attrs, *, notes: list[str], resource: str) -> Rule:
    """What a value that is not null must be. Adds to `notes` what the rule does not say."""
    variable_type, validator = VariableType(type_code), Validator(validator_code)
    if variable_type in MEDIA_TYPES:
        schemes = attrs.get("schemes") if validator == Validator.URL else None
        return _media(variable_type, schemes or MEDIA_SCHEMES, notes)
    if variable_type == VariableType.ARRAY:
        return _array(attrs, notes, resource) if validator == Validator.ITEMS else {"type": "array"}
    if variable_type == VariableType.JSON:
        rule: Rule = {"type": _NOT_NULL}
        return rule | _embedded(attrs["schema"], notes, resource) if validator == Validator.JSON_SCHEMA else rule
    rule = {"type": variable_type.value}
    match validator:
        case Validator.ONE_OF:
            return rule | {"enum": list(attrs["values"])}
        case Validator.LENGTH:
            return rule | {name: attrs[key] for key, name in _LENGTHS.items() if key in attrs}
        case Validator.PATTERN:
            return rule | _pattern(attrs["regex"], notes)
        case Validator.URL:
            return rule | _url(attrs.get("schemes", ("http", "https")), notes)
    if variable_type in (VariableType.INTEGER, VariableType.NUMBER):
        return rule | _range(attrs, notes)
    return rule


_LENGTHS = {"min": "minLength", "max": "maxLength"}


def _array(attrs: Attrs, notes: list[str], resource: str) -> Rule:
    element = _rule(
        attrs["type"],
        attrs.get("validator_code", Validator.NONE),
        attrs.get("validator_attrs") or {},
        notes=notes,
        resource=resource,
    )
    bounds = {"min_items": "minItems", "max_items": "maxItems"}
    return {"type": "array", "items": element} | {name: attrs[key] for key, name in bounds.items() if key in attrs}


def _range(attrs: Attrs, notes: list[str]) -> Rule:
    low, high, step = (attrs.get(name) for name in ("min", "max", "step"))
    rule: Rule = {
        "minimum": MIN_INTEGER if low is None else low,
        "maximum": MAX_INTEGER if high is None else high,
    }
    if step is None:
        return rule
    base, exact_step = exact(low or 0), exact(step)
    if _is_whole(exact_step) and not EXACT.remainder(base, exact_step):
        return rule | {"multipleOf": int(exact_step)}
    # multipleOf counts from 0, and binary fractions make many of its readers deny that 0.3 is a multiple of 0.1.
    notes.append(f"In steps of {step} from {low or 0}.")
    if low is not None and high is not None:
        count = int(EXACT.divide_int(EXACT.subtract(exact(high), base), exact_step)) + 1
        if count <= MOST_LISTED:
            return {"enum": [_number(EXACT.fma(exact_step, Decimal(index), base)) for index in range(count)]}
    return rule


def _is_whole(number: Decimal) -> bool:
    return not EXACT.remainder(number, Decimal(1))


def _number(number: Decimal) -> int | float:
    return int(number) if _is_whole(number) else float(number)


def _pattern(regex: str, notes: list[str]) -> Rule:
    pattern = whole_match(regex)
    if pattern is None:
        notes.append(f"The whole text must match this regular expression, as Python reads it: {regex}")
        return {}
    return {"pattern": pattern}


def _embedded(schema: Any, notes: list[str], resource: str) -> Rule:
    """A declared schema, as a resource of its own: its references stay inside it."""
    if isinstance(schema, bool):
        return {} if schema else {"allOf": [False]}
    validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    own = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    if validator_class is not jsonschema.Draft202012Validator:
        notes.append(
            f"Must satisfy the schema in the input's validator_attrs, which is written in {schema['$schema']}."
        )
        return {}
    return {"allOf": [{"$id": resource, **own}]}


# --- Addresses ----------------------------------------------------------------------------------------------------------
# uris.py in the words of regular expressions.

_SPACES = r"\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_NOT_IN_URL = rf"\x00-\x20\x7f-\xa0\\{_SPACES}"
_NOT_IN_PARAMETER = rf";,\t-\r\x1c-\x20\x85\xa0{_SPACES}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*"
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"
_PERCENT_ENCODED = rf"(?:[^%{_NOT_IN_URL}]|%[0-9A-Fa-f]{{2}})+"
_HEX = "[0-9A-Fa-f]"
_ASSET = f"^runflow://[Aa][Ss][Ss][Ee][Tt][Ss]/{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}{END}"


def _url(schemes: Sequence[str], notes: list[str]) -> Rule:
    notes.append("A URL with a host, without a user name or password.")
    return _url_rule(schemes)


def _url_rule(schemes: Sequence[str]) -> Rule:
    names = "|".join(_any_case(scheme) for scheme in schemes)
    return {
        "pattern": f"^(?:{names})://[^/?#@{_NOT_IN_URL}]+(?:[/?#][^{_NOT_IN_URL}]*)?{END}",
        "maxLength": MAX_URL_LENGTH,
    }


def _media(variable_type: VariableType, schemes: Sequence[str], notes: list[str]) -> Rule:
    ways, rules = [], []
    if web := [scheme for scheme in ("http", "https") if scheme in schemes]:
        ways.append(f"a URL ({' or '.join(web)}) with a host, without a user name or password")
        rules.append(_url_rule(web))
    if "data" in schemes:
        ways.append("a data: URI")
        rules.append({"pattern": _data_pattern(variable_type)})
    if "runflow" in schemes:
        ways.append("runflow://assets/{id}")
        rules.append({"pattern": _ASSET})
    notes.append(f"{variable_type.label}: {', or '.join(ways)}.")
    return {"type": "string"} | (rules[0] if len(rules) == 1 else {"anyOf": rules})


def _data_pattern(variable_type: VariableType) -> str:
    kind = _NAME if variable_type == VariableType.FILE else _any_case(variable_type)
    head = f"data:{kind}/{_NAME}(?:;[A-Za-z0-9!#$&^_.+-]+=[^{_NOT_IN_PARAMETER}]*)*"
    data = f"(?:;{_any_case('base64')},{_BASE64}|,{_PERCENT_ENCODED})"
    return f"^(?=[^,]{{0,{DATA_URI_HEAD_LENGTH - 1}}},){head}{data}{END}"


def _any_case(name: str) -> str:
    """A regular expression for a name in capitals, small letters, or both."""
    return "".join(
        f"[{each.upper()}{each}]" if each.isalpha() else f"\\{each}" if each in ".+" else each for each in name
    )


def _joined(*texts: str) -> str:
    return " ".join(filter(None, texts))
