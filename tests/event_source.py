"""A client of server-sent events, as bare as can be: a socket, a thread that reads, and what it has read."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.threads import wait_until


@dataclass(frozen=True)
class Event:
    name: str
    id: str
    data: dict[str, Any]


def parse(body: bytes) -> list[Event]:
    """The events of a body; comments and `retry:` are left out. What was cut off before its blank line is no event."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if "event" in fields:
            assert list(fields) == ["event", "id", "data"]
            found.append(Event(fields["event"], fields["id"], json.loads(fields["data"])))
    return found


class EventSource:
    """One connection, read until the server ends it or we do."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        connection.request("GET", parts.path, headers=headers)
        assert connection.sock is not None
        self._socket = connection.sock
        self.response = connection.getresponse()
        self.status = self.response.status
        self.body = b""
        self.is_cut = False  # it ended otherwise than by the server's last word
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while piece := self.response.read1(65536):
                self.body += piece
        except (OSError, http.client.HTTPException, ValueError):
            self.is_cut = True

    @property
    def events(self) -> list[Event]:
        return parse(self.body)

    def wait_for(self, count: int) -> list[Event]:
        """Wait until so many events have come, and return them all."""
        wait_until(lambda: len(self.events) >= count, what=f"{count} events after {self.events}")
        return self.events

    def wait_for_the_end(self) -> list[Event]:
        """Wait until the server has ended the stream."""
        wait_until(lambda: not self._thread.is_alive(), what=f"the end of the stream after {self.events}")
        return self.events

    def disconnect(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)
        self.response.close()

    def __enter__(self) -> EventSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._thread.is_alive():
            self.disconnect()
        self.response.close()
        self._socket.close()
