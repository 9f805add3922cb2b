"""Celery's doors to the verbs of this app: an id in, three lines, safe to run twice."""

from uuid import UUID

from celery import shared_task

from batches import driver, engine


@shared_task(name="batches.execute")
def execute(provider_id: str) -> None:
    engine.execute(provider_id=UUID(provider_id))


@shared_task(name="batches.drive")
def drive(endpoint_id: str) -> None:
    driver.drive(endpoint_id=UUID(endpoint_id))


@shared_task(name="batches.sweep")
def sweep() -> None:
    engine.sweep()
