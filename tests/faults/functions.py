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
_STEP = 0.02


@local_function("drill")
def drill(context: Context, *, text: str, seconds: float) -> tuple[Artifact, ...]:
    """Give `text` back after `seconds`."""
    _write_down("begun", context)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        context.stop_if_asked()
        time.sleep(_STEP)
    if text.startswith(REFUSED):
        raise Refused("The drill refuses this input.")
    _write_down("done", context)
    return (Artifact(text.encode(), "text/plain", "text", "txt"),)


def _write_down(event: str, context: Context) -> None:
    append(os.environ[RECORD], event=event, run_id=context.run_id, attempt=context.attempt)


def append(path: str, **line: Any) -> None:
    """Add a line, in one write: also with many writers, and with one that is killed, lines stay whole."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, json.dumps({**line, "at": time.time()}).encode() + b"\n")
    finally:
        os.close(handle)
