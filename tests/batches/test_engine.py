"""Executing sets: what each outcome leaves behind, and what a worker that hangs, crashes or comes late does not."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, current_app
from django.conf import settings as django_settings
from django.core.files.storage import default_storage
from django.db import DatabaseError, transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from assets.models import Asset
from batches import engine, heartbeat, lifecycle, tasks
from batches.models import Batch, Heartbeat, Run
from batches.work import build_adapter
from callbacks.lifecycle import claim_deliveries
from callbacks.models import CallbackDelivery
from models_registry.models import Provider, ProviderStatus, Template
from providers.base import Finished, Job, Outcome
from tests.conftest import Rung
from tests.factories import make_batch, make_delivery, make_model, make_provider
from tests.threads import InThread, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

FAIL_INPUTS = (
    {"name": "mode", "variable_type_code": "string"},
    {"name": "until_attempt", "variable_type_code": "integer"},
)


def execute_all() -> int:
    return sum(engine.execute(provider_id=provider_id) for provider_id in lifecycle.waiting_providers())


def make_due() -> None:
    Run.objects.filter(status_code="queued").update(due_at=timezone.now() - timedelta(seconds=1))


def test_a_succeeded_run_has_its_output_in_the_store_and_its_asset_row() -> None:
    batch, handles = make_batch(items=[{"text": "Grüße"}])
    assert execute_all() == 1
    run, asset = Run.objects.get(), Asset.objects.get()
    assert run.output == {
        "outputs": [
            {"asset_id": str(asset.pk), "type": "text", "mime_type": "text/plain", "width": None, "height": None}
        ],
        "seed": None,
        "timing": run.output["timing"],  # type: ignore[index]
        "nsfw_detected": None,
    }
    with default_storage.open(asset.storage_key) as file:
        assert file.read().decode() == "Grüße"
    assert (asset.organization_id, asset.size_bytes) == (batch.organization_id, 7)
    assert run.pk == handles[0].run_id


def test_a_permanent_failure_fails_at_once_and_says_why() -> None:
    make_batch(model=make_model(function="fail", inputs=FAIL_INPUTS), items=[{"mode": "permanent"}])
    execute_all()
    run = Run.objects.get()
    assert (run.status_code, run.failure_code, run.failure_stage_code) == ("failed", "EXECUTION_FAILED", "execute")
    assert (run.attempt, run.output, run.cost) == (1, None, None)
    assert Asset.objects.count() == 0


def test_a_retryable_failure_waits_and_succeeds_on_a_later_attempt() -> None:
    model = make_model(function="fail", inputs=FAIL_INPUTS)
    batch, _ = make_batch(model=model, items=[{"mode": "retryable", "until_attempt": 3}])
    for attempt in (1, 2):
        assert execute_all() == 1
        run = Run.objects.get()
        assert (run.status_code, run.attempt) == ("queued", attempt)
        assert run.due_at > timezone.now()
        assert lifecycle.waiting_providers() == []
        make_due()
    execute_all()
    run = Run.objects.get()
    assert (run.status_code, run.attempt) == ("succeeded", 3)
    assert Batch.objects.get(pk=batch.pk).status_code == "succeeded"


def test_retryable_failures_end_with_attempts_exhausted() -> None:
    make_batch(model=make_model(function="fail", inputs=FAIL_INPUTS), items=[{"mode": "retryable"}])
    for _ in range(5):
        execute_all()
        make_due()
    run = Run.objects.get()
    assert (run.status_code, run.attempt, run.failure_code) == ("failed", 5, "ATTEMPTS_EXHAUSTED")
    assert (run.failure_message or "").startswith("No success in 5 attempts; the last one: ")


def test_a_crashing_function_tells_the_customer_nothing_of_the_inside() -> None:
    make_batch(model=make_model(function="fail", inputs=FAIL_INPUTS), items=[{"mode": "crash"}])
    execute_all()
    run = Run.objects.get()
    assert (run.status_code, run.failure_message) == ("failed", "The function failed on this input.")


def test_one_bad_item_does_not_hurt_the_others_of_its_set() -> None:
    model = make_model(function="fail", inputs=FAIL_INPUTS)
    batch, _ = make_batch(model=model, items=[{"until_attempt": 1}, {"mode": "crash"}, {"until_attempt": 1}])
    execute_all()
    statuses = list(Run.objects.order_by("pk").values_list("status_code", flat=True))
    assert statuses == ["succeeded", "failed", "succeeded"]
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded, batch.items_failed) == ("partial_succeeded", 2, 1)


def test_a_template_that_does_not_fit_fails_its_runs_in_dispatch() -> None:
    make_batch()
    template = Template.objects.create(name="broken", body={}, bindings=[{"input": "text", "target": "/no/where"}])
    Run.objects.update(resolved_template=template)
    execute_all()
    run = Run.objects.get()
    assert (run.status_code, run.failure_code, run.failure_stage_code) == ("failed", "TEMPLATE_INVALID", "dispatch")


def test_a_store_that_cannot_be_written_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    make_batch()

    def full(*args: Any, **kwargs: Any) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(default_storage, "save", full)
    execute_all()
    assert Run.objects.get().status_code == "queued"
    monkeypatch.undo()
    make_due()
    execute_all()
    assert Run.objects.get().status_code == "succeeded"


def test_a_paused_provider_keeps_its_runs_queued() -> None:
    provider = make_provider(status_code=ProviderStatus.PAUSED)
    make_batch(model=make_model(provider=provider))
    assert lifecycle.waiting_providers() == []
    assert engine.execute(provider_id=provider.pk) == 0
    assert Run.objects.get().status_code == "queued"


def test_a_provider_that_cannot_be_built_keeps_its_runs_queued(caplog: pytest.LogCaptureFixture) -> None:
    provider = make_provider(config={"modules": ["no.such.module"]})
    make_batch(model=make_model(provider=provider))
    assert engine.execute(provider_id=provider.pk) == 0
    assert Run.objects.get().status_code == "queued"
    assert f"Provider {provider.code} cannot be used" in caplog.text


def test_the_slice_ends_between_sets_and_rings_again(rung: Rung, settings: Any) -> None:
    settings.EXECUTE_SLICE = timedelta(0)
    provider = make_provider(claim_size=2)
    make_batch(model=make_model(provider=provider), items=[{"text": str(n)} for n in range(5)])
    heartbeat.beat(heartbeat.SWEEP)
    rung.calls.clear()
    assert engine.execute(provider_id=provider.pk) == 2
    assert rung.calls == [("batches.execute", (str(provider.pk),))]


def never_idle(settings: Any) -> Provider:
    """A provider whose slices are over after one set, with work left."""
    settings.EXECUTE_SLICE = timedelta(0)
    provider = make_provider(claim_size=1)
    make_batch(model=make_model(provider=provider), items=[{"text": "a"}, {"text": "b"}])
    return provider


def lost_run_and_callback() -> tuple[Run, CallbackDelivery]:
    """Both claimed by somebody who died."""
    batch, _ = make_batch()
    lifecycle.claim_runs(provider_id=Run.objects.get(batch=batch).provider_id, limit=1, lease=timedelta(seconds=-1))
    make_delivery()
    claim_deliveries(limit=1)
    CallbackDelivery.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    return Run.objects.get(batch=batch), CallbackDelivery.objects.get()


def test_a_worker_that_is_never_idle_sweeps_by_itself_when_no_sweep_came(rung: Rung, settings: Any) -> None:
    lost, delivery = lost_run_and_callback()
    busy = never_idle(settings)
    Heartbeat.objects.create(name=heartbeat.SWEEP, beat_at=timezone.now() - 4 * settings.SWEEP_INTERVAL)
    assert engine.execute(provider_id=busy.pk) == 1
    lost.refresh_from_db()
    delivery.refresh_from_db()
    assert (lost.status_code, lost.attempt, delivery.lease_expires_at) == ("queued", 1, None)
    assert not heartbeat.is_late(heartbeat.SWEEP, after=settings.SWEEP_INTERVAL)


def test_a_worker_leaves_sweeping_to_others_while_sweeps_come_and_while_it_may_be_idle(
    rung: Rung, settings: Any
) -> None:
    lost, delivery = lost_run_and_callback()
    execute_all()  # to its end: the next message may be beat's
    busy = never_idle(settings)
    Heartbeat.objects.create(name=heartbeat.SWEEP, beat_at=timezone.now() - 2 * settings.SWEEP_INTERVAL)
    assert engine.execute(provider_id=busy.pk) == 1
    lost.refresh_from_db()
    delivery.refresh_from_db()
    assert (lost.status_code, delivery.lease_expires_at is None) == ("dispatching", False)


class PausingAdapter:
    """Does nothing until it is told to, and notes what it was given."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.jobs: list[Job] = []

    def perform(self, jobs: Any) -> list[Outcome]:
        self.jobs += jobs
        self.reached.set()
        assert self.go.wait(10)
        return [Finished(()) for _ in jobs]

    def __enter__(self) -> PausingAdapter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.go.set()


def test_leases_are_renewed_while_the_work_goes_on(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RUN_LEASE, settings.RUN_LEASE_RENEWAL = timedelta(seconds=30), timedelta(milliseconds=20)
    monkeypatch.setattr(engine, "WATCH_INTERVAL", 0.02)
    make_batch()
    adapter = PausingAdapter()
    runs = lifecycle.claim_runs(provider_id=Run.objects.get().provider_id, limit=1)
    first = Run.objects.get().lease_expires_at
    assert first is not None
    with InThread(lambda: engine.execute_set(adapter=adapter, runs=runs, media_inputs={})), adapter:
        assert adapter.reached.wait(10)

        def is_renewed() -> bool:
            lease = Run.objects.get().lease_expires_at
            return lease is not None and lease > first

        wait_until(is_renewed, what="a renewal")
    assert Run.objects.get().status_code == "succeeded"


def test_a_job_that_hangs_longer_than_the_set_may_take_loses_its_lease(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RUN_LEASE, settings.RUN_LEASE_RENEWAL = timedelta(milliseconds=200), timedelta(milliseconds=20)
    monkeypatch.setattr(engine, "WATCH_INTERVAL", 0.02)
    make_batch()
    adapter = PausingAdapter()
    (run,) = lifecycle.claim_runs(provider_id=Run.objects.get().provider_id, limit=1)
    runs = [replace(run, seconds=0.1)]
    with (
        InThread(lambda: engine.execute_set(adapter=adapter, runs=runs, media_inputs={})) as worker,
        adapter,
    ):
        assert adapter.reached.wait(10)
        wait_until(lambda: lifecycle.return_expired().run_ids == {runs[0].id}, what="the lease to expire")
    assert worker.result == 0
    assert Run.objects.get().status_code == "queued"


def test_a_late_worker_leaves_neither_rows_nor_files() -> None:
    batch, _ = make_batch(items=[{"text": "late"}])
    provider = Run.objects.get().provider
    runs = lifecycle.claim_runs(provider_id=provider.pk, limit=1)
    Run.objects.update(attempt=2)
    Run.objects.update(status_code="running")
    before = _stored_files()

    class LateAdapter:
        def perform(self, jobs: Any) -> Any:
            adapter: Any = build_adapter(provider)
            return adapter.perform(jobs)

    # `begin` already drops it; make it come later still.
    real, lifecycle.begin_runs = lifecycle.begin_runs, lambda *, runs: list(runs)
    try:
        assert engine.execute_set(adapter=LateAdapter(), runs=runs, media_inputs={}) == 0
    finally:
        lifecycle.begin_runs = real
    assert Asset.objects.count() == 0
    assert _stored_files() == before
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_succeeded) == ("running", 0)


def _stored_files() -> set[str]:
    root = Path(django_settings.MEDIA_ROOT)
    return {str(path) for path in root.rglob("*") if path.is_file()}


def test_a_run_that_was_lost_before_it_began_is_not_performed() -> None:
    make_batch(items=[{"text": "a"}, {"text": "b"}])
    mine, lost = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=2)
    Run.objects.filter(pk=lost.id).update(attempt=2)
    with PausingAdapter() as adapter:
        adapter.go.set()
        assert engine.execute_set(adapter=adapter, runs=[mine, lost], media_inputs={}) == 1
    assert [job.run_id for job in adapter.jobs] == [str(mine.id)]
    assert Run.objects.get(pk=lost.id).status_code == "dispatching"


def test_a_renewal_that_the_database_refused_is_followed_by_another(caplog: pytest.LogCaptureFixture) -> None:
    renewals = []
    again = threading.Event()

    def renew() -> None:
        renewals.append(1)
        if len(renewals) == 1:
            raise DatabaseError("the server closed the connection unexpectedly")
        again.set()

    with engine.LeaseKeeper(renew, every=0.01, longest=30.0):
        assert again.wait(10)
    assert "Could not renew leases" in caplog.text


def test_who_looks_often_renews_only_in_time(settings: Any) -> None:
    make_batch()
    runs = lifecycle.claim_runs(provider_id=Run.objects.get().provider_id, limit=1)
    Run.objects.update(lease_expires_at=timezone.now())

    def is_renewed_by(watch: engine.Watch) -> bool:
        watch.look()
        return Run.objects.filter(lease_expires_at__gt=timezone.now()).exists()

    assert not is_renewed_by(engine.Watch(runs))
    settings.RUN_LEASE_RENEWAL = timedelta(0)
    assert is_renewed_by(engine.Watch(runs))


# --- Doorbells and the sweep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "claim_size", "doorbells"), [(1, 100, 1), (100, 100, 1), (5, 2, 3), (100, 8, 4)])
def test_a_batch_rings_a_handful_of_times_after_its_commit(
    rung: Rung, items: int, claim_size: int, doorbells: int
) -> None:
    provider = make_provider(claim_size=claim_size)
    make_batch(model=make_model(provider=provider), items=[{"text": "a"}] * items)
    assert rung.calls == [("batches.execute", (str(provider.pk),))] * doorbells


def test_a_batch_that_is_rolled_back_rings_nobody(rung: Rung) -> None:
    model = make_model()
    with transaction.atomic():
        make_batch(model=model)
        assert rung.calls == []
        transaction.set_rollback(True)
    assert (rung.calls, Run.objects.count()) == ([], 0)


def test_a_broker_that_is_away_costs_the_caller_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("Connection refused")

    monkeypatch.setattr("celery.app.base.Celery.send_task", refuse)
    make_batch()
    assert Run.objects.get().status_code == "queued"
    assert "the sweep will ring again" in caplog.text


def test_the_sweep_gives_back_expired_leases_and_rings_where_work_waits(rung: Rung) -> None:
    make_batch(items=[{"text": "a"}, {"text": "b"}])
    provider = Run.objects.all()[0].provider
    lifecycle.claim_runs(provider_id=provider.pk, limit=1)
    Run.objects.filter(lease_expires_at__isnull=False).update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    rung.calls.clear()
    tasks.sweep()
    assert set(Run.objects.values_list("status_code", flat=True)) == {"queued"}
    assert rung.calls == [("batches.execute", (str(provider.pk),))] * 4


@pytest.mark.parametrize("what", ["return_expired", "fail_overdue"])
def test_one_sweep_ends_all_that_is_to_be_ended_however_much(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _ = make_batch(model=make_model(batch_timeout=60), items=[{"text": str(n)} for n in range(5)])
    past = timezone.now() - timedelta(hours=1)
    if what == "return_expired":
        lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=5)
        Run.objects.update(lease_expires_at=past, max_attempts=1)
    else:
        Batch.objects.update(created_at=past)
    monkeypatch.setattr(lifecycle, "SWEEP_LIMIT", 2)
    monkeypatch.setattr(lifecycle, what, partial(getattr(lifecycle, what), limit=2))
    engine.sweep()
    batch.refresh_from_db()
    assert (batch.status_code, batch.items_failed) == ("failed", 5)


def test_the_sweep_rings_nobody_when_nothing_waits(rung: Rung) -> None:
    make_batch()
    execute_all()
    rung.calls.clear()
    tasks.sweep()
    assert rung.calls == []


def test_every_beat_entry_names_a_task_and_a_queue_that_exist() -> None:
    current_app.loader.import_default_modules()
    for entry in django_settings.CELERY_BEAT_SCHEDULE.values():
        assert entry["task"] in current_app.tasks
        assert entry["task"] in django_settings.CELERY_TASK_ROUTES
    assert "batches.execute" in current_app.tasks


def test_the_execute_task_takes_an_id_as_text() -> None:
    make_batch()
    tasks.execute(str(Run.objects.get().provider_id))
    assert Run.objects.get().status_code == "succeeded"


def test_a_broker_that_refuses_connections_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard: `max_retries` in CELERY_BROKER_TRANSPORT_OPTIONS. Without it kombu sleeps between its tries, for seconds."""
    slept: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", slept.append)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        app = Celery(set_as_current=False)
        app.conf.update(
            broker_url=f"redis://127.0.0.1:{closed.getsockname()[1]}/0",
            broker_transport_options=django_settings.CELERY_BROKER_TRANSPORT_OPTIONS,
            task_publish_retry=django_settings.CELERY_TASK_PUBLISH_RETRY,
        )
        with pytest.raises(OperationalError), app.producer_pool.acquire(block=True) as producer:
            producer.publish({}, routing_key="dispatch", retry=app.conf.task_publish_retry)
    assert slept == []
