"""The shapes of contract.md sections 3 and 4, written from rows.

Plain functions, not DRF serializers: a page of a hundred items is thousands of fields, and polling is the hottest path.
schemas.json in tests/contract checks every shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from batches.logs import LogEntry
from batches.models import BATCH_TERMINAL, TERMINAL, Batch, BatchItem, Run, RunStatus
from batches.output import batch_output, error_body, output_body
from batches.services import ItemHandle
from runflow.lib.money import money

TARGET_TYPE = "model"


def handle_body(handle: ItemHandle) -> dict[str, Any]:
    return {
        "id": handle.id,
        "sequence_index": handle.sequence_index,
        "run_id": handle.run_id,
        "status_code": handle.status_code,
        "client_ref": handle.client_ref,
    }


def batch_created_body(batch: Batch, handles: Iterable[ItemHandle]) -> dict[str, Any]:
    """BatchCreateResponse."""
    return {
        "id": batch.pk,
        "target_type": TARGET_TYPE,
        "target_id": batch.model_id,
        "status_code": batch.status_code,
        "items_total": batch.items_total,
        "items_succeeded": batch.items_succeeded,
        "items_failed": batch.items_failed,
        "items_cancelled": batch.items_cancelled,
        "items": [handle_body(handle) for handle in handles],
        "output": None,
        "cost": money(batch.cost),
        "metadata": batch.metadata,
        "callback_url": batch.callback_url,
        "replay_of": batch.replay_of_id,
        "created_at": batch.created_at,
        "started_at": batch.started_at,
        "completed_at": batch.completed_at,
    }


def batch_body(batch: Batch, item_rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """BatchDetail. `item_rows` as BatchQuerySet.with_item_rows gives them."""
    is_terminal = batch.status_code in BATCH_TERMINAL
    return {
        **_batch_body(batch),
        "input": [_given(row) for row in item_rows] if "input" in item_rows[0] else None,
        "output": batch_output(batch, item_rows) if is_terminal and "output" in item_rows[0] else None,
        "items": [row_handle(row) for row in item_rows],
    }


def batch_row_body(batch: Batch, *, embeds: Collection[str]) -> dict[str, Any]:
    """BatchDetail in a list: of `items`, `input` and `output` those that were asked for, the others null."""
    body = _batch_body(batch)
    if embeds:
        whole = batch_body(batch, batch.item_rows)
        body.update({name: whole[name] for name in embeds})
    return body


def _batch_body(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.pk,
        "org_id": batch.organization_id,
        "target_type_code": TARGET_TYPE,
        "target_type": TARGET_TYPE,
        "target_id": batch.model_id,
        "status_code": batch.status_code,
        "source_code": batch.source_code,
        "items_total": batch.items_total,
        "items_succeeded": batch.items_succeeded,
        "items_failed": batch.items_failed,
        "items_cancelled": batch.items_cancelled,
        "input": None,
        "resolved_template_id": batch.resolved_template_id,
        "dispatch_provider_link_id": batch.dispatch_provider_link_id,
        "cost": money(batch.cost),
        "output": None,
        "metadata": batch.metadata,
        "callback_url": batch.callback_url,
        "duration_ms": batch.duration_ms,
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
        "replay_of": batch.replay_of_id,
        "created_by": batch.created_by_id,
        "created_at": batch.created_at,
        "started_at": batch.started_at,
        "completed_at": batch.completed_at,
        "links": {"self": f"/v1/batches/{batch.pk}", "items": f"/v1/batches/{batch.pk}/items"},
        "items": None,
    }


_HANDLE = ("id", "sequence_index", "run_id", "status_code", "client_ref")


def row_handle(row: dict[str, Any]) -> dict[str, Any]:
    """The handle of an item, of a row as BatchQuerySet.with_item_rows gives it."""
    return {name: row[name] for name in _HANDLE}


def _given(row: dict[str, Any]) -> dict[str, Any]:
    """The input of an item with its client_ref put back, as it could be posted again."""
    reference = {} if row["client_ref"] is None else {"client_ref": row["client_ref"]}
    return {**reference, **row["input"]}


def item_body(item: BatchItem, *, with_input: bool = True) -> dict[str, Any]:
    """BatchItem, with its run in full, as `run_body` gives it."""
    run = run_body(item.run, with_input=with_input)
    return {
        "id": item.pk,
        "batch_id": item.batch_id,
        "sequence_index": item.sequence_index,
        "run_id": item.run_id,
        "created_at": item.created_at,
        "client_ref": item.client_ref,
        "status_code": run["status_code"],
        "input": run["input"],
        "cost": run["cost"],
        "output": run["output"],
        "error": error_body(
            status_code=run["status_code"],
            code=run["failure_code"],
            message=run["failure_message"],
            stage_code=run["failure_stage_code"],
        ),
        "started_at": run["started_at"],
        "completed_at": run["completed_at"],
        "run": run,
    }


def run_body(run: Run, *, with_input: bool = True) -> dict[str, Any]:
    """Run. `with_input` False: it was not read, and is null."""
    links = {"self": f"/v1/runs/{run.pk}"}
    if run.batch_id is not None:
        links["batch"] = f"/v1/batches/{run.batch_id}"
    return {
        "id": run.pk,
        "model_id": run.model_id,
        "target_type": TARGET_TYPE,
        "org_id": run.organization_id,
        "status_code": run.status_code,
        "source_code": run.source_code,
        "input": run.input if with_input else None,
        "output": output_body(run.output),
        "duration_ms": run.duration_ms,
        "cost": money(run.cost),
        "cost_breakdown": None,
        "nodes_total": run.nodes_total,
        "nodes_completed": run.nodes_completed,
        "resolved_template_id": run.resolved_template_id,
        "batch_id": run.batch_id,
        "client_ref": run.client_ref,
        "replay_of": run.replay_of_id,
        "request_id": run.request_id or None,
        "created_by": run.created_by_id,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
        "callback_url": run.callback_url,
        "metadata": run.metadata,
        "links": links,
        "failure_code": run.failure_code,
        "failure_message": run.failure_message,
        "failure_stage_code": run.failure_stage_code,
    }


# Of what lists may be asked for (`fields`). Taken from an empty one each, so that they cannot differ from the bodies.
BATCH_MEMBERS = tuple(_batch_body(Batch()))
RUN_MEMBERS = tuple(run_body(Run()))
ITEM_MEMBERS = tuple(item_body(BatchItem(run=Run())))


def log_entry_body(entry: LogEntry) -> dict[str, Any]:
    """RunLog."""
    return {
        "id": entry.id,
        "run_id": entry.run_id,
        "level_code": entry.level_code,
        "message": entry.message,
        "timestamp": entry.timestamp,
        "meta": entry.meta,
        "run": None,
    }


RUN_STATUSES = {
    RunStatus.QUEUED: "It waits for its turn, or for another attempt.",
    RunStatus.DISPATCHING: "It is being handed to the provider.",
    RunStatus.RUNNING: "The provider works on it.",
    RunStatus.SUCCEEDED: "It is done: output and cost are there.",
    RunStatus.FAILED: "It is over without an output: failure_code and failure_message say why.",
    RunStatus.CANCELED: "It is over because somebody asked for that.",
}


def run_statuses_body() -> list[dict[str, Any]]:
    """Every status that a run can have, in the order in which it may have them."""
    return [
        {"status_code": status.value, "description": description, "is_terminal": status in TERMINAL}
        for status, description in RUN_STATUSES.items()
    ]
