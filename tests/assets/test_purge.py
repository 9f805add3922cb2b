"""Uploads that nobody confirms: they go, their files too, and nothing else does."""

from __future__ import annotations

import uuid
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.files.storage import FileSystemStorage
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from assets import tasks, uploads
from assets.models import Asset, AssetUpload
from assets.uploads import confirm_upload, purge_abandoned
from tests.assets.helpers import files_in, open_upload, put, upload
from tests.conftest import Api
from tests.threads import InThread

pytestmark = pytest.mark.django_db


def age(session: dict[str, str], by: timedelta) -> uuid.UUID:
    asset_id = uuid.UUID(session["asset_id"])
    AssetUpload.objects.filter(pk=asset_id).update(created_at=timezone.now() - by)
    return asset_id


@pytest.fixture
def old(api: Api) -> uuid.UUID:
    """An upload with bytes whose time is over, beside others that must stay."""
    upload(api, b"confirmed")
    young = open_upload(api)
    put(young["upload_url"])
    age(young, django_settings.ASSET_UPLOAD_RETENTION - timedelta(minutes=1))
    session = open_upload(api, b"old")
    put(session["upload_url"], b"old")
    return age(session, django_settings.ASSET_UPLOAD_RETENTION + timedelta(minutes=1))


def bodies(store: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in files_in(store))


def test_what_nobody_confirmed_in_time_goes_with_its_file(old: uuid.UUID, store: Path) -> None:
    assert bodies(store) == [b"confirmed", b"hello", b"old"]
    assert purge_abandoned() == 1
    assert bodies(store) == [b"confirmed", b"hello"]
    assert not AssetUpload.objects.filter(pk=old).exists()
    assert (AssetUpload.objects.count(), Asset.objects.count()) == (1, 1)
    assert purge_abandoned() == 0


def test_one_without_bytes_goes_as_well(api: Api) -> None:
    age(open_upload(api), timedelta(days=2))
    assert purge_abandoned() == 1
    assert AssetUpload.objects.count() == 0


def test_the_setting_says_how_long(old: uuid.UUID, settings: Settings) -> None:
    settings.ASSET_UPLOAD_RETENTION = timedelta(days=3)
    assert purge_abandoned() == 0
    settings.ASSET_UPLOAD_RETENTION = timedelta(0)
    assert purge_abandoned() == 2


def test_many_go_in_slices(api: Api, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_PURGE_SLICE", 2)
    for _ in range(5):
        session = open_upload(api)
        put(session["upload_url"])
        age(session, timedelta(days=2))
    assert purge_abandoned() == 5
    assert (AssetUpload.objects.count(), files_in(store)) == (0, [])


def test_a_store_that_does_not_delete_does_not_stop_it(
    old: uuid.UUID, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(self: FileSystemStorage, name: str) -> None:
        raise OSError("the store is away")

    monkeypatch.setattr(FileSystemStorage, "delete", away)
    assert purge_abandoned() == 1
    assert not AssetUpload.objects.filter(pk=old).exists()
    assert bodies(store) == [b"confirmed", b"hello", b"old"]
    assert "Could not delete the file uploads/" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_files_go_after_the_rows_are_gone_for_good(old: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def delete(self: FileSystemStorage, name: str) -> None:
        seen.append(InThread(lambda: AssetUpload.objects.filter(pk=old).exists()).start().result)

    monkeypatch.setattr(FileSystemStorage, "delete", delete)
    assert purge_abandoned() == 1
    assert seen == [False]


@pytest.mark.django_db(transaction=True)
def test_what_is_being_confirmed_is_left_alone(api: Api, old: uuid.UUID, store: Path) -> None:
    with transaction.atomic():
        confirm_upload(organization=api.organization, asset_id=old, folder_id=None)
        assert InThread(purge_abandoned).start().result == 0
    assert Asset.objects.filter(pk=old).exists()
    assert bodies(store) == [b"confirmed", b"hello", b"old"]


def test_the_command_counts_first_and_deletes_when_told(old: uuid.UUID, api: Api, store: Path) -> None:
    age(open_upload(api), timedelta(days=2))
    out = StringIO()
    call_command("purge_assets", stdout=out)
    assert out.getvalue() == "Would delete 2 upload(s) and 1 file(s). Add --apply.\n"
    assert (AssetUpload.objects.count(), len(files_in(store))) == (3, 3)
    call_command("purge_assets", apply=True, stdout=out)
    assert out.getvalue().splitlines()[-1] == "Deleted 2 upload(s)."
    assert (AssetUpload.objects.count(), bodies(store)) == (1, [b"confirmed", b"hello"])


def test_the_task_does_the_same_every_hour(old: uuid.UUID) -> None:
    tasks.purge()
    assert not AssetUpload.objects.filter(pk=old).exists()
    beat = django_settings.CELERY_BEAT_SCHEDULE["purge-assets"]
    assert beat == {"task": tasks.purge.name, "schedule": timedelta(hours=1)}
    assert django_settings.CELERY_TASK_ROUTES[tasks.purge.name] == {"queue": "maintenance"}
