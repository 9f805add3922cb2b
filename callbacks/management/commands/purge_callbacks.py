"""Delete callback deliveries whose retention is over. The `callbacks.purge` task does the same every hour."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from callbacks.lifecycle import count_old, purge_old


class Command(BaseCommand):
    help = (
        "Delete callback deliveries that ended longer ago than CALLBACK_RETENTION_DAYS, with their bodies and attempts. "
        "Batches and runs are not touched. Only counts them unless --apply."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--apply", action="store_true", help="delete; without it, only count")

    def handle(self, *, apply: bool, **options: Any) -> None:
        days = settings.CALLBACK_RETENTION.days
        if not apply:
            self.stdout.write(f"Would delete {count_old()} delivery(ies) older than {days} days. Add --apply.")
            return
        self.stdout.write(f"Deleted {purge_old()} delivery(ies) older than {days} days.")
