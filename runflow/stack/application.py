"""The application's processes: web, worker and beat under supervision, and commands beside them."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runflow.stack.keeper import MARK, Check, stop_marked, wait_until
from runflow.stack.server import HOST, START_SECONDS
from runflow.stack.session import STOP_COMMAND, Child, Interrupted, Session, StackError, Stops, fresh_log, say

STOP_WEB = ((signal.SIGTERM, 15.0),)
STOP_CELERY = ((signal.SIGTERM, 15.0), (signal.SIGQUIT, 5.0))  # finish the running task, then drop it
# Two, so that receivers of callbacks that are slow never keep a run waiting. One computes, in processes; the other waits for
# other people's servers, in threads. Sweeps are for that one: it always has a thread for them, where processes may all compute.
WORKERS = {
    "worker": ("-Q", "dispatch", "-c", "2", "--disable-prefetch"),
    "io": ("-Q", "drive,callbacks,maintenance", "-P", "threads", "-c", "16"),
}


class Processes:
    """Supervises long-running children of a session."""

    def __init__(self, held: Session) -> None:
        self.held = held
        self.children: list[Child] = []

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        stops: Stops,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Starts one, its output in `log/NAME.log`."""
        fresh_log(self.held, name)
        child = self.held.start(name, argv, env=env, stops=stops, pass_fds=pass_fds)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Raises StackError, naming it and its log, when one has ended; Interrupted when we are to stop."""
        self.held.check()
        for child in self.children:
            code = child.process.poll()
            if code is not None:
                raise StackError(f"{child.name} ended ({_ending(code)}); its log is {child.log}{child.tail()}")

    def stop(self) -> None:
        """Stops all of them at once and waits until they are gone."""
        self.held.stop(*self.children)
        self.children.clear()


@contextlib.contextmanager
def processes(held: Session) -> Iterator[Processes]:
    """Yields a supervisor whose children are stopped at the end."""
    supervisor = Processes(held)
    try:
        yield supervisor
    finally:
        supervisor.stop()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _exit_code(returncode: int) -> int:
    """As a shell would say it."""
    return 128 - returncode if returncode < 0 else returncode


def app_env(services_env: Mapping[str, str], base_url: str, outbound_allow: str = "") -> dict[str, str]:
    """Our environment with what the application needs added; what is set there already wins."""
    defaults = {"ALLOWED_HOSTS": "127.0.0.1,localhost", "PUBLIC_BASE_URL": base_url, "OUTBOUND_ALLOW": outbound_allow}
    env = {**os.environ, **{k: v for k, v in defaults.items() if v and not os.environ.get(k)}, **services_env}
    # Importing this package may have set it, and as a variable it would beat the settings pytest is to use.
    # Every entry point of ours sets the same value anyway.
    if env.get("DJANGO_SETTINGS_MODULE") == "runflow.settings":
        del env["DJANGO_SETTINGS_MODULE"]
    return env


def listen(port: int) -> socket.socket:
    """A listening socket for the web server to inherit: bound once and for all, so there is no port to lose.

    Raises StackError when the port is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise StackError(
            f"port {port} of {HOST} cannot be used ({error.strerror}): choose another, --port N"
        ) from error
    return listener


def is_healthy(port: int) -> bool:
    """True when the web process answers its health check."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/v1/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def start_application(supervisor: Processes, env: Mapping[str, str], listener: socket.socket) -> None:
    """Migrates, imports the shop's models, starts web, worker and beat; returns when the web answers.

    Takes `listener` over. Raises StackError when one of the steps fails.
    """
    held, python = supervisor.held, sys.executable
    port = int(listener.getsockname()[1])
    with listener:
        for name, *argv in (
            ("migrate", "migrate"),
            ("import_models", "import_models", "catalogue/shop.yaml", "--apply"),
        ):
            fresh_log(held, name)
            step = held.start(name, [python, "manage.py", *argv], env=env, stops=STOP_COMMAND, whole_group=True)
            try:
                wait_until(lambda s=step: s.process.poll() is not None, float("inf"), held.check)  # type: ignore[misc]
            finally:
                held.stop(step)
            if step.process.returncode:
                ending = _ending(step.process.returncode)
                raise StackError(f"manage.py {name} failed ({ending}); its log is {step.log}{step.tail()}")
        web = [python, "-m", "gunicorn", "runflow.wsgi:application", "-b", f"fd://{listener.fileno()}"]
        web += ["--workers", "2", "--worker-class", "gthread", "--threads", "16", "--graceful-timeout", "10"]
        web += ["--no-control-socket"]  # it lies in the home directory, shared by every stack of this user
        supervisor.start("web", web, env, STOP_WEB, [listener.fileno()])
    celery = [python, "-m", "celery", "-A", "runflow"]
    for name, options in WORKERS.items():
        argv = [*celery, "worker", *options, "-n", f"{name}@%h", "--loglevel", "INFO"]
        supervisor.start(name, argv, env, STOP_CELERY)
    schedule = ["-s", str(held.base / "celerybeat-schedule"), "--pidfile="]
    supervisor.start("beat", [*celery, "beat", *schedule, "--loglevel", "INFO"], env, STOP_CELERY)
    if not wait_until(lambda: is_healthy(port), START_SECONDS, supervisor.check):
        raise StackError(f"web does not answer GET /v1/health with 200; its log is {supervisor.children[0].log}")


def run_command(held: Session, argv: Sequence[str], env: Mapping[str, str], check: Check) -> int:
    """Runs a command in the terminal we have; returns its exit code as a shell would say it.

    When we are asked to stop, it gets the same signal, and its own answer to that is the result.
    Raises StackError when it cannot be executed, and what `check` raises otherwise.
    """
    mark = secrets.token_hex(8)
    held.keeper.tell("mark", mark)
    env = {**env, MARK: mark}
    child = held.start(
        "command", argv, env=env, stops=STOP_COMMAND, log=False, whole_group=True, cwd=Path.cwd(), stdin=None
    )
    asked: int | None = None
    try:
        wait_until(lambda: child.process.poll() is not None, float("inf"), check)
    except Interrupted as interrupted:
        asked = interrupted.signum
    finally:
        held.stop(child, first=asked)
        if strays := stop_marked(mark):
            say(f"stopped {strays} processes that the command had left behind")
    return _exit_code(child.process.returncode)
