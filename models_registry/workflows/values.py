"""What values a field takes: the server's word where it has been asked, else what the graph's own value shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from models_registry.faults import MAX_INTEGER, Refused
from models_registry.fields import make_field
from models_registry.models import MEDIA_TYPES, Validator, VariableType
from models_registry.object_info import FieldInfo
from models_registry.workflows.graph import Node, is_seed

# Decimal fields, by name: ComfyUI's editor writes 8.0 as 8, which looks like an integer.
DECIMALS = frozenset(
    {"cfg", "denoise", "duration", "fps", "frame_rate", "guidance", "megapixels", "scale_by", "seconds", "strength"}
)
_MEDIA_ENDINGS = {
    VariableType.IMAGE: (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    VariableType.VIDEO: (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v"),
    VariableType.AUDIO: (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a"),
}


class Mismatch(ValueError):
    """Two fields have no value in common."""


@dataclass(frozen=True, slots=True)
class Values:
    """A type with its limits. `choices` and a range do not come together."""

    type_code: VariableType
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    step: int | None = None

    @property
    def is_media(self) -> bool:
        return self.type_code in MEDIA_TYPES

    def validator(self) -> tuple[Validator, dict[str, Any]]:
        """As an input declares it."""
        if self.choices:
            return Validator.ONE_OF, {"values": list(self.choices)}
        limits = {"min": self.low, "max": self.high, "step": self.step}
        attrs = {name: value for name, value in limits.items() if value is not None}
        return (Validator.RANGE, attrs) if attrs else (Validator.NONE, {})

    def fault(self, value: Any) -> str | None:
        """Why a value is none of these, or None."""
        validator, attrs = self.validator()
        try:
            make_field(self.type_code, validator, attrs).run_validation(value)
        except Refused as refused:
            return " ".join(map(str, refused.details))
        return None

    def common(self, other: Values) -> Values:
        """The values that both fields take. Raises Mismatch."""
        numbers = {VariableType.INTEGER, VariableType.NUMBER}
        if self.type_code != other.type_code and {self.type_code, other.type_code} != numbers:
            raise Mismatch(f"{self.type_code} and {other.type_code} do not go together")
        # An integer is a number, not the other way round.
        type_code = self.type_code if self.type_code == other.type_code else VariableType.INTEGER
        if self.choices or other.choices:
            choices = self.choices or other.choices
            if self.choices and other.choices:
                choices = tuple(choice for choice in self.choices if choice in other.choices)
            choices = tuple(choice for choice in choices if Values(type_code).fault(choice) is None)
            if not choices:
                raise Mismatch("they have no choice in common")
            return Values(type_code, choices)
        low = max((bound for bound in (self.low, other.low) if bound is not None), default=None)
        high = min((bound for bound in (self.high, other.high) if bound is not None), default=None)
        if type_code == VariableType.INTEGER:
            low = None if low is None else math.ceil(low)
            high = None if high is None else math.floor(high)
        if low is not None and high is not None and low > high:
            raise Mismatch("their ranges have nothing in common")
        # Steps count from `low`: two different ones, or one from another start, cannot be told in one.
        same = self.step == other.step and self.low == other.low
        return Values(type_code, (), low, high, self.step if same else None)


def media_type(node: Node, name: str, info: FieldInfo | None) -> VariableType | None:
    """The kind of file that a customer gives for this field: an upload field, or a loader's field that names such a file."""
    if info is not None and info.type_code in MEDIA_TYPES:
        return info.type_code
    value = node.inputs[name]
    # Loaders of paths and URLs want what lies on the server's disk or elsewhere, not what is uploaded.
    is_loader = "load" in node.class_type.lower() and not node.class_type.endswith(("Path", "Url", "URL"))
    if not is_loader or not isinstance(value, str) or "://" in value:
        return None
    # In the editor's own words: "photo.png [input]".
    file = value.partition(" [")[0].lower()
    return next((kind for kind, endings in _MEDIA_ENDINGS.items() if file.endswith(endings)), None)


def values_of(node: Node, name: str, info: FieldInfo | None) -> Values | None:
    """What the field takes; None when nothing says so (the graph has null there)."""
    if kind := media_type(node, name, info):
        return Values(kind)
    value = node.inputs[name]
    if info is not None and info.type_code is not None:
        return Values(info.type_code, info.choices, info.low, info.high, _fitting_step(info, value))
    type_code = _type_of(name, value)
    if type_code == VariableType.INTEGER and is_seed(name):
        # Some nodes take -1 for "any seed".
        return Values(type_code, low=min(0, value), high=MAX_INTEGER)
    return Values(type_code) if type_code else None


def _type_of(name: str, value: Any) -> VariableType | None:
    match value:
        case bool():
            return VariableType.BOOLEAN
        case int():
            return VariableType.NUMBER if name in DECIMALS else VariableType.INTEGER
        case float():
            return VariableType.NUMBER
        case str():
            return VariableType.STRING
        case dict():
            return VariableType.JSON
        case _:
            return None


def _fitting_step(info: FieldInfo, value: Any) -> int | None:
    """The step, if the graph itself keeps to it: servers do not insist."""
    if info.step is None or not isinstance(value, int) or (value - int(info.low or 0)) % info.step:
        return None
    return info.step
