"""A server on a port of this machine: launched, and tried again until it answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from runflow.stack.keeper import wait_until
from runflow.stack.session import Child, Session, StackError

HOST = "127.0.0.1"
START_SECONDS = 120.0  # crash recovery after a kill -9 comes before PostgreSQL answers
# A port is chosen here and bound by the server: one that lost that race is started again with another port.
START_ATTEMPTS = 20
# The second is what PostgreSQL says while the backends of a killed server are still on their way out.
TRY_AGAIN = ("Address already in use", "could not create any TCP/IP sockets", "is still in use")


@dataclass
class Server:
    """A server that answers."""

    child: Child
    port: int
    url: str


def free_port() -> int:
    """A TCP port nobody listens on now. It may be taken a moment later: see START_ATTEMPTS."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def start_server(
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
