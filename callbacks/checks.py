"""Combinations of settings under which callbacks could not arrive."""

from __future__ import annotations

import base64
import math
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

# A lease begins when deliveries are claimed. It has to outlast the sending, which ends with the timeout, and what comes before
# and after it: reading the keys, starting the threads, writing what came of it. As long again is ample for those.
TIMEOUTS_IN_A_LEASE = 2

KEY_BYTES = 32
# Python writes keys with - and _, openssl with + and /. Fernet reads both.
STANDARD_ALPHABET = str.maketrans("-_", "+/")
MAKE_A_KEY = "Make a key with: openssl rand -base64 32"


@register()
def encryption_keys_are_keys(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """callbacks.E001: without a key no secret can be stored or read. Says which one is wrong, not what it is."""
    if not settings.ENCRYPTION_KEYS:
        return [Error("ENCRYPTION_KEYS is empty.", hint=MAKE_A_KEY, id="callbacks.E001")]
    return [
        Error(
            f"Key number {number} of ENCRYPTION_KEYS is not 32 bytes in base64.", hint=MAKE_A_KEY, id="callbacks.E001"
        )
        for number, key in enumerate(settings.ENCRYPTION_KEYS, 1)
        if not _is_key(key)
    ]


def _is_key(text: str) -> bool:
    """Strict, where Fernet itself takes "key1;key2" for key1."""
    try:
        return len(base64.b64decode(text.translate(STANDARD_ALPHABET), validate=True)) == KEY_BYTES
    except ValueError:
        return False


@register()
def lease_outlives_the_timeout(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """callbacks.E002: under a shorter lease a callback that is still being sent would be sent once more."""
    if settings.CALLBACK_LEASE >= TIMEOUTS_IN_A_LEASE * settings.CALLBACK_TIMEOUT:
        return []
    return [
        Error(
            f"CALLBACK_LEASE_SECONDS is less than {TIMEOUTS_IN_A_LEASE} times CALLBACK_TIMEOUT_SECONDS: callbacks that are "
            "still being sent would be sent again.",
            hint="60 and 15 are the defaults.",
            id="callbacks.E002",
        )
    ]


@register()
def numbers_are_within_their_range(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """callbacks.E003: nothing would be sent, or at no time."""
    wrong = {
        "CALLBACK_HOST_CONCURRENCY is below 1.": settings.CALLBACK_HOST_CONCURRENCY < 1,
        "CALLBACK_CONCURRENCY is below 1.": settings.CALLBACK_CONCURRENCY < 1,
        "CALLBACK_TIMEOUT_SECONDS is not above 0.": settings.CALLBACK_TIMEOUT.total_seconds() <= 0,
        "CALLBACK_RETRY_DELAYS_SECONDS has a delay that is below 0, or none.": not all(
            math.isfinite(delay) and delay >= 0 for delay in settings.CALLBACK_RETRY_DELAYS
        ),
    }
    return [Error(message, id="callbacks.E003") for message, is_wrong in wrong.items() if is_wrong]
