"""Between rows and adapters: building an adapter, rendering jobs, storing what came of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils.module_loading import import_string

from assets.models import Asset
from assets.services import store_file
from batches import retry
from batches.lifecycle import ClaimedRun, HeldRun
from batches.media import fetcher_for, keep_data_uris
from models_registry.models import MEDIA_TYPES, ModelInput, Provider, Template
from models_registry.templates import render
from providers.base import (
    AdapterConfigError,
    AsyncAdapter,
    Finished,
    Job,
    Outcome,
    ProviderConfig,
    Rejected,
    SyncAdapter,
    Unavailable,
    never,
)

logger = logging.getLogger(__name__)

# By model, the inputs that take media, and whether they may name an asset.
MediaInputs = dict[UUID, dict[str, bool]]


def build_adapter(provider: Provider) -> SyncAdapter | AsyncAdapter:
    """The adapter that PROVIDER_ADAPTERS names for this provider. Imported here, so that only workers load it.

    Raises AdapterConfigError or ImportError when there is none, or when it cannot work with the provider's config.
    """
    path = settings.PROVIDER_ADAPTERS.get(provider.adapter_code)
    if path is None:
        raise AdapterConfigError(f"There is no adapter {provider.adapter_code!r}.")
    adapter_class = import_string(path)
    adapter: SyncAdapter | AsyncAdapter = adapter_class(
        ProviderConfig(code=provider.code, run_timeout=provider.run_timeout, config=provider.config)
    )
    return adapter


def render_jobs(
    runs: Sequence[ClaimedRun], media_inputs: MediaInputs, should_stop: Callable[[UUID], bool] | None = None
) -> tuple[dict[UUID, Rejected], dict[UUID, Job]]:
    """Put the inputs into the templates. Returns, by run id, what cannot be done and the jobs of the rest.

    `media_inputs` is filled in; who calls this again and again keeps it for the length of a time slice.
    """
    outcomes: dict[UUID, Rejected] = {}
    jobs: dict[UUID, Job] = {}
    if unknown := {run.model_id for run in runs} - set(media_inputs):
        media_inputs |= _media_inputs(unknown)
    for run in keep_data_uris(runs, media_inputs):
        body: Any = run.input  # a provider-only model takes its input as it is
        # JSON Pointers to where media inputs stand; names of inputs have no "/" and no "~".
        targets = [(name, f"/{name}") for name in run.input]
        if run.resolved_template_id is not None:
            template_body, bindings = _template(run.resolved_template_id)
            targets = [(binding["input"], binding["target"]) for binding in bindings]
            try:
                body = render(template_body, bindings, run.input)
            except (KeyError, IndexError, TypeError, ValueError):
                logger.exception("Template %s cannot be rendered", run.resolved_template_id)
                outcomes[run.id] = Rejected(
                    "TEMPLATE_INVALID", "The model's template does not fit its inputs.", "dispatch"
                )
                continue
        names = media_inputs[run.model_id]
        jobs[run.id] = Job(
            run_id=str(run.id),
            attempt=run.attempt,
            body=body,
            fetch=fetcher_for(run.organization_id),
            media=tuple(target for name, target in targets if name in names and run.input.get(name) is not None),
            job_id=run.job_id or "",
            should_stop=partial(should_stop, run.id) if should_stop else never,
        )
    return outcomes, jobs


def _media_inputs(model_ids: Collection[UUID]) -> MediaInputs:
    """The inputs that take media, or arrays of media, in one statement."""
    found: MediaInputs = {model_id: {} for model_id in model_ids}
    rows = ModelInput.objects.filter(model_id__in=model_ids).filter(
        Q(variable_type_code__in=MEDIA_TYPES) | Q(validator_attrs__type__in=MEDIA_TYPES)
    )
    for model_id, name, attrs in rows.values_list("model_id", "name", "validator_attrs"):
        schemes = attrs.get("schemes") or attrs.get("validator_attrs", {}).get("schemes")
        found[model_id][name] = schemes is None or "runflow" in schemes
    return found


@lru_cache(maxsize=256)
def _template(template_id: UUID) -> tuple[Any, list[dict[str, str]]]:
    """Templates never change once written, so a process reads each once."""
    template = Template.objects.only("body", "bindings").get(pk=template_id)
    return template.body, template.bindings


def collect(
    runs: Sequence[HeldRun], outcomes: Mapping[UUID, Outcome]
) -> tuple[list[retry.Settlement], list[tuple[UUID, Asset]]]:
    """Put what succeeded into the store, and judge every outcome. Returns settlements, and the stored files' rows by run id."""
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
                delays=settings.RUN_RETRY_DELAYS,
                jitter=random.random(),
                output=output,
            )
        )
    return settlements, kept


def _store(run: HeldRun, outcome: Finished) -> list[Asset]:
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
