"""Prepaid credit in the life of batches and runs: held when they are created, settled when they end, whatever ends them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from batches import engine, lifecycle
from batches.cancellation import cancel
from batches.models import Batch, BatchItem, Run, RunStatus
from batches.replays import replay_failed
from batches.retry import Settlement
from billing.models import LedgerEntry
from billing.services import grant_credit
from callbacks.models import CallbackDelivery
from idempotency.models import IdempotencyRecord
from models_registry.models import Model
from tests.billing.ledger import assert_sums, balance_of, ledger_of
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error, assert_nothing_happened
from tests.factories import end_batch, make_batch, make_model, make_organization, make_prepaid

pytestmark = pytest.mark.django_db(transaction=True)

URL = "https://shop.example/done"


@pytest.fixture
def model() -> Model:
    return make_model(price=Decimal("0.10"))


def prepaid(credit: str) -> Api:
    return Api(make_prepaid(credit))


def create(api: Api, model: Model, items: int = 3, **headers: Any) -> Any:
    return api.post(f"/v1/models/{model}/batches", {"input": [{"text": "a"}] * items}, **headers)


def create_run(api: Api, model: Model, **body: Any) -> Any:
    return api.post(f"/v1/models/{model}/runs", {"input": {"text": "a"}, **body})


# --- Creating -----------------------------------------------------------------------------------------------------------


def test_creating_a_batch_holds_the_price_of_all_its_items(model: Model) -> None:
    api = prepaid("1")
    answer = create(api, model)
    assert answer.status_code == 201
    assert ledger_of(api.organization) == [("grant", "1"), ("hold", "-0.3")]
    assert balance_of(api.organization) == Decimal("0.7")
    entry = LedgerEntry.objects.get(kind_code="hold")
    assert (entry.subject_type, str(entry.subject_id)) == ("batch", answer.json()["id"])


def test_creating_a_run_holds_its_price(model: Model) -> None:
    api = prepaid("0.10")
    answer = create_run(api, model)
    assert answer.status_code == 201
    assert ledger_of(api.organization) == [("grant", "0.1"), ("hold", "-0.1")]
    entry = LedgerEntry.objects.get(kind_code="hold")
    assert (entry.subject_type, str(entry.subject_id)) == ("run", answer.json()["id"])


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "k"}], ids=["bare", "with a key"])
def test_a_batch_that_costs_too_much_is_402_and_nothing_is_made(
    model: Model, rung: Rung, headers: dict[str, Any]
) -> None:
    api = prepaid("0.29")
    answer = create(api, model, **headers)
    assert assert_error(answer, 402, "INSUFFICIENT_CREDIT") is None
    assert answer.json()["message"] == "This needs 0.30 USD of credit, and 0.29 USD is available."
    assert_nothing_happened(rung)
    assert ledger_of(api.organization) == [("grant", "0.29")]
    assert balance_of(api.organization) == Decimal("0.29")


def test_a_run_that_costs_too_much_is_402_and_nothing_is_made(model: Model, rung: Rung) -> None:
    api = prepaid("0.09")
    answer = create_run(api, model)
    assert assert_error(answer, 402, "INSUFFICIENT_CREDIT") is None
    assert answer.json()["message"] == "This needs 0.10 USD of credit, and 0.09 USD is available."
    assert_nothing_happened(rung)
    assert ledger_of(api.organization) == [("grant", "0.09")]


def test_without_an_account_nothing_can_be_created(model: Model, rung: Rung) -> None:
    api = prepaid("0")
    assert_error(create(api, model), 402, "INSUFFICIENT_CREDIT")
    assert_nothing_happened(rung)


def test_after_a_grant_the_same_key_creates_it(model: Model) -> None:
    api = prepaid("0")
    assert create(api, model, Idempotency_Key="k").status_code == 402
    make_grant(api, "0.30")
    assert create(api, model, Idempotency_Key="k").status_code == 201
    assert balance_of(api.organization) == 0


def make_grant(api: Api, amount: str) -> None:
    grant_credit(organization=api.organization, amount=Decimal(amount))


def test_a_replayed_answer_holds_nothing_more(model: Model) -> None:
    api = prepaid("1")
    answers = [create(api, model, Idempotency_Key="k") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert ledger_of(api.organization) == [("grant", "1"), ("hold", "-0.3")]
    assert IdempotencyRecord.objects.count() == 1


def test_who_is_not_on_prepaid_credit_has_no_ledger(model: Model) -> None:
    api = Api()
    assert create(api, model).status_code == 201
    assert create_run(api, model).status_code == 201
    engine.execute(provider_id=Run.objects.all()[0].provider_id)
    assert Batch.objects.get().status_code == "succeeded"
    assert LedgerEntry.objects.count() == 0
    assert not Batch.objects.get().has_hold
    assert not Run.objects.filter(has_hold=True).exists()


def test_what_costs_nothing_needs_no_credit() -> None:
    api = prepaid("0")
    free = make_model(price=Decimal(0))
    assert create(api, free).status_code == 201
    assert create_run(api, free).status_code == 201
    engine.execute(provider_id=Run.objects.all()[0].provider_id)
    assert LedgerEntry.objects.count() == 0


def test_a_dry_run_asks_for_no_credit(model: Model) -> None:
    """It tells what the request would cost; whether that is there then is decided then."""
    api = prepaid("0")
    answer = api.post(f"/v1/models/{model}/batches?validate_only=true", {"input": [{"text": "a"}] * 3})
    assert (answer.status_code, answer.json()) == (200, {"valid": True, "items_total": 3, "estimated_cost": "0.30"})
    assert LedgerEntry.objects.count() == 0


def test_a_faulty_request_is_422_whatever_the_balance(model: Model) -> None:
    api = prepaid("0")
    assert_error(api.post(f"/v1/models/{model}/batches", {"input": [{"wrong": 1}]}), 422, "VALIDATION_ERROR")


# --- Ending -------------------------------------------------------------------------------------------------------------


def held_batch(model: Model, items: int = 3, **more: Any) -> Batch:
    """Of an organisation that has 1 USD."""
    batch, _ = make_batch(organization=make_prepaid("1"), model=model, items=[{"text": "a"}] * items, **more)
    return batch


@pytest.mark.parametrize(
    ("statuses", "settled"),
    [
        (("succeeded", "succeeded", "succeeded"), [("release", "0.3"), ("charge", "-0.3")]),
        (("succeeded", "failed", "canceled"), [("release", "0.3"), ("charge", "-0.1")]),
        (("failed", "failed", "failed"), [("release", "0.3")]),
    ],
)
def test_what_succeeded_is_charged_and_the_rest_is_free_again(
    model: Model, statuses: tuple[str, ...], settled: list[tuple[str, str]]
) -> None:
    batch = end_batch(held_batch(model), *statuses)
    assert ledger_of(batch.organization) == [("grant", "1"), ("hold", "-0.3"), *settled]
    assert balance_of(batch.organization) == 1 - (batch.cost or 0)


def test_nothing_is_settled_before_the_last_run_has_ended(model: Model) -> None:
    batch = held_batch(model)
    for left in (2, 1, 0):
        [run] = lifecycle.claim_runs(provider_id=batch.runs.all()[0].provider_id, limit=1)
        lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')])
        assert LedgerEntry.objects.filter(kind_code="release").exists() is (left == 0)
    assert balance_of(batch.organization) == Decimal("0.7")


def test_the_price_of_the_day_of_creation_is_charged(model: Model) -> None:
    batch = held_batch(model)
    Model.objects.update(price=Decimal("0.90"))
    batch = end_batch(batch)
    assert batch.cost == Decimal("0.30")
    assert ledger_of(batch.organization)[1:] == [("hold", "-0.3"), ("release", "0.3"), ("charge", "-0.3")]


def test_a_single_run_that_succeeded_is_charged_and_one_that_failed_is_not(model: Model) -> None:
    api = prepaid("0.20")
    ids = [create_run(api, model).json()["id"] for _ in range(2)]
    runs = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=2)
    assert [str(run.id) for run in runs] == ids
    lifecycle.settle(
        settlements=[
            Settlement(runs[0].id, runs[0].attempt, RunStatus.SUCCEEDED, output='{"outputs": []}'),
            Settlement(runs[1].id, runs[1].attempt, RunStatus.FAILED, failure_code="EXECUTION_FAILED"),
        ]
    )
    assert sorted(ledger_of(api.organization)[3:]) == [("charge", "-0.1"), ("release", "0.1"), ("release", "0.1")]
    assert balance_of(api.organization) == Decimal("0.10")


def test_a_run_that_is_tried_again_keeps_its_hold(model: Model) -> None:
    api = prepaid("0.10")
    create_run(api, model)
    [run] = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=1)
    lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.QUEUED, delay=0)])
    assert Run.objects.get().status_code == "queued"
    assert ledger_of(api.organization) == [("grant", "0.1"), ("hold", "-0.1")]


def test_a_late_answer_is_not_charged(model: Model) -> None:
    batch = held_batch(model, items=1)
    [late] = lifecycle.claim_runs(provider_id=batch.runs.all()[0].provider_id, limit=1)
    Run.objects.update(lease_expires_at=timezone.now())
    lifecycle.return_expired()
    Run.objects.update(due_at=timezone.now())
    end_batch(batch, "failed")
    lifecycle.settle(settlements=[Settlement(late.id, late.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')])
    assert ledger_of(batch.organization) == [("grant", "1"), ("hold", "-0.1"), ("release", "0.1")]


def test_canceling_gives_back_what_was_held(model: Model) -> None:
    batch = held_batch(model)
    cancel(batch_ids=[batch.pk])
    assert ledger_of(batch.organization) == [("grant", "1"), ("hold", "-0.3"), ("release", "0.3")]
    cancel(batch_ids=[batch.pk])
    assert balance_of(batch.organization) == 1


def test_canceling_a_single_run_gives_back_what_was_held(model: Model) -> None:
    api = prepaid("0.10")
    run_id = create_run(api, model).json()["id"]
    assert api.post(f"/v1/runs/{run_id}/cancellation", {}).status_code == 201
    assert ledger_of(api.organization)[1:] == [("hold", "-0.1"), ("release", "0.1")]


def test_what_was_at_work_when_its_batch_was_canceled_is_settled_when_it_ends(model: Model) -> None:
    batch = held_batch(model)
    [run] = lifecycle.claim_runs(provider_id=batch.runs.all()[0].provider_id, limit=1)
    cancel(batch_ids=[batch.pk])
    assert balance_of(batch.organization) == Decimal("0.7")
    lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')])
    assert ledger_of(batch.organization)[1:] == [("hold", "-0.3"), ("release", "0.3"), ("charge", "-0.1")]


def test_a_batch_whose_time_is_over_gives_back_what_was_held(model: Model) -> None:
    Model.objects.update(batch_timeout=1)
    batch = held_batch(model)
    Batch.objects.update(created_at=timezone.now() - timedelta(seconds=2))
    assert lifecycle.fail_overdue().completed_batch_ids == (batch.pk,)
    assert ledger_of(batch.organization)[1:] == [("hold", "-0.3"), ("release", "0.3")]


def test_the_last_attempt_of_a_lost_worker_gives_back_what_was_held(model: Model) -> None:
    batch = held_batch(model, items=1)
    Run.objects.update(max_attempts=1)
    lifecycle.claim_runs(provider_id=batch.runs.all()[0].provider_id, limit=1)
    Run.objects.update(lease_expires_at=timezone.now())
    assert lifecycle.return_expired().completed_batch_ids == (batch.pk,)
    assert ledger_of(batch.organization)[1:] == [("hold", "-0.1"), ("release", "0.1")]


def test_a_hold_is_settled_also_when_the_organization_is_no_longer_prepaid(model: Model) -> None:
    batch = held_batch(model)
    batch.organization.is_prepaid = False
    batch.organization.save()
    end_batch(batch, "succeeded", "failed", "failed")
    assert ledger_of(batch.organization)[1:] == [("hold", "-0.3"), ("release", "0.3"), ("charge", "-0.1")]


def test_what_was_created_before_prepaid_credit_is_not_charged(model: Model) -> None:
    organization = make_organization()
    batch, _ = make_batch(organization=organization, model=model)
    organization.is_prepaid = True
    organization.save()
    end_batch(batch)
    assert LedgerEntry.objects.count() == 0


def test_the_end_its_callback_and_the_settling_are_one_transaction(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = held_batch(model, items=1, callback_url=URL)

    def fail(**_: Any) -> None:
        raise RuntimeError("the process died")

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "settle_holds", fail)
        with pytest.raises(RuntimeError):
            end_batch(batch)
    batch.refresh_from_db()
    assert (batch.status_code, CallbackDelivery.objects.count()) == ("running", 0)
    assert ledger_of(batch.organization) == [("grant", "1"), ("hold", "-0.1")]


# --- Replays --------------------------------------------------------------------------------------------------------------


def test_a_replay_holds_anew_what_it_does_again(model: Model) -> None:
    api = prepaid("0.30")
    batch, _ = make_batch(organization=api.organization, model=model, items=[{"text": "a"}] * 3)
    end_batch(batch, "succeeded", "failed", "failed")
    assert api.post(f"/v1/batches/{batch.pk}/replays", {}).status_code == 201
    assert ledger_of(api.organization)[-1] == ("hold", "-0.2")
    assert balance_of(api.organization) == 0
    assert_error(api.post(f"/v1/batches/{batch.pk}/replays", {}), 402, "INSUFFICIENT_CREDIT")
    assert (Batch.objects.count(), Run.objects.count(), BatchItem.objects.count()) == (2, 5, 5)


def test_a_replay_of_a_run_holds_anew(model: Model) -> None:
    api = prepaid("0.10")
    run_id = create_run(api, model).json()["id"]
    engine.execute(provider_id=Run.objects.get().provider_id)
    assert balance_of(api.organization) == 0
    assert_error(api.post(f"/v1/runs/{run_id}/replays", {}), 402, "INSUFFICIENT_CREDIT")
    make_grant(api, "0.10")
    assert api.post(f"/v1/runs/{run_id}/replays", {}).status_code == 201
    assert ledger_of(api.organization)[-1] == ("hold", "-0.1")


def test_of_many_replays_those_that_credit_does_not_cover_are_left_out(model: Model) -> None:
    organization = make_prepaid("0.30")
    batches = [end_batch(make_batch(organization=organization, model=model)[0], "failed") for _ in range(3)]
    make_batch(organization=organization, model=model)
    replayed, refused = replay_failed(batches)
    assert replayed == batches[:2]
    assert refused == ["This needs 0.10 USD of credit, and 0.00 USD is available."]
    assert Batch.objects.count() == 6
    assert_sums(organization)


# --- Statements -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [1, 100])
def test_credit_costs_two_statements_to_create_and_two_to_end(
    model: Model, items: int, count_queries: Callable[..., Any], rung: Rung
) -> None:
    counts = []
    for organization in (make_organization(), make_prepaid("100")):
        api = Api(organization)
        api.get("/v1/batches/x")
        assert api.post(f"/v1/models/{model}/batches?validate_only=true", {"input": [{}]}).status_code == 200
        with count_queries() as created:
            assert create(api, model, items).status_code == 201
        runs = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=100)
        told = [Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}') for run in runs]
        with count_queries() as ended:
            assert len(lifecycle.settle(settlements=told).completed_batch_ids) == 1
        counts.append((len(created), len(ended)))
    (created_plain, ended_plain), prepaid_counts = counts
    assert created_plain == 7
    assert prepaid_counts == (created_plain + 2, ended_plain + 2)


def test_a_refused_request_inserts_nothing_that_would_have_to_be_undone(
    model: Model, count_queries: Callable[..., Any], rung: Rung
) -> None:
    api = prepaid("0")
    with count_queries() as log:
        assert create(api, model).status_code == 402
    assert {query["sql"].split()[0] for query in log.captured_queries} <= {"SELECT", "UPDATE"}
    assert not [query for query in log.captured_queries if "INSERT" in query["sql"]]
