"""Addresses as values: http(s) URLs, `data:` URIs and `runflow://assets/{uuid}`. Syntax only."""

from __future__ import annotations

import binascii
import re
from urllib.parse import urlsplit

from models_registry.models import VariableType

# The longest URL that common servers and proxies take; the same bound as callback_url (contract.md section
# 3.1).
MAX_URL_LENGTH = 2048
NOT_IN_URL = re.compile(r"[\s\x00-\x1f\x7f-\x9f\\]")
DATA_URI_HEAD = re.compile(
    r"data:(?P<kind>[a-z0-9][a-z0-9!#$&^_.+-]*)/[a-z0-9][a-z0-9!#$&^_.+-]*"
    r"(?:;[a-z0-9!#$&^_.+-]+=(?u:[^;,\s]*))*(?P<base64>;base64)?",
    # Without ASCII, "ſ" would be an "s" in another case.
    re.IGNORECASE | re.ASCII,
)
# RFC 2397 sets no bound; a head is a media type and a parameter or two.
DATA_URI_HEAD_LENGTH = 256
BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
ASSET_URI = re.compile(r"runflow://assets/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
MEDIA_SCHEMES = ("http", "https", "data", "runflow")


def url_fault(text: str) -> str | None:
    """Why a text is no absolute URL with a host, or None."""
    if len(text) > MAX_URL_LENGTH:
        return f"Must be a URL of at most {MAX_URL_LENGTH} characters."
    if NOT_IN_URL.search(text):
        return "Must be a URL without spaces, control characters and backslashes."
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # a property: raises ValueError for a port that is none
    except ValueError:
        return "Must be a URL."
    if not (parts.scheme and parts.hostname):
        return "Must be a URL with a scheme and a host."
    if "@" in parts.netloc:
        # It would be stored with the run and shown to whoever may read it.
        return "Must be a URL without a user name or password."
    return None


def data_uri_fault(text: str, kind: str) -> str | None:
    """Why a text is no `data:` URI (RFC 2397) of this kind (`file`: of any), or None."""
    comma = text.find(",", 0, DATA_URI_HEAD_LENGTH)
    head = DATA_URI_HEAD.fullmatch(text, 0, max(comma, 0))
    if head is None:
        return "Must be a data: URI with a media type, like data:image/png;base64,…"
    if kind != VariableType.FILE and head["kind"].lower() != kind:
        return f"Must be a data: URI with a media type of {kind}/…"
    if comma + 1 == len(text):
        return "Must be a data: URI that holds data."
    if head["base64"]:
        try:
            binascii.a2b_base64(text[comma + 1 :], strict_mode=True)
        except ValueError:  # also of a text that is not ASCII
            return "Must be a data: URI whose base64 is valid and padded."
    elif NOT_IN_URL.search(text, comma) or BAD_PERCENT.search(text, comma):
        return "Must be a data: URI whose data is percent-encoded."
    return None
