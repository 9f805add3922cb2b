"""The command line: `run`, `up` and `demo`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from runflow.stack.application import app_env, listen, processes, run_command, start_application
from runflow.stack.keeper import wait_until
from runflow.stack.server import HOST
from runflow.stack.services import services
from runflow.stack.session import ROOT, Interrupted, Session, Signals, StackError, say, session, write_secret

# `up` and `demo` listen on loopback only: whoever can send them a URL is on this machine and can open it anyway.
LOOPBACK = "127.0.0.0/8,::1/128"


def command_run(root: Path, argv: Sequence[str], *, scratch: bool, signals: Signals) -> int:
    """`run`: the services around one command."""
    if shutil.which(argv[0]) is None:  # before anything is started for it
        say(f"{argv[0]}: no such command")
        return 127
    with contextlib.ExitStack() as stack:
        external = os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")
        # With both servers given, the data directory of this checkout is not touched: no need to own it.
        held = stack.enter_context(
            session(root, scratch=scratch or bool(external), check=signals.check, hurry=signals.hurry)
        )
        env = app_env(stack.enter_context(services(root, held=held)), "http://127.0.0.1:8000")
        return run_command(held, argv, env, signals.check)


def command_up(root: Path, *, port: int, demo: bool, keep_running: bool, signals: Signals) -> int:
    """`up` and `demo`: the whole application, until it is told to stop or the demo is over."""
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(session(root, scratch=False, check=signals.check, hurry=signals.hurry))
        listener = stack.enter_context(listen(port))
        port = int(listener.getsockname()[1])
        url = f"http://{HOST}:{port}"
        services_env = stack.enter_context(services(root, held=held))
        # Settings read this file, so that manage.py works beside us in any terminal.
        held.delete_at_end(held.base / "stack.env")
        write_secret(held.base / "stack.env", "".join(f"{k}={v}\n" for k, v in services_env.items()))
        env = app_env(services_env, url, outbound_allow=LOOPBACK)
        supervisor = stack.enter_context(processes(held))
        start_application(supervisor, env, listener)
        if demo:
            argv = [sys.executable, "manage.py", "demo", "--base-url", url]
            code = run_command(held, argv + (["--keep"] if keep_running else []), env, supervisor.check)
            if code or not keep_running or signals.first is not None:
                return code
        _announce(held, url)
        try:
            wait_until(lambda: False, float("inf"), supervisor.check)
        except Interrupted:
            say("stopping")
        return 0  # being stopped is how this is meant to end


def _announce(held: Session, url: str) -> None:
    lines = (
        "",
        "runflow is up.",
        f"  API    {url}/v1/",
        f"  admin  {url}/admin/",
        f"  logs   {held.logs}/ (web, worker, io, beat, postgres, valkey)",
        "  shell  .venv/bin/python manage.py … works in another terminal while this runs",
        "  stop   Ctrl-C",
        "",
    )
    with contextlib.suppress(OSError):
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Runs one command of the stack and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m runflow.stack", description="Run runflow on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a command with PostgreSQL and Valkey around it")
    run.add_argument("--scratch", action="store_true", help="on new, throw-away data; can run beside anything")
    run.add_argument("argv", nargs="+", metavar="CMD", help="the command, after --")
    up = commands.add_parser("up", help="run everything until Ctrl-C")
    up.add_argument("--port", type=int, default=8000, help="port of the web server (default: 8000)")
    demo = commands.add_parser("demo", help="run everything and a batch through it")
    demo.add_argument("--keep", action="store_true", help="go on running until Ctrl-C afterwards")
    options = parser.parse_args(arguments)
    with Signals() as signals:
        try:
            if options.command == "run":
                return command_run(root, options.argv, scratch=options.scratch, signals=signals)
            is_demo = options.command == "demo"
            port = 0 if is_demo else options.port
            return command_up(root, port=port, demo=is_demo, keep_running=is_demo and options.keep, signals=signals)
        except Interrupted as interrupted:
            say(str(interrupted))
            return 128 + interrupted.signum
        except (StackError, OSError) as error:  # OSError: a directory we may not write, a full disk
            say(str(error))
            return 1
