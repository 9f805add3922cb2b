"""`POST /v1/models/{owner}/{slug}/batches`: what it answers, and what it refuses (contract.md section 3.1)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from batches.models import Batch, BatchItem, Run
from models_registry.models import Model, ModelStatus, ProviderLink
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

# One input of each kind that can be wrong in its own way.
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
    {
        "name": "size",
        "variable_type_code": "string",
        "validator_code": "one_of",
        "validator_attrs": {"values": ["1K", "2K"]},
    },
    {"name": "extra", "variable_type_code": "json"},
]


@pytest.fixture
def api(db: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> CommittingApi:
    return CommittingApi(django_capture_on_commit_callbacks)


@pytest.fixture
def model(db: None) -> Model:
    return make_model(inputs=INPUTS)


def url(model: Model, query: str = "") -> str:
    return f"/v1/models/{model}/batches{query}"


def handles(batch: Batch) -> list[dict[str, Any]]:
    return [
        {
            "id": str(item.pk),
            "sequence_index": item.sequence_index,
            "run_id": str(item.run_id),
            "status_code": item.run.status_code,
            "client_ref": item.client_ref,
        }
        for item in BatchItem.objects.filter(batch=batch).select_related("run").order_by("sequence_index")
    ]


# --- What is created --------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_whole(api: CommittingApi, model: Model, rung: Rung) -> None:
    response = api.post(
        url(model),
        {
            "input": [{"text": "a", "client_ref": "sku-1"}, {"text": "b", "count": 2, "size": "2K"}],
            "metadata": {"order": 7, "tags": ["x", None, 1.5, True]},
            "callback_url": "https://shop.example/hook?a=1",
        },
    )
    assert response.status_code == 201
    batch = Batch.objects.get()
    assert json_of(response) == {
        "id": str(batch.pk),
        "target_type": "model",
        "target_id": str(model.pk),
        "status_code": "queued",
        "items_total": 2,
        "items_succeeded": 0,
        "items_failed": 0,
        "items_cancelled": 0,
        "items": handles(batch),
        "output": None,
        "cost": None,
        "metadata": {"order": 7, "tags": ["x", None, 1.5, True]},
        "callback_url": "https://shop.example/hook?a=1",
        "replay_of": None,
        "created_at": batch.created_at.isoformat(),
        "started_at": None,
        "completed_at": None,
    }
    assert_matches("BatchCreateResponse", response.json())
    assert [(item["sequence_index"], item["client_ref"]) for item in response.json()["items"]] == [
        (0, "sku-1"),
        (1, None),
    ]
    assert rung.calls == [("batches.execute", (str(Run.objects.all()[0].provider_id),))]


def test_rows_are_what_was_asked_for(api: CommittingApi, model: Model, rung: Rung) -> None:
    api.post(url(model), {"input": [{"text": "a", "client_ref": "sku-1"}, {"text": "b", "count": 2}]}, X_Request_Id="r")
    batch, link = Batch.objects.get(), ProviderLink.objects.get()
    assert (batch.organization, batch.model, batch.source_code) == (api.organization, model, "api")
    assert (batch.resolved_template_id, batch.dispatch_provider_link) == (link.template_id, link)
    assert (batch.request_id, batch.created_by, batch.metadata, batch.callback_url) == (
        "r",
        api.caller.api_key,
        None,
        None,
    )
    runs = list(Run.objects.order_by("item__sequence_index"))
    # client_ref is taken out, defaults are filled in, what is optional and not given is left out.
    assert [run.input for run in runs] == [{"text": "a", "count": 1}, {"text": "b", "count": 2}]
    assert [run.client_ref for run in runs] == ["sku-1", None]
    for run in runs:
        assert (run.organization, run.batch, run.model, run.status_code) == (api.organization, batch, model, "queued")
        assert (run.provider_id, run.resolved_template_id) == (link.provider_id, link.template_id)
        assert (run.dispatch_provider_link, run.price, run.cost, run.attempt) == (link, Decimal("0.01"), None, 0)
        assert (run.request_id, run.created_by, run.source_code) == ("r", api.caller.api_key, "api")
        assert run.created_at == run.due_at == batch.created_at


def test_a_hundred_items_keep_their_order(api: CommittingApi, model: Model, rung: Rung) -> None:
    inputs = [{"text": f"text {number}", "client_ref": f"ref {number}"} for number in range(100)]
    response = api.post(url(model), {"input": inputs})
    assert response.status_code == 201
    items = response.json()["items"]
    assert [item["sequence_index"] for item in items] == list(range(100))
    assert [item["client_ref"] for item in items] == [each["client_ref"] for each in inputs]
    runs = Run.objects.in_bulk([item["run_id"] for item in items], field_name="id")
    by_id = {str(key): run.input["text"] for key, run in runs.items()}
    assert [by_id[item["run_id"]] for item in items] == [each["text"] for each in inputs]
    assert response.json()["items"] == handles(Batch.objects.get())


def test_a_slug_may_have_several_segments(api: CommittingApi, rung: Rung) -> None:
    model = make_model(owner="google", slug="nano-banana-pro/edit")
    response = api.post("/v1/models/google/nano-banana-pro/edit/batches", {"input": [{}]})
    assert (response.status_code, response.json()["target_id"]) == (201, str(model.pk))


def test_own_private_model_and_somebodys_public_one_may_be_used(api: CommittingApi, rung: Rung) -> None:
    own = make_model(organization=api.organization)
    public = make_model(organization=make_organization(), is_public=True)
    assert [api.post(url(model), {"input": [{}]}).status_code for model in (own, public)] == [201, 201]


def test_null_members_are_members_not_given(api: CommittingApi, model: Model, rung: Rung) -> None:
    item = {"text": "a", "count": None, "size": None, "client_ref": None}
    response = api.post(url(model), {"input": [item], "metadata": None, "callback_url": None})
    assert response.status_code == 201
    assert (response.json()["metadata"], response.json()["callback_url"]) == (None, None)
    assert Run.objects.get().input == {"text": "a", "count": 1}


@pytest.mark.parametrize("client_ref", ["", "x" * 255, "Größe 🦄 ‮"])
def test_a_client_ref_is_given_back_as_it_came(api: CommittingApi, model: Model, rung: Rung, client_ref: str) -> None:
    response = api.post(url(model), {"input": [{"text": "a", "client_ref": client_ref}]})
    assert response.json()["items"][0]["client_ref"] == client_ref
    assert Run.objects.get().client_ref == BatchItem.objects.get().client_ref == client_ref


def test_metadata_of_16_kib_to_the_byte_are_kept(api: CommittingApi, model: Model, rung: Rung) -> None:
    metadata = {"ü": "x" * (16 * 1024 - len('{"ü":""}'.encode()))}
    response = api.post(url(model), {"input": [{"text": "a"}], "metadata": metadata})
    assert response.status_code == 201
    assert response.json()["metadata"] == metadata == Batch.objects.get().metadata


def test_unknown_query_parameters_are_ignored(api: CommittingApi, model: Model, rung: Rung) -> None:
    response = api.post(url(model, "?add_signature=true&embed=run&x=%00&y=%ff&z"), {"input": [{"text": "a"}]})
    assert response.status_code == 201


# --- Doorbells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "claim_size", "doorbells"), [(1, 1, 1), (3, 2, 2), (4, 1, 4), (100, 1, 4), (100, 100, 1)]
)
def test_doorbells_are_as_many_as_claims_and_four_at_most(
    api: CommittingApi, rung: Rung, items: int, claim_size: int, doorbells: int
) -> None:
    provider = make_provider(claim_size=claim_size)
    model = make_model(provider=provider)
    assert api.post(url(model), {"input": [{}] * items}).status_code == 201
    assert rung.calls == [("batches.execute", (str(provider.pk),))] * doorbells


@pytest.mark.django_db(transaction=True)
def test_doorbells_ring_after_the_commit_only(rung: Rung) -> None:
    api, model = Api(), make_model()
    with transaction.atomic():
        assert api.post(url(model), {"input": [{}]}).status_code == 201
        assert rung.calls == []
    assert len(rung.calls) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "k"}], ids=["no key", "key"])
def test_a_batch_that_is_rolled_back_rings_nothing(
    rung: Rung, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    api, model = Api(), make_model()

    def breaks(*args: Any) -> None:
        raise RuntimeError("after the batch's own row")

    monkeypatch.setattr("batches.services._insert_runs_and_items", breaks)
    assert_error(api.post(url(model), {"input": [{}]}, **headers), 500, "INTERNAL_ERROR")
    assert_nothing_happened(rung)


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_away_costs_the_caller_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    api, model = Api(), make_model()

    def away(*args: Any, **options: Any) -> None:
        raise ConnectionRefusedError("no broker")

    monkeypatch.setattr("celery.app.base.Celery.send_task", away)
    assert api.post(url(model), {"input": [{}]}).status_code == 201
    assert Run.objects.get().status_code == "queued"


# --- Which model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "testing/nothing",
        "testing/nothing/at/all",
        "nobody/known",
        "Testing/known",
        "testing/KNOWN",
        "testing/known%00",
        "te%00sting/known",
        "%00/%00",
        "testing/known/",
        "testing//known",
        "testing/./known",
        "testing/../known",
        "testing/known%20",
        "testing/kn%C3%B6wn",
        "testing/%ED%A0%80",
        "testing/%FF%FE",
        "testing/known'--",
        "testing/known/batches",
        "-testing/known",
        "testing/" + "x" * 5000,
    ],
)
def test_unknown_models_are_404(api: CommittingApi, rung: Rung, path: str) -> None:
    make_model(owner="testing", slug="known")
    errors = assert_error(api.post(f"/v1/models/{path}/batches", {"input": [{}]}), 404, "MODEL_NOT_FOUND")
    assert errors is None
    assert_nothing_happened(rung)


def test_another_organizations_private_model_does_not_exist(api: CommittingApi, rung: Rung) -> None:
    private = make_model(organization=make_organization())
    hidden = make_model(organization=make_organization(), status_code=ModelStatus.INACTIVE)
    for model in (private, hidden):
        assert_error(api.post(url(model), {"input": [{}]}), 404, "MODEL_NOT_FOUND")
    assert_nothing_happened(rung)


def test_inactive_model_is_503(api: CommittingApi, rung: Rung) -> None:
    model = make_model(status_code=ModelStatus.INACTIVE)
    assert_error(api.post(url(model), {"input": [{}]}), 503, "MODEL_UNAVAILABLE")
    assert_nothing_happened(rung)


@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_provider_only_model_is_422(api: CommittingApi, rung: Rung, query: str) -> None:
    model = make_model(is_template_backed=False)
    response = api.post(url(model, query), {"input": [{}]})
    message = "This model cannot run batches: no active provider link of it has a template."
    assert_error(response, 422, "VALIDATION_ERROR")
    assert response.json() == {
        "code": "VALIDATION_ERROR",
        "message": message,
        "errors": [{"loc": ["path", "slug"], "msg": message, "type": "model_not_template_backed"}],
    }
    assert_nothing_happened(rung)


def test_only_active_links_count_and_the_lowest_priority_number_wins(api: CommittingApi, rung: Rung) -> None:
    model = make_model()
    first = ProviderLink.objects.get()
    second = ProviderLink.objects.create(model=model, provider=make_provider(), template=first.template, priority=200)
    ProviderLink.objects.create(model=model, provider=make_provider(), template=None, priority=1)
    taken = []
    for _ in range(3):
        response = api.post(url(model), {"input": [{}]})
        if response.status_code == 201:
            taken.append(Batch.objects.get(pk=response.json()["id"]).dispatch_provider_link)
            ProviderLink.objects.filter(pk=taken[-1].pk).update(is_active=False)  # type: ignore[union-attr]
    assert taken == [first, second]
    assert assert_error(response, 422, "VALIDATION_ERROR")[0]["type"] == "model_not_template_backed"


# --- What a body may hold ---------------------------------------------------------------------------------------------

A: dict[str, Any] = {"text": "a"}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, [(["body", "input"], "missing")]),
        ({"input": None}, [(["body", "input"], "missing")]),
        ({"input": {}}, [(["body", "input"], "wrong_type")]),
        ({"input": "a"}, [(["body", "input"], "wrong_type")]),
        ({"input": False}, [(["body", "input"], "wrong_type")]),
        ({"input": 0}, [(["body", "input"], "wrong_type")]),
        ({"input": []}, [(["body", "input"], "too_short")]),
        ({"input": [A] * 101}, [(["body", "input"], "too_long")]),
        (
            {"input": [A, None, [], "a", 1, True]},
            [(["body", "input", index], "wrong_type") for index in range(1, 6)],
        ),
        ({"input": [A], "inputs": 1}, [(["body", "inputs"], "unknown_input")]),
        (
            {"input": [A], "": 1, "a\0\ud800": 1},
            [(["body", ""], "unknown_input"), (["body", "a\\x00\\ud800"], "unknown_input")],
        ),
        ({"input": [A], "metadata": []}, [(["body", "metadata"], "wrong_type")]),
        ({"input": [A], "metadata": "{}"}, [(["body", "metadata"], "wrong_type")]),
        ({"input": [A], "metadata": False}, [(["body", "metadata"], "wrong_type")]),
        ({"input": [A], "metadata": {"a": ["x\0"]}}, [(["body", "metadata", "a", 0], "not_storable")]),
        ({"input": [A], "metadata": {"a": "\ud800"}}, [(["body", "metadata", "a"], "not_storable")]),
        ({"input": [A], "metadata": {"\0": 1}}, [(["body", "metadata", "\\x00"], "not_storable")]),
        ({"input": [A], "metadata": {"\udfff": 1}}, [(["body", "metadata", "\\udfff"], "not_storable")]),
        ({"input": [A], "metadata": deep(65)}, [(["body", "metadata"], "not_storable")]),
        ({"input": [A], "metadata": {"a": 2**63}}, [(["body", "metadata", "a"], "out_of_range")]),
        ({"input": [A], "metadata": {"a": 1e300}}, [(["body", "metadata", "a"], "out_of_range")]),
        ({"input": [A], "metadata": {"a": "x" * (16 * 1024 - 7)}}, [(["body", "metadata"], "too_long")]),
        ({"input": [A], "callback_url": 1}, [(["body", "callback_url"], "wrong_type")]),
        ({"input": [A], "callback_url": {}}, [(["body", "callback_url"], "wrong_type")]),
        ({"input": [A], "callback_url": ""}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "shop.example"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "//shop.example"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "ftp://shop.example"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "file:///etc/passwd"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "javascript:alert(1)"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "https://u:p@shop.example/"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://127.0.0.1/"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://2130706433/"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://[::ffff:10.0.0.1]/"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://localhost:8000/"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://169.254.169.254/"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://shop.example:70000/"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://a.example/\n"}, [(["body", "callback_url"], "bad_url")]),
        ({"input": [A], "callback_url": "http://a.example/\0"}, [(["body", "callback_url"], "not_storable")]),
        ({"input": [A], "callback_url": "http://a.example/\ud800"}, [(["body", "callback_url"], "not_storable")]),
        (
            {"input": [A], "callback_url": "http://a.example/" + "x" * (2049 - len("http://a.example/"))},
            [(["body", "callback_url"], "too_long")],
        ),
        ({"input": [{}]}, [(["body", "input", 0, "text"], "missing")]),
        ({"input": [{"text": None}]}, [(["body", "input", 0, "text"], "missing")]),
        ({"input": [{"text": 1}]}, [(["body", "input", 0, "text"], "wrong_type")]),
        ({"input": [{"text": "\0"}]}, [(["body", "input", 0, "text"], "not_storable")]),
        ({"input": [{"text": "\ud800"}]}, [(["body", "input", 0, "text"], "not_storable")]),
        ({"input": [A | {"count": "1"}]}, [(["body", "input", 0, "count"], "wrong_type")]),
        ({"input": [A | {"count": True}]}, [(["body", "input", 0, "count"], "wrong_type")]),
        ({"input": [A | {"count": 5}]}, [(["body", "input", 0, "count"], "out_of_range")]),
        ({"input": [A | {"count": 10**30}]}, [(["body", "input", 0, "count"], "out_of_range")]),
        ({"input": [A | {"size": "3K"}]}, [(["body", "input", 0, "size"], "not_allowed")]),
        ({"input": [A | {"extra": deep(65)}]}, [(["body", "input", 0, "extra"], "not_storable")]),
        ({"input": [A | {"extra": {"a": ["\0"]}}]}, [(["body", "input", 0, "extra", "a", 0], "not_storable")]),
        ({"input": [A | {"more": 1}]}, [(["body", "input", 0, "more"], "unknown_input")]),
        ({"input": [A | {"client_ref": 1}]}, [(["body", "input", 0, "client_ref"], "wrong_type")]),
        ({"input": [A | {"client_ref": "x" * 256}]}, [(["body", "input", 0, "client_ref"], "too_long")]),
        ({"input": [A | {"client_ref": "\0"}]}, [(["body", "input", 0, "client_ref"], "not_storable")]),
        ({"input": [A | {"client_ref": "\udc80"}]}, [(["body", "input", 0, "client_ref"], "not_storable")]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_faults_are_named_and_nothing_is_created(
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


def test_all_faults_of_all_items_come_in_one_answer(api: CommittingApi, model: Model, rung: Rung) -> None:
    response = api.post(
        url(model),
        {
            "unknown": 1,
            "metadata": "no object",
            "callback_url": "gopher://shop.example",
            "input": [
                {"count": 9, "size": 3, "client_ref": 4, "x": 5},
                {"text": "this one is good"},
                7,
                {"text": 8, "y": 9, "z": 10},
            ],
        },
    )
    assert response.json() == {
        "code": "VALIDATION_ERROR",
        "message": "The request is not valid; see errors.",
        "errors": [
            {"loc": ["body", "unknown"], "msg": "There is no such member.", "type": "unknown_input"},
            {"loc": ["body", "metadata"], "msg": "Must be an object or null.", "type": "wrong_type"},
            {"loc": ["body", "callback_url"], "msg": "The URL must use http or https.", "type": "bad_url"},
            {"loc": ["body", "input", 0, "client_ref"], "msg": "Must be a string.", "type": "wrong_type"},
            {"loc": ["body", "input", 0, "text"], "msg": "This input is required.", "type": "missing"},
            {"loc": ["body", "input", 0, "count"], "msg": "Must be at most 4.", "type": "out_of_range"},
            {"loc": ["body", "input", 0, "size"], "msg": "Must be a string.", "type": "wrong_type"},
            {"loc": ["body", "input", 0, "x"], "msg": "The model has no input of this name.", "type": "unknown_input"},
            {"loc": ["body", "input", 2], "msg": "Must be an object.", "type": "wrong_type"},
            {"loc": ["body", "input", 3, "text"], "msg": "Must be a string.", "type": "wrong_type"},
            {"loc": ["body", "input", 3, "y"], "msg": "The model has no input of this name.", "type": "unknown_input"},
            {"loc": ["body", "input", 3, "z"], "msg": "The model has no input of this name.", "type": "unknown_input"},
        ],
    }
    assert_error(response, 422, "VALIDATION_ERROR")
    assert_nothing_happened(rung)


def test_five_hundred_faults_are_all_named(api: CommittingApi, model: Model, rung: Rung) -> None:
    item = {"text": "a", **{f"unknown_{number}": 1 for number in range(5)}}
    errors = assert_error(api.post(url(model), {"input": [item] * 100}), 422, "VALIDATION_ERROR")
    assert len(errors) == 500
    assert {each["type"] for each in errors} == {"unknown_input"}


def test_of_more_than_five_hundred_faults_the_last_says_how_many_are_left_out(
    api: CommittingApi, model: Model, rung: Rung
) -> None:
    item = {"text": "a", **{f"unknown_{number}": 1 for number in range(6)}}
    errors = assert_error(api.post(url(model), {"input": [item] * 100}), 422, "VALIDATION_ERROR")
    assert len(errors) == 500
    assert errors[-1] == {"loc": ["body"], "msg": "101 more errors are left out.", "type": "too_many_errors"}
    assert_nothing_happened(rung)


@pytest.mark.parametrize(("members", "last"), [(30, None), (10_000, "9501 more errors are left out.")])
def test_unknown_members_of_the_body_are_named_or_counted(
    api: CommittingApi, model: Model, rung: Rung, members: int, last: str | None
) -> None:
    body = {"input": [A], **{f"unknown_{number}": 1 for number in range(members)}}
    errors = assert_error(api.post(url(model), body), 422, "VALIDATION_ERROR")
    assert len(errors) == min(members, 500)
    if last is not None:
        assert errors.pop() == {"loc": ["body"], "msg": last, "type": "too_many_errors"}
    assert faults_of(errors) == [(["body", f"unknown_{number}"], "unknown_input") for number in range(len(errors))]
    assert_nothing_happened(rung)


def test_a_refused_body_does_not_spend_the_idempotency_key(api: CommittingApi, model: Model, rung: Rung) -> None:
    assert api.post(url(model), {"input": [{}]}, Idempotency_Key="k").status_code == 422
    assert api.post(url(model), {"input": [A]}, Idempotency_Key="k").status_code == 201
    assert Batch.objects.count() == 1


# --- Dry run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["?validate_only=true", "?validate_only=True", "?validate_only=1"])
def test_validate_only_tells_what_it_would_cost_and_creates_nothing(api: CommittingApi, rung: Rung, query: str) -> None:
    model = make_model(inputs=INPUTS, price=Decimal("0.1"))
    response = api.post(url(model, query), {"input": [A] * 3}, Idempotency_Key="k")
    assert (response.status_code, json_of(response)) == (
        200,
        {"valid": True, "items_total": 3, "estimated_cost": "0.30"},
    )
    assert_nothing_happened(rung)
    # The key is still free for the real one.
    assert api.post(url(model), {"input": [A] * 3}, Idempotency_Key="k").status_code == 201


@pytest.mark.parametrize(
    ("price", "items", "cost"),
    [("0", 1, "0.00"), ("0.000001", 3, "0.000003"), ("0.55", 100, "55.00"), ("999999.999999", 100, "99999999.9999")],
)
def test_estimated_cost_is_exact(api: CommittingApi, rung: Rung, price: str, items: int, cost: str) -> None:
    model = make_model(price=Decimal(price))
    assert api.post(url(model, "?validate_only=true"), {"input": [{}] * items}).json()["estimated_cost"] == cost


@pytest.mark.parametrize("query", ["?validate_only=false", "?validate_only=0", ""])
def test_validate_only_that_is_not_true_creates(api: CommittingApi, model: Model, rung: Rung, query: str) -> None:
    assert api.post(url(model, query), {"input": [A]}).status_code == 201
    assert Batch.objects.count() == 1


@pytest.mark.parametrize(
    "query", ["?validate_only=yes", "?validate_only=10", "?validate_only=%00", "?validate_only=", "?validate_only"]
)
def test_validate_only_that_is_neither_true_nor_false_is_400_and_creates_nothing(
    api: CommittingApi, model: Model, rung: Rung, query: str
) -> None:
    assert_error(api.post(url(model, query), {"input": [A]}), 400, "BAD_REQUEST")
    assert_nothing_happened(rung)


# --- What a body may be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"hello",
        b"[1, 2]",
        b'[{"text": "a"}]',
        b'"text"',
        b"null",
        b"true",
        b"7",
        b"   ",
        b'{"input": [{"text": "a"}]} x',
        b"{'input': [{'text': 'a'}]}",
        b'{"input": [{"text": "a"},]}',
        b'{"input": [{"text": "a"}], "metadata": {"a": NaN}}',
        b'{"input": [{"text": "a"}], "metadata": {"a": Infinity}}',
        b'{"input": [{"text": "a"}], "metadata": {"a": -Infinity}}',
        b'{"input": [{"text": "a"}], "metadata": {"a": 1e999}}',
        b'{"input": [{"text": "a", "count": -1e999}]}',
        b'{"input": [{"text": "a", "count": 1' + b"0" * 5000 + b"}]}",
        b'{"input": [{"text": "\xff"}]}',
        b'{"input": [{"text": "\xc3"}]}',
        b"\xff\xfe\x00",
        b'{"input": [{"text": "line\nbreak"}]}',
        b'{"input": [{"text": "\x00"}]}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"input": [{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
        b"a=1&b=2",
    ],
    ids=lambda body: repr(body[:50]),
)
@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "k"}], ids=["no key", "key"])
def test_a_body_that_is_no_json_object_is_400(
    api: CommittingApi, model: Model, rung: Rung, headers: dict[str, str], body: bytes
) -> None:
    response = api.post(url(model), body, **headers)
    assert assert_error(response, 400, "BAD_REQUEST") is None
    # Nothing of the inside: neither Python's names nor its advice.
    assert not [word for word in ("sys.", "codec", "Error", "recursion") if word in response.json()["message"]]
    assert_nothing_happened(rung)


def test_no_body_at_all_is_400(api: CommittingApi, model: Model, rung: Rung) -> None:
    assert_error(api.post(url(model), b""), 400, "BAD_REQUEST")
    assert_nothing_happened(rung)


def test_a_byte_order_mark_is_ignored(api: CommittingApi, model: Model, rung: Rung) -> None:
    assert api.post(url(model), b'\xef\xbb\xbf{"input": [{"text": "a"}]}').status_code == 201


def test_ten_mib_to_the_byte_are_taken_and_one_more_is_413(api: CommittingApi, model: Model, rung: Rung) -> None:
    body = json.dumps({"input": [A]}).encode()
    assert_error(api.post(url(model), body.ljust(10 * 2**20 + 1)), 413, "PAYLOAD_TOO_LARGE")
    assert_error(api.post(url(model), body.ljust(10 * 2**20 + 1), Idempotency_Key="k"), 413, "PAYLOAD_TOO_LARGE")
    assert_nothing_happened(rung)
    assert api.post(url(model), body.ljust(10 * 2**20)).status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "x",
        "",
    ],
)
def test_other_media_types_are_415(api: CommittingApi, model: Model, rung: Rung, content_type: str) -> None:
    response = api.client.post(
        url(model), json.dumps({"input": [A]}).encode(), content_type=content_type, headers=api.headers()
    )
    assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert_nothing_happened(rung)


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json; x=y", "application/json;"],
)
def test_parameters_and_case_of_the_media_type_do_not_matter(
    api: CommittingApi, model: Model, rung: Rung, content_type: str
) -> None:
    response = api.client.post(
        url(model), json.dumps({"input": [A]}).encode(), content_type=content_type, headers=api.headers()
    )
    assert response.status_code == 201
