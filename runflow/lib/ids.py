"""Identifiers."""

import uuid

from uuid_utils import compat


def uuid7() -> uuid.UUID:
    """A time-ordered UUID (RFC 9562 version 7): rows made together stay together in an index."""
    return compat.uuid7()
