"""A Redis that can be taken away: a port before the real one that refuses, says nothing, or passes everything on."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from django.conf import settings


class Relay:
    """`with Relay() as relay:` silent at first. `accepted` counts the connections that it has taken."""

    def __init__(self) -> None:
        self.accepted = 0
        self.is_silent = True
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        real = urlsplit(settings.REDIS_URL)
        user = real.netloc.rpartition("@")[0]
        netloc = f"{user}{'@' if user else ''}127.0.0.1:{self._port}"
        return str(real._replace(netloc=netloc).geturl())

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.refuse()

    def refuse(self) -> None:
        """From now on nobody listens at the port, and open connections are gone."""
        for each in (self._listener, *self._sockets):
            # shutdown wakes who waits in accept or recv; close alone does not.
            with suppress(OSError):  # the other side was faster
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._sockets.append(client)
            if not self.is_silent:
                real = urlsplit(settings.REDIS_URL)
                server = socket.create_connection((real.hostname or "127.0.0.1", real.port or 6379))
                self._sockets.append(server)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.is_silent:
                    sink.sendall(data)
        except OSError:
            return
