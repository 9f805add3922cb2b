"""The audit: each check finds what was made wrong by SQL, and nothing else; a system at work gives no false alarm."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from batches import audit, audit_sql, heartbeat, lifecycle
from batches.audit import CHECKS, Level, Report, verify
from batches.models import Batch, BatchItem, Run, RunStatus
from batches.retry import Settlement
from batches.services import check_run_request, create_run
from callbacks.lifecycle import claim_deliveries
from callbacks.models import CallbackAttempt, CallbackDelivery
from models_registry.catalogue import run_target
from models_registry.models import Endpoint, Provider, ProviderStatus
from tests.factories import end_batch, make_batch, make_delivery, make_model, make_organization
from tests.scripted import ADAPTERS, make_servers
from tests.threads import InThread

pytestmark = pytest.mark.django_db(transaction=True)

URL = "https://shop.example/done"
ITEMS = [{"text": "a"}, {"text": "b"}, {"text": "c"}]
Found = dict[str, tuple[int, list[tuple[str, str]]]]


@pytest.fixture(autouse=True)
def _scripted(settings: Any) -> None:
    settings.PROVIDER_ADAPTERS = settings.PROVIDER_ADAPTERS | ADAPTERS


def sql(statement: str, *parameters: Any) -> None:
    """Change rows behind the engine's back."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        assert cursor.rowcount > 0, "nothing was changed"


def found(report: Report) -> Found:
    return {
        finding.check: (finding.count, [(each.subject, each.detail) for each in finding.examples])
        for finding in report.findings
    }


def open_batch(**more: Any) -> Batch:
    """Of its three runs one has succeeded, one has failed, and one waits."""
    batch, _ = make_batch(**{"items": ITEMS} | more)
    runs = lifecycle.claim_runs(provider_id=batch.runs.all()[0].provider_id, limit=2)
    lifecycle.settle(
        settlements=[
            Settlement(runs[0].id, runs[0].attempt, RunStatus.SUCCEEDED, output='{"outputs": []}'),
            Settlement(runs[1].id, runs[1].attempt, RunStatus.FAILED, failure_code="EXECUTION_FAILED"),
        ]
    )
    batch.refresh_from_db()
    return batch


def ended_batch(**more: Any) -> Batch:
    """Two have succeeded, one has failed."""
    batch, _ = make_batch(**{"items": ITEMS} | more)
    return end_batch(batch, "succeeded", "failed", "succeeded")


def make_run(**body: Any) -> Run:
    """A queued single run."""
    organization, model = make_organization(), make_model()
    target = run_target(owner=model.owner, slug=model.slug, organization=organization)
    request = check_run_request(target=target, body={"input": {"text": "a"}, **body})
    return create_run(organization=organization, target=target, request=request)


def claim(batch: Batch, limit: int = 1, *, expired_for: float | None = None) -> list[UUID]:
    """Claim runs of a batch; with a lease that ran out so many seconds ago."""
    claimed = lifecycle.claim_runs(provider_id=batch.runs.all()[0].provider_id, limit=limit)
    ids = [run.id for run in claimed]
    if expired_for is not None:
        expires = timezone.now() - timedelta(seconds=expired_for)
        Run.objects.filter(pk__in=ids).update(lease_expires_at=expires)
    return ids


def ago(seconds: float) -> Any:
    return timezone.now() - timedelta(seconds=seconds)


# --- Batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        (
            "items_succeeded = 2, items_failed = 0",
            "batch_counters",
            "says 2 succeeded, 0 failed, 0 canceled; its runs say 1, 1, 0",
        ),
        ("status_code = 'queued'", "batch_status", "says queued; its runs say running"),
        ("cost = cost + 1", "batch_cost", "says 1.010000; its runs say 0.010000"),
        ("cost = NULL", "batch_cost", "says none; its runs say 0.010000"),
        ("started_at = NULL", "batch_times", "it has no start, but its runs began"),
        (
            "started_at = started_at + interval '1 hour'",
            "batch_times",
            "it started after its first run, or after its end",
        ),
    ],
)
def test_an_open_batch_that_differs_from_its_runs_is_found(change: str, check: str, detail: str) -> None:
    open_batch()
    batch = open_batch()
    Run.objects.filter(batch=batch, status_code="failed").update(started_at=batch.started_at)
    sql(f"UPDATE batches_batch SET {change} WHERE id = %s", batch.pk)  # noqa: S608
    assert found(verify()) == {check: (1, [(f"batch {batch.pk}", detail)])}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "status_code = 'running', completed_at = NULL",
            {"batch_status": "says running; its runs say partial_succeeded"},
        ),
        ("status_code = 'succeeded'", {"batch_status": "says succeeded; its runs say partial_succeeded"}),
        (
            "items_succeeded = 3, items_failed = 0",
            {"batch_counters": "says 3 succeeded, 0 failed, 0 canceled; its runs say 2, 1, 0"},
        ),
        ("cost = 0", {"batch_cost": "says 0.000000; its runs say 0.020000"}),
        (
            "completed_at = completed_at - interval '1 hour', started_at = started_at - interval '2 hours'",
            {"batch_times": "it ended before its last run"},
        ),
        (
            "items_total = 4, items_cancelled = 1",
            {
                "batch_runs": "4 items, 3 runs",
                "batch_items": "4 items by its total, 3 stored, numbered 0 to 2",
                "batch_counters": "says 2 succeeded, 1 failed, 1 canceled; its runs say 2, 1, 0",
            },
        ),
    ],
)
def test_an_ended_batch_that_differs_from_its_runs_is_found(change: str, expected: dict[str, str]) -> None:
    ended_batch()
    batch = ended_batch()
    sql(f"UPDATE batches_batch SET {change} WHERE id = %s", batch.pk)  # noqa: S608
    assert found(verify()) == {check: (1, [(f"batch {batch.pk}", detail)]) for check, detail in expected.items()}


def test_a_batch_that_ended_before_its_runs_is_found() -> None:
    batch = open_batch()
    sql(
        "UPDATE batches_batch SET status_code = 'partial_succeeded', items_cancelled = 1, completed_at = now() WHERE id = %s",
        batch.pk,
    )
    assert found(verify()) == {
        "batch_counters": (
            1,
            [(f"batch {batch.pk}", "says 1 succeeded, 1 failed, 1 canceled; its runs say 1, 1, 0")],
        ),
        "batch_status": (1, [(f"batch {batch.pk}", "says partial_succeeded; its runs say running")]),
    }


def test_a_start_without_a_run_that_began_and_a_cost_without_a_success_are_found() -> None:
    batch, _ = make_batch()
    sql("UPDATE batches_batch SET started_at = now(), cost = 0 WHERE id = %s", batch.pk)
    assert found(verify()) == {
        "batch_cost": (1, [(f"batch {batch.pk}", "says 0.000000; its runs say none")]),
        "batch_times": (1, [(f"batch {batch.pk}", "it has a start, but no run began")]),
    }


@pytest.mark.parametrize(
    "statuses", [["succeeded"] * 3, ["failed"] * 3, ["canceled"] * 3, ["canceled", "failed", "failed"]]
)
def test_every_way_to_end_is_clean(statuses: list[str]) -> None:
    batch, _ = make_batch(items=ITEMS, callback_url=URL)
    end_batch(batch, *statuses)
    report = verify()
    assert (report.is_clean, found(report)) == (True, {})
    assert (report.batches, report.runs, report.deliveries) == (1, 3, 1)


# --- Items and runs ---------------------------------------------------------------------------------------------------


def test_a_missing_run_is_found() -> None:
    batch = open_batch()
    run = Run.objects.get(batch=batch, status_code="queued")
    sql("DELETE FROM batches_batchitem WHERE run_id = %s", run.pk)
    sql("DELETE FROM batches_run WHERE id = %s", run.pk)
    subject = f"batch {batch.pk}"
    assert found(verify()) == {
        "batch_runs": (1, [(subject, "3 items, 2 runs")]),
        "batch_items": (1, [(subject, "3 items by its total, 2 stored, numbered 0 to 1")]),
        # Of the runs that are left all have ended.
        "batch_status": (1, [(subject, "says running; its runs say partial_succeeded")]),
    }


def test_a_gap_in_the_numbers_and_a_missing_item_are_found() -> None:
    gap, missing = ended_batch(), ended_batch()
    sql("UPDATE batches_batchitem SET sequence_index = 7 WHERE batch_id = %s AND sequence_index = 2", gap.pk)
    sql("DELETE FROM batches_batchitem WHERE batch_id = %s AND sequence_index = 0", missing.pk)
    assert found(verify()) == {
        "batch_items": (
            2,
            [
                (f"batch {gap.pk}", "3 items by its total, 3 stored, numbered 0 to 7"),
                (f"batch {missing.pk}", "3 items by its total, 2 stored, numbered 1 to 2"),
            ],
        )
    }


def test_an_item_with_a_run_of_another_batch_is_found_in_both() -> None:
    first, second = ended_batch(), ended_batch()
    run = Run.objects.filter(batch=second)[0]
    sql("DELETE FROM batches_batchitem WHERE run_id = %s", run.pk)
    sql("UPDATE batches_batchitem SET run_id = %s WHERE batch_id = %s AND sequence_index = 0", run.pk, first.pk)
    astray, _ = found(verify())["batch_items"][1]
    assert astray == (
        f"batch {first.pk}",
        "3 items by its total, 3 stored, numbered 0 to 2, 1 with a run of another batch",
    )


def test_a_run_that_ended_before_it_started_is_found_but_not_a_step_of_the_clock() -> None:
    batch = ended_batch()
    ids = list(Run.objects.filter(batch=batch).order_by("pk").values_list("pk", flat=True))
    sql("UPDATE batches_run SET started_at = completed_at + interval '2 seconds' WHERE id = %s", ids[0])
    sql("UPDATE batches_run SET started_at = completed_at + interval '0.5 seconds' WHERE id = %s", ids[1])
    assert found(verify()) == {"run_times": (1, [(f"run {ids[0]}", "it ended before it started")])}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE batches_batch SET items_failed = 3",
        "UPDATE batches_batch SET status_code = 'failed'",
        "UPDATE batches_batch SET status_code = 'failed', completed_at = now()",
        "UPDATE batches_run SET status_code = 'running'",
        "UPDATE batches_run SET cost = 1 WHERE status_code = 'queued'",
        "UPDATE batches_run SET cost = NULL WHERE status_code = 'succeeded'",
        "UPDATE batches_run SET completed_at = NULL WHERE status_code = 'failed'",
        "UPDATE batches_batchitem SET sequence_index = 0",
        "UPDATE batches_batchitem SET run_id = (SELECT run_id FROM batches_batchitem LIMIT 1)",
        "INSERT INTO batches_heartbeat (name) VALUES ('sweep')",
    ],
)
def test_what_the_database_refuses_need_not_be_looked_for(statement: str) -> None:
    open_batch()
    with pytest.raises(IntegrityError), connection.cursor() as cursor:
        cursor.execute(statement)


# --- Leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_that_no_sweep_gave_back_is_found(settings: Any) -> None:
    old, fresh = make_batch()[0], make_batch()[0]
    slack = (2 * settings.SWEEP_INTERVAL + audit.LEASE_SLACK).total_seconds()
    (run_id,) = claim(old, expired_for=slack + 3600)
    claim(fresh, expired_for=slack - 5)
    ((subject, detail),) = found(verify())["run_lease"][1]
    assert (subject, detail[:15]) == (f"run {run_id}", "expired 01:00:4")
    assert list(found(verify())) == ["run_lease"]


def test_a_delivery_that_no_sweep_gave_back_is_found() -> None:
    ended_batch(callback_url=URL)
    (delivery,) = claim_deliveries(limit=10)
    assert found(verify()) == {}
    sql("UPDATE callbacks_callbackdelivery SET lease_expires_at = now() - interval '1 hour'")
    assert found(verify()) == {"delivery_lease": (1, [(f"delivery {delivery.id}", "expired 01:00:00 ago")])}


def test_a_dead_driver_is_found_where_runs_are_at_its_server() -> None:
    provider, _ = make_servers(2)
    batch, _ = make_batch(model=make_model(provider=provider))
    busy, _ = Endpoint.objects.filter(provider=provider).order_by("base_url")
    lifecycle.claim_runs(provider_id=provider.pk, limit=1, endpoint_id=busy.pk)
    Endpoint.objects.update(driver_token=batch.pk, driver_lease_expires_at=ago(3600))
    expected: Found = {"driver_lease": (1, [(f"endpoint {busy.base_url}", "expired 01:00:00 ago, and runs are at it")])}
    assert found(verify()) == found(verify(batch_id=batch.pk)) == expected
    # A server that is down is left alone until then.
    Endpoint.objects.update(retry_at=timezone.now() + timedelta(seconds=30))
    assert found(verify()) == {}


# --- Callbacks --------------------------------------------------------------------------------------------------------


def test_an_end_without_its_callback_is_found_unless_it_may_have_been_purged(settings: Any) -> None:
    batch, run = ended_batch(callback_url=URL), make_run(callback_url=URL)
    (claimed,) = lifecycle.claim_runs(provider_id=run.provider_id, limit=1)
    lifecycle.settle(settlements=[Settlement(run.pk, claimed.attempt, RunStatus.CANCELED)])
    old = ended_batch(callback_url=URL)
    ended_batch()
    assert found(verify()) == {}
    sql("DELETE FROM callbacks_callbackdelivery")
    past = settings.CALLBACK_RETENTION - timedelta(minutes=30)
    Batch.objects.filter(pk=old.pk).update(
        started_at=ago(past.total_seconds() + 1), completed_at=ago(past.total_seconds())
    )
    Run.objects.filter(batch=old).update(completed_at=ago(past.total_seconds()))
    wanted = "it ended and wants a callback"
    assert found(verify()) == {"callback_missing": (2, [(f"batch {batch.pk}", wanted), (f"run {run.pk}", wanted)])}


def test_a_callback_of_what_has_not_ended_wants_none_or_does_not_exist_is_found() -> None:
    queued, silent, unknown = make_batch(callback_url=URL)[0], ended_batch(), UUID(int=1)
    deliveries = [make_delivery(subject_id=subject) for subject in (queued.pk, silent.pk, unknown)]
    reasons = [
        f"its batch {queued.pk} has not ended",
        f"its batch {silent.pk} wants no callback",
        f"its batch {unknown} does not exist",
    ]
    expected = [(f"delivery {row.pk}", reason) for row, reason in zip(deliveries, reasons, strict=True)]
    assert found(verify()) == {"callback_unwanted": (3, expected)}


def test_a_second_automatic_callback_cannot_be_stored() -> None:
    ended_batch(callback_url=URL)
    sql("UPDATE callbacks_callbackdelivery SET status_code = 'delivered', next_attempt_at = NULL, completed_at = now()")
    again = CallbackDelivery.objects.get()
    again.pk = UUID(int=1)
    with pytest.raises(IntegrityError):
        again.save(force_insert=True)


def test_a_due_delivery_that_nobody_sends_is_found() -> None:
    ended_batch(callback_url=URL)
    delivery = CallbackDelivery.objects.get()
    sql("UPDATE callbacks_callbackdelivery SET next_attempt_at = now() - interval '1 hour'")
    expected: Found = {
        "delivery_overdue": (
            1,
            [(f"delivery {delivery.pk}", "to shop.example, due since 01:00:00, and nothing is sent there")],
        )
    }
    assert found(verify()) == expected
    # To a slow host only a few go at a time: while something is on its way there, or was lately, the rest waits by design.
    other = make_delivery(subject_id=ended_batch().pk)
    Batch.objects.filter(pk=other.subject_id).update(callback_url=URL)
    CallbackDelivery.objects.filter(pk=other.pk).update(lease_expires_at=timezone.now() + timedelta(seconds=30))
    assert found(verify()) == {}
    CallbackDelivery.objects.filter(pk=other.pk).update(lease_expires_at=None)
    attempt = CallbackAttempt.objects.create(delivery=other, attempt_number=1, created_at=timezone.now())
    assert found(verify()) == {}
    CallbackAttempt.objects.filter(pk=attempt.pk).update(created_at=ago(3600))
    assert found(verify()) == expected


# --- What waits -------------------------------------------------------------------------------------------------------


def provider_of(batch: Batch) -> Provider:
    return Provider.objects.get(pk=Run.objects.filter(batch=batch)[0].provider_id)


def waiting_batch(**more: Any) -> tuple[Batch, Provider]:
    """A batch whose runs have been due for an hour."""
    batch, _ = make_batch(**{"items": ITEMS} | more)
    Run.objects.filter(batch=batch).update(due_at=ago(3600))
    return batch, provider_of(batch)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"adapter_code": "gone"}, "3 runs wait, and it cannot be used: There is no adapter 'gone'."),
        ({"config": {"modules": "no list"}}, "3 runs wait, and it cannot be used: "),
        ({"config": {"modules": ["no.such.module"]}}, "3 runs wait, and it cannot be used: "),
        ({"adapter_code": "scripted"}, "3 runs wait, and it has no endpoint"),
    ],
)
def test_runs_that_nobody_can_do_are_an_error(change: dict[str, Any], detail: str) -> None:
    _, provider = waiting_batch()
    Provider.objects.filter(pk=provider.pk).update(**change)
    report = verify()
    ((check, (count, [(subject, said)])),) = found(report).items()
    assert (check, count, subject) == ("run_unclaimable", 1, f"provider {provider.code}")
    assert said.startswith(detail)
    assert not report.is_clean


def test_runs_that_wait_because_somebody_decided_so_are_told_and_are_not_off() -> None:
    _, paused = waiting_batch()
    Provider.objects.filter(pk=paused.pk).update(status_code=ProviderStatus.PAUSED, adapter_code="gone")
    servers, _ = make_servers(2)
    Endpoint.objects.filter(provider=servers).update(status_code=ProviderStatus.PAUSED)
    waiting_batch(model=make_model(provider=servers))
    _, capped = waiting_batch(organization=make_organization(max_in_flight=0))
    report = verify()
    codes = [f"provider {each.code}" for each in (paused, servers, capped)]
    reasons = ["it is paused", "all its endpoints are paused", "their organization may have none in flight"]
    told = sorted((code, f"3 runs wait: {reason}") for code, reason in zip(codes, reasons, strict=True))
    assert found(report) == {"run_held_back": (3, told)}
    assert report.is_clean


def test_a_due_run_is_overdue_when_nobody_claims() -> None:
    _, provider = waiting_batch()
    Run.objects.filter(input__text="c").update(due_at=timezone.now() + timedelta(hours=1))
    report = verify()
    detail = "3 runs wait, one due for 1:00:00, and nothing is claimed"
    assert found(report) == {"run_overdue": (1, [(f"provider {provider.code}", detail)])}
    assert (report.findings[0].level, report.is_clean) == (Level.WARNING, False)


@pytest.mark.parametrize("at_work", ["claims", "runs", "cap", "not yet"])
def test_a_due_run_waits_its_turn_while_its_provider_is_at_work(at_work: str, settings: Any) -> None:
    organization = make_organization(max_in_flight=1)
    _, provider = waiting_batch(organization=organization)
    if at_work == "claims":
        heartbeat.beat(heartbeat.claim_of(provider.pk))
    elif at_work == "runs":
        claim(waiting_batch(model=make_model(provider=provider))[0])
    elif at_work == "cap":
        claim(make_batch(organization=organization)[0])
    else:
        Run.objects.update(due_at=ago(settings.STALLED_AFTER.total_seconds() - 5))
    assert found(verify()) == {}


def test_an_old_claim_excuses_nothing() -> None:
    _, provider = waiting_batch()
    heartbeat.beat(heartbeat.claim_of(provider.pk))
    sql("UPDATE batches_heartbeat SET beat_at = now() - interval '1 hour'")
    assert list(found(verify())) == ["run_overdue"]


# --- The whole --------------------------------------------------------------------------------------------------------


def test_every_check_has_a_level_and_a_rule_and_findings_come_in_their_order() -> None:
    batch = open_batch()
    sql("UPDATE batches_batch SET cost = 5, status_code = 'queued', items_failed = 0")
    report = verify()
    assert [(each.check, each.level, each.rule) for each in report.findings] == [
        (check, *CHECKS[check]) for check in ("batch_counters", "batch_status", "batch_cost")
    ]
    assert {each.examples[0].subject for each in report.findings} == {f"batch {batch.pk}"}


def test_one_batch_or_what_is_new_can_be_looked_at_alone() -> None:
    old, new = ended_batch(callback_url=URL), ended_batch(callback_url=URL)
    Batch.objects.filter(pk=old.pk).update(created_at=ago(7200))
    Run.objects.filter(batch=old).update(created_at=ago(7200))
    CallbackDelivery.objects.filter(subject_id=old.pk).update(created_at=ago(7200))
    sql("UPDATE batches_batch SET cost = 5")
    sql("UPDATE batches_batchitem SET sequence_index = 7 WHERE sequence_index = 2")
    sql("UPDATE callbacks_callbackdelivery SET lease_expires_at = now() - interval '1 hour'")
    whole = verify()
    assert [(each.check, each.count) for each in whole.findings] == [
        ("batch_items", 2),
        ("batch_cost", 2),
        ("delivery_lease", 2),
    ]
    for report in (verify(batch_id=new.pk), verify(since=ago(3600))):
        assert (report.batches, report.runs, report.deliveries) == (1, 3, 1)
        assert [(each.check, each.count) for each in report.findings] == [
            ("batch_items", 1),
            ("batch_cost", 1),
            ("delivery_lease", 1),
        ]
        assert report.findings[0].examples[0].subject == f"batch {new.pk}"


def test_statements_and_examples_do_not_grow_with_the_rows(count_queries: Callable[..., Any]) -> None:
    def statements() -> int:
        with count_queries() as log:
            verify(examples=3)
        return len(log)

    def make_wrong(number: int) -> None:
        for _ in range(number):
            batch, _ = waiting_batch(callback_url=URL)
            claim(batch, expired_for=3600)
            make_delivery(subject_id=batch.pk)
            sql("UPDATE batches_batch SET cost = 5, items_failed = 1 WHERE id = %s", batch.pk)

    make_wrong(1)
    one = statements()
    make_wrong(7)
    assert statements() == one
    counts = {each.check: (each.count, len(each.examples)) for each in verify(examples=3).findings}
    assert counts == {
        "batch_counters": (8, 3),
        "batch_cost": (8, 3),
        "run_lease": (8, 3),
        "callback_unwanted": (8, 3),
    }


class Between:
    """Does something in another connection before each statement of the audit."""

    def __init__(self, work: Callable[[int], object]) -> None:
        self.work = work
        self.statements = 0

    def __call__(self, execute: Any, statement: str, *rest: Any) -> Any:
        if audit_sql.SNAPSHOT not in statement:
            number = self.statements
            self.statements += 1
            with InThread(lambda: self.work(number)) as other:
                pass
            assert other.is_done
            _ = other.result
        return execute(statement, *rest)


def test_a_system_at_work_gives_no_false_alarm() -> None:
    """Between any two statements runs are claimed and settled, batches begin and end and call back."""
    model = make_model()
    provider_id = model.links.get().provider_id
    batches = [make_batch(model=model, items=ITEMS, callback_url=URL)[0] for _ in range(6)]

    def work(number: int) -> None:
        make_batch(model=model, items=ITEMS, callback_url=URL)
        runs = lifecycle.claim_runs(provider_id=provider_id, limit=4)
        lifecycle.settle(
            settlements=[
                Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}') for run in runs[:3]
            ]
        )

    for _ in range(3):
        between = Between(work)
        with connection.execute_wrapper(between):
            report = verify()
        assert found(report) == {}
        assert between.statements >= 6
    assert Batch.objects.filter(status_code="succeeded").count() >= len(batches)


def test_all_statements_see_one_moment() -> None:
    """The guard: SNAPSHOT. Without it what happens after the first statement is counted, or found, by the later ones."""
    batch = open_batch()

    def work(number: int) -> None:
        if number == 1:  # the first has been answered
            sql("UPDATE batches_batch SET cost = 5 WHERE id = %s", batch.pk)

    with connection.execute_wrapper(Between(work)):
        report = verify()
    assert found(report) == {}
    assert list(found(verify())) == ["batch_cost"]


def test_a_settlement_that_is_not_committed_is_seen_whole_or_not_at_all() -> None:
    batch, _ = make_batch(items=ITEMS, callback_url=URL)
    runs = lifecycle.claim_runs(provider_id=provider_of(batch).pk, limit=3)
    settlements = [Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}') for run in runs]
    seen: list[Found] = []

    def look(execute: Any, statement: str, *rest: Any) -> Any:
        with InThread(lambda: seen.append(found(verify()))) as other:
            pass
        _ = other.result
        return execute(statement, *rest)

    with connection.execute_wrapper(look):
        lifecycle.settle(settlements=settlements)
    assert seen == [{}] * len(seen)
    assert len(seen) >= 6
    assert found(verify()) == {}
    assert BatchItem.objects.count() == 3
