"""Callbacks through real workers: a receiver that fails, one that hangs, and a worker that dies between send and record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import redis
from standardwebhooks import Webhook

from callbacks.models import CallbackAttempt, CallbackDelivery
from callbacks.services import create_secret
from tests.e2e.processes import Stack, running_stack
from tests.factories import make_batch, make_organization
from tests.receivers import receiver
from tests.threads import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

# Seconds; more than one, so that the timestamps of two attempts differ.
PAUSE = 1.2
ENV = {
    "OUTBOUND_ALLOW": "127.0.0.1/32",
    "CALLBACK_TIMEOUT_SECONDS": "1",
    "CALLBACK_LEASE_SECONDS": "3",
    "CALLBACK_RETRY_DELAYS_SECONDS": ",".join([str(PAUSE)] * 5),
}


@pytest.fixture
def stack(tmp_path: Path, settings: Any) -> Iterator[Stack]:
    # The batch is made here, and the rest happens in the workers.
    settings.OUTBOUND_ALLOW = (ip_network("127.0.0.1/32"),)
    broker = redis.Redis.from_url(settings.REDIS_URL)
    broker.flushdb()
    with running_stack(tmp_path) as stack:
        yield stack
    broker.flushdb()
    broker.close()


def wait_for_delivery(status: str) -> CallbackDelivery:
    wait_until(
        lambda: CallbackDelivery.objects.filter(status_code=status).count() == 1,
        what=f"one delivery that is {status}",
        deadline=60.0,
    )
    return CallbackDelivery.objects.get()


def attempts() -> list[tuple[Any, ...]]:
    return list(
        CallbackAttempt.objects.order_by("attempt_number").values_list("attempt_number", "status_code", "error_message")
    )


def test_two_500s_a_timeout_and_a_200_are_one_delivered_row_and_four_attempts(stack: Stack) -> None:
    organization = make_organization()
    _, secret = create_secret(organization=organization, label="a")
    released = threading.Event()

    def hang(handler: Any) -> None:
        released.wait(60)

    with receiver(500, 500, hang, 200) as server:
        stack.worker(**ENV)
        stack.beat()
        batch, _ = make_batch(organization=organization, callback_url=server.url)
        delivery = wait_for_delivery("delivered")
        released.set()
    assert (delivery.subject_id, delivery.attempt_count, delivery.is_automatic) == (batch.pk, 4, True)
    assert attempts() == [
        (1, 500, None),
        (2, 500, None),
        (3, None, "The URL did not answer in time."),
        (4, 200, None),
    ]
    assert len(server.seen) == 4
    assert {body for _, body in server.seen} == {bytes(delivery.payload)}
    assert {headers["webhook-id"] for headers, _ in server.seen} == {str(delivery.pk)}
    assert len({headers["webhook-timestamp"] for headers, _ in server.seen}) == 4
    for headers, body in server.seen:
        assert Webhook(secret).verify(body.decode(), headers)["batch_id"] == str(batch.pk)


def test_a_worker_killed_between_send_and_record_loses_nothing(stack: Stack) -> None:
    arrived, released = threading.Event(), threading.Event()

    def hold(handler: Any) -> None:
        arrived.set()
        released.wait(60)

    with receiver(hold, 200) as server:
        first = stack.worker(**ENV | {"CALLBACK_TIMEOUT_SECONDS": "60", "CALLBACK_LEASE_SECONDS": "150"})
        stack.beat()
        make_batch(callback_url=server.url)
        assert arrived.wait(60), "the callback did not arrive"
        first.kill()
        released.set()
        # As if its lease had run out: the other worker need not wait for that.
        assert CallbackDelivery.objects.filter(lease_expires_at__isnull=False).update(
            lease_expires_at="2020-01-01T00:00Z"
        )
        stack.worker(**ENV)
        delivery = wait_for_delivery("delivered")
    assert delivery.attempt_count == 2
    assert attempts() == [
        (1, None, "The worker that sent this disappeared; whether it arrived is not known."),
        (2, 200, None),
    ]
    assert [body for _, body in server.seen] == [bytes(delivery.payload)] * 2
    assert CallbackDelivery.objects.count() == 1
