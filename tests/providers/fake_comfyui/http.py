"""HTTP/1.1 for a fake server: one thread for any number of connections, and every way not to answer."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

Effect = Literal["answer", "reset", "hang", "crash", "last words"]

# What was written is on its way by then.
_LAST_WORDS_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """`effect`: answer; reset the connection instead; keep it open without a word; let the whole server die before the answer,
    or right after it.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    effect: Effect = "answer"
    delay: float = 0.0

    def encode(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", f"Content-Length: {len(self.body)}"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


class HttpServer:
    """Answers with `handle(request)`, which runs in the server's own thread and must not block.

    After an answer with the effect "crash" nothing listens any more, as after `stop`; `start` opens the same port again.
    """

    def __init__(self, handle: Callable[[Request], Response], *, on_crash: Callable[[], None], port: int = 0) -> None:
        self._handle = handle
        self._on_crash = on_crash
        self.port = port
        self.max_body_bytes = 100 * 1024 * 1024
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-comfyui-http", daemon=True)
        self._thread.start()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def stop(self) -> None:
        """Refuse new connections and reset those there are."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result()

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024, reuse_address=True
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _drop(self) -> None:
        self.drop()
        await asyncio.sleep(0)  # transports are closed in the loop's next turn

    def drop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.reset()

    def take(self, connection: _Connection, request: Request) -> None:
        response = self._handle(request)
        if response.delay:
            self._loop.call_later(response.delay, self._give, connection, response)
        else:
            self._give(connection, response)

    def _give(self, connection: _Connection, response: Response) -> None:
        match response.effect:
            case "answer":
                connection.answer(response)
            case "reset":
                connection.reset()
            case "crash":
                self._crash()
            case "last words":
                connection.answer(response)
                self._loop.call_later(_LAST_WORDS_SECONDS, self._crash)

    def _crash(self) -> None:
        self.drop()
        self._on_crash()

    def connections(self) -> set[_Connection]:
        return self._connections


class _Connection(asyncio.Protocol):
    """Requests one after the other; bodies by Content-Length only."""

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._received = bytearray()
        self._is_busy = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._server.connections().add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections().discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._advance()

    def answer(self, response: Response) -> None:
        if not self.transport.is_closing():
            self.transport.write(response.encode())
        self._is_busy = False
        self._advance()

    def reset(self) -> None:
        """Cut the connection as a dying process does: without the orderly goodbye."""
        no_linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        self.transport.abort()

    def _advance(self) -> None:
        if self._is_busy or (end := self._received.find(b"\r\n\r\n")) < 0:
            return
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if length > self._server.max_body_bytes:
            self.transport.write(Response(413, b"413: Request Entity Too Large", "text/plain; charset=utf-8").encode())
            self.transport.close()
            return
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        del self._received[: end + 4 + length]
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        self._is_busy = True
        request = Request(method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers, body)
        self._server.take(self, request)
