"""Celery's door to the verbs of this app."""

from celery import shared_task

from assets.uploads import purge_abandoned


@shared_task(name="assets.purge")
def purge() -> None:
    purge_abandoned()
