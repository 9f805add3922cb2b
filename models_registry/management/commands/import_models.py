"""Declare providers and models from a file, so that a catalogue can be reviewed, versioned and repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from models_registry.manifest import load_manifest
from models_registry.services import ManifestError, import_manifest


class Command(BaseCommand):
    help = (
        "Declare the providers and models of a YAML manifest (docs/manifest.md). Only says what would change, unless "
        "--apply. What the file does not name is left alone, except inside a model that it names: inputs and outputs that "
        "are missing from a list in the file are removed, links that are missing are deactivated (runs refer to them). "
        "Templates are never changed: a new version is added and the link moves to it."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the manifest")
        parser.add_argument("--apply", action="store_true", help="change it; without this, only say what would change")

    def handle(self, *, file: Path, apply: bool, verbosity: int, **options: Any) -> None:
        try:
            manifest = load_manifest(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        try:
            report = import_manifest(manifest=manifest, source=str(file), apply=apply)
        except ManifestError as error:
            raise CommandError(str(error)) from error
        if not report.changes:
            self.stdout.write("Nothing to change.")
            return
        if verbosity > 0:
            for change in report.changes:
                self.stdout.write(str(change))
        count = len(report.changes)
        if apply:
            self.stdout.write(self.style.SUCCESS(f"Applied {count} change(s)."))
        else:
            self.stdout.write(self.style.NOTICE(f"Would make {count} change(s). Add --apply."))
