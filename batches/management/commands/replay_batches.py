"""Replay many batches, as after a bad night: a new one for each."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Exists, OuterRef, QuerySet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from accounts.models import Organization
from batches.models import Batch, BatchStatus
from batches.replays import Only, ReplayRequest, plan_replay, replay_batch
from models_registry.models import Model
from runflow.lib.commands import console_of, moment
from runflow.lib.errors import DomainError

# Terminal, with something that did not succeed.
STATUSES = (BatchStatus.FAILED, BatchStatus.PARTIAL_SUCCEEDED, BatchStatus.CANCELED)


def _statuses(text: str) -> list[str]:
    given = text.split(",")
    if unknown := [each for each in given if each not in STATUSES]:
        raise ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(STATUSES)}")
    return given


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


class Command(BaseCommand):
    help = (
        "Make a new batch for each finished one of these, of its items that failed or were canceled. One that has a replay is "
        "left out. What cannot be replayed is listed, stops no other, and makes the exit code 1. Only counts unless --apply."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--status", type=_statuses, required=True, metavar="CODES", help=f"of {', '.join(STATUSES)}; with commas"
        )
        parser.add_argument(
            "--since", type=moment, required=True, metavar="TIME", help="that ended since; UTC if it names no zone"
        )
        parser.add_argument("--model", metavar="OWNER/SLUG", help="of this model")
        parser.add_argument("--organization", metavar="SLUG", help="of this organization")
        parser.add_argument("--limit", type=_positive, metavar="N", help="so many at most, the oldest")
        parser.add_argument(
            "--only", choices=[*Only], default=Only.FAILED.value, help="failed (and canceled) items, or all"
        )
        parser.add_argument("--skip-invalid", action="store_true", help="leave out inputs that no longer fit the model")
        parser.add_argument("--again", action="store_true", help="also those that have a replay")
        parser.add_argument("--apply", action="store_true", help="make the new batches; without it, only count")

    def handle(self, *, limit: int | None, again: bool, **options: Any) -> None:
        console = console_of(self, options)
        chosen = _chosen(**options)
        found = chosen.count()
        if not again:
            chosen = chosen.exclude(Exists(Batch.objects.filter(replay_of=OuterRef("pk"))))
        # Their number is settled here: what is made below is not replayed in its turn.
        ids = list(chosen.order_by("pk").values_list("pk", flat=True)[:limit])
        left = found - len(ids)
        console.print(
            f"Found {found} batch(es)"
            + (f", {left} of them left out (replayed before, or beyond --limit)." if left else "."),
            soft_wrap=True,
        )
        _replay(console, ids, **options)


def _chosen(
    *, status: list[str], since: datetime, model: str | None, organization: str | None, **_: Any
) -> QuerySet[Batch]:
    batches = Batch.objects.filter(status_code__in=status, completed_at__gte=since)
    if model is not None:
        owner, _slash, slug = model.partition("/")
        row = Model.objects.filter(owner=owner, slug=slug).first()
        if row is None:
            raise CommandError(f"There is no model {model}.")
        batches = batches.filter(model=row)
    if organization is not None:
        customer = Organization.objects.filter(slug=organization).first()
        if customer is None:
            raise CommandError(f"There is no organization {organization}.")
        batches = batches.filter(organization=customer)
    return batches


def _replay(console: Console, ids: list[UUID], *, only: str, skip_invalid: bool, apply: bool, **_: Any) -> None:
    """Each in a transaction of its own. Raises CommandError in the end if one could not be replayed."""
    request = ReplayRequest(Only(only))
    batches = items = 0
    refused: list[tuple[Batch, str]] = []
    for pk in ids:
        old = Batch.objects.select_related("model", "organization").get(pk=pk)
        try:
            if apply:
                new, handles = replay_batch(batch=old, request=request, skip_invalid=skip_invalid)
                console.print(f"{old.pk} -> {new.pk}, {len(handles)} item(s)", soft_wrap=True)
                items += len(handles)
            else:
                plan = plan_replay(batch=old, only=request.only)
                plan.check(skip_invalid=skip_invalid)
                items += len(plan.items)
            batches += 1
        except DomainError as error:
            refused.append((old, error.message))
    made = "Made" if apply else "Would make"
    console.print(
        f"{made} {batches} batch(es) of {items} item(s) in all." + ("" if apply else " Add --apply."), soft_wrap=True
    )
    if refused:
        table = Table(box=None)
        for name in ("batch", "model", "why not"):
            table.add_column(name, overflow="fold")
        for old, why in refused:
            table.add_row(str(old.pk), escape(str(old.model)), escape(why))
        console.print(table)
        raise CommandError(f"{len(refused)} of {len(ids)} batch(es) cannot be replayed.")
