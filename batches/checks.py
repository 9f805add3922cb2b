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


@register()
def stalling_takes_longer_than_a_sweep(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """batches.E003: a healthy system would be called stalled between two sweeps."""
    if settings.STALLED_AFTER >= 2 * settings.SWEEP_INTERVAL:
        return []
    return [
        Error(
            "STALLED_AFTER_SECONDS is less than twice SWEEP_INTERVAL_SECONDS: a healthy system would be degraded.",
            hint="60 and 5 are the defaults.",
            id="batches.E003",
        )
    ]


@register()
def tasks_outlast_their_slices(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """batches.E004: a worker would kill its processes while they do what they should."""
    if 2 * settings.EXECUTE_SLICE.total_seconds() < settings.CELERY_TASK_TIME_LIMIT:
        return []
    return [
        Error(
            "TASK_TIME_LIMIT_SECONDS is not longer than twice EXECUTE_SLICE_SECONDS: tasks at work would be killed.",
            hint="7200 is the default; it must be longer than claim_size times run_timeout of any provider.",
            id="batches.E004",
        )
    ]
