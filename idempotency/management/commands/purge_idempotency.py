"""Delete idempotency records whose retention is over. The `idempotency.purge` task does the same every ten minutes."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from idempotency.services import count_expired, purge_expired


class Command(BaseCommand):
    help = "Delete expired idempotency records; batches are not touched. Only counts them unless --apply."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--apply", action="store_true", help="delete; without it, only count")

    def handle(self, *, apply: bool, **options: Any) -> None:
        if not apply:
            self.stdout.write(f"Would delete {count_expired()} expired record(s). Add --apply.")
            return
        self.stdout.write(f"Deleted {purge_expired()} expired record(s).")
