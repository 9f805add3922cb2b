"""Customers' values against declarations: every fault, stable types and paths, nothing ever raised."""

from __future__ import annotations

import inspect
import json
import sys
import uuid
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from django.db import connection
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models_registry import validation
from models_registry.declarations import check_declaration
from models_registry.faults import json_fault
from models_registry.models import ModelInput
from models_registry.validation import (
    ItemInput,
    compile_serializer,
    validate_input,
    validate_items,
    validator_for,
)
from runflow.lib.faults import MAX_ERRORS, cap_errors

PNG = "data:image/png;base64,iVBORw0KGgo="
ASSET = "runflow://assets/01890a5d-ac96-774b-bcce-b302099a8057"


def declare(name: str, type_code: str = "string", **overrides: Any) -> ModelInput:
    declaration = ModelInput(name=name, variable_type_code=type_code, **overrides)
    assert check_declaration(declaration) == []
    return declaration


def rule(validator_code: str, /, **attrs: Any) -> dict[str, Any]:
    return {"validator_code": validator_code, "validator_attrs": attrs}


def check(value: Any, type_code: str = "string", **overrides: Any) -> Any:
    """The accepted value, or the list of (path inside the input, type)."""
    serializer_class = compile_serializer([declare("x", type_code, **overrides)])
    items, errors = validate_items(serializer_class, [{"x": value}])
    if errors:
        assert items == []
        return [(error["loc"][4:], error["type"]) for error in errors]
    return items[0].values["x"]


def refused(code: str, *path: str | int) -> list[tuple[list[str | int], str]]:
    return [([*path], code)]


# --- Whole answers --------------------------------------------------------------------------------------------------

EDIT = [
    declare("prompt", is_required=True),
    declare("image_urls", "array", is_required=True, **rule("items", type="image", min_items=1, max_items=3)),
    declare(
        "resolution", default_behavior_code="use_default", default_value="1K", **rule("one_of", values=["1K", "2K"])
    ),
    declare(
        "num_images", "integer", default_behavior_code="use_default", default_value=1, **rule("range", min=1, max=4)
    ),
    declare("mask", "image", default_behavior_code="null"),
    declare("seed", "integer"),
]


def test_valid_items_have_their_values_in_declaration_order_with_defaults() -> None:
    items, errors = validate_items(
        compile_serializer(EDIT),
        [
            {"image_urls": [PNG], "prompt": "a", "client_ref": "sku-1"},
            {"seed": 5.0, "mask": ASSET, "num_images": 2, "resolution": "2K", "prompt": "", "image_urls": [ASSET]},
            {"prompt": "b", "image_urls": [PNG], "seed": None, "mask": None, "resolution": None, "client_ref": None},
        ],
    )
    assert errors == []
    assert items == [
        ItemInput("sku-1", {"prompt": "a", "image_urls": [PNG], "resolution": "1K", "num_images": 1, "mask": None}),
        ItemInput(
            None,
            {"prompt": "", "image_urls": [ASSET], "resolution": "2K", "num_images": 2, "mask": ASSET, "seed": 5},
        ),
        ItemInput(None, {"prompt": "b", "image_urls": [PNG], "resolution": "1K", "num_images": 1, "mask": None}),
    ]
    assert [list(item.values) for item in items] == [
        ["prompt", "image_urls", "resolution", "num_images", "mask"],
        ["prompt", "image_urls", "resolution", "num_images", "mask", "seed"],
        ["prompt", "image_urls", "resolution", "num_images", "mask"],
    ]
    assert type(items[1].values["seed"]) is int


def test_all_faults_of_all_items_are_reported() -> None:
    items, errors = validate_items(
        compile_serializer(EDIT),
        [
            {"prompt": None, "image_urls": [PNG, 5, None, "ftp://a.example/b"], "num_images": 9, "size": 1, "zoom": 2},
            {"prompt": "fine", "image_urls": [ASSET]},
            "a string",
            {"client_ref": 5, "prompt": "x", "image_urls": [], "resolution": "8K"},
        ],
    )
    assert items == [
        ItemInput(None, {"prompt": "fine", "image_urls": [ASSET], "resolution": "1K", "num_images": 1, "mask": None})
    ]
    unknown = "The model has no input of this name."
    assert errors == [
        {"loc": ["body", "input", 0, "prompt"], "msg": "This input is required.", "type": "missing"},
        {
            "loc": ["body", "input", 0, "image_urls"],
            "msg": "Must have at most 3 element(s).",
            "type": "too_long",
        },
        {"loc": ["body", "input", 0, "num_images"], "msg": "Must be at most 4.", "type": "out_of_range"},
        {"loc": ["body", "input", 0, "size"], "msg": unknown, "type": "unknown_input"},
        {"loc": ["body", "input", 0, "zoom"], "msg": unknown, "type": "unknown_input"},
        {"loc": ["body", "input", 2], "msg": "Must be an object.", "type": "wrong_type"},
        {"loc": ["body", "input", 3, "client_ref"], "msg": "Must be a string.", "type": "wrong_type"},
        {
            "loc": ["body", "input", 3, "image_urls"],
            "msg": "Must have at least 1 element(s).",
            "type": "too_short",
        },
        {
            "loc": ["body", "input", 3, "resolution"],
            "msg": 'Must be one of: "1K", "2K"',
            "type": "not_allowed",
        },
    ]


def test_a_single_runs_input_has_no_index_and_no_client_ref() -> None:
    serializer_class = compile_serializer([declare("x", "integer")])
    assert validate_input(serializer_class, {"x": 1}) == ({"x": 1}, [])
    assert validate_input(serializer_class, {"x": "1", "client_ref": "a"}) == (
        None,
        [
            {"loc": ["body", "input", "x"], "msg": "Must be an integer.", "type": "wrong_type"},
            {
                "loc": ["body", "input", "client_ref"],
                "msg": "The model has no input of this name.",
                "type": "unknown_input",
            },
        ],
    )
    assert validate_input(serializer_class, []) == (
        None,
        [{"loc": ["body", "input"], "msg": "Must be an object.", "type": "wrong_type"}],
    )


@pytest.mark.parametrize(
    ("client_ref", "expected"),
    [
        ("", None),
        ("a" * 255, None),
        ("ü" * 255, None),
        (None, None),
        ("a" * 256, "too_long"),
        (5, "wrong_type"),
        (False, "wrong_type"),
        (["a"], "wrong_type"),
        ("a\0", "not_storable"),
        ("\ud800", "not_storable"),
    ],
)
def test_client_refs(client_ref: Any, expected: str | None) -> None:
    items, errors = validate_items(compile_serializer([]), [{"client_ref": client_ref}])
    assert [(error["loc"], error["type"]) for error in errors] == (
        [(["body", "input", 0, "client_ref"], expected)] if expected else []
    )
    assert items == ([] if expected else [ItemInput(client_ref, {})])


def test_defaults_are_fresh_for_each_item() -> None:
    declaration = declare("x", "array", default_behavior_code="use_default", default_value=[{"a": 1}])
    items, _ = validate_items(compile_serializer([declaration]), [{}, {}])
    items[0].values["x"][0]["a"] = 2
    assert items[1].values["x"] == [{"a": 1}]
    assert validate_items(compile_serializer([declaration]), [{}])[0][0].values == {"x": [{"a": 1}]}
    assert declaration.default_value == [{"a": 1}]


def test_names_that_mean_something_to_the_framework_are_ordinary_inputs() -> None:
    names = [
        "data",
        "fields",
        "errors",
        "empty_values",
        "validate",
        "instance",
        "source",
        "shared",
        "get_value",
        "self",
    ]
    serializer_class = compile_serializer([declare(name, "integer") for name in names])
    item = {name: number for number, name in enumerate(names)}
    assert validate_items(serializer_class, [item]) == ([ItemInput(None, item)], [])


def test_it_is_a_serializer_like_any_other() -> None:
    serializer_class = compile_serializer(EDIT)
    good = serializer_class(data={"prompt": "a", "image_urls": [PNG]})
    assert good.is_valid()
    assert good.validated_data["resolution"] == "1K"
    bad = serializer_class(data={"prompt": 5, "no": 1})
    assert not bad.is_valid()
    assert {name: [detail.code for detail in details] for name, details in bad.errors.items()} == {
        "prompt": ["wrong_type"],
        "image_urls": ["missing"],
        "no": ["unknown_input"],
    }
    no_object = serializer_class(data=[])
    assert not no_object.is_valid()
    assert no_object.errors == {"non_field_errors": ["Must be an object."]}


# --- Types ----------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
EACH_TYPE: list[Any] = ["1", True, False, [], {}]
HUGE = 10**5000  # more digits than Python turns into text


@pytest.mark.parametrize("value", ["", "a", "\U0001f600", "\x01", "0"])
def test_strings(value: Any) -> None:
    assert check(value) == value


@pytest.mark.parametrize("value", [1, 1.0, True, [], ["a"], {}])
def test_no_strings(value: Any) -> None:
    assert check(value) == refused("wrong_type")


@pytest.mark.parametrize("value", ["\0", "a\0b", "\ud800", "a\udfff", "\ud83d\ud83d"])
@pytest.mark.parametrize("type_code", ["string", "image", "json", "array"])
def test_what_postgresql_cannot_store(value: str, type_code: str) -> None:
    if type_code == "array":
        assert check([value], type_code) == refused("not_storable", 0)
        assert check([value], type_code, **rule("items", type="string")) == refused("not_storable", 0)
    else:
        assert check(value, type_code) == refused("not_storable")


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(0, 0), (-1, -1), (1.0, 1), (-0.0, 0), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (1e18, 10**18)],
)
def test_integers(value: Any, accepted: int) -> None:
    assert check(value, "integer") == accepted
    assert type(check(value, "integer")) is int


@pytest.mark.parametrize(
    ("value", "code"),
    [
        *((value, "wrong_type") for value in EACH_TYPE),
        *((value, "wrong_type") for value in (1.5, NAN, INF, -INF)),
        *((value, "out_of_range") for value in (2**63, -(2**63) - 1, 1e19, 1e300)),
        pytest.param(HUGE, "out_of_range", id="huge"),
    ],
)
def test_no_integers(value: Any, code: str) -> None:
    assert check(value, "integer") == refused(code)


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, 5e-324, 2**63 - 1])
def test_numbers(value: Any) -> None:
    assert check(value, "number") == value
    assert type(check(value, "number")) is type(value)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        *((value, "wrong_type") for value in EACH_TYPE),
        *((value, "wrong_type") for value in (NAN, INF, -INF)),
        *((value, "out_of_range") for value in (2**63, 1e19, -1e300)),
        pytest.param(HUGE, "out_of_range", id="huge"),
    ],
)
def test_no_numbers(value: Any, code: str) -> None:
    assert check(value, "number") == refused(code)


@pytest.mark.parametrize("value", [True, False])
def test_booleans(value: bool) -> None:
    assert check(value, "boolean") is value


@pytest.mark.parametrize("value", [1, 0, 1.0, "true", "", [], {}])
def test_no_booleans(value: Any) -> None:
    assert check(value, "boolean") == refused("wrong_type")


@pytest.mark.parametrize("value", ["a", 0, False, 1.5, [], {}, [None, {"a": [None]}], {"": {"ü": 1}}])
def test_json(value: Any) -> None:
    assert check(value, "json") == value


def nested(depth: int, make: Callable[[Any], Any]) -> Any:
    value: Any = make(1)
    for _ in range(depth - 1):
        value = make(value)
    return value


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"a": [0, NAN]}, refused("wrong_type", "a", 1)),
        ({"a": [0, 1e19]}, refused("out_of_range", "a", 1)),
        pytest.param({"a": {"b": HUGE}}, refused("out_of_range", "a", "b"), id="huge"),
        ({"a": ["\0"]}, refused("not_storable", "a", 0)),
        ({"a\0": 1}, refused("not_storable", "a\\x00")),
        ({"\ud800": 1}, refused("not_storable", "\\ud800")),
        ({"a" * 1000 + "\0": 1}, refused("not_storable", "a" * 99 + "…")),
        (nested(65, lambda value: [value]), refused("not_storable")),
        (nested(65, lambda value: {"a": value}), refused("not_storable")),
        (nested(100_000, lambda value: [value]), refused("not_storable")),
    ],
)
def test_json_that_cannot_be_kept(value: Any, fault: Any) -> None:
    assert check(value, "json") == fault


def test_json_may_be_64_deep() -> None:
    value = nested(64, lambda value: {"a": value})
    assert check(value, "json") == value


@pytest.mark.parametrize(
    "value",
    [
        "http://a.example",
        "https://a.example/b%20c.png?d=e#f",
        "HTTPS://A.example/",
        "https://münchen.example/ä",
        "https://[2001:db8::1]:8443/x",
        "http://localhost:1/x",
        "https://a.example/" + "b" * 2030,
        PNG,
        "data:IMAGE/PNG;base64,AA==",
        "data:image/svg+xml;charset=utf-8,%3Csvg/%3E",
        ASSET,
        ASSET.upper().replace("RUNFLOW://ASSETS/", "runflow://assets/"),
    ],
)
def test_media(value: str) -> None:
    assert check(value, "image") == value
    assert check(value, "file") == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        "a.png",
        "//a.example/b",
        "ftp://a.example/b",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:",
        "http://",
        "http:///b",
        "http://:80/",
        "http:a.example",
        "http://a.example:port/",
        "http://a.example:99999/",
        "http://[::1/",
        "http://user:secret@a.example/",
        "http://a.example@b.example/",
        "http://a example/",
        "http://a.example/b c",
        "http://a.example/\n",
        " http://a.example/",
        "http://a.example\\b",
        "http://a.example/\x7f",
        "http://a.example/\u2028",
        "http://a\u2100b.example/",
        "https://a.example/" + "b" * 2031,
        "data:",
        "data:,a",
        "data:;base64,AA==",
        "data:image;base64,AA==",
        "data:image/png",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png,",
        "data:image/png;base64,A",
        "data:image/png;base64,AA",
        "data:image/png;base64,AA==AA==",
        "data:image/png;base64,AA= =",
        "data:image/png;base64,ÄÄ==",
        "data:image/png;base64,AA==\n",
        "data:image/png;base64,A-_=",
        "data:image/png,a b",
        "data:image/png,%zz",
        "data:image/png,%",
        "data:image/png;" + "a" * 300 + "=b,c",
        "data:text/plain,a",
        "data:video/mp4;base64,AA==",
        "DATA:image/png;base64,AA==",
        "runflow://assets/",
        "runflow://assets/1",
        "runflow://assets/../../etc",
        ASSET + "/",
        ASSET + "\n",
        ASSET.replace("assets", "asset"),
        "Runflow" + ASSET.removeprefix("runflow"),
    ],
)
def test_no_media(value: str) -> None:
    assert check(value, "image") == refused("bad_url")


@pytest.mark.parametrize("value", [1, True, [], {"url": "https://a.example"}])
def test_media_are_strings(value: Any) -> None:
    assert check(value, "video") == refused("wrong_type")


@pytest.mark.parametrize(
    ("type_code", "mime", "is_accepted"),
    [
        ("image", "image/webp", True),
        ("image", "imagex/png", False),
        ("video", "video/mp4", True),
        ("video", "image/png", False),
        ("audio", "audio/mpeg", True),
        ("audio", "application/ogg", False),
        ("file", "application/pdf", True),
        ("file", "image/png", True),
    ],
)
def test_data_uris_are_of_the_declared_kind(type_code: str, mime: str, is_accepted: bool) -> None:
    value = f"data:{mime};base64,AA=="
    assert check(value, type_code) == (value if is_accepted else refused("bad_url"))


@pytest.mark.parametrize(
    ("value", "attrs", "expected"),
    [
        ([], {}, []),
        ([None, 1, "a", [2]], {}, [None, 1, "a", [2]]),
        ([1, 2.0], {"type": "integer"}, [1, 2]),
        ([[1], []], {"type": "array", "validator_code": "items", "validator_attrs": {"type": "integer"}}, [[1], []]),
        ("a", {}, refused("wrong_type")),
        ({}, {}, refused("wrong_type")),
        ([], {"type": "string", "min_items": 1}, refused("too_short")),
        (["a", "b"], {"type": "string", "max_items": 1}, refused("too_long")),
        ([None], {"type": "string"}, refused("wrong_type", 0)),
        (
            [1, "2", 3.5, True],
            {"type": "integer", "validator_code": "range", "validator_attrs": {"min": 2}, "min_items": 5},
            [([], "too_short"), ([0], "out_of_range"), ([1], "wrong_type"), ([2], "wrong_type"), ([3], "wrong_type")],
        ),
        (
            [[1], ["a", 2, "b"]],
            {"type": "array", "validator_code": "items", "validator_attrs": {"type": "integer"}},
            [([1, 0], "wrong_type"), ([1, 2], "wrong_type")],
        ),
        ([{"a": ["\0"]}], {"type": "json"}, refused("not_storable", 0, "a", 0)),
    ],
)
def test_arrays(value: Any, attrs: dict[str, Any], expected: Any) -> None:
    assert check(value, "array", **(rule("items", **attrs) if attrs else {})) == expected


# --- Validators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_code", "rules", "accepted", "code", "others"),
    [
        ("string", rule("one_of", values=["1", "a"]), ["1", "a"], "not_allowed", ["", "A", "1 ", "b"]),
        ("integer", rule("one_of", values=[1, 5]), [1, 5], "not_allowed", [0, 2]),
        ("number", rule("one_of", values=[0.5, 1]), [0.5, 1, 1.0], "not_allowed", [0, 0.51]),
        ("integer", rule("range", min=1, max=4), [1, 4], "out_of_range", [0, 5, -(2**63)]),
        ("integer", rule("range", min=3, step=4), [3, 7, 2**63 - 1], "out_of_range", [4, 5, -1, 2**63 - 2]),
        ("integer", rule("range", step=8), [0, -8, 512], "out_of_range", [1, 513]),
        ("number", rule("range", min=0, max=1, step=0.1), [0, 0.1, 0.3, 0.7, 1], "out_of_range", [0.15, 1.1, 0.30001]),
        ("number", rule("range", min=0.05, step=0.1), [0.05, 0.15, 1000000.05], "out_of_range", [0.1, 0]),
        ("number", rule("range", step=1e-300), [0, 1e-300, 9e18], "out_of_range", [1.5e-300, 5e-324]),
        ("string", rule("length", min=2, max=3), ["ab", "\U0001f600" * 3], "too_short", ["", "a", "\U0001f600"]),
        ("string", rule("length", max=3), ["", "abc"], "too_long", ["abcd"]),
        ("string", rule("pattern", regex="a|ab"), ["a", "ab"], "bad_pattern", ["", "b", "abc", "xa", "a\n"]),
        ("string", rule("url"), ["https://a.example", "http://b/"], "bad_url", ["", "ftp://a.example", "a"]),
        ("string", rule("url", schemes=["s3"]), ["s3://bucket/key"], "bad_url", ["https://a.example", "s3:key"]),
        ("image", rule("url", schemes=["https"]), ["https://a.example"], "bad_url", ["http://a.example", PNG, ASSET]),
        ("image", rule("url", schemes=["data", "runflow"]), [PNG, ASSET], "bad_url", ["https://a.example"]),
    ],
)
def test_validators(type_code: str, rules: dict[str, Any], accepted: list[Any], code: str, others: list[Any]) -> None:
    for value in accepted:
        assert check(value, type_code, **rules) == value
    for value in others:
        assert check(value, type_code, **rules) == refused(code)


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "required": ["id"],
            "properties": {"id": {"type": "integer"}, "children": {"items": {"$ref": "#/$defs/node"}}},
        }
    },
    "$ref": "#/$defs/node",
}


def test_json_schema_faults_have_their_place_in_the_value() -> None:
    value = {"id": "1", "children": [{"id": 1}, {"children": [{"id": None}]}]}
    serializer_class = compile_serializer([declare("x", "json", **rule("json_schema", schema=TREE))])
    assert validate_items(serializer_class, [{"x": value}])[1] == [
        {
            "loc": ["body", "input", 0, "x", "id"],
            "msg": "'1' is not of type 'integer'",
            "type": "schema_mismatch",
        },
        {
            "loc": ["body", "input", 0, "x", "children", 1],
            "msg": "'id' is a required property",
            "type": "schema_mismatch",
        },
        {
            "loc": ["body", "input", 0, "x", "children", 1, "children", 0, "id"],
            "msg": "None is not of type 'integer'",
            "type": "schema_mismatch",
        },
    ]
    assert check({"id": 1, "children": []}, "json", **rule("json_schema", schema=TREE)) == {"id": 1, "children": []}


def test_schema_messages_quote_no_megabytes() -> None:
    serializer_class = compile_serializer([declare("x", "json", **rule("json_schema", schema={"maxLength": 3}))])
    _, errors = validate_items(serializer_class, [{"x": "a" * 1_000_000}])
    assert [error["msg"] for error in errors] == ["Does not satisfy maxLength of the declared schema."]


def test_a_schema_that_needs_too_much_stack_is_a_fault_not_a_crash() -> None:
    value = nested(30, lambda value: {"id": 1, "children": [value]} if value != 1 else {"id": 1})
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 120)
    try:
        result = check(value, "json", **rule("json_schema", schema=TREE))
    finally:
        sys.setrecursionlimit(limit)
    assert result == refused("schema_mismatch")


# --- Bounds of the answer -------------------------------------------------------------------------------------------


def test_a_million_unknown_keys_are_counted_and_not_kept() -> None:
    _, errors = validate_items(compile_serializer([]), [{str(number): 0 for number in range(100_000)}] * 2)
    assert len(errors) == MAX_ERRORS
    assert cap_errors(errors)[-1]["msg"] == "199501 more errors are left out."


@pytest.mark.parametrize(
    "declaration",
    [
        declare("x", "array", **rule("items", type="string")),
        declare("x", "json", **rule("json_schema", schema={"items": {"type": "string"}})),
    ],
)
def test_a_long_list_of_wrong_elements_is_given_up_on(declaration: ModelInput) -> None:
    _, errors = validate_items(compile_serializer([declaration]), [{"x": [0] * 10_000}, {"x": [0]}])
    assert cap_errors(errors)[498] == {**errors[498], "loc": ["body", "input", 0, "x", 498]}
    assert cap_errors(errors)[499]["msg"] == "At least 3 more errors are left out."


def test_a_megabyte_of_key_is_not_echoed() -> None:
    _, errors = validate_items(compile_serializer([]), [{"k" * 1_000_000: 1, "\0\ud800": 1}])
    assert [error["loc"][3] for error in errors] == ["k" * 99 + "…", "\\x00\\ud800"]


# --- The cache ------------------------------------------------------------------------------------------------------


def test_a_version_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "CACHED_VERSIONS", 2)
    validation._compiled.clear()
    loaded: list[int] = []

    def load(number: int) -> Callable[[], list[ModelInput]]:
        def inputs() -> list[ModelInput]:
            loaded.append(number)
            return [declare(f"v{number}")]

        return inputs

    model = uuid.uuid4()
    first = validator_for(model, 1, load(1))
    assert validator_for(model, 1, load(1)) is first
    assert list(validator_for(model, 2, load(2)).shared().fields) == ["v2"]
    assert validator_for(model, 1, load(1)) is first
    validator_for(uuid.uuid4(), 1, load(3))  # the oldest use, version 2, gives way
    assert validator_for(model, 1, load(1)) is first
    assert loaded == [1, 2, 3]
    validator_for(model, 2, load(2))
    assert loaded == [1, 2, 3, 2]
    assert len(validation._compiled) == 2


# --- Properties -----------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from("\0\ud800\udfffa\u2028é\U0001f600")),
    st.sampled_from([PNG, ASSET, "https://a.example/b", "1K", "a", "client_ref", "data:,", "http://["]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
NUMBERS = st.integers(-10, 10) | st.floats(-10, 10)
# Some contradict themselves; those are left out by check_declaration below.
RULES = st.one_of(
    st.builds(dict),
    st.builds(lambda values: rule("one_of", values=values), st.lists(TEXTS, min_size=1, max_size=3)),
    st.builds(lambda values: rule("one_of", values=values), st.lists(NUMBERS, min_size=1, max_size=3)),
    st.builds(lambda low, step: rule("range", min=low, step=step), NUMBERS, NUMBERS),
    st.builds(lambda high: rule("range", max=high), NUMBERS),
    st.builds(lambda high: rule("length", max=high), st.integers(0, 5)),
    st.just(rule("pattern", regex="[a-z0-9]*")),
    st.just(rule("url")),
    st.just(rule("json_schema", schema=TREE)),
    st.just(rule("json_schema", schema={"uniqueItems": True, "multipleOf": 0.1, "maxProperties": 1})),
    st.builds(
        lambda inner, low: rule("items", type=inner, min_items=low),
        st.sampled_from(["string", "integer", "image", "json", "array"]),
        st.integers(0, 2),
    ),
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "image", "video", "audio", "file", "array", "json"])


@st.composite
def declarations(draw: st.DrawFn) -> list[ModelInput]:
    made = []
    for name in draw(st.lists(st.sampled_from(["a", "b", "c", "data"]), max_size=3, unique=True)):
        declaration = ModelInput(
            name=name,
            variable_type_code=draw(TYPES),
            is_required=draw(st.booleans()),
            default_behavior_code=draw(st.sampled_from(["use_default", "omit", "null"])),
            default_value=draw(st.none() | VALUES),
            **draw(RULES),
        )
        if check_declaration(declaration):  # never raises, whatever it is given
            declaration = ModelInput(
                name=name, variable_type_code=declaration.variable_type_code, is_required=declaration.is_required
            )
        made.append(declaration)
    return made


ITEMS = st.lists(
    st.one_of(
        VALUES,
        st.dictionaries(st.sampled_from(["a", "b", "c", "data", "client_ref", "nope"]), VALUES, max_size=6),
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(declarations(), ITEMS)
@example([declare("a", "json")], [{"a": nested(100, lambda value: [value])}])
@example([declare("a", "number", **rule("range", step=0.1))], [{"a": 9.2e18}, {"a": 5e-324}])
def test_whatever_comes_is_either_refused_or_can_be_stored(inputs: list[ModelInput], items: list[Any]) -> None:
    serializer_class = compile_serializer(inputs)
    valid, errors = validate_items(serializer_class, items)
    # An answer can be made of it,
    json.dumps(errors).encode()
    json.dumps(errors, ensure_ascii=False).encode()
    assert "\\u0000" not in json.dumps(errors)
    for error in errors:
        assert error["loc"][:2] == ["body", "input"]
        assert 0 < len(error["msg"]) <= 2000
        assert all(len(step) <= 600 for step in error["loc"] if isinstance(step, str))
    # every item is either valid or has faults,
    faulty = {error["loc"][2] for error in errors}
    assert len(valid) + len(faulty) == len(items)
    for item in valid:
        # what is valid can be stored and sent,
        assert json_fault(item.values) is None
        orjson.dumps(item.values)
        # and is valid, and the same, when it comes again.
        again, none = validate_items(serializer_class, [{**item.values, "client_ref": item.client_ref}])
        assert none == []
        assert again == [item]


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES, VALUES, VALUES, VALUES, st.booleans() | VALUES)
def test_no_declaration_makes_the_check_fail(
    name: Any, type_code: Any, validator_code: Any, attrs: Any, default: Any, is_required: Any
) -> None:
    for validator in (validator_code, "one_of", "range", "length", "pattern", "url", "items", "json_schema"):
        for kind in (type_code, "string", "number", "image", "array", "json"):
            faults = check_declaration(
                ModelInput(
                    name=name,
                    variable_type_code=kind,
                    validator_code=validator,
                    validator_attrs=attrs,
                    default_value=default,
                    is_required=is_required,
                )
            )
            for fault in faults:
                assert isinstance(str(fault), str)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_no_attribute_makes_the_check_fail(value: Any) -> None:
    for validator, attribute in (
        *(("one_of", "values"), ("range", "min"), ("range", "step"), ("length", "max"), ("pattern", "regex")),
        *(("url", "schemes"), ("items", "type"), ("items", "validator_attrs"), ("items", "min_items")),
        ("json_schema", "schema"),
    ):
        attrs = {"type": "array", attribute: value} if validator == "items" else {attribute: value}
        for kind in ("string", "number", "image", "array", "json"):
            check_declaration(
                ModelInput(name="x", variable_type_code=kind, validator_code=validator, validator_attrs=attrs)
            )


STORED = [
    ("string", "\x01\u2028\U0001f600\uffff"),
    ("integer", 2**63 - 1),
    ("number", 5e-324),
    ("number", 1e18),
    ("number", 9.2e18),
    ("number", -0.0),
    ("json", nested(64, lambda value: [value])),
    ("json", nested(64, lambda value: {"": value})),
    ("json", {"a": [1.5, 1e17, None, True, "\\u0000", "\x7f"], "ü" * 300: ""}),
    ("array", ["a", None, 1]),
    ("image", PNG),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("type_code", "value"), STORED)
def test_accepted_values_come_back_from_jsonb_and_are_accepted_again(type_code: str, value: Any) -> None:
    accepted = check(value, type_code)
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [json.dumps(accepted)])
        (text,) = cursor.fetchone()
    stored = json.loads(text)
    assert stored == accepted
    assert check(stored, type_code) == accepted
    orjson.dumps(stored)
