"""What management commands share: reading arguments, and writing with rich."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, cast

from django.core.management.base import BaseCommand
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def moment(text: str) -> datetime:
    """An argument that is a point in time; UTC if it names no zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no ISO 8601 time, like 2026-11-24T08:00") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def console_of(command: BaseCommand, options: dict[str, Any]) -> Console:
    """A console that writes to the command's stdout, which from here on ends no lines itself: rich does."""
    command.stdout.ending = ""
    no_color = True if options.get("no_color") else None
    return Console(file=cast(IO[str], command.stdout), highlight=False, no_color=no_color)


@contextmanager
def progress_of(console: Console, total: int) -> Iterator[Callable[[int, str], None]]:
    """Gives what shows how far a batch is, by items done and status: a moving bar on a terminal, a line a change elsewhere."""
    if console.is_terminal:
        columns = (TextColumn(" "), BarColumn(32), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(*columns, TimeElapsedColumn(), console=console, redirect_stdout=False) as progress:
            task = progress.add_task("queued", total=total)
            yield lambda done, status: progress.update(task, completed=done, description=status)
    else:
        shown: set[tuple[int, str]] = set()

        def show_line(done: int, status: str) -> None:
            if (done, status) not in shown:
                shown.add((done, status))
                console.print(f"  {done} of {total} done, {status}", soft_wrap=True)

        yield show_line
