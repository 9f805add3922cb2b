"""Celery's doors to the verbs of this app."""

from celery import shared_task

from callbacks import engine, lifecycle


@shared_task(name="callbacks.deliver")
def deliver() -> None:
    engine.deliver()


@shared_task(name="callbacks.sweep")
def sweep() -> None:
    engine.sweep()


@shared_task(name="callbacks.purge")
def purge() -> None:
    lifecycle.purge_old()
