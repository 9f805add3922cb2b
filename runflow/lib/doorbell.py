"""Publishing Celery messages: doorbells that say "look again". The rows are the truth, so a lost message costs seconds."""

from __future__ import annotations

import logging
from functools import partial

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

# Seconds. The sweep rings every few seconds; old doorbells of a time without workers must not pile up.
DOORBELL_EXPIRES = 60


def ring(task: str, *args: str, times: int = 1) -> None:
    """Send the named task now, `times` over, to wake as many workers.

    A broker that is away costs a line in the log: the sweep will ring again.
    """
    try:
        for _ in range(times):
            current_app.send_task(task, args=args, expires=DOORBELL_EXPIRES)
    except (OperationalError, OSError):
        logger.warning("The broker did not take a message for %s; the sweep will ring again", task, exc_info=True)


def ring_after_commit(task: str, *args: str, times: int = 1) -> None:
    """Send the named task once the surrounding transaction has committed.

    Named, not imported: services may start tasks, and tasks call services.
    """
    transaction.on_commit(partial(ring, task, *args, times=times))
