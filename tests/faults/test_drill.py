"""A short round of the drill. The long one is `make drill`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults.plan import KINDS, make_plan

ROOT = Path(__file__).resolve().parents[2]
# A seed whose round breaks all kinds of things, and hits each process and server.
SEED, MINUTES = 265, 0.55


def test_nothing_is_lost_and_nothing_is_done_double_while_everything_breaks() -> None:
    argv = [sys.executable, "-m", "tests.faults", "--minutes", str(MINUTES), "--seed", str(SEED)]
    drill = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert drill.returncode == 0, drill.stderr + drill.stdout


def test_the_short_round_breaks_all_kinds_of_things_and_hits_every_target() -> None:
    plan = make_plan(seed=SEED, seconds=MINUTES * 60)
    assert {fault.kind for fault in plan} == set(KINDS)
    assert {fault.target for fault in plan} == {target for targets, _ in KINDS.values() for target in targets}
