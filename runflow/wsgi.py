"""The WSGI entry point of the web process."""

import os
from typing import Any

import django
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.utils.http import parse_header_parameters

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runflow.settings")
django.setup(set_prefix=False)


class Utf8Request(WSGIRequest):
    """A request that is UTF-8, whatever charset its Content-Type claims.

    JSON is UTF-8 (RFC 8259, section 8.1), and Django would decode the query with that charset, before any middleware: an
    unknown codec would end outside the error envelope, and `utf-16` would turn `?validate_only=true` into something else.
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        self.content_params.pop("charset", None)


class Handler(WSGIHandler):
    request_class = Utf8Request


application = Handler()
