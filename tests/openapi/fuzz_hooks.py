"""What schemathesis cannot know: that inputs are the model's, and what a list can be asked. Loaded by it, in its own process
(fuzz.py)."""

from __future__ import annotations

import random
import re
from typing import Any
from urllib.parse import urlencode
from zlib import crc32

import schemathesis

# Of the model that fuzz.py prepares: one input, `text`, which may be left out.
KNOWN = {"text", "client_ref"}
LONGEST_URL = 2048
# gunicorn takes 4094 bytes of address.
LONGEST_QUERY = 3000
ID = "01a20c33-30d3-737b-a193-fcc95c0215a8"


def _fits(made_up: Any) -> Any:
    """About two of three inputs as the model takes them, decided by the value itself, so that a seed repeats a run."""
    if not isinstance(made_up, dict) or len(repr(made_up)) % 3 == 0:
        return made_up
    kept = {name: value for name, value in made_up.items() if name in KNOWN}
    return kept if "text" in kept or len(made_up) == len(kept) else {**kept, "text": repr(made_up)[:200]}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Inputs that the model takes, and a callback_url that is one, more often than chance would have it."""
    if context.operation.definition.raw.get("operationId") not in ("createBatch", "createRun") or not isinstance(
        body, dict
    ):
        return body
    made = dict(body)
    if isinstance(made.get("input"), list):
        made["input"] = [_fits(each) for each in made["input"]]
    elif isinstance(made.get("input"), dict):
        made["input"] = _fits({name: value for name, value in made["input"].items() if name != "client_ref"})
    url = made.get("callback_url")
    # One that is too long is meant to be.
    if isinstance(url, str) and len(url) <= LONGEST_URL and len(url) % 2:
        made["callback_url"] = "https://receiver.invalid/done"
    return made


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Filters, orders and members as the list's description has them, in two of three requests that have any."""
    parameters = {each.get("name"): each for each in context.operation.definition.raw.get("parameters", ())}
    if not isinstance(query, dict) or "q" not in parameters:
        return query
    made = dict(query)
    for name, make in (("q", _filter), ("sort_by", _order), ("fields", _some), ("embed", _some)):
        if isinstance(made.get(name), str) and (seed := crc32(repr(made[name]).encode())) % 3:
            made[name] = make(random.Random(seed), parameters[name]["description"], made[name])
    return made


def _filter(choose: random.Random, description: str, made_up: str) -> str:
    """One to four conditions; their values sometimes what was made up."""
    members = re.findall(r"^- `(\w+)` \(([A-Z ]+)\)(?:: (.*))?$", description, re.MULTILINE)
    text = ""
    for _ in range(choose.randint(1, 4)):
        name, operators, note = choose.choice(members)
        quoted = "'" + re.sub(r"(['\\\\])", r"\\\1", made_up[:50]) + "'"
        values = [
            "2026-04-01",
            "2100-01-01T00:00:00+00:00",
            "true",
            "testing/any",
            "a",
            quoted,
            ID,
            *re.findall(r"`(\w+)`", note),
        ]
        path = f"{name}.{choose.choice(['a', quoted])}" if name == "metadata" else name
        operator = choose.choice(operators.split())
        value = choose.choice(values[-2:] if note else values)
        condition = (
            f"{path}.{operator}:({value},{choose.choice(values)})" if operator == "IN" else f"{path}.{operator}:{value}"
        )
        text += (choose.choice([" AND ", " OR ", " AND NOT "]) if text else "") + condition
    return text


def _order(choose: random.Random, description: str, _: str) -> str:
    names = re.findall(r"`(\w+)`", "".join(re.findall(r"^By .*?\.", description, re.MULTILINE)))
    return ",".join(
        f"{name}{choose.choice(['', ':asc', ':desc'])}" for name in choose.sample(names, choose.randint(1, len(names)))
    )


def _some(choose: random.Random, description: str, _: str) -> str:
    names = re.findall(r"`(\w+)`", description)
    return ",".join(choose.sample(names, choose.randint(1, len(names))))


@schemathesis.hook
def map_headers(context: Any, headers: Any) -> Any:
    """An `If-None-Match` that matches, now and then."""
    if (
        isinstance(headers, dict)
        and isinstance(headers.get("If-None-Match"), str)
        and len(headers["If-None-Match"]) % 2
    ):
        return {**headers, "If-None-Match": "*"}
    return headers


@schemathesis.hook
def filter_query(context: Any, query: Any) -> bool:
    """Not more than a web server takes in a line: what it refuses for its length never becomes a request of ours. And no
    empty `limit`, which counts as not given and is no number."""
    if isinstance(query, dict) and query.get("limit") == "":
        return False
    return len(urlencode(query, doseq=True) if isinstance(query, dict) else str(query)) < LONGEST_QUERY
