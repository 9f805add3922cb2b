"""Send callbacks again: of one batch or run, or of everything that ended since a moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import OuterRef, QuerySet, Subquery

from batches.events import WANTS_CALLBACK
from batches.models import Batch, Run
from batches.services import redeliver_callbacks
from callbacks.models import CallbackDelivery, DeliveryStatus
from runflow.lib.commands import moment

# Bodies are made in memory; a hundred of the largest are a few megabytes.
_SLICE = 100


class Command(BaseCommand):
    help = (
        "Send callbacks again, with bodies made anew. What has not ended, has no callback_url, or has a callback in flight is "
        "left out. Only counts them unless --apply."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--batch", type=UUID, metavar="ID", help="of this batch")
        which.add_argument("--run", type=UUID, metavar="ID", help="of this run")
        which.add_argument(
            "--since", type=moment, metavar="TIME", help="of all that ended since; UTC if it names no zone"
        )
        parser.add_argument("--failed", action="store_true", help="with --since: only where the newest delivery failed")
        parser.add_argument("--apply", action="store_true", help="send; without it, only count")

    def handle(self, *, failed: bool, apply: bool, **options: Any) -> None:
        if failed and options["since"] is None:
            raise CommandError("--failed goes with --since.")
        batches, runs = self._chosen(**options)
        if failed:
            batches, runs = _with_failed_delivery(batches), _with_failed_delivery(runs)
        counted = _count(batches, "batch", "batches"), _count(runs, "run", "runs")
        if not apply:
            self.stdout.write(f"Would send the callbacks of {' and '.join(counted)} again. Add --apply.")
            return
        sent = 0
        for ids in _slices(batches):
            sent += len(redeliver_callbacks(batch_ids=ids))
        for ids in _slices(runs):
            sent += len(redeliver_callbacks(run_ids=ids))
        self.stdout.write(f"Found {' and '.join(counted)}; sent {sent} callback(s) again. The rest has one in flight.")

    def _chosen(
        self, *, batch: UUID | None, run: UUID | None, since: datetime | None, **_: Any
    ) -> tuple[QuerySet[Batch], QuerySet[Run]]:
        batches, runs = Batch.objects.filter(WANTS_CALLBACK), Run.objects.filter(WANTS_CALLBACK)
        if batch is not None:
            return batches.filter(pk=batch), runs.none()
        if run is not None:
            return batches.none(), runs.filter(pk=run)
        return batches.filter(completed_at__gte=since), runs.filter(completed_at__gte=since)


def _with_failed_delivery(subjects: Any) -> Any:
    newest = CallbackDelivery.objects.filter(subject_id=OuterRef("pk")).order_by("-id").values("status_code")[:1]
    return subjects.alias(newest=Subquery(newest)).filter(newest=DeliveryStatus.FAILED)


def _count(subjects: QuerySet[Any], one: str, many: str) -> str:
    count = subjects.count()
    return f"{count} {one if count == 1 else many}"


def _slices(subjects: QuerySet[Any]) -> Iterator[list[UUID]]:
    """Ids, a hundred at a time, in order: each slice starts after the last."""
    after = UUID(int=0)
    while ids := list(subjects.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)[:_SLICE]):
        yield ids
        after = ids[-1]
