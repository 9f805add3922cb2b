"""Cancel one batch: what waits ends, what is being worked on is asked to stop."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from batches.cancellation import cancel
from batches.models import BATCH_TERMINAL, LIVE, Batch, Run, RunStatus


class Command(BaseCommand):
    help = "Cancel a batch. Runs that wait end at once; those being worked on are asked to stop. Only counts unless --apply."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch", type=UUID, metavar="ID")
        parser.add_argument("--reason", help="kept with the batch, for whoever asks later")
        parser.add_argument("--apply", action="store_true", help="cancel; without it, only count")

    def handle(self, *, batch: UUID, reason: str | None, apply: bool, **options: Any) -> None:
        row = Batch.objects.filter(pk=batch).first()
        if row is None:
            raise CommandError(f"There is no batch {batch}.")
        if row.status_code in BATCH_TERMINAL:
            self.stdout.write(f"Batch {batch} has ended: {row.status_code}. Nothing to cancel.")
            return
        if not apply:
            runs = Run.objects.filter(batch=row)
            queued, live = runs.filter(status_code=RunStatus.QUEUED).count(), runs.filter(status_code__in=LIVE).count()
            self.stdout.write(f"Would cancel {queued} run(s) that wait, and ask {live} to stop. Add --apply.")
            return
        cancelled = cancel(batch_ids=[batch], reason=reason)
        row.refresh_from_db()
        self.stdout.write(
            f"Canceled {len(cancelled.ended)} run(s), asked {len(cancelled.asked)} to stop. The batch is {row.status_code}."
        )
