"""The Celery application. Tasks live in `<app>/tasks.py` and are named, never imported, by those who start them."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runflow.settings")

app = Celery("runflow")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
