"""`GET /v1/readiness`: whether this server can take requests, and whether what was asked of it is being done."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError
from rest_framework.request import Request
from rest_framework.response import Response

from batches.api import readiness_schema
from batches.progress import Progress, read_progress
from runflow.lib import errors
from runflow.lib.broker import is_broker_there
from runflow.lib.views import ApiView

# Seconds. It needs no key: however often it is asked, database and broker are asked once in this time by each process.
KEPT = 1.0
# Seconds. A look takes two at most where anything answers at all, so whoever waits longer for another's look knows enough.
PATIENCE = 2.5


@dataclass(frozen=True, slots=True)
class Readiness:
    """`progress` None: the database does not answer. `is_broker_there` None: nobody knows."""

    progress: Progress | None
    is_broker_there: bool | None

    def body(self) -> dict[str, Any]:
        """The answer's; without a database it is the contract's error as well."""
        reasons = self.reasons()
        return {
            "status": "unavailable" if self.progress is None else "degraded" if reasons else "ok",
            **({} if self.progress is not None else _UNAVAILABLE),
            "database": "unavailable" if self.progress is None else "ok",
            "broker": {True: "ok", False: "unavailable", None: "unknown"}[self.is_broker_there],
            "reasons": reasons,
            "progress": None if self.progress is None else _seconds(self.progress),
        }

    def reasons(self) -> list[str]:
        reasons = ["The broker does not answer."] if self.is_broker_there is False else []
        if self.progress is None:
            return ["The database does not answer.", *reasons]
        return [*reasons, *self.progress.stalls(limit=settings.STALLED_AFTER)]


_UNAVAILABLE = {
    "code": errors.ServiceUnavailable.code,
    "message": "The database does not answer.",
    "errors": None,
}


def _seconds(progress: Progress) -> dict[str, float | None]:
    shown = asdict(progress)
    del shown["is_sending"], shown["oldest_unattended_run"]
    return {f"{name}_seconds": None if age is None else round(age, 3) for name, age in shown.items()}


class Prober:
    """Looks, and keeps what it saw for a moment. One thread looks at a time, so that a database that hangs holds up one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: tuple[float, Readiness] | None = None

    def look(self) -> Readiness:
        if not self._lock.acquire(timeout=PATIENCE):
            return Readiness(None, None)
        try:
            if self._seen is None or time.monotonic() >= self._seen[0] + KEPT:
                readiness = _look()
                self._seen = (time.monotonic(), readiness)
            return self._seen[1]
        finally:
            self._lock.release()

    def forget(self) -> None:
        """For who has changed something and wants to see it."""
        self._seen = None


def _look() -> Readiness:
    try:
        progress = read_progress(limit=settings.STALLED_AFTER)
    except (OperationalError, InterfaceError):
        progress = None
    return Readiness(progress, is_broker_there())


prober = Prober()


class ReadinessView(ApiView):
    authentication_classes: Sequence[type] = []
    permission_classes: Sequence[type] = []
    documented = {"GET": readiness_schema.GET_READINESS}

    def get(self, request: Request) -> Response:
        readiness = prober.look()
        if readiness.progress is None:
            return Response(readiness.body(), status=503, headers={"Retry-After": "5"})
        return Response(readiness.body())
