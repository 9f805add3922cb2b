"""Declarations that contradict themselves are refused, with every reason."""

from __future__ import annotations

from typing import Any

import pytest

from models_registry.declarations import (
    DeclarationError,
    check_declaration,
    check_model_path,
    check_output,
    refuse_bad_declaration,
)
from models_registry.models import ModelInput, ModelOutput

TYPES = "string, integer, number, boolean, image, video, audio, file, array, json"
VALIDATORS = "none, one_of, range, length, pattern, url, items, json_schema"


def declare(**overrides: Any) -> ModelInput:
    return ModelInput(**{"name": "x", "variable_type_code": "string"} | overrides)


def reasons(declaration: ModelInput) -> list[str]:
    return [str(fault) for fault in check_declaration(declaration)]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"is_required": True},
        {"default_behavior_code": "null"},
        {"default_value": "the template's own"},
        {"default_behavior_code": "use_default", "default_value": "a"},
        {"validator_code": "one_of", "validator_attrs": {"values": ["1K", "2K"]}},
        {"validator_code": "length", "validator_attrs": {"min": 0, "max": 0}},
        {"validator_code": "pattern", "validator_attrs": {"regex": r"\d+"}},
        {"validator_code": "url"},
        {"validator_code": "url", "validator_attrs": {"schemes": ["s3"]}, "default_value": "s3://bucket/key"},
        {"variable_type_code": "integer", "validator_code": "range", "validator_attrs": {"min": 1.0, "step": 2}},
        {"variable_type_code": "integer", "validator_code": "one_of", "validator_attrs": {"values": [1, 2]}},
        {"variable_type_code": "integer", "default_behavior_code": "use_default", "default_value": 0},
        {"variable_type_code": "number", "validator_code": "range", "validator_attrs": {"min": -0.5, "max": 1}},
        {"variable_type_code": "boolean", "default_behavior_code": "use_default", "default_value": False},
        {"variable_type_code": "image", "validator_code": "url", "validator_attrs": {"schemes": ["https", "runflow"]}},
        {"variable_type_code": "file", "default_value": "https://a.example/x"},
        {"variable_type_code": "array"},
        {"variable_type_code": "array", "default_behavior_code": "use_default", "default_value": []},
        {
            "variable_type_code": "array",
            "validator_code": "items",
            "validator_attrs": {
                "type": "string",
                "min_items": 1,
                "max_items": 2,
                "validator_code": "length",
                "validator_attrs": {"max": 3},
            },
            "default_value": ["abc"],
        },
        {"variable_type_code": "json"},
        {"variable_type_code": "json", "validator_code": "json_schema", "validator_attrs": {"schema": True}},
        {
            "variable_type_code": "json",
            "validator_code": "json_schema",
            "validator_attrs": {
                "schema": {
                    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
                    "$ref": "#/$defs/node",
                }
            },
        },
        {
            "variable_type_code": "json",
            "validator_code": "json_schema",
            "validator_attrs": {"schema": {"properties": {"$ref": {"type": "string"}}}},
        },
    ],
)
def test_sound_declarations_pass(values: dict[str, Any]) -> None:
    assert reasons(declare(**values)) == []


@pytest.mark.parametrize("name", ["", "1a", "A", "a-b", "a b", "ä", "a\n", "_a", "a" * 101, None, 5, ["a"]])
def test_names_are_those_of_variables(name: Any) -> None:
    assert reasons(declare(name=name)) == ["name: must match ^[a-z][a-z0-9_]*$ and have at most 100 characters"]


def test_client_ref_is_no_inputs_name() -> None:
    assert reasons(declare(name="client_ref")) == [
        "name: 'client_ref' is taken out of every item before the model sees it"
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"variable_type_code": "text"}, [f"variable_type_code: must be one of {TYPES}"]),
        ({"variable_type_code": None}, [f"variable_type_code: must be one of {TYPES}"]),
        ({"variable_type_code": ["string"]}, [f"variable_type_code: must be one of {TYPES}"]),
        ({"validator_code": "regex"}, [f"validator_code: must be one of {VALIDATORS}"]),
        ({"validator_code": {}}, [f"validator_code: must be one of {VALIDATORS}"]),
        ({"validator_attrs": None}, ["validator_attrs: must be an object"]),
        ({"validator_attrs": [1]}, ["validator_attrs: must be an object"]),
        ({"validator_attrs": {"min": 1}}, ["validator_attrs.min: unknown attribute; none takes none"]),
        (
            {"default_behavior_code": "skip"},
            ["default_behavior_code: must be one of use_default, omit, null"],
        ),
        (
            {"variable_type_code": "x", "validator_code": "y", "default_behavior_code": "z", "validator_attrs": 1},
            [
                f"variable_type_code: must be one of {TYPES}",
                f"validator_code: must be one of {VALIDATORS}",
                "validator_attrs: must be an object",
                "default_behavior_code: must be one of use_default, omit, null",
            ],
        ),
    ],
)
def test_unknown_codes_are_refused(values: dict[str, Any], expected: list[str]) -> None:
    assert reasons(declare(**values)) == expected


@pytest.mark.parametrize(
    ("type_code", "validator_code", "takes"),
    [
        ("string", "range", "none, one_of, length, pattern, url"),
        ("string", "items", "none, one_of, length, pattern, url"),
        ("integer", "length", "none, one_of, range"),
        ("number", "pattern", "none, one_of, range"),
        ("boolean", "one_of", "none"),
        ("image", "pattern", "none, url"),
        ("file", "length", "none, url"),
        ("array", "json_schema", "none, items"),
        ("json", "items", "none, json_schema"),
    ],
)
def test_a_validator_must_fit_the_type(type_code: str, validator_code: str, takes: str) -> None:
    assert reasons(declare(variable_type_code=type_code, validator_code=validator_code)) == [
        f"validator_code: {validator_code} does not fit {type_code}, which takes {takes}"
    ]


def wrong_attrs() -> list[tuple[str, str, dict[str, Any], list[str]]]:
    count = "must be an integer of at least 0"
    return [
        ("string", "one_of", {}, ["values: one_of needs this attribute"]),
        ("string", "one_of", {"values": []}, ["values: must be a list with at least one value"]),
        ("string", "one_of", {"values": "abc"}, ["values: must be a list with at least one value"]),
        ("string", "one_of", {"values": ["a", 1, None]}, [
            "values[1]: is not valid: Must be a string.", "values[2]: must not be null"]),
        ("string", "one_of", {"values": ["a", "a"]}, ["values[1]: is listed twice"]),
        ("integer", "one_of", {"values": [1, True, 1.5]}, [
            "values[1]: is not valid: Must be an integer.", "values[2]: is not valid: Must be an integer."]),
        ("string", "length", {}, ["length needs min or max"]),
        ("string", "length", {"min": 3, "max": 2}, ["min: is greater than max (2)"]),
        ("string", "length", {"min": -1, "max": 1.5}, [f"min: {count}", f"max: {count}"]),
        ("string", "length", {"min": True, "max": None}, [f"min: {count}", f"max: {count}"]),
        ("string", "length", {"max": 3, "most": 4}, ["most: unknown attribute; length takes min, max"]),
        ("string", "pattern", {}, ["regex: pattern needs this attribute"]),
        ("string", "pattern", {"regex": 5}, ["regex: must be text"]),
        ("string", "pattern", {"regex": "a["}, [
            "regex: is no regular expression: unterminated character set at position 1"]),
        ("string", "pattern", {"regex": "a{99999999999}"}, [
            "regex: is no regular expression: the repetition number is too large"]),
        ("string", "pattern", {"regex": "[[]9]"}, [
            "regex: is no regular expression: Possible nested set at position 1"]),
        ("string", "url", {"schemes": []}, ["schemes: must be a list with at least one scheme"]),
        ("string", "url", {"schemes": "https"}, ["schemes: must be a list with at least one scheme"]),
        ("string", "url", {"schemes": ["https", "HTTP:", 1]}, [
            "schemes[1]: must match ^[a-z][a-z0-9+.-]*$", "schemes[2]: must match ^[a-z][a-z0-9+.-]*$"]),
        ("image", "url", {"schemes": ["ftp"]}, ["schemes[0]: image takes http, https, data, runflow"]),
        ("integer", "range", {}, ["range needs min, max or step"]),
        ("integer", "range", {"min": 2, "max": 1}, ["min: is greater than max (1)"]),
        ("integer", "range", {"min": 1.5}, ["min: is not valid: Must be an integer."]),
        ("integer", "range", {"min": "1", "max": None, "step": True}, [
            "min: is not valid: Must be an integer.", "max: must not be null", "step: is not valid: Must be an integer."]),
        ("integer", "range", {"max": 2**63}, ["max: Must be within signed 64 bits."]),
        ("number", "range", {"step": 0}, ["step: must be greater than 0"]),
        ("number", "range", {"step": -0.1}, ["step: must be greater than 0"]),
        ("number", "range", {"max": float("nan")}, ["max: Must be a finite number."]),
        ("array", "items", {}, ["type: items needs this attribute"]),
        ("array", "items", {"type": "text"}, [f"type: must be one of {TYPES}"]),
        ("array", "items", {"type": "string", "min_items": 2, "max_items": 1}, [
            "min_items: is greater than max_items (1)"]),
        ("array", "items", {"type": "string", "max_items": -1}, [f"max_items: {count}"]),
        ("array", "items", {"type": "integer", "validator_code": "length"}, [
            "validator_code: length does not fit integer, which takes none, one_of, range"]),
        ("array", "items", {"type": "array", "validator_code": "items", "validator_attrs": {
            "type": "string", "validator_code": "pattern", "validator_attrs": {"regex": "("}}}, [
            "validator_attrs.validator_attrs.regex: is no regular expression: "
            "missing ), unterminated subpattern at position 0"]),
        ("array", "items", {"type": "string", "validator_attrs": 5}, ["validator_attrs: must be an object"]),
        ("json", "json_schema", {}, ["schema: json_schema needs this attribute"]),
        ("json", "json_schema", {"schema": "object"}, ["schema: must be a JSON Schema: an object or a boolean"]),
        ("json", "json_schema", {"schema": {"$schema": 5}}, ["schema.$schema: must be text"]),
        ("json", "json_schema", {"schema": {"properties": {"a": {"type": "text"}}}}, [
            "schema.properties.a.type: is no JSON Schema: 'text' is not valid under any of the given schemas"]),
        ("json", "json_schema", {"schema": {"pattern": "["}}, [
            "schema.pattern: is no JSON Schema: '[' is not a 'regex'"]),
        ("json", "json_schema", {"schema": {"$ref": "https://schemas.example/a.json"}}, [
            'schema.$ref: must stay inside the schema: start with "#"']),
        ("json", "json_schema", {"schema": {"items": {"$dynamicRef": "other#a"}}}, [
            'schema.items.$dynamicRef: must stay inside the schema: start with "#"']),
        ("json", "json_schema", {"schema": {"allOf": [{"$ref": "#/$defs/none"}]}}, [
            "schema.allOf[0].$ref: '#/$defs/none' is no schema inside this one"]),
        ("json", "json_schema", {"schema": {"required": ["a"], "$ref": "#/required"}}, [
            "schema.$ref: '#/required' is no schema inside this one"]),
        ("json", "json_schema", {"schema": {"$ref": "#"}}, ["schema: cannot be applied: RecursionError"]),
        ("json", "json_schema", {"schema": {"const": "\ud800"}}, [
            "schema.const: Must not contain U+0000 or a lone surrogate."]),
    ]  # fmt: skip


@pytest.mark.parametrize(("type_code", "validator_code", "attrs", "expected"), wrong_attrs())
def test_attributes_must_make_sense(
    type_code: str, validator_code: str, attrs: dict[str, Any], expected: list[str]
) -> None:
    declaration = declare(variable_type_code=type_code, validator_code=validator_code, validator_attrs=attrs)
    found = [
        reason.removeprefix("validator_attrs").removeprefix(".").removeprefix(": ") for reason in reasons(declaration)
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"default_behavior_code": "use_default"}, ["default_value: use_default needs a default_value"]),
        (
            {"is_required": True, "default_behavior_code": "use_default", "default_value": "a"},
            [
                "default_behavior_code: a required input is always given, use_default would never happen",
                "default_value: a required input is always given, a default would never be used",
            ],
        ),
        (
            {"is_required": True, "default_behavior_code": "null"},
            ["default_behavior_code: a required input is always given, null would never happen"],
        ),
        (
            {"is_required": True, "default_value": "a"},
            ["default_value: a required input is always given, a default would never be used"],
        ),
        ({"is_required": "yes"}, ["is_required: must be true or false"]),
        (
            {"default_behavior_code": "null", "default_value": "a"},
            ["default_value: default_behavior_code null puts null, a default would never be used"],
        ),
        (
            {"default_behavior_code": "use_default", "default_value": 5},
            ["default_value: is not valid: Must be a string."],
        ),
        (
            {"validator_code": "one_of", "validator_attrs": {"values": ["a"]}, "default_value": "b"},
            ['default_value: is not valid: Must be one of: "a"'],
        ),
        (
            {
                "variable_type_code": "array",
                "validator_code": "items",
                "validator_attrs": {"type": "integer"},
                "default_value": [1, "2", None],
            },
            [
                "default_value[1]: is not valid: Must be an integer.",
                "default_value[2]: is not valid: Must not be null.",
            ],
        ),
        ({"default_value": "\0"}, ["default_value: is not valid: Must not contain U+0000 or a lone surrogate."]),
    ],
)
def test_defaults_must_be_possible_and_valid(values: dict[str, Any], expected: list[str]) -> None:
    assert reasons(declare(**values)) == expected


def test_all_reasons_are_raised_at_once() -> None:
    with pytest.raises(DeclarationError) as refused:
        refuse_bad_declaration(declare(name="X", variable_type_code="text"))
    assert [fault.path for fault in refused.value.faults] == ["name", "variable_type_code"]
    refuse_bad_declaration(declare())


@pytest.mark.parametrize(
    ("owner", "slug"),
    [("google", "nano-banana-pro/edit"), ("0_a-b", "v1.5_x"), ("a" * 100, "b" * 200), ("runs", "my-runs/runs2")],
)
def test_model_paths_of_the_contract_pass(owner: str, slug: str) -> None:
    assert check_model_path(owner, slug) == []


@pytest.mark.parametrize(
    ("owner", "slug", "expected"),
    [
        *(
            (owner, "a", ["owner: must match ^[a-z0-9][a-z0-9_-]*$ and have at most 100 characters"])
            for owner in ("", "A", "-a", "a.b", "a/b", "a\n", "a" * 101, None, 5)
        ),
        *(
            ("a", slug, [f"slug: the segment {part!r} must match ^[a-z0-9][a-z0-9._-]*$"])
            for slug, part in [("", ""), ("A", "A"), ("a/", ""), ("a/../b", ".."), ("a/_b", "_b"), ("a\n", "a\n")]
        ),
        *(
            ("a", f"x/{word}", [f"slug: the segment {word!r} is a route of the API"])
            for word in ("runs", "batches", "inputs", "pricing", "examples", "schema")
        ),
        ("a", "b" * 201, ["slug: must be text of at most 200 characters"]),
        ("a", None, ["slug: must be text of at most 200 characters"]),
    ],
)
def test_other_model_paths_are_refused(owner: Any, slug: Any, expected: list[str]) -> None:
    assert [str(fault) for fault in check_model_path(owner, slug)] == expected


def test_outputs_have_a_name_and_a_type() -> None:
    assert check_output(ModelOutput(name="image", variable_type_code="image")) == []
    assert [str(fault) for fault in check_output(ModelOutput(name="", variable_type_code=""))] == [
        "name: must match ^[a-z][a-z0-9_]*$ and have at most 100 characters",
        f"variable_type_code: must be one of {TYPES}",
    ]
