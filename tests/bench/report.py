"""Measuring and printing, the same for all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable


def milliseconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def row(name: str, times: list[float], note: str = "") -> None:
    times = sorted(times)
    p50, p95 = statistics.median(times), times[int(len(times) * 0.95)]
    sys.stdout.write(f"  {name:<58} p50 {p50:7.2f} ms   p95 {p95:7.2f} ms   {note}\n")


def line(name: str, note: str) -> None:
    sys.stdout.write(f"  {name:<58} {note}\n")
