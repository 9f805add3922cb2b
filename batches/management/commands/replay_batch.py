"""Replay one batch: a new one of what it did not do."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batches.models import BATCH_TERMINAL, Batch, BatchStatus
from batches.replays import Misfit, Only, Plan, ReplayRequest, plan_replay, replay_batch
from runflow.lib.commands import console_of, progress_of
from runflow.lib.errors import DomainError

POLL_INTERVAL = 0.5  # seconds
# Of one input; who wants to read them all asks the API.
_MOST_FAULTS = 3


class Command(BaseCommand):
    help = (
        "Make a new batch of the items of a finished one that failed or were canceled. Their inputs are checked against "
        "the model of today. Only counts unless --apply. Exit code 1: it cannot be replayed, or, with --wait, not all of the "
        "new batch succeeded."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("batch", type=UUID, metavar="ID")
        parser.add_argument(
            "--only", choices=[*Only], default=Only.FAILED.value, help="failed (and canceled) ones, or all"
        )
        parser.add_argument("--skip-invalid", action="store_true", help="leave out inputs that no longer fit the model")
        parser.add_argument("--apply", action="store_true", help="make the new batch; without it, only count")
        parser.add_argument("--wait", action="store_true", help="with --apply: until the new batch has ended")

    def handle(self, *, batch: UUID, only: str, skip_invalid: bool, apply: bool, wait: bool, **options: Any) -> None:
        if wait and not apply:
            raise CommandError("--wait goes with --apply.")
        console = console_of(self, options)
        old = Batch.objects.select_related("model", "organization").filter(pk=batch).first()
        if old is None:
            raise CommandError(f"There is no batch {batch}.")
        request = ReplayRequest(Only(only))
        try:
            plan = plan_replay(batch=old, only=request.only)
            _show(console, old, plan)
            plan.check(skip_invalid=skip_invalid)
            if not apply:
                console.print(f"Would make a batch of {len(plan.items)} item(s). Add --apply.", soft_wrap=True)
                return
            new, _ = replay_batch(batch=old, request=request, skip_invalid=skip_invalid)
        except DomainError as error:
            raise CommandError(f"{error.message} Nothing was made.") from None
        console.print(f"Made batch {new.pk} of {new.items_total} item(s).", soft_wrap=True)
        if wait:
            _wait(console, new)


def _show(console: Console, old: Batch, plan: Plan) -> None:
    total = len(plan.items) + len(plan.misfits)
    console.print(
        f"Batch {old.pk} of {escape(str(old.model))} is {old.status_code}: {total} of {old.items_total} item(s) to replay.",
        soft_wrap=True,
    )
    if not plan.misfits:
        return
    console.print(f"{len(plan.misfits)} no longer fit the model; --skip-invalid leaves them out:", soft_wrap=True)
    table = Table(box=None)
    table.add_column("item", justify="right")
    table.add_column("client_ref", overflow="fold")
    table.add_column("why", overflow="fold")
    for misfit in plan.misfits:
        table.add_row(str(misfit.sequence_index), escape(misfit.client_ref or "-"), escape(_why(misfit)))
    console.print(table)


def _why(misfit: Misfit) -> str:
    told = [
        # After body, input and the index.
        f"{'.'.join(str(step) for step in fault['loc'][3:])}: {fault['msg']}"
        for fault in misfit.faults[:_MOST_FAULTS]
    ]
    left = len(misfit.faults) - len(told)
    return " ".join([*told, f"And {left} more."] if left else told)


def _wait(console: Console, batch: Batch) -> None:
    """Show how far it is until it has ended. Raises CommandError unless all of it succeeded."""
    try:
        with progress_of(console, batch.items_total) as show:
            while True:
                batch.refresh_from_db()
                show(batch.items_succeeded + batch.items_failed + batch.items_cancelled, batch.status_code)
                if batch.status_code in BATCH_TERMINAL:
                    break
                time.sleep(POLL_INTERVAL)
    except KeyboardInterrupt:
        raise CommandError(f"Interrupted; batch {batch.pk} goes on.", returncode=130) from None
    if batch.status_code != BatchStatus.SUCCEEDED:
        raise CommandError(
            f"Batch {batch.pk} is {batch.status_code}: {batch.items_succeeded} of {batch.items_total} succeeded."
        )
