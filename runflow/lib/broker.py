"""Asking the broker whether it is there."""

from __future__ import annotations

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError

# Seconds, to connect and then for an answer: whoever asks wants to know soon, and a broker that is slower is of little use.
_TIMEOUT = 0.5


def is_broker_there() -> bool:
    """Whether it takes a connection and answers on it, within a second."""
    timeouts = {"socket_connect_timeout": _TIMEOUT, "socket_timeout": _TIMEOUT}
    options = {**settings.CELERY_BROKER_TRANSPORT_OPTIONS, **timeouts}
    with current_app.connection_for_write(transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=0)
        except OperationalError:
            return False
    return True
