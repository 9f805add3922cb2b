"""What callbacks say: the end of a batch, or of a run that has a `callback_url` of its own (contract.md section 7)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q

from batches.models import Batch, BatchStatus, Run, RunStatus
from batches.output import batch_output, output_body
from callbacks.lifecycle import Draft, create_deliveries
from callbacks.models import SubjectType
from callbacks.retry import JITTER
from runflow.lib import jsonlib

# Of batches and of runs: both have these columns, and `completed_at` exactly when they are terminal.
WANTS_CALLBACK = Q(completed_at__isnull=False, callback_url__isnull=False)

# The spelling of events differs from that of statuses, and both are the contract's (section 3.4).
BATCH_EVENTS = {
    BatchStatus.SUCCEEDED: "batch.succeeded",
    BatchStatus.PARTIAL_SUCCEEDED: "batch.partial_succeeded",
    BatchStatus.FAILED: "batch.failed",
    BatchStatus.CANCELED: "batch.cancelled",
}
RUN_EVENTS = {
    RunStatus.SUCCEEDED: "run.completed",
    RunStatus.FAILED: "run.failed",
    RunStatus.CANCELED: "run.cancelled",
}


def announce(*, batch_ids: Collection[UUID], run_ids: Collection[UUID]) -> None:
    """Make the automatic callbacks of what has just ended, in the transaction that ended it.

    At most one statement for all batches, one for all runs, and one that inserts; none where nobody wants a callback.
    """
    create_deliveries(drafts=drafts(batch_ids=batch_ids, run_ids=run_ids), is_automatic=True)


def drafts(*, batch_ids: Collection[UUID], run_ids: Collection[UUID]) -> list[Draft]:
    """The callbacks of these batches and runs as they are now; those that are not terminal or want none are left out."""
    batches = Batch.objects.filter(WANTS_CALLBACK, pk__in=batch_ids).with_item_rows() if batch_ids else ()
    runs = Run.objects.filter(WANTS_CALLBACK, pk__in=run_ids) if run_ids else ()
    return [_batch_draft(batch) for batch in batches] + [_run_draft(run) for run in runs]


def _batch_draft(batch: Batch) -> Draft:
    return _draft(
        batch,
        SubjectType.BATCH,
        {
            "event": BATCH_EVENTS[BatchStatus(batch.status_code)],
            "batch_id": batch.pk,
            "status": batch.status_code,
            "output": batch_output(batch, batch.item_rows, lifetime=_url_lifetime()),
        },
    )


def _run_draft(run: Run) -> Draft:
    return _draft(
        run,
        SubjectType.RUN,
        {
            "event": RUN_EVENTS[RunStatus(run.status_code)],
            "run_id": run.pk,
            "status": run.status_code,
            "output": output_body(run.output, lifetime=_url_lifetime()),
        },
    )


def _draft(subject: Batch | Run, subject_type: SubjectType, body: dict[str, Any]) -> Draft:
    body |= {
        "duration_ms": subject.duration_ms,
        "created_at": subject.created_at,
        "completed_at": subject.completed_at,
        "metadata": subject.metadata,
    }
    return Draft(
        subject_type=subject_type,
        subject_id=subject.pk,
        organization_id=subject.organization_id,
        callback_url=subject.callback_url or "",
        payload=jsonlib.dumps(body),
        request_id=subject.request_id,
    )


def _url_lifetime() -> timedelta:
    """The body is sent unchanged to the last retry: its URLs must open then, and for as long as any other afterwards."""
    retries = sum(settings.CALLBACK_RETRY_DELAYS) * (1 + JITTER)
    return timedelta(seconds=retries) + settings.ASSET_URL_LIFETIME
