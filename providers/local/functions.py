"""How a Python function becomes something a template can name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from providers.base import Artifact, Media, never

# What the `local` adapter offers without any configuration.
LOCAL_FUNCTION_MODULES = ("providers.local.images",)


@dataclass(frozen=True, slots=True)
class Context:
    """What a function gets beside its arguments.

    `fetch` turns a media input into bytes, or raises FetchError (let it through: it becomes
    INPUT_FETCH_FAILED). A function that takes seconds calls `stop_if_asked` now and then.
    """

    run_id: str
    attempt: int
    fetch: Callable[[str], Media]
    should_stop: Callable[[], bool] = never

    def stop_if_asked(self) -> None:
        """Raises Stopped when somebody canceled the run, or its time is over; let it through."""
        if self.should_stop():
            raise Stopped


class Stopped(Exception):
    """The run is to end here."""


class Refused(Exception):
    """The function cannot work with these inputs, now or later. `str()` of it is shown to the customer."""


class TryLater(Exception):
    """Another attempt may go better. `str()` of it is shown to the customer; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


LocalResult = Artifact | Sequence[Artifact]
LocalFunction = Callable[..., LocalResult]
Decorated = TypeVar("Decorated", bound=LocalFunction)

_names: dict[LocalFunction, str] = {}


def local_function(name: str) -> Callable[[Decorated], Decorated]:
    """Offer a function to templates as `name`.

    It is called as `function(context, **arguments)`. It returns an artifact or a sequence of them; it
    raises Refused or TryLater. Anything else it raises is a bug of its own: logged, and told to the
    customer in general words.
    """

    def decorate(function: Decorated) -> Decorated:
        _names[function] = name
        return function

    return decorate


def functions_in(module: ModuleType) -> dict[str, LocalFunction]:
    """Collect the local functions a module holds, its own and imported ones, by name.

    By module, not from one global table: a provider must not offer what only another provider's config has
    named (the testing functions, in a process that serves both).
    """
    members = (member for member in vars(module).values() if inspect.isfunction(member))
    return {_names[member]: member for member in members if member in _names}
