"""One ComfyUI server, spoken to for one time slice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx

from providers.base import (
    Artifact,
    Canceled,
    Done,
    EndpointConfig,
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
    Waiting,
)
from providers.comfyui.client import CONCURRENCY, ComfyClient, DownloadFailed, Queue, TooLarge, json_of
from providers.comfyui.config import ComfyConfig
from providers.comfyui.endings import read_entry, read_job
from providers.comfyui.health import STALLS
from providers.comfyui.outputs import Item, file_artifact, text_artifact
from providers.comfyui.submissions import Submitter, cancel_portably

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# A server works prompts off in order, so the oldest tell whether the next ones are worth a look.
WINDOW = 32
# One look ends here even if all are done: what was found is to be collected, within the caller's time slice.
MOST_SEEN = 512
# A submission that nobody answered may still be on its way to the queue (seconds).
GRACE_SECONDS = 5.0
# Done work is not thrown away because one connection broke.
_DOWNLOAD_TRIES = 2
# Prompts wait and none runs: a worker takes the next one at once, or after a clean-up of a few seconds.
IDLE_SECONDS = 30.0
# Between looks at the queue of a server that has work: it is sent with all its graphs. Shorter if a stall is (seconds).
LOOK_SECONDS, _LOOKS_PER_STALL = 15.0, 20


class ComfyConnection:
    """See `providers.base.Connection`. Opens nothing before it is asked something."""

    def __init__(self, endpoint: EndpointConfig, config: ComfyConfig) -> None:
        """Raises AdapterConfigError when the endpoint's URL cannot be used."""
        self._base_url = endpoint.base_url
        self._stall_seconds = config.stall_seconds
        self._upload_subfolder = config.upload_subfolder
        self._client = ComfyClient(endpoint.base_url, config)
        self._pool = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="comfyui")
        self._has_jobs_view: bool | None = None  # not known yet
        self._asked_to_stop: set[str] = set()
        self._collected: list[str] = []

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def submit(self, jobs: Sequence[Job]) -> list[Submitted]:
        """Hand the jobs over side by side; answers in the same order."""
        submitter = Submitter(self._client, base_url=self._base_url, upload_subfolder=self._upload_subfolder)
        return self._each(submitter.submit, jobs)

    def poll(self, jobs: Sequence[Placed]) -> dict[str, Seen]:
        """What became of the oldest jobs, and of more while those of a window do not all wait.

        Jobs that this connection was asked to stop are looked at first: they leave the queue out of turn. Raises EndpointDown.
        """
        self._delete_collected()
        seen: dict[str, Seen] = {}
        queue: Queue | None = None
        for window in _windows(sorted(jobs, key=lambda job: job.job_id not in self._asked_to_stop)):
            found = self._look_at_jobs(window) if self._has_jobs_view is not False else None
            if found is None:
                found, queue = self._look_at_history(window, queue)
            seen |= found
            if len(seen) >= MOST_SEEN or all(isinstance(each, Waiting) for each in found.values()):
                break
        return seen

    def _look_at_jobs(self, window: Sequence[Placed]) -> dict[str, Seen] | None:
        """By the jobs view. None: the server has none."""
        first = self._client.get_job(window[0].job_id)
        if self._has_jobs_view is None:
            self._has_jobs_view = first.status_code == 200 or _is_no_job(first)
            if not self._has_jobs_view:
                return None
        found: dict[str, Seen] = {}
        others = self._each(self._client.get_job, [job.job_id for job in window[1:]])
        for job, response in zip(window, [first, *others], strict=True):
            body = json_of(response)
            if _is_no_job(response):
                found[job.job_id] = self._absent(job)
            elif response.status_code == 200 and isinstance(body, dict):
                found[job.job_id] = read_job(body)
            else:
                # Something in front of the server, perhaps. That is not to be taken for a lost job.
                raise EndpointDown(f"{self._base_url} answers {response.status_code} about a job, not as ComfyUI does.")
        return found

    def _look_at_history(self, window: Sequence[Placed], queue: Queue | None) -> tuple[dict[str, Seen], Queue | None]:
        """History, then queue, then history again, as a prompt may finish between the two looks.

        A queue that was read for an earlier window will do: who is in neither it nor the history read later is gone.
        """
        found: dict[str, Seen] = {}
        unclear = list(window)
        if queue is None:
            found = self._finished(window)
            if len(found) == len(window):
                return found, None
            queue = self._client.get_queue()
            unclear = [job for job in window if job.job_id not in found and job.job_id not in queue]
        found |= self._finished(unclear)
        for job in window:
            if job.job_id not in found:
                is_running = job.job_id in queue.running
                found[job.job_id] = Waiting(is_running) if job.job_id in queue else self._absent(job)
        return found, queue

    def _finished(self, jobs: Sequence[Placed]) -> dict[str, Seen]:
        entries = self._each(self._client.get_history, [job.job_id for job in jobs])
        return {job.job_id: read_entry(entry) for job, entry in zip(jobs, entries, strict=True) if entry is not None}

    def _absent(self, job: Placed) -> Seen:
        """A prompt that the server does not know."""
        if job.job_id in self._asked_to_stop:
            return Canceled()  # taken out of the queue, which leaves no trace
        return Waiting(is_running=False) if job.age < GRACE_SECONDS else Gone()

    def collect(self, jobs: Sequence[tuple[Placed, Done]]) -> list[Outcome]:
        """Fetch the outputs side by side; outcomes in the same order.

        Raises EndpointDown when the server does not answer: the work is done, and better fetched later than done again.
        """
        fetched = iter(self._each(self._fetch, [item for _, done in jobs for item in done.outputs["items"]]))
        outcomes: list[Outcome] = []
        for _, done in jobs:
            results = [next(fetched) for _ in done.outputs["items"]]
            faults = [result for result in results if not isinstance(result, Artifact)]
            artifacts = tuple(result for result in results if isinstance(result, Artifact))
            if faults:
                outcomes.append(faults[0])
            elif not artifacts:
                outcomes.append(Rejected("EXECUTION_FAILED", "The graph ran, but produced no output.", "collect"))
            else:
                timing = {"execute": done.outputs["execute"]} if "execute" in done.outputs else None
                outcomes.append(Finished(artifacts, seed=done.outputs["seed"], timing=timing))
        self._collected += [job.job_id for job, _ in jobs]
        return outcomes

    def _fetch(self, item: Item) -> Artifact | Rejected | Unavailable:
        """One output. Raises EndpointDown."""
        if "text" in item:
            return text_artifact(item["text"])
        for _ in range(_DOWNLOAD_TRIES):
            try:
                file = self._client.download(item)
            except TooLarge:
                return Rejected("OUTPUT_FETCH_FAILED", "An output is larger than this server stores.", "collect")
            except DownloadFailed as fault:
                logger.warning("An output could not be fetched from %s: %s", self._base_url, fault)
                continue
            if file is None:
                # A cached result whose file was deleted; the next attempt has a new prefix and so saves again.
                return Unavailable("OUTPUT_FETCH_FAILED", "The provider no longer has an output.", "collect")
            return file_artifact(item["filename"], file)
        return Unavailable("OUTPUT_FETCH_FAILED", "An output could not be fetched from the provider.", "collect")

    def _delete_collected(self) -> None:
        """Keep the server's history small.

        Not when they are collected but when the caller comes back, having stored the outcomes: if it is killed before that,
        its successor finds the work done. What is left at the end the server drops by itself, beyond 10,000 entries.
        """
        if not self._collected:
            return
        job_ids, self._collected = self._collected, []
        try:
            self._client.delete_history(job_ids)
        except EndpointDown as fault:
            logger.info("History entries stay: %s", fault)

    def cancel(self, jobs: Sequence[Placed]) -> None:
        """Ask the server to stop these jobs and no others. Asking again does no harm. Raises EndpointDown."""
        job_ids = [job.job_id for job in jobs]
        if not job_ids:
            return
        self._asked_to_stop.update(job_ids)
        if self._client.cancel_job(job_ids[0]):
            self._each(self._client.cancel_job, job_ids[1:])
        else:
            cancel_portably(self._client, job_ids)

    def check(self) -> None:
        """Return if the server works. Raises EndpointDown: no answer, or nothing moves although prompts wait."""
        if self._client.get_remaining() == 0:
            STALLS.forget(self._base_url)
            return
        now = time.monotonic()
        every = min(LOOK_SECONDS, self._stall_seconds / _LOOKS_PER_STALL)
        if not STALLS.needs_look(self._base_url, every=every, now=now):
            return
        queue = self._client.get_queue()
        if not queue.running and not queue.next_up:
            STALLS.forget(self._base_url)
            return
        limit = self._stall_seconds if queue.running else min(IDLE_SECONDS, self._stall_seconds)
        # Which one runs, or would be next: what waits behind it may grow without anything being done.
        sign = (bool(queue.running), queue.running or queue.next_up)
        stalled = STALLS.observe(self._base_url, sign, limit=limit, now=now)
        if stalled is not None:
            raise EndpointDown(f"{self._base_url} answers, but has worked on nothing for {stalled:.0f} s.")

    def _each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The results in order, made side by side."""
        if len(items) < 2:
            return [work(item) for item in items]
        return list(self._pool.map(work, items))


def _is_no_job(response: httpx.Response) -> bool:
    """The jobs view's own 404, which servers without the view do not give."""
    return response.status_code == 404 and json_of(response) == {"error": "Job not found"}


def _windows(jobs: Sequence[Placed]) -> Iterator[Sequence[Placed]]:
    for start in range(0, len(jobs), WINDOW):
        yield jobs[start : start + WINDOW]
