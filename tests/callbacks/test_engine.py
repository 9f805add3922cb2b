"""Sending for real: sockets on loopback, a receiver that answers as it is told, and what is written down of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from standardwebhooks import Webhook

from callbacks import engine, lifecycle
from callbacks.models import CallbackAttempt, CallbackDelivery, CallbackSecret
from callbacks.services import create_secret, update_secret
from callbacks.signing import runflow_signature
from tests.conftest import Rung
from tests.factories import make_delivery, make_organization
from tests.receivers import receiver
from tests.threads import InThread, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _loopback_is_open(settings: Any) -> None:
    settings.OUTBOUND_ALLOW = (ip_network("127.0.0.0/8"),)
    settings.CALLBACK_TIMEOUT = timedelta(seconds=5)


def make_due() -> None:
    CallbackDelivery.objects.filter(next_attempt_at__isnull=False).update(
        next_attempt_at=timezone.now() - timedelta(seconds=1)
    )


def log() -> list[tuple[Any, ...]]:
    rows = CallbackAttempt.objects.order_by("delivery_id", "attempt_number")
    return list(rows.values_list("attempt_number", "status_code", "response_body", "error_message"))


def test_the_body_is_sent_as_it_was_frozen_with_both_signatures() -> None:
    organization = make_organization()
    old, old_secret = create_secret(organization=organization, label="old")
    new, new_secret = create_secret(organization=organization, label="new")
    update_secret(secret_id=new.pk, organization=organization, label=None, is_current=True)
    body = '{"event": "batch.succeeded",  "ä": 1.50}'.encode()
    with receiver() as server:
        delivery = make_delivery(organization=organization, callback_url=server.url + "?a=1&b=%20", payload=body)
        assert engine.deliver() == 1
    ((headers, sent),) = server.seen
    assert sent == body
    assert headers["content-type"] == "application/json"
    assert headers["runflow-request-id"] == "the-request"
    assert headers["webhook-id"] == str(delivery.pk)
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["runflow-signature"] == runflow_signature(secret=new_secret, body=body)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old_secret, new_secret):
        assert Webhook(secret).verify(body.decode(), headers) == json.loads(body)
    delivery.refresh_from_db()
    assert (delivery.status_code, delivery.attempt_count, delivery.signing_secret_id) == ("delivered", 1, new.pk)
    used = CallbackSecret.objects.get(pk=new.pk).last_used_at
    assert used is not None
    assert log() == [(1, 200, "ok", None)]
    assert old.last_used_at is None


def test_without_a_secret_nothing_is_signed_and_it_is_sent_all_the_same() -> None:
    with receiver() as server:
        delivery = make_delivery(callback_url=server.url, request_id="")
        engine.deliver()
    ((headers, _),) = server.seen
    assert {"runflow-signature", "webhook-signature"}.isdisjoint(headers)
    assert headers["webhook-id"] == headers["runflow-request-id"] == str(delivery.pk)


def test_two_500s_a_timeout_and_a_200_are_one_delivery_in_four_attempts_with_new_timestamps(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CALLBACK_TIMEOUT = timedelta(seconds=0.3)
    organization = make_organization()
    create_secret(organization=organization, label="a")
    released = threading.Event()
    clock = iter(range(100))
    begin = timezone.now()
    monkeypatch.setattr(
        "callbacks.engine.timezone", SimpleNamespace(now=lambda: begin + timedelta(seconds=next(clock)))
    )

    def hang(handler: Any) -> None:
        released.wait(10)

    with receiver(500, 500, hang, 200) as server:
        delivery = make_delivery(organization=organization, callback_url=server.url)
        for _ in range(4):
            make_due()
            engine.deliver()
        released.set()
    assert [body for _, body in server.seen] == [bytes(delivery.payload)] * 4
    assert {headers["webhook-id"] for headers, _ in server.seen} == {str(delivery.pk)}
    assert len({headers["runflow-signature"] for headers, _ in server.seen}) == 1, "it covers the body only"
    assert len({headers["webhook-timestamp"] for headers, _ in server.seen}) == 4
    assert len({headers["webhook-signature"] for headers, _ in server.seen}) == 4
    delivery.refresh_from_db()
    assert (delivery.status_code, delivery.attempt_count) == ("delivered", 4)
    assert log() == [
        (1, 500, "ok", None),
        (2, 500, "ok", None),
        (3, None, None, "The URL did not answer in time."),
        (4, 200, "ok", None),
    ]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    with receiver() as other:

        def redirect(handler: Any) -> None:
            handler.answer(status, b"", Location=other.url)

        with receiver(redirect) as server:
            make_delivery(callback_url=server.url)
            engine.deliver()
    assert len(server.seen) == 1
    assert other.seen == []
    assert log() == [(1, status, "", None)]
    assert CallbackDelivery.objects.get().status_code == "pending"


def test_410_ends_it() -> None:
    with receiver(410, 200) as server:
        make_delivery(callback_url=server.url)
        engine.deliver()
        make_due()
        assert engine.deliver() == 0
    assert len(server.seen) == 1
    row = CallbackDelivery.objects.get()
    assert (row.status_code, row.failure_reason_code) == ("failed", "gone")


def test_retry_after_puts_the_next_attempt_off() -> None:
    def busy(handler: Any) -> None:
        handler.answer(503, b"", Retry_After="7200")

    with receiver(busy) as server:
        make_delivery(callback_url=server.url)
        engine.deliver()
    due = CallbackDelivery.objects.get().next_attempt_at
    assert due is not None
    assert timedelta(minutes=119) < due - timezone.now() <= timedelta(hours=2)


def test_8_kib_of_the_answer_are_kept_as_text_that_can_be_stored() -> None:
    with receiver(lambda handler: handler.answer(200, b"\x00\xff" + b"a" * 20_000)) as server:
        make_delivery(callback_url=server.url)
        engine.deliver()
    ((_, _, kept, _),) = log()
    assert kept == "��" + "a" * (8 * 1024 - 2)
    assert CallbackDelivery.objects.get().status_code == "delivered"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://10.0.0.1/", "The URL's address is not allowed."),
        ("http://127.0.0.1:1/", "The connection to the URL failed."),
        ("ftp://shop.example/", "The URL must use http or https."),
    ],
)
def test_what_cannot_be_sent_is_an_attempt_with_its_error(url: str, error: str) -> None:
    make_delivery(callback_url=url)
    assert engine.deliver() == 1
    assert log() == [(1, None, None, error)]
    assert CallbackDelivery.objects.get().status_code == "pending"


def test_a_secret_that_cannot_be_read_sends_nothing_and_is_tried_again(settings: Any) -> None:
    organization = make_organization()
    create_secret(organization=organization, label="a")
    keys = settings.ENCRYPTION_KEYS
    settings.ENCRYPTION_KEYS = ["b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItMDA="]
    with receiver() as server:
        make_delivery(organization=organization, callback_url=server.url)
        make_delivery(callback_url=server.url)
        assert engine.deliver() == 2
        assert len(server.seen) == 1, "the other organisation's"
        assert log()[0] == (1, None, None, "The secrets that sign this callback cannot be read at the moment.")
        settings.ENCRYPTION_KEYS = keys
        make_due()
        engine.deliver()
    assert len(server.seen) == 2
    assert "runflow-signature" in server.seen[1][0]


def test_no_transaction_is_open_while_the_receiver_thinks() -> None:
    states: list[str] = []

    def look(handler: Any) -> None:
        with connection.cursor() as cursor:  # this thread's own
            cursor.execute(
                "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            states.extend(row[0] for row in cursor.fetchall())
        connection.close()
        handler.answer(200)

    with receiver(look) as server:
        make_delivery(callback_url=server.url)
        engine.deliver()
    assert set(states) == {"idle"}


def test_a_slow_receiver_holds_up_nobody_also_not_who_comes_later(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead host has more callbacks than places, all of them hang; the other one's arrive meanwhile."""
    settings.CALLBACK_HOST_CONCURRENCY = 2
    released = threading.Event()
    looks: list[int] = []

    def claim(*, limit: int) -> list[lifecycle.ClaimedDelivery]:
        claimed = lifecycle.claim_deliveries(limit=limit)
        looks.append(len(claimed))
        return claimed

    monkeypatch.setattr(engine, "claim_deliveries", claim)

    def hang(handler: Any) -> None:
        released.wait(30)
        handler.answer(200)

    with receiver(*[hang] * 10, host="127.0.0.2") as dead, receiver() as alive:
        for _ in range(5):
            make_delivery(callback_url=dead.url)
        make_delivery(callback_url=alive.url)
        with InThread(engine.deliver) as task:
            wait_until(lambda: CallbackDelivery.objects.filter(status_code="delivered").exists(), what="the first")
            looked = len(looks)
            wait_until(lambda: len(looks) > looked, what="it to look again, with only the dead one's under way")
            wait_until(lambda: len(dead.seen) == 2, what="both places of the dead one to be taken")
            make_delivery(callback_url=alive.url)
            wait_until(lambda: len(alive.seen) == 2, what="the later one")
            wait_until(
                lambda: CallbackDelivery.objects.filter(status_code="delivered").count() == 2,
                what="both to be written down",
            )
            assert len(dead.seen) == 2, "no more than two at a time"
            assert not task.is_done
            released.set()
        assert task.result == 7
    assert len(dead.seen) == 5


def test_a_slice_that_is_over_claims_no_more_waits_for_what_it_sent_and_rings_again(settings: Any, rung: Rung) -> None:
    settings.CALLBACK_SLICE = timedelta(0)
    settings.CALLBACK_HOST_CONCURRENCY = 1
    with receiver() as server:
        make_delivery(callback_url=server.url)
        make_delivery(callback_url=server.url)
        rung.calls.clear()
        assert engine.deliver() == 1
        assert rung.calls == [("callbacks.deliver", ())]
        assert engine.deliver() == 1
    assert len(server.seen) == 2


def test_with_nothing_due_it_makes_one_claim_and_rings_nothing(rung: Rung, count_queries: Callable[..., Any]) -> None:
    with count_queries() as log:
        assert engine.deliver() == 0
    assert len(log.captured_queries) == 4
    assert rung.calls == []


def test_the_sweep_gives_back_what_a_dead_worker_held_and_rings_when_something_is_due(rung: Rung) -> None:
    make_delivery()
    lifecycle.claim_deliveries(limit=1)
    rung.calls.clear()
    engine.sweep()
    assert rung.calls == []
    CallbackDelivery.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    engine.sweep()
    assert CallbackDelivery.objects.get().lease_expires_at is None
    assert rung.calls == [], "its pause has not passed"
    make_due()
    engine.sweep()
    assert rung.calls == [("callbacks.deliver", ())]


def test_one_sweep_gives_back_all_expired_leases_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        make_delivery()
    lifecycle.claim_deliveries(limit=5)
    CallbackDelivery.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    monkeypatch.setattr(engine, "SWEEP_LIMIT", 2)
    monkeypatch.setattr(engine, "return_expired", partial(lifecycle.return_expired, limit=2))
    engine.sweep()
    assert CallbackDelivery.objects.filter(lease_expires_at=None).count() == 5


def test_no_more_are_on_their_way_than_a_worker_has_places(settings: Any) -> None:
    settings.CALLBACK_CONCURRENCY, settings.CALLBACK_HOST_CONCURRENCY = 2, 10
    on_their_way: list[int] = []

    def look(handler: Any) -> None:
        on_their_way.append(CallbackDelivery.objects.filter(lease_expires_at__isnull=False).count())
        connection.close()  # this thread's own
        handler.answer(200)

    with receiver(*[look] * 6) as server:
        for _ in range(6):
            make_delivery(callback_url=server.url)
        assert engine.deliver() == 6
    assert max(on_their_way) == 2


def test_a_fault_of_ours_is_an_attempt_like_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **given: Any) -> None:
        raise RuntimeError("secret inside")

    make_delivery()
    monkeypatch.setattr("runflow.lib.outbound.post", broken)
    assert engine.deliver() == 1
    assert log() == [(1, None, None, "Something went wrong on our side.")]
    assert CallbackDelivery.objects.get().lease_expires_at is None
    assert "could not be sent" in caplog.text
