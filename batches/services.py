"""Verbs on batches and single runs: checking a request, creating what it asks for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import ApiKey, Organization
from batches import events, sql
from batches.engine import EXECUTE_TASK, MOST_DOORBELLS
from batches.models import Batch, BatchStatus, Run, RunStatus, Source
from billing.models import SubjectType
from billing.services import check_credit, hold_credit, needs_hold
from callbacks.lifecycle import create_deliveries
from models_registry.catalogue import BatchTarget, Target
from models_registry.faults import json_fault
from models_registry.validation import ItemInput, client_ref_fault, validate_input, validate_items
from runflow.lib import errors, outbound
from runflow.lib.doorbell import ring_after_commit
from runflow.lib.errors import ErrorItem
from runflow.lib.faults import body_fault, cap_errors, is_storable, unknown_members
from runflow.lib.ids import uuid7

MAX_ITEMS = 100  # contract.md section 3.1
MAX_METADATA_BYTES = 16 * 1024
MAX_CALLBACK_URL = 2048


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request that has passed every check."""

    items: list[ItemInput]
    metadata: dict[str, Any] | None
    callback_url: str | None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The same for a single run."""

    values: dict[str, Any]
    client_ref: str | None
    metadata: dict[str, Any] | None
    callback_url: str | None


@dataclass(frozen=True, slots=True)
class Repeated:
    """What a replay does again: a batch, and of each of the new items in order the old run."""

    batch_id: UUID
    run_ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class ItemHandle:
    """One item of a batch as polling clients see it (contract.md section 3.1)."""

    id: UUID
    sequence_index: int
    run_id: UUID
    status_code: str
    client_ref: str | None


def check_batch_request(*, target: Target, body: Mapping[str, Any]) -> BatchRequest:
    """Check the body of a batch request against the contract and the model's declarations.

    Raises ValidationFailed with all faults of all items at once.
    """
    own = unknown_members(body, known=("input", "metadata", "callback_url"))
    own += envelope_faults(body)
    items = body.get("input")
    valid: list[ItemInput] = []
    item_errors: list[ErrorItem] = []
    if items is None:
        own.append(body_fault("missing", "Give 1 to 100 inputs.", "input"))
    elif not isinstance(items, list):
        own.append(body_fault("wrong_type", "Must be an array of objects.", "input"))
    elif not items:
        own.append(body_fault("too_short", "Give at least one input.", "input"))
    elif len(items) > MAX_ITEMS:
        own.append(body_fault("too_long", f"Give at most {MAX_ITEMS} inputs, not {len(items)}.", "input"))
    else:
        valid, item_errors = validate_items(target.serializer_class, items)
    if own or item_errors:
        raise errors.ValidationFailed(errors=cap_errors(own, item_errors))
    return BatchRequest(items=valid, metadata=body.get("metadata"), callback_url=body.get("callback_url"))


def check_run_request(*, target: Target, body: Mapping[str, Any]) -> RunRequest:
    """Check the body of a request for a single run (contract.md section 4). Raises ValidationFailed with all faults at once."""
    own = unknown_members(body, known=("input", "client_ref", "metadata", "callback_url"))
    own += envelope_faults(body)
    if fault := client_ref_fault(body.get("client_ref")):
        own.append(body_fault(fault[1], fault[0], "client_ref"))
    values: dict[str, Any] | None = None
    input_errors: list[ErrorItem] = []
    if body.get("input") is None:
        own.append(body_fault("missing", "Give the model's inputs.", "input"))
    else:
        values, input_errors = validate_input(target.serializer_class, body["input"])
    if own or values is None:
        raise errors.ValidationFailed(errors=cap_errors(own, input_errors))
    return RunRequest(
        values=values,
        client_ref=body.get("client_ref"),
        metadata=body.get("metadata"),
        callback_url=body.get("callback_url"),
    )


def estimate_cost(*, target: Target, items: int) -> Decimal:
    """USD if all of so many succeed."""
    return target.model.price * items


def create_batch(
    *,
    organization: Organization,
    target: BatchTarget,
    request: BatchRequest,
    source_code: Source = Source.API,
    request_id: str = "",
    created_by: ApiKey | None = None,
    repeats: Repeated | None = None,
) -> tuple[Batch, list[ItemHandle]]:
    """Store the batch, its runs and its items, three statements whatever their number; ring once that is committed.

    Joins the transaction that is open (the idempotency record commits with it), or opens its own. For an organisation on
    prepaid credit two statements more; raises InsufficientCredit where it does not cover the price of all items.
    """
    now = timezone.now()
    cost = estimate_cost(target=target, items=len(request.items))
    has_hold = needs_hold(organization=organization, cost=cost)
    if has_hold:
        check_credit(organization=organization, cost=cost)
    batch = Batch(
        organization=organization,
        model=target.model,
        status_code=BatchStatus.QUEUED,
        source_code=source_code,
        items_total=len(request.items),
        has_hold=has_hold,
        metadata=request.metadata,
        callback_url=request.callback_url,
        resolved_template=target.template,
        dispatch_provider_link=target.link,
        replay_of_id=repeats.batch_id if repeats else None,
        request_id=request_id,
        created_by=created_by,
        created_at=now,
    )
    handles = [
        ItemHandle(uuid7(), index, uuid7(), RunStatus.QUEUED, item.client_ref)
        for index, item in enumerate(request.items)
    ]
    with transaction.atomic(savepoint=False):
        batch.save(force_insert=True)
        _insert_runs_and_items(batch, target, request.items, handles, repeats.run_ids if repeats else ())
        if has_hold:
            hold_credit(organization=organization, cost=cost, subject_type=SubjectType.BATCH, subject_id=batch.pk)
        # Enough workers for the batch at once; each goes on until nothing is left.
        claims = -(-len(handles) // target.link.provider.claim_size)
        ring_after_commit(EXECUTE_TASK, str(target.link.provider_id), times=min(claims, MOST_DOORBELLS))
    return batch, handles


def create_run(
    *,
    organization: Organization,
    target: Target,
    request: RunRequest,
    source_code: Source = Source.API,
    request_id: str = "",
    created_by: ApiKey | None = None,
    repeats: UUID | None = None,
) -> Run:
    """Store a single run, one statement; ring once that is committed. `repeats`: the run that this one replays.

    Credit as for a batch.
    """
    now = timezone.now()
    cost = estimate_cost(target=target, items=1)
    has_hold = needs_hold(organization=organization, cost=cost)
    if has_hold:
        check_credit(organization=organization, cost=cost)
    run = Run(
        organization=organization,
        model=target.model,
        provider_id=target.link.provider_id,
        resolved_template_id=target.link.template_id,
        dispatch_provider_link=target.link,
        source_code=source_code,
        input=request.values,
        price=target.model.price,
        has_hold=has_hold,
        client_ref=request.client_ref,
        metadata=request.metadata,
        callback_url=request.callback_url,
        max_attempts=settings.RUN_MAX_ATTEMPTS,
        replay_of_id=repeats,
        request_id=request_id,
        created_by=created_by,
        created_at=now,
        due_at=now,
    )
    with transaction.atomic(savepoint=False) if has_hold else nullcontext():
        run.save(force_insert=True)
        if has_hold:
            hold_credit(organization=organization, cost=cost, subject_type=SubjectType.RUN, subject_id=run.pk)
    ring_after_commit(EXECUTE_TASK, str(target.link.provider_id))
    return run


def redeliver_callbacks(*, batch_ids: Collection[UUID] = (), run_ids: Collection[UUID] = ()) -> dict[UUID, UUID]:
    """Send the callbacks of terminal batches and runs again, with fresh bodies. Returns subject id: delivery id.

    Left out: what has not ended, what has no `callback_url`, and what has a callback in flight. At most three statements.
    """
    return create_deliveries(drafts=events.drafts(batch_ids=batch_ids, run_ids=run_ids), is_automatic=False)


def redeliver_callback(*, subject: Batch | Run) -> UUID:
    """The same for one. Returns the delivery's id. Raises ValidationFailed with type `conflict` (contract.md section 3.3)."""
    if subject.callback_url is None:
        raise conflict(subject, "It has no callback_url.")
    if subject.completed_at is None:
        raise conflict(subject, "It has not ended; its callback is sent when it does.")
    ids = {"batch_ids" if isinstance(subject, Batch) else "run_ids": [subject.pk]}
    delivery_id = redeliver_callbacks(**ids).get(subject.pk)
    if delivery_id is None:  # said by the unique index, so that of two at once one is refused
        raise conflict(subject, "A callback is in flight already; see its delivery.")
    return delivery_id


def conflict(subject: Batch | Run, msg: str) -> errors.ValidationFailed:
    """The refusal of what a batch or a run does not allow in its present state."""
    name = "batch_id" if isinstance(subject, Batch) else "run_id"
    return errors.ValidationFailed(msg, errors=[{"loc": ["path", name], "msg": msg, "type": "conflict"}])


def _insert_runs_and_items(
    batch: Batch,
    target: BatchTarget,
    items: Sequence[ItemInput],
    handles: Sequence[ItemHandle],
    repeated_run_ids: Sequence[UUID],
) -> None:
    client_refs = [handle.client_ref for handle in handles]
    run_ids = [handle.run_id for handle in handles]
    with connection.cursor() as cursor:
        cursor.execute(
            sql.INSERT_RUNS,
            {
                "ids": run_ids,
                "inputs": [json.dumps(item.values) for item in items],
                "client_refs": client_refs,
                "replay_of_ids": list(repeated_run_ids),
                "organization_id": batch.organization_id,
                "batch_id": batch.pk,
                "model_id": target.model.pk,
                "provider_id": target.link.provider_id,
                "resolved_template_id": target.link.template_id,
                "dispatch_provider_link_id": target.link.pk,
                "source_code": batch.source_code,
                "price": target.model.price,
                "max_attempts": settings.RUN_MAX_ATTEMPTS,
                "request_id": batch.request_id,
                "created_by_id": batch.created_by_id,
                "created_at": batch.created_at,
            },
        )
        cursor.execute(
            sql.INSERT_ITEMS,
            {
                "ids": [handle.id for handle in handles],
                "run_ids": run_ids,
                "client_refs": client_refs,
                "batch_id": batch.pk,
                "created_at": batch.created_at,
            },
        )


def envelope_faults(body: Mapping[str, Any]) -> list[ErrorItem]:
    """What is wrong with the `metadata` and the `callback_url` of a body. Null is "not given"."""
    return _metadata_faults(body.get("metadata")) + _callback_url_faults(body.get("callback_url"))


def _metadata_faults(metadata: Any) -> list[ErrorItem]:
    if metadata is None:
        return []
    if not isinstance(metadata, dict):
        return [body_fault("wrong_type", "Must be an object or null.", "metadata")]
    fault = json_fault(metadata)
    if fault is not None:
        return [{"loc": ["body", "metadata", *fault.path], "msg": str(fault), "type": fault.code}]
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        return [body_fault("too_long", f"Must be at most {MAX_METADATA_BYTES} bytes as JSON, not {size}.", "metadata")]
    return []


def _callback_url_faults(url: Any) -> list[ErrorItem]:
    if url is None:
        return []
    if not isinstance(url, str):
        return [body_fault("wrong_type", "Must be a string or null.", "callback_url")]
    if len(url) > MAX_CALLBACK_URL:
        return [body_fault("too_long", f"Must have at most {MAX_CALLBACK_URL} characters.", "callback_url")]
    if not is_storable(url):
        return [body_fault("not_storable", "Must not contain U+0000 or a lone surrogate.", "callback_url")]
    try:
        outbound.check_url(url)
    except outbound.OutboundError as exc:
        return [body_fault("bad_url", str(exc), "callback_url")]
    return []
