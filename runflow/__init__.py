"""The project package: settings, routes, processes; `lib` holds leaf helpers that know no app."""

from runflow.celery import app as celery_app

__all__ = ["celery_app"]
__version__ = "0.1.0"
