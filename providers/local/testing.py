"""Functions that make the engine's paths happen: done, failed, retried, held. Never in a shop's catalogue.

Offered only where a provider's config names this module (`catalogue/testing.yaml`).
"""

from __future__ import annotations

import time
from pathlib import Path

from providers.base import Artifact
from providers.local.functions import Context, Refused, TryLater, local_function

# Long enough to kill something meanwhile, short enough that a forgotten hold does not block a worker for
# good.
LONGEST_HOLD = 60.0
POLL_INTERVAL = 0.02


@local_function("noop")
def noop(_context: Context, *, text: str | None = None) -> tuple[Artifact, ...]:
    """Do nothing; with a `text`, give it back as the one output. The cheapest run there can be."""
    if text is None:
        return ()
    return (Artifact(text.encode(), "text/plain", "text", "txt"),)


@local_function("fail")
def fail(context: Context, *, mode: str = "permanent", until_attempt: int | None = None) -> tuple[Artifact, ...]:
    """Fail as `mode` says; from attempt number `until_attempt` on, succeed instead.

    permanent   Refused: fails for good
    retryable   TryLater: another attempt is worth it
    crash       an exception nobody expected, with words that no customer may see
    """
    if until_attempt is not None and context.attempt >= until_attempt:
        return ()
    if mode == "permanent":
        raise Refused("This model always fails.")
    if mode == "retryable":
        raise TryLater(f"Attempt {context.attempt} failed; another one may succeed.")
    if mode == "crash":
        raise RuntimeError("secret detail of the inside")
    raise Refused('The mode must be "permanent", "retryable" or "crash".')


@local_function("hold")
def hold(context: Context, *, path: str, seconds: float = LONGEST_HOLD) -> tuple[Artifact, ...]:
    """Wait until `path` exists, at most `seconds` (60 at most), then succeed. Creates nothing. Stops when asked.

    A fault test takes its time with a worker that is surely inside a job, and lets it go by creating the
    file.
    """
    released = Path(path)
    deadline = time.monotonic() + min(seconds, LONGEST_HOLD)
    while not released.exists() and time.monotonic() < deadline:
        context.stop_if_asked()
        time.sleep(POLL_INTERVAL)
    return ()
