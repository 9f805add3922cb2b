"""A 422 lists every fault, but not a million of them."""

from __future__ import annotations

from typing import Any

import pytest

from runflow.lib.errors import ErrorItem
from runflow.lib.faults import MAX_ERRORS, ErrorList, cap_errors, is_storable, shown, unknown_members


def fault(number: int) -> ErrorItem:
    return {"loc": ["body", number], "msg": "m", "type": "t"}


@pytest.mark.parametrize("count", [0, 1, MAX_ERRORS])
def test_up_to_500_errors_are_all_there(count: int) -> None:
    errors = [fault(number) for number in range(count)]
    assert cap_errors(errors) == errors
    assert cap_errors(ErrorList(errors)) == errors


@pytest.mark.parametrize("count", [501, 502, 1234])
def test_of_more_errors_the_last_says_how_many_are_left_out(count: int) -> None:
    errors = [fault(number) for number in range(count)]
    expected = [
        *errors[:499],
        {"loc": ["body"], "msg": f"{count - 499} more errors are left out.", "type": "too_many_errors"},
    ]
    assert cap_errors(errors) == expected
    assert cap_errors(ErrorList(errors)) == expected
    assert cap_errors(errors[:100], ErrorList(errors[100:])) == expected


def test_members_that_nobody_knows_are_named_and_beyond_500_counted() -> None:
    body: dict[str, Any] = {"label": 1, "k" * 200: 2, "\0": 3}
    assert unknown_members(body, known=("label",)) == [
        {"loc": ["body", "k" * 99 + "…"], "msg": "There is no such member.", "type": "unknown_input"},
        {"loc": ["body", "\\x00"], "msg": "There is no such member.", "type": "unknown_input"},
    ]
    many = unknown_members(dict.fromkeys(map(str, range(100_000))), known=())
    assert (len(many), many.left_out) == (500, 99_500)
    assert unknown_members({"label": 1}, known=("label", "more")) == []


@pytest.mark.parametrize(
    ("text", "storable"),
    [("", True), ("a", True), ("ü 🙂", True), ("\0", False), ("a\0b", False), ("\ud800", False), ("ü\udfff", False)],
)
def test_what_postgresql_takes_is_storable(text: str, storable: bool) -> None:
    assert is_storable(text) is storable


def test_a_text_is_shown_bounded_and_escaped() -> None:
    assert shown("a\0\ud800ü") == "a\\x00\\ud800ü"
    assert shown("k" * 101) == "k" * 99 + "…"
