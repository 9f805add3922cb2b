"""Take callbacks on this machine and show them: the other side of `callback_url`, to try it out."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from callbacks.receiver import Received, Receiver
from runflow.lib import jsonlib

SIGNATURE = {True: "verified", False: "NOT genuine", None: "not checked (no secret)"}


def statuses(text: str) -> list[int]:
    """`500,500,204`"""
    try:
        found = [int(each) for each in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(200 <= status <= 599 for status in found):
        raise argparse.ArgumentTypeError("HTTP statuses from 200 to 599, separated by commas")
    return found


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("a number from 1")
    return int(text)


def plain(value: object) -> str:
    """A value for a terminal: one short line without control characters, since anybody may have sent it."""
    return "-" if value is None else "".join(each if each.isprintable() else "?" for each in str(value)[:100])


def describe(received: Received, *, is_repeated: bool) -> Iterator[str]:
    """The lines that tell of one callback."""
    at = time.strftime("%H:%M:%SZ", time.gmtime(received.received_at))
    try:
        body = jsonlib.loads(received.body)
    except ValueError:
        body = None
    if not isinstance(body, dict) or "event" not in body:
        yield f"{at}  not a callback: {len(received.body)} byte(s)"
    else:
        subject = "run" if "run_id" in body else "batch"
        yield f"{at}  {plain(body['event'])}  {subject} {plain(body.get(f'{subject}_id'))}"
        output = body.get("output")
        items = ""
        if subject == "batch" and isinstance(output, dict):
            counts = [f"{plain(output.get(name))} {name}" for name in ("succeeded", "failed", "cancelled")]
            items = f", {plain(output.get('total'))} items: {', '.join(counts)}"
        yield f"           status {plain(body.get('status'))}{items}"
    yield f"           signature {SIGNATURE[received.is_genuine]}, answered {received.answered}"
    yield f"           delivery {plain(received.headers.get('webhook-id'))}{' (seen before)' if is_repeated else ''}"


class Command(BaseCommand):
    help = (
        "Take callbacks on this machine and print what came, until Ctrl-C. Answers 204, or 401 if there is a secret and the "
        "signature is not genuine. Nothing is stored. The server must be allowed to call this address: `make up` allows "
        "127.0.0.0/8, any other server needs OUTBOUND_ALLOW=127.0.0.0/8 in its environment (web and workers)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=9000, help="0 takes a free one (default: %(default)s)")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
        parser.add_argument(
            "--secret",
            default=os.environ.get("CALLBACK_SECRET"),
            help="whsec_…, to check signatures with; better given as CALLBACK_SECRET, which `ps` does not show",
        )
        parser.add_argument(
            "--answer", type=statuses, default=[], help="answer these statuses first, like 500,500,204, to see retries"
        )
        parser.add_argument("--count", type=positive, help="stop after this many (default: never)")

    def handle(
        self, *, port: int, host: str, secret: str | None, answer: list[int], count: int | None, **options: Any
    ) -> None:
        # Printed by this thread alone, so that two callbacks at once do not mix their lines.
        arrived: SimpleQueue[Received] = SimpleQueue()
        try:
            receiver = Receiver(secret=secret or None, port=port, host=host, answers=answer, on_receive=arrived.put)
        except ValueError as error:
            raise CommandError(str(error)) from error
        except (OSError, OverflowError) as error:
            raise CommandError(f"Cannot listen at {host}:{port}: {error}") from error
        with receiver:
            self.introduce(receiver.url, is_checking=bool(secret))
            taken = 0
            seen: set[str] = set()
            try:
                while taken != count:
                    received = arrived.get()
                    taken += 1
                    delivery = received.headers.get("webhook-id", "")
                    for line in describe(received, is_repeated=delivery in seen):
                        self.stdout.write(line)
                    self.stdout.flush()
                    seen |= {delivery} - {""}
            except KeyboardInterrupt:
                self.stdout.write("")
        self.stdout.write(f"Stopped after {taken} callback(s).")

    def introduce(self, url: str, *, is_checking: bool) -> None:
        self.stdout.write(f'Waiting for callbacks. Put this into a batch: "callback_url": "{url}"')
        self.stdout.write(
            "The server must be allowed to call it: `make up` is; others need OUTBOUND_ALLOW=127.0.0.0/8."
        )
        if is_checking:
            self.stdout.write("Signatures are checked; a callback that is not genuine is answered 401.")
        else:
            self.stdout.write("There is no secret (--secret or CALLBACK_SECRET), so signatures are not checked.")
        self.stdout.write("Ctrl-C ends this.\n")
        self.stdout.flush()
