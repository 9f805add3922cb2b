"""Media inputs at a server: each content once, under a name made of its hash."""

from __future__ import annotations

import hashlib
import mimetypes
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from providers.base import Media

# About 300 bytes each. What is forgotten is uploaded again, and the server keeps the one file.
MOST_REMEMBERED = 10_000

# Loader nodes go by the extension. The bytes are asked first: what a web server says of them is often wrong.
_SIGNATURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"RIFF....WAVE", re.DOTALL), "wav"),
    (re.compile(rb"....ftypavif", re.DOTALL), "avif"),
    (re.compile(rb"....ftyp", re.DOTALL), "mp4"),
    (re.compile(rb"\x1aE\xdf\xa3"), "webm"),
    (re.compile(rb"fLaC"), "flac"),
    (re.compile(rb"OggS"), "ogg"),
    (re.compile(rb"ID3|\xff[\xfb\xf3\xf2]"), "mp3"),
)


def name_of(media: Media) -> str:
    """The file name for this content: its SHA-256 and an extension."""
    return f"{hashlib.sha256(media.body).hexdigest()}.{_extension_of(media)}"


def _extension_of(media: Media) -> str:
    for signature, extension in _SIGNATURES:
        if signature.match(media.body):
            return extension
    guess = mimetypes.guess_extension(media.mime_type.partition(";")[0].strip().lower())
    return guess[1:] if guess else "bin"


class Upload(NamedTuple):
    """A content at a server."""

    base_url: str
    name: str


class _Entry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.path: str | None = None


class UploadCache:
    """What this process has uploaded, and where the servers put it. Safe for threads."""

    def __init__(self, *, limit: int = MOST_REMEMBERED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[Upload, _Entry] = OrderedDict()

    def path_of(self, key: Upload, upload: Callable[[], str]) -> str:
        """Where the content is at the server, uploaded by `upload` if it is not there yet.

        Those who ask for the same content meanwhile wait. What `upload` raises is raised, and nothing is remembered.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.path is None:
                entry.path = upload()
            return entry.path

    def forget(self, key: Upload) -> None:
        """The server has lost it."""
        with self._lock:
            self._entries.pop(key, None)


# One for the process: connections live for seconds.
UPLOADS = UploadCache()
