"""Reading a provider's config: every member is known, typed and bounded, or the fault names its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

from providers.base import AdapterConfigError
from providers.http.expressions import Expression

T = TypeVar("T", bound=str)


class Section:
    """One object of the config. Members are taken out of it; `end` refuses what is left.

    `path` is how a fault begins: `Provider 'x': config.outcome`. Every method raises AdapterConfigError.
    """

    def __init__(self, value: Any, path: str) -> None:
        self.path = path
        if not isinstance(value, dict):
            self.refuse("must be an object")
        self._left = dict(value)

    def refuse(self, reason: str, name: str | None = None) -> NoReturn:
        raise AdapterConfigError(f"{self.path}{f'.{name}' if name else ''}: {reason}.")

    def has(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, default: Any = None) -> Any:
        return self._left.pop(name, default)

    def take_all(self) -> dict[str, Any]:
        """For an object whose members' names are free."""
        left, self._left = self._left, {}
        for name in left:
            if not isinstance(name, str):
                self.refuse(f"{name!r} must be a text")
        return left

    def end(self) -> None:
        """Refuse members that nobody took: a misspelt option would be ignored without a word."""
        for name in self._left:
            self.refuse("there is no such option", name)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not (isinstance(value, str) and value):
            self.refuse("must be a text", name)
        return value

    def required_text(self, name: str) -> str:
        return self.text(name) or self.refuse("is missing", name)

    def choice(self, name: str, choices: Iterable[T], default: T) -> T:
        value = self.take(name, default)
        chosen = next((choice for choice in choices if choice == value), None)
        return chosen or self.refuse(f"must be one of {', '.join(choices)}", name)

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.refuse(f"must be a number from {low:g} to {high:g}", name)
        return float(value)

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(f"must be a whole number from {low} to {high}", name)
        return value

    def items(self, name: str, default: Iterable[Any] = ()) -> list[Any]:
        value = self.take(name, list(default))
        if not isinstance(value, list):
            self.refuse("must be a list", name)
        return value

    def texts(self, name: str) -> list[str]:
        values = self.items(name)
        if not all(isinstance(value, str) and value for value in values):
            self.refuse("must be a list of texts", name)
        return values

    def section(self, name: str) -> Section:
        """The object at `name`; an empty one when it is not given."""
        return Section(self.take(name, {}), f"{self.path}.{name}")

    def expression(self, name: str) -> Expression | None:
        text = self.text(name)
        return None if text is None else self.compiled(text, name)

    def compiled(self, text: str, name: str) -> Expression:
        try:
            return Expression(text)
        except ValueError as fault:
            self.refuse(f"{text!r} is no JMESPath expression ({fault})", name)
