"""A provider's own words, made fit for customers: no secrets, addresses, paths, or tracebacks (contract.md section 4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# A sentence or two. What is longer is a dump.
MAX_CHARS = 500
# Some of the patterns take time that grows with the square of the length.
_MAX_CHARS_READ = 4 * MAX_CHARS

_TRACEBACK = re.compile(r"Traceback \(most recent call last\):.*", re.DOTALL)
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+"  # any URL
    r"|\b(?:\d{1,3}\.){3}\d{1,3}\b(?::\d+)?"
    r"|\[[0-9a-f]*:[0-9a-f:.]*\](?::\d+)?"
    r"|\b[\w-]+(?:\.[\w-]+)+:\d{2,5}\b"
    r"|\blocalhost\b(?::\d+)?",
    re.IGNORECASE,
)
# Absolute paths below the roots that servers use, or to a file. Not every path: "/input/prompt" names a member.
_PATH = re.compile(
    r"(?<![\w.])/(?:app|code|content|data|etc|home|mnt|models|opt|private|root|src|srv|tmp|usr|var|workspace|Users)/[^\s\"':,)]*"
    r"|(?<![\w.])(?:/[\w.@+-]+)+\.\w{1,12}\b"
    r"|\b[A-Z]:\\[^\s\"']+"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


@dataclass(frozen=True, slots=True)
class Words:
    """`secrets`: the values that the config takes from the environment. `host`: the provider's own."""

    secrets: tuple[str, ...] = field(repr=False)
    host: str

    def told(self, text: str) -> str:
        """The text as a customer may read it; "" when nothing is left of it."""
        # Secrets first: whatever is cut or replaced before them may leave a half of one.
        for secret in self.secrets:
            text = text.replace(secret, "***")
        text = _TRACEBACK.sub("", text[:_MAX_CHARS_READ])
        text = _PATH.sub("[path]", _ADDRESS.sub("[address]", text))
        # A short name is also a word ("model"); with its port it is an address.
        port = r"(?::\d+)?" if "." in self.host else r":\d+"
        text = re.sub(rf"(?<![\w.-]){re.escape(self.host)}\b{port}", "[address]", text, flags=re.IGNORECASE)
        # PostgreSQL takes neither U+0000 nor lone surrogates.
        text = _CONTROL.sub(" ", text).encode("utf-8", "replace").decode().strip()
        return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
