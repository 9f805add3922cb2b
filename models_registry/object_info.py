"""What a ComfyUI server says of its nodes' fields (`GET /object_info/{class}`): types, ranges, choices.

Nodes are written by many people, so whatever an entry says that makes no sense is taken as not said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from models_registry.faults import MAX_INTEGER, MIN_INTEGER, json_fault
from models_registry.models import VariableType

# A server on the operator's network answers in milliseconds, or later while it loads a model (seconds).
_TIMEOUT = httpx.Timeout(5.0, connect=2.0)
# For all classes of a graph (seconds).
_DEADLINE = 20.0

# Fields with an upload button in the editor.
_UPLOADS = {
    "image_upload": VariableType.IMAGE,
    "video_upload": VariableType.VIDEO,
    "audio_upload": VariableType.AUDIO,
}


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field's values. `type_code` is None when the server's word for them says nothing of JSON values."""

    type_code: VariableType | None = None
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node class. `is_output`: a prompt needs at least one such node."""

    is_output: bool
    fields: Mapping[str, FieldInfo]


# Node classes by name; those that the server does not have are missing.
ObjectInfo = Mapping[str, NodeInfo]


class NoAnswer(Exception):
    """The server did not tell. `str()` of it is written for operators."""


def fetch_object_info(base_url: str, class_types: Collection[str]) -> ObjectInfo:
    """Ask a server about these node classes, one after the other. Raises NoAnswer.

    The address is the operator's own, so nothing is guarded; no proxy and no .netrc of the environment is used.
    """
    found: dict[str, NodeInfo] = {}
    until = time.monotonic() + _DEADLINE
    try:
        with httpx.Client(base_url=base_url, timeout=_TIMEOUT, trust_env=False) as client:
            for class_type in class_types:
                if time.monotonic() > until:
                    raise NoAnswer(f"{base_url} takes too long")
                entry = _entry(client.get(f"/object_info/{quote(class_type, safe='')}"), base_url, class_type)
                if entry is not None:
                    found[class_type] = read_node_info(entry)
    except (httpx.HTTPError, httpx.InvalidURL) as fault:
        raise NoAnswer(f"{base_url}: {type(fault).__name__} ({fault})") from fault
    return found


def _entry(response: httpx.Response, base_url: str, class_type: str) -> dict[str, Any] | None:
    """The class's entry; None when the server has no such class. Raises NoAnswer."""
    if response.status_code != httpx.codes.OK:
        raise NoAnswer(f"{base_url} answers {response.status_code}")
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if answer == {}:
        return None
    entry = answer.get(class_type) if isinstance(answer, dict) else None
    if not isinstance(entry, dict):
        raise NoAnswer(f"{base_url} answers, but not as ComfyUI does")
    return entry


def read_node_info(entry: Mapping[str, Any]) -> NodeInfo:
    """One entry of `/object_info`."""
    sections = entry.get("input")
    fields: dict[str, FieldInfo] = {}
    for name in ("required", "optional"):
        section = sections.get(name) if isinstance(sections, dict) else None
        if isinstance(section, dict):
            fields |= {field: read_field_info(spec) for field, spec in section.items()}
    return NodeInfo(entry.get("output_node") is True, fields)


def read_field_info(spec: Any) -> FieldInfo:
    """`[type, options]`, where the type of a choice is its list of choices, or "COMBO" with them in the options."""
    kind, options = [*spec, None, None][:2] if isinstance(spec, list) else (None, None)
    options = options if isinstance(options, dict) else {}
    for flag, type_code in _UPLOADS.items():
        if options.get(flag) is True:
            return FieldInfo(type_code)
    if isinstance(kind, list):
        return _read_choices(kind)
    if kind == "COMBO":
        return _read_choices(options.get("options"))
    match kind:
        case "INT":
            return _read_integer(options)
        case "FLOAT":
            return _read_number(options)
        case "STRING":
            return FieldInfo(VariableType.STRING)
        case "BOOLEAN":
            return FieldInfo(VariableType.BOOLEAN)
        case _:
            return FieldInfo()


def _read_choices(choices: Any) -> FieldInfo:
    """Choices of one type; of several types, or none at all (the editor asks elsewhere for them), say nothing."""
    if not isinstance(choices, list) or not choices or json_fault(choices):
        return FieldInfo()
    types = {type(choice) for choice in choices}
    if types == {str}:
        return FieldInfo(VariableType.STRING, tuple(dict.fromkeys(choices)))
    if types == {int}:
        return FieldInfo(VariableType.INTEGER, tuple(dict.fromkeys(choices)))
    if types <= {int, float}:
        return FieldInfo(VariableType.NUMBER, tuple(dict.fromkeys(choices)))
    return FieldInfo()


def _read_integer(options: dict[str, Any]) -> FieldInfo:
    low, high, step = (_bound(options, name) for name in ("min", "max", "step"))
    # Beyond 64 bits (seeds go up to 2**64 - 1) is more than inputs of this server can hold.
    low = None if low is None else max(math.ceil(low), MIN_INTEGER)
    high = None if high is None else min(math.floor(high), MAX_INTEGER)
    if low is not None and high is not None and low > high:
        low = high = None
    # The editor counts in steps and the server takes any number; but what is no multiple of 8 or 64 it rounds in silence.
    step = int(step) if step is not None and step > 1 and step == int(step) else None
    return FieldInfo(VariableType.INTEGER, low=low, high=high, step=step)


def _read_number(options: dict[str, Any]) -> FieldInfo:
    """Without the step: it is the editor's, and 7.55 is a good value where it counts in 0.1."""
    low, high = (_bound(options, name) for name in ("min", "max"))
    low = None if low is None or low < MIN_INTEGER else low
    high = None if high is None or high > MAX_INTEGER else high
    if low is not None and high is not None and low > high:
        low = high = None
    return FieldInfo(VariableType.NUMBER, low=low, high=high)


def _bound(options: dict[str, Any], name: str) -> float | None:
    value = options.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None
