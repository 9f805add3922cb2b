"""Real processes against the test database and the test broker: web, workers, beat."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from django.conf import settings
from django.db import connection

from tests.threads import wait_until

ROOT = Path(__file__).resolve().parents[2]
# Celery takes a few seconds to start on a busy machine.
START_DEADLINE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One process in a session of its own, its output in a file that a failing test shows."""

    def __init__(self, log: Path, *argv: str, **env: str) -> None:
        parts = urlsplit(settings.DATABASE_URL)
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *argv],
                cwd=ROOT,
                env={
                    **os.environ,
                    "DJANGO_SETTINGS_MODULE": "runflow.settings",
                    "DATABASE_URL": parts._replace(path="/" + str(connection.settings_dict["NAME"])).geturl(),
                    "SECRET_KEY": settings.SECRET_KEY,
                    "ENCRYPTION_KEYS": ",".join(settings.ENCRYPTION_KEYS),
                    # Quick enough to wait for, and still many renewals long.
                    "RUN_LEASE_SECONDS": "3",
                    "SWEEP_INTERVAL_SECONDS": "0.5",
                    "MEDIA_ROOT": str(settings.MEDIA_ROOT),
                    **env,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to the process and all its children, as a power cut would."""
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


class Stack:
    """Starts processes; `stop` ends what still runs. `url` is the web server's once it was started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[Process] = []
        self.url = ""

    def _start(self, name: str, *argv: str, **env: str) -> Process:
        process = Process(self.directory / f"{name}-{len(self.processes)}.log", *argv, **env)
        self.processes.append(process)
        return process

    def web(self, **env: str) -> Process:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        process = self._start(
            "web",
            *("gunicorn", "runflow.wsgi:application", "-b", f"127.0.0.1:{port}"),
            *("--workers", "1", "--worker-class", "gthread", "--threads", "16", "--no-control-socket"),
            PUBLIC_BASE_URL=self.url,
            **env,
        )
        wait_until(self._answers, what="the web process to answer", deadline=START_DEADLINE)
        return process

    def worker(
        self, queues: str = "dispatch,drive,callbacks,maintenance", pool: str = "prefork:2", **env: str
    ) -> Process:
        """`pool` is its kind and its size."""
        kind, size = pool.split(":")
        process = self._start(
            "worker",
            *("celery", "-A", "runflow", "worker", "-Q", queues, "-P", kind, "-c", size),
            *("--loglevel", "INFO", "--without-gossip", "--without-mingle", "-n", f"w{len(self.processes)}@%h"),
            **env,
        )
        wait_until(lambda: b" ready." in process.log.read_bytes(), what="the worker", deadline=START_DEADLINE)
        return process

    def beat(self) -> Process:
        schedule = str(self.directory / f"schedule-{len(self.processes)}")
        return self._start("beat", "celery", "-A", "runflow", "beat", "-s", schedule, "--pidfile=")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.directory.glob("*.log"))
        )


@contextmanager
def running_stack(directory: Path) -> Iterator[Stack]:
    stack = Stack(directory)
    try:
        yield stack
    except BaseException:
        sys.stderr.write(stack.logs())
        raise
    finally:
        for process in reversed(stack.processes):
            process.stop()
