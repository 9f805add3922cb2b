"""The local function of the drill: takes its time, and writes down that it was called. Loaded by workers, by name."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from providers.base import Artifact
from providers.local.functions import Context, Refused, local_function

# Where executions are written down, one JSON object a line.
RECORD = "DRILL_EXECUTIONS"
# An input that begins so is refused, always: the one way in which a local run of the drill may fail.
REFUSED = "no "
# Seconds from which on a run is slow: a worker that stood still in one meets the next attempt at work.
SLOW = 1.0
_STEP = 0.02


@local_function("drill")
def drill(context: Context, *, text: str, seconds: float) -> tuple[Artifact, ...]:
    """Give `text` back after `seconds`."""
    is_slow = seconds >= SLOW
    _write_down("begun", context, is_slow)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        context.stop_if_asked()
        time.sleep(_STEP)
    if text.startswith(REFUSED):
        _write_down("refused", context, is_slow)
        raise Refused("The drill refuses this input.")
    _write_down("done", context, is_slow)
    return (Artifact(text.encode(), "text/plain", "text", "txt"),)


def _write_down(event: str, context: Context, is_slow: bool) -> None:
    told = {"run_id": context.run_id, "attempt": context.attempt, "pid": os.getpid(), "is_slow": is_slow}
    append(os.environ[RECORD], event=event, **told)


def append(path: str, **line: Any) -> None:
    """Add a line, in one write: also with many writers, and with one that is killed, lines stay whole."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, json.dumps({**line, "at": time.time()}).encode() + b"\n")
    finally:
        os.close(handle)
