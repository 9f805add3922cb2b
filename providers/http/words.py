"""What an HTTP model server says, as customers may read it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from providers import wording

# Absolute paths below the roots that servers use, or to a file. Not every path: "/input/prompt" names a member.
_PATHS = re.compile(
    r"(?<![\w.])/(?:app|code|content|data|etc|home|mnt|models|opt|private|root|src|srv|tmp|usr|var|workspace|Users)/[^\s\"':,)]*"
    r"|(?<![\w.])(?:/[\w.@+-]+)+\.\w{1,12}\b"
    r"|\b[A-Z]:\\[^\s\"']+"
)


@dataclass(frozen=True, slots=True)
class Words:
    """`secrets`: the values that the config takes from the environment. `host`: the provider's own."""

    secrets: tuple[str, ...] = field(repr=False)
    host: str

    def told(self, text: str) -> str:
        return wording.told(text, paths=_PATHS, secrets=self.secrets, host=self.host)
