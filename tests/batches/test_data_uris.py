"""Large data: URIs become assets when their run is claimed; what cannot be kept so stays as it was sent."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from django.core.files.storage import default_storage
from PIL import Image

from assets.models import Asset
from batches import engine, lifecycle
from batches.media import SMALLEST_KEPT, fetch_media, keep_data_uris
from batches.models import Batch, Run
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db(transaction=True)

MEDIA = (
    {"name": "image", "variable_type_code": "image"},
    {"name": "more", "variable_type_code": "array", "validator_code": "items", "validator_attrs": {"type": "image"}},
    {"name": "text", "variable_type_code": "string"},
)


def data_uri(byte: bytes, size: int = SMALLEST_KEPT) -> str:
    return f"data:image/png;base64,{base64.b64encode(byte * size).decode()}"


def claim(batch: Batch) -> list[lifecycle.ClaimedRun]:
    return lifecycle.claim_runs(provider_id=Run.objects.filter(batch=batch)[0].provider_id, limit=100)


def keep(batch: Batch) -> list[lifecycle.ClaimedRun]:
    runs = claim(batch)
    return keep_data_uris(runs, {runs[0].model_id: {"image": True, "more": True}})


def make(*items: dict[str, Any]) -> Batch:
    batch, _ = make_batch(model=make_model(inputs=MEDIA, is_template_backed=True), items=list(items))
    return batch


def test_a_large_data_uri_becomes_an_asset_that_the_input_names() -> None:
    batch = make({"image": data_uri(b"a"), "text": "hello"})
    (run,) = keep(batch)
    (asset,) = Asset.objects.all()
    assert run.input == Run.objects.get().input == {"image": f"runflow://assets/{asset.pk}", "text": "hello"}
    assert (asset.organization_id, asset.mime_type, asset.source_type, asset.size_bytes) == (
        batch.organization_id,
        "image/png",
        "input",
        SMALLEST_KEPT,
    )
    assert fetch_media(run.input["image"], organization_id=batch.organization_id).body == b"a" * SMALLEST_KEPT


def test_what_is_in_several_places_is_stored_once() -> None:
    one, two = data_uri(b"a"), data_uri(b"b")
    batch = make({"image": one, "more": [one, two]}, {"image": two})
    first, second = keep(batch)
    assert Asset.objects.count() == 2
    assert first.input["more"] == [first.input["image"], second.input["image"]]


def test_the_inputs_of_two_organisations_are_two_assets() -> None:
    model = make_model(inputs=MEDIA)
    one, _ = make_batch(model=model, items=[{"image": data_uri(b"a")}])
    other, _ = make_batch(model=model, items=[{"image": data_uri(b"a")}])
    runs = claim(one)
    assert {run.organization_id for run in runs} == {one.organization_id, other.organization_id}
    keep_data_uris(runs, {model.pk: {"image": True}})
    assert set(Asset.objects.values_list("organization_id", flat=True)) == {one.organization_id, other.organization_id}


@pytest.mark.parametrize(
    "item",
    [
        {"image": data_uri(b"a", 100)},
        {"image": "https://shop.example/a.png"},
        {"text": data_uri(b"a")},
        {"image": "data:image/png;base64," + "!" * SMALLEST_KEPT},
    ],
    ids=["small", "a URL", "no media input", "not base64"],
)
def test_everything_else_stays_as_it_was_sent(item: dict[str, Any], count_queries: Callable[..., Any]) -> None:
    batch = make({})
    Run.objects.update(input=item)  # a request with the last one is refused
    runs = claim(batch)
    with count_queries() as log:
        kept = keep_data_uris(runs, {runs[0].model_id: {"image": True, "more": True}})
    assert len(log.captured_queries) == 0
    assert kept == runs
    assert kept[0].input == item
    assert Asset.objects.count() == 0


def test_a_store_that_fails_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError("disk full")

    batch = make({"image": data_uri(b"a")})
    with monkeypatch.context() as patch:
        patch.setattr(type(default_storage._wrapped), "save", fail)  # type: ignore[attr-defined]
        (run,) = keep(batch)
    assert run.input == {"image": data_uri(b"a")}


def test_a_run_that_belongs_to_another_attempt_meanwhile_keeps_its_input() -> None:
    batch = make({"image": data_uri(b"a")})
    runs = claim(batch)
    Run.objects.update(attempt=2)
    keep_data_uris(runs, {runs[0].model_id: {"image": True}})
    assert Run.objects.get().input == {"image": data_uri(b"a")}


def test_a_hundred_cost_the_statements_of_one(count_queries: Callable[..., Any]) -> None:
    def cost(number: int) -> int:
        runs = claim(make(*({"image": data_uri(bytes([n]))} for n in range(number))))
        with count_queries() as log:
            keep_data_uris(runs, {runs[0].model_id: {"image": True}})
        return len(log.captured_queries)

    assert cost(1) == cost(50) == 4  # BEGIN, the assets, the inputs, COMMIT


def test_a_function_reads_it_like_any_other_picture() -> None:
    picture = BytesIO()
    Image.effect_noise((200, 200), 90).save(picture, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    assert len(uri) >= SMALLEST_KEPT
    model = make_model(
        inputs=({"name": "image", "variable_type_code": "image"},), function="smart_resize", slug="resize"
    )
    batch, _ = make_batch(model=model, items=[{"image": uri}])
    assert engine.execute(provider_id=Run.objects.get().provider_id) == 1
    run = Run.objects.get()
    assert run.status_code == "succeeded", run.failure_message
    assert run.input["image"].startswith("runflow://assets/")
    assert sorted(Asset.objects.values_list("source_type", flat=True)) == ["input", "run"]
    assert batch.items_total == 1


@pytest.mark.parametrize(
    "declaration",
    [
        {"variable_type_code": "image", "validator_code": "url", "validator_attrs": {"schemes": ["data"]}},
        {
            "variable_type_code": "array",
            "validator_code": "items",
            "validator_attrs": {"type": "image", "validator_code": "url", "validator_attrs": {"schemes": ["data"]}},
        },
    ],
    ids=["one", "a list"],
)
def test_an_input_that_may_not_name_an_asset_stays_so_that_a_replay_accepts_it(declaration: dict[str, Any]) -> None:
    value = data_uri(b"a")
    item = {"image": [value] if declaration["variable_type_code"] == "array" else value}
    make_batch(model=make_model(inputs=({"name": "image", **declaration},)), items=[item])
    engine.execute(provider_id=Run.objects.get().provider_id)
    assert Run.objects.get().input == item
    assert Asset.objects.filter(source_type="input").count() == 0
