"""Faults that requests meet instead of their answers."""

from __future__ import annotations

from dataclasses import dataclass

from tests.providers.fake_comfyui.http import Response


@dataclass(slots=True)
class Fault:
    """`route` is "POST /prompt", or "* *" for all. `times`: how often it still happens; None is for ever."""

    route: str
    response: Response
    is_handled: bool
    times: int | None

    def takes(self, route: str) -> bool:
        """Whether this request meets the fault, which counts."""
        if self.route not in ("* *", route) or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True
