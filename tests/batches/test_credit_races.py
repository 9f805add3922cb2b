"""Prepaid credit under concurrency: exactly as much is created as is paid for, and nobody waits in a circle."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batches import lifecycle, services
from batches.audit import verify
from batches.cancellation import cancel
from batches.models import Batch, BatchItem, Run, RunStatus
from batches.retry import Settlement
from billing.models import LedgerEntry
from billing.services import InsufficientCredit, check_credit, grant_credit
from models_registry.models import Model
from runflow.lib import errors
from tests.billing.ledger import assert_sums, balance_of, ledger_of
from tests.conftest import Api
from tests.contract.checks import assert_error
from tests.factories import end_batch, make_batch, make_model, make_organization, make_prepaid
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def model() -> Model:
    return make_model(price=Decimal("0.10"))


def post(api: Api, path: str, body: Any) -> Any:
    return Client(raise_request_exception=False).post(
        path, body, content_type="application/json", headers=api.headers()
    )


@pytest.fixture
def after_the_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something between the first look at the balance and the rest of a creation."""

    def between(what: Callable[[], object]) -> None:

        def look_then(**arguments: Any) -> None:
            check_credit(**arguments)
            what()

        monkeypatch.setattr(services, "check_credit", look_then)

    return between


@pytest.mark.parametrize("what", ["batches", "runs"])
def test_of_two_of_which_one_fits_one_is_made_and_one_leaves_nothing(
    model: Model, what: str, after_the_look: Callable[[Callable[[], object]], None]
) -> None:
    api = Api(make_prepaid("0.15"))
    # Both have seen enough for themselves when the first begins to insert.
    after_the_look(threading.Barrier(2, timeout=10).wait)
    body = {"input": [{"text": "a"}]} if what == "batches" else {"input": {"text": "a"}}
    others = [InThread(lambda: post(api, f"/v1/models/{model}/{what}", body)).start() for _ in range(2)]
    made, refused = sorted((other.result for other in others), key=lambda answer: answer.status_code)
    assert (made.status_code, refused.status_code) == (201, 402)
    assert refused.json()["message"] == "This needs 0.10 USD of credit, and 0.05 USD is available."
    assert (Batch.objects.count(), Run.objects.count(), BatchItem.objects.count()) == (
        (1, 1, 1) if what == "batches" else (0, 1, 0)
    )
    assert ledger_of(api.organization) == [("grant", "0.15"), ("hold", "-0.1")]
    assert balance_of(api.organization) == Decimal("0.05")


def test_many_at_once_are_made_exactly_as_many_as_are_paid_for(model: Model) -> None:
    api, threads, each = Api(make_prepaid("0.70")), 6, 3
    together = threading.Barrier(threads, timeout=10)

    def work() -> list[int]:
        together.wait()
        path, body = f"/v1/models/{model}/batches", {"input": [{"text": "a"}]}
        return [post(api, path, body).status_code for _ in range(each)]

    others = [InThread(work).start() for _ in range(threads)]
    answers = [status for other in others for status in other.result]
    assert (answers.count(201), answers.count(402)) == (7, threads * each - 7)
    assert Batch.objects.count() == 7
    assert balance_of(api.organization) == 0
    assert_sums(api.organization)


def test_a_creation_that_rolls_back_gives_its_hold_to_who_waits(model: Model) -> None:
    organization = make_prepaid("0.10")
    other = InThread(lambda: make_batch(organization=organization, model=model))

    def create_and_fail() -> None:
        with transaction.atomic():
            make_batch(organization=organization, model=model)
            other.start()
            wait_until(lambda: lock_waiters() == 1, what="the second creation")
            raise RuntimeError("the process died")

    with pytest.raises(RuntimeError):
        create_and_fail()
    second, _ = other.result
    assert list(Batch.objects.all()) == [second]
    assert ledger_of(organization) == [("grant", "0.1"), ("hold", "-0.1")]


def test_a_request_with_a_key_waits_for_a_balance_no_longer_than_for_a_twin(model: Model, settings: Any) -> None:
    settings.IDEMPOTENCY_WAIT = timedelta(milliseconds=50)
    api = Api(make_prepaid("1"))
    path, body = f"/v1/models/{model}/batches", {"input": [{"text": "a"}]}
    with transaction.atomic():
        make_batch(organization=api.organization, model=model)
        with InThread(lambda: api.post(path, body, Idempotency_Key="k")) as other:
            pass
    assert_error(other.result, 503, "SERVICE_UNAVAILABLE")
    assert Batch.objects.count() == 1
    assert api.post(path, body, Idempotency_Key="k").status_code == 201
    assert ledger_of(api.organization) == [("grant", "1"), ("hold", "-0.1"), ("hold", "-0.1")]


def test_two_that_end_the_same_batch_settle_it_once(model: Model) -> None:
    """A cancellation and a worker's answer meet: whoever ends the batch settles, the other finds it ended."""
    organization = make_prepaid("0.20")
    batch, _ = make_batch(organization=organization, model=model, items=[{"text": "a"}] * 2)
    [run] = lifecycle.claim_runs(provider_id=batch.runs.all()[0].provider_id, limit=1)
    told = Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output='{"outputs": []}')
    with transaction.atomic():
        cancel(batch_ids=[batch.pk])
        other = InThread(lambda: lifecycle.settle(settlements=[told])).start()
        wait_until(lambda: lock_waiters() == 1, what="the worker's answer")
    assert other.result.completed_batch_ids == (batch.pk,)
    assert ledger_of(organization) == [("grant", "0.2"), ("hold", "-0.2"), ("release", "0.2"), ("charge", "-0.1")]


def test_creating_ending_canceling_and_granting_at_once_end_in_no_deadlock(model: Model) -> None:
    """Two organisations, so that a finish settles both, in whatever order their batches come."""
    organizations = [make_prepaid("3") for _ in range(2)]
    provider_id = model.links.get().provider_id
    threads = 6
    together = threading.Barrier(threads, timeout=10)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        together.wait()
        for _ in range(12):
            organization = choose.choice(organizations)
            step = choose.choice(["create", "create", "end", "end", "cancel", "grant"])
            try:
                if step == "create":
                    items = [{"text": "a"}] * choose.randint(1, 3)
                    make_batch(organization=organization, model=model, items=items)
                elif step == "end":
                    end_some(provider_id, choose)
                elif step == "cancel":
                    ids = list(Batch.objects.filter(completed_at=None).values_list("pk", flat=True)[:4])
                    cancel(batch_ids=choose.sample(ids, len(ids)))
                else:
                    grant_credit(organization=organization, amount=Decimal("0.05"))
            except InsufficientCredit:
                pass
            except BaseException as exc:  # noqa: BLE001 told below
                failures.append(exc)

    others = [InThread(lambda seed=seed: work(seed)).start() for seed in range(threads)]  # type: ignore[misc]
    for other in others:
        _ = other.result
    assert failures == []
    while end_some(provider_id, random.Random(0)):
        pass
    assert not Batch.objects.filter(completed_at=None).exists()
    assert Batch.objects.filter(cost__gt=0).exists()
    for organization in organizations:
        assert_sums(organization)
        spent = sum(batch.cost or 0 for batch in Batch.objects.filter(organization=organization))
        granted = sum(
            LedgerEntry.objects.filter(account__organization=organization, kind_code="grant").values_list(
                "amount", flat=True
            )
        )
        assert balance_of(organization) == granted - spent
    assert verify().findings == ()


def end_some(provider_id: Any, choose: random.Random) -> int:
    runs = lifecycle.claim_runs(provider_id=provider_id, limit=4)
    told = []
    for run in choose.sample(runs, len(runs)):
        is_good = choose.random() < 0.7
        told.append(
            Settlement(
                run.id,
                run.attempt,
                RunStatus.SUCCEEDED if is_good else RunStatus.FAILED,
                output='{"outputs": []}' if is_good else None,
                failure_code=None if is_good else "EXECUTION_FAILED",
            )
        )
    return len(lifecycle.settle(settlements=told).run_ids)


def test_a_finish_waits_for_no_lock_once_it_holds_a_balance(model: Model, count_queries: Callable[..., Any]) -> None:
    """The order of locks is the order of statements: the balance comes after runs, batches and callbacks."""
    batch, _ = make_batch(
        organization=make_prepaid("1"), model=model, callback_url="https://shop.example/done", items=[{"text": "a"}]
    )
    with count_queries() as log:
        end_batch(batch)
    statements = [query["sql"] for query in log.captured_queries]
    first = next(number for number, sql in enumerate(statements) if "billing_account" in sql)
    last = max(number for number, sql in enumerate(statements) if takes_locks(sql))
    assert "callbacks_callbackdelivery" not in "".join(statements[first:])
    assert last < first + 2


def takes_locks(sql: str) -> bool:
    """Whether a statement takes locks on rows."""
    return "FOR NO KEY UPDATE" in sql or sql.lstrip().startswith(("UPDATE", "INSERT", "WITH"))


# --- Any sequence ---------------------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("grant"), st.decimals(min_value="-0.5", max_value="0.5", places=2).filter(bool)),
    st.tuples(st.just("create"), st.integers(1, 4)),
    st.tuples(st.just("run"), st.just(0)),
    st.tuples(st.just("end"), st.lists(st.sampled_from(["succeeded", "failed", "queued"]), min_size=4, max_size=4)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("price"), st.decimals(min_value="0", max_value="0.3", places=2)),
)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=25))
def test_whatever_happens_the_ledger_sums_to_a_balance_that_is_not_negative(steps: list[tuple[str, Any]]) -> None:
    with connection.cursor() as cursor:  # what the example before has left
        cursor.execute("TRUNCATE accounts_organization, models_registry_model, models_registry_provider CASCADE")
    organization, model = make_organization(is_prepaid=True), make_model(price=Decimal("0.10"))
    api, provider_id = Api(organization), model.links.get().provider_id
    grant_credit(organization=organization, amount=Decimal("0.50"))
    for step, what in steps:
        before = balance_of(organization)
        if step == "grant":
            try:
                grant_credit(organization=organization, amount=what)
            except errors.DomainError:
                assert before + what < 0
        elif step == "price":
            Model.objects.filter(pk=model.pk).update(price=what)
        elif step in ("create", "run"):
            price = Model.objects.get(pk=model.pk).price * (what or 1)
            body = {"input": [{"text": "a"}] * what} if what else {"input": {"text": "a"}}
            answer = post(api, f"/v1/models/{model}/{'batches' if what else 'runs'}", body)
            assert answer.status_code == (201 if price <= before else 402)
            assert balance_of(organization) == before - (price if price <= before else 0)
        elif step == "end":
            runs = lifecycle.claim_runs(provider_id=provider_id, limit=len(what))
            lifecycle.settle(settlements=[told(run, status) for run, status in zip(runs, what, strict=False)])
        else:
            ids = Batch.objects.filter(organization=organization).order_by("id").values_list("pk", flat=True)
            cancel(batch_ids=list(ids)[what : what + 1])
        assert balance_of(organization) >= 0
        assert_sums(organization)
    assert verify().findings == ()
    while runs := lifecycle.claim_runs(provider_id=provider_id, limit=100):
        lifecycle.settle(settlements=[told(run, "succeeded") for run in runs])
    granted = sum(
        LedgerEntry.objects.filter(account__organization=organization, kind_code="grant").values_list(
            "amount", flat=True
        )
    )
    spent = sum(cost for cost in Run.objects.filter(organization=organization).values_list("cost", flat=True) if cost)
    assert balance_of(organization) == granted - spent
    assert verify().findings == ()


def told(run: lifecycle.ClaimedRun, status: str) -> Settlement:
    return Settlement(
        run.id,
        run.attempt,
        RunStatus(status),
        output='{"outputs": []}' if status == "succeeded" else None,
        failure_code="EXECUTION_FAILED" if status == "failed" else None,
        delay=0,
    )
