"""Where callbacks go: a server on loopback that writes down what came, and answers as its mood is."""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from callbacks.receiver import is_genuine

MOODS = ("500", "302", "hang", "reset", "silent")


@dataclass(frozen=True, slots=True)
class Receipt:
    """One request. `answered` is 0 where none was given."""

    webhook_id: str
    body: bytes
    is_genuine: bool
    answered: int


class Callbacks:
    """Takes callbacks at `url`/ORGANIZATION between entering and leaving; `secrets` are those of the organizations."""

    def __init__(self) -> None:
        self.mood = "well"
        self.secrets: dict[str, str] = {}
        self.receipts: list[Receipt] = []
        self.is_over = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.callbacks = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Callbacks:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes, answered: int) -> None:
        """Write a request down."""
        genuine = is_genuine(secret=self.secrets[path.strip("/")], headers=headers, body=body, now=time.time())
        receipt = Receipt(headers.get("webhook-id", ""), body, genuine, answered)
        with self._lock:
            self.receipts.append(receipt)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    callbacks: Callbacks

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news here."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0

    def do_POST(self) -> None:
        callbacks = self.server.callbacks
        mood = callbacks.mood
        if mood == "reset":  # before anything was read
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = {"500": 500, "302": 302, "hang": 0, "silent": 0}.get(mood, 204)
        callbacks.take(self.path, headers, body, status)
        if mood == "hang":
            callbacks.is_over.wait(10)
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"{callbacks.url}/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""
