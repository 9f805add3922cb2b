"""What an adapter is: plain data in, plain data out, no Django.

An adapter knows one provider's protocol. It answers with outcomes, not exceptions, so that the engine's retry policy is a
table over values (`batches.retry`). There are two kinds: a `SyncAdapter` has done the work when its call returns; an
`AsyncAdapter` hands work to a server (an endpoint) and is asked about it later. The outcomes are shared.
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


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one run, ready for a provider.

    `body` is the template with the inputs put at their bindings. `fetch` turns a media input (an http(s) URL, a `data:` URI,
    `runflow://assets/{id}`) into bytes, or raises FetchError; any thread may call it. `media` says where in the body media
    inputs stand: JSON Pointers (RFC 6901) to a text, or to a list of texts. `job_id` is a canonical UUID, new for each attempt
    and stored before the job is handed to a server; synchronous adapters have no use for it. `should_stop` is for those:
    whether somebody asked for an end meanwhile, or its time is over. Its first call begins that time.
    """

    run_id: str
    attempt: int
    body: Any
    fetch: Callable[[str], Media]
    media: tuple[str, ...] = ()
    job_id: str = ""
    should_stop: Callable[[], bool] = never


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


@dataclass(frozen=True, slots=True)
class Canceled:
    """It was stopped before it was done."""


Outcome = Finished | Rejected | Unavailable | Canceled


class SyncAdapter(Protocol):
    """An adapter whose work is over when the call returns."""

    def perform(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Do the jobs; outcomes in the same order. Never raises for anything a job contains."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has the job. `job_id` is what it calls it: ours, or one it made itself, which replaces ours."""

    job_id: str
    nodes_total: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer came to a submission: the server may have the job or not. It is looked up before anything is sent again."""

    message: str


Submitted = Accepted | Unknown | Rejected | Unavailable


@dataclass(frozen=True, slots=True)
class Placed:
    """A job that is, or may be, at a server. `age` in seconds since it was handed over."""

    job_id: str
    run_id: str
    attempt: int
    age: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """The server has it and is not done."""

    is_running: bool = True
    nodes_completed: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The server has done the work; `outputs` says where they are, in words that only the adapter knows."""

    outputs: Any


@dataclass(frozen=True, slots=True)
class Gone:
    """The server does not know it: it restarted, or never got it."""


Seen = Waiting | Done | Canceled | Gone | Rejected | Unavailable


class EndpointDown(Exception):
    """The server cannot be spoken to, whatever the job. `str()` of it is written for operators."""


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One server of a provider: the endpoint row, without the row."""

    id: str
    base_url: str
    max_in_flight: int = 1


class Connection(Protocol):
    """One server, spoken to by one thread at a time. It may use threads of its own to do a set's requests side by side."""

    def submit(self, jobs: Sequence[Job]) -> list[Submitted]:
        """Hand the jobs over, media uploaded before; answers in the same order. Never raises for anything a job contains.

        An endpoint that refuses the connection answers Unavailable: nothing can have been sent.
        """
        ...

    def poll(self, jobs: Sequence[Placed]) -> dict[str, Seen]:
        """What became of the jobs, by job_id. Given oldest first; those left out of the answer were not looked at this time.

        Raises EndpointDown.
        """
        ...

    def collect(self, jobs: Sequence[tuple[Placed, Done]]) -> list[Outcome]:
        """Fetch the outputs; outcomes in the same order.

        Raises EndpointDown when the server does not answer: the work is done, and is fetched later.
        """
        ...

    def cancel(self, jobs: Sequence[Placed]) -> None:
        """Ask the server to stop these jobs and no others. Whether it did is for `poll` to say. Raises EndpointDown."""
        ...

    def check(self) -> None:
        """Return if the server is fit for work. Raises EndpointDown, also for one that answers but works on nothing."""
        ...

    def close(self) -> None: ...


class AsyncAdapter(Protocol):
    """An adapter whose work goes on at a server after the call."""

    def connect(self, endpoint: EndpointConfig) -> Connection:
        """A connection to one server of the provider. Opens nothing yet."""
        ...


class AdapterConfigError(ValueError):
    """A provider's configuration cannot be used. `str()` of it is written for operators, not for customers."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What an adapter is built from: the provider row, without the row."""

    code: str
    run_timeout: float
    config: dict[str, Any] = field(default_factory=dict)
