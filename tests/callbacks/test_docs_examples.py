"""The examples of docs/callbacks.md, run as they stand there against signatures that the server makes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from standardwebhooks import WebhookVerificationError

from callbacks.signing import SECRET_PREFIX, SigningKeys, callback_headers, new_secret

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "callbacks.md").read_text(encoding="utf-8")
SECRET, OTHER = new_secret(), new_secret()
BODY = '{"event": "batch.succeeded", "metadata": {"caf\u00e9": "\u2603"}}'.encode()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


# The examples in the order of the page. Three for Python: the recommended one, the package, the simple signature.
PYTHON, PACKAGE, PYTHON_SIMPLE = blocks("python")
JAVASCRIPT, JAVASCRIPT_SIMPLE = blocks("javascript")


@dataclass(frozen=True)
class Case:
    """What a receiver that knows `secret` is given, and whether it must take it."""

    secret: str
    headers: dict[str, str]
    body: bytes
    is_genuine: bool


def signed(*secrets: str, age: int = 0, **changed: str | None) -> dict[str, str]:
    """The headers, in lower case, of a callback sent `age` seconds ago; `changed` replaces some, None takes one away."""
    headers = callback_headers(
        keys=SigningKeys(current=secrets[0] if secrets else None, active=secrets),
        message_id="01a20c33-30d3-737b-a193-fcc95c0215a8",
        timestamp=int(time.time()) - age,
        body=BODY,
        request_id="r-1",
    )
    lower: dict[str, str | None] = {name.lower(): value for name, value in headers.items()}
    lower |= {name.replace("_", "-"): value for name, value in changed.items()}
    return {name: value for name, value in lower.items() if value is not None}


CHANGED_BODY = BODY.replace(b"succeeded", b"succeedec")


def recommended_cases() -> dict[str, Case]:
    return {
        "genuine": Case(SECRET, signed(SECRET), BODY, True),
        "four minutes old": Case(SECRET, signed(SECRET, age=240), BODY, True),
        "four minutes ahead": Case(SECRET, signed(SECRET, age=-240), BODY, True),
        "rotated, the receiver has the current one": Case(SECRET, signed(SECRET, OTHER), BODY, True),
        "rotated, the receiver has the other one": Case(OTHER, signed(SECRET, OTHER), BODY, True),
        "a later version beside": Case(
            SECRET, signed(SECRET, webhook_signature=f"v2,abc {signed(SECRET)['webhook-signature']}"), BODY, True
        ),
        "without Runflow-Signature": Case(SECRET, signed(SECRET, runflow_signature=None), BODY, True),
        "changed body": Case(SECRET, signed(SECRET), CHANGED_BODY, False),
        "longer body": Case(SECRET, signed(SECRET), BODY + b"\n", False),
        "body in another charset": Case(SECRET, signed(SECRET), BODY.decode().encode("utf-16"), False),
        "empty body": Case(SECRET, signed(SECRET), b"", False),
        "six minutes old": Case(SECRET, signed(SECRET, age=360), BODY, False),
        "six minutes ahead": Case(SECRET, signed(SECRET, age=-360), BODY, False),
        "old with a new timestamp": Case(
            SECRET, signed(SECRET, age=360, webhook_timestamp=str(int(time.time()))), BODY, False
        ),
        "another secret": Case(OTHER, signed(SECRET), BODY, False),
        "another id": Case(SECRET, signed(SECRET, webhook_id="other"), BODY, False),
        "no id": Case(SECRET, signed(SECRET, webhook_id=None), BODY, False),
        "no timestamp": Case(SECRET, signed(SECRET, webhook_timestamp=None), BODY, False),
        "a timestamp that is no number": Case(SECRET, signed(SECRET, webhook_timestamp="soon"), BODY, False),
        "an endless timestamp": Case(SECRET, signed(SECRET, webhook_timestamp="9" * 5000), BODY, False),
        "no signature": Case(SECRET, signed(SECRET, webhook_signature=None), BODY, False),
        "an empty signature": Case(SECRET, signed(SECRET, webhook_signature=""), BODY, False),
        "a signature of zeros": Case(
            SECRET, signed(SECRET, webhook_signature="v1," + base64.b64encode(bytes(32)).decode()), BODY, False
        ),
        "another version": Case(
            SECRET,
            signed(SECRET, webhook_signature=signed(SECRET)["webhook-signature"].replace("v1,", "v2,")),
            BODY,
            False,
        ),
        "unsigned": Case(SECRET, signed(), BODY, False),
        "no headers": Case(SECRET, {}, BODY, False),
    }


def simple_cases() -> dict[str, Case]:
    return {
        "genuine": Case(SECRET, signed(SECRET), BODY, True),
        "old: it cannot know": Case(SECRET, signed(SECRET, age=3600), BODY, True),
        "rotated, the receiver has the current one": Case(SECRET, signed(SECRET, OTHER), BODY, True),
        "rotated, the receiver has the other one": Case(OTHER, signed(SECRET, OTHER), BODY, False),
        "changed body": Case(SECRET, signed(SECRET), CHANGED_BODY, False),
        "another secret": Case(OTHER, signed(SECRET), BODY, False),
        "the key without whsec_": Case(SECRET.removeprefix(SECRET_PREFIX), signed(SECRET), BODY, False),
        "too short": Case(SECRET, signed(SECRET, runflow_signature="0" * 63), BODY, False),
        "not ASCII": Case(SECRET, signed(SECRET, runflow_signature="\u00fc" * 64), BODY, False),
        "unsigned": Case(SECRET, signed(), BODY, False),
    }


# --- Python ------------------------------------------------------------------------------------------------------------


def function(source: str, name: str) -> Callable[[str, dict[str, str], bytes], Any]:
    namespace: dict[str, Any] = {}
    exec(source, namespace)  # noqa: S102 -- our own page
    return namespace[name]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("source", "cases"),
    [(PYTHON, recommended_cases), (PYTHON_SIMPLE, simple_cases)],
    ids=["webhook-signature", "Runflow-Signature"],
)
def test_the_python_example_takes_what_is_genuine_and_nothing_else(
    source: str, cases: Callable[[], dict[str, Case]]
) -> None:
    is_genuine = function(source, "is_genuine")
    table = cases()
    told = {name: is_genuine(case.secret, case.headers, case.body) for name, case in table.items()}
    assert told == {name: case.is_genuine for name, case in table.items()}


def test_the_package_example_takes_what_is_genuine_and_nothing_else() -> None:
    verified = function(PACKAGE, "verified")
    table = recommended_cases()
    told = {}
    for name, case in table.items():
        try:
            told[name] = verified(case.secret, case.headers, case.body) == json.loads(BODY)
        except (WebhookVerificationError, UnicodeDecodeError):
            told[name] = False
    assert told == {name: case.is_genuine for name, case in table.items()}


# --- JavaScript --------------------------------------------------------------------------------------------------------

# Calls the example with the cases of standard input and prints what it says.
HARNESS = """
import { readFileSync } from "node:fs";
import { isGenuine } from "./example.mjs";

const cases = JSON.parse(readFileSync(0, "utf8"));
const told = cases.map((each) => isGenuine(each.secret, each.headers, Buffer.from(each.body, "base64")));
console.log(JSON.stringify(told));
"""


@pytest.mark.parametrize(
    ("source", "cases"),
    [(JAVASCRIPT, recommended_cases), (JAVASCRIPT_SIMPLE, simple_cases)],
    ids=["webhook-signature", "Runflow-Signature"],
)
def test_the_javascript_example_takes_what_is_genuine_and_nothing_else(
    source: str, cases: Callable[[], dict[str, Case]], tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        without = pytest.fail if os.environ.get("CI") else pytest.skip
        without("docs/callbacks.md has examples in JavaScript: install Node.js (Debian: nodejs) to run them.")
    (tmp_path / "example.mjs").write_text(source, encoding="utf-8")
    (tmp_path / "harness.mjs").write_text(HARNESS, encoding="utf-8")
    table = cases()
    given = [
        {"secret": case.secret, "headers": case.headers, "body": base64.b64encode(case.body).decode()}
        for case in table.values()
    ]
    process = subprocess.run(
        [node, str(tmp_path / "harness.mjs")],
        input=json.dumps(given).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.stderr.decode() == ""
    told = dict(zip(table, json.loads(process.stdout), strict=True))
    assert told == {name: case.is_genuine for name, case in table.items()}


# --- Numbers -----------------------------------------------------------------------------------------------------------


def seconds(text: str) -> int:
    """`2 h 35 min`"""
    units = {"s": 1, "min": 60, "h": 3600}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", text))


def test_the_schedule_on_the_page_is_the_one_that_is_kept() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]*) ?\| ([^|]+) \|$", PAGE, re.MULTILINE)
    pauses = [seconds(pause) for _, pause, _ in rows]
    assert [int(attempt) for attempt, _, _ in rows] == list(range(1, len(settings.CALLBACK_RETRY_DELAYS) + 2))
    assert pauses == [0, *settings.CALLBACK_RETRY_DELAYS]
    # To the minute.
    sums = list(accumulate(pauses))
    assert [seconds(since) for _, _, since in rows] == [each if each < 60 else each // 60 * 60 for each in sums]


def test_the_headers_on_the_page_are_those_that_are_sent() -> None:
    headers = callback_headers(
        keys=SigningKeys(current=SECRET, active=(SECRET,)), message_id="m", timestamp=0, body=BODY, request_id="r"
    )
    listed = re.findall(r"^\| `([A-Za-z-]+)` \| ", PAGE.split("| header | |")[1].split("\n\n")[0], re.MULTILINE)
    assert sorted(listed) == sorted(headers)


def test_the_body_on_the_page_has_the_members_of_the_contract() -> None:
    [body] = blocks("json")
    members = ["event", "batch_id", "status", "output", "duration_ms", "created_at", "completed_at", "metadata"]
    assert list(json.loads(body)) == members
