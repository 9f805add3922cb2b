"""What ends calls back: once, in the transaction that ends it, with a body that says how it ended. And again, when asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction
from django.utils import timezone

from assets.services import store_file
from batches import lifecycle
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from batches.services import redeliver_callbacks
from callbacks.lifecycle import Attempt, claim_deliveries, record
from callbacks.models import CallbackAttempt, CallbackDelivery
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error, assert_matches, faults_of, json_of
from tests.factories import end_batch, make_batch, make_model, make_organization
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

URL = "https://shop.example/done"
NO_FILES = '{"outputs": [], "seed": null, "timing": null, "nsfw_detected": null}'


def payload(delivery: CallbackDelivery) -> Any:
    return json.loads(bytes(delivery.payload))


def end_deliveries(status: int = 200) -> None:
    record(
        attempts=[
            Attempt(
                delivery_id=each.id,
                attempt=each.attempt,
                max_attempts=each.max_attempts,
                started_at=timezone.now(),
                status=status,
            )
            for each in claim_deliveries(limit=100)
        ]
    )


def make_single_run(**overrides: Any) -> Run:
    """A run without a batch, as single runs will be."""
    batch, (handle,) = make_batch(**{"organization": make_organization()} | overrides)
    Run.objects.filter(pk=handle.run_id).update(batch=None, callback_url=URL, metadata={"order": 7})
    batch.delete()
    return Run.objects.get(pk=handle.run_id)


def end_run(run: Run, status: RunStatus) -> None:
    (claimed,) = lifecycle.claim_runs(provider_id=run.provider_id, limit=1)
    is_failed = status == RunStatus.FAILED
    lifecycle.settle(
        settlements=[
            Settlement(
                run.pk,
                claimed.attempt,
                status,
                output=NO_FILES if status == RunStatus.SUCCEEDED else None,
                failure_code="EXECUTION_FAILED" if is_failed else None,
                delay=0.0,
            )
        ]
    )


# --- The end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "event", "status", "counts"),
    [
        (("succeeded", "succeeded"), "batch.succeeded", "succeeded", (2, 0, 0)),
        (("succeeded", "failed"), "batch.partial_succeeded", "partial_succeeded", (1, 1, 0)),
        (("canceled", "succeeded"), "batch.partial_succeeded", "partial_succeeded", (1, 0, 1)),
        (("failed", "failed"), "batch.failed", "failed", (0, 2, 0)),
        (("failed", "canceled"), "batch.failed", "failed", (0, 1, 1)),
        (("canceled", "canceled"), "batch.cancelled", "canceled", (0, 0, 2)),
    ],
)
def test_every_end_of_a_batch_calls_back_and_says_how(
    statuses: tuple[str, str], event: str, status: str, counts: tuple[int, int, int]
) -> None:
    batch, handles = make_batch(
        items=[{"text": "a", "client_ref": "first"}, {"text": "b"}], callback_url=URL, metadata={"order": 1}
    )
    end_batch(batch, *statuses)
    (delivery,) = CallbackDelivery.objects.all()
    assert (delivery.subject_type, delivery.subject_id, delivery.organization_id) == (
        "batch",
        batch.pk,
        batch.organization_id,
    )
    assert (delivery.callback_url, delivery.is_automatic, delivery.status_code) == (URL, True, "pending")
    body = payload(delivery)
    assert_matches("BatchCallbackPayload", body)
    outputs: dict[str, Any] = {
        "succeeded": json.loads(NO_FILES),
        "failed": None,
        "canceled": None,
    }
    errors = {"failed": {"code": "EXECUTION_FAILED", "message": "No.", "stage_code": "execute"}}
    assert body == {
        "event": event,
        "batch_id": str(batch.pk),
        "status": status,
        "output": {
            "items": [
                {
                    "sequence_index": index,
                    "client_ref": ["first", None][index],
                    "run_id": str(handles[index].run_id),
                    "status_code": each,
                    "output": outputs[each],
                    "error": errors.get(each),
                }
                for index, each in enumerate(statuses)
            ],
            "succeeded": counts[0],
            "failed": counts[1],
            "cancelled": counts[2],
            "total": 2,
        },
        "duration_ms": batch.duration_ms,
        "created_at": batch.created_at.isoformat(),
        "completed_at": batch.completed_at.isoformat() if batch.completed_at else None,
        "metadata": {"order": 1},
    }


def test_a_batch_without_a_callback_url_calls_nobody(rung: Rung, count_queries: Callable[..., Any]) -> None:
    batch, _ = make_batch()
    rung.calls.clear()
    with count_queries() as log:
        end_batch(batch)
    assert CallbackDelivery.objects.count() == 0
    assert ("callbacks.deliver", ()) not in rung.calls
    assert not [query for query in log.captured_queries if "callback" in query["sql"] and "INSERT" in query["sql"]]


def test_a_batch_that_goes_on_has_no_callback_yet() -> None:
    batch, _ = make_batch(items=[{"text": "a"}, {"text": "b"}], callback_url=URL)
    first, second = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=2)
    lifecycle.settle(settlements=[Settlement(first.id, 1, RunStatus.SUCCEEDED, output=NO_FILES)])
    assert CallbackDelivery.objects.count() == 0
    lifecycle.settle(settlements=[Settlement(second.id, 1, RunStatus.QUEUED)])
    assert CallbackDelivery.objects.count() == 0
    (again,) = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=2)
    lifecycle.settle(settlements=[Settlement(again.id, 2, RunStatus.SUCCEEDED, output=NO_FILES)])
    assert CallbackDelivery.objects.get().subject_id == batch.pk


def test_the_delivery_commits_with_the_end_or_not_at_all(rung: Rung) -> None:
    batch, _ = make_batch(callback_url=URL)
    rung.calls.clear()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        end_batch(batch)
        assert CallbackDelivery.objects.count() == 1
        raise ZeroDivisionError
    batch.refresh_from_db()
    assert (batch.status_code, CallbackDelivery.objects.count()) == ("queued", 0)
    assert rung.calls == []
    end_batch(batch)
    assert CallbackDelivery.objects.count() == 1
    assert rung.calls == [("callbacks.deliver", ())]


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (RunStatus.SUCCEEDED, "run.completed"),
        (RunStatus.FAILED, "run.failed"),
        (RunStatus.CANCELED, "run.cancelled"),
    ],
)
def test_every_end_of_a_run_with_its_own_callback_url_calls_back(status: RunStatus, event: str) -> None:
    run = make_single_run()
    end_run(run, status)
    run.refresh_from_db()
    (delivery,) = CallbackDelivery.objects.all()
    body = payload(delivery)
    assert_matches("RunCallbackPayload", body)
    assert (delivery.subject_type, delivery.subject_id) == ("run", run.pk)
    assert body == {
        "event": event,
        "run_id": str(run.pk),
        "status": status,
        "output": json.loads(NO_FILES) if status == RunStatus.SUCCEEDED else None,
        "duration_ms": run.duration_ms,
        "created_at": run.created_at.isoformat(),
        "completed_at": run.completed_at.isoformat() if run.completed_at else None,
        "metadata": {"order": 7},
    }


def test_a_run_that_is_tried_again_does_not_call_back_in_between() -> None:
    run = make_single_run()
    end_run(run, RunStatus.QUEUED)
    assert CallbackDelivery.objects.count() == 0


def test_runs_of_a_batch_call_nobody_only_the_batch_does() -> None:
    batch, _ = make_batch(items=[{"text": str(n)} for n in range(5)], callback_url=URL)
    end_batch(batch)
    assert list(CallbackDelivery.objects.values_list("subject_type", flat=True)) == ["batch"]


def test_ends_cost_the_same_statements_for_one_batch_and_for_twenty(count_queries: Callable[..., Any]) -> None:
    model = make_model()

    def end(number: int, items: int) -> int:
        for _ in range(number):
            make_batch(model=model, items=[{"text": str(n)} for n in range(items)], callback_url=URL)
        runs = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=1000)
        with count_queries() as log:
            lifecycle.settle(
                settlements=[Settlement(r.id, r.attempt, RunStatus.SUCCEEDED, output=NO_FILES) for r in runs]
            )
        return len(log.captured_queries)

    # BEGIN, two locks, two updates, the bodies' rows, the insert, COMMIT.
    assert end(1, 1) == end(20, 10) == 8
    assert CallbackDelivery.objects.count() == 21


def test_the_urls_of_a_body_open_until_after_the_last_retry() -> None:
    batch, (handle,) = make_batch(callback_url=URL)
    asset = store_file(
        organization_id=batch.organization_id,
        folder="outputs",
        name="a.png",
        body=b"x",
        mime_type="image/png",
        asset_type="image",
    )
    (run,) = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=1)
    output = {"outputs": [{"asset_id": str(asset.pk), "type": "image", "mime_type": "image/png"}]}
    lifecycle.settle(
        settlements=[Settlement(run.id, 1, RunStatus.SUCCEEDED, output=json.dumps(output))],
        assets=[(handle.run_id, asset)],
    )
    (item,) = payload(CallbackDelivery.objects.get())["output"]["items"]
    url = item["output"]["outputs"][0]["url"]
    expires = int(url.partition("expires=")[2].partition("&")[0])
    hours = (expires - timezone.now().timestamp()) / 3600
    # 75 h 35 min of pauses, a fifth of jitter, and the hour that every URL has.
    assert 91.6 < hours < 91.8


# --- Reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(api: Api) -> Batch:
    batch, _ = make_batch(
        organization=api.organization, model=make_model(organization=api.organization), callback_url=URL
    )
    return end_batch(batch)


def test_the_callback_of_a_batch_shows_every_attempt(api: Api, ended: Batch) -> None:
    end_deliveries(500)
    response = api.get(f"/v1/batches/{ended.pk}/callback")
    body = json_of(response)
    assert response.status_code == 200
    assert_matches("BatchCallbackHistory", body)
    delivery, attempt = CallbackDelivery.objects.get(), CallbackAttempt.objects.get()
    assert body == [
        {
            "id": str(delivery.pk),
            "batch_id": str(ended.pk),
            "callback_url": URL,
            "payload_bytes": bytes(delivery.payload).decode(),
            "payload": payload(delivery),
            "signing_secret_id": None,
            "is_automatic": True,
            "status_code": "pending",
            "failure_reason_code": None,
            "failure_detail": None,
            "attempt_count": 1,
            "max_attempts": 10,
            "next_attempt_at": delivery.next_attempt_at.isoformat() if delivery.next_attempt_at else None,
            "created_at": delivery.created_at.isoformat(),
            "updated_at": delivery.updated_at.isoformat(),
            "completed_at": None,
            "attempts": [
                {
                    "id": str(attempt.pk),
                    "delivery_id": str(delivery.pk),
                    "attempt_number": 1,
                    "status_code": 500,
                    "response_body": None,
                    "response_time_ms": None,
                    "error_message": None,
                    "created_at": attempt.created_at.isoformat(),
                }
            ],
        }
    ]


def test_a_batch_that_has_not_ended_or_wants_none_has_an_empty_history(api: Api) -> None:
    batch, _ = make_batch(organization=api.organization, model=make_model(organization=api.organization))
    assert json_of(api.get(f"/v1/batches/{batch.pk}/callback")) == []


def test_a_history_costs_the_same_statements_however_long(
    api: Api, ended: Batch, count_queries: Callable[..., Any]
) -> None:
    end_deliveries()
    api.get(f"/v1/batches/{ended.pk}/callback")  # the first request of a minute marks the key as used
    with count_queries() as one:
        assert len(json_of(api.get(f"/v1/batches/{ended.pk}/callback"))) == 1
    for _ in range(60):
        assert len(redeliver_callbacks(batch_ids=[ended.pk])) == 1
        end_deliveries()
    with count_queries() as many:
        history = json_of(api.get(f"/v1/batches/{ended.pk}/callback"))
    assert len(history) == 50, "the newest"
    assert [each["id"] for each in history] == sorted((each["id"] for each in history), reverse=True)
    assert len(one.captured_queries) == len(many.captured_queries) == 4  # key, batch, deliveries, attempts


# --- Again ------------------------------------------------------------------------------------------------------------


def test_a_redelivery_is_a_new_delivery_with_a_fresh_body(api: Api, ended: Batch, rung: Rung) -> None:
    end_deliveries()
    Batch.objects.filter(pk=ended.pk).update(metadata={"fresh": True})
    rung.calls.clear()
    response = api.post(f"/v1/batches/{ended.pk}/callback-redeliveries", b"")
    body = json_of(response)
    assert response.status_code == 201
    assert_matches("BatchCallbackDelivery", body)
    first, second = CallbackDelivery.objects.order_by("pk")
    assert (body["id"], body["is_automatic"], body["status_code"], body["attempts"]) == (
        str(second.pk),
        False,
        "pending",
        [],
    )
    assert payload(first)["metadata"] is None, "what was frozen stays"
    assert body["payload"] == payload(second) == payload(first) | {"metadata": {"fresh": True}}
    assert rung.calls == [("callbacks.deliver", ())]


def test_a_run_is_read_and_redelivered_the_same_way(api: Api) -> None:
    run = make_single_run(organization=api.organization, model=make_model(organization=api.organization))
    end_run(run, RunStatus.SUCCEEDED)
    end_deliveries()
    body = json_of(api.post(f"/v1/runs/{run.pk}/callback-redeliveries", {}))
    assert_matches("RunCallbackDelivery", body)
    assert body["run_id"] == str(run.pk)
    history = json_of(api.get(f"/v1/runs/{run.pk}/callback"))
    assert_matches("RunCallbackHistory", history)
    assert [each["is_automatic"] for each in history] == [False, True]


def refusal(api: Api, path: str) -> str:
    errors = assert_error(api.post(path, b""), 422, "VALIDATION_ERROR")
    name = "batch_id" if "batches" in path else "run_id"
    assert faults_of(errors) == [(["path", name], "conflict")]
    return str(errors[0]["msg"])


def test_a_redelivery_is_refused_while_one_is_in_flight(api: Api, ended: Batch, rung: Rung) -> None:
    rung.calls.clear()
    message = refusal(api, f"/v1/batches/{ended.pk}/callback-redeliveries")
    assert message == "A callback is in flight already; see its delivery."
    assert CallbackDelivery.objects.count() == 1
    assert rung.calls == []


def test_a_redelivery_is_refused_before_the_end(api: Api) -> None:
    batch, _ = make_batch(
        organization=api.organization, model=make_model(organization=api.organization), callback_url=URL
    )
    message = refusal(api, f"/v1/batches/{batch.pk}/callback-redeliveries")
    assert message == "It has not ended; its callback is sent when it does."
    assert CallbackDelivery.objects.count() == 0


def test_a_redelivery_is_refused_without_a_callback_url(api: Api) -> None:
    batch, _ = make_batch(organization=api.organization, model=make_model(organization=api.organization))
    end_batch(batch)
    assert refusal(api, f"/v1/batches/{batch.pk}/callback-redeliveries") == "It has no callback_url."
    (run,) = Run.objects.all()
    assert refusal(api, f"/v1/runs/{run.pk}/callback-redeliveries") == "It has no callback_url."
    assert CallbackDelivery.objects.count() == 0


def test_of_many_only_those_are_redelivered_that_have_ended_and_want_it(ended: Batch) -> None:
    end_deliveries()
    wants_none, _ = make_batch()
    end_batch(wants_none)
    queued, _ = make_batch(callback_url="https://shop.example/done")
    batches = [ended, wants_none, queued]
    assert list(redeliver_callbacks(batch_ids=[batch.pk for batch in batches])) == [ended.pk]
    run_ids = list(Run.objects.values_list("pk", flat=True))
    Run.objects.filter(batch=queued).update(callback_url="https://shop.example/done")
    assert redeliver_callbacks(run_ids=run_ids) == {}


def test_of_two_redeliveries_at_once_the_unique_index_refuses_one(api: Api, ended: Batch) -> None:
    end_deliveries()

    def post() -> int:
        return int(api.post(f"/v1/batches/{ended.pk}/callback-redeliveries", b"").status_code)

    with transaction.atomic():
        redeliver_callbacks(batch_ids=[ended.pk])
        other = InThread(post).start()
        wait_until(lambda: lock_waiters() == 1, what="the second to wait at the index")
    assert other.result == 422
    assert CallbackDelivery.objects.filter(is_automatic=False).count() == 1


# --- The command ------------------------------------------------------------------------------------------------------


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    call_command("redeliver_callbacks", *arguments)
    return str(capsys.readouterr().out).strip()


@pytest.fixture
def batches(rung: Rung) -> list[Batch]:
    """Ended batches: delivered, failed, in flight, and one that wants no callback."""
    ended = []
    for status in (200, 410, None):
        batch, _ = make_batch(callback_url=URL)
        ended.append(end_batch(batch))
        if status is not None:
            end_deliveries(status)
    silent, _ = make_batch()
    ended.append(end_batch(silent))
    rung.calls.clear()
    return ended


def test_the_command_counts_and_sends_nothing_without_apply(
    batches: list[Batch], rung: Rung, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_command(capsys, "--since", "2020-01-01")
    assert out == "Would send the callbacks of 3 batches and 0 runs again. Add --apply."
    assert CallbackDelivery.objects.count() == 3
    assert rung.calls == []


def test_the_command_sends_again_what_is_not_in_flight(
    batches: list[Batch], rung: Rung, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_command(capsys, "--since", "2020-01-01", "--apply")
    assert out == "Found 3 batches and 0 runs; sent 2 callback(s) again. The rest has one in flight."
    again = CallbackDelivery.objects.filter(is_automatic=False).values_list("subject_id", flat=True)
    assert set(again) == {batches[0].pk, batches[1].pk}
    assert rung.calls == [("callbacks.deliver", ())]


def test_with_failed_only_those_whose_newest_delivery_failed(
    batches: list[Batch], capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(capsys, "--since", "2020-01-01", "--failed", "--apply")
    assert [row.subject_id for row in CallbackDelivery.objects.filter(is_automatic=False)] == [batches[1].pk]
    end_deliveries(200)
    out = run_command(capsys, "--since", "2020-01-01", "--failed")
    assert out == "Would send the callbacks of 0 batches and 0 runs again. Add --apply."


def test_since_a_moment_leaves_out_what_ended_before(batches: list[Batch], capsys: pytest.CaptureFixture[str]) -> None:
    moment = timezone.now() - timedelta(hours=1)
    Batch.objects.filter(pk=batches[0].pk).update(completed_at=moment - timedelta(seconds=1))
    assert "2 batches" in run_command(capsys, "--since", moment.isoformat())


def test_one_batch_or_one_run_by_id(batches: list[Batch], capsys: pytest.CaptureFixture[str]) -> None:
    run_command(capsys, "--batch", str(batches[0].pk), "--apply")
    run = make_single_run()
    end_run(run, RunStatus.SUCCEEDED)
    end_deliveries()
    out = run_command(capsys, "--run", str(run.pk), "--apply")
    assert out == "Found 0 batches and 1 run; sent 1 callback(s) again. The rest has one in flight."
    again = CallbackDelivery.objects.filter(is_automatic=False).values_list("subject_type", "subject_id")
    assert list(again.order_by("pk")) == [("batch", batches[0].pk), ("run", run.pk)]


@pytest.mark.parametrize(
    "arguments",
    [(), ("--failed", "--batch", "01a20c33-30d3-737b-a193-fcc95c0215a8"), ("--since", "yesterday"), ("--batch", "1")],
)
def test_arguments_that_say_nothing_clear_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        call_command("redeliver_callbacks", *arguments)
