"""`manage.py demo` against a live server, with the engine in a thread in place of the worker."""

from __future__ import annotations

import io
import json
import queue
import re
import shlex
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from PIL import Image
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from batches import demo, engine
from batches.models import Batch
from callbacks.engine import deliver
from callbacks.lifecycle import DELIVER_TASK
from callbacks.models import CallbackDelivery, CallbackSecret
from callbacks.services import create_secret, update_secret
from idempotency.middleware import IdempotencyMiddleware
from tests.factories import make_organization

KEY = re.compile(r"rf_live_[A-Za-z0-9]{43}")
SECRET = re.compile(r"whsec_[A-Za-z0-9+/]{20}")

# The live server answers from a thread of its own, which sees only what is committed.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(live_server: LiveServer, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveServer:
    """A server with the shop's catalogue and nobody to execute anything; the demo's directories are the test's."""
    settings.PUBLIC_BASE_URL = live_server.url
    settings.OUTBOUND_ALLOW = (ip_network("127.0.0.1/32"),)
    settings.STORAGES = {
        "default": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": tmp_path / "media"},
        },
        "staticfiles": settings.STORAGES["staticfiles"],
    }
    call_command("import_models", "catalogue/shop.yaml", "--apply", verbosity=0, stdout=io.StringIO())
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (60, 40), "teal").save(images / "cup.jpg")
    Image.new("RGBA", (40, 60), (200, 80, 0, 128)).save(images / "hat.png")
    monkeypatch.setattr(demo, "IMAGES", images)
    monkeypatch.setattr(demo, "TARGET", tmp_path / "demo")
    monkeypatch.setattr(demo, "POLL_INTERVAL", 0.01)
    return live_server


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answers doorbells as a Celery worker does."""
    doorbells: queue.SimpleQueue[tuple[str, ...] | None] = queue.SimpleQueue()
    monkeypatch.setattr(
        "celery.app.base.Celery.send_task", lambda self, name, args=(), **options: doorbells.put((name, *args))
    )

    def work() -> None:
        try:
            while (doorbell := doorbells.get()) is not None:
                task, *arguments = doorbell
                if task == DELIVER_TASK:
                    deliver()
                else:
                    engine.execute(provider_id=UUID(arguments[0]))
        finally:
            connection.close()

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    yield
    doorbells.put(None)
    thread.join(30)
    assert not thread.is_alive()


def run_demo(server: LiveServer, *arguments: str, out: io.StringIO | None = None) -> str:
    out = out or io.StringIO()
    call_command("demo", "--base-url", server.url, *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.usefixtures("worker")
def test_demo_shows_every_step_and_leaves_its_files(server: LiveServer, tmp_path: Path) -> None:
    target = tmp_path / "demo"
    target.mkdir()
    for name in ("07-gone-4x5.png", "contact-sheet.png", "notes.txt"):
        (target / name).write_text("from before")

    shown = run_demo(server)

    resize, sheet = Batch.objects.order_by("id")  # neither the repetition nor the bad item made one
    assert shown.count(f"batch {resize.pk}") == 2
    assert "Idempotent-Replayed: true" in shown
    assert "422 VALIDATION_ERROR: 4 faults" in shown
    assert re.search(r"body\.input\.0\.aspect_ratio +missing +This input is required", shown)
    assert re.search(r"1 +hat.png +succeeded +819 x 1024 +\$0.55 +\d+", shown)
    assert re.search(r"total +2 of 2 +\$1.10", shown)
    assert f"batch {sheet.pk}" in shown
    assert KEY.search(shown) is None
    assert SECRET.search(shown) is None
    assert re.fullmatch(
        r"Callback batch\.succeeded received \d+ ms after the end, signature verified: v1,[A-Za-z0-9+/]{43}=",
        shown.splitlines()[-1],
    )
    (delivery,) = CallbackDelivery.objects.all()
    assert (delivery.subject_id, delivery.status_code, delivery.attempt_count) == (resize.pk, "delivered", 1)
    assert sorted(path.name for path in target.iterdir()) == [
        "00-cup-4x5.jpg",
        "01-hat-4x5.png",
        "contact-sheet.jpg",
        "notes.txt",
    ]
    for name, kind in (("00-cup-4x5.jpg", "JPEG"), ("01-hat-4x5.png", "PNG"), ("contact-sheet.jpg", "JPEG")):
        with Image.open(target / name) as image:
            assert image.format == kind


@pytest.mark.usefixtures("worker")
def test_demo_deletes_its_secret_and_those_of_demos_that_were_interrupted(server: LiveServer) -> None:
    organization = make_organization(slug="demo")
    create_secret(organization=organization, label="demo")
    own, _ = create_secret(organization=organization, label="mine")
    update_secret(secret_id=own.pk, organization=organization, is_current=True)
    run_demo(server)
    active = CallbackSecret.objects.filter(disabled_at__isnull=True)
    assert [(secret.pk, secret.is_current) for secret in active] == [(own.pk, True)]
    assert CallbackSecret.objects.count() == 3


@pytest.mark.usefixtures("worker")
def test_callback_that_is_not_genuine_fails_the_demo(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.engine.callback_headers", lambda **given: {"webhook-id": "1"})
    with pytest.raises(CommandError, match="not one that is genuine"):
        run_demo(server)


@pytest.mark.usefixtures("worker")
def test_callback_that_does_not_come_fails_the_demo(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CALLBACK_DEADLINE", 0.05)
    monkeypatch.setattr("tests.batches.test_demo.deliver", lambda: 0)
    with pytest.raises(CommandError, match=r"No callback came within 0\.05 s"):
        run_demo(server)


@pytest.mark.usefixtures("worker")
def test_curl_lines_of_keep_work_as_printed(server: LiveServer) -> None:
    shown = run_demo(server, "--keep")
    read, write = (_curl(line) for line in re.findall(r"(curl (?:.*\\\n)+.*) \| ", shown))
    assert (read.status_code, read.json()["status_code"]) == (200, "succeeded")
    assert (write.status_code, write.json()["items_total"]) == (201, 1)


def _curl(line: str) -> httpx.Response:
    """Does what curl would, for the options that the demo prints."""
    words = iter(shlex.split(line)[1:])
    headers: dict[str, str] = {}
    more: dict[str, Any] = {"method": "GET"}
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            more = {"method": "POST", "json": json.loads(next(words))}
        elif word != "-s":
            more["url"] = word
    return httpx.request(headers=headers, trust_env=False, **more)


@pytest.mark.usefixtures("worker")
def test_failed_item_is_shown_and_fails_the_demo(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "images" / "torn.jpg").write_bytes(b"not a picture")
    out = io.StringIO()
    with pytest.raises(CommandError, match=r"(?s)1 of 3 items did not succeed:.*torn\.jpg: failed, EXECUTION_FAILED: "):
        run_demo(server, out=out)
    assert re.search(r"2 +torn.jpg +failed +- x - +\$0.00", out.getvalue())
    assert re.search(r"total +2 of 3 +\$1.10", out.getvalue())
    assert not (tmp_path / "demo").exists()


@pytest.mark.usefixtures("worker")
def test_repetition_that_makes_a_second_batch_fails_the_demo(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IdempotencyMiddleware, "answer", lambda self, request: self.get_response(request))
    with pytest.raises(CommandError, match="was not answered with the first one's answer"):
        run_demo(server)


@pytest.mark.usefixtures("worker")
def test_bad_item_that_is_accepted_fails_the_demo(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"image_url": "data:image/png;base64,AAAA", "aspect_ratio": "1:1", "resolution": "1K"}
    monkeypatch.setattr(demo, "BAD_ITEM", good)
    with pytest.raises(CommandError, match="answered 201 None instead of 422"):
        run_demo(server)


def test_batch_that_nobody_works_on_fails_the_demo(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEADLINE", 0.05)
    with pytest.raises(CommandError, match=r"is still queued after 0\.05 s, 0 of 2 items done\. Is a worker running\?"):
        run_demo(server)


def test_model_that_is_not_in_the_catalogue_is_named_with_the_remedy(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "RESIZE", "/v1/models/runflow/no-such/batches")
    with pytest.raises(CommandError, match=r"runflow/no-such.*not in the server's catalogue.*import_models"):
        run_demo(server)
    assert not Batch.objects.exists()


def test_server_that_is_not_there_is_said_so() -> None:
    with pytest.raises(CommandError, match=r"http://127\.0\.0\.1:9/.* cannot be reached .*make up"):
        call_command("demo", "--base-url", "http://127.0.0.1:9", stdout=io.StringIO())
