"""JSON in and out of HTTP: strict on the way in, never failing on the way out."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import orjson


class NotJSON(ValueError):
    """`str()` is written for the customer."""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJSON(f"number out of range: {text[:40]}")
    return number


def _refuse_constant(text: str) -> float:
    raise NotJSON(f"{text} is not JSON")


def loads(body: bytes) -> Any:
    """Parse a request body.

    Not orjson: it turns integers beyond 64 bits into floats, silently. Refused besides bad syntax (RFC 8259): NaN and
    infinities, also as overflowing literals (1e999); nesting and integers beyond what the interpreter takes.

    Raises ValueError, whose text may be shown.
    """
    try:
        return json.loads(body, parse_float=_finite, parse_constant=_refuse_constant)
    except RecursionError:
        raise NotJSON("nested too deeply") from None
    except UnicodeDecodeError as exc:
        raise NotJSON(f"not UTF-8 at byte {exc.start}") from None
    except (NotJSON, json.JSONDecodeError):
        raise
    except ValueError:  # the interpreter's, whose words are for its programmers
        raise NotJSON("an integer has too many digits") from None


def dumps(value: object) -> bytes:
    """Write a response body: UUIDs and aware datetimes in the contract's form (`+00:00`).

    A lone surrogate that an error message quotes is not UTF-8; then everything beyond ASCII is escaped instead.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, default=_plain).encode()


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
