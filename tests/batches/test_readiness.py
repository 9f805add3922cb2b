"""`GET /v1/readiness`, `manage.py worker_health` and the heartbeats behind them: progress, not processes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import Client
from django.utils import timezone

from batches import driver, engine, heartbeat, lifecycle
from batches.api import readiness
from batches.models import Heartbeat, Run, RunStatus
from batches.progress import Progress, read_progress
from batches.retry import Settlement
from callbacks.lifecycle import claim_deliveries
from callbacks.models import CallbackAttempt, CallbackDelivery
from models_registry.models import Endpoint, Provider, ProviderStatus
from tests.conftest import Rung
from tests.contract.checks import assert_matches, json_of
from tests.factories import make_attempt, make_batch, make_delivery, make_model, make_organization
from tests.scripted import ADAPTERS, make_servers
from tests.threads import InThread, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = timedelta(seconds=60)


@pytest.fixture(autouse=True)
def _fresh(settings: Any) -> Iterator[None]:
    settings.PROVIDER_ADAPTERS = settings.PROVIDER_ADAPTERS | ADAPTERS
    readiness.prober.forget()
    yield
    readiness.prober.forget()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield int(listener.getsockname()[1])


def ask() -> Any:
    readiness.prober.forget()
    return Client(raise_request_exception=False).get("/v1/readiness")


def put_broker(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"redis://127.0.0.1:{port}/0")


def put_database(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Where connections that are opened from now on find it."""
    monkeypatch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connection.settings_dict, "PORT", str(port))


def ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


def waiting_run(seconds: float = 3600, **more: Any) -> Run:
    """A run that has been due for so long."""
    batch, _ = make_batch(**more)
    Run.objects.filter(batch=batch).update(due_at=ago(seconds))
    return batch.runs.get()


def due_callback(seconds: float = 3600) -> CallbackDelivery:
    delivery = make_delivery()
    CallbackDelivery.objects.update(next_attempt_at=ago(seconds))
    return delivery


# --- The route --------------------------------------------------------------------------------------------------------


def test_a_server_at_work_is_ok(rung: Rung) -> None:
    engine.sweep()
    response = ask()
    body = json_of(response)
    assert response.status_code == 200
    assert_matches("Health", body)
    assert 0 <= body["progress"].pop("last_sweep_seconds") < 30
    assert body == {
        "status": "ok",
        "database": "ok",
        "broker": "ok",
        "reasons": [],
        "progress": {
            "oldest_claimable_run_seconds": None,
            "last_claim_seconds": None,
            "oldest_due_callback_seconds": None,
            "last_callback_attempt_seconds": None,
        },
    }


def test_the_progress_is_in_the_answer(rung: Rung) -> None:
    engine.sweep()
    run = waiting_run(10)
    heartbeat.beat(heartbeat.claim_of(run.provider_id))
    delivery = due_callback(20)
    CallbackAttempt.objects.create(delivery=delivery, attempt_number=1, created_at=ago(30))
    Heartbeat.objects.filter(name__startswith="claim").update(beat_at=ago(40))
    body = json_of(ask())
    assert (body["status"], body["reasons"]) == ("ok", [])
    # Each is within the ten seconds that a busy machine may need for this test.
    expected = {
        "oldest_claimable_run_seconds": 10,
        "last_claim_seconds": 40,
        "last_sweep_seconds": 0,
        "oldest_due_callback_seconds": 20,
        "last_callback_attempt_seconds": 30,
    }
    assert {name: int(age) // 10 * 10 for name, age in body["progress"].items()} == expected


@pytest.mark.parametrize("port", ["closed_port", "silent_port"])
def test_without_a_broker_it_is_degraded_and_says_so_soon(
    port: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, rung: Rung
) -> None:
    engine.sweep()
    put_broker(monkeypatch, request.getfixturevalue(port))
    start = time.monotonic()
    response = ask()
    took = time.monotonic() - start
    body = json_of(response)
    assert (response.status_code, body["status"], body["broker"]) == (200, "degraded", "unavailable")
    assert body["reasons"] == ["The broker does not answer."]
    assert body["progress"]["last_sweep_seconds"] is not None
    assert took < 5, "a broker that hangs costs a second"


def test_without_a_database_it_is_unavailable(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    put_database(monkeypatch, closed_port)
    with InThread(ask) as asked:
        pass
    response = asked.result
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert json_of(response) == {
        "status": "unavailable",
        "code": "SERVICE_UNAVAILABLE",
        "message": "The database does not answer.",
        "errors": None,
        "database": "unavailable",
        "broker": "ok",
        "reasons": ["The database does not answer."],
        "progress": None,
    }
    assert_matches("ErrorResponse", json_of(response))


def test_it_wants_no_key_and_minds_none() -> None:
    headers = {"Authorization": "Bearer rf_live_nobody"}
    assert Client().get("/v1/readiness").status_code == 200
    assert (
        Client().get("/v1/readiness", headers=headers).status_code
        == Client().get("/v1/health", headers=headers).status_code
    )


def test_however_often_it_is_asked_the_servers_are_asked_once_a_second(count_queries: Callable[..., Any]) -> None:
    def statements() -> int:
        with count_queries() as log:
            assert Client().get("/v1/readiness").status_code == 200
        return len(log)

    assert statements() == 4  # begin, the time limit, the question, commit
    assert [statements() for _ in range(5)] == [0] * 5
    readiness.prober.forget()
    assert statements() == 4


def test_a_database_that_hangs_holds_up_one_thread(monkeypatch: pytest.MonkeyPatch, silent_port: int) -> None:
    """The guard: PATIENCE. Without it every thread of the server would wait for the first one's answer."""
    monkeypatch.setattr(readiness, "PATIENCE", 0.05)
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "connect_timeout", 2)
    is_asked = threading.Event()
    look = readiness._look

    def looking() -> readiness.Readiness:
        is_asked.set()
        return look()

    monkeypatch.setattr(readiness, "_look", looking)
    put_database(monkeypatch, silent_port)
    with InThread(ask) as first:
        assert is_asked.wait(10)
        others = [InThread(lambda: Client().get("/v1/readiness")).start() for _ in range(3)]
        wait_until(lambda: all(other.is_done for other in others), what="those who wait no longer")
        assert not first.is_done
    assert [other.result.status_code for other in others] == [503] * 3
    assert others[0].result.json()["broker"] == "unknown"
    assert first.result.status_code == 503


# --- What stands still ------------------------------------------------------------------------------------------------


ALIVE = Progress(
    oldest_claimable_run=None,
    oldest_unattended_run=None,
    last_claim=1.0,
    last_sweep=1.0,
    oldest_due_callback=None,
    last_callback_attempt=None,
    is_sending=False,
)
CALLBACK = "A callback has been due for 61 s and none is sent."


@pytest.mark.parametrize(
    ("change", "stalls"),
    [
        ({}, ()),
        ({"oldest_claimable_run": 3600.0}, ()),
        ({"oldest_unattended_run": 61.0}, ("A run has waited for 61 s at a provider where nothing is claimed.",)),
        ({"last_sweep": 60.0}, ()),
        ({"last_sweep": 61.0}, ("No sweep has come to its end for 61 s.",)),
        ({"last_sweep": None}, ("No sweep has ever come to its end.",)),
        ({"last_claim": None}, ()),
        ({"oldest_due_callback": 61.0}, (CALLBACK,)),
        ({"oldest_due_callback": 60.0}, ()),
        ({"oldest_due_callback": 61.0, "last_callback_attempt": 60.0}, ()),
        ({"oldest_due_callback": 61.0, "last_callback_attempt": 61.0}, (CALLBACK,)),
        ({"oldest_due_callback": 61.0, "is_sending": True}, ()),
        ({"last_sweep": None, "oldest_due_callback": 61.0}, ("No sweep has ever come to its end.", CALLBACK)),
    ],
)
def test_what_stands_still_is_told(change: dict[str, Any], stalls: tuple[str, ...]) -> None:
    assert replace(ALIVE, **change).stalls(limit=LIMIT) == stalls


def unattended() -> bool:
    progress = read_progress(limit=LIMIT)
    assert progress.oldest_claimable_run is not None
    return progress.oldest_unattended_run is not None


def test_a_run_is_unattended_once_nobody_has_claimed_at_its_provider_for_the_limit() -> None:
    model = make_model()
    run = waiting_run(50, model=model)
    assert not unattended()
    Run.objects.update(due_at=ago(70))
    assert unattended()
    heartbeat.beat(heartbeat.claim_of(run.provider_id))
    assert not unattended()
    Heartbeat.objects.update(beat_at=ago(70))
    # Claims elsewhere do not help it.
    heartbeat.beat(heartbeat.claim_of(waiting_run(0).provider_id))
    assert unattended()
    # All places of its provider may be taken by long ones.
    make_batch(model=model)
    claimed = lifecycle.claim_runs(provider_id=run.provider_id, limit=1)
    Run.objects.filter(provider_id=run.provider_id, status_code="queued").update(due_at=ago(70))
    assert not unattended()
    # … and when those are done it is again.
    lifecycle.settle(settlements=[Settlement(claimed[0].id, 1, RunStatus.CANCELED)])
    assert unattended()


@pytest.mark.parametrize("why", ["paused", "endpoints paused", "cap", "later"])
def test_a_run_that_nobody_may_claim_does_not_count(why: str) -> None:
    organization = make_organization(max_in_flight=1)
    if why == "endpoints paused":
        provider, _ = make_servers(2)
        Endpoint.objects.update(status_code=ProviderStatus.PAUSED)
        waiting_run(model=make_model(provider=provider))
    elif why == "cap":
        batch, _ = make_batch(organization=organization)
        lifecycle.claim_runs(provider_id=batch.runs.get().provider_id, limit=1)
        waiting_run(organization=organization)
    elif why == "paused":
        waiting_run()
        Provider.objects.update(status_code=ProviderStatus.PAUSED)
    else:
        waiting_run(-3600)
    progress = read_progress(limit=LIMIT)
    assert (progress.oldest_claimable_run, progress.oldest_unattended_run) == (None, None)


def test_the_oldest_of_all_providers_and_organizations_counts() -> None:
    models, organizations = [make_model() for _ in range(3)], [make_organization() for _ in range(3)]
    for number, (model, organization) in enumerate((m, o) for m in models for o in organizations):
        waiting_run(100 * number, model=model, organization=organization)
        waiting_run(-100, model=model, organization=organization)
    oldest = read_progress(limit=LIMIT).oldest_claimable_run
    assert oldest is not None
    assert 800 <= oldest < 900


def test_a_callback_that_is_being_sent_is_not_due() -> None:
    due_callback()
    before = read_progress(limit=LIMIT)
    claim_deliveries(limit=1)
    after = read_progress(limit=LIMIT)
    assert before.oldest_due_callback is not None
    assert (before.is_sending, after.is_sending, after.oldest_due_callback) == (False, True, None)


def test_a_callback_that_is_due_later_is_not_due() -> None:
    make_delivery()
    CallbackDelivery.objects.update(next_attempt_at=timezone.now() + timedelta(minutes=5))
    assert read_progress(limit=LIMIT).oldest_due_callback is None


# --- Heartbeats -------------------------------------------------------------------------------------------------------


def test_what_was_done_after_the_question_was_asked_was_done_just_now() -> None:
    """A statement sees what was committed after its own moment, and ages are counted from that."""
    later = timezone.now() + timedelta(seconds=5)
    Heartbeat.objects.create(name=heartbeat.SWEEP, beat_at=later)
    attempt = make_attempt()
    CallbackAttempt.objects.filter(pk=attempt.pk).update(created_at=later)
    progress = read_progress(limit=LIMIT)
    assert (progress.last_sweep, progress.last_callback_attempt) == (0.0, 0.0)


def test_a_sweep_beats_when_it_came_to_its_end(rung: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine, "ring_endpoints", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.sweep()
    assert list(Heartbeat.objects.all()) == []
    before = timezone.now()
    engine.sweep()
    assert Heartbeat.objects.get().name == heartbeat.SWEEP
    assert Heartbeat.objects.get().beat_at >= before - timedelta(seconds=1)


def test_a_slice_of_work_beats_once_for_its_provider_and_one_that_finds_nothing_does_not(
    count_queries: Callable[..., Any],
) -> None:
    provider = Provider.objects.get(
        pk=make_batch(items=[{"text": str(n)} for n in range(3)])[0].runs.all()[0].provider_id
    )
    Provider.objects.update(claim_size=1)
    with count_queries() as log:
        assert engine.execute(provider_id=provider.pk) == 3
    assert [beat.name for beat in Heartbeat.objects.all()] == [f"claim {provider.pk}"]
    assert sum("batches_heartbeat" in each["sql"] for each in log.captured_queries) == 1
    Heartbeat.objects.all().delete()
    assert engine.execute(provider_id=provider.pk) == 0
    assert list(Heartbeat.objects.all()) == []


def test_a_driver_beats_for_its_provider_when_it_has_claimed(rung: Rung) -> None:
    provider, (server,) = make_servers(1)
    server.on_poll = server.finish
    endpoint = Endpoint.objects.get(provider=provider)
    driver.drive(endpoint_id=endpoint.pk)
    assert list(Heartbeat.objects.all()) == []
    make_batch(model=make_model(provider=provider))
    assert driver.drive(endpoint_id=endpoint.pk) == 1
    assert [beat.name for beat in Heartbeat.objects.all()] == [f"claim {provider.pk}"]


def test_at_most_one_beat_a_second_is_written() -> None:
    heartbeat.beat("x")
    first = Heartbeat.objects.get().beat_at
    heartbeat.beat("x")
    assert Heartbeat.objects.get().beat_at == first
    Heartbeat.objects.update(beat_at=first - timedelta(seconds=2))
    heartbeat.beat("x")
    assert Heartbeat.objects.get().beat_at > first


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_says_in_one_line_how_it_goes(rung: Rung, capsys: pytest.CaptureFixture[str]) -> None:
    engine.sweep()
    Heartbeat.objects.update(beat_at=timezone.now())
    call_command("worker_health")
    output = capsys.readouterr().out
    start = "ok: oldest claimable run none, last claim none, last sweep "
    assert (output.startswith(start), output.endswith(" s, last callback attempt none\n")) == (True, True)


def test_the_command_fails_with_what_stands_still(rung: Rung) -> None:
    engine.sweep()
    waiting_run(100)
    with pytest.raises(CommandError, match=r"^A run has waited for 1\d\d s at a provider where nothing is claimed\.$"):
        call_command("worker_health")
    call_command("worker_health", "--max-age", "600", stdout=StringIO())
    Heartbeat.objects.update(beat_at=ago(700))
    with pytest.raises(CommandError, match=r"^No sweep has come to its end for 7\d\d s\.$"):
        call_command("worker_health", "--max-age", "600")


def test_the_command_fails_without_a_database(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    put_database(monkeypatch, closed_port)
    with InThread(lambda: call_command("worker_health")) as asked:
        pass
    with pytest.raises(CommandError, match=r"^The database does not answer\.$"):
        _ = asked.result
