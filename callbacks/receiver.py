"""A small HTTP server that takes callbacks, to try them out and to test them. For loopback, not for the internet."""

from __future__ import annotations

import hmac
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from callbacks.signing import SECRET_PREFIX, TOLERANCE, webhook_signature

# Bytes. A batch of 100 items is well below 1 MiB.
_MAX_BODY = 8 * 1024 * 1024
# Seconds. A client that is silent for this long is hung up on, so that it does not hold up the end.
_SILENCE = 5.0
# What signing.new_secret makes: 32 bytes in base64.
_SECRET = re.compile(re.escape(SECRET_PREFIX) + r"[A-Za-z0-9+/]{43}=")


@dataclass(frozen=True, slots=True)
class Received:
    """One POST, whatever was answered to it."""

    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    received_at: float
    """Seconds since the epoch."""
    is_genuine: bool | None
    """None: the receiver has no secret to check with."""
    answered: int
    """The status of the answer."""


def is_genuine(*, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether one of the signatures in `webhook-signature` was made with `secret`, at most five minutes from `now`.

    `headers` have names in lower case; `now` is in seconds since the epoch.
    """
    timestamp = headers.get("webhook-timestamp", "")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp) or abs(now - int(timestamp)) > TOLERANCE:
        return False
    expected = webhook_signature(
        secret=secret, message_id=headers.get("webhook-id", ""), timestamp=int(timestamp), body=body
    )
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(each.encode(), expected.encode()) for each in given)


class Receiver:
    """Takes callbacks at `url` between entering and leaving; leaving waits for the requests at hand.

    Every path takes POST. What has a body is in `received`, in the order of arrival, before it is answered:

    401                     there is a secret, and the signature is not genuine
    the next of `answers`   while there is one: to try retries
    204                     otherwise

    `on_receive` is called before the answer, by the thread of the request; it may run several times at once.

    Raises:
        ValueError: `secret` is not of the form that `signing.new_secret` makes.
        OSError: the address cannot be listened at.
    """

    def __init__(
        self,
        *,
        secret: str | None,
        port: int = 0,
        host: str = "127.0.0.1",
        answers: Iterable[int] = (),
        on_receive: Callable[[Received], None] | None = None,
    ) -> None:
        """`port` 0 takes a free one."""
        if secret is not None and _SECRET.fullmatch(secret) is None:
            raise ValueError(f"A callback secret is {SECRET_PREFIX} and 44 characters of base64.")
        self.received: list[Received] = []
        self._secret = secret
        self._answers = iter(answers)
        self._on_receive = on_receive
        self._lock = threading.Lock()
        self._server = _Server((host, port), self._take)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="callback-receiver")

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, headers: dict[str, str], body: bytes) -> int:
        """Record a request and choose the status of its answer."""
        now = time.time()
        genuine = None if self._secret is None else is_genuine(secret=self._secret, headers=headers, body=body, now=now)
        # The order of `received` is that in which the answers are given out.
        with self._lock:
            status = HTTPStatus.UNAUTHORIZED if genuine is False else next(self._answers, HTTPStatus.NO_CONTENT)
            received = Received(headers, body, received_at=now, is_genuine=genuine, answered=int(status))
            self.received.append(received)
        if self._on_receive is not None:
            self._on_receive(received)
        return received.answered


class _Server(ThreadingHTTPServer):
    # Waited for by server_close: a callback that was taken is also answered.
    daemon_threads = False
    # Callbacks come many at once; the default of 5 makes the kernel drop connections.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], take: Callable[[dict[str, str], bytes], int]) -> None:
        super().__init__(address, _Handler)
        self.take = take

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to report; the rest is printed with its traceback, and serving goes on."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SILENCE

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        if int(length) > _MAX_BODY:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.send_error(HTTPStatus.BAD_REQUEST, "The body is shorter than its Content-Length.")
            return
        status = self.server.take({name.lower(): value for name, value in self.headers.items()}, body)
        self.send_response(status)
        if status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `received` and `on_receive` tell what came."""
