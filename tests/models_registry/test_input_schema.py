"""The JSON Schema of a model's input says what the server says."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models_registry.declarations import check_declaration
from models_registry.input_schema import MOST_LISTED, input_schema
from models_registry.models import Model, ModelInput
from models_registry.regexes import END
from models_registry.validation import compile_serializer, validate_input

ASSET = "runflow://assets/01890a5d-ac96-774b-bcce-b302099a8057"


def declare(**values: Any) -> ModelInput:
    declaration = ModelInput(id=UUID(int=7), **{"name": "value"} | values)
    assert check_declaration(declaration) == []
    return declaration


def schema_of(*inputs: ModelInput) -> dict[str, Any]:
    schema = input_schema(Model(owner="acme", slug="a", name="A", description="Does it."), inputs)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    return schema


def rule_of(*, required: bool = True, **values: Any) -> dict[str, Any]:
    """What the schema says of one input, without its words."""
    [shown] = schema_of(declare(is_required=required, **values))["properties"].values()
    return {key: value for key, value in shown.items() if key not in ("title", "description")}


def answers(inputs: Iterable[ModelInput], item: Any) -> tuple[bool, bool]:
    """Whether the server takes an item, and whether the schema does."""
    declared = list(inputs)
    taken, _ = validate_input(compile_serializer(declared), item)
    return taken is not None, jsonschema.Draft202012Validator(schema_of(*declared)).is_valid(item)


# --- The translation, one line each -----------------------------------------------------------------------------------


def test_a_schema_has_a_head_names_what_is_required_and_refuses_the_rest() -> None:
    schema = schema_of(
        declare(name="b", variable_type_code="string", is_required=True, display_name="Bee", description="A bee."),
        declare(name="a", variable_type_code="boolean"),
    )
    assert schema.pop("description").startswith("Does it. An input that is null counts as not given. ")
    assert schema == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A",
        "type": "object",
        "properties": {
            "b": {"title": "Bee", "description": "A bee.", "type": "string"},
            "a": {"title": "a", "anyOf": [{"type": "boolean"}, {"type": "null"}]},
        },
        "required": ["b"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"variable_type_code": "integer"}, {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}),
        ({"variable_type_code": "array"}, {"type": "array"}),
        ({"variable_type_code": "json"}, {"type": ["string", "number", "boolean", "object", "array"]}),
        (
            {"variable_type_code": "string", "validator_code": "one_of", "validator_attrs": {"values": ["1K", "2K"]}},
            {"type": "string", "enum": ["1K", "2K"]},
        ),
        (
            {"variable_type_code": "integer", "validator_code": "range", "validator_attrs": {"min": 64, "step": 8}},
            {"type": "integer", "minimum": 64, "maximum": 2**63 - 1, "multipleOf": 8},
        ),
        (
            {
                "variable_type_code": "integer",
                "validator_code": "range",
                "validator_attrs": {"min": 1, "max": 8, "step": 2},
            },
            {"type": "integer", "enum": [1, 3, 5, 7]},
        ),
        (
            {
                "variable_type_code": "number",
                "validator_code": "range",
                "validator_attrs": {"min": 0, "max": 0.5, "step": 0.1},
            },
            {"type": "number", "enum": [0, 0.1, 0.2, 0.3, 0.4, 0.5]},
        ),
        (
            {"variable_type_code": "number", "validator_code": "range", "validator_attrs": {"min": 0, "step": 0.1}},
            {"type": "number", "minimum": 0, "maximum": 2**63 - 1},
        ),
        (
            {"variable_type_code": "string", "validator_code": "length", "validator_attrs": {"min": 1, "max": 9}},
            {"type": "string", "minLength": 1, "maxLength": 9},
        ),
        (
            {"variable_type_code": "string", "validator_code": "pattern", "validator_attrs": {"regex": "a|bc"}},
            {"type": "string", "pattern": f"^(?:a|bc){END}"},
        ),
        (
            {"variable_type_code": "string", "validator_code": "pattern", "validator_attrs": {"regex": r"\w+"}},
            {"type": "string"},
        ),
        (
            {
                "variable_type_code": "array",
                "validator_code": "items",
                "validator_attrs": {
                    "type": "integer",
                    "min_items": 1,
                    "max_items": 4,
                    "validator_code": "one_of",
                    "validator_attrs": {"values": [1, 2]},
                },
            },
            {"type": "array", "items": {"type": "integer", "enum": [1, 2]}, "minItems": 1, "maxItems": 4},
        ),
        (
            {
                "variable_type_code": "json",
                "validator_code": "json_schema",
                "validator_attrs": {"schema": {"$id": "x", "$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}},
            },
            {
                "type": ["string", "number", "boolean", "object", "array"],
                "allOf": [{"$id": f"urn:uuid:{UUID(int=7)}", "$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}],
            },
        ),
    ],
    ids=lambda part: json.dumps(part)[:60],
)
def test_each_declaration_has_its_rule(values: dict[str, Any], rule: dict[str, Any]) -> None:
    assert rule_of(**values) == rule
    assert rule_of(required=False, **values) == {"anyOf": [rule, {"type": "null"}]}


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"default_behavior_code": "use_default", "default_value": "x"}, {"default": "x"}),
        ({"default_behavior_code": "null"}, {"default": None}),
        ({"default_behavior_code": "omit"}, {}),
    ],
)
def test_defaults_are_told(values: dict[str, Any], shown: dict[str, Any]) -> None:
    rule = rule_of(required=False, variable_type_code="string", **values)
    assert rule == shown | {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"variable_type_code": "image"},
            "Image: a URL (http or https) with a host, without a user name or password, or a data: URI, "
            "or runflow://assets/{id}.",
        ),
        (
            {"variable_type_code": "string", "validator_code": "pattern", "validator_attrs": {"regex": r"\w+"}},
            r"The whole text must match this regular expression, as Python reads it: \w+",
        ),
        (
            {"variable_type_code": "number", "validator_code": "range", "validator_attrs": {"min": 1, "step": 0.1}},
            "In steps of 0.1 from 1.",
        ),
        (
            {
                "variable_type_code": "json",
                "validator_code": "json_schema",
                "validator_attrs": {"schema": {"$schema": "http://json-schema.org/draft-07/schema#"}},
            },
            "Must satisfy the schema in the input's validator_attrs, which is written in "
            "http://json-schema.org/draft-07/schema#.",
        ),
    ],
)
def test_what_the_schema_cannot_say_stands_in_words(values: dict[str, Any], words: str) -> None:
    [shown] = schema_of(declare(description="It.", **values))["properties"].values()
    assert shown["description"] == f"It. {words}"


def test_steps_are_listed_up_to_a_thousand_values() -> None:
    values: dict[str, Any] = {"variable_type_code": "number", "validator_code": "range"}
    listed = rule_of(**values, validator_attrs={"min": 0, "max": 99.9, "step": 0.1})
    assert len(listed["enum"]) == MOST_LISTED
    beyond = rule_of(**values, validator_attrs={"min": 0, "max": 100, "step": 0.1})
    assert beyond == {"type": "number", "minimum": 0, "maximum": 100}


# --- The same answers -------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
numbers = (
    st.integers(-20, 20)
    | st.integers(-(2**63) - 2, 2**63 + 1)
    | st.integers(-40, 40).map(lambda each: each / 10)
    | st.floats(-(2.0**53), 2.0**53)
)
small = st.integers(-100, 100)
values = st.recursive(
    st.none() | st.booleans() | small | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
PATTERNS = ["[a-c]+", r"\d{2}-\d{2}", "a|ab|", "^x.y$", r"[^\s]*", "#[0-9a-fA-F]{6}"]
patterned = st.sampled_from(PATTERNS).flatmap(st.from_regex) | st.text("abxy0-\n#\u0660", max_size=7)
base64 = st.text("AZaz09+/=", max_size=8)
data_uris = st.builds(
    "{}:{}/{}{}{},{}".format,
    st.sampled_from(["data", "Data"]),
    st.sampled_from(["image", "IMAGE", "video", "audio", "text", "", "ima\u017fe"]),
    st.sampled_from(["png", "svg+xml", "", "p g", "a" * 250]),
    st.sampled_from(["", ";charset=utf-8", ";q=", ";", ";a=b c", ";a=\u2028"]),
    st.sampled_from(["", ";base64", ";BASE64", ";base64x"]),
    base64 | texts | st.sampled_from(["%20", "%2", "a%zz", "\\", "AAAA", "AA==", "A"]),
)
assets = st.sampled_from(
    [ASSET, ASSET.upper(), ASSET + "\n", ASSET[:-1], ASSET.replace("assets", "A\u017fsets"), "runflow:"]
)
urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "hTTpS", "ftp", "s3+x", ""]),
    st.sampled_from(["://", ":", ":/", "//", ":\\\\"]),
    st.sampled_from(
        ["shop.example", "b\u00fccher.example", "a@b", "user:pw@b", "[::1]", "[::1", ":80", "a:99999", "a:x", "", "a b"]
    ),
    st.sampled_from(["", ":8080", ":"]),
    st.sampled_from(["", "/", "/a?b#c", "?q", "#f", "/ ", "/\n", "/\u00fc", "/" + "a" * 2040]) | texts,
)
anything = values | numbers | patterned | data_uris | assets | urls

TREE = {"items": {"$ref": "#/$defs/tree"}, "type": ["array", "integer"]}
simple_rules: list[tuple[str, str, dict[str, Any]]] = [
    ("string", "none", {}),
    ("integer", "none", {}),
    ("number", "none", {}),
    ("boolean", "none", {}),
    ("array", "none", {}),
    ("json", "none", {}),
    ("string", "one_of", {"values": ["a", "b", ""]}),
    ("integer", "one_of", {"values": [1, 2, 0]}),
    ("number", "one_of", {"values": [0.5, 1, 0]}),
    ("integer", "range", {"min": -3, "max": 9}),
    ("integer", "range", {"step": 3}),
    ("integer", "range", {"min": 1, "max": 20, "step": 3}),
    ("integer", "range", {"min": -4, "step": 2}),
    ("number", "range", {"min": -1.5}),
    ("number", "range", {"min": 0.1, "max": 2, "step": 0.1}),
    ("number", "range", {"max": 12, "step": 2}),
    ("string", "length", {"min": 2}),
    ("string", "length", {"min": 1, "max": 4}),
    *(("string", "pattern", {"regex": regex}) for regex in PATTERNS),
    *((kind, "url", {"schemes": ["data", "runflow"]}) for kind in ("image", "video", "audio", "file")),
    ("file", "url", {"schemes": ["data"]}),
    ("image", "url", {"schemes": ["runflow"]}),
    ("json", "json_schema", {"schema": {"type": "object", "required": ["a"], "properties": {"a": {"minimum": 3}}}}),
    ("json", "json_schema", {"schema": {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}}}),
    ("json", "json_schema", {"schema": {"$anchor": "me", "items": {"$ref": "#me"}, "type": ["array", "null"]}}),
    ("json", "json_schema", {"schema": True}),
    ("json", "json_schema", {"schema": False}),
]  # fmt: skip
nested = st.sampled_from(simple_rules).map(
    lambda rule: ("array", "items", {"type": rule[0], "validator_code": rule[1], "validator_attrs": rule[2]})
)
exact_rules = st.sampled_from(simple_rules) | nested | nested.map(lambda rule: (*rule[:2], rule[2] | {"max_items": 2}))
# The schema takes more than the server: hosts are not looked at, and the rest only stands in words.
loose_rules = st.sampled_from(
    [
        *((kind, "none", {}) for kind in ("image", "video", "audio", "file")),
        ("image", "url", {"schemes": ["https"]}),
        ("string", "url", {}),
        ("string", "url", {"schemes": ["s3+x", "ftp"]}),
        ("string", "pattern", {"regex": r"\w+"}),
        ("number", "range", {"min": 0, "step": 0.1}),
        ("integer", "range", {"min": 1, "step": 3}),
    ]
)  # fmt: skip


def declared(rule: tuple[str, str, dict[str, Any]], is_required: bool) -> ModelInput:
    type_code, validator_code, attrs = rule
    return declare(
        variable_type_code=type_code, validator_code=validator_code, validator_attrs=attrs, is_required=is_required
    )


def items(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.fixed_dictionaries({}, optional={"value": value | st.lists(value, max_size=3), "other": st.none()}) | values
    )


@given(exact_rules, st.booleans(), items(anything))
@example(("integer", "none", {}), True, {"value": 1.0})
@example(("integer", "none", {}), True, {"value": True})
@example(("number", "one_of", {"values": [0.5, 1]}), True, {"value": True})
@example(("integer", "none", {}), True, {"value": 2**63})
@example(("string", "pattern", {"regex": "[a-c]+"}), True, {"value": "abc\n"})
@example(("number", "range", {"min": 0.1, "max": 2, "step": 0.1}), True, {"value": 0.3})
@example(("array", "items", {"type": "string"}), True, {"value": [None]})
@example(("json", "none", {}), True, {"value": None})
@example(("image", "url", {"schemes": ["data", "runflow"]}), True, {"value": "data:image/png;base64,AAAA"})
@example(("image", "url", {"schemes": ["data", "runflow"]}), True, {"value": ASSET})
def test_server_and_schema_take_the_same(rule: tuple[str, str, dict[str, Any]], is_required: bool, item: Any) -> None:
    by_server, by_schema = answers([declared(rule, is_required)], item)
    assert by_server == by_schema


@given(loose_rules, st.booleans(), items(anything))
@example(("image", "none", {}), True, {"value": "HTTPS://b\u00fccher.example:8080/a?b#c"})
@example(("string", "url", {"schemes": ["s3+x", "ftp"]}), True, {"value": "S3+X://bucket/key"})
@example(("string", "url", {}), True, {"value": "http://a?b"})
def test_what_the_server_takes_the_schema_takes(
    rule: tuple[str, str, dict[str, Any]], is_required: bool, item: Any
) -> None:
    by_server, by_schema = answers([declared(rule, is_required)], item)
    assert by_schema or not by_server


@pytest.mark.parametrize(
    "url", ["ftp://a", "http:a", "http://", "http:///a", "http://u@a", "http://a b", "http://a/\\", "http://a\n", "a"]
)
def test_the_commonest_bad_urls_are_refused_by_both(url: str) -> None:
    assert answers([declared(("image", "none", {}), True)], {"value": url}) == (False, False)
