"""Encrypt callback secrets with a new key: put it first in ENCRYPTION_KEYS, restart, run this, then drop the old one."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from callbacks.services import count_encrypted, rotate_encryption
from runflow.lib.encryption import CannotDecrypt


class Command(BaseCommand):
    help = (
        "Encrypt every callback secret anew with the first of ENCRYPTION_KEYS; the secrets themselves stay as they are. "
        "Only counts them unless --apply."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--apply", action="store_true", help="encrypt anew; without it, only count")

    def handle(self, *, apply: bool, **options: Any) -> None:
        if not apply:
            self.stdout.write(f"Would encrypt {count_encrypted()} secret(s) anew. Add --apply.")
            return
        try:
            total = rotate_encryption()
        except CannotDecrypt as exc:
            raise CommandError(f"{exc} Add the key that made it, or disable the secret.") from None
        self.stdout.write(f"Encrypted {total} secret(s) anew.")
