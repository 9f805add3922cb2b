"""Callbacks through a real worker to receivers on loopback."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from django.conf import settings

from batches import lifecycle
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from callbacks.models import CallbackAttempt, CallbackDelivery
from tests.bench.report import row
from tests.e2e.processes import running_stack
from tests.factories import make_batch, make_model
from tests.receivers import receiver
from tests.threads import wait_until

A_SET = 100


def bench_callbacks(number: int) -> bool:
    """Deliveries through a real worker to loopback: a burst, one at a time on an idle system, and a dead host among ten."""
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
    model = make_model(provider=None)
    hung = [hanging[0]] * hanging[1] if hanging else []
    wanted = [urls[n % len(urls)] for n in range(number)]
    for url in [*hung, *wanted]:
        make_batch(model=model, callback_url=url)
    provider_id = Run.objects.filter(model=model)[0].provider_id
    runs = lifecycle.claim_runs(provider_id=provider_id, limit=number + len(hung))
    start = time.perf_counter()
    for first in range(0, len(runs), A_SET):
        lifecycle.settle(
            settlements=[
                Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')
                for run in runs[first : first + A_SET]
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
