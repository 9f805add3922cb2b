"""Replays: a new batch or run of what a finished one did not do. The finished one never changes (contract.md section 3.3)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from batches import engine
from batches.cancellation import cancel
from batches.management.commands import replay_batch as replay_batch_command
from batches.models import Batch, BatchItem, Run
from callbacks.models import CallbackDelivery
from idempotency.models import IdempotencyRecord
from models_registry.models import Model, ModelInput, ModelStatus, ProviderLink
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error, assert_matches, faults_of, json_of
from tests.factories import end_batch, make_batch, make_model, make_organization, make_provider
from tests.threads import InThread, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

INPUTS: list[dict[str, Any]] = [
    {"name": "text", "variable_type_code": "string", "is_required": True},
    {
        "name": "count",
        "variable_type_code": "integer",
        "default_behavior_code": "use_default",
        "default_value": 1,
    },
    {"name": "note", "variable_type_code": "string", "default_behavior_code": "null"},
]
URL = "https://shop.example/done"


def ended(api: Api, *statuses: str, model: Model | None = None, **body: Any) -> Batch:
    """A batch of this customer whose items "text 0", "text 1", … ended so; every second one has a client_ref."""
    items = [
        {"text": f"text {index}"} | ({} if index % 2 else {"client_ref": f"ref {index}"})
        for index in range(len(statuses))
    ]
    batch, _ = make_batch(organization=api.organization, model=model or make_model(inputs=INPUTS), items=items, **body)
    return end_batch(batch, *statuses)


def declare(model: Model, *removed: str, **added: dict[str, Any]) -> None:
    """Change what a model declares, as the catalogue does: with a new version."""
    ModelInput.objects.filter(model=model, name__in=[*removed, *added]).delete()
    for name, declaration in added.items():
        ModelInput.objects.create(model=model, name=name, **declaration)
    Model.objects.filter(pk=model.pk).update(version=F("version") + 1)


def everything_of(batch: Batch) -> list[Any]:
    """All that is stored of a batch."""
    return [
        list(Batch.objects.filter(pk=batch.pk).values()),
        list(Run.objects.filter(batch=batch).order_by("pk").values()),
        list(BatchItem.objects.filter(batch=batch).order_by("pk").values()),
    ]


def inputs_of(batch_id: Any) -> list[tuple[str | None, dict[str, Any]]]:
    rows = BatchItem.objects.filter(batch=batch_id).order_by("sequence_index")
    return list(rows.values_list("client_ref", "run__input"))


def texts_of(batch_id: Any) -> list[str]:
    return [values["text"] for _, values in inputs_of(batch_id)]


def counts() -> tuple[int, int, int, int]:
    return Batch.objects.count(), Run.objects.count(), BatchItem.objects.count(), IdempotencyRecord.objects.count()


def path_of(subject: Batch | Run) -> str:
    return f"/v1/{'batches' if isinstance(subject, Batch) else 'runs'}/{subject.pk}/replays"


# --- A batch ----------------------------------------------------------------------------------------------------------


def test_a_replay_is_a_new_batch_of_what_failed_or_was_canceled(api: Api, rung: Rung) -> None:
    old = ended(api, "succeeded", "failed", "canceled", "succeeded", "failed", metadata={"order": 7}, callback_url=URL)
    before, deliveries = everything_of(old), CallbackDelivery.objects.count()
    rung.calls.clear()
    response = api.post(path_of(old), b"", X_Request_Id="req-2")
    assert response.status_code == 201
    new = Batch.objects.exclude(pk=old.pk).get()
    items = list(BatchItem.objects.filter(batch=new).order_by("sequence_index"))
    body = json_of(response)
    assert body == {
        "id": str(new.pk),
        "target_type": "model",
        "target_id": str(old.model_id),
        "status_code": "queued",
        "items_total": 3,
        "items_succeeded": 0,
        "items_failed": 0,
        "items_cancelled": 0,
        "items": [
            {
                "id": str(item.pk),
                "sequence_index": index,
                "run_id": str(item.run_id),
                "status_code": "queued",
                "client_ref": client_ref,
            }
            for index, (item, client_ref) in enumerate(zip(items, [None, "ref 2", "ref 4"], strict=True))
        ],
        "output": None,
        "cost": None,
        "metadata": {"order": 7},
        "callback_url": URL,
        "replay_of": str(old.pk),
        "created_at": new.created_at.isoformat(),
        "started_at": None,
        "completed_at": None,
    }
    assert_matches("BatchCreateResponse", body)
    assert inputs_of(new) == [
        (None, {"text": "text 1", "count": 1, "note": None}),
        ("ref 2", {"text": "text 2", "count": 1, "note": None}),
        ("ref 4", {"text": "text 4", "count": 1, "note": None}),
    ]
    assert (new.source_code, new.request_id, new.created_by, new.organization) == (
        "replay",
        "req-2",
        api.caller.api_key,
        api.organization,
    )
    detail = json_of(api.get(f"/v1/batches/{new.pk}"))
    assert_matches("BatchDetail", detail)
    assert (detail["source_code"], detail["replay_of"]) == ("replay", str(old.pk))
    # The finished one is as it was, and told nobody anything.
    assert everything_of(old) == before
    assert CallbackDelivery.objects.count() == deliveries == 1
    assert rung.calls == [("batches.execute", (str(Run.objects.filter(batch=new)[0].provider_id),))]


def test_every_new_run_names_the_one_that_it_does_again(api: Api) -> None:
    old = ended(api, "failed", "succeeded", "canceled")
    created = api.post(path_of(old), {}).json()
    first, _, third = BatchItem.objects.filter(batch=old).order_by("sequence_index")
    page = api.get(f"/v1/batches/{created['id']}/items").json()["items"]
    assert [item["run"]["replay_of"] for item in page] == [str(first.run_id), str(third.run_id)]
    assert [item["run"]["source_code"] for item in page] == ["replay", "replay"]
    assert set(Run.objects.filter(batch=old).values_list("replay_of", flat=True)) == {None}


@pytest.mark.parametrize("body", [b"", {}, {"only": None}, {"only": "failed", "metadata": None, "callback_url": None}])
def test_what_is_not_given_is_what_failed_with_what_the_old_one_had(api: Api, body: Any) -> None:
    old = ended(api, "failed", "succeeded", metadata={"order": 7}, callback_url=URL)
    response = api.post(path_of(old), body)
    assert response.status_code == 201
    created = response.json()
    assert (created["items_total"], created["metadata"], created["callback_url"]) == (1, {"order": 7}, URL)


def test_what_is_given_takes_the_place_of_what_the_old_one_had(api: Api) -> None:
    old = ended(api, "failed", metadata={"order": 7}, callback_url=URL)
    created = api.post(path_of(old), {"metadata": {}, "callback_url": "https://shop.example/again"}).json()
    assert (created["metadata"], created["callback_url"]) == ({}, "https://shop.example/again")
    old.refresh_from_db()
    assert (old.metadata, old.callback_url) == ({"order": 7}, URL)


@pytest.mark.parametrize(
    ("statuses", "only", "texts"),
    [
        (["succeeded", "failed"], "all", ["text 0", "text 1"]),
        (["succeeded", "succeeded"], "all", ["text 0", "text 1"]),
        (["canceled", "canceled"], "failed", ["text 0", "text 1"]),
        (["failed", "failed"], "failed", ["text 0", "text 1"]),
        (["succeeded", "canceled"], "failed", ["text 1"]),
    ],
)
def test_only_says_which(api: Api, statuses: list[str], only: str, texts: list[str]) -> None:
    old = ended(api, *statuses)
    assert texts_of(api.post(path_of(old), {"only": only}).json()["id"]) == texts


def test_a_hundred_items_keep_their_order(api: Api) -> None:
    old = ended(api, *["failed", "succeeded"] * 50)
    assert texts_of(api.post(path_of(old), {}).json()["id"]) == [f"text {index}" for index in range(0, 100, 2)]


def test_it_is_executed_and_calls_back_as_any_other(api: Api) -> None:
    model = make_model(inputs=[{"name": "until_attempt", "variable_type_code": "integer"}], function="fail")
    batch, _ = make_batch(
        organization=api.organization, model=model, items=[{"until_attempt": 1}] * 2, callback_url=URL
    )
    old = end_batch(batch, "failed", "canceled")
    created = api.post(path_of(old), {}).json()
    engine.execute(provider_id=ProviderLink.objects.get(model=model).provider_id)
    body = json_of(api.get(f"/v1/batches/{created['id']}"))
    assert (body["status_code"], body["cost"]) == ("succeeded", "0.02")
    newest = json.loads(bytes(CallbackDelivery.objects.get(subject_id=created["id"]).payload))
    assert (newest["event"], newest["batch_id"]) == ("batch.succeeded", created["id"])


def test_a_replay_can_be_replayed(api: Api) -> None:
    old = ended(api, "failed", "failed")
    second = Batch.objects.get(pk=api.post(path_of(old), {}).json()["id"])
    end_batch(second, "succeeded", "failed")
    third = api.post(path_of(second), {}).json()
    assert (third["replay_of"], texts_of(third["id"])) == (str(second.pk), ["text 1"])


def test_price_way_and_template_are_those_of_today(api: Api) -> None:
    model = make_model(inputs=INPUTS, price=Decimal("0.10"))
    old = ended(api, "failed", model=model)
    first = ProviderLink.objects.get()
    second = ProviderLink.objects.create(
        model=model, provider=make_provider(), template=make_model().links.get().template, priority=1
    )
    Model.objects.filter(pk=model.pk).update(price=Decimal("0.20"))
    new = Batch.objects.get(pk=api.post(path_of(old), {}).json()["id"])
    run = Run.objects.get(batch=new)
    assert (run.price, run.provider, run.resolved_template) == (Decimal("0.20"), second.provider, second.template)
    assert (new.dispatch_provider_link, new.resolved_template) == (second, second.template)
    assert (old.dispatch_provider_link, Run.objects.get(batch=old).price) == (first, Decimal("0.10"))


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_begun", [False, True], ids=["queued", "running"])
def test_a_batch_that_has_not_ended_is_not_replayed(api: Api, rung: Rung, is_begun: bool) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{"text": "a"}, {"text": "b"}])
    if is_begun:
        cancel(run_ids=[Run.objects.order_by("pk")[0].pk])
        Batch.objects.update(status_code="running")
    rung.calls.clear()
    before = counts()
    response = api.post(path_of(batch), {"only": "all"}, Idempotency_Key="k")
    assert_error(response, 422, "VALIDATION_ERROR")
    message = "It has not ended; replay it when it has."
    assert response.json() == {
        "code": "VALIDATION_ERROR",
        "message": message,
        "errors": [{"loc": ["path", "batch_id"], "msg": message, "type": "conflict"}],
    }
    assert (counts(), rung.calls) == (before, [])


@pytest.mark.parametrize("body", [{}, {"only": "failed"}])
def test_where_all_succeeded_there_is_nothing_to_replay(api: Api, rung: Rung, body: dict[str, Any]) -> None:
    old = ended(api, "succeeded", "succeeded")
    rung.calls.clear()
    before = counts()
    errors = assert_error(api.post(path_of(old), body, Idempotency_Key="k"), 422, "VALIDATION_ERROR")
    message = "All of its items succeeded: there is nothing to replay."
    assert errors == [{"loc": ["path", "batch_id"], "msg": message, "type": "conflict"}]
    assert (counts(), rung.calls) == (before, [])


BAD_BODIES: list[tuple[dict[str, Any], list[tuple[list[str | int], str]]]] = [
    ({"metadata": []}, [(["body", "metadata"], "wrong_type")]),
    ({"metadata": {"a": "\0"}}, [(["body", "metadata", "a"], "not_storable")]),
    ({"metadata": {"a": "x" * 16384}}, [(["body", "metadata"], "too_long")]),
    ({"callback_url": 1}, [(["body", "callback_url"], "wrong_type")]),
    ({"callback_url": ""}, [(["body", "callback_url"], "bad_url")]),
    ({"callback_url": "http://127.0.0.1/"}, [(["body", "callback_url"], "bad_url")]),
    ({"input": [{"text": "a"}]}, [(["body", "input"], "unknown_input")]),
]


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"only": "succeeded"}, [(["body", "only"], "not_allowed")]),
        ({"only": ""}, [(["body", "only"], "not_allowed")]),
        ({"only": "FAILED"}, [(["body", "only"], "not_allowed")]),
        ({"only": "\ud800"}, [(["body", "only"], "not_allowed")]),
        ({"only": 1}, [(["body", "only"], "wrong_type")]),
        ({"only": ["failed"]}, [(["body", "only"], "wrong_type")]),
        ({"only": False}, [(["body", "only"], "wrong_type")]),
        *BAD_BODIES,
        (
            {"skip_invalid": True, "only": "none", "metadata": 1, "callback_url": 2},
            [
                (["body", "skip_invalid"], "unknown_input"),
                (["body", "only"], "not_allowed"),
                (["body", "metadata"], "wrong_type"),
                (["body", "callback_url"], "wrong_type"),
            ],
        ),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_all_faults_of_a_body_are_named_and_nothing_is_made(
    api: Api, rung: Rung, body: dict[str, Any], faults: list[tuple[list[str | int], str]]
) -> None:
    old = ended(api, "failed")
    rung.calls.clear()
    before = counts()
    response = api.post(path_of(old), body, Idempotency_Key="free-again")
    assert faults_of(assert_error(response, 422, "VALIDATION_ERROR")) == faults
    assert (counts(), rung.calls) == (before, [])


@pytest.mark.parametrize("body", [b"[]", b"null", b'"all"', b"{"])
def test_a_body_that_is_no_object_is_400(api: Api, body: bytes) -> None:
    old = ended(api, "failed")
    for subject in (old, Run.objects.get()):
        assert_error(api.post(path_of(subject), body), 400, "BAD_REQUEST")
    assert counts() == (1, 1, 1, 0)


# --- Inputs of then, declarations of today ----------------------------------------------------------------------------


def test_all_faults_of_all_inputs_are_named_by_their_place_in_the_old_batch(api: Api, rung: Rung) -> None:
    model = make_model(inputs=INPUTS)
    old = ended(api, "succeeded", "failed", "failed", model=model)
    declare(
        model,
        "count",
        size={"variable_type_code": "string", "is_required": True},
        text={"variable_type_code": "string", "validator_code": "length", "validator_attrs": {"max": 3}},
    )
    rung.calls.clear()
    before = counts()
    response = api.post(path_of(old), {}, Idempotency_Key="k")
    assert_error(response, 422, "VALIDATION_ERROR")
    expected: list[dict[str, Any]] = []
    for index in (1, 2):
        at = ["body", "input", index]
        expected += [
            {"loc": [*at, "size"], "msg": "This input is required.", "type": "missing"},
            {"loc": [*at, "text"], "msg": "Must have at most 3 character(s).", "type": "too_long"},
            {"loc": [*at, "count"], "msg": "The model has no input of this name.", "type": "unknown_input"},
        ]
    assert response.json() == {
        "code": "VALIDATION_ERROR",
        "message": "2 of 2 inputs no longer fit the model.",
        "errors": expected,
    }
    assert (counts(), rung.calls) == (before, [])


def test_an_item_that_is_not_replayed_is_not_checked(api: Api) -> None:
    model = make_model(inputs=INPUTS)
    old = ended(api, "succeeded", "failed", model=model)
    one_of = {"validator_code": "one_of", "validator_attrs": {"values": ["text 1"]}}
    declare(model, text={"variable_type_code": "string", **one_of})
    errors = assert_error(api.post(path_of(old), {"only": "all"}), 422, "VALIDATION_ERROR")
    assert faults_of(errors) == [(["body", "input", 0, "text"], "not_allowed")]
    assert api.post(path_of(old), {}).status_code == 201


def test_of_more_than_five_hundred_faults_the_last_says_how_many_are_left_out(api: Api) -> None:
    names = [f"input_{number}" for number in range(6)]
    model = make_model(inputs=[{"name": name, "variable_type_code": "integer"} for name in names])
    batch, _ = make_batch(
        organization=api.organization, model=model, items=[dict.fromkeys(names, 1) for _ in range(100)]
    )
    old = end_batch(batch, *["failed"] * 100)
    declare(model, *names)
    errors = assert_error(api.post(path_of(old), {}), 422, "VALIDATION_ERROR")
    assert len(errors) == 500
    assert errors[-1] == {"loc": ["body"], "msg": "101 more errors are left out.", "type": "too_many_errors"}


def test_what_was_never_given_is_not_missed_and_new_defaults_are_filled_in(api: Api) -> None:
    model = make_model(inputs=INPUTS)
    old = ended(api, "failed", model=model)
    assert Run.objects.get().input == {"text": "text 0", "count": 1, "note": None}
    declare(
        model,
        "note",
        size={"variable_type_code": "string", "default_behavior_code": "use_default", "default_value": "1K"},
    )
    created = api.post(path_of(old), {}).json()
    assert inputs_of(created["id"]) == [("ref 0", {"text": "text 0", "count": 1, "size": "1K"})]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda: {"status_code": ModelStatus.INACTIVE}, 503, "MODEL_UNAVAILABLE"),
        (lambda: {"organization": make_organization()}, 404, "MODEL_NOT_FOUND"),
    ],
    ids=["inactive", "somebody else's"],
)
def test_a_model_that_may_not_be_used_any_more_is_refused_as_for_creating(
    api: Api, rung: Rung, change: Callable[[], dict[str, Any]], status: int, code: str
) -> None:
    old = ended(api, "failed")
    Model.objects.update(**change())
    rung.calls.clear()
    before = counts()
    for subject in (old, Run.objects.get()):
        assert assert_error(api.post(path_of(subject), {}, Idempotency_Key="k"), status, code) is None
    assert (counts(), rung.calls) == (before, [])


def test_a_model_that_takes_no_batches_any_more_still_takes_its_runs(api: Api) -> None:
    old = ended(api, "failed")
    ProviderLink.objects.update(template=None)
    errors = assert_error(api.post(path_of(old), {}), 422, "VALIDATION_ERROR")
    assert faults_of(errors) == [(["path", "batch_id"], "model_not_template_backed")]
    created = api.post(path_of(Run.objects.get()), {})
    assert (created.status_code, created.json()["resolved_template_id"]) == (201, None)


# --- Once, twice, at once ---------------------------------------------------------------------------------------------


def test_the_same_key_makes_one_batch_and_another_body_or_batch_is_a_conflict(api: Api, rung: Rung) -> None:
    model = make_model(inputs=INPUTS)
    old, other = ended(api, "failed", model=model), ended(api, "failed", model=model)
    rung.calls.clear()
    first = api.post(path_of(old), {"only": "failed"}, Idempotency_Key="k")
    again = api.post(path_of(old), {"only": "failed"}, Idempotency_Key="k")
    assert (again.status_code, again.content, again.headers["Idempotent-Replayed"]) == (201, first.content, "true")
    for path, body in ((path_of(old), {"only": "all"}), (path_of(other), {"only": "failed"})):
        errors = assert_error(api.post(path, body, Idempotency_Key="k"), 409, "CONFLICT")
        assert errors[0]["type"] == "idempotency_mismatch"
    assert (Batch.objects.filter(replay_of__isnull=False).count(), len(rung.calls)) == (1, 1)


def test_without_a_key_every_request_makes_a_batch(api: Api) -> None:
    old = ended(api, "failed")
    created = [api.post(path_of(old), {}).json() for _ in range(2)]
    assert len({body["id"] for body in created}) == 2
    assert {body["replay_of"] for body in created} == {str(old.pk)}


@pytest.mark.parametrize(("headers", "batches"), [({"Idempotency_Key": "k"}, 1), ({}, 2)], ids=["key", "no key"])
def test_two_requests_at_once(api: Api, headers: dict[str, str], batches: int) -> None:
    old = ended(api, "failed", "failed")
    barrier = Barrier(2)

    def post() -> tuple[int, str]:
        barrier.wait(10)
        response = api.post(path_of(old), {}, **headers)
        return response.status_code, response.json()["id"]

    with InThread(post) as other:
        one = post()
    assert (one[0], other.result[0], len({one[1], other.result[1]})) == (201, 201, batches)
    assert Batch.objects.filter(replay_of=old).count() == batches
    assert Run.objects.exclude(batch=old).count() == 2 * batches


def test_the_doorbells_ring_after_the_commit_only(api: Api, rung: Rung) -> None:
    old = ended(api, "failed")
    rung.calls.clear()
    with transaction.atomic():
        assert api.post(path_of(old), {}).status_code == 201
        assert rung.calls == []
    assert len(rung.calls) == 1


def test_a_replay_that_breaks_off_leaves_nothing(api: Api, rung: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ended(api, "failed")
    rung.calls.clear()

    def breaks(*args: Any) -> None:
        raise RuntimeError("after the batch's own row")

    monkeypatch.setattr("batches.services._insert_runs_and_items", breaks)
    assert_error(api.post(path_of(old), {}), 500, "INTERNAL_ERROR")
    assert (counts(), rung.calls) == ((1, 1, 1, 0), [])


@pytest.mark.parametrize("items", [1, 100])
def test_a_replay_costs_nine_statements_whatever_the_number_of_items(
    api: Api, count_queries: Callable[..., Any], items: int
) -> None:
    old = ended(api, *["failed"] * items)
    api.get("/v1/batches/x")  # the key's first request of the minute
    with count_queries() as log:
        assert api.post(path_of(old), {}).status_code == 201
    assert len(log.captured_queries) == 9, [query["sql"] for query in log.captured_queries]
    assert Run.objects.count() == 2 * items


# --- A run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "canceled", "succeeded"])
def test_a_run_of_a_batch_is_replayed_as_a_single_one(api: Api, rung: Rung, status: str) -> None:
    old = ended(api, status, "succeeded", metadata={"of": "the batch"}, callback_url=URL)
    before = everything_of(old)
    again = Run.objects.filter(batch=old).order_by("pk")[0]
    rung.calls.clear()
    response = api.post(path_of(again), b"", X_Request_Id="req-2")
    assert response.status_code == 201
    new = Run.objects.get(replay_of=again)
    body = json_of(response)
    assert_matches("RunMinimum", body)
    assert body == json_of(api.get(f"/v1/runs/{new.pk}"))
    told = {"id", "status_code", "source_code", "batch_id", "client_ref", "replay_of", "input", "metadata"}
    told |= {"callback_url", "request_id", "output", "cost", "failure_code", "links"}
    assert {key: body[key] for key in told} == {
        "id": str(new.pk),
        "status_code": "queued",
        "source_code": "replay",
        "batch_id": None,
        "client_ref": "ref 0",
        "replay_of": str(again.pk),
        "input": {"text": "text 0", "count": 1, "note": None},
        # They were the batch's, not its own.
        "metadata": None,
        "callback_url": None,
        "request_id": "req-2",
        "output": None,
        "cost": None,
        "failure_code": None,
        "links": {"self": f"/v1/runs/{new.pk}"},
    }
    assert new.created_by == api.caller.api_key
    assert everything_of(old) == before
    assert (Batch.objects.count(), BatchItem.objects.count()) == (1, 2)
    assert rung.calls == [("batches.execute", (str(new.provider_id),))]


def make_run(api: Api, model: Model, **body: Any) -> Run:
    created = api.post(f"/v1/models/{model}/runs", {"input": {"text": "a"}, **body})
    return Run.objects.get(pk=created.json()["id"])


def test_a_single_run_is_replayed_with_its_own_metadata_and_callback_unless_others_are_given(api: Api) -> None:
    old = make_run(api, make_model(inputs=INPUTS), metadata={"order": 7}, callback_url=URL, client_ref="sku-1")
    cancel(run_ids=[old.pk])
    same = api.post(path_of(old), {"metadata": None}).json()
    assert (same["metadata"], same["callback_url"], same["client_ref"]) == ({"order": 7}, URL, "sku-1")
    other = api.post(path_of(old), {"metadata": {}, "callback_url": "https://shop.example/again"}).json()
    assert (other["metadata"], other["callback_url"]) == ({}, "https://shop.example/again")
    assert same["replay_of"] == other["replay_of"] == str(old.pk)


def test_a_run_that_has_not_ended_is_not_replayed(api: Api, rung: Rung) -> None:
    old = make_run(api, make_model(inputs=INPUTS))
    rung.calls.clear()
    errors = assert_error(api.post(path_of(old), {}, Idempotency_Key="k"), 422, "VALIDATION_ERROR")
    message = "It has not ended; replay it when it has."
    assert errors == [{"loc": ["path", "run_id"], "msg": message, "type": "conflict"}]
    assert (counts(), rung.calls) == ((0, 1, 0, 0), [])


def test_a_run_whose_input_no_longer_fits_is_not_replayed(api: Api, rung: Rung) -> None:
    model = make_model(inputs=INPUTS)
    old = make_run(api, model)
    cancel(run_ids=[old.pk])
    declare(model, "count", size={"variable_type_code": "string", "is_required": True})
    rung.calls.clear()
    response = api.post(path_of(old), {}, Idempotency_Key="k")
    errors = assert_error(response, 422, "VALIDATION_ERROR")
    assert faults_of(errors) == [
        (["body", "input", "size"], "missing"),
        (["body", "input", "count"], "unknown_input"),
    ]
    assert response.json()["message"] == "The input no longer fits the model."
    assert (counts(), rung.calls) == ((0, 1, 0, 0), [])


@pytest.mark.parametrize(
    ("body", "faults"),
    [*BAD_BODIES, ({"only": "all"}, [(["body", "only"], "unknown_input")])],
    ids=lambda value: json.dumps(value)[:60],
)
def test_all_faults_of_a_body_for_a_run_are_named(
    api: Api, body: dict[str, Any], faults: list[tuple[list[str | int], str]]
) -> None:
    old = make_run(api, make_model(inputs=INPUTS))
    cancel(run_ids=[old.pk])
    assert faults_of(assert_error(api.post(path_of(old), body), 422, "VALIDATION_ERROR")) == faults
    assert counts() == (0, 1, 0, 0)


def test_the_same_key_makes_one_run(api: Api) -> None:
    old = make_run(api, make_model(inputs=INPUTS))
    cancel(run_ids=[old.pk])
    first, again = (api.post(path_of(old), {}, Idempotency_Key="k") for _ in range(2))
    assert (again.status_code, again.content) == (201, first.content)
    assert Run.objects.filter(replay_of=old).count() == 1


# --- manage.py replay_batch -------------------------------------------------------------------------------------------


def run_command(name: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command(name, *arguments, stdout=out)
    return out.getvalue()


def refuse_command(name: str, *arguments: str, returncode: int = 1) -> tuple[str, list[str]]:
    """The error that the command ends with, and the lines that it wrote before, their columns one space apart."""
    out = io.StringIO()
    with pytest.raises(CommandError) as refused:
        call_command(name, *arguments, stdout=out)
    assert refused.value.returncode == returncode
    return str(refused.value), [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_the_command_counts_then_makes_the_batch(api: Api, rung: Rung) -> None:
    old = ended(api, "failed", "succeeded", "canceled", metadata={"order": 7})
    rung.calls.clear()
    shown = f"Batch {old.pk} of {old.model} is partial_succeeded: 2 of 3 item(s) to replay.\n"
    assert run_command("replay_batch", str(old.pk)) == shown + "Would make a batch of 2 item(s). Add --apply.\n"
    assert (counts(), rung.calls) == ((1, 3, 3, 0), [])
    made = run_command("replay_batch", str(old.pk), "--apply")
    new = Batch.objects.exclude(pk=old.pk).get()
    assert made == shown + f"Made batch {new.pk} of 2 item(s).\n"
    assert (new.replay_of, new.source_code, new.metadata, new.created_by, new.request_id) == (
        old,
        "replay",
        {"order": 7},
        None,
        "",
    )
    assert texts_of(new) == ["text 0", "text 2"]
    assert len(rung.calls) == 1


def test_the_command_replays_all_if_told(api: Api) -> None:
    old = ended(api, "succeeded", "succeeded")
    run_command("replay_batch", str(old.pk), "--only", "all", "--apply")
    assert texts_of(Batch.objects.get(replay_of=old)) == ["text 0", "text 1"]


@pytest.fixture
def outdated(api: Api) -> Batch:
    """Three failed items, the first of which no longer fits its model in four ways, the third in one."""
    model = make_model(inputs=INPUTS)
    items: list[dict[str, Any]] = [
        {"text": "too long", "count": 9, "note": "x", "client_ref": "[red]ref"},
        {"text": "fits"},
        {"text": "too long as well", "client_ref": "ref 2"},
    ]
    batch, _ = make_batch(organization=api.organization, model=model, items=items)
    declare(
        model,
        "note",
        text={"variable_type_code": "string", "validator_code": "length", "validator_attrs": {"max": 4}},
        count={"variable_type_code": "integer", "validator_code": "range", "validator_attrs": {"max": 4}},
    )
    return end_batch(batch, "failed", "failed", "failed")


def test_the_command_tells_what_no_longer_fits_by_item_and_makes_nothing(
    outdated: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    before = counts()
    for arguments in ([], ["--apply"]):
        error, shown = refuse_command("replay_batch", str(outdated.pk), *arguments)
        assert error == "2 of 3 inputs no longer fit the model. Nothing was made."
        assert shown == [
            f"Batch {outdated.pk} of {outdated.model} is failed: 3 of 3 item(s) to replay.",
            "2 no longer fit the model; --skip-invalid leaves them out:",
            "item client_ref why",
            "0 [red]ref count: Must be at most 4. text: Must have at most 4 character(s). note: The model has no "
            "input of this name.",
            "2 ref 2 text: Must have at most 4 character(s).",
        ]
    assert counts() == before


def test_the_command_leaves_out_what_no_longer_fits_if_told(outdated: Batch) -> None:
    shown = run_command("replay_batch", str(outdated.pk), "--skip-invalid")
    assert shown.endswith("Would make a batch of 1 item(s). Add --apply.\n")
    run_command("replay_batch", str(outdated.pk), "--skip-invalid", "--apply")
    assert texts_of(Batch.objects.get(replay_of=outdated)) == ["fits"]


def test_where_nothing_fits_there_is_nothing_to_skip_to(outdated: Batch) -> None:
    declare(outdated.model, "text")
    error, _ = refuse_command("replay_batch", str(outdated.pk), "--skip-invalid", "--apply")
    assert error == "3 of 3 inputs no longer fit the model. Nothing was made."
    assert Batch.objects.count() == 1


def test_of_many_faults_of_an_item_the_command_tells_three(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    names = [f"input_{number}" for number in range(5)]
    model = make_model(inputs=[{"name": name, "variable_type_code": "integer"} for name in names])
    batch, _ = make_batch(organization=api.organization, model=model, items=[dict.fromkeys(names, 1)])
    end_batch(batch, "failed")
    declare(model, *names)
    _, shown = refuse_command("replay_batch", str(batch.pk))
    told = [f"input_{number}: The model has no input of this name." for number in range(3)]
    assert shown[-1] == " ".join(["0 -", *told, "And 2 more."])


def work_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on doorbells are answered as a worker would, but where they are rung."""
    monkeypatch.setattr(
        "celery.app.base.Celery.send_task",
        lambda self, name, args=(), **options: (
            engine.execute(provider_id=args[0]) if name == engine.EXECUTE_TASK else None
        ),
    )


FAIL: list[dict[str, Any]] = [
    {"name": "mode", "variable_type_code": "string"},
    {"name": "until_attempt", "variable_type_code": "integer"},
]


def failed_batch(api: Api, *items: dict[str, Any]) -> Batch:
    batch, _ = make_batch(
        organization=api.organization, model=make_model(inputs=FAIL, function="fail"), items=list(items)
    )
    return end_batch(batch, *["failed"] * len(items))


def test_the_command_waits_until_the_new_batch_has_ended(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    old = failed_batch(api, {"until_attempt": 1}, {"until_attempt": 1})
    monkeypatch.setattr(replay_batch_command, "POLL_INTERVAL", 0.01)

    def work() -> None:
        wait_for_replay(old)
        engine.execute(provider_id=ProviderLink.objects.get().provider_id)

    with InThread(work):
        shown = run_command("replay_batch", str(old.pk), "--apply", "--wait")
    new = Batch.objects.get(replay_of=old)
    assert new.status_code == "succeeded"
    _, made, *progress = shown.splitlines()
    assert made == f"Made batch {new.pk} of 2 item(s)."
    assert progress[0] == "  0 of 2 done, queued"
    assert progress[-1] == "  2 of 2 done, succeeded"


def wait_for_replay(old: Batch) -> None:
    wait_until(Batch.objects.filter(replay_of=old).exists, what="the replay")


def test_the_command_that_waits_fails_unless_all_succeeded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    old = failed_batch(api, {"until_attempt": 1}, {"mode": "permanent"})
    work_at_once(monkeypatch)
    error, shown = refuse_command("replay_batch", str(old.pk), "--apply", "--wait")
    new = Batch.objects.get(replay_of=old)
    assert error == f"Batch {new.pk} is partial_succeeded: 1 of 2 succeeded."
    assert shown[-1] == "2 of 2 done, partial_succeeded"


def test_the_command_that_does_not_wait_does_not_mind(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    old = failed_batch(api, {"mode": "permanent"})
    work_at_once(monkeypatch)
    assert "Made batch" in run_command("replay_batch", str(old.pk), "--apply")
    assert Batch.objects.get(replay_of=old).status_code == "failed"


def test_an_interrupted_wait_leaves_the_batch_alone(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ended(api, "failed")

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("batches.management.commands.replay_batch.time.sleep", interrupt)
    error, _ = refuse_command("replay_batch", str(old.pk), "--apply", "--wait", returncode=130)
    new = Batch.objects.get(replay_of=old)
    assert error == f"Interrupted; batch {new.pk} goes on."
    assert new.status_code == "queued"


def test_what_the_command_refuses(api: Api) -> None:
    going_on, _ = make_batch(organization=api.organization)
    done = ended(api, "succeeded")
    before = counts()
    for arguments, message in (
        (["01a20c33-30d3-737b-a193-fcc95c0215a8"], "There is no batch 01a20c33-30d3-737b-a193-fcc95c0215a8."),
        ([str(going_on.pk), "--apply"], "It has not ended; replay it when it has. Nothing was made."),
        ([str(done.pk), "--apply"], "All of its items succeeded: there is nothing to replay. Nothing was made."),
        ([str(done.pk), "--only", "all", "--wait"], "--wait goes with --apply."),
        (["x"], "Error: argument ID: invalid UUID value: 'x'"),
    ):
        assert refuse_command("replay_batch", *arguments) == (message, [])
    Model.objects.filter(pk=done.model_id).update(status_code=ModelStatus.INACTIVE)
    error, _ = refuse_command("replay_batch", str(done.pk), "--only", "all", "--apply")
    assert error == "This model does not accept work at the moment. Nothing was made."
    assert counts() == before


# --- manage.py replay_batches -----------------------------------------------------------------------------------------

LONG_AGO = "2020-01-01"
ALL = ("--status", "failed,partial_succeeded,canceled", "--since", LONG_AGO)


def replayed() -> list[Any]:
    """Which batches have replays, once for each."""
    return list(Batch.objects.filter(replay_of__isnull=False).order_by("pk").values_list("replay_of", flat=True))


def test_many_are_counted_then_each_gets_a_batch_of_its_own(api: Api) -> None:
    first, second = ended(api, "failed", "succeeded"), ended(api, "canceled", "canceled")
    done = ended(api, "succeeded")
    make_batch(organization=api.organization)
    before = counts()
    shown = run_command("replay_batches", *ALL)
    assert shown == "Found 2 batch(es).\nWould make 2 batch(es) of 3 item(s) in all. Add --apply.\n"
    assert counts() == before
    shown = run_command("replay_batches", *ALL, "--apply")
    one, two = Batch.objects.filter(replay_of__isnull=False).order_by("pk")
    assert shown.splitlines() == [
        "Found 2 batch(es).",
        f"{first.pk} -> {one.pk}, 1 item(s)",
        f"{second.pk} -> {two.pk}, 2 item(s)",
        "Made 2 batch(es) of 3 item(s) in all.",
    ]
    assert replayed() == [first.pk, second.pk]
    assert Batch.objects.filter(pk=done.pk, replays__isnull=True).exists()


def test_what_has_a_replay_is_left_out_unless_again(api: Api) -> None:
    old, fresh = ended(api, "failed"), ended(api, "failed")
    assert api.post(path_of(old), {}).status_code == 201
    shown = run_command("replay_batches", *ALL, "--apply")
    assert shown.splitlines()[0] == "Found 2 batch(es), 1 of them left out (replayed before, or beyond --limit)."
    assert replayed() == [old.pk, fresh.pk]
    # A second time there is nothing left to do.
    shown = run_command("replay_batches", *ALL, "--apply")
    assert shown.splitlines()[1:] == ["Made 0 batch(es) of 0 item(s) in all."]
    assert replayed() == [old.pk, fresh.pk]
    run_command("replay_batches", *ALL, "--again", "--apply")
    assert replayed() == [old.pk, fresh.pk, old.pk, fresh.pk]


def test_a_replay_that_failed_is_replayed_in_place_of_its_original(api: Api) -> None:
    old = ended(api, "failed")
    second = Batch.objects.get(pk=api.post(path_of(old), {}).json()["id"])
    end_batch(second, "failed")
    run_command("replay_batches", *ALL, "--apply")
    assert replayed() == [old.pk, second.pk]


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["--status", "failed", "--since", LONG_AGO], ["failed", "of another customer", "of another model"]),
        (["--status", "partial_succeeded", "--since", LONG_AGO], ["partial"]),
        (["--status", "canceled,partial_succeeded", "--since", LONG_AGO], ["partial", "canceled"]),
        ([*ALL[:2], "--since", "2099-01-01"], []),
        ([*ALL, "--organization", "other-shop"], ["of another customer"]),
        ([*ALL, "--model", "google/nano/edit"], ["of another model"]),
        ([*ALL, "--model", "google/nano/edit", "--organization", "other-shop"], []),
        ([*ALL, "--limit", "2"], ["failed", "partial"]),
        ([*ALL, "--limit", "9"], ["failed", "partial", "canceled", "of another customer", "of another model"]),
    ],
)
def test_which_are_chosen(api: Api, arguments: list[str], chosen: list[str]) -> None:
    model = make_model(inputs=INPUTS)
    batches = {
        "failed": ended(api, "failed", model=model),
        "partial": ended(api, "failed", "succeeded", model=model),
        "canceled": ended(api, "canceled", model=model),
        "of another customer": ended(Api(make_organization(slug="other-shop")), "failed", model=model),
        "of another model": ended(api, "failed", model=make_model(inputs=INPUTS, owner="google", slug="nano/edit")),
    }
    run_command("replay_batches", *arguments, "--apply")
    assert replayed() == [batches[name].pk for name in chosen]


def test_only_those_that_ended_since(api: Api) -> None:
    old, fresh = ended(api, "failed"), ended(api, "failed")
    assert old.completed_at is not None
    assert fresh.completed_at is not None
    assert old.completed_at < fresh.completed_at
    run_command("replay_batches", "--status", "failed", "--since", fresh.completed_at.isoformat(), "--apply")
    assert replayed() == [fresh.pk]


def test_all_items_if_told(api: Api) -> None:
    old = ended(api, "failed", "succeeded")
    run_command("replay_batches", *ALL, "--only", "all", "--apply")
    assert texts_of(Batch.objects.get(replay_of=old)) == ["text 0", "text 1"]


def test_what_cannot_be_replayed_is_listed_and_stops_no_other(
    api: Api, outdated: Batch, rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    gone, good = ended(api, "failed"), ended(api, "failed")
    Model.objects.filter(pk=gone.model_id).update(status_code=ModelStatus.INACTIVE)
    rung.calls.clear()
    before = counts()
    table = [
        "batch model why not",
        f"{outdated.pk} {outdated.model} 2 of 3 inputs no longer fit the model.",
        f"{gone.pk} {gone.model} This model does not accept work at the moment.",
    ]
    error, shown = refuse_command("replay_batches", *ALL)
    assert error == "2 of 3 batch(es) cannot be replayed."
    assert shown == ["Found 3 batch(es).", "Would make 1 batch(es) of 1 item(s) in all. Add --apply.", *table]
    assert (counts(), rung.calls) == (before, [])
    error, shown = refuse_command("replay_batches", *ALL, "--apply")
    assert error == "2 of 3 batch(es) cannot be replayed."
    assert shown[2:] == ["Made 1 batch(es) of 1 item(s) in all.", *table]
    assert replayed() == [good.pk]
    # With leave to skip, the outdated one goes too.
    error, _ = refuse_command("replay_batches", *ALL, "--skip-invalid", "--apply")
    assert error == "1 of 2 batch(es) cannot be replayed."
    assert replayed() == [good.pk, outdated.pk]
    assert texts_of(Batch.objects.get(replay_of=outdated)) == ["fits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", LONG_AGO], "required: --status"),
        (["--status", "failed"], "required: --since"),
        (["--status", "succeeded", "--since", LONG_AGO], "'succeeded' is none of failed, partial_succeeded, canceled"),
        (["--status", "failed,", "--since", LONG_AGO], "'' is none of"),
        (["--status", "failed", "--since", "yesterday"], "'yesterday' is no ISO 8601 time, like 2026-11-24T08:00"),
        ([*ALL, "--limit", "0"], "'0' is no positive number"),
        ([*ALL, "--limit", "-1"], "'-1' is no positive number"),
        ([*ALL, "--limit", "²"], "'²' is no positive number"),
        ([*ALL, "--model", "google"], "There is no model google."),
        ([*ALL, "--model", "google/none"], "There is no model google/none."),
        ([*ALL, "--organization", "none"], "There is no organization none."),
    ],
)
def test_what_the_command_for_many_refuses(api: Api, arguments: list[str], message: str) -> None:
    ended(api, "failed")
    error, shown = refuse_command("replay_batches", *arguments, "--apply")
    assert (message in error, shown) == (True, [])
    assert replayed() == []


# --- The admin --------------------------------------------------------------------------------------------------------


def act(client: Client, subjects: list[Any]) -> str:
    name = subjects[0]._meta.model_name
    response = client.post(
        reverse(f"admin:batches_{name}_changelist"),
        {"action": "replay", "_selected_action": [str(subject.pk) for subject in subjects]},
        follow=True,
    )
    return str(response.content.decode())


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("operator"))
    return client


def test_an_action_replays_what_failed_of_batches(api: Api, operator: Client) -> None:
    old, done, idle = ended(api, "failed", "succeeded"), ended(api, "succeeded"), ended(api, "succeeded")
    html = act(operator, [old, done, idle])
    assert "Replaying 1; 2 left out." in html
    assert "Left out 2: All of its items succeeded: there is nothing to replay." in html
    new = Batch.objects.get(replay_of__isnull=False)
    assert (new.replay_of, texts_of(new), new.source_code) == (old, ["text 0"], "replay")
    history = operator.get(reverse("admin:batches_batch_history", args=[old.pk])).content.decode()
    assert "Replayed." in history
    shown = operator.get(reverse("admin:batches_batch_change", args=[new.pk])).content.decode()
    assert reverse("admin:batches_batch_change", args=[old.pk]) in shown


def test_an_action_replays_runs_that_failed(api: Api, operator: Client) -> None:
    old = ended(api, "failed", "canceled", "succeeded")
    failed, canceled, _ = runs = list(Run.objects.filter(batch=old).order_by("pk"))
    html = act(operator, runs)
    assert "Replaying 2; 1 left out." in html
    assert "Left out 1: It succeeded: there is nothing to replay." in html
    new = Run.objects.filter(replay_of__isnull=False)
    assert {run.replay_of for run in new} == {failed, canceled}
    assert {run.batch_id for run in new} == {None}


def test_an_action_reads_whole_rows_and_not_column_by_column(api: Api, operator: Client) -> None:
    old = ended(api, *["failed"] * 13)
    runs = list(Run.objects.filter(batch=old).order_by("pk"))
    act(operator, runs[:1])
    spent = []
    for chosen in (runs[1:3], runs[3:13]):
        with CaptureQueriesContext(connection) as log:
            act(operator, chosen)
        spent.append(len(log))
    # A look at the model and an insert for each.
    assert spent[1] - spent[0] == 8 * 2


@pytest.mark.parametrize("model", [Batch, Run], ids=["batch", "run"])
def test_who_may_only_look_is_not_offered_to_replay(api: Api, client: Client, model: type[Batch | Run]) -> None:
    name = model._meta.model_name
    watcher = get_user_model().objects.create_user("watcher", is_staff=True)
    watcher.user_permissions.set(Permission.objects.filter(codename=f"view_{name}"))
    client.force_login(watcher)
    ended(api, "failed")
    act(client, [model.objects.get()])
    assert counts() == (1, 1, 1, 0)
    page = reverse(f"admin:batches_{name}_changelist")
    assert "Replay what failed" not in client.get(page).content.decode()
    watcher.user_permissions.add(Permission.objects.get(codename=f"add_{name}"))
    assert "Replay what failed" in client.get(page).content.decode()
