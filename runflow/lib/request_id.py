"""The id of the request being answered, for answers and logs. Imports nothing: logging is configured before apps load."""

from __future__ import annotations

import logging
from contextvars import ContextVar

request_id_var: ContextVar[str] = ContextVar("request_id", default="-")


def current_request_id() -> str:
    """The id of the request being answered, "-" outside of one."""
    return request_id_var.get()


class RequestIdFilter(logging.Filter):
    """Puts the request id on every log record, so that the id in an answer finds its lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = current_request_id()
        return True
