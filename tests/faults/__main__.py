"""`make drill`: see the package."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import sys
from dataclasses import asdict
from pathlib import Path

from runflow.stack.session import ROOT, Interrupted, Signals, StackError, say, session
from tests.faults.house import House, environment


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Break everything under load, and check."
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of faults; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="the same one breaks the same; default: %(default)s")
    parser.add_argument("--logs", type=Path, help="keep the logs of the processes, and all evidence, in this directory")
    options = parser.parse_args()
    with Signals() as signals:
        try:
            return _drill(options.seed, options.minutes * 60, options.logs, signals)
        except Interrupted as interrupted:
            say(str(interrupted))
            return 128 + interrupted.signum
        except StackError as error:
            say(str(error))
            return 1


def _drill(seed: int, seconds: float, logs: Path | None, signals: Signals) -> int:
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(session(ROOT, scratch=True, check=signals.check, hurry=signals.hurry))
        if logs is not None:
            stack.callback(_keep, held.logs, logs)
        house = House(held)
        stack.callback(house.close)
        database_url, redis_url = house.start_servers()
        house.env = environment(
            house,
            database_url=database_url,
            redis_url=redis_url,
            keys={
                "SECRET_KEY": secrets.token_urlsafe(64),
                "ENCRYPTION_KEYS": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            },
        )
        os.environ.update(house.env)
        import django

        django.setup()
        # Only now: settings are read when they are imported, and these need the servers.
        from tests.faults.drill import run_drill
        from tests.faults.report import lines_of

        outcome = run_drill(
            house=house, database_url=database_url, redis_url=redis_url, seed=seed, seconds=seconds, say=say
        )
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            (logs / "evidence.json").write_text(json.dumps(asdict(outcome.evidence), default=str, indent=1))
        sys.stdout.write("\n".join(lines_of(outcome)) + "\n")
        sys.stdout.flush()
        return 0 if outcome.is_good else 1


def _keep(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for log in source.glob("*.log*"):
        (target / log.name).write_bytes(log.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
