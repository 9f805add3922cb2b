"""Model servers on loopback that speak the three API styles of docs/providers, and one that answers what a test says."""

from __future__ import annotations

import base64
import io
import itertools
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from PIL import Image


def picture(width: int = 3, height: int = 2, picture_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, picture_format)
    return buffer.getvalue()


PNG = picture()


@dataclass(frozen=True)
class Received:
    """A request as it came. Header names in lower case."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> list[tuple[str, str | None, str | None, bytes]]:
        """The parts of a multipart body: name, file name, media type, bytes."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + self.body).get_payload()
        assert isinstance(parts, list)
        return [_part(part) for part in parts if isinstance(part, Message)]


def _part(part: Message) -> tuple[str, str | None, str | None, bytes]:
    name, body = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
    assert isinstance(name, str)
    assert isinstance(body, bytes)
    return name, part.get_filename(), part["Content-Type"], body


@dataclass
class Reply:
    """An answer. `waits_for` before a byte is sent; then `body` in pieces of `piece`, a `gap` of seconds between them.

    `breaks`: the connection is reset instead of an answer. `stops_early`: it is closed one byte before the end.
    """

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    waits_for: threading.Event | None = None
    breaks: bool = False
    stops_early: bool = False
    pieces: list[bytes] | None = None
    before_piece: Callable[[], object] = lambda: None


def text_reply(text: str, mime_type: str = "text/plain", status: int = 200, **headers: str) -> Reply:
    return Reply(status, text.encode(), {"Content-Type": mime_type, **headers})


class FakeServer:
    """`answer` decides; every request is kept in `received`. Use as a context manager."""

    def __init__(self, answer: Callable[[Received], Reply] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self._answer = answer
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        if tls is not None:
            # The handshake in the connection's own thread.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def answer(self, request: Received) -> Reply:
        assert self._answer is not None
        return self._answer(request)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.received]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The default of five is too few for a set of jobs at once.
    request_queue_size = 256
    fake: FakeServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Wake the threads that wait for another request on a connection that is kept."""
        for each in list(self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of many tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, url.path, parse_qsl(url.query, keep_blank_values=True), headers, body)
        self.server.fake.received.append(request)
        self._send(self.server.fake.answer(request))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _send(self, reply: Reply) -> None:
        if reply.waits_for is not None:
            reply.waits_for.wait(30)
        if reply.breaks:
            # Linger zero makes the close a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        headers = dict(reply.headers)
        body = reply.body
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json; charset=utf-8")
        pieces = reply.pieces if reply.pieces is not None else [body]
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(sum(map(len, pieces)) + reply.stops_early))
        self.end_headers()
        for piece in pieces:
            reply.before_piece()
            self.wfile.write(piece)
        self.close_connection = self.close_connection or reply.stops_early

    def log_message(self, format: str, *args: Any) -> None:
        """Not to stderr."""


class JsonModel(FakeServer):
    """A model server of one's own: `POST /v1/upscale` answers when it is done."""

    def answer(self, request: Received) -> Reply:
        if (request.method, request.path) != ("POST", "/v1/upscale"):
            return Reply(404, {"error": {"message": "no such route"}})
        body = request.json
        if body["scale"] > 4:
            return Reply(422, {"error": {"message": "scale must be at most 4"}})
        header, _, data = body["image"].partition(",")
        if header != "data:image/png;base64":
            return Reply(422, {"error": {"message": f"cannot read {header}"}})
        with Image.open(io.BytesIO(base64.b64decode(data))) as source:
            size = [side * body["scale"] for side in source.size]
        made = base64.b64encode(picture(*size)).decode()
        return Reply(200, {"image": made, "seed": body["seed"], "error": None})


class PredictionsApi(FakeServer):
    """Submit and poll: `POST /v1/predictions`, `GET` and `POST …/cancel` of one. A prediction is done when a test says so."""

    token = "secret-of-predictions"

    def __init__(self) -> None:
        super().__init__()
        self.predictions: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def finish(self, prediction_id: str, status: str, *, output: Any = None, error: str | None = None) -> None:
        self.predictions[prediction_id] |= {"status": status, "output": output, "error": error}

    def answer(self, request: Received) -> Reply:
        if request.path.startswith("/files/"):
            return Reply(200, PNG, {"Content-Type": "image/png"})
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(401, {"title": "Unauthenticated", "detail": f"no such token: {self.token}"})
        match request.method, request.path.removeprefix("/v1/").split("/"):
            case "POST", ["predictions"]:
                return self._create(request)
            case "GET", ["predictions", prediction_id] if prediction_id in self.predictions:
                return Reply(200, self.predictions[prediction_id])
            case "POST", ["predictions", prediction_id, "cancel"] if prediction_id in self.predictions:
                if self.predictions[prediction_id]["status"] in ("starting", "processing"):
                    self.finish(prediction_id, "canceled")
                return Reply(200, self.predictions[prediction_id])
        return Reply(404, {"title": "Not found", "detail": "There is no such prediction."})

    def _create(self, request: Received) -> Reply:
        if not request.json["input"].get("prompt"):
            return Reply(
                422, {"title": "Input validation failed", "detail": "- input: prompt is required", "status": 422}
            )
        with self._lock:
            prediction_id = f"rrr4z55ocneqzikepnug6xezp{next(self._numbers)}"
        url = f"{self.url}/v1/predictions/{prediction_id}"
        self.predictions[prediction_id] = {
            "id": prediction_id,
            "version": request.json["version"],
            "status": "starting",
            "input": request.json["input"],
            "output": None,
            "error": None,
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }
        return Reply(201, self.predictions[prediction_id])


class ImagesApi(FakeServer):
    """`POST /v1/images/generations` and `/v1/images/edits`; pictures as base64, or at URLs on another name of the host."""

    token = "secret-of-images"
    gives_urls = False

    def answer(self, request: Received) -> Reply:
        if request.path.startswith("/files/"):
            return Reply(200, PNG, {"Content-Type": "image/png"})
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return self._error(401, f"Incorrect API key provided: {self.token}", "invalid_api_key")
        if request.path == "/v1/images/generations":
            body = request.json
        elif request.path == "/v1/images/edits":
            body = {name: content for name, filename, _, content in request.form if filename is None}
            body = {name: content.decode() for name, content in body.items()}
        else:
            return self._error(404, "Unknown request URL", "unknown_url")
        if body["prompt"] == "busy":
            return self._error(429, "Rate limit reached", "rate_limit_exceeded", **{"Retry-After": "7"})
        if body["prompt"] == "forbidden":
            return self._error(400, "Your request was rejected by the safety system.", "content_policy_violation")
        one = (
            {"url": f"http://localhost:{self.port}/files/made.png"}
            if self.gives_urls
            else {"b64_json": base64.b64encode(PNG).decode(), "revised_prompt": body["prompt"]}
        )
        return Reply(200, {"created": 1700000000, "data": [one] * int(body.get("n", 1))})

    def _error(self, status: int, message: str, code: str, **headers: str) -> Reply:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        return Reply(status, {"error": error}, headers)
