"""What a run's graph needs before it goes to a server: media put in, outputs named after the attempt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from providers.base import Job
from runflow.lib.json_pointer import copy_json, get_at, parse_pointer, put_at

# What media inputs look like (contract.md section 5). Other text at their place is the template's own: the name of a file
# that lies on the server already.
_SOURCE = re.compile(r"(?:https?://|data:|runflow://)", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
# File names end at 255 bytes, and the server adds its counter.
_LONGEST_NAME = 80


class InvalidGraph(ValueError):
    """The template does not make a graph. `str()` of it is written for the customer."""


def check_graph(body: Any) -> dict[str, Any]:
    """The body, if it has the shape of an API-format graph. Raises InvalidGraph.

    A server answers other shapes (the format of the editor among them) with 500, which says nothing.
    """
    if not isinstance(body, dict) or not body:
        raise InvalidGraph("The model's template is no graph.")
    for node_id, node in body.items():
        if not (
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        ):
            raise InvalidGraph(
                f"The model's template is no graph in API format: {node_id!r} is no node with class_type and inputs."
            )
    return body


def find_sources(job: Job) -> list[str]:
    """The media inputs in the job's body, each once. Raises InvalidGraph when there is no such place."""
    found: dict[str, None] = {}
    for _tokens, value in _media(job):
        found |= dict.fromkeys(text for text in _texts(value) if _SOURCE.match(text))
    return list(found)


def build_graph(job: Job, names: Mapping[str, str]) -> dict[str, Any]:
    """A copy of the job's graph with the media inputs replaced by `names`, and prefixes that no other attempt has.

    The prefix makes the server save again: for a graph it has seen it answers with the files of the earlier run, which may
    be gone. Expects a body that passed `check_graph`.
    """
    graph: dict[str, Any] = copy_json(job.body)
    for tokens, value in _media(job):
        put_at(graph, tokens, _renamed(value, names))
    for node_id, node in graph.items():
        prefix = node["inputs"].get("filename_prefix")
        if isinstance(prefix, str):
            name = _safe_name(prefix) or _safe_name(node_id) or "output"
            node["inputs"]["filename_prefix"] = f"runflow/{_safe_name(job.run_id)}/{job.attempt}/{name}"
    return graph


def find_seed(graph: Any) -> int | None:
    """The seed that the graph was run with, if it names exactly one."""
    if not isinstance(graph, Mapping):
        return None
    seeds = {
        value
        for node in graph.values()
        if isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping)
        for name, value in node["inputs"].items()
        if name in ("seed", "noise_seed") and type(value) is int
    }
    return seeds.pop() if len(seeds) == 1 else None


def _media(job: Job) -> list[tuple[tuple[str, ...], Any]]:
    try:
        places = [parse_pointer(pointer) for pointer in job.media]
        return [(tokens, get_at(job.body, tokens)) for tokens in places]
    except (LookupError, ValueError) as error:
        raise InvalidGraph("A media input of the model has no place in its template.") from error


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _safe_name(text: str) -> str:
    """The last part of a path, in characters that are safe in a file name everywhere."""
    return _UNSAFE.sub("_", text.replace("\\", "/").rstrip("/").rpartition("/")[2]).strip("_")[:_LONGEST_NAME]
