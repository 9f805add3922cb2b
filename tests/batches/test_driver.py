"""Driving servers: nothing waits, nothing is lost, nothing is done twice that anybody could have known of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import F
from django.utils import timezone

from assets.models import Asset
from batches import driver, endpoints, engine, heartbeat, lifecycle
from batches.endpoints import share_of
from batches.models import Batch, Run
from models_registry.models import Endpoint, Model, Provider, ProviderStatus
from providers.base import Accepted, Canceled, Done, Job, Rejected, Submitted, Unavailable, Unknown, Waiting
from tests.conftest import Rung
from tests.factories import make_batch, make_model
from tests.scripted import ADAPTERS, ScriptedConnection, Server, make_servers
from tests.threads import InThread, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _scripted(settings: Any) -> None:
    settings.PROVIDER_ADAPTERS = settings.PROVIDER_ADAPTERS | ADAPTERS
    settings.EXECUTE_SLICE = timedelta(seconds=5)


def one_server(number: int = 1, **more: Any) -> tuple[Endpoint, Server, Batch]:
    """A server, and a batch of so many runs for it."""
    provider, (server,) = make_servers(1, **more)
    batch, _ = make_batch(model=make_model(provider=provider), items=[{"text": str(n)} for n in range(number)])
    return Endpoint.objects.get(provider=provider), server, batch


def statuses() -> list[str]:
    return list(Run.objects.order_by("pk").values_list("status_code", flat=True))


def end_slices_at_once(settings: Any) -> None:
    settings.EXECUTE_SLICE = timedelta(0)


def make_due() -> None:
    Run.objects.filter(status_code="queued").update(due_at=timezone.now() - timedelta(seconds=1))


# --- The way of a run -------------------------------------------------------------------------------------------------


def test_a_batch_goes_through_a_server_inside_its_places() -> None:
    endpoint, server, batch = one_server(5, max_in_flight=2)
    server.on_poll = server.finish
    assert driver.drive(endpoint_id=endpoint.pk) == 5
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded) == ("succeeded", 5)
    assert server.most_at_once == 2
    assert len(set(server.ids())) == 5
    assert sorted(server.collected) == sorted(server.ids())
    runs = Run.objects.order_by("pk")
    assert {run.provider_job_id for run in runs} == set(server.ids())
    assert {(run.endpoint_id, run.nodes_total, run.nodes_completed, run.attempt) for run in runs} == {
        (endpoint.pk, 3, 3, 1)
    }
    endpoint.refresh_from_db()
    assert (endpoint.driver_token, endpoint.driver_lease_expires_at, endpoint.down_since) == (None, None, None)


def test_the_job_id_is_stored_before_anything_is_sent() -> None:
    endpoint, server, _ = one_server()
    stored: list[tuple[str, str | None]] = []

    def look(job: Job) -> Submitted:
        stored.append((job.job_id, Run.objects.get().provider_job_id))
        return Rejected("PROVIDER_REJECTED", "No.")

    server.on_submit = look
    driver.drive(endpoint_id=endpoint.pk)
    ((sent, kept),) = stored
    assert sent == kept == str(UUID(sent))


def test_no_transaction_is_open_while_the_server_is_spoken_to() -> None:
    endpoint, server, _ = one_server()
    states: list[bool] = []

    def look() -> None:
        states.append(connection.in_atomic_block)
        server.finish()

    server.on_poll = server.on_collect = look
    driver.drive(endpoint_id=endpoint.pk)
    assert states
    assert set(states) == {False}


def test_a_slice_that_is_over_leaves_its_jobs_and_rings_and_the_next_one_goes_on(settings: Any, rung: Rung) -> None:
    end_slices_at_once(settings)
    endpoint, server, batch = one_server(2)
    heartbeat.beat(heartbeat.SWEEP)
    rung.calls.clear()
    assert driver.drive(endpoint_id=endpoint.pk) == 0
    assert statuses() == ["running", "running"]
    assert rung.calls == [("batches.drive", (str(endpoint.pk),))]
    server.finish()
    assert driver.drive(endpoint_id=endpoint.pk) == 2
    assert len(server.submitted) == 2, "nothing is sent twice"
    batch.refresh_from_db()
    assert batch.status_code == "succeeded"


def test_a_driver_that_is_never_idle_sweeps_by_itself_when_no_sweep_came(settings: Any, rung: Rung) -> None:
    end_slices_at_once(settings)
    endpoint, _, _ = one_server(2)
    driver.drive(endpoint_id=endpoint.pk)
    assert not heartbeat.is_late(heartbeat.SWEEP, after=settings.SWEEP_INTERVAL)


def test_the_places_are_filled_before_outputs_are_collected() -> None:
    endpoint, server, _ = one_server(2, max_in_flight=1)
    at_the_server: list[int] = []
    server.on_poll = server.finish
    server.on_collect = lambda: at_the_server.append(len(server.submitted))
    driver.drive(endpoint_id=endpoint.pk)
    assert set(at_the_server) == {2}, "the second was sent before the first was fetched"


def test_the_places_are_filled_when_half_of_them_are_free() -> None:
    endpoint, server, _ = one_server(8, max_in_flight=4)
    sent: list[int] = []

    def finish_the_oldest() -> None:
        sent.append(len(server.submitted))
        server.finish(next(job_id for job_id, state in server.states.items() if isinstance(state, Waiting)))

    server.on_poll = finish_the_oldest
    assert driver.drive(endpoint_id=endpoint.pk) == 8
    assert sent == [4, 4, 6, 6, 8, 8, 8, 8]


def test_the_provider_may_call_the_job_something_else() -> None:
    endpoint, server, _ = one_server()

    def rename(job: Job) -> Submitted:
        server.states["theirs-7"] = Done(None)
        return Accepted("theirs-7")

    server.on_submit = rename
    assert driver.drive(endpoint_id=endpoint.pk) == 1
    assert Run.objects.get().provider_job_id == "theirs-7"
    assert server.collected == ["theirs-7"]


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (Rejected("PROVIDER_REJECTED", "Node 3: no.", "dispatch"), "failed", "PROVIDER_REJECTED"),
        (Unavailable("PROVIDER_UNAVAILABLE", "Busy.", "dispatch"), "queued", None),
    ],
)
def test_what_the_server_does_not_take_ends_or_waits(answer: Submitted, status: str, code: str | None) -> None:
    endpoint, server, _ = one_server()
    server.on_submit = lambda job: answer
    assert driver.drive(endpoint_id=endpoint.pk) == 1
    run = Run.objects.get()
    assert (run.status_code, run.failure_code) == (status, code)
    if status == "queued":
        assert (run.endpoint_id, run.provider_job_id, run.attempt) == (None, None, 1)


def test_more_runs_than_are_handed_over_in_one_turn_fill_all_the_places() -> None:
    endpoint, server, _ = one_server(100, max_in_flight=90)
    full: list[int] = []

    def look() -> None:
        full.append(len(server.submitted))
        if len(server.submitted) >= 90:
            server.finish()

    server.on_poll = look
    assert driver.drive(endpoint_id=endpoint.pk) == 100
    assert server.most_at_once == 90


# --- Unknown, gone, stopped -------------------------------------------------------------------------------------------


def test_a_submission_that_nobody_answered_is_looked_up_and_not_sent_again() -> None:
    endpoint, server, _ = one_server()

    def swallow(job: Job) -> Submitted:
        server.states[job.job_id] = Waiting()
        return Unknown("timed out")

    server.on_submit = swallow
    looks: list[str] = []

    def look() -> None:
        looks.append(Run.objects.get().status_code)
        if len(looks) == 3:
            server.finish()

    server.on_poll = look
    assert driver.drive(endpoint_id=endpoint.pk) == 1
    assert looks == ["dispatching", "running", "running"]
    assert len(server.submitted) == 1
    assert statuses() == ["succeeded"]


def test_a_job_that_the_server_has_lost_is_done_again_under_a_new_id() -> None:
    endpoint, server, _ = one_server()
    server.on_poll = server.states.clear  # it restarted
    driver.drive(endpoint_id=endpoint.pk)
    run = Run.objects.get()
    assert (run.status_code, run.attempt, run.provider_job_id) == ("queued", 1, None)
    server.on_poll = server.finish
    make_due()
    driver.drive(endpoint_id=endpoint.pk)
    assert statuses() == ["succeeded"]
    first, second = server.ids()
    assert first != second


def test_lost_at_the_last_attempt_it_fails_and_says_so() -> None:
    endpoint, server, _ = one_server()
    Run.objects.update(max_attempts=1)
    server.on_poll = server.states.clear
    driver.drive(endpoint_id=endpoint.pk)
    run = Run.objects.get()
    assert (run.status_code, run.failure_code) == ("failed", "ATTEMPTS_EXHAUSTED")
    assert "PROVIDER_LOST: The provider no longer knows this job." in (run.failure_message or "")


def test_a_run_that_somebody_wants_stopped_is_canceled_when_the_server_says_so(settings: Any) -> None:
    endpoint, server, batch = one_server(2)
    end_slices_at_once(settings)
    driver.drive(endpoint_id=endpoint.pk)
    first = Run.objects.order_by("pk")[0]
    Run.objects.filter(pk=first.pk).update(cancel_requested_at=timezone.now())
    driver.drive(endpoint_id=endpoint.pk)
    assert server.canceled == [first.provider_job_id]
    assert statuses() == ["running", "running"], "asking is not ending"
    driver.drive(endpoint_id=endpoint.pk)
    assert statuses() == ["canceled", "running"]
    server.finish()
    driver.drive(endpoint_id=endpoint.pk)
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_cancelled, batch.items_succeeded) == ("partial_succeeded", 1, 1)


def test_a_run_that_was_done_before_it_could_be_stopped_has_succeeded(settings: Any) -> None:
    endpoint, server, _ = one_server()
    end_slices_at_once(settings)
    driver.drive(endpoint_id=endpoint.pk)
    Run.objects.update(cancel_requested_at=timezone.now())
    server.finish()
    driver.drive(endpoint_id=endpoint.pk)
    assert statuses() == ["succeeded"]


def test_one_that_the_provider_stopped_by_itself_is_done_again(settings: Any) -> None:
    endpoint, server, _ = one_server()
    server.on_poll = lambda: server.states.update(dict.fromkeys(server.states, Canceled()))
    driver.drive(endpoint_id=endpoint.pk)
    assert statuses() == ["queued"]


def test_a_run_over_its_time_is_stopped_and_fails(settings: Any) -> None:
    endpoint, server, _ = one_server(2, run_timeout=60)
    end_slices_at_once(settings)
    driver.drive(endpoint_id=endpoint.pk)
    old, young = Run.objects.order_by("pk")
    Run.objects.filter(pk=old.pk).update(dispatched_at=timezone.now() - timedelta(seconds=61))
    driver.drive(endpoint_id=endpoint.pk)
    old.refresh_from_db()
    assert (old.status_code, old.failure_code) == ("failed", "PROVIDER_TIMEOUT")
    assert old.failure_message == "The provider did not finish in time."
    assert server.canceled == [old.provider_job_id]
    young.refresh_from_db()
    assert young.status_code == "running"


def test_a_run_that_leaves_no_trace_after_it_was_to_be_stopped_is_canceled(settings: Any) -> None:
    """At its last attempt: at an earlier one the settlement would see that there is to be no other."""
    end_slices_at_once(settings)
    endpoint, server, _ = one_server()
    Run.objects.update(max_attempts=1)
    driver.drive(endpoint_id=endpoint.pk)
    Run.objects.update(cancel_requested_at=timezone.now())
    driver.drive(endpoint_id=endpoint.pk)
    server.states.clear()
    driver.drive(endpoint_id=endpoint.pk)
    assert statuses() == ["canceled"]


def test_a_server_is_asked_to_stop_a_run_until_it_has_ended(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    end_slices_at_once(settings)
    endpoint, server, _ = one_server()
    driver.drive(endpoint_id=endpoint.pk)
    Run.objects.update(cancel_requested_at=timezone.now())
    lost: list[str] = []
    monkeypatch.setattr(ScriptedConnection, "cancel", lambda self, jobs: lost.extend(job.job_id for job in jobs))
    for _ in range(3):
        driver.drive(endpoint_id=endpoint.pk)
    assert lost == server.ids() * 3


def test_a_run_over_its_time_leaves_its_place_whatever_the_server_does(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_slices_at_once(settings)
    endpoint, server, _ = one_server(2, max_in_flight=1, run_timeout=60)
    driver.drive(endpoint_id=endpoint.pk)
    Run.objects.filter(status_code="running").update(dispatched_at=timezone.now() - timedelta(seconds=61))
    monkeypatch.setattr(ScriptedConnection, "cancel", lambda self, jobs: None)
    settings.EXECUTE_SLICE = timedelta(seconds=30)

    def finish_the_second() -> None:
        if len(server.submitted) == 2:
            server.finish(server.ids()[1])

    server.on_poll = finish_the_second
    assert driver.drive(endpoint_id=endpoint.pk) == 2
    assert sorted(statuses()) == ["failed", "succeeded"]


def test_a_run_over_its_time_that_never_began_is_done_again(settings: Any) -> None:
    end_slices_at_once(settings)
    endpoint, server, _ = one_server(run_timeout=60)
    driver.drive(endpoint_id=endpoint.pk)
    server.states = dict.fromkeys(server.states, Waiting(is_running=False))
    Run.objects.update(dispatched_at=timezone.now() - timedelta(seconds=61))
    driver.drive(endpoint_id=endpoint.pk)
    assert server.canceled == server.ids()
    assert statuses() == ["queued"]


# --- Drivers ----------------------------------------------------------------------------------------------------------


def test_a_server_has_one_driver_at_a_time() -> None:
    endpoint, server, _ = one_server()
    server.on_poll = lambda: None
    with InThread(lambda: driver.drive(endpoint_id=endpoint.pk)) as first:
        wait_until(lambda: statuses() == ["running"], what="the first driver to hand the run over")
        assert driver.drive(endpoint_id=endpoint.pk) == 0
        assert len(server.submitted) == 1
        server.finish()
    assert first.result == 1
    assert server.collected == server.ids()


@pytest.mark.parametrize("moment", ["before the submission", "after the submission", "before the settlement"])
def test_a_driver_that_dies_is_followed_by_one_that_loses_and_doubles_nothing(moment: str, settings: Any) -> None:
    endpoint, server, batch = one_server()

    class Killed(BaseException):
        pass

    def die(*_: Any) -> Any:
        raise Killed

    if moment == "before the submission":
        server.on_submit = die
    elif moment == "after the submission":
        server.on_poll = die
    else:
        server.on_poll = server.finish
        server.on_collect = die
    with pytest.raises(Killed):
        driver.drive(endpoint_id=endpoint.pk)
    server.on_submit = server.on_collect = None
    server.on_poll = server.finish
    if moment == "before the submission":
        # The server never got it: lost, and done again. (What it did get is in `submitted` once.)
        driver.drive(endpoint_id=endpoint.pk)
        make_due()
    driver.drive(endpoint_id=endpoint.pk)
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded) == ("succeeded", 1)
    assert len(server.collected) == 1
    assert len(server.submitted) == (2 if moment == "before the submission" else 1)


def test_the_lease_of_a_driver_that_was_killed_runs_out_and_the_sweep_rings_for_another(rung: Rung) -> None:
    endpoint, _, _ = one_server()
    token = endpoints.take_endpoint(endpoint_id=endpoint.pk)
    assert token is not None
    lifecycle.claim_runs(provider_id=endpoint.provider_id, limit=1, endpoint_id=endpoint.pk)
    rung.calls.clear()
    engine.sweep()
    assert rung.calls == []
    assert driver.drive(endpoint_id=endpoint.pk) == 0, "its lease still runs"
    Endpoint.objects.update(driver_lease_expires_at=timezone.now() - timedelta(seconds=1))
    engine.sweep()
    assert rung.calls == [("batches.drive", (str(endpoint.pk),))]
    assert not endpoints.keep_endpoint(endpoint_id=endpoint.pk, token=UUID(int=1))


def test_a_driver_whose_lease_was_taken_claims_no_more(settings: Any) -> None:
    settings.DRIVER_LEASE = timedelta(seconds=0.03)
    endpoint, server, _ = one_server(2, max_in_flight=1)

    def lose() -> None:
        Endpoint.objects.update(driver_token=UUID(int=7), driver_lease_expires_at=timezone.now() + timedelta(hours=1))
        server.finish()

    server.on_poll = lose
    server.on_collect = None
    settings.EXECUTE_SLICE = timedelta(seconds=2)
    server.finish()
    taken: list[bool] = []

    def wait_for_loss() -> None:
        lose()
        current: Any = drivers[0]
        wait_until(current._is_lost.is_set, what="the keeper to notice")
        taken.append(True)

    drivers: list[Any] = []
    original = driver.Driver.__init__

    def remember(self: Any, *args: Any) -> None:
        original(self, *args)
        drivers.append(self)

    server.on_poll = wait_for_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver.Driver, "__init__", remember)
        driver.drive(endpoint_id=endpoint.pk)
    assert taken
    assert len(server.submitted) == 1
    assert Endpoint.objects.get().driver_token == UUID(int=7), "the other's lease stays"


def test_a_doorbell_that_came_while_the_driver_was_leaving_is_not_lost(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, server, batch = one_server()
    server.on_poll = server.finish
    release = endpoints.release_endpoint

    def meanwhile(**given: Any) -> None:
        make_batch(model=Model.objects.get(pk=batch.model_id))
        release(**given)

    monkeypatch.setattr(endpoints, "release_endpoint", meanwhile)
    rung.calls.clear()
    driver.drive(endpoint_id=endpoint.pk)
    assert ("batches.drive", (str(endpoint.pk),)) in rung.calls


def test_runs_that_may_not_be_claimed_do_not_make_a_driver_ring_for_ever(rung: Rung) -> None:
    endpoint, _, batch = one_server()
    batch.organization.max_in_flight = 0
    batch.organization.save()
    rung.calls.clear()
    assert driver.drive(endpoint_id=endpoint.pk) == 0
    assert rung.calls == []


@pytest.mark.parametrize("how", ["in peace", "without an answer", "with its lease lost"])
def test_a_driver_leaves_neither_a_lease_nor_a_connection_behind(how: str, settings: Any) -> None:
    end_slices_at_once(settings)
    endpoint, server, _ = one_server()
    server.is_down = how == "without an answer"
    with pytest.MonkeyPatch.context() as patch:
        if how == "with its lease lost":
            patch.setattr(driver.Driver, "_fence", lambda self: lose())
        driver.drive(endpoint_id=endpoint.pk)
    endpoint.refresh_from_db()
    assert (endpoint.driver_token, endpoint.driver_lease_expires_at) == (None, None)
    assert [connection.is_open for connection in server.connections] == [False]


def lose() -> None:
    raise driver._LeaseLost


def test_a_server_that_cannot_be_driven_is_left_to_who_comes_after_it_was_mended(settings: Any) -> None:
    endpoint, server, _ = one_server()
    Provider.objects.update(adapter_code="nonesuch")
    assert driver.drive(endpoint_id=endpoint.pk) == 0
    Provider.objects.update(adapter_code="scripted")
    server.on_poll = server.finish
    assert driver.drive(endpoint_id=endpoint.pk) == 1


def test_a_driver_keeps_its_lease_while_it_is_at_work(settings: Any) -> None:
    settings.DRIVER_LEASE = timedelta(seconds=0.3)
    endpoint, server, _ = one_server()

    def lease() -> Any:
        return Endpoint.objects.values_list("driver_lease_expires_at", flat=True).get()

    def work() -> None:
        first = lease()
        wait_until(lambda: lease() > first, what="the lease to be prolonged")
        server.finish()

    server.on_poll = work
    assert driver.drive(endpoint_id=endpoint.pk) == 1


def test_a_driver_that_hangs_longer_than_anything_may_take_loses_its_lease(settings: Any) -> None:
    settings.DRIVER_LEASE = timedelta(seconds=0.1)
    end_slices_at_once(settings)
    endpoint, server, _ = one_server(run_timeout=0)
    tokens: list[UUID | None] = []

    def is_taken() -> bool:
        tokens.append(endpoints.take_endpoint(endpoint_id=endpoint.pk))
        return tokens[-1] is not None

    def hang(job: Job) -> Submitted:
        wait_until(is_taken, what="another driver to take the server over")
        return Accepted(job.job_id)

    server.on_submit = hang
    driver.drive(endpoint_id=endpoint.pk)
    assert Endpoint.objects.get().driver_token == tokens[-1] is not None


def test_a_driver_whose_lease_was_taken_stops_nothing(settings: Any) -> None:
    end_slices_at_once(settings)
    endpoint, server, _ = one_server()
    driver.drive(endpoint_id=endpoint.pk)
    Run.objects.update(cancel_requested_at=timezone.now())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver.Driver, "_fill", lambda self: self._is_lost.set() or 0)
        driver.drive(endpoint_id=endpoint.pk)
    assert server.canceled == []
    driver.drive(endpoint_id=endpoint.pk)
    assert server.canceled == server.ids()


def test_a_run_at_a_server_has_a_lease_for_as_long_as_it_may_take_and_two_minutes(settings: Any) -> None:
    end_slices_at_once(settings)
    endpoint, _, _ = one_server(run_timeout=60)
    driver.drive(endpoint_id=endpoint.pk)
    run = Run.objects.get()
    assert run.lease_expires_at is not None
    assert run.dispatched_at is not None
    assert run.lease_expires_at - run.dispatched_at == timedelta(seconds=60 + 120)


def test_a_driver_takes_over_what_is_at_its_server_oldest_first_and_nothing_that_has_ended(settings: Any) -> None:
    end_slices_at_once(settings)
    endpoint, server, _ = one_server(3, max_in_flight=3)
    driver.drive(endpoint_id=endpoint.pk)
    first, second, third = Run.objects.order_by("pk")
    Run.objects.filter(pk=third.pk).update(dispatched_at=timezone.now() - timedelta(seconds=9))
    assert [run.id for run in lifecycle.runs_at(endpoint_id=endpoint.pk)] == [third.pk, first.pk, second.pk]
    server.finish()
    driver.drive(endpoint_id=endpoint.pk)
    assert lifecycle.runs_at(endpoint_id=endpoint.pk) == []


def test_files_of_a_run_that_was_lost_meanwhile_are_discarded() -> None:
    endpoint, server, _ = one_server()
    server.on_poll = server.finish

    def lose_it() -> None:
        Run.objects.update(attempt=F("attempt") + 1)

    server.on_collect = lose_it
    root = Path(django_settings.MEDIA_ROOT)
    before = {path for path in root.rglob("*") if path.is_file()}
    assert driver.drive(endpoint_id=endpoint.pk) == 0
    assert {path for path in root.rglob("*") if path.is_file()} == before
    assert Asset.objects.count() == 0


def test_no_more_are_handed_over_looked_at_and_collected_at_a_time_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "_MOST_SUBMITTED", 3)
    monkeypatch.setattr(driver, "_MOST_LOOKED_AT", 4)
    monkeypatch.setattr(driver, "_MOST_COLLECTED", 2)
    sizes: dict[str, list[int]] = {"submit": [], "poll": [], "collect": []}

    def count(name: str, real: Any) -> None:
        def counting(self: Any, jobs: Any) -> Any:
            sizes[name].append(len(jobs))
            return real(self, jobs)

        monkeypatch.setattr(ScriptedConnection, name, counting)

    for name in sizes:
        count(name, getattr(ScriptedConnection, name))
    endpoint, server, _ = one_server(10, max_in_flight=10)

    def finish_when_full() -> None:
        if len(server.submitted) == 10:
            server.finish()

    server.on_poll = finish_when_full
    assert driver.drive(endpoint_id=endpoint.pk) == 10
    assert {name: max(each) for name, each in sizes.items()} == {"submit": 3, "poll": 4, "collect": 2}


# --- Pausing, and servers that are down -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["provider", "endpoint"])
def test_what_is_paused_takes_no_more_runs_and_finishes_those_it_has(what: str, settings: Any) -> None:
    endpoint, server, _ = one_server(2, max_in_flight=1)
    end_slices_at_once(settings)
    driver.drive(endpoint_id=endpoint.pk)
    table: Any = {"provider": Provider, "endpoint": Endpoint}[what]
    table.objects.update(status_code=ProviderStatus.PAUSED)
    server.finish()
    assert driver.drive(endpoint_id=endpoint.pk) == 1
    assert sorted(statuses()) == ["queued", "succeeded"]
    assert len(server.submitted) == 1


def test_a_server_that_is_down_is_left_alone_for_a_while_and_keeps_its_runs(settings: Any, rung: Rung) -> None:
    endpoint, server, _ = one_server()
    end_slices_at_once(settings)
    driver.drive(endpoint_id=endpoint.pk)
    server.is_down = True
    rung.calls.clear()
    assert driver.drive(endpoint_id=endpoint.pk) == 0
    endpoint.refresh_from_db()
    assert endpoint.down_since is not None
    assert endpoint.down_reason == "connection refused"
    assert endpoint.retry_at is not None
    assert timedelta(seconds=1) < endpoint.retry_at - timezone.now() <= timedelta(seconds=2)
    assert statuses() == ["running"]
    engine.sweep()
    assert endpoints.take_endpoint(endpoint_id=endpoint.pk) is None
    assert driver.drive(endpoint_id=endpoint.pk) == 0
    assert rung.calls == []
    # It comes back with the job still there.
    Endpoint.objects.update(retry_at=timezone.now())
    server.is_down = False
    server.finish()
    assert driver.drive(endpoint_id=endpoint.pk) == 1
    columns = ("down_since", "retry_at", "down_reason")
    assert Endpoint.objects.values_list(*columns).get() == (None, None, "")
    assert len(server.submitted) == 1


def test_the_runs_of_a_server_that_stays_down_are_moved_to_another(settings: Any) -> None:
    provider, (first, second) = make_servers(2)
    make_batch(model=make_model(provider=provider))
    end_slices_at_once(settings)
    one, other = Endpoint.objects.order_by("base_url")
    driver.drive(endpoint_id=one.pk)
    first.is_down = True
    Endpoint.objects.filter(pk=one.pk).update(down_since=timezone.now() - timedelta(seconds=29), retry_at=None)
    driver.drive(endpoint_id=one.pk)
    assert statuses() == ["running"]
    Endpoint.objects.filter(pk=one.pk).update(down_since=timezone.now() - timedelta(seconds=31), retry_at=None)
    assert driver.drive(endpoint_id=one.pk) == 1
    run = Run.objects.get()
    assert (run.status_code, run.attempt, run.endpoint_id) == ("queued", 1, None)
    make_due()
    second.is_instant = True
    driver.drive(endpoint_id=other.pk)
    driver.drive(endpoint_id=other.pk)
    assert statuses() == ["succeeded"]
    assert (len(first.submitted), len(second.submitted)) == (1, 1)


def test_a_server_that_is_down_takes_nothing_new(rung: Rung) -> None:
    endpoint, server, _ = one_server()
    server.is_down = True
    driver.drive(endpoint_id=endpoint.pk)
    assert server.submitted == []
    assert statuses() == ["queued"]
    assert Run.objects.get().attempt == 0


@pytest.mark.parametrize(("down_for", "delay"), [(0.0, 2.0), (3.0, 2.0), (20.0, 10.0), (120.0, 60.0), (9000.0, 60.0)])
def test_a_server_that_stays_down_is_left_alone_longer_each_time_and_a_minute_at_most(
    down_for: float, delay: float
) -> None:
    endpoint, _, _ = one_server()
    token = endpoints.take_endpoint(endpoint_id=endpoint.pk)
    assert token is not None
    before = timezone.now()
    endpoints.mark_down(endpoint_id=endpoint.pk, token=token, reason="", down_for=down_for)
    retry_at = Endpoint.objects.values_list("retry_at", flat=True).get()
    assert retry_at is not None
    assert timedelta(seconds=delay) <= retry_at - before < timedelta(seconds=delay + 1)


def test_a_server_that_was_never_down_is_not_said_to_be_up_again(caplog: pytest.LogCaptureFixture) -> None:
    endpoint, server, _ = one_server()
    server.is_instant = True
    driver.drive(endpoint_id=endpoint.pk)
    assert "is up again" not in caplog.text


@pytest.mark.parametrize("what", ["down", "paused"])
def test_a_server_that_takes_nothing_has_no_share(what: str) -> None:
    provider, _ = make_servers(2)
    make_batch(model=make_model(provider=provider), items=[{"text": "a"}, {"text": "b"}])
    first, second = Endpoint.objects.order_by("base_url")

    def share() -> int:
        return endpoints.places_to_fill(provider_id=provider.pk, endpoint_id=first.pk, taken=0, free=2)

    assert share() == 1
    changes: Any = {"down": {"down_since": timezone.now()}, "paused": {"status_code": ProviderStatus.PAUSED}}[what]
    Endpoint.objects.filter(pk=second.pk).update(**changes)
    assert share() == 2


def test_what_is_due_later_rings_nobody_and_is_not_counted(rung: Rung) -> None:
    endpoint, _, _ = one_server()
    assert endpoints.ring_endpoints() == 1
    assert endpoints.count_due(provider_id=endpoint.provider_id) == 1
    Run.objects.update(due_at=timezone.now() + timedelta(seconds=60))
    assert endpoints.ring_endpoints() == 0
    assert endpoints.count_due(provider_id=endpoint.provider_id) == 0


@pytest.mark.parametrize("table", [Provider, Endpoint])
def test_what_is_paused_is_rung_only_while_runs_are_at_it(table: Any, rung: Rung) -> None:
    endpoint, _, _ = one_server(2)
    table.objects.update(status_code=ProviderStatus.PAUSED)
    assert endpoints.ring_endpoints() == 0
    lifecycle.claim_runs(provider_id=endpoint.provider_id, limit=1, endpoint_id=endpoint.pk)
    assert endpoints.ring_endpoints() == 1


def test_a_server_that_was_down_is_looked_at_again_when_its_pause_is_over_though_nothing_waits(rung: Rung) -> None:
    make_servers()
    assert endpoints.ring_endpoints() == 0
    Endpoint.objects.update(down_since=timezone.now(), retry_at=timezone.now() + timedelta(seconds=60))
    assert endpoints.ring_endpoints() == 0
    Endpoint.objects.update(retry_at=timezone.now())
    assert endpoints.ring_endpoints() == 1


# --- Several servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "loads", "queued", "wait", "share"),
    [
        (2, [(2, 0)], 5, 0.0, 2),
        (2, [(2, 0)], 1, 0.0, 1),
        (50, [(50, 0)], 49, 0.0, 49),
        (0, [(2, 2)], 5, 9.0, 0),
        (2, [(2, 0)], 0, 0.0, 0),
        # shared between those with free places, at least one each
        (100, [(100, 0), (100, 0), (100, 0), (100, 0)], 100, 0.0, 25),
        (100, [(100, 0), (100, 100)], 50, 0.0, 50),
        (2, [(2, 0), (2, 0)], 1, 0.0, 1),
        # the fuller one waits for the emptier one, and not for ever
        (1, [(2, 1), (2, 0)], 1, 0.0, 0),
        (1, [(2, 1), (2, 0)], 1, 0.6, 1),
        (1, [(2, 1), (2, 1)], 9, 0.0, 1),
        (9, [(10, 1), (2, 1)], 4, 0.0, 4),
        (6, [(10, 4), (2, 1)], 4, 0.0, 4),
        (100, [(100, 0), (100, 10), (100, 0), (100, 0)], 30, 0.0, 10),
        (90, [(100, 10), (100, 0), (100, 0), (100, 0)], 30, 0.0, 0),
        # one that is full is no reason to wait
        (1, [(2, 1), (2, 2)], 3, 0.0, 1),
    ],
)
def test_the_share_of_a_server(free: int, loads: list[tuple[int, int]], queued: int, wait: float, share: int) -> None:
    assert share_of(free=free, loads=loads, queued=queued, oldest_wait=wait) == share


def test_a_batch_is_spread_over_the_servers(settings: Any) -> None:
    provider, servers = make_servers(4, max_in_flight=50)
    make_batch(model=make_model(provider=provider), items=[{"text": str(n)} for n in range(40)])
    end_slices_at_once(settings)
    rows = list(Endpoint.objects.order_by("base_url"))
    for _ in range(3):
        for row in rows:
            driver.drive(endpoint_id=row.pk)
    assert [len(server.submitted) for server in servers] == [10, 10, 10, 10]


def test_the_emptiest_server_is_rung_first_and_one_that_is_driven_or_down_not_at_all(rung: Rung) -> None:
    provider, _ = make_servers(4)
    make_batch(model=make_model(provider=provider), items=[{"text": str(n)} for n in range(9)])
    full, driven, down, empty = Endpoint.objects.order_by("base_url")
    lifecycle.claim_runs(provider_id=provider.pk, limit=1, endpoint_id=full.pk)
    endpoints.take_endpoint(endpoint_id=driven.pk)
    Endpoint.objects.filter(pk=down.pk).update(
        retry_at=timezone.now() + timedelta(seconds=9), down_since=timezone.now()
    )
    rung.calls.clear()
    assert engine.execute(provider_id=provider.pk) == 0
    assert rung.calls == [("batches.drive", (str(empty.pk),)), ("batches.drive", (str(full.pk),))]


def test_with_nothing_queued_and_nothing_in_flight_nobody_is_rung(rung: Rung) -> None:
    make_servers(2)
    rung.calls.clear()
    engine.sweep()
    assert rung.calls == []


# --- Statements -------------------------------------------------------------------------------------------------------


def test_a_look_at_a_hundred_jobs_costs_the_statements_of_one(count_queries: Callable[..., Any], settings: Any) -> None:
    def cost(number: int) -> int:
        endpoint, server, _ = one_server(number, max_in_flight=200)
        end_slices_at_once(settings)
        for _ in range(4):
            driver.drive(endpoint_id=endpoint.pk)
        assert len(server.submitted) == number
        with count_queries() as log:
            assert driver.drive(endpoint_id=endpoint.pk) == 0
        return len(log.captured_queries)

    assert cost(1) == cost(100)


def test_media_inputs_are_named_to_the_adapter_by_where_they_stand() -> None:
    provider, (server,) = make_servers()
    model = make_model(
        provider=provider,
        inputs=(
            {"name": "image", "variable_type_code": "image"},
            {
                "name": "more",
                "variable_type_code": "array",
                "validator_code": "items",
                "validator_attrs": {"type": "image"},
            },
            {"name": "mask", "variable_type_code": "image"},
            {"name": "text", "variable_type_code": "string"},
        ),
    )
    url = "https://shop.example/a.png"
    make_batch(model=model, items=[{"image": url, "more": [url], "text": url}])
    server.on_submit = lambda job: Rejected("PROVIDER_REJECTED", "No.")
    driver.drive(endpoint_id=Endpoint.objects.get(provider=provider).pk)
    (job,) = server.submitted
    assert set(job.media) == {"/arguments/image", "/arguments/more"}
