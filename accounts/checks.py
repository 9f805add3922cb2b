"""Settings under which nobody could be limited, or everybody would be."""

from __future__ import annotations

from typing import Any

import redis
from django.conf import settings
from django.core.checks import CheckMessage, Error, register


@register()
def rate_limits_are_numbers(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """accounts.E001: a bucket that loses tokens with time lets nobody through."""
    return [
        Error(f"{name} must not be negative; 0 is no limit.", id="accounts.E001")
        for name in ("RATE_LIMIT_PER_MINUTE", "RATE_LIMIT_BURST")
        if getattr(settings, name) < 0
    ]


@register()
def buckets_have_a_place(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """accounts.E002: REDIS_URL names no Redis, so every request of a limited organisation would be a 500."""
    try:
        redis.ConnectionPool.from_url(settings.REDIS_URL)
    except ValueError as exc:
        return [Error(f"REDIS_URL is not the URL of a Redis: {exc}", id="accounts.E002")]
    return []
