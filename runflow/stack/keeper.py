"""The keeper: a process that clears up after a stack that was killed.

This file is that process's program, and it is run by its path, without site-packages and without this package:
standard library only. What the keeper and the stack both need is therefore here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_SECONDS = 0.03
KEEPER_SECONDS = 15.0
STRAY_SECONDS = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MARK = "RUNFLOW_STACK_MARK"

Check = Callable[[], None]


def nothing() -> None:
    """The default of every `check` argument: nothing interrupts."""


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


class Keeper:
    """A process that outlives us if we are killed, and then stops what we had started.

    Chosen over PR_SET_PDEATHSIG because it also works off Linux, does not depend on which thread forked,
    reaches grandchildren, and can delete a scratch directory. It shares our lock, so nobody starts on data
    still in use.
    """

    def __init__(self, locks: Sequence[int]) -> None:
        # By path and isolated: none of the modules beside this file can shadow one of the standard library.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
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
        remove(Path(path))
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


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


if __name__ == "__main__":
    sys.exit(keep())
