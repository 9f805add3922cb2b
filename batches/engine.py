"""Executing runs: claim a set, do it, settle it, until nothing is left or the slice is over (architecture.md section 5).

Only synchronous adapters so far. Asynchronous ones get a driver of their own beside `execute`, on the same lifecycle.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils.module_loading import import_string

from assets.models import Asset
from assets.services import discard_files, store_file
from batches import lifecycle, retry
from batches.lifecycle import ClaimedRun
from batches.media import fetcher_for
from models_registry.models import Provider, ProviderStatus, Template
from models_registry.templates import render
from providers.base import (
    AdapterConfigError,
    Finished,
    Job,
    Outcome,
    ProviderConfig,
    Rejected,
    SyncAdapter,
    Unavailable,
)
from runflow.lib.doorbell import ring

logger = logging.getLogger(__name__)

EXECUTE_TASK = "batches.execute"
# A batch, or a sweep, wakes this many workers at most; a doorbell that finds nothing costs one short statement.
MOST_DOORBELLS = 4


def execute(*, provider_id: UUID) -> int:
    """Work on a provider's queued runs for one time slice. Returns how many runs were settled.

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
    until = time.monotonic() + settings.EXECUTE_SLICE.total_seconds()
    settled = 0
    while runs := lifecycle.claim_runs(provider_id=provider_id, limit=provider.claim_size):
        settled += execute_set(adapter=adapter, runs=runs, run_timeout=provider.run_timeout)
        if time.monotonic() >= until:
            ring(EXECUTE_TASK, str(provider_id))
            break
    return settled


def build_adapter(provider: Provider) -> SyncAdapter:
    """The adapter that PROVIDER_ADAPTERS names for this provider. Imported here, so that only workers load it.

    Raises AdapterConfigError or ImportError when there is none, or when it cannot work with the provider's config.
    """
    path = settings.PROVIDER_ADAPTERS.get(provider.adapter_code)
    if path is None:
        raise AdapterConfigError(f"There is no adapter {provider.adapter_code!r}.")
    adapter_class = import_string(path)
    adapter: SyncAdapter = adapter_class(
        ProviderConfig(code=provider.code, run_timeout=provider.run_timeout, config=provider.config)
    )
    return adapter


def execute_set(*, adapter: SyncAdapter, runs: Sequence[ClaimedRun], run_timeout: float) -> int:
    """One claimed set from rendering to settlement. Returns how many of its runs were still ours in the end."""
    with LeaseKeeper(runs, run_timeout=run_timeout):
        outcomes, jobs = _render(runs)
        begun = {run.id for run in lifecycle.begin_runs(runs=[run for run in runs if run.id in jobs])}
        todo = [run for run in runs if run.id in begun]
        outcomes |= dict(zip((run.id for run in todo), adapter.perform([jobs[run.id] for run in todo]), strict=True))
        settlements, assets = _collect([run for run in runs if run.id in outcomes], outcomes)
    settled = lifecycle.settle(settlements=settlements, assets=assets)
    # Those of an attempt that was no longer current: nobody will ever ask for them.
    discard_files(assets=[asset for run_id, asset in assets if run_id not in settled.run_ids])
    return len(settled.run_ids)


def _render(runs: Sequence[ClaimedRun]) -> tuple[dict[UUID, Outcome], dict[UUID, Job]]:
    outcomes: dict[UUID, Outcome] = {}
    jobs: dict[UUID, Job] = {}
    for run in runs:
        body: Any = run.input  # a provider-only model takes its input as it is
        if run.resolved_template_id is not None:
            template_body, bindings = _template(run.resolved_template_id)
            try:
                body = render(template_body, bindings, run.input)
            except (KeyError, IndexError, TypeError, ValueError):
                logger.exception("Template %s cannot be rendered", run.resolved_template_id)
                outcomes[run.id] = Rejected(
                    "TEMPLATE_INVALID", "The model's template does not fit its inputs.", "dispatch"
                )
                continue
        jobs[run.id] = Job(run_id=str(run.id), attempt=run.attempt, body=body, fetch=fetcher_for(run.organization_id))
    return outcomes, jobs


@lru_cache(maxsize=256)
def _template(template_id: UUID) -> tuple[Any, list[dict[str, str]]]:
    """Templates never change once written, so a process reads each once."""
    template = Template.objects.only("body", "bindings").get(pk=template_id)
    return template.body, template.bindings


def _collect(
    runs: Sequence[ClaimedRun], outcomes: dict[UUID, Outcome]
) -> tuple[list[retry.Settlement], list[tuple[UUID, Asset]]]:
    """Put what succeeded into the store, and judge every outcome."""
    settlements, kept = [], []
    for run in runs:
        outcome, output = outcomes[run.id], None
        if isinstance(outcome, Finished):
            try:
                assets = _store(run, outcome)
            except Exception:
                logger.exception("Could not store the outputs of run %s", run.id)
                outcome = Unavailable("OUTPUT_FETCH_FAILED", "The outputs could not be stored.", "collect")
            else:
                kept += [(run.id, asset) for asset in assets]
                output = stored_output(assets, seed=outcome.seed, timing=outcome.timing)
        settlements.append(
            retry.judge(
                outcome,
                run_id=run.id,
                attempt=run.attempt,
                max_attempts=run.max_attempts,
                jitter=random.random(),
                output=output,
            )
        )
    return settlements, kept


def _store(run: ClaimedRun, outcome: Finished) -> list[Asset]:
    return [
        store_file(
            organization_id=run.organization_id,
            folder=f"outputs/{run.organization_id}",
            name=f"{run.id}-{index}.{artifact.extension}",
            body=artifact.body,
            mime_type=artifact.mime_type,
            asset_type=artifact.type,
            width=artifact.width,
            height=artifact.height,
        )
        for index, artifact in enumerate(outcome.artifacts)
    ]


def stored_output(assets: Sequence[Asset], *, seed: int | None, timing: dict[str, float] | None) -> dict[str, Any]:
    """The normalised output of contract.md section 4, with assets by id where the answer has signed URLs."""
    outputs = [
        {
            "asset_id": str(asset.pk),
            "type": asset.asset_type,
            "mime_type": asset.mime_type,
            "width": asset.width,
            "height": asset.height,
        }
        for asset in assets
    ]
    return {"outputs": outputs, "seed": seed, "timing": timing, "nsfw_detected": None}


class LeaseKeeper:
    """Renews the leases of a set from a thread of its own while the set is worked on.

    It stops after the time that the set may take in all, so that a job that hangs is given back by the sweep.
    """

    def __init__(self, runs: Sequence[ClaimedRun], *, run_timeout: float) -> None:
        self._runs = runs
        self._longest = run_timeout * len(runs)
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
            while not self._over.wait(settings.RUN_LEASE_RENEWAL.total_seconds()) and time.monotonic() < until:
                try:
                    lifecycle.renew_leases(runs=self._runs)
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
    """What beat calls every few seconds, safe to run twice at once: give back expired leases, ring where work waits."""
    while len(lifecycle.return_expired().run_ids) == lifecycle.SWEEP_LIMIT:
        pass
    ring_waiting_providers()
