"""One server of an asynchronous provider: jobs handed over, asked about, collected and cancelled, many side by side."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from time import monotonic
from typing import TypeVar

from providers.base import (
    Accepted,
    Canceled,
    Done,
    EndpointDown,
    Finished,
    Gone,
    Job,
    Outcome,
    Placed,
    Rejected,
    Seen,
    Submitted,
    Unavailable,
    Unknown,
    Waiting,
)
from providers.http.client import Answer, HttpClient, NoAnswer, Request, TooLarge, Unsendable
from providers.http.config import AsyncConfig, Call, HttpConfig
from providers.http.outcomes import Ended, error_of, require_success, retry_after, unavailable, unsendable
from providers.http.outputs import collect_outputs, seed_of, too_large
from providers.http.requests import build_request

logger = logging.getLogger(__name__)

# "There is no such job", also from servers that find another server's form of id malformed.
_NO_SUCH_JOB = frozenset({400, 404, 410, 422})
_NOT_NOW = frozenset({408, 425, 429})
# A gateway's word that nobody answered it: as good as no answer.
_GATEWAY_STATUSES = frozenset({502, 504})
# A provider that says "too many requests" and not for how long; and the longest that polling pauses. Seconds.
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# What a job's id may be to be stored.
_MAX_JOB_ID_CHARS = 255

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Down:
    """A look at a job that says something about the server instead. `reason` is for operators."""

    reason: str


@lru_cache(maxsize=256)
def _tell_of_state(code: str, state: str) -> None:
    """Log a state that a config does not name, once in a process: its runs end at their deadline, and nobody would know why."""
    logger.warning("Provider %s: the state %s is not among its states", code, state)


class HttpConnection:
    """Requests go out side by side, `concurrency` at once; each call waits for all of its own."""

    def __init__(self, config: HttpConfig, calls: AsyncConfig, *, base_url: str) -> None:
        self._config = config
        self._calls = calls
        self._base_url = base_url
        self._client = HttpClient(config, base_url=base_url)
        self._quiet_until = 0.0
        # By job id: when it was last asked about.
        self._looked_at: dict[str, float] = {}

    def close(self) -> None:
        self._client.close()

    # --- Submitting -------------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> list[Submitted]:
        """Hand the jobs over; answers in the same order.

        Unknown only where the server knows a job by our id: then it can be looked up. Where the server makes the ids, a job
        whose submission got no answer cannot be found again, and is Unavailable.
        """
        return self._side_by_side(self._submit_one, jobs)

    def _submit_one(self, job: Job) -> Submitted:
        has_our_id = self._calls.job_id is None
        try:
            answer = self._client.send(build_request(job, self._config))
            if has_our_id and answer.status in _GATEWAY_STATUSES:
                return Unknown(f"The provider answered HTTP {answer.status}.")
            require_success(answer, config=self._config, words=self._client.words, stage="dispatch")
        except Ended as ended:
            return ended.outcome
        except NoAnswer as fault:
            return Unknown(str(fault)) if fault.is_sent and has_our_id else unavailable(fault, "dispatch")
        except TooLarge:
            return too_large()
        except Unsendable:
            return unsendable()
        return Accepted(job.job_id) if has_our_id else self._accepted(answer)

    def _accepted(self, answer: Answer) -> Submitted:
        found = self._calls.job_id.search(answer.view) if self._calls.job_id is not None else None
        job_id = str(found) if type(found) in (str, int) else ""
        if not job_id or len(job_id) > _MAX_JOB_ID_CHARS or not job_id.isprintable():
            return Rejected("PROVIDER_REJECTED", "The provider's answer names no job.", "dispatch")
        return Accepted(job_id)

    # --- Polling ----------------------------------------------------------------------------------------------------

    def poll(self, jobs: Sequence[Placed]) -> dict[str, Seen]:
        """What became of the jobs, by job_id.

        Left out: jobs that were asked about less than `poll_interval` ago; all of them while a server that said "too many
        requests" wants to be left alone; and those that are left when a server falls silent. Raises EndpointDown when it
        says nothing of any.
        """
        now = monotonic()
        # Also forgets the jobs that are over.
        looked_at = {job.job_id: self._looked_at.get(job.job_id, -inf) for job in jobs}
        jobs = [job for job in jobs if now - looked_at[job.job_id] >= self._calls.poll_interval]
        self._looked_at = looked_at | {job.job_id: now for job in jobs}
        looks = self._ask_each(self._calls.status, jobs, self._look, stops=lambda: monotonic() < self._quiet_until)
        seen: dict[str, Seen] = {}
        reasons = []
        for job, each in zip(jobs, looks, strict=True):
            if isinstance(each, NoAnswer):
                reasons.append(str(each))
            elif isinstance(each, TooLarge):
                seen[job.job_id] = too_large()
            elif isinstance(each, _Down):
                reasons.append(each.reason)
            elif each is not None:
                seen[job.job_id] = each
        if reasons and not seen:
            raise EndpointDown(f"{self._base_url}: {reasons[0]}")
        return seen

    def _look(self, job: Placed, answer: Answer) -> Seen | _Down | None:
        """None: nothing is known this time."""
        if answer.status in _NO_SUCH_JOB:
            return Gone() if job.age >= self._calls.lost_after else Waiting(is_running=False)
        if answer.status in _NOT_NOW:
            pause = retry_after(answer, now=datetime.now(UTC))
            self._quiet_until = monotonic() + min(_PAUSE if pause is None else pause, _LONGEST_PAUSE)
            return None
        if not answer.is_success:
            return _Down(f"It answered HTTP {answer.status} when asked for a job.")
        if not answer.is_readable:
            return _Down("Its answer about a job cannot be read.")
        value = self._calls.state.search(answer.view)
        match self._calls.state_of(value):
            case "succeeded":
                return Done(answer)
            case "failed":
                error = error_of(answer, config=self._config, words=self._client.words)
                return Rejected("EXECUTION_FAILED", error or "The provider reports that the job failed.")
            case "canceled":
                return Canceled()
            case "queued":
                return Waiting(is_running=False)
            case "running":
                return Waiting()
            case None:
                _tell_of_state(self._config.code, self._client.words.told(repr(value)[:100]))
                return Waiting()

    # --- Collecting, cancelling, health -----------------------------------------------------------------------------

    def collect(self, jobs: Sequence[tuple[Placed, Done]]) -> list[Outcome]:
        """Fetch the outputs; outcomes in the same order."""
        return self._side_by_side(self._collect_one, jobs)

    def _collect_one(self, each: tuple[Placed, Done]) -> Outcome:
        job, done = each
        answer: Answer = done.outputs
        try:
            if self._calls.result is not None:
                answer = self._send(self._calls.result, job)
                if not (answer.is_success and answer.is_readable):
                    return Unavailable("OUTPUT_FETCH_FAILED", "The provider does not give the result.", "collect")
            artifacts = collect_outputs(answer, config=self._config, client=self._client)
        except Ended as ended:
            return ended.outcome
        except NoAnswer as fault:
            return Unavailable("OUTPUT_FETCH_FAILED", str(fault), "collect")
        except TooLarge:
            return too_large()
        return Finished(artifacts, seed=seed_of(answer, self._config))

    def cancel(self, jobs: Sequence[Placed]) -> None:
        """Ask the server to stop these jobs; without a `cancel` call there is nothing to ask.

        What it answers does not count: a job that is over cannot be stopped, and `poll` sees it. Raises EndpointDown.
        """
        call = self._calls.cancel
        if call is None:
            return

        def read(_job: Placed, _answer: Answer) -> None:
            return None

        for fault in self._ask_each(call, jobs, read):
            if isinstance(fault, NoAnswer):
                raise EndpointDown(f"{self._base_url}: {fault}") from fault

    def check(self) -> None:
        """Ask the `health` call, which must answer 2xx; without one any HTTP answer at all will do. Raises EndpointDown."""
        call = self._calls.health
        try:
            answer = self._client.send(Request(call.method, call.path) if call is not None else Request("GET", ""))
        except NoAnswer as fault:
            raise EndpointDown(f"{self._base_url}: {fault}") from fault
        except TooLarge:
            return
        if call is not None and not answer.is_success:
            raise EndpointDown(f"{self._base_url}: HTTP {answer.status} from {call.method} {call.path}.")

    # --- Requests ---------------------------------------------------------------------------------------------------

    def _send(self, call: Call, job: Placed) -> Answer:
        return self._client.send(Request(call.method, call.path_for(job.job_id)))

    def _ask_each(
        self,
        call: Call,
        jobs: Sequence[Placed],
        read: Callable[[Placed, Answer], R],
        *,
        stops: Callable[[], bool] = lambda: False,
    ) -> list[R | NoAnswer | TooLarge | None]:
        """What `read` makes of the answer about each job, or the fault.

        None: not asked, because the server fell silent before, or `stops` said so.
        """
        is_silent = threading.Event()

        def ask(job: Placed) -> R | NoAnswer | TooLarge | None:
            if is_silent.is_set() or stops():
                return None
            try:
                answer = self._send(call, job)
            except NoAnswer as fault:
                is_silent.set()
                return fault
            except TooLarge as fault:
                return fault
            return read(job, answer)

        return self._side_by_side(ask, jobs)

    def _side_by_side(self, work: Callable[[T], R], things: Sequence[T]) -> list[R]:
        if not things:
            return []
        with ThreadPoolExecutor(min(self._config.concurrency, len(things))) as pool:
            return list(pool.map(work, things))
