"""Celery's door to the verbs of this app."""

from celery import shared_task

from idempotency.services import purge_expired


@shared_task(name="idempotency.purge")
def purge() -> None:
    purge_expired()
