"""`make bench`: the numbers of this project, as ratios within one run, so that they mean the same on any machine.

    POST of 100 items, whole HTTP request, p50   <= 2.0 x the raw-SQL insert of the same rows
    end of a batch to its callback, p95, idle    < 1 s
    callbacks to nine hosts beside a dead one    <= 1.25 x the time without it

The floor is what the same rows cost without any of our code: one transaction, one INSERT for each table (RawInsert).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.db import connection  # noqa: E402
from django.test.utils import setup_databases, teardown_databases  # noqa: E402
from django.utils import timezone  # noqa: E402

from tests.receivers import receiver  # noqa: E402

ITEMS = 100
TARGET = 2.0


def milliseconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def row(name: str, times: list[float], note: str = "") -> None:
    times = sorted(times)
    p50, p95 = statistics.median(times), times[int(len(times) * 0.95)]
    sys.stdout.write(f"  {name:<58} p50 {p50:7.2f} ms   p95 {p95:7.2f} ms   {note}\n")


class RawInsert:
    """The floor: the rows of the last POST once more, by the fastest statements known, without any code of ours around.

    Prepared before the clock starts: columns as arrays, `unnest`, one statement a table, one transaction, plain psycopg.
    """

    TABLES = (("batches_batch", "id"), ("batches_run", "batch_id"), ("batches_batchitem", "batch_id"))

    def __init__(self) -> None:
        from batches.models import Batch
        from runflow.lib.ids import uuid7

        batch_id = Batch.objects.order_by("-id").values_list("pk", flat=True)[0]
        fresh: dict[UUID, UUID] = {}
        self.statements: list[tuple[str, list[list[Any]]]] = []
        with connection.cursor() as cursor:
            for table, key in self.TABLES:
                cursor.execute(
                    "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
                    " WHERE a.attrelid = %s::regclass AND a.attnum > 0 ORDER BY a.attnum",
                    [table],
                )
                columns = cursor.fetchall()
                cursor.execute(f"SELECT * FROM {table} WHERE {key} = %s ORDER BY id", [batch_id])  # noqa: S608 named above
                values = [list(column) for column in zip(*cursor.fetchall(), strict=True)]
                for (name, _), column in zip(columns, values, strict=True):
                    if name in ("id", "batch_id", "run_id"):
                        column[:] = [fresh.setdefault(value, uuid7()) for value in column]
                arrays = ", ".join(
                    f"%s::text[]::{kind}[]" if kind == "jsonb" else f"%s::{kind}[]" for _, kind in columns
                )
                names = ", ".join(name for name, _ in columns)
                self.statements.append((f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})", values))  # noqa: S608

    def __call__(self) -> None:
        raw = connection.connection
        with raw.transaction(), raw.cursor() as cursor:
            for statement, values in self.statements:
                cursor.execute(statement, values)


def bench_create(rounds: int) -> bool:
    import httpx

    from tests.e2e.processes import running_stack
    from tests.factories import make_key, make_model

    _, key = make_key()
    model = make_model(
        inputs=(
            {"name": "prompt", "variable_type_code": "string", "is_required": True},
            {"name": "image_url", "variable_type_code": "image", "is_required": True},
            {
                "name": "resolution",
                "variable_type_code": "string",
                "validator_code": "one_of",
                "validator_attrs": {"values": ["1K", "2K", "4K"]},
                "default_behavior_code": "use_default",
                "default_value": "1K",
            },
            {
                "name": "seed",
                "variable_type_code": "integer",
                "validator_code": "range",
                "validator_attrs": {"min": 0, "max": 1_000_000},
            },
        )
    )
    items = [
        {
            "prompt": f"a red mug, number {n}",
            "image_url": f"https://shop.example/{n}.jpg",
            "seed": n,
            "client_ref": f"{n}",
        }
        for n in range(ITEMS)
    ]
    body = json.dumps({"input": items, "metadata": {"order": 1}}).encode()
    posted, keyed, raw = [], [], []
    with tempfile.TemporaryDirectory() as logs, running_stack(Path(logs)) as stack:
        stack.web()
        client = httpx.Client(
            base_url=stack.url,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            trust_env=False,
            timeout=30,
        )

        def post(headers: dict[str, str]) -> None:
            response = client.post(f"/v1/models/{model}/batches", content=body, headers=headers)
            if response.status_code != 201:
                raise SystemExit(f"POST answered {response.status_code}: {response.text[:500]}")

        for number in range(10):
            post({"Idempotency-Key": f"warm-{number}"})
        for number in range(rounds):  # interleaved, so that all three meet the same machine
            posted.append(milliseconds(lambda: post({})))
            keyed.append(milliseconds(lambda number=number: post({"Idempotency-Key": f"k{number}"})))  # type: ignore[misc]
            raw.append(milliseconds(RawInsert()))
        client.close()
    floor = statistics.median(raw)
    ratio, ratio_keyed = statistics.median(posted) / floor, statistics.median(keyed) / floor
    row(f"raw SQL: one batch, {ITEMS} runs, {ITEMS} items", raw, "the floor")
    row(f"POST of {ITEMS} items over HTTP", posted, f"{ratio:.2f} x the floor (target <= {TARGET:.1f})")
    row("the same with an Idempotency-Key", keyed, f"{ratio_keyed:.2f} x the floor")
    return ratio <= TARGET


def bench_callbacks(number: int) -> bool:
    """Deliveries through a real worker to loopback: a burst, one at a time on an idle system, and a dead host among ten."""
    from ipaddress import ip_network

    from django.conf import settings

    from tests.e2e.processes import running_stack

    settings.OUTBOUND_ALLOW = (ip_network("127.0.0.0/8"),)
    with tempfile.TemporaryDirectory() as logs, running_stack(Path(logs)) as stack, contextlib.ExitStack() as open_ones:
        released = threading.Event()

        def hang(handler: Any) -> None:
            released.wait(60)

        hosts = [open_ones.enter_context(receiver(host=f"127.0.0.{n}")) for n in range(1, 11)]
        dead = open_ones.enter_context(receiver(*[hang] * number, host="127.0.0.11"))
        open_ones.callback(released.set)
        stack.worker(queues="callbacks", OUTBOUND_ALLOW="127.0.0.0/8")
        one_host = end_batches_that_call(number, [hosts[0].url])
        ten_hosts = end_batches_that_call(number, [host.url for host in hosts])
        idle = [end_batches_that_call(1, [hosts[0].url]).delays[0] for _ in range(100)]
        nine = [host.url for host in hosts[:9]]
        alive = end_batches_that_call(number * 9 // 10, nine)
        # The same nine, with a tenth of all to a host that takes the connection and never answers.
        beside = end_batches_that_call(number * 9 // 10, nine, hanging=(dead.url, number // 10))
    ratio = beside.seconds / alive.seconds
    row("end of a batch to its first attempt, idle system", idle, "(target: p95 < 1000 ms)")
    row(
        f"the same, {number} batches ended at once, one host",
        one_host.delays,
        f"{one_host.per_second:.0f} deliveries/s",
    )
    row(f"the same, {number} batches, ten hosts", ten_hosts.delays, f"{ten_hosts.per_second:.0f} deliveries/s")
    row(f"the same, {number * 9 // 10} batches, nine hosts", alive.delays, f"{alive.per_second:.0f} deliveries/s")
    row(
        "the same nine, a tenth host is dead",
        beside.delays,
        f"{beside.per_second:.0f} deliveries/s, {ratio:.2f} x the time (target <= 1.25)",
    )
    return sorted(idle)[94] < 1000 and ratio <= 1.25


@dataclass(frozen=True)
class Burst:
    seconds: float
    delays: list[float]  # milliseconds from a batch's end to its first attempt

    @property
    def per_second(self) -> float:
        return len(self.delays) / self.seconds


def end_batches_that_call(number: int, urls: Sequence[str], hanging: tuple[str, int] | None = None) -> Burst:
    """End batches of one item, a hundred in a transaction, and wait until their callbacks are delivered."""
    from batches import lifecycle
    from batches.models import Batch, Run, RunStatus
    from batches.retry import Settlement
    from callbacks.models import CallbackAttempt, CallbackDelivery
    from tests.factories import make_batch, make_model
    from tests.threads import wait_until

    model = make_model(provider=None)
    hung = [hanging[0]] * hanging[1] if hanging else []
    wanted = [urls[n % len(urls)] for n in range(number)]
    for url in [*hung, *wanted]:
        make_batch(model=model, callback_url=url)
    provider_id = Run.objects.filter(model=model)[0].provider_id
    runs = lifecycle.claim_runs(provider_id=provider_id, limit=number + len(hung))
    start = time.perf_counter()
    for first in range(0, len(runs), ITEMS):
        lifecycle.settle(
            settlements=[
                Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')
                for run in runs[first : first + ITEMS]
            ]
        )
    ours = CallbackDelivery.objects.filter(subject_id__in=Batch.objects.filter(model=model, callback_url__in=urls))
    wait_until(lambda: ours.filter(status_code="delivered").count() == number, what="the callbacks", deadline=120)
    seconds = time.perf_counter() - start
    ended = dict(Batch.objects.filter(model=model).values_list("pk", "completed_at"))
    attempts = CallbackAttempt.objects.filter(delivery__in=ours, attempt_number=1)
    delays = [
        (at - ended[batch_id]).total_seconds() * 1000  # type: ignore[operator]
        for batch_id, at in attempts.values_list("delivery__subject_id", "created_at")
    ]
    assert len(delays) == number
    return Burst(seconds, delays)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--callbacks", type=int, default=1000, help="callbacks in a burst, default: %(default)s")
    options = parser.parse_args()
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            server = cursor.fetchone()[0]
            cursor.execute("SHOW fsync")
            fsync = cursor.fetchone()[0]
        sys.stdout.write(
            f"{timezone.now():%Y-%m-%d} Python {platform.python_version()}, PostgreSQL {server} (fsync {fsync}),"
            f" {os.cpu_count()} CPUs, {options.rounds} rounds\n"
        )
        is_met = all([bench_create(options.rounds), bench_callbacks(options.callbacks)])
    finally:
        connection.close()
        teardown_databases(databases, verbosity=0)
    sys.stdout.write("The targets are met.\n" if is_met else "A target is MISSED.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
