"""`POST /v1/models/{owner}/{slug}/runs`: one run, without a batch (contract.md section 4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import transaction
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoCaptureOnCommitCallbacks

from assets.models import Asset
from batches import engine
from batches.cancellation import cancel
from batches.models import Batch, BatchItem, Run
from callbacks.models import CallbackDelivery
from models_registry.models import Model, ModelStatus, ProviderLink
from tests.batches.test_api_properties import INPUTS as VARIOUS_INPUTS
from tests.batches.test_api_properties import SHARED, assert_in_contract, items, texts, urls, values
from tests.conftest import Api, Rung
from tests.contract.checks import (
    CommittingApi,
    assert_error,
    assert_matches,
    assert_nothing_happened,
    faults_of,
    json_of,
)
from tests.factories import make_model, make_organization, make_provider

INPUTS: list[dict[str, Any]] = [
    {"name": "text", "variable_type_code": "string", "is_required": True},
    {
        "name": "count",
        "variable_type_code": "integer",
        "validator_code": "range",
        "validator_attrs": {"min": 1, "max": 4},
        "default_behavior_code": "use_default",
        "default_value": 1,
    },
]
run_bodies = st.fixed_dictionaries(
    {},
    optional={
        "input": items | values,
        "client_ref": texts | values,
        "metadata": st.dictionaries(texts, values, max_size=4) | values,
        "callback_url": urls | values,
        "more": values,
    },
)
# A provider-only model of the local provider: what is posted is what the adapter is sent.
AS_IT_IS: list[dict[str, Any]] = [
    {"name": "function", "variable_type_code": "string"},
    {"name": "arguments", "variable_type_code": "json"},
]


@pytest.fixture
def api(db: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> CommittingApi:
    return CommittingApi(django_capture_on_commit_callbacks)


@pytest.fixture
def model(db: None) -> Model:
    return make_model(inputs=INPUTS, price=Decimal("0.55"))


def url(model: Model, query: str = "") -> str:
    return f"/v1/models/{model}/runs{query}"


# --- What is created --------------------------------------------------------------------------------------------------


def test_a_run_is_answered_whole(api: CommittingApi, model: Model, rung: Rung) -> None:
    response = api.post(
        url(model),
        {
            "input": {"text": "a"},
            "client_ref": "sku-1",
            "metadata": {"order": [7]},
            "callback_url": "https://shop.example/hook",
        },
        X_Request_Id="req-1",
    )
    assert response.status_code == 201
    run, link = Run.objects.get(), ProviderLink.objects.get()
    body = json_of(response)
    assert body == {
        "id": str(run.pk),
        "model_id": str(model.pk),
        "target_type": "model",
        "org_id": str(api.organization.pk),
        "status_code": "queued",
        "source_code": "api",
        "input": {"text": "a", "count": 1},
        "output": None,
        "duration_ms": None,
        "cost": None,
        "cost_breakdown": None,
        "nodes_total": None,
        "nodes_completed": None,
        "resolved_template_id": str(link.template_id),
        "batch_id": None,
        "client_ref": "sku-1",
        "replay_of": None,
        "request_id": "req-1",
        "created_by": str(api.caller.api_key.pk),
        "created_at": run.created_at.isoformat(),
        "started_at": None,
        "completed_at": None,
        "callback_url": "https://shop.example/hook",
        "metadata": {"order": [7]},
        "links": {"self": f"/v1/runs/{run.pk}"},
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
    }
    assert_matches("RunMinimum", body)
    assert body == json_of(api.get(f"/v1/runs/{run.pk}"))
    assert (run.provider_id, run.dispatch_provider_link, run.price) == (link.provider_id, link, Decimal("0.55"))
    assert (run.attempt, run.max_attempts, run.due_at) == (0, 5, run.created_at)
    assert (Batch.objects.count(), BatchItem.objects.count()) == (0, 0)
    assert rung.calls == [("batches.execute", (str(link.provider_id),))]


def test_null_members_are_members_not_given(api: CommittingApi, model: Model, rung: Rung) -> None:
    body = {"input": {"text": "a", "count": None}, "client_ref": None, "metadata": None, "callback_url": None}
    response = api.post(url(model), body)
    assert response.status_code == 201
    run = Run.objects.get()
    assert run.input == {"text": "a", "count": 1}
    assert (run.client_ref, run.metadata, run.callback_url) == (None, None, None)


def test_a_client_ref_stands_beside_the_input_and_not_in_it(api: CommittingApi, model: Model, rung: Rung) -> None:
    errors = assert_error(api.post(url(model), {"input": {"text": "a", "client_ref": "x"}}), 422, "VALIDATION_ERROR")
    assert faults_of(errors) == [(["body", "input", "client_ref"], "unknown_input")]
    assert_nothing_happened(rung)


def test_it_is_executed_and_calls_back(api: CommittingApi, rung: Rung) -> None:
    model = make_model(price=Decimal("0.55"))
    created = api.post(url(model), {"input": {"text": "the output"}, "callback_url": "https://shop.example/"}).json()
    assert engine.execute(provider_id=ProviderLink.objects.get().provider_id) == 1
    body = json_of(api.get(f"/v1/runs/{created['id']}"))
    assert (body["status_code"], body["cost"], len(body["output"]["outputs"])) == ("succeeded", "0.55", 1)
    delivery = CallbackDelivery.objects.get()
    assert (str(delivery.subject_id), delivery.subject_type) == (created["id"], "run")
    payload = json.loads(bytes(delivery.payload))
    assert (payload["event"], payload["run_id"], payload["status"]) == ("run.completed", created["id"], "succeeded")
    default_storage.delete(Asset.objects.get().storage_key)


def test_it_can_be_cancelled(api: CommittingApi, model: Model, rung: Rung) -> None:
    created = api.post(url(model), {"input": {"text": "a"}, "callback_url": "https://shop.example/"}).json()
    assert cancel(run_ids=[Run.objects.get().pk]).has_effect
    assert api.get(f"/v1/runs/{created['id']}").json()["status_code"] == "canceled"
    assert json.loads(bytes(CallbackDelivery.objects.get().payload))["event"] == "run.cancelled"


# --- Which model ------------------------------------------------------------------------------------------------------


def test_a_provider_only_model_takes_its_input_as_it_is(api: CommittingApi, rung: Rung) -> None:
    model = make_model(inputs=AS_IT_IS, is_template_backed=False)
    response = api.post(url(model), {"input": {"function": "noop", "arguments": {"text": "the output"}}})
    assert response.status_code == 201
    link = ProviderLink.objects.get()
    run = Run.objects.get()
    assert (response.json()["resolved_template_id"], run.resolved_template_id, run.dispatch_provider_link) == (
        None,
        None,
        link,
    )
    assert engine.execute(provider_id=link.provider_id) == 1
    run.refresh_from_db()
    assert (run.status_code, run.failure_message) == ("succeeded", None)
    default_storage.delete(Asset.objects.get().storage_key)


def test_the_active_link_of_the_lowest_priority_number_is_taken_with_a_template_or_without(
    api: CommittingApi, model: Model, rung: Rung
) -> None:
    second = ProviderLink.objects.get()
    first = ProviderLink.objects.create(model=model, provider=make_provider(), template=None, priority=1)
    taken = []
    for _ in range(2):
        run = Run.objects.get(pk=api.post(url(model), {"input": {"text": "a"}}).json()["id"])
        taken.append((run.dispatch_provider_link, run.provider, run.resolved_template))
        ProviderLink.objects.filter(pk=first.pk).update(is_active=False)
    assert taken == [(first, first.provider, None), (second, second.provider, second.template)]
    assert rung.calls == [("batches.execute", (str(link.provider_id),)) for link in (first, second)]


def test_a_slug_may_have_several_segments(api: CommittingApi, rung: Rung) -> None:
    model = make_model(owner="google", slug="nano-banana-pro/edit")
    response = api.post("/v1/models/google/nano-banana-pro/edit/runs", {"input": {}})
    assert (response.status_code, response.json()["model_id"]) == (201, str(model.pk))


@pytest.mark.parametrize("path", ["testing/none", "Testing/known", "testing/known%00", "testing/known/", "te/kn/runs"])
def test_unknown_models_are_404(api: CommittingApi, rung: Rung, path: str) -> None:
    make_model(owner="testing", slug="known")
    assert assert_error(api.post(f"/v1/models/{path}/runs", {"input": {}}), 404, "MODEL_NOT_FOUND") is None
    assert_nothing_happened(rung)


def test_another_organizations_private_model_does_not_exist(api: CommittingApi, rung: Rung) -> None:
    for status in ModelStatus:
        model = make_model(organization=make_organization(), status_code=status)
        assert_error(api.post(url(model), {"input": {"text": "a"}}), 404, "MODEL_NOT_FOUND")
    assert_nothing_happened(rung)


def test_an_inactive_model_is_503(api: CommittingApi, rung: Rung) -> None:
    model = make_model(status_code=ModelStatus.INACTIVE)
    assert_error(api.post(url(model), {"input": {}}), 503, "MODEL_UNAVAILABLE")
    assert_nothing_happened(rung)


def test_a_model_without_an_active_link_is_503(api: CommittingApi, model: Model, rung: Rung) -> None:
    ProviderLink.objects.update(is_active=False)
    assert_error(api.post(url(model), {"input": {"text": "a"}}), 503, "MODEL_UNAVAILABLE")
    assert_nothing_happened(rung)


# --- What is refused --------------------------------------------------------------------------------------------------

A = {"text": "a"}


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, [(["body", "input"], "missing")]),
        ({"input": None}, [(["body", "input"], "missing")]),
        ({"input": []}, [(["body", "input"], "wrong_type")]),
        ({"input": [A]}, [(["body", "input"], "wrong_type")]),
        ({"input": "a"}, [(["body", "input"], "wrong_type")]),
        ({"input": {}}, [(["body", "input", "text"], "missing")]),
        ({"input": {"text": 1}}, [(["body", "input", "text"], "wrong_type")]),
        ({"input": {"text": "\0"}}, [(["body", "input", "text"], "not_storable")]),
        ({"input": A | {"count": 5}}, [(["body", "input", "count"], "out_of_range")]),
        ({"input": A, "inputs": 1}, [(["body", "inputs"], "unknown_input")]),
        ({"input": A, "client_ref": 1}, [(["body", "client_ref"], "wrong_type")]),
        ({"input": A, "client_ref": "x" * 256}, [(["body", "client_ref"], "too_long")]),
        ({"input": A, "client_ref": "\ud800"}, [(["body", "client_ref"], "not_storable")]),
        ({"input": A, "metadata": []}, [(["body", "metadata"], "wrong_type")]),
        ({"input": A, "metadata": {"a": "x" * 16384}}, [(["body", "metadata"], "too_long")]),
        ({"input": A, "callback_url": "ftp://shop.example"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": A, "callback_url": "http://127.0.0.1/"}, [(["body", "callback_url"], "bad_url")]),
        (
            {"more": 1, "metadata": 2, "callback_url": 3, "client_ref": 4, "input": {"count": "5", "x": 6}},
            [
                (["body", "more"], "unknown_input"),
                (["body", "metadata"], "wrong_type"),
                (["body", "callback_url"], "wrong_type"),
                (["body", "client_ref"], "wrong_type"),
                (["body", "input", "text"], "missing"),
                (["body", "input", "count"], "wrong_type"),
                (["body", "input", "x"], "unknown_input"),
            ],
        ),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_all_faults_are_named_and_nothing_is_created(
    api: CommittingApi,
    model: Model,
    rung: Rung,
    query: str,
    body: dict[str, Any],
    faults: list[tuple[list[str | int], str]],
) -> None:
    response = api.post(url(model, query), body, Idempotency_Key="free-again")
    assert faults_of(assert_error(response, 422, "VALIDATION_ERROR")) == faults
    assert_nothing_happened(rung)


def test_of_more_than_five_hundred_faults_the_last_says_how_many_are_left_out(
    api: CommittingApi, model: Model, rung: Rung
) -> None:
    body = {"input": {"text": "a", **{f"unknown_{number}": 1 for number in range(600)}}}
    errors = assert_error(api.post(url(model), body), 422, "VALIDATION_ERROR")
    assert len(errors) == 500
    assert errors[-1] == {"loc": ["body"], "msg": "101 more errors are left out.", "type": "too_many_errors"}
    assert_nothing_happened(rung)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"input": {"text": NaN}}'])
def test_a_body_that_is_no_json_object_is_400(api: CommittingApi, model: Model, rung: Rung, body: bytes) -> None:
    assert_error(api.post(url(model), body), 400, "BAD_REQUEST")
    assert_nothing_happened(rung)


@SHARED
@given(body=run_bodies.map(lambda body: json.dumps(body).encode()) | st.binary())
def test_whatever_body_is_posted_is_answered_in_the_contracts_words(
    api: CommittingApi, rung: Rung, body: bytes
) -> None:
    model = make_model(inputs=VARIOUS_INPUTS)
    before = Run.objects.count()
    response = api.post(url(model), body)
    assert response.status_code in (201, 400, 422), response.content
    assert_in_contract(response, 201, "RunMinimum")
    assert Run.objects.count() == before + (response.status_code == 201)
    assert Batch.objects.count() == 0


# --- Dry run, idempotency, doorbells, statements ----------------------------------------------------------------------


def test_validate_only_tells_what_it_would_cost_and_creates_nothing(
    api: CommittingApi, model: Model, rung: Rung
) -> None:
    response = api.post(url(model, "?validate_only=true"), {"input": A}, Idempotency_Key="k")
    assert (response.status_code, json_of(response)) == (200, {"valid": True, "estimated_cost": "0.55"})
    assert_nothing_happened(rung)
    # The key is still free for the real one.
    assert api.post(url(model), {"input": A}, Idempotency_Key="k").status_code == 201


def test_validate_only_that_is_neither_true_nor_false_is_400_and_creates_nothing(
    api: CommittingApi, model: Model, rung: Rung
) -> None:
    response = api.post(url(model, "?validate_only=yes"), {"input": A})
    assert assert_error(response, 400, "BAD_REQUEST") is None
    assert response.json()["message"] == 'A boolean query parameter must be true or false, not "yes".'
    assert_nothing_happened(rung)


def test_the_same_key_makes_one_run(api: CommittingApi, model: Model, rung: Rung) -> None:
    first = api.post(url(model), {"input": A}, Idempotency_Key="k")
    again = api.post(url(model), {"input": A}, Idempotency_Key="k")
    assert (again.status_code, again.content, again.headers["Idempotent-Replayed"]) == (201, first.content, "true")
    assert_error(api.post(url(model), {"input": {"text": "b"}}, Idempotency_Key="k"), 409, "CONFLICT")
    assert (Run.objects.count(), len(rung.calls)) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_the_doorbell_rings_after_the_commit_only(rung: Rung) -> None:
    api, model = Api(), make_model()
    with transaction.atomic():
        assert api.post(url(model), {"input": {}}).status_code == 201
        assert rung.calls == []
    assert len(rung.calls) == 1


@pytest.mark.django_db(transaction=True)
def test_a_run_costs_three_statements_and_with_a_key_nine(rung: Rung, count_queries: Callable[..., Any]) -> None:
    api, model = Api(), make_model()
    assert api.post(url(model, "?validate_only=true"), {"input": {}}).status_code == 200
    spent = []
    for headers in ({}, {"Idempotency_Key": "k"}):
        with count_queries() as log:
            assert api.post(url(model), {"input": {}}, **headers).status_code == 201
        spent.append(len(log.captured_queries))
    assert spent == [3, 9]
