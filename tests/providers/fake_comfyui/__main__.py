"""The fake as a process: prints its URL, runs until it is killed. SIGUSR1 holds it, SIGUSR2 lets it go on."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from tests.providers.fake_comfyui import FakeComfyUI


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.providers.fake_comfyui", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one (default)")
    parser.add_argument("--generation", choices=["A", "B"], default="B")
    parser.add_argument("--seconds", type=float, default=0.02, help="what a prompt takes (default: %(default)s)")
    options = parser.parse_args()
    fake = FakeComfyUI(generation=options.generation, seconds_per_prompt=options.seconds, port=options.port)
    signal.signal(signal.SIGUSR1, lambda *_: fake.hold())
    signal.signal(signal.SIGUSR2, lambda *_: fake.release())
    with fake:
        sys.stdout.write(f"{fake.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
