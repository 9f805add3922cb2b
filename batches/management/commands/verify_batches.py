"""Ask whether all that must hold between batches, runs and callbacks does: after a bad night, or every hour."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batches.audit import Level, Report, verify
from batches.models import Batch
from batches.repair import Mended, repair
from runflow.lib.commands import console_of, moment


class Command(BaseCommand):
    help = (
        "Check that counters, costs, states, leases and callbacks fit the rows of runs, without a lock and while the system "
        "works. What is off is listed, and makes the exit code 1."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--batch", type=UUID, metavar="ID", help="this batch only")
        parser.add_argument("--since", type=moment, metavar="TIME", help="created since; UTC if it names no zone")
        parser.add_argument(
            "--repair",
            action="store_true",
            help="mend what the runs tell how to mend, then check again; no run is changed",
        )
        parser.add_argument(
            "--examples", type=int, default=10, metavar="N", help="of each finding; default: %(default)s"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")

    def handle(
        self,
        *,
        batch: UUID | None,
        since: datetime | None,
        examples: int,
        **options: Any,
    ) -> None:
        if batch is not None and not Batch.objects.filter(pk=batch).exists():
            raise CommandError(f"There is no batch {batch}.")
        mended = repair(batch_id=batch, since=since) if options["repair"] else ()
        report = verify(batch_id=batch, since=since, examples=examples)
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(report, mended), indent=2))
        else:
            _show(console_of(self, options), report, mended)
        off = sum(finding.level != Level.DECISION for finding in report.findings)
        if off:
            raise CommandError(f"{off} of the checks found something.")


def _as_json(report: Report, mended: tuple[Mended, ...]) -> dict[str, Any]:
    return {
        "batches": report.batches,
        "runs": report.runs,
        "deliveries": report.deliveries,
        "is_clean": report.is_clean,
        "findings": [{"level": finding.level, "rule": finding.rule, **asdict(finding)} for finding in report.findings],
        "mended": [asdict(each) for each in mended],
    }


def _show(console: Console, report: Report, mended: tuple[Mended, ...]) -> None:
    for each in mended:
        console.print(f"Mended: {each.count} {each.what}.", soft_wrap=True)
    if report.findings:
        table = Table(box=None)
        for name in ("check", "level", "found", "should be"):
            table.add_column(name, justify="right" if name == "found" else "left")
        for finding in report.findings:
            table.add_row(finding.check, finding.level.value, str(finding.count), escape(finding.rule))
        console.print(table)
    for finding in report.findings:
        console.print(f"\n{finding.check}")
        for example in finding.examples:
            # One line each, however long: ids are to be copied and searched for.
            console.print(f"  {escape(example.subject)}: {escape(example.detail)}", soft_wrap=True)
        if finding.count > len(finding.examples):
            console.print(f"  and {finding.count - len(finding.examples)} more")
    looked_at = f"{report.batches} batches, {report.runs} runs, {report.deliveries} deliveries"
    console.print(f"{looked_at}: {'nothing is off' if report.is_clean else 'see above'}.", soft_wrap=True)
