"""Delete uploads that nobody confirmed, and their files. The `assets.purge` task does the same every hour."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from assets.uploads import count_abandoned, purge_abandoned


class Command(BaseCommand):
    help = "Delete uploads not confirmed in time, and their files; assets are not touched. Only counts them unless --apply."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--apply", action="store_true", help="delete; without it, only count")

    def handle(self, *, apply: bool, **options: Any) -> None:
        if not apply:
            uploads, files = count_abandoned()
            self.stdout.write(f"Would delete {uploads} upload(s) and {files} file(s). Add --apply.")
            return
        self.stdout.write(f"Deleted {purge_abandoned()} upload(s).")
