"""Replays: what a finished batch or run did, done again as a new one. The old one never changes (contract.md section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from accounts.models import ApiKey
from batches.models import BATCH_TERMINAL, TERMINAL, Batch, BatchItem, Run, RunStatus, Source
from batches.services import (
    BatchRequest,
    ItemHandle,
    Repeated,
    RunRequest,
    conflict,
    create_batch,
    create_run,
    envelope_faults,
)
from models_registry.catalogue import BatchTarget, batch_target, run_target
from models_registry.validation import ItemInput, ItemSerializer, validate_input
from runflow.lib import errors
from runflow.lib.errors import ErrorItem
from runflow.lib.faults import body_fault, cap_errors, unknown_members


class Only(StrEnum):
    """Which items of a batch are done again."""

    FAILED = "failed"  # and those that were canceled
    ALL = "all"


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A request that has passed every check. `metadata` and `callback_url` None: those of the old one."""

    only: Only = Only.FAILED
    metadata: dict[str, Any] | None = None
    callback_url: str | None = None


@dataclass(frozen=True, slots=True)
class Misfit:
    """An item whose stored input is not valid for the model of today."""

    sequence_index: int
    client_ref: str | None
    faults: Sequence[ErrorItem]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay would do again, in order with the old runs, and what no longer fits the model."""

    target: BatchTarget
    items: list[ItemInput]
    run_ids: list[UUID]
    misfits: list[Misfit]

    def check(self, *, skip_invalid: bool) -> None:
        """Raises ValidationFailed with the faults of all misfits, unless they are to be left out and something remains."""
        if self.misfits and not (skip_invalid and self.items):
            total = len(self.items) + len(self.misfits)
            raise errors.ValidationFailed(
                f"{len(self.misfits)} of {total} inputs no longer fit the model.",
                errors=cap_errors(*(misfit.faults for misfit in self.misfits)),
            )


def check_batch_replay(body: Mapping[str, Any]) -> ReplayRequest:
    """Check the body of a request to replay a batch. Raises ValidationFailed with all its faults at once."""
    faults = unknown_members(body, known=("only", "metadata", "callback_url"))
    only = body.get("only")
    if not isinstance(only, str | None):
        faults.append(body_fault("wrong_type", "Must be a string or null.", "only"))
    elif only is not None and only not in list(Only):
        faults.append(body_fault("not_allowed", 'Must be one of: "failed", "all"', "only"))
    faults += envelope_faults(body)
    if faults:
        raise errors.ValidationFailed(errors=cap_errors(faults))
    return ReplayRequest(Only(only or Only.FAILED), body.get("metadata"), body.get("callback_url"))


def check_run_replay(body: Mapping[str, Any]) -> ReplayRequest:
    """The same for a run, of which there is nothing to choose."""
    faults = unknown_members(body, known=("metadata", "callback_url"))
    faults += envelope_faults(body)
    if faults:
        raise errors.ValidationFailed(errors=cap_errors(faults))
    return ReplayRequest(metadata=body.get("metadata"), callback_url=body.get("callback_url"))


def plan_replay(*, batch: Batch, only: Only = Only.FAILED) -> Plan:
    """Look what a replay of this batch would do. Two statements if its model and organization are loaded.

    Raises ValidationFailed `conflict` for a batch that has not ended or has nothing to do again, and what `batch_target` does.
    """
    if batch.status_code not in BATCH_TERMINAL:
        raise conflict(batch, "It has not ended; replay it when it has.")
    chosen = BatchItem.objects.filter(batch=batch).order_by("sequence_index")
    if only == Only.FAILED:
        chosen = chosen.exclude(run__status_code=RunStatus.SUCCEEDED)
    rows = list(chosen.values_list("sequence_index", "client_ref", "run_id", "run__input"))
    if not rows:
        raise conflict(batch, "All of its items succeeded: there is nothing to replay.")
    target = batch_target(
        owner=batch.model.owner, slug=batch.model.slug, organization=batch.organization, loc=("path", "batch_id")
    )
    plan = Plan(target, [], [], [])
    for sequence_index, client_ref, run_id, stored in rows:
        values, faults = _validate_again(target.serializer_class, stored, sequence_index)
        if values is None:
            plan.misfits.append(Misfit(sequence_index, client_ref, faults))
        else:
            plan.items.append(ItemInput(client_ref, values))
            plan.run_ids.append(run_id)
    return plan


def replay_batch(
    *,
    batch: Batch,
    request: ReplayRequest,
    skip_invalid: bool = False,
    request_id: str = "",
    created_by: ApiKey | None = None,
) -> tuple[Batch, list[ItemHandle]]:
    """Make a new batch of what a finished one did not do, or of all of it. The statements do not depend on its length.

    Inputs are checked against the declarations of today; `skip_invalid` leaves out those that do not pass, unless none does.
    Raises what `plan_replay` does, and ValidationFailed with the faults of all items.
    """
    plan = plan_replay(batch=batch, only=request.only)
    plan.check(skip_invalid=skip_invalid)
    return create_batch(
        organization=batch.organization,
        target=plan.target,
        request=BatchRequest(
            items=plan.items,
            metadata=batch.metadata if request.metadata is None else request.metadata,
            callback_url=batch.callback_url if request.callback_url is None else request.callback_url,
        ),
        source_code=Source.REPLAY,
        request_id=request_id,
        created_by=created_by,
        repeats=Repeated(batch.pk, plan.run_ids),
    )


def replay_run(*, run: Run, request: ReplayRequest, request_id: str = "", created_by: ApiKey | None = None) -> Run:
    """Make a new single run with the input of one that has ended, also of one that was part of a batch.

    Raises ValidationFailed, with type `conflict` for one that has not ended, and what `run_target` does.
    """
    if run.status_code not in TERMINAL:
        raise conflict(run, "It has not ended; replay it when it has.")
    target = run_target(owner=run.model.owner, slug=run.model.slug, organization=run.organization)
    values, faults = _validate_again(target.serializer_class, run.input)
    if values is None:
        raise errors.ValidationFailed("The input no longer fits the model.", errors=cap_errors(faults))
    return create_run(
        organization=run.organization,
        target=target,
        request=RunRequest(
            values=values,
            client_ref=run.client_ref,
            metadata=run.metadata if request.metadata is None else request.metadata,
            callback_url=run.callback_url if request.callback_url is None else request.callback_url,
        ),
        source_code=Source.REPLAY,
        request_id=request_id,
        created_by=created_by,
        repeats=run.pk,
    )


def replay_failed(subjects: Iterable[Batch | Run]) -> tuple[list[Batch | Run], list[str]]:
    """Replay what of these batches and runs did not succeed, each in a transaction of its own.

    Give them with their model and organization. Returns those that were replayed, and why each of the others was not.
    """
    replayed: list[Batch | Run] = []
    refused: list[str] = []
    for subject in subjects:
        try:
            if isinstance(subject, Batch):
                replay_batch(batch=subject, request=ReplayRequest())
            elif subject.status_code == RunStatus.SUCCEEDED:
                raise conflict(subject, "It succeeded: there is nothing to replay.")
            else:
                replay_run(run=subject, request=ReplayRequest())
        except errors.DomainError as error:
            refused.append(error.message)
        else:
            replayed.append(subject)
    return replayed, refused


def _validate_again(
    serializer_class: type[ItemSerializer], stored: dict[str, Any], *path: int
) -> tuple[dict[str, Any] | None, Sequence[ErrorItem]]:
    # A stored null is what a declaration put there for "not given": an input that is no longer declared is not missed.
    given = {name: value for name, value in stored.items() if value is not None}
    return validate_input(serializer_class, given, loc=("body", "input", *path))
