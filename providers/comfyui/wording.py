"""What a ComfyUI server says, as customers may read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers import wording

# Node errors named in one message: those of a broken template repeat themselves.
_MOST_ERRORS = 5
_PATHS = re.compile(
    r"(['\"])(?:/|~/|\\\\|[A-Za-z]:[\\/])[^'\"\n]*\1"  # quoted, which may have spaces
    r"|[\w.-]*(?:[A-Za-z]:)?(?:\\+[\w.@+~$-]+)+\\*"  # Windows
    r"|\b[A-Za-z]:/[\w.@+~/-]+"
    r"|(?<![\w./])~?/[\w.@+~-]+(?:/[\w.@+~-]*)*"  # POSIX; not the fraction in "1/2"
    r"|[\w.@+~-]+(?:/[\w.@+~-]+)*\.(?:py|pyc|pyd|so|dll|sh)\b"  # code, wherever it lies
)


def clean(text: object) -> str:
    return wording.told(str(text), paths=_PATHS)


def describe_refusal(body: Any) -> str:
    """What a refusal (400) or a partial acceptance says, node and field named. `body` is the JSON, or None."""
    if not isinstance(body, Mapping):
        return "The provider refused the graph and gave no reason."
    node_errors = body.get("node_errors")
    lines = list(_node_errors(node_errors)) if isinstance(node_errors, Mapping) else []
    if not lines and isinstance(body.get("error"), Mapping):
        error = body["error"]
        # A cycle, at an older server, comes without a word about it.
        lines = [_with_details(clean(error.get("message") or "Invalid graph"), clean(error.get("details") or ""))]
    if len(lines) > _MOST_ERRORS:
        lines[_MOST_ERRORS:] = [f"and {len(lines) - _MOST_ERRORS} more"]
    return "The provider refused the graph: " + "; ".join(lines or ["no reason given"]) + "."


def _node_errors(node_errors: Mapping[str, Any]) -> list[str]:
    lines = []
    for node_id, node in node_errors.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("errors"), list):
            continue
        place = f"node {describe_node(node_id, node.get('class_type'))}"
        lines += [f"{place}{_node_error(error)}" for error in node["errors"] if isinstance(error, Mapping)]
    return lines


def describe_node(node_id: Any, class_type: Any) -> str:
    return f"{clean(node_id)} ({clean(class_type)})"


def _node_error(error: Mapping[str, Any]) -> str:
    extra = error.get("extra_info")
    extra = extra if isinstance(extra, Mapping) else {}
    field = clean(extra.get("input_name") or "")
    message = clean(error.get("message") or error.get("type") or "refused").rstrip(".")
    details = clean(error.get("details") or "")
    if error.get("type") == "value_not_in_list":
        # The details list the choices, which may be the files that lie on the server.
        details = repr(clean(extra.get("received_value")))
    elif details == field:
        details = ""
    return (f", {field}" if field else "") + ": " + _with_details(message, details)


def _with_details(message: str, details: str) -> str:
    message = message.rstrip(".")
    return f"{message} ({details})" if details else message
