"""Bindings of inputs into template bodies."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from models_registry.templates import Fault, TemplateError, check_bindings, parse_pointer, render

BODY = {
    "3": {"inputs": {"seed": 7, "text": "a cat", "sizes": [64, {"w": 1}]}},
    "a/b": 1,
    "m~n": 2,
    "": {"": 3},
}


def bind(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"input": name, "target": target} for name, target in pairs]


@pytest.mark.parametrize(
    ("pointer", "tokens"),
    [
        ("", ()),
        ("/", ("",)),
        ("/a/b", ("a", "b")),
        ("/a~1b", ("a/b",)),
        ("/m~0n", ("m~n",)),
        ("/~01", ("~1",)),
        ("/ü/0", ("ü", "0")),
    ],
)
def test_pointers_are_split_as_rfc_6901_says(pointer: str, tokens: tuple[str, ...]) -> None:
    assert parse_pointer(pointer) == tokens


@pytest.mark.parametrize("pointer", ["a", "a/b", "#/a", "/~", "/~2", "/a~"])
def test_what_is_no_pointer_is_refused(pointer: str) -> None:
    with pytest.raises(ValueError, match="JSON Pointer"):
        parse_pointer(pointer)


@pytest.mark.parametrize(
    ("target", "before"),
    [
        ("/3/inputs/seed", 7),
        ("/3/inputs/sizes/0", 64),
        ("/3/inputs/sizes/1/w", 1),
        ("/a~1b", 1),
        ("/m~0n", 2),
        ("//", 3),
    ],
)
def test_a_value_is_put_at_its_target_and_nowhere_else(target: str, before: Any) -> None:
    body = deepcopy(BODY)
    bindings = bind(("x", target))
    assert check_bindings(body, bindings, ["x"], ["x"]) == []
    made = render(body, bindings, {"x": [True]})
    assert body == BODY
    assert render(made, bindings, {"x": before}) == BODY
    assert made != BODY


def test_types_are_kept_and_absent_inputs_leave_the_templates_own_value() -> None:
    bindings = bind(("seed", "/3/inputs/seed"), ("text", "/3/inputs/text"), ("size", "/3/inputs/sizes/0"))
    expected = {"3": {"inputs": {"seed": 1.5, "text": None, "sizes": [64, {"w": 1}]}}}
    assert render({"3": BODY["3"]}, bindings, {"seed": 1.5, "text": None, "unbound": 9}) == expected


def test_one_input_may_have_several_targets() -> None:
    bindings = bind(("x", "/a"), ("x", "/b/0"))
    assert check_bindings({"a": 1, "b": [2]}, bindings, ["x"], ["x"]) == []
    assert render({"a": 1, "b": [2]}, bindings, {"x": 5}) == {"a": 5, "b": [5]}


def test_the_whole_body_can_be_the_target() -> None:
    assert check_bindings({}, bind(("x", "")), ["x"], ["x"]) == []
    assert render({}, bind(("x", "")), {"x": [1]}) == [1]


def test_the_result_shares_nothing_with_template_and_values() -> None:
    body, value = {"a": 1, "b": 2, "own": [{"k": 1}]}, {"k": [1]}
    made = render(body, bind(("x", "/a"), ("x", "/b")), {"x": value})
    assert made == {"a": {"k": [1]}, "b": {"k": [1]}, "own": [{"k": 1}]}
    made["a"]["k"].append(2)
    made["own"][0]["k"] = 2
    assert made["b"] == {"k": [1]}
    assert (body, value) == ({"a": 1, "b": 2, "own": [{"k": 1}]}, {"k": [1]})


@pytest.mark.parametrize(
    ("bindings", "faults"),
    [
        ("x", [Fault("bindings", "must be a list of {input, target}")]),
        (["x"], [Fault("bindings[0]", "must be {input, target}")]),
        (
            [{"input": 1, "target": 2, "more": 3}],
            [
                Fault("bindings[0].more", "unknown key; a binding has input and target"),
                Fault("bindings[0].input", "must be the name of an input"),
                Fault("bindings[0].target", "must be a JSON Pointer (text)"),
            ],
        ),
        (bind(("nope", "/a")), [Fault("bindings[0].input", "the model declares no input 'nope'")]),
        (bind(("x", "a")), [Fault("bindings[0].target", 'a JSON Pointer is empty or starts with "/"')]),
        (
            bind(("x", "/a~2")),
            [Fault("bindings[0].target", 'in a JSON Pointer "~" is written "~0", and "/" inside a name "~1"')],
        ),
        (
            bind(("x", "/z")),
            [Fault("bindings[0].target", "'/z' is not in the body: there is no member 'z'")],
        ),
        *(
            (
                bind(("x", f"/b/{index}")),
                [
                    Fault(
                        "bindings[0].target",
                        f"'/b/{index}' is not in the body: there is no element {index!r} in an array of 1",
                    )
                ],
            )
            for index in ("1", "-", "00", "-1", "²", "99999999999999999999", "")
        ),
        (
            bind(("x", "/a/0")),
            [
                Fault(
                    "bindings[0].target",
                    "'/a/0' is not in the body: there is nothing inside a value that is no object or array, and so no '0'",
                )
            ],
        ),
        (
            bind(("x", "/a"), ("y", "/a")),
            [Fault("bindings[1].target", "'/a' is the target of bindings[0] already")],
        ),
        (
            bind(("x", "/b"), ("y", "/b/0")),
            [Fault("bindings[1].target", "'/b/0' overlaps the target of bindings[0]")],
        ),
        (
            bind(("x", "/b/0"), ("y", "/b")),
            [Fault("bindings[1].target", "'/b' overlaps the target of bindings[0]")],
        ),
    ],
)
def test_bindings_that_cannot_work_are_refused(bindings: Any, faults: list[Fault]) -> None:
    assert check_bindings({"a": 1, "b": [2]}, bindings, ["x", "y"], []) == faults


def test_a_required_input_must_go_somewhere() -> None:
    assert check_bindings({"a": 1}, bind(("x", "/a")), ["x", "y", "z"], ["x", "y"]) == [
        Fault("bindings", "the required input 'y' is bound to nothing")
    ]


@pytest.mark.parametrize("target", ["/z", "/z/y", "/b/1", "/a/x"])
def test_an_unchecked_template_fails_with_its_own_error(target: str) -> None:
    with pytest.raises(TemplateError, match="is not in the template's body"):
        render({"a": 1, "b": [2]}, bind(("x", target)), {"x": 1})
