"""The session of one call of the stack: its data directory, the lock on it, and the processes it started."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runflow.stack.keeper import (
    KEEPER_SECONDS,
    STOP_SIGNALS,
    Check,
    Keeper,
    is_alive,
    nothing,
    remove,
    wait_until,
)

ROOT = Path(__file__).resolve().parents[2]
# Each signal and how long it may take before the next; SIGKILL for the whole group comes last, always.
Stops = Sequence[tuple[signal.Signals, float]]
STOP_COMMAND = ((signal.SIGTERM, 20.0),)


class StackError(Exception):
    """Something did not work; the text is for the person at the terminal. The exit code is 1."""


class Interrupted(Exception):
    """We were asked to stop (Ctrl-C, SIGTERM, SIGHUP) before there was anything to show for it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def say(text: str) -> None:
    """Writes one line for people to stderr; a terminal that is gone must not keep us from stopping."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"runflow: {text}\n")
        sys.stderr.flush()


class Signals:
    """Takes note of stop signals instead of dying of them.

    A handler that raised could strike between starting a child and writing it down; a noted signal is looked
    at only where stopping is safe.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.count = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Signals:
        for signum in STOP_SIGNALS:
            if signum == signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
                continue  # nohup means it
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)  # type: ignore[arg-type]

    def _note(self, signum: int, _frame: object) -> None:
        self.first = self.first or signum
        self.count += 1

    def check(self) -> None:
        """Raises Interrupted when a stop signal has come."""
        if self.first is not None:
            raise Interrupted(self.first)

    def hurry(self) -> bool:
        """True when somebody asked twice: stop waiting politely."""
        return self.count > 1


def write_secret(path: Path, text: str, *, owner: pwd.struct_passwd | None = None) -> None:
    """Puts `text` into a file that only its owner can read; whatever was there is replaced in one step."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        if owner is not None:
            os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
    fresh.replace(path)


@dataclass
class Child:
    """A process we started. It leads its own session, so a Ctrl-C in the terminal reaches us only."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None
    stops: Stops
    whole_group: bool

    def send(self, signum: int) -> None:
        """Signals the process, or its whole group where it is a command with children of its own."""
        with contextlib.suppress(ProcessLookupError):
            if self.whole_group:
                os.killpg(self.process.pid, signum)
            else:
                self.process.send_signal(signum)

    def tail(self, offset: int = 0, lines: int = 15) -> str:
        """The last lines of its log, indented; empty when it has none."""
        if self.log is None:
            return ""
        with contextlib.suppress(OSError):
            text = self.log.read_bytes()[offset:].decode(errors="replace")
            return "".join(f"\n    {line}" for line in text.splitlines()[-lines:])
        return ""


@dataclass
class Session:
    """What one call of the stack holds while it runs."""

    root: Path
    base: Path  # data of the servers: var/, or var/scratch-…/
    scratch: bool
    keeper: Keeper
    check: Check = nothing
    hurry: Callable[[], bool] = bool
    discard: list[Path] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        """Where the log files are."""
        return self.base / "log"

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        stops: Stops,
        env: Mapping[str, str] | None = None,
        log: bool = True,
        whole_group: bool = False,
        account: pwd.struct_passwd | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int | None = subprocess.DEVNULL,
        stop_if_orphaned: signal.Signals | None = None,
    ) -> Child:
        """Starts a process in a session of its own, its output in `log/NAME.log` (else: where ours goes).

        Raises OSError when it cannot be executed.
        """
        path = self.logs / f"{name}.log" if log else None
        orphan_signal = int(stop_if_orphaned or stops[0][0])
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(path.open("ab")) if path else None
            process = subprocess.Popen(
                [str(word) for word in argv],
                env=env,
                cwd=cwd or self.root,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                pass_fds=pass_fds,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                # By the child, before it becomes the program: were we to do it afterwards, a kill -9 of us just
                # then would leave a process that nobody knows.
                preexec_fn=lambda: self.keeper.tell("process", os.getpid(), orphan_signal, whole_group),
            )
        return Child(name, process, path, stops, whole_group)

    def stop(self, *children: Child, first: int | None = None) -> None:
        """Stops them all at once and returns when they are gone, with every process of their groups.

        `first` replaces the first signal: a command gets the very signal that we got.
        """
        for child in children:
            if child.process.poll() is None:
                child.send(first or child.stops[0][0])
        for child in children:
            for step, (signum, seconds) in enumerate(child.stops):
                if child.process.poll() is None and step:
                    child.send(signum)
                wait_until(lambda c=child: c.process.poll() is not None or self.hurry(), seconds)  # type: ignore[misc]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
            self.keeper.tell("forget", child.process.pid)

    def delete_at_end(self, path: Path) -> None:
        """Has `path` deleted when the session ends, however it ends."""
        self.discard.append(path)
        self.keeper.tell("path", path)


@contextlib.contextmanager
def session(
    root: Path, *, scratch: bool, check: Check = nothing, hurry: Callable[[], bool] = bool
) -> Iterator[Session]:
    """Opens the data directory of this checkout (or a new scratch one beside it) for us alone.

    Raises StackError when another stack has it.
    """
    root = root.resolve()
    var = root / "var"
    make_dir(var)
    base, lock = _scratch_dir(var) if scratch else (var, _lock_checkout(var, check))
    try:
        keeper = Keeper([lock])
        held = Session(root, base, scratch, keeper, check, hurry)
        if scratch:
            held.delete_at_end(base)
        try:
            make_dir(held.logs)
            yield held
        finally:
            for path in held.discard:
                remove(path)
            keeper.close()
    finally:
        os.close(lock)


def make_dir(path: Path) -> None:
    """Makes a directory others may pass through but not list: the account of the database has to, as root."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True)
        path.chmod(0o711)


def fresh_log(held: Session, name: str) -> None:
    """Moves the log of the run before aside, so that what is shown belongs to this one."""
    path = held.logs / f"{name}.log"
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_suffix(".log.1"))


def _lock_checkout(var: Path, check: Check) -> int:
    path = var / "stack.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def taken() -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text().strip()
            if holder.isdigit() and is_alive(int(holder)):
                raise StackError(
                    f"this checkout already has a stack running (process {holder}). Stop that one first; "
                    "`run --scratch`, `make test` and `make bench` can run beside it."
                ) from None
            return False  # its holder was killed, and its keeper is about to be done
        return True

    try:
        if not wait_until(taken, 3 * KEEPER_SECONDS, check):
            raise StackError(f"{path} is still locked by a stack that was killed")
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _scratch_dir(var: Path) -> tuple[Path, int]:
    """Makes a directory with its lock, and removes those whose owners died together with their keepers."""
    with (var / "scratch.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # nobody sees a directory that has no lock yet
        for old in var.glob("scratch-*"):
            with contextlib.suppress(OSError), (old / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
        base = Path(tempfile.mkdtemp(prefix=f"scratch-{os.getpid()}-", dir=var))
        base.chmod(0o711)
        mine = os.open(base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(mine, fcntl.LOCK_EX)
        return base, mine
