"""Large answers under /v1/ are compressed for clients that say they can read it (`Accept-Encoding: gzip`)."""

from __future__ import annotations

import re

from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware import gzip
from django.utils.cache import patch_vary_headers

from runflow.lib.middleware import API_PREFIX

# Streams of events are missing on purpose: what is held back until a block is full is no event.
_CONTENT_TYPES = frozenset({"application/json", "application/x-ndjson", "text/csv"})
# Bytes. What fits into one packet arrives no sooner for being smaller.
_LEAST = 1400
# RFC 9110, section 12.4.2: a weight of 0 is "not acceptable".
_REFUSED = re.compile(r"\bgzip\s*;\s*q=0(\.0*)?\s*(,|$)", re.IGNORECASE)


class GZipMiddleware(gzip.GZipMiddleware):
    """Django's, which makes an ETag weak and a body's length vary (against BREACH), for what is worth it.

    Outside of IdempotencyMiddleware: that one keeps bodies as they were written, for clients that accept something else.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.status_code == 304:
            # CommonMiddleware's 0 is not the length of what the client has (RFC 9110, section 8.6).
            del response.headers["Content-Length"]
        if not request.path_info.startswith(API_PREFIX) or not _is_worth_it(response):
            return response
        if _REFUSED.search(request.headers.get("Accept-Encoding", "")):  # Django looks for the word only
            patch_vary_headers(response, ("Accept-Encoding",))
            return response
        return super().process_response(request, response)


def _is_worth_it(response: HttpResponseBase) -> bool:
    """Not for customers' files, most of which are compressed by their own format; not for secrets, whatever their length."""
    content_type = response.headers.get("Content-Type", "").partition(";")[0]
    if content_type not in _CONTENT_TYPES or getattr(response, "is_secret", False):
        return False
    if isinstance(response, HttpResponse):
        return len(response.content) >= _LEAST
    return not isinstance(response, FileResponse)
