"""A receiver of callbacks on loopback that answers as it is told and remembers what it saw."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answers(ThreadingHTTPServer):
    """Answers requests in turn with what `plan` gives: a status, or a function of the handler."""

    daemon_threads = True

    def __init__(self, host: str, *plan: int | Callable[[Any], None]) -> None:
        super().__init__((host, 0), _Handler)
        self.plan = iter(plan)
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}/done"  # type: ignore[str-bytes-safe]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
            step = next(self.server.plan, 200)
        if callable(step):
            step(self)
        else:
            self.answer(step)

    def answer(self, status: int, body: bytes = b"ok", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def receiver(*plan: int | Callable[[Any], None], host: str = "127.0.0.1") -> Iterator[Answers]:
    with Answers(host, *plan) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
