"""Driving a server: claim into its free places, hand over, ask, collect, settle, for one time slice.

No worker waits for a GPU: what is in flight is rows, and between two looks the driver sleeps. When the slice is over, or the
driver dies, the next one reads the rows and goes on. A server has one driver at a time, by a lease on its row.

In each turn the free places are filled before anything is collected: the server works on while outputs are fetched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from assets.services import discard_files
from batches import endpoints, heartbeat, lifecycle
from batches.endpoints import DRIVE_TASK
from batches.engine import LeaseKeeper, sweep_if_late
from batches.lifecycle import AcceptedRun, ClaimedRun, HeldRun
from batches.work import MediaInputs, build_adapter, collect, render_jobs
from models_registry.models import Endpoint, ProviderStatus
from providers.base import (
    Accepted,
    AdapterConfigError,
    Canceled,
    Connection,
    Done,
    EndpointConfig,
    EndpointDown,
    Gone,
    Outcome,
    Placed,
    Rejected,
    Seen,
    Unavailable,
    Unknown,
    Waiting,
)
from runflow.lib.doorbell import ring

logger = logging.getLogger(__name__)

# A look at a job costs a server little, but not nothing: the next one comes after a tenth of its age, within these (seconds).
# So a job of 20 ms is seen within 10 ms of its end, and one of 20 s within 2 s.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 2.0
_SHARE_OF_AGE = 0.1
# Looked at in one turn: claims and settlements are not kept waiting by thousands of jobs.
_MOST_LOOKED_AT = 512
# Seconds after a claim that found nothing, while jobs are in flight. The doorbell of a new run finds the driver at work.
_CLAIM_PAUSE = 0.1
# Seconds that a finished job waits for others to be settled with, while jobs are in flight.
_FINISH_PAUSE = 0.05
# Seconds between looks for runs to be stopped, because somebody asked or because their time is over.
_STOP_PAUSE = 1.0
# Handed over, and collected, this many at a time: the rest is not kept waiting, and their files are in memory.
_MOST_SUBMITTED, _MOST_COLLECTED = 32, 16
# Seconds that a run's own lease outlasts its time at the server: for when no driver comes.
_LEASE_MARGIN = 120.0


@dataclass(slots=True)
class _Job:
    """A run at the server. `since` is the monotonic time of its claim, `until` when its time is over."""

    run: HeldRun
    job_id: str
    since: float
    until: float
    is_unconfirmed: bool = False
    is_to_cancel: bool = False
    has_run: bool = True
    look_at: float = 0.0  # monotonic

    def pause(self, now: float) -> float:
        """Seconds until the next look at it."""
        return min(max(_SHARE_OF_AGE * (now - self.since), _SHORTEST_PAUSE), _LONGEST_PAUSE)

    def placed(self, now: float) -> Placed:
        return Placed(self.job_id, str(self.run.id), self.run.attempt, now - self.since)


class _LeaseLost(Exception):
    """Somebody else drives this server now."""


def drive(*, endpoint_id: UUID) -> int:
    """Drive a server for one time slice. Returns how many runs were settled; 0 if somebody else drives it.

    Rings again when runs are left at it. Safe to call any number of times at once.
    """
    # First, and in one statement: of the doorbells for a server most find it driven.
    token = endpoints.take_endpoint(endpoint_id=endpoint_id)
    if token is None:
        return 0
    endpoint = Endpoint.objects.select_related("provider").get(pk=endpoint_id)
    try:
        adapter: Any = build_adapter(endpoint.provider)
        connection = adapter.connect(EndpointConfig(str(endpoint_id), endpoint.base_url, endpoint.max_in_flight))
    except (AdapterConfigError, ImportError, AttributeError):
        logger.exception("Endpoint %s of provider %s cannot be driven", endpoint.base_url, endpoint.provider.code)
        endpoints.release_endpoint(endpoint_id=endpoint_id, token=token)
        return 0
    driver = Driver(endpoint, token, connection)
    try:
        with LeaseKeeper(
            driver.keep_lease,
            every=settings.DRIVER_LEASE.total_seconds() / 3,
            # Whatever an adapter does has an end of its own; this is for one that has not.
            longest=settings.EXECUTE_SLICE.total_seconds() + endpoint.provider.run_timeout,
        ):
            driver.run()
    except _LeaseLost:
        logger.warning("Endpoint %s is driven by somebody else now", endpoint.base_url)
        return driver.settled
    finally:
        connection.close()
        endpoints.release_endpoint(endpoint_id=endpoint_id, token=token)
    if driver.is_unfinished:
        sweep_if_late()
    # A run that was queued after the last claim has rung while this driver still held the lease.
    if driver.is_unfinished or endpoints.count_due(provider_id=endpoint.provider_id) > driver.left_queued:
        ring(DRIVE_TASK, str(endpoint_id))
    return driver.settled


class Driver:
    """One slice of one server."""

    def __init__(self, endpoint: Endpoint, token: UUID, connection: Connection) -> None:
        self.endpoint = endpoint
        self.provider = endpoint.provider
        self.token = token
        self.connection = connection
        self.jobs: dict[str, _Job] = {}  # by job id, oldest first
        self.settled = 0
        self.is_unfinished = False
        self.left_queued = 0
        self._takes_runs = ProviderStatus.ACTIVE == endpoint.status_code == self.provider.status_code
        self._is_lost = threading.Event()
        self._ended: list[tuple[_Job, Seen]] = []
        self._is_filling = True
        self._has_claimed = False
        self._claim_at = 0.0
        self._finish_at = 0.0
        self._stop_at = 0.0
        self._media_inputs: MediaInputs = {}

    def keep_lease(self) -> None:
        """Called from the lease keeper's thread."""
        if not endpoints.keep_endpoint(endpoint_id=self.endpoint.pk, token=self.token):
            self._is_lost.set()

    def run(self) -> None:
        """Raises _LeaseLost."""
        now = time.monotonic()
        for run in lifecycle.runs_at(endpoint_id=self.endpoint.pk):
            until = now + run.seconds
            self.jobs[run.job_id] = _Job(run, run.job_id, now - run.age, until, run.is_unconfirmed, run.is_to_cancel)
        try:
            self.connection.check()
            endpoints.mark_up(endpoint_id=self.endpoint.pk, token=self.token)
            self._work(until=now + settings.EXECUTE_SLICE.total_seconds())
        except EndpointDown as fault:
            self._give_up(fault)

    def _work(self, *, until: float) -> None:
        while True:
            found = self._look()
            claimed = self._fill()
            is_over = time.monotonic() >= until
            if is_over or not self.jobs or time.monotonic() >= self._finish_at or len(self._ended) >= _MOST_COLLECTED:
                self._finish()
            stopped = self._stop_some()
            if is_over:
                self.is_unfinished = True
                return
            if not self.jobs and not found and not claimed and not stopped:
                self.left_queued = endpoints.count_due(provider_id=self.provider.pk)
                return
            if not found and not claimed and not stopped:
                time.sleep(self._pause())

    def _pause(self) -> float:
        """Seconds until the next look."""
        oldest = next(iter(self.jobs.values()), None)
        pause = oldest.pause(time.monotonic()) if oldest else 0.0
        return min(pause, _FINISH_PAUSE) if self._ended else pause

    def _fence(self) -> None:
        """Nothing is sent and nothing is taken once somebody else may be at it. (What is written is fenced by the rows.)"""
        if self._is_lost.is_set():
            raise _LeaseLost

    # --- Handing over ---

    def _fill(self) -> int:
        """Claim into the free places, from when half of them are free until none is. Returns how many were claimed."""
        now = time.monotonic()
        free = max(0, min(self.endpoint.max_in_flight - len(self.jobs), _MOST_SUBMITTED))
        if 2 * len(self.jobs) <= self.endpoint.max_in_flight:
            self._is_filling = True
        # A driver that took a full server over has nothing to ask for yet, and does not pause for having asked.
        if not free or not self._takes_runs or not self._is_filling or now < self._claim_at:
            return 0
        self._fence()
        share = endpoints.places_to_fill(
            provider_id=self.provider.pk, endpoint_id=self.endpoint.pk, taken=len(self.jobs), free=free
        )
        if not share:
            self._claim_at = now + _SHORTEST_PAUSE  # the others are about to take what there is
            return 0
        claimed = lifecycle.claim_runs(
            provider_id=self.provider.pk,
            limit=share,
            lease=timedelta(seconds=_LEASE_MARGIN),
            endpoint_id=self.endpoint.pk,
        )
        if claimed:
            if not self._has_claimed:
                self._has_claimed = True
                heartbeat.beat(heartbeat.claim_of(self.provider.pk))
            self._submit(claimed)
            self._is_filling = len(self.jobs) < self.endpoint.max_in_flight
        else:
            self._claim_at = now + _CLAIM_PAUSE
        return len(claimed)

    def _submit(self, runs: Sequence[ClaimedRun]) -> None:
        now = time.monotonic()
        rejected, jobs = render_jobs(runs, self._media_inputs)
        todo = [run for run in runs if run.id in jobs]
        refused: list[tuple[HeldRun, Outcome]] = [(run, rejected[run.id]) for run in runs if run.id in rejected]
        accepted: list[AcceptedRun] = []
        for run, answer in zip(todo, self.connection.submit([jobs[run.id] for run in todo]), strict=True):
            held = HeldRun(run.id, run.attempt, run.max_attempts, run.organization_id)  # without its input
            match answer:
                case Accepted(job_id, nodes_total):
                    accepted.append(AcceptedRun(held, job_id, nodes_total))
                    self.jobs[job_id] = _Job(held, job_id, now, now + run.seconds)
                case Unknown(message):
                    logger.warning("Run %s may be at %s: %s", run.id, self.endpoint.base_url, message)
                    job_id = run.job_id or ""
                    self.jobs[job_id] = _Job(held, job_id, now, now + run.seconds, is_unconfirmed=True)
                case _:
                    refused.append((held, answer))
        lifecycle.accept_runs(accepted=accepted)
        self._settle(refused)

    # --- Looking ---

    def _look(self) -> int:
        """Ask the server. Those that have ended leave their places. Returns how many."""
        now = time.monotonic()
        due = list(islice((job for job in self.jobs.values() if job.look_at <= now), _MOST_LOOKED_AT))
        if not due:
            return 0
        seen = self.connection.poll([job.placed(now) for job in due])
        confirmed: list[AcceptedRun] = []
        progress: dict[HeldRun, int] = {}
        ended = len(self._ended)
        for job_id, state in seen.items():
            job = self.jobs[job_id]
            if isinstance(state, Waiting):
                job.look_at = now + job.pause(now)
                job.has_run = state.is_running
                if job.is_unconfirmed and state.is_running:
                    job.is_unconfirmed = False
                    confirmed.append(AcceptedRun(job.run, job_id, None))
                if state.nodes_completed is not None:
                    progress[job.run] = state.nodes_completed
            else:
                self._ended.append((self.jobs.pop(job_id), state))
        if not ended:
            self._finish_at = now + _FINISH_PAUSE
        lifecycle.accept_runs(accepted=confirmed)
        lifecycle.note_progress(nodes_completed=progress)
        return len(self._ended) - ended

    # --- Finishing ---

    def _finish(self) -> None:
        """Collect and settle what has ended."""
        now = time.monotonic()
        ended, self._ended = self._ended, []
        for some in _chunks(ended, _MOST_COLLECTED):
            done = [(job, state) for job, state in some if isinstance(state, Done)]
            outcomes: list[tuple[HeldRun, Outcome]] = []
            collected = self.connection.collect([(job.placed(now), state) for job, state in done])
            outcomes += zip([job.run for job, _ in done], collected, strict=True)
            outcomes += [(job.run, self._outcome(job, state)) for job, state in some if not isinstance(state, Done)]
            self._settle(outcomes)

    def _outcome(self, job: _Job, state: Seen) -> Outcome:
        match state:
            case Canceled() | Gone() if job.is_to_cancel:
                return Canceled()  # some servers leave no trace of what was taken out of their queue
            case Canceled():
                return Unavailable("PROVIDER_LOST", "The provider stopped this job without being asked.")
            case Gone():
                return Unavailable("PROVIDER_LOST", "The provider no longer knows this job.")
            case Rejected() | Unavailable():
                return state
        raise TypeError(f"{state} is no end")

    def _settle(self, outcomes: Sequence[tuple[HeldRun, Outcome]]) -> None:
        if not outcomes:
            return
        settlements, assets = collect([run for run, _ in outcomes], {run.id: outcome for run, outcome in outcomes})
        settled = lifecycle.settle(settlements=settlements, assets=assets)
        discard_files(assets=[asset for run_id, asset in assets if run_id not in settled.run_ids])
        self.settled += len(settled.run_ids)

    # --- Stopping ---

    def _stop_some(self) -> int:
        """Ask the server to stop what somebody wants stopped, and what had its time.

        The first end as the server says: canceled, or done if that came first. The others are over now, whatever it does.
        Returns how many those are: their places are free.
        """
        now = time.monotonic()
        if now < self._stop_at or not self.jobs:
            return 0
        self._fence()
        self._stop_at = now + _STOP_PAUSE
        asked = lifecycle.runs_to_cancel_at(endpoint_id=self.endpoint.pk)
        overdue = [job for job in self.jobs.values() if now > job.until]
        for job in self.jobs.values():
            job.is_to_cancel = job.is_to_cancel or job.run.id in asked
        # Again each time, until it has ended: a request can get lost.
        stopping = [job for job in self.jobs.values() if job.is_to_cancel or job in overdue]
        if not stopping:
            return 0
        self.connection.cancel([job.placed(now) for job in stopping])
        for job in overdue:
            del self.jobs[job.job_id]
        late = Rejected("PROVIDER_TIMEOUT", "The provider did not finish in time.")
        unbegun = Unavailable("PROVIDER_TIMEOUT", "The provider did not begin in time.")
        self._settle([(job.run, late if job.has_run else unbegun) for job in overdue])
        return len(overdue)

    # --- A server that is down ---

    def _give_up(self, fault: EndpointDown) -> None:
        """Leave the server alone for a while. After ENDPOINT_DOWN_GRACE its runs go back to the queue, for others."""
        since = self.endpoint.down_since
        down_for = (timezone.now() - since).total_seconds() if since else 0.0
        down_for = endpoints.mark_down(
            endpoint_id=self.endpoint.pk, token=self.token, reason=str(fault), down_for=down_for
        )
        if down_for < settings.ENDPOINT_DOWN_GRACE.total_seconds():
            return
        lost = Unavailable("PROVIDER_LOST", "The provider's server went away.")
        jobs, self.jobs = list(self.jobs.values()), {}
        for some in _chunks(jobs, lifecycle.SWEEP_LIMIT):
            self._settle([(job.run, lost) for job in some])


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
