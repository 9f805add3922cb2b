"""JSON Pointers: what they lead to, and the words when they lead nowhere. Their parsing is tested with the templates."""

from __future__ import annotations

from typing import Any

import pytest

from runflow.lib.json_pointer import copy_json, get_at, parse_pointer, put_at

DOCUMENT = {"a": [{"b/c": 1}, 2], "": 3, "m~n": None}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("", DOCUMENT), ("/a/0/b~1c", 1), ("/a/1", 2), ("/", 3), ("/m~0n", None)],
)
def test_a_pointer_leads_to_its_value(pointer: str, value: Any) -> None:
    assert get_at(DOCUMENT, parse_pointer(pointer)) == value


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        ("/z", "there is no member 'z'"),
        ("/a/2", "there is no element '2' in an array of 2"),
        ("/a/-", "there is no element '-' in an array of 2"),
        ("/a/01", "there is no element '01' in an array of 2"),
        ("/a/1/x", "there is nothing inside a value that is no object or array, and so no 'x'"),
    ],
)
def test_a_place_that_is_not_there_can_be_neither_read_nor_written(pointer: str, reason: str) -> None:
    document = copy_json(DOCUMENT)
    with pytest.raises(LookupError) as read:
        get_at(document, parse_pointer(pointer))
    with pytest.raises(LookupError) as written:
        put_at(document, parse_pointer(pointer), 9)
    assert (read.value.args, written.value.args) == ((reason,), (reason,))
    assert document == DOCUMENT


def test_a_value_is_put_in_place_and_without_tokens_is_the_new_document() -> None:
    document = copy_json(DOCUMENT)
    assert put_at(document, ("a", "0", "b/c"), [7]) is document
    assert document == {"a": [{"b/c": [7]}, 2], "": 3, "m~n": None}
    assert put_at(document, (), 5) == 5


def test_a_copy_shares_nothing_that_can_be_changed() -> None:
    copied = copy_json(DOCUMENT)
    copied["a"][0]["b/c"] = 9
    copied["a"].append(3)
    assert DOCUMENT == {"a": [{"b/c": 1}, 2], "": 3, "m~n": None}
