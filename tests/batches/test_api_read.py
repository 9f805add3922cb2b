"""Reading batches, items and runs: whole answers, pages, and what is not there (contract.md sections 3.3 to 4)."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.core.files.storage import default_storage
from django.test import Client
from django.utils import timezone

from assets.models import Asset
from batches import engine
from batches.models import Batch, BatchItem, Run, RunStatus
from models_registry.models import Model, ProviderLink
from tests.conftest import Api
from tests.contract.checks import assert_error, assert_matches, json_of
from tests.contract.formats import TIMESTAMP
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db
# The testing function `fail`: {"mode": "permanent"} fails, {"until_attempt": 1} succeeds without an output.
FAIL: list[dict[str, Any]] = [
    {"name": "mode", "variable_type_code": "string"},
    {"name": "until_attempt", "variable_type_code": "integer"},
]
GOOD, BAD = {"until_attempt": 1}, {"mode": "permanent"}


def execute(model: Model) -> None:
    engine.execute(provider_id=ProviderLink.objects.get(model=model).provider_id)


def post(api: Api, model: Model, items: list[dict[str, Any]], **body: Any) -> Any:
    response = api.post(f"/v1/models/{model}/batches", {"input": items, **body}, X_Request_Id="req-1")
    assert response.status_code == 201, response.content
    return response.json()


def at(moment: Any) -> str | None:
    return None if moment is None else str(moment.isoformat())


def timestamps_in(value: Any) -> list[str]:
    """Every value in a body that looks like a point in time, whatever its member is called."""
    if isinstance(value, dict):
        return [each for inner in value.values() for each in timestamps_in(inner)]
    if isinstance(value, list):
        return [each for inner in value for each in timestamps_in(inner)]
    return [value] if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[T ]", value) else []


# --- A batch ----------------------------------------------------------------------------------------------------------


def test_a_queued_batch_is_answered_whole(api: Api) -> None:
    model = make_model()
    created = post(api, model, [{"text": "a", "client_ref": "sku-1"}, {}], metadata={"a": [1]})
    batch, link = Batch.objects.get(), ProviderLink.objects.get()
    body = json_of(api.get(f"/v1/batches/{batch.pk}"))
    assert body == {
        "id": str(batch.pk),
        "org_id": str(api.organization.pk),
        "target_type_code": "model",
        "target_type": "model",
        "target_id": str(model.pk),
        "status_code": "queued",
        "source_code": "api",
        "items_total": 2,
        "items_succeeded": 0,
        "items_failed": 0,
        "items_cancelled": 0,
        "input": None,
        "resolved_template_id": str(link.template_id),
        "dispatch_provider_link_id": str(link.pk),
        "cost": None,
        "output": None,
        "metadata": {"a": [1]},
        "callback_url": None,
        "duration_ms": None,
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
        "replay_of": None,
        "created_by": str(api.caller.api_key.pk),
        "created_at": at(batch.created_at),
        "started_at": None,
        "completed_at": None,
        "links": {"self": f"/v1/batches/{batch.pk}", "items": f"/v1/batches/{batch.pk}/items"},
        "items": created["items"],
    }
    assert_matches("BatchDetail", body)


def test_a_finished_batch_is_answered_whole(api: Api) -> None:
    model = make_model(inputs=FAIL, function="fail", price=Decimal("0.1"))
    created = post(api, model, [GOOD | {"client_ref": "one"}, BAD, GOOD], callback_url="https://shop.example/")
    execute(model)
    batch = Batch.objects.get()
    runs = [handle["run_id"] for handle in created["items"]]
    output: dict[str, Any] = {"outputs": [], "seed": None, "nsfw_detected": None}
    body = json_of(api.get(f"/v1/batches/{batch.pk}"))
    assert_matches("BatchDetail", body)
    assert_matches("BatchOutputEnvelope", body["output"])
    for index in (0, 2):
        timing = body["output"]["items"][index]["output"].pop("timing")
        assert timing["execute"] >= 0
    assert body["output"] == {
        "items": [
            {
                "sequence_index": 0,
                "client_ref": "one",
                "run_id": runs[0],
                "status_code": "succeeded",
                "output": output,
                "error": None,
            },
            {
                "sequence_index": 1,
                "client_ref": None,
                "run_id": runs[1],
                "status_code": "failed",
                "output": None,
                "error": {
                    "code": "EXECUTION_FAILED",
                    "message": "This model always fails.",
                    "stage_code": "execute",
                },
            },
            {
                "sequence_index": 2,
                "client_ref": None,
                "run_id": runs[2],
                "status_code": "succeeded",
                "output": output,
                "error": None,
            },
        ],
        "succeeded": 2,
        "failed": 1,
        "cancelled": 0,
        "total": 3,
    }
    assert batch.started_at is not None
    assert batch.completed_at is not None
    assert body["duration_ms"] == round((batch.completed_at - batch.started_at).total_seconds() * 1000)
    assert {key: body[key] for key in body if key not in ("output", "duration_ms")} == {
        "id": str(batch.pk),
        "org_id": str(api.organization.pk),
        "target_type_code": "model",
        "target_type": "model",
        "target_id": str(model.pk),
        "status_code": "partial_succeeded",
        "source_code": "api",
        "items_total": 3,
        "items_succeeded": 2,
        "items_failed": 1,
        "items_cancelled": 0,
        "input": None,
        "resolved_template_id": str(batch.resolved_template_id),
        "dispatch_provider_link_id": str(batch.dispatch_provider_link_id),
        "cost": "0.20",
        "metadata": None,
        "callback_url": "https://shop.example/",
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
        "replay_of": None,
        "created_by": str(api.caller.api_key.pk),
        "created_at": at(batch.created_at),
        "started_at": at(batch.started_at),
        "completed_at": at(batch.completed_at),
        "links": {"self": f"/v1/batches/{batch.pk}", "items": f"/v1/batches/{batch.pk}/items"},
        "items": [
            handle | {"status_code": status}
            for handle, status in zip(created["items"], ["succeeded", "failed", "succeeded"], strict=True)
        ],
    }


@pytest.mark.parametrize(
    ("items", "status", "cost"),
    [([GOOD] * 3, "succeeded", "0.30"), ([GOOD, BAD], "partial_succeeded", "0.10"), ([BAD] * 2, "failed", None)],
    ids=["all", "some", "none"],
)
def test_status_and_cost_follow_the_runs(api: Api, items: list[dict[str, Any]], status: str, cost: str | None) -> None:
    model = make_model(inputs=FAIL, function="fail", price=Decimal("0.10"))
    created = post(api, model, items)
    execute(model)
    body = api.get(f"/v1/batches/{created['id']}").json()
    assert (body["status_code"], body["cost"]) == (status, cost)
    assert (body["items_succeeded"], body["items_failed"]) == (items.count(GOOD), items.count(BAD))
    assert (body["output"]["succeeded"], body["output"]["failed"]) == (items.count(GOOD), items.count(BAD))


@pytest.mark.parametrize(
    ("price", "items", "cost"),
    [
        ("0.000001", 3, "0.000003"),
        ("0.1", 3, "0.30"),
        ("0.55", 100, "55.00"),
        ("0", 2, "0.00"),
        ("1000", 2, "2000.00"),
        ("999999.999999", 100, "99999999.9999"),
    ],
)
def test_cost_is_the_exact_sum_as_a_decimal_string(api: Api, price: str, items: int, cost: str) -> None:
    model = make_model(inputs=FAIL, function="fail", price=Decimal(price))
    created = post(api, model, [GOOD] * items)
    execute(model)
    body = api.get(f"/v1/batches/{created['id']}").json()
    assert body["cost"] == cost
    assert_matches("BatchDetail", body)


def test_price_is_that_of_the_day_of_the_order(api: Api) -> None:
    model = make_model(price=Decimal("0.10"))
    created = post(api, model, [{}])
    Model.objects.update(price=Decimal("9.99"))
    execute(model)
    assert api.get(f"/v1/batches/{created['id']}").json()["cost"] == "0.10"


def test_a_batch_at_work_shows_its_runs_and_no_output_yet(api: Api) -> None:
    model = make_model(inputs=FAIL, function="fail")
    created = post(api, model, [GOOD, {"mode": "retryable"}])
    execute(model)
    body = api.get(f"/v1/batches/{created['id']}").json()
    assert (body["status_code"], body["output"], body["completed_at"], body["duration_ms"]) == (
        "running",
        None,
        None,
        None,
    )
    assert (body["items_succeeded"], body["items_failed"], body["cost"]) == (1, 0, "0.01")
    assert [item["status_code"] for item in body["items"]] == ["succeeded", "queued"]
    assert body["started_at"] == at(Batch.objects.get().started_at) is not None
    assert_matches("BatchDetail", body)


@pytest.mark.parametrize("query", ["embed=input", "embed=run,input", "embed=input&add_signature=true"])
def test_embed_input_gives_the_input_as_it_could_be_posted_again(api: Api, query: str) -> None:
    model = make_model()
    given = [{"text": "a", "client_ref": "one"}, {}, {"text": "ü\n", "client_ref": ""}]
    created = post(api, model, given)
    body = api.get(f"/v1/batches/{created['id']}?{query}").json()
    assert body["input"] == given
    assert_matches("BatchDetail", body)
    assert_matches("BatchCreateRequest", {"input": body["input"]})


@pytest.mark.parametrize("query", ["", "?embed=", "?embed=inputs", "?embed=INPUT", "?add_signature=1"])
def test_without_it_polling_stays_light(api: Api, query: str) -> None:
    created = post(api, make_model(), [{}])
    assert api.get(f"/v1/batches/{created['id']}{query}").json()["input"] is None


# --- Items and runs ---------------------------------------------------------------------------------------------------


def run_whole(run: Run) -> dict[str, Any]:
    """The answer that a run should give, but for output, cost and what a failure tells."""
    return {
        "id": str(run.pk),
        "model_id": str(run.model_id),
        "target_type": "model",
        "org_id": str(run.organization_id),
        "status_code": run.status_code,
        "source_code": "api",
        "input": run.input,
        "output": None,
        "duration_ms": None,
        "cost": None,
        "cost_breakdown": None,
        "nodes_total": None,
        "nodes_completed": None,
        "resolved_template_id": str(run.resolved_template_id),
        "batch_id": str(run.batch_id),
        "client_ref": run.client_ref,
        "replay_of": None,
        "request_id": "req-1",
        "created_by": str(run.created_by_id),
        "created_at": at(run.created_at),
        "started_at": at(run.started_at),
        "completed_at": at(run.completed_at),
        "callback_url": None,
        "metadata": None,
        "links": {"self": f"/v1/runs/{run.pk}", "batch": f"/v1/batches/{run.batch_id}"},
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
    }


def item_whole(run: Run, **more: Any) -> dict[str, Any]:
    whole = run_whole(run) | more
    item = BatchItem.objects.get(run=run)
    error = None
    if run.status_code == "failed":
        error = {
            "code": whole["failure_code"],
            "message": whole["failure_message"],
            "stage_code": whole["failure_stage_code"],
        }
    return {
        "id": str(item.pk),
        "batch_id": str(item.batch_id),
        "sequence_index": item.sequence_index,
        "run_id": str(run.pk),
        "created_at": at(item.created_at),
        "client_ref": whole["client_ref"],
        "status_code": whole["status_code"],
        "input": whole["input"],
        "cost": whole["cost"],
        "output": whole["output"],
        "error": error,
        "started_at": whole["started_at"],
        "completed_at": whole["completed_at"],
        "run": whole,
    }


def assert_run_and_item(api: Api, run: Run, **more: Any) -> None:
    """The run, the item, and the page of items tell the same."""
    item = BatchItem.objects.get(run=run)
    body = json_of(api.get(f"/v1/runs/{run.pk}"))
    assert body == run_whole(run) | more
    assert_matches("RunMinimum", body)
    body = json_of(api.get(f"/v1/batches/{run.batch_id}/items/{item.pk}"))
    assert body == item_whole(run, **more)
    assert_matches("BatchItem", body)
    body = json_of(api.get(f"/v1/batches/{run.batch_id}/items"))
    assert body == {"items": [item_whole(run, **more)], "first": None, "next": None, "previous": None}
    assert_matches("BatchItemPage", body)


def test_a_queued_item_and_its_run_are_answered_whole(api: Api) -> None:
    post(api, make_model(), [{"text": "a", "client_ref": "sku-1"}])
    assert_run_and_item(api, Run.objects.get())


def test_a_failed_run_tells_why_in_general_words(api: Api) -> None:
    model = make_model(inputs=FAIL, function="fail")
    post(api, model, [{"mode": "crash"}])
    execute(model)
    run = Run.objects.get()
    assert run.completed_at is not None
    assert run.started_at is not None
    assert_run_and_item(
        api,
        run,
        duration_ms=round((run.completed_at - run.started_at).total_seconds() * 1000),
        failure_code="EXECUTION_FAILED",
        failure_message="The function failed on this input.",
        failure_stage_code="execute",
    )


def test_a_succeeded_run_is_answered_whole_with_its_output_signed(api: Api) -> None:
    model = make_model(price=Decimal("0.55"))
    post(api, model, [{"text": "the output"}])
    execute(model)
    run, asset = Run.objects.get(), Asset.objects.get()
    assert run.completed_at is not None
    assert run.started_at is not None
    # Each answer signs anew, so two of different seconds differ in the query of the URL: compared without it.
    response = json_of(api.get(f"/v1/runs/{run.pk}"))
    assert_matches("RunMinimum", response)
    assert_matches("NormalisedRunOutput", response["output"] | {"outputs": []})
    url, query = response["output"]["outputs"][0].pop("url").split("?")
    assert url == f"{settings.PUBLIC_BASE_URL}/v1/files/{asset.pk}"
    assert re.fullmatch(r"expires=\d+&signature=[0-9a-f]{64}", query)
    assert response.pop("output") == {
        "outputs": [{"type": "text", "mime_type": "text/plain", "width": None, "height": None}],
        "seed": None,
        "timing": run.output["timing"],  # type: ignore[index]
        "nsfw_detected": None,
    }
    expected = run_whole(run) | {
        "cost": "0.55",
        "duration_ms": round((run.completed_at - run.started_at).total_seconds() * 1000),
    }
    del expected["output"]
    assert response == expected
    served: Any = Client().get(f"/v1/files/{asset.pk}?{query}")
    assert b"".join(served) == b"the output"
    default_storage.delete(asset.storage_key)


def test_batch_item_and_run_give_the_same_output(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    created = post(api, model, [{"text": "the output"}])
    execute(model)
    monkeypatch.setattr("assets.services.time", SimpleNamespace(time=lambda: 1_800_000_000.0))
    handle = created["items"][0]
    run = api.get(f"/v1/runs/{handle['run_id']}").json()
    item = api.get(f"/v1/batches/{created['id']}/items/{handle['id']}").json()
    batch = api.get(f"/v1/batches/{created['id']}").json()
    assert run["output"] == item["output"] == item["run"]["output"] == batch["output"]["items"][0]["output"]
    assert "expires=1800003600&" in run["output"]["outputs"][0]["url"]
    default_storage.delete(Asset.objects.get().storage_key)


def test_a_run_that_belongs_to_no_batch_has_no_link_to_one(api: Api) -> None:
    post(api, make_model(), [{}])
    run = Run.objects.get()
    BatchItem.objects.all().delete()
    Run.objects.update(batch=None, metadata={"a": 1}, callback_url="https://shop.example/", request_id="")
    body = json_of(api.get(f"/v1/runs/{run.pk}"))
    assert body == run_whole(run) | {
        "batch_id": None,
        "metadata": {"a": 1},
        "callback_url": "https://shop.example/",
        "request_id": None,
        "links": {"self": f"/v1/runs/{run.pk}"},
    }


def test_every_timestamp_ends_in_utc_offset_and_never_in_z(api: Api) -> None:
    model = make_model(inputs=FAIL, function="fail")
    created = post(api, model, [GOOD, BAD])
    execute(model)
    # Whole seconds are the case that a formatter may shorten.
    whole = timezone.now().replace(microsecond=0)
    Batch.objects.update(created_at=whole, started_at=whole, completed_at=whole + timedelta(seconds=1))
    handle = created["items"][0]
    bodies = [created] + [
        api.get(path).json()
        for path in (
            f"/v1/batches/{created['id']}",
            f"/v1/batches/{created['id']}/items",
            f"/v1/batches/{created['id']}/items/{handle['id']}",
            f"/v1/runs/{handle['run_id']}",
        )
    ]
    found = [timestamps_in(body) for body in bodies]
    assert [len(each) for each in found] == [1, 3, 12, 6, 3]
    assert [each for body in found for each in body if not TIMESTAMP.fullmatch(each)] == []
    assert bodies[1]["created_at"] == whole.strftime("%Y-%m-%dT%H:%M:%S+00:00")


def test_a_canceled_run_has_no_error(api: Api) -> None:
    created = post(api, make_model(), [{}])
    Run.objects.update(status_code=RunStatus.CANCELED, completed_at=timezone.now())
    Batch.objects.update(status_code="canceled", items_cancelled=1, completed_at=timezone.now())
    batch = api.get(f"/v1/batches/{created['id']}").json()
    # One l in the status, two in the counter; both stable (contract.md section 3.4).
    assert (batch["status_code"], batch["items_cancelled"], batch["cost"], batch["duration_ms"]) == (
        "canceled",
        1,
        None,
        0,
    )
    assert batch["output"]["cancelled"] == 1
    assert batch["output"]["items"][0] | {"run_id": None} == {
        "sequence_index": 0,
        "client_ref": None,
        "run_id": None,
        "status_code": "canceled",
        "output": None,
        "error": None,
    }
    assert_matches("BatchDetail", batch)


# --- Pages ------------------------------------------------------------------------------------------------------------


def pages(api: Api, batch: Batch, limit: int, *, backwards_from: str | None = None) -> list[Any]:
    """All pages from the start, or from a cursor back to it."""
    query = f"limit={limit}"
    if backwards_from:
        query += f"&pq={backwards_from}&from_prev=true"
    found = []
    while True:
        page = json_of(api.get(f"/v1/batches/{batch.pk}/items?{query}"))
        assert_matches("BatchItemPage", page)
        found.append(page)
        cursor = page["previous" if backwards_from else "next"]
        if cursor is None:
            return found
        assert len(found) < 300
        query = f"limit={limit}&pq={cursor}" + ("&from_prev=true" if backwards_from else "")


def indexes(pages: list[Any]) -> list[list[int]]:
    return [[item["sequence_index"] for item in page["items"]] for page in pages]


@pytest.mark.parametrize(("items", "limit"), [(1, 1), (7, 1), (7, 3), (6, 3), (7, 7), (7, 500), (100, 33)])
def test_pages_hold_every_item_exactly_once_forwards_and_backwards(api: Api, items: int, limit: int) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{"text": str(index)} for index in range(items)])
    make_batch(organization=api.organization, model=batch.model, items=[{}] * 3)
    there = pages(api, batch, limit)
    expected = [list(range(start, min(start + limit, items))) for start in range(0, items, limit)]
    assert indexes(there) == expected
    assert [[item["input"]["text"] for item in page["items"]] for page in there] == [
        [str(index) for index in page] for page in expected
    ]
    # The ends are ends: null exactly where nothing lies beyond.
    assert [(page["first"] is None, page["previous"] is None, page["next"] is None) for page in there] == [
        (index == 0, index == 0, index == len(there) - 1) for index in range(len(there))
    ]
    if len(there) > 1:
        back = pages(api, batch, limit, backwards_from=there[-1]["previous"])
        assert indexes(back) == expected[-2::-1]
        # A page reached backwards leads forwards to where one came from, and to the start.
        after = json_of(api.get(f"/v1/batches/{batch.pk}/items?limit={limit}&pq={back[0]['next']}"))
        assert after == there[-1]
        first = json_of(api.get(f"/v1/batches/{batch.pk}/items?limit={limit}&pq={there[-1]['first']}"))
        assert first == there[0]


def test_a_page_holds_fifty_unless_told(api: Api) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{}] * 60)
    for query in ("", "?limit=", "?pq=&from_prev=true", "?sort_by=created_at:desc&fields=id&q="):
        assert len(api.get(f"/v1/batches/{batch.pk}/items{query}").json()["items"]) == 50


@pytest.mark.parametrize("value", ["o", ""])
def test_a_from_prev_that_is_neither_true_nor_false_is_400(api: Api, value: str) -> None:
    batch, _ = make_batch(organization=api.organization)
    assert_error(api.get(f"/v1/batches/{batch.pk}/items?from_prev={value}"), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "limit", ["0", "501", "-1", "1.5", "1e2", "x", " 1", "+1", "0x1", "%D9%A3", "9" * 5000, "1%00", "null", "%FF"]
)
def test_a_limit_that_is_none_is_400(api: Api, limit: str) -> None:
    batch, _ = make_batch(organization=api.organization)
    response = api.get(f"/v1/batches/{batch.pk}/items?limit={limit}")
    assert assert_error(response, 400, "BAD_REQUEST") is None
    assert response.json()["message"] == "limit must be a number from 1 to 500."


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!",
        "aQ",
        "aTE=x",
        "aXg",
        "eDE",
        "MQ",
        "%00",
        "%C3%BC",
        "%FF",
        "a" * 5000,
        "null",
        "../..",
        "aTE5OTk5OTk5OTk",
    ],
)
@pytest.mark.parametrize("back", ["", "&from_prev=true"])
def test_a_cursor_that_is_none_of_ours_is_400(api: Api, cursor: str, back: str) -> None:
    batch, _ = make_batch(organization=api.organization)
    response = api.get(f"/v1/batches/{batch.pk}/items?pq={cursor}{back}")
    assert assert_error(response, 400, "BAD_REQUEST") is None
    assert response.json()["message"] == "pq is not a cursor of this list."


# --- What is not there ------------------------------------------------------------------------------------------------

NO_IDS = [
    "x",
    "1",
    "null",
    "%00",
    "%0A",
    "%FF",
    "0" * 31,
    "0" * 33,
    "g" * 32,
    "{}",
    "-",
    "%C3%BC",
    "x" * 5000,
]


@pytest.mark.parametrize("malformed", [*NO_IDS, str(uuid.uuid4())], ids=lambda text: text[:12])
def test_malformed_and_unknown_ids_are_404_with_the_word_for_what_is_missing(api: Api, malformed: str) -> None:
    batch, _ = make_batch(organization=api.organization)
    for path, code in (
        (f"/v1/batches/{malformed}", "BATCH_NOT_FOUND"),
        (f"/v1/batches/{malformed}/items", "BATCH_NOT_FOUND"),
        (f"/v1/batches/{malformed}/items/{uuid.uuid4()}", "BATCH_NOT_FOUND"),
        (f"/v1/batches/{batch.pk}/items/{malformed}", "BATCH_ITEM_NOT_FOUND"),
        (f"/v1/runs/{malformed}", "RUN_NOT_FOUND"),
    ):
        assert assert_error(api.get(path), 404, code) is None


def test_an_item_of_another_batch_is_not_in_this_one(api: Api) -> None:
    model = make_model()
    one, _ = make_batch(organization=api.organization, model=model)
    _, (other,) = make_batch(organization=api.organization, model=model)
    assert_error(api.get(f"/v1/batches/{one.pk}/items/{other.id}"), 404, "BATCH_ITEM_NOT_FOUND")


def test_ids_are_uuid7_and_grow(api: Api) -> None:
    created = [post(api, make_model(), [{}, {}]) for _ in range(2)]
    ids = [uuid.UUID(each) for body in created for each in (body["id"], *(item["run_id"] for item in body["items"]))]
    assert {each.version for each in ids} == {7}
    assert ids == sorted(ids)
