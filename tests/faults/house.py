"""The processes of a drill, by name: started, killed, stopped, told, and started again on the same ports and data."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from runflow.stack.application import WORKERS as WORKER_OPTIONS
from runflow.stack.keeper import nothing, wait_until
from runflow.stack.postgres import start_postgres
from runflow.stack.server import Server, free_port
from runflow.stack.session import Child, Session, StackError
from runflow.stack.valkey import start_valkey
from tests.faults.evidence import read_executions
from tests.faults.functions import RECORD

START_SECONDS = 60.0
# Seconds. Who lost its main process and works on for longer is killed.
ORPHAN_SECONDS = 20.0
# Looked at: what began within so many seconds, in the last so many executions.
_SLOW_SECONDS, _NEWEST = 1.0, 200
STOP = ((signal.SIGTERM, 10.0),)
WORKERS = ("worker1", "worker2")
IO_WORKERS = ("io1", "io2")
MODEL_SERVERS = {"model1": "B", "model2": "A"}  # its generation
APPLICATION = ("web", *WORKERS, *IO_WORKERS, "beat")
# Seconds that one of their prompts takes, and places at each.
PROMPT_SECONDS, PLACES = 0.03, 8


class House:
    """Starts what is asked for; `close` ends all that is left."""

    def __init__(self, held: Session) -> None:
        self.held = held
        self.env: dict[str, str] = {}
        self.children: dict[str, Child] = {}
        self.ports = {name: free_port() for name in ("web", *MODEL_SERVERS)}
        # What local functions and model servers have done, and the file store.
        self.executions, self.jobs, self.media = (held.base / name for name in ("executions", "jobs", "media"))
        self._log_starts: dict[str, int] = {}
        self._servers: dict[str, Server] = {}
        self._stopped: set[str] = set()
        self._pipes: dict[str, int] = {}
        self._orphans: dict[int, float] = {}  # process group: since
        self._valkey_password: str | None = None

    # --- Servers ---

    def start_servers(self) -> tuple[str, str]:
        """PostgreSQL and Valkey. Their URLs stay the same for the life of the drill."""
        postgres = self._servers["postgres"] = start_postgres(self.held)
        valkey = self._servers["valkey"] = start_valkey(self.held)
        self._valkey_password = valkey.url.split(":")[2].split("@")[0]
        return postgres.url, valkey.url

    def kill_server(self, name: str) -> None:
        """PostgreSQL by an immediate shutdown, which is a crash that leaves no process behind; Valkey by SIGKILL."""
        self.held.stop(self._servers[name].child, first=signal.SIGQUIT if name == "postgres" else signal.SIGKILL)

    def restart_server(self, name: str) -> None:
        """With the data that a crash leaves: all of PostgreSQL's commits, and nothing of Valkey's."""
        port = self._servers[name].port
        if name == "postgres":
            self._servers[name] = start_postgres(self.held, port)
        else:
            self._servers[name] = start_valkey(self.held, port, self._valkey_password)

    # --- Processes ---

    def start(self, name: str) -> None:
        """Returns at once; `is_ready` tells when it works."""
        with contextlib.ExitStack() as stack:
            stdin = None
            if name in MODEL_SERVERS:
                read, write = os.pipe()
                stack.callback(os.close, read)
                if name in self._pipes:
                    os.close(self._pipes[name])
                self._pipes[name], stdin = write, read
            log = self.held.logs / f"{name}.log"
            self._log_starts[name] = log.stat().st_size if log.exists() else 0
            argv = [sys.executable, "-m", *self._argv(name)]
            if stdin is None:
                child = self.held.start(name, argv, env=self.env, stops=STOP)
            else:
                child = self.held.start(name, argv, env=self.env, stops=STOP, stdin=stdin)
        self.children[name] = child

    def _argv(self, name: str) -> list[str]:
        if name == "web":
            argv = ["gunicorn", "runflow.wsgi:application", "-b", f"127.0.0.1:{self.ports['web']}"]
            argv += ["--workers", "2", "--worker-class", "gthread", "--threads", "4", "--graceful-timeout", "5"]
            return [*argv, "--no-control-socket"]
        if name in MODEL_SERVERS:
            argv = ["tests.faults.model_server", "--port", str(self.ports[name]), "--name", name]
            argv += ["--generation", MODEL_SERVERS[name], "--seconds", str(PROMPT_SECONDS)]
            return [*argv, "--record", str(self.jobs)]
        celery = ["celery", "-A", "runflow"]
        if name == "beat":
            return [*celery, "beat", "-s", str(self.held.base / "schedule"), "--pidfile=", "--loglevel", "INFO"]
        return [
            *celery,
            "worker",
            *WORKER_OPTIONS["io" if name in IO_WORKERS else "worker"],
            "-n",
            f"{name}@%h",
            "--loglevel",
            "INFO",
        ]

    def is_ready(self, name: str) -> bool:
        """Whether a process that was started works by now."""
        if name == "web":
            # Not for long: whoever asks has other things to look at.
            with contextlib.suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{self.ports['web']}/v1/health"
                return httpx.get(url, timeout=0.5, trust_env=False).status_code == 200
            return False
        if name in MODEL_SERVERS:
            return True
        sign = {"beat": b"beat: Starting..."}.get(name, b" ready.")
        log = self.held.logs / f"{name}.log"
        return sign in log.read_bytes()[self._log_starts[name] :]

    def wait_for(self, *names: str) -> None:
        """Raises StackError for one that is not ready in time."""
        for name in names:
            if not wait_until(lambda n=name: self.is_ready(n), START_SECONDS, self.held.check):  # type: ignore[misc]
                raise StackError(f"{name} does not start{self.children[name].tail()}")

    def kill(self, name: str) -> None:
        """SIGKILL to the process and its children, as a machine that loses power would."""
        child = self.children[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self._stopped.discard(name)
        self.held.keeper.tell("forget", child.process.pid)

    def kill_main(self, name: str) -> None:
        """SIGKILL to the process alone: its children have to notice."""
        child = self.children[name]
        child.process.kill()
        child.process.wait()
        self._orphans[child.process.pid] = time.monotonic()

    def kill_child(self, name: str, number: int) -> bool:
        """SIGKILL to one of its children; the process itself replaces it. False: it has none."""
        main = self.children[name].process.pid
        found = sorted(pid for pid in _members(main) if pid != main)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[number % len(found)], signal.SIGKILL)
        return bool(found)

    def stop(self, name: str) -> None:
        """SIGSTOP to the process and its children: nothing of them moves until `go_on`."""
        self._signal(name, signal.SIGSTOP)
        self._stopped.add(name)

    def go_on(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)
        self._stopped.discard(name)

    def slow_work(self, name: str) -> set[tuple[str, int]]:
        """The slow runs, with their attempts, that a worker has just begun with."""
        mine, slow = _members(self.children[name].process.pid), set[tuple[str, int]]()
        for each in read_executions(self.executions, newest=_NEWEST):
            if each.event == "begun" and each.is_slow and each.pid in mine and time.time() - each.at < _SLOW_SECONDS:
                slow.add((each.run_id, each.attempt))
            else:
                slow.discard((each.run_id, each.attempt))
        return slow

    def tell(self, name: str, mood: str) -> None:
        """Give a model server another mood. One that is dead does not hear it."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipes[name], mood.encode() + b"\n")

    def dead(self) -> list[str]:
        """Those that ended without having been killed by `kill`, or were not started again."""
        return [name for name, child in self.children.items() if child.process.poll() is not None]

    def end_orphans(self, *, at_once: bool = False) -> int:
        """Kill what outlived its main process for too long. Returns how many groups that were."""
        killed = 0
        for group, since in list(self._orphans.items()):
            if not _members(group):
                del self._orphans[group]
                self.held.keeper.tell("forget", group)
            elif at_once or time.monotonic() - since > ORPHAN_SECONDS:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
                killed += 1
        return killed

    def close(self) -> None:
        """End everything, also what is stopped, whatever happened before."""
        self.held.check = nothing
        for name in list(self._stopped):
            self.go_on(name)
        self.end_orphans(at_once=True)
        for pipe in self._pipes.values():
            os.close(pipe)
        self.held.stop(*self.children.values())
        self.held.stop(*(server.child for server in self._servers.values()))

    def _signal(self, name: str, signum: signal.Signals) -> None:
        child = self._servers[name].child if name in self._servers else self.children[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signum)


def environment(house: House, *, database_url: str, redis_url: str, keys: Mapping[str, str]) -> dict[str, str]:
    """What the processes read. Leases and pauses are short, so that all of them run out in a drill of a minute."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "runflow.settings",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        **keys,
        "DEBUG": "false",
        "PUBLIC_BASE_URL": f"http://127.0.0.1:{house.ports['web']}",
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
        "OUTBOUND_ALLOW": "127.0.0.0/8",
        "MEDIA_ROOT": str(house.media),
        "LOG_LEVEL": "INFO",
        RECORD: str(house.executions),
        **SETTINGS,
    }


# Seconds, but for the attempts.
SETTINGS = {
    "RUN_LEASE_SECONDS": "3",
    "DRIVER_LEASE_SECONDS": "3",
    "ENDPOINT_DOWN_GRACE_SECONDS": "3",
    "SWEEP_INTERVAL_SECONDS": "1",
    "EXECUTE_SLICE_SECONDS": "2",
    # So many that faults alone never use them up.
    "RUN_MAX_ATTEMPTS": "40",
    "RUN_RETRY_DELAYS_SECONDS": "0.2,0.5,1,2",
    "CALLBACK_TIMEOUT_SECONDS": "1",
    "CALLBACK_LEASE_SECONDS": "3",
    "CALLBACK_RETRY_DELAYS_SECONDS": ",".join(["0.3", "0.5", "1", *["2"] * 40]),
}


def _members(group: int) -> list[int]:
    """The processes of a group, zombies left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = entry.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state not in "ZX":
                found.append(int(entry.parent.name))
    return found
