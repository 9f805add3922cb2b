"""Outputs, errors and costs as answers and callbacks show them (contract.md sections 3.5 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from assets.services import sign_url
from batches.models import Batch, RunStatus


def output_body(output: dict[str, Any] | None, *, lifetime: timedelta | None = None) -> dict[str, Any] | None:
    """A run's stored output with its assets' URLs signed anew, for `lifetime` (ASSET_URL_LIFETIME)."""
    if output is None:
        return None
    outputs = [
        {
            "url": sign_url(asset_id=each["asset_id"], lifetime=lifetime),
            **{key: value for key, value in each.items() if key != "asset_id"},
        }
        for each in output["outputs"]
    ]
    return {**output, "outputs": outputs}


def error_body(
    *, status_code: str, code: str | None, message: str | None, stage_code: str | None
) -> dict[str, Any] | None:
    """The `error` of a failed run."""
    if status_code != RunStatus.FAILED:
        return None
    return {"code": code, "message": message, "stage_code": stage_code}


def batch_output(
    batch: Batch, item_rows: Sequence[dict[str, Any]], *, lifetime: timedelta | None = None
) -> dict[str, Any]:
    """The envelope of contract.md section 3.5. `item_rows` as BatchQuerySet.with_item_rows gives them."""
    return {
        "items": [
            {
                "sequence_index": row["sequence_index"],
                "client_ref": row["client_ref"],
                "run_id": row["run_id"],
                "status_code": row["status_code"],
                "output": output_body(row["output"], lifetime=lifetime),
                "error": error_body(
                    status_code=row["status_code"],
                    code=row["failure_code"],
                    message=row["failure_message"],
                    stage_code=row["failure_stage_code"],
                ),
            }
            for row in item_rows
        ],
        "succeeded": batch.items_succeeded,
        "failed": batch.items_failed,
        "cancelled": batch.items_cancelled,
        "total": batch.items_total,
    }
