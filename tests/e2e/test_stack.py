"""`python -m runflow.stack` for real: what it starts, passes on, and leaves behind: nothing."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from runflow.stack.application import STOP_WEB, processes
from runflow.stack.postgres import clear_postmaster_pid
from runflow.stack.services import services
from runflow.stack.session import ROOT, StackError, session

SECONDS = 15.0
SUPPLIED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ENCRYPTION_KEYS")
# The stack on a root of our own, as `python -m runflow.stack` does it on the checkout.
PROGRAM = (
    "import sys; from pathlib import Path; from runflow.stack.cli import main;"
    "sys.exit(main(sys.argv[2:], root=Path(sys.argv[1])))"
)
# Tells which servers it got, then waits to be told that it may end.
HOLD = 'echo "$DATABASE_URL $REDIS_URL"; read line'


class Stack:
    """One call of the stack, under the eye of a test."""

    def __init__(self, root: Path, *argv: str, **env: str) -> None:
        self.root = root
        inherited = {k: v for k, v in os.environ.items() if k not in (*SUPPLIED, "OUTBOUND_ALLOW")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(root), *argv],
            cwd=ROOT,
            env={**inherited, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def urls(self) -> tuple[str, str]:
        """DATABASE_URL and REDIS_URL as the command of HOLD got them."""
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert len(words) == 2, self.end()  # it did not start: say why
        return words[0], words[1]

    def end(self, text: str = "\n") -> tuple[int, str, str]:
        """Lets the command go on; returns exit code, stdout and stderr of the stack."""
        out, err = self.process.communicate(text, timeout=60)
        return self.process.returncode, out, err


def processes_in(root: Path) -> dict[int, str]:
    """Command lines of the processes that run in, or name, a directory below `root`; this one excepted."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = str((entry / "cwd").readlink())
        except OSError:
            continue  # gone meanwhile, or a zombie
        if str(root) in command or f"{where}/".startswith(f"{root}/"):
            found[int(entry.name)] = command
    return found


def eventually(condition: Callable[[], bool]) -> bool:
    """Waits for a condition, up to a deadline."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def left_behind(root: Path) -> list[str]:
    """What is still there of a stack that should be gone: its processes and its scratch directories."""
    return [*processes_in(root).values()] + [str(path) for path in (root / "var").glob("scratch-*")]


def answers(database: str, redis_url: str) -> bool:
    """True when both servers do."""
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT 1").fetchone()
    with redis.Redis.from_url(redis_url) as client:
        return row == (1,) and bool(client.ping())


@pytest.fixture
def root() -> Iterator[Path]:
    """A checkout's directory; whatever a failed test leaves running in it is killed.

    Not pytest's tmp_path: every pytest that starts on this machine closes that again (mode 700) for the account
    which PostgreSQL runs as when we are root.
    """
    with tempfile.TemporaryDirectory(prefix="runflow-test-") as name:
        path = Path(name).resolve()
        path.chmod(0o711)
        yield path
        for pid in processes_in(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not processes_in(path))


def test_run_provides_both_servers_passes_the_exit_code_on_and_leaves_nothing(root: Path) -> None:
    run = Stack(root, "run", "--scratch", "--", "sh", "-c", f"{HOLD}; exit 42")
    database, redis_url = run.urls()
    assert answers(database, redis_url)
    assert processes_in(root)  # or the emptiness below would prove nothing
    # Other people of this machine: neither server opens without its password, and no command line shows it.
    guessed = [re.sub(r":[^:@]+@", ":guessed@", url) for url in (database, redis_url)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(guessed[0])
    with redis.Redis.from_url(guessed[1]) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    passwords = [url.split("@")[0].rpartition(":")[2] for url in (database, redis_url)]
    assert not [word for word in passwords if word in "".join(processes_in(root).values())]
    code, _, err = run.end()
    assert code == 42, err
    assert left_behind(root) == []


def test_command_that_does_not_exist_is_said_to_be_missing(root: Path) -> None:
    code, _, err = Stack(root, "run", "--scratch", "--", "no-such-command").end()
    assert (code, "no-such-command" in err) == (127, True)
    assert left_behind(root) == []


def test_sigterm_reaches_the_command_and_everything_is_stopped(root: Path) -> None:
    escaped = f"setsid sh -c 'cd {root}; sleep 600' & {HOLD}"
    run = Stack(root, "run", "--scratch", "--", "sh", "-c", escaped, DATABASE_URL="postgres://db.example/x")
    run.urls()
    run.process.terminate()
    assert run.process.wait(timeout=60) == 128 + signal.SIGTERM
    assert left_behind(root) == []
    run.end("")


def test_command_ends_its_own_way_on_ctrl_c_with_the_servers_still_there(root: Path) -> None:
    run = Stack(root, "run", "--scratch", "--", sys.executable, "-c", ENDS_WITH_A_QUERY)
    run.urls()
    run.process.send_signal(signal.SIGINT)
    code = run.process.wait(timeout=60)
    _, out, err = run.end("")
    assert (code, out) == (5, "still there\n"), err
    assert left_behind(root) == []


ENDS_WITH_A_QUERY = """
import os, sys, psycopg
try:
    print(os.environ["DATABASE_URL"], os.environ["REDIS_URL"], flush=True)
    sys.stdin.readline()
except KeyboardInterrupt:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        connection.execute("SELECT 1")
    print("still there")
    sys.exit(5)
"""


def test_kill_9_of_the_stack_ends_everything_too(root: Path) -> None:
    # With a grandchild that went into a session of its own: the hardest to find.
    stubborn = f"setsid sh -c 'cd {root}; sleep 600' & {HOLD}"
    run = Stack(root, "run", "--scratch", "--", "sh", "-c", stubborn)
    run.urls()
    run.process.kill()
    run.process.wait()
    assert eventually(lambda: left_behind(root) == []), left_behind(root)
    run.end("")


def test_data_are_held_by_one_stack_and_survive_its_kill_9(root: Path) -> None:
    first = Stack(root, "run", "--", "sh", "-c", HOLD)
    database, _ = first.urls()
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
    code, _, err = Stack(root, "up").end()
    assert (code, f"process {first.process.pid}" in err) == (1, True)
    first.process.kill()
    first.process.wait()
    # At once: it has to wait until what the first one left is gone, and must not be refused.
    second = Stack(root, "run", "--", "sh", "-c", HOLD)
    database, _ = second.urls()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (7,)
    assert second.end()[0] == 0
    assert left_behind(root) == []
    first.end("")


def test_pid_file_of_a_crashed_server_does_not_block_when_its_number_is_in_use(root: Path) -> None:
    pid_file = root / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{root}\n")
    clear_postmaster_pid(root)
    assert not pid_file.exists()


def test_two_scratch_stacks_at_once_have_servers_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Stack(root, "run", "--scratch", "--", "sh", "-c", HOLD)
    for name in SUPPLIED:
        monkeypatch.delenv(name, raising=False)
    with services(root, scratch=True) as env:
        mine = env["DATABASE_URL"], env["REDIS_URL"]
        others = other.urls()
        assert answers(*mine)
        assert answers(*others)
        assert len({*mine, *others}) == 4
        assert len(env["SECRET_KEY"]) >= 50
        assert len(base64.urlsafe_b64decode(env["ENCRYPTION_KEYS"])) == 32
        assert [path.name for path in (root / "var").iterdir() if path.name in ("secret_key", "encryption_keys")] == []
    assert answers(*others)
    assert other.end()[0] == 0
    assert left_behind(root) == []


def test_servers_named_in_the_environment_are_used_and_none_started(root: Path) -> None:
    given = {"DATABASE_URL": "postgres://db.example/x", "REDIS_URL": "redis://redis.example/0"}
    run = Stack(root, "run", "--scratch", "--", "sh", "-c", HOLD, **given)
    assert run.urls() == (given["DATABASE_URL"], given["REDIS_URL"])
    assert [c for c in processes_in(root).values() if "bin/postgres" in c or "valkey-server" in c] == []
    code, _, err = run.end()
    assert code == 0
    assert "starting no PostgreSQL" in err
    assert "starting no Valkey" in err


def test_each_server_is_provided_or_not_by_itself(root: Path) -> None:
    run = Stack(root, "run", "--scratch", "--", "sh", "-c", HOLD, DATABASE_URL="postgres://db.example/x")
    database, redis_url = run.urls()
    assert database == "postgres://db.example/x"
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
    assert run.end()[0] == 0


# Keys are made by a stack that keeps its data, and a server named in the environment needs no starting.
ELSEWHERE = {"REDIS_URL": "redis://redis.example/0"}


def test_keys_are_made_once_and_kept_where_only_the_owner_reads_them(root: Path) -> None:
    tell = ["sh", "-c", 'echo "$SECRET_KEY $ENCRYPTION_KEYS"']
    starts = [Stack(root, "run", "--", *tell, **ELSEWHERE).end() for _ in range(2)]
    assert [code for code, _, _ in starts] == [0, 0], starts
    (_, first, _), (_, second, _) = starts
    assert first == second
    kept = [root / "var" / name for name in ("secret_key", "encryption_keys")]
    assert [path.read_text() for path in kept] == first.split()
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600, 0o600]
    assert len(base64.urlsafe_b64decode(first.split()[1])) == 32
    given = Stack(root, "run", "--", *tell, SECRET_KEY="mine", ENCRYPTION_KEYS="also,mine", **ELSEWHERE)
    assert given.end()[:2] == (0, "mine also,mine\n")
    assert [path.read_text() for path in kept] == first.split()


# In place of manage.py, which `up` calls first: tells what it was given, and ends it there.
TELL = """
import os, pathlib, sys
pathlib.Path("told").write_text(os.environ.get("OUTBOUND_ALLOW", "nothing"))
pathlib.Path("told.env").write_text(pathlib.Path("var/stack.env").read_text())
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("given", "told"), [({}, "127.0.0.0/8,::1/128"), ({"OUTBOUND_ALLOW": "10.0.0.0/8"}, "10.0.0.0/8")]
)
def test_up_opens_this_machine_to_callbacks_and_hands_its_keys_to_manage_py(
    root: Path, given: dict[str, str], told: str
) -> None:
    (root / "manage.py").write_text(TELL)
    servers = {"DATABASE_URL": "postgres://db.example/x", **ELSEWHERE}
    code, _, err = Stack(root, "up", "--port", "0", **servers, **given).end()
    assert (code, "manage.py migrate failed (exit code 3)" in err) == (1, True), err
    assert (root / "told").read_text() == told
    keys = {name.upper(): (root / "var" / name).read_text() for name in ("secret_key", "encryption_keys")}
    lines = (root / "told.env").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines) == {**servers, **keys}
    assert not (root / "var" / "stack.env").exists()


def test_run_opens_nothing(root: Path) -> None:
    tell = ["sh", "-c", 'echo "${OUTBOUND_ALLOW-nothing}"']
    run = Stack(root, "run", "--scratch", "--", *tell, DATABASE_URL="postgres://db.example/x", **ELSEWHERE)
    assert run.end()[:2] == (0, "nothing\n")


def test_a_supervised_process_that_ends_is_named_with_its_log(root: Path) -> None:
    with session(root, scratch=True) as held, processes(held) as supervisor:
        web = supervisor.start("web", ["sh", "-c", "echo the reason; exit 3"], dict(os.environ), STOP_WEB)
        web.process.wait()
        with pytest.raises(StackError, match=r"web ended \(exit code 3\)(.|\n)*web.log(.|\n)*the reason"):
            supervisor.check()
