"""Runs through a worker to fake ComfyUI servers, each a process of its own."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx

from batches.models import BATCH_TERMINAL, Batch, Run
from models_registry.models import Provider
from tests.bench.report import line
from tests.e2e.processes import Process, running_stack
from tests.e2e.servers import GRAPH, fake_server, make_comfy_model
from tests.factories import make_batch
from tests.threads import wait_until

JOBS = 100
SECONDS = 0.02  # of a small prompt
# One runs, and the next ones are there before it ends.
PLACES = 4
MOST_OVERHEAD, LEAST_SPEEDUP, MOST_MEMORY = 1.15, 3.5, 300.0


def items(number: int) -> list[dict[str, int]]:
    # Colours differ, or the server would answer from its cache.
    return [{"color": n} for n in range(number)]


def through_the_batch_api(urls: list[str]) -> float:
    """Seconds from a batch of 100 to its end."""
    batch, _ = make_batch(model=make_comfy_model(urls, places=PLACES), items=items(JOBS))
    wait_until(lambda: Batch.objects.get(pk=batch.pk).status_code in BATCH_TERMINAL, what="the batch", deadline=120)
    batch.refresh_from_db()
    assert batch.items_succeeded == JOBS, batch.status_code
    assert batch.completed_at is not None
    return (batch.completed_at - batch.created_at).total_seconds()


def by_hand(url: str) -> float:
    """Seconds that the server needs for the same hundred, handed over all at once by somebody who wants no outputs."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        start = time.perf_counter()
        for item in items(JOBS):
            graph = {**GRAPH, "1": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "color": item["color"] + 1000}}}  # type: ignore[dict-item]
            client.post("/prompt", json={"prompt": graph, "prompt_id": str(uuid4())}).raise_for_status()
        while client.get("/prompt").json()["exec_info"]["queue_remaining"]:
            time.sleep(0.002)
        return time.perf_counter() - start


def memory_and_cpu(process: Process) -> tuple[float, float]:
    """MiB at most so far, and seconds of CPU."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    (peak,) = (row.split()[1] for row in status.splitlines() if row.startswith("VmHWM"))
    fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return int(peak) / 1024, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def many_in_flight(number: int, worker: Process) -> bool:
    """So many jobs at one server that does not begin with any; then it does all of them, in no time."""
    with fake_server(0.0) as (url, server), httpx.Client(base_url=url, trust_env=False) as client:
        server.send_signal(signal.SIGUSR1)
        model = make_comfy_model([url], places=number)
        started = time.perf_counter()
        for _ in range(number // JOBS):
            make_batch(model=model, items=items(JOBS))
        at_the_server = Run.objects.filter(model=model, status_code="running")
        wait_until(lambda: at_the_server.count() == number, what="all to be at the server", deadline=600)
        handed_over = time.perf_counter() - started
        _, before = memory_and_cpu(worker)
        time.sleep(10)
        _, after = memory_and_cpu(worker)
        server.send_signal(signal.SIGUSR2)
        while client.get("/prompt").json()["exec_info"]["queue_remaining"]:
            time.sleep(0.05)
        done = time.perf_counter()
        wait_until(
            lambda: not Batch.objects.filter(model=model).exclude(status_code="succeeded").exists(),
            what="all batches to succeed",
            deadline=600,
        )
        took = time.perf_counter() - done
    peak, _ = memory_and_cpu(worker)
    line(
        f"{number} jobs in flight at one server",
        f"{peak:.0f} MiB at most (target < {MOST_MEMORY:.0f}), {(after - before) * 10:.1f} % of a CPU while they wait; "
        f"handed over in {handed_over:.0f} s, all terminal {took:.1f} s after the server was done",
    )
    return peak < MOST_MEMORY


def bench_servers(in_flight: int) -> bool:
    with tempfile.TemporaryDirectory() as logs, running_stack(Path(logs)) as stack, ExitStack() as fakes:
        stack.worker(queues="dispatch,maintenance")
        worker = stack.worker(queues="drive", pool="threads:16")
        stack.beat()
        urls = [fakes.enter_context(fake_server(SECONDS))[0] for _ in range(4)]
        own = by_hand(urls[0])
        one = min(through_the_batch_api(urls[:1]) for _ in range(3))
        four = min(through_the_batch_api(urls) for _ in range(3))
        line(f"{JOBS} jobs of {SECONDS * 1000:.0f} ms, the server by itself", f"{own:.2f} s")
        line("the same as a batch", f"{one:.2f} s, {one / own:.2f} x (target <= {MOST_OVERHEAD})")
        line("the same over four servers", f"{four:.2f} s, {one / four:.2f} x faster (target >= {LEAST_SPEEDUP})")
        fits = many_in_flight(in_flight, worker)
    Provider.objects.all().update(status_code="paused")
    return one / own <= MOST_OVERHEAD and one / four >= LEAST_SPEEDUP and fits
