"""What schemathesis cannot know: that inputs are the model's. Loaded by it, in its own process (fuzz.py)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import schemathesis

# Of the model that fuzz.py prepares: one input, `text`, which may be left out.
KNOWN = {"text", "client_ref"}
LONGEST_URL = 2048
# gunicorn takes 4094 bytes of address.
LONGEST_QUERY = 3000


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
def filter_query(context: Any, query: Any) -> bool:
    """Not more than a web server takes in a line: what it refuses for its length never becomes a request of ours."""
    return len(urlencode(query, doseq=True) if isinstance(query, dict) else str(query)) < LONGEST_QUERY
