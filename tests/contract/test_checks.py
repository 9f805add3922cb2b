"""The checks check: an assertion that cannot fail would make every test that uses it worthless."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.contract.checks import SCHEMAS, assert_matches
from tests.contract.formats import FORMATS

DETAIL: dict[str, Any] = {
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "created_at": "2026-01-02T03:04:05.678901+00:00",
}


def formats_in(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("format"), str):
            yield schema["format"]
        for inner in schema.values():
            yield from formats_in(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from formats_in(inner)


def test_schemas_are_valid_draft_2020_12() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS)


def test_every_endpoint_names_schemas_that_exist() -> None:
    named = {
        each[member]
        for each in SCHEMAS["x-endpoints"]
        for member in ("request", "response", "query")
        if each.get(member)
    }
    assert named - set(SCHEMAS["$defs"]) == set()


def test_every_format_of_the_schemas_is_checked() -> None:
    assert set(formats_in(SCHEMAS["$defs"])) - set(FORMATS.checkers) <= {"uri", "email"}


def test_a_good_body_matches() -> None:
    assert_matches("BatchDetail", DETAIL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "no-uuid"},
        {"id": DETAIL["id"].upper()},
        {"created_at": "2026-01-02T03:04:05Z"},
        {"created_at": "2026-01-02T03:04:05+01:00"},
        {"created_at": "2026-02-30T03:04:05+00:00"},
        {"created_at": "2026-01-02 03:04:05+00:00"},
        {"status_code": "cancelled"},
        {"cost": 0.55},
        {"cost": "."},
        {"cost": "1E+2"},
        {"items": [{"id": DETAIL["id"]}]},
        {"items_total": "1"},
    ],
    ids=json.dumps,
)
def test_a_wrong_member_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="not a BatchDetail"):
        assert_matches("BatchDetail", DETAIL | wrong)


def test_a_misspelt_schema_name_is_no_pass() -> None:
    with pytest.raises(LookupError):
        assert_matches("BatchDetails", DETAIL)
