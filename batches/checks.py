"""Combinations of settings under which runs would be done twice or never."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register()
def lease_outlives_its_renewals(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """batches.E001: a lease that is hardly longer than a pause of the worker is lost while the worker lives."""
    if settings.RUN_LEASE.total_seconds() >= 1:
        return []
    return [
        Error(
            "RUN_LEASE_SECONDS is below 1: working runs would be taken from their workers.",
            hint="60 is the default.",
            id="batches.E001",
        )
    ]


@register()
def attempts_are_allowed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """batches.E002: a run needs at least one attempt."""
    if settings.RUN_MAX_ATTEMPTS >= 1:
        return []
    return [Error("RUN_MAX_ATTEMPTS is below 1.", hint="5 is the default.", id="batches.E002")]
