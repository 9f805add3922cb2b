"""Sections: one mapping of a file at a time, taken out key by key, with what is wrong noted as faults."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from enum import Enum
from typing import Any, Final

from models_registry.templates import Fault

MAX_DB_INTEGER = 2**31 - 1


class Missing(Enum):
    """A key that the file does not have. (None is a value: `organization: null`.)"""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


class Section:
    """One mapping of the file: takes its values out key by key and notes what is wrong with them."""

    def __init__(self, data: Any, path: str, known: Collection[str], faults: list[Fault]) -> None:
        self.path = path
        self.faults = faults
        self.data: dict[str, object] = data if isinstance(data, dict) else {}
        if not isinstance(data, dict):
            self.fault("", "must be a mapping")
        for key in self.data:
            if key not in known:
                self.fault(key, f"unknown key; known are {', '.join(known)}")

    def fault(self, key: str, reason: str) -> None:
        self.faults.append(Fault(f"{self.path}.{key}".strip("."), reason))

    def text(self, key: str, max_length: int | None = None, *, is_required: bool = False) -> str | Missing:
        value = self.data.get(key, MISSING)
        if value is MISSING:
            if is_required:
                self.fault(key, "is required")
            return MISSING
        if not isinstance(value, str):
            self.fault(key, "must be text (in quotes, if it looks like something else)")
            return MISSING
        if is_required and not value.strip():
            self.fault(key, "must not be empty")
        if max_length is not None and len(value) > max_length:
            self.fault(key, f"must have at most {max_length} characters")
        return value

    def integer(self, key: str, low: int, high: int = MAX_DB_INTEGER) -> int | Missing:
        value = self.data.get(key, MISSING)
        if value is MISSING:
            return MISSING
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fault(key, f"must be an integer from {low} to {high}")
            return MISSING
        return value

    def flag(self, key: str) -> bool | Missing:
        value = self.data.get(key, MISSING)
        if value is MISSING or isinstance(value, bool):
            return value
        self.fault(key, "must be true or false")
        return MISSING

    def choice(self, key: str, choices: Collection[str], *, is_required: bool = False) -> str | Missing:
        value = self.text(key, is_required=is_required)
        if value is not MISSING and value not in choices:
            self.fault(key, f"{value!r} is none of {', '.join(sorted(choices)) or '(there are none)'}")
        return value

    def mapping(self, key: str) -> dict[str, Any] | Missing:
        value = self.data.get(key, MISSING)
        if value is MISSING or isinstance(value, dict):
            return value
        self.fault(key, "must be a mapping")
        return MISSING

    def items(self, key: str) -> list[tuple[str, Any]] | Missing:
        """The elements of a list, each with its path."""
        value = self.data.get(key, MISSING)
        if value is MISSING:
            return MISSING
        if not isinstance(value, list):
            self.fault(key, "must be a list")
            return MISSING
        prefix = f"{self.path}.{key}".strip(".")
        return [(f"{prefix}[{index}]", element) for index, element in enumerate(value)]


class Once:
    """Refuses the second of two equal names."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.first: dict[Hashable, str] = {}

    def see(self, name: Hashable, path: str) -> None:
        if name in self.first:
            self.faults.append(Fault(path, f"is declared by {self.first[name]} already"))
        else:
            self.first[name] = path


def given_values(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not MISSING}


def text_or_empty(value: str | Missing) -> str:
    return "" if value is MISSING else value


def items_or_empty(items: list[tuple[str, Any]] | Missing) -> list[tuple[str, Any]]:
    return [] if items is MISSING else items
