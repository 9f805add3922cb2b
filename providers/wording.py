"""A provider's own words, made fit for customers: no tracebacks, paths, addresses or secrets (contract.md section 4).

What an address is does not depend on who speaks. What a path is does: to an HTTP server `/input/prompt` is a member of its
JSON, to a ComfyUI server it is a place on its disk. So each adapter brings its own patterns of paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# A customer reads a sentence or two; what is longer is a dump.
LONGEST = 500
# Some of the patterns take time that grows with the square of the length.
_LONGEST_READ = 4 * LONGEST

_TRACEBACK = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)
_FRAME = re.compile(r'^\s*File ".*$', re.MULTILINE)
# Before the paths, for a URL ends in one; the other addresses after them, for "nodes.py:12" is none.
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_ADDRESS = re.compile(
    r"\[[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?"  # IPv6
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d+)?"  # IPv4
    r"|\b[\w-]+(?:\.[\w-]+)+:\d{2,5}\b"  # names with a port
    r"|\blocalhost\b(?::\d+)?"
    r"|\b0x[0-9a-f]{4,}\b",  # in memory
    re.IGNORECASE,
)
# PostgreSQL takes no U+0000.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


def told(text: str, *, paths: re.Pattern[str], secrets: Iterable[str] = (), host: str = "") -> str:
    """The text in one line as a customer may read it; "" when nothing is left of it.

    `secrets` are hidden wherever they stand; `host` is the provider's own.
    """
    # Secrets first: whatever is cut or replaced before them may leave a half of one.
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _FRAME.sub("", _TRACEBACK.sub("", text[:_LONGEST_READ]))
    text = _URL.sub("[address]", text)
    text = _ADDRESS.sub("[address]", paths.sub("[path]", text))
    if host:
        # A short name is also a word ("model"); with its port it is an address.
        port = r"(?::\d+)?" if "." in host else r":\d+"
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}\b{port}", "[address]", text, flags=re.IGNORECASE)
    # Nor lone surrogates.
    text = _CONTROL.sub(" ", text).encode("utf-8", "replace").decode().strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
