"""A health check for containers: whether work is being done, as the rows tell it, not whether a process is there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError

from batches.progress import read_progress


class Command(BaseCommand):
    help = (
        "Exit with 0 while runs, callbacks and sweeps go on, with 1 when one of them stands still although there is something "
        "to do, or when the database does not answer; one line says which. It tells of all workers together."
    )
    # They take longer than the question, and say nothing of it.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--max-age",
            type=float,
            default=settings.STALLED_AFTER.total_seconds(),
            metavar="SECONDS",
            help="for so long nothing needs to happen; default: STALLED_AFTER_SECONDS, %(default)s",
        )

    def handle(self, *, max_age: float, **options: Any) -> None:
        limit = timedelta(seconds=max_age)
        try:
            progress = read_progress(limit=limit)
        except (OperationalError, InterfaceError):
            raise CommandError("The database does not answer.") from None
        if stalls := progress.stalls(limit=limit):
            raise CommandError(" ".join(stalls))
        self.stdout.write(
            f"ok: oldest claimable run {_age(progress.oldest_claimable_run)}, last claim {_age(progress.last_claim)}, "
            f"last sweep {_age(progress.last_sweep)}, last callback attempt {_age(progress.last_callback_attempt)}"
        )


def _age(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:.1f} s"
