"""Executing runs: claim a set, do it, settle it, until nothing is left or the slice is over (architecture.md section 5).

For synchronous adapters. Asynchronous ones have a driver for each of their servers (`driver`), on the same lifecycle.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connection

from assets.services import discard_files
from batches import heartbeat, lifecycle
from batches.endpoints import ring_endpoints
from batches.lifecycle import ClaimedRun
from batches.work import MediaInputs, build_adapter, collect, render_jobs
from callbacks import engine as callbacks_engine
from models_registry.models import Provider, ProviderStatus
from providers.base import AdapterConfigError, Canceled, Outcome, Rejected, SyncAdapter
from runflow.lib.doorbell import ring

logger = logging.getLogger(__name__)

# Seconds. How soon work that looks learns that it is to stop; a set that takes less costs no look.
WATCH_INTERVAL = 1.0
EXECUTE_TASK = "batches.execute"
# A batch, or a sweep, wakes this many workers at most; a doorbell that finds nothing costs one short statement.
MOST_DOORBELLS = 4
# Sweeps that did not come before a worker at the end of its slice sweeps by itself.
MISSED_SWEEPS = 3


def execute(*, provider_id: UUID) -> int:
    """Work on a provider's queued runs for one time slice. Returns how many runs were settled; 0 where servers do the work.

    Rings again when the slice is over and work may be left, so that no task holds a worker for long. Safe to run any number
    of times at once: claims never overlap.
    """
    provider = Provider.objects.filter(pk=provider_id, status_code=ProviderStatus.ACTIVE).first()
    if provider is None:
        return 0
    try:
        adapter = build_adapter(provider)
    except (AdapterConfigError, ImportError):
        # Its runs stay queued until an operator has mended the row; failing them would punish the customers.
        logger.exception("Provider %s cannot be used", provider.code)
        return 0
    if hasattr(adapter, "connect"):
        ring_endpoints(provider_id=provider_id)
        return 0
    until = time.monotonic() + settings.EXECUTE_SLICE.total_seconds()
    settled = 0
    media_inputs: MediaInputs = {}
    while runs := lifecycle.claim_runs(provider_id=provider_id, limit=provider.claim_size):
        if not settled:
            heartbeat.beat(heartbeat.claim_of(provider_id))
        settled += execute_set(adapter=adapter, runs=runs, media_inputs=media_inputs)
        if time.monotonic() >= until:
            sweep_if_late()
            ring(EXECUTE_TASK, str(provider_id))
            break
    return settled


def execute_set(*, adapter: SyncAdapter, runs: Sequence[ClaimedRun], media_inputs: MediaInputs) -> int:
    """One claimed set from rendering to settlement. Returns how many of its runs were still ours in the end."""
    watch = Watch(runs)
    # A job that hangs is given back by the sweep.
    with LeaseKeeper(watch.look, every=WATCH_INTERVAL, longest=sum(run.seconds for run in runs)):
        outcomes: dict[UUID, Outcome] = {}
        rejected, jobs = render_jobs(runs, media_inputs, watch.should_stop)
        outcomes |= rejected
        begun = {run.id for run in lifecycle.begin_runs(runs=[run for run in runs if run.id in jobs])}
        todo = [run for run in runs if run.id in begun]
        outcomes |= dict(zip((run.id for run in todo), adapter.perform([jobs[run.id] for run in todo]), strict=True))
        outcomes = {run_id: watch.explain(run_id, outcome) for run_id, outcome in outcomes.items()}
        settlements, assets = collect([run for run in runs if run.id in outcomes], outcomes)
    settled = lifecycle.settle(settlements=settlements, assets=assets)
    # Those of an attempt that was no longer current: nobody will ever ask for them.
    discard_files(assets=[asset for run_id, asset in assets if run_id not in settled.run_ids])
    return len(settled.run_ids)


class Watch:
    """What the keeper of a set looks at: renews its leases in time, and learns which of its runs somebody wants stopped."""

    def __init__(self, runs: Sequence[ClaimedRun]) -> None:
        self._runs = runs
        self._seconds = {run.id: run.seconds for run in runs}
        self._until: dict[UUID, float] = {}  # monotonic, by run, once it has begun
        self._asked: frozenset[UUID] = frozenset()
        self._renew_at = time.monotonic() + settings.RUN_LEASE_RENEWAL.total_seconds()

    def look(self) -> None:
        """Called from the keeper's thread."""
        self._asked = lifecycle.runs_to_cancel(runs=self._runs)
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + settings.RUN_LEASE_RENEWAL.total_seconds()
            lifecycle.renew_leases(runs=self._runs)

    def should_stop(self, run_id: UUID) -> bool:
        """Whether somebody wants this run stopped, or its time is over, which begins with the first call."""
        now = time.monotonic()
        return run_id in self._asked or now > self._until.setdefault(run_id, now + self._seconds[run_id])

    def explain(self, run_id: UUID, outcome: Outcome) -> Outcome:
        """A run that stopped without anybody having asked was out of time."""
        if isinstance(outcome, Canceled) and run_id not in self._asked:
            return Rejected("PROVIDER_TIMEOUT", "It was not done in time.")
        return outcome


class LeaseKeeper:
    """Calls `renew` from a thread of its own, again and again while the work goes on, but not for longer than `longest`."""

    def __init__(self, renew: Callable[[], object], *, every: float, longest: float) -> None:
        """Both in seconds."""
        self._renew = renew
        self._every = every
        self._longest = longest
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        until = time.monotonic() + self._longest
        try:
            while not self._over.wait(self._every) and time.monotonic() < until:
                try:
                    self._renew()
                except DatabaseError:
                    # The next renewal may work; if none does, the sweep gives the runs back.
                    logger.warning("Could not renew leases", exc_info=True)
                    connection.close()
        finally:
            connection.close()  # this thread's own


def ring_waiting_providers() -> int:
    """Ring for every provider that has runs to claim. Returns for how many."""
    provider_ids = lifecycle.waiting_providers()
    for provider_id in provider_ids:
        ring(EXECUTE_TASK, str(provider_id), times=MOST_DOORBELLS)
    return len(provider_ids)


def sweep() -> None:
    """What beat calls every few seconds, safe to run twice at once: end what is overdue, ring where work waits."""
    while len(lifecycle.return_expired().run_ids) == lifecycle.SWEEP_LIMIT:
        pass
    while len(lifecycle.fail_overdue().run_ids) == lifecycle.SWEEP_LIMIT:
        pass
    ring_waiting_providers()
    ring_endpoints()
    heartbeat.beat(heartbeat.SWEEP)


def sweep_if_late() -> None:
    """Sweep, and give back callbacks, if nobody did for a while.

    Beat's messages wait behind those that bring work, and expire: where no worker is ever idle, none of them would be read.
    """
    if heartbeat.is_late(heartbeat.SWEEP, after=MISSED_SWEEPS * settings.SWEEP_INTERVAL):
        sweep()
        callbacks_engine.sweep()
