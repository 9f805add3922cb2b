"""What an adapter is: plain data in, plain data out, no Django.

An adapter knows one provider's protocol. It answers with outcomes, not exceptions, so that the engine's retry policy is a
table over values (`batches.retry`). Asynchronous adapters (submit, poll, cancel, collect) will be a second protocol beside
`SyncAdapter`; the outcomes are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

OutputType = Literal["image", "video", "audio", "text", "file"]
Stage = Literal["dispatch", "preprocess", "execute", "collect"]


@dataclass(frozen=True, slots=True)
class Media:
    """The bytes behind one media input, and what they say they are."""

    body: bytes
    mime_type: str


class FetchError(Exception):
    """A media input could not be read. `str()` of it is written for the customer.

    `is_retryable` is True when another attempt may go better (a timeout, a 503 of the other side).
    """

    def __init__(self, message: str, *, is_retryable: bool = False) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one run, ready for a provider.

    `body` is the template with the inputs put at their bindings. `fetch` turns a media input (an http(s) URL, a `data:` URI,
    `runflow://assets/{id}`) into bytes, or raises FetchError.
    """

    run_id: str
    attempt: int
    body: Any
    fetch: Callable[[str], Media]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One output of a run: bytes to be stored. Width and height in pixels where they are known."""

    body: bytes
    mime_type: str
    type: OutputType
    extension: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider did the work."""

    artifacts: tuple[Artifact, ...]
    seed: int | None = None
    timing: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """It will fail the same way again. `code` is one of the contract's failure codes (section 4)."""

    code: str
    message: str
    stage_code: Stage = "execute"


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Worth another attempt, not before `retry_after` seconds when the provider said so."""

    code: str
    message: str
    stage_code: Stage = "execute"
    retry_after: float | None = None


Outcome = Finished | Rejected | Unavailable


class SyncAdapter(Protocol):
    """An adapter whose work is over when the call returns."""

    def perform(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do the jobs; outcomes in the same order. Never raises for anything a job contains."""
        ...


class AdapterConfigError(ValueError):
    """A provider's configuration cannot be used. `str()` of it is written for operators, not for customers."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What an adapter is built from: the provider row, without the row."""

    code: str
    run_timeout: float
    config: dict[str, Any] = field(default_factory=dict)
