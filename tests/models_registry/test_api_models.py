"""The catalogue over HTTP: shapes by schemas.json, who sees what, and what the public is not told."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from django.core.management import call_command
from django.test import Client

from models_registry.models import Model, ModelInput, ModelOutput, ModelStatus, ProviderLink
from tests.conftest import Api
from tests.contract.checks import SCHEMAS, assert_error, assert_matches, json_of
from tests.factories import make_model, make_organization

pytestmark = pytest.mark.django_db

INPUTS: tuple[dict[str, Any], ...] = (
    {"name": "image_url", "variable_type_code": "image", "is_required": True, "display_name": "Image"},
    {
        "name": "resolution",
        "variable_type_code": "string",
        "validator_code": "one_of",
        "validator_attrs": {"values": ["1K", "2K"]},
        "default_behavior_code": "use_default",
        "default_value": "1K",
    },
)


def page_of(schema_name: str, response: Any) -> list[dict[str, Any]]:
    """The items of a page that has the shape of the contract."""
    assert response.status_code == 200, response.content
    body = json_of(response)
    assert_matches(schema_name, body)
    assert list(body) == ["items", "first", "next", "previous"]
    items: list[dict[str, Any]] = body["items"]
    return items


def one_of(schema_name: str, response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.content
    body: dict[str, Any] = json_of(response)
    assert_matches(schema_name, body)
    return body


def path_of(model: Model) -> str:
    return f"/v1/models/{model}"


def kept(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


# --- One model --------------------------------------------------------------------------------------------------------


def test_a_model_is_shown_with_what_it_takes_and_gives(api: Api) -> None:
    model = make_model(
        owner="google",
        slug="nano-banana-pro/edit",
        name="Nano",
        description="Edits.",
        inputs=INPUTS,
        price=Decimal("0.150000"),
        organization=api.organization,
    )
    ModelOutput.objects.create(model=model, name="image", variable_type_code="image")
    body = one_of("Model", api.get("/v1/models/google/nano-banana-pro/edit"))
    first, second = body.pop("inputs")
    [output] = body.pop("outputs")
    timestamps = {"created_at": body["created_at"], "updated_at": body["updated_at"]}
    assert kept(body) == timestamps | {
        "id": str(model.pk),
        "owner": "google",
        "slug": "nano-banana-pro/edit",
        "name": "Nano",
        "description": "Edits.",
        "version": "1",
        "status_code": "active",
        "price": "0.15",
        "org_id": str(api.organization.pk),
        "is_public": False,
    }
    assert (first["name"], first["is_required"], first["default_value"]) == ("image_url", True, None)
    assert second == {
        "id": str(model.inputs.get(name="resolution").pk),
        "model_id": str(model.pk),
        "name": "resolution",
        "display_name": "",
        "description": "",
        "variable_type_code": "string",
        "default_behavior_code": "use_default",
        "validator_code": "one_of",
        "validator_attrs": {"values": ["1K", "2K"]},
        "is_required": False,
        "default_value": "1K",
        "sort_order": 1,
        "is_featured": False,
        "created_at": second["created_at"],
        "updated_at": second["updated_at"],
    }
    assert (output["name"], output["model_id"], output["variable_type_code"]) == ("image", str(model.pk), "image")


def test_every_member_of_the_contract_is_there_if_only_as_null(api: Api) -> None:
    model = make_model()
    ModelOutput.objects.create(model=model, name="image", variable_type_code="image")
    body = one_of("Model", api.get(path_of(model)))
    shown = {
        "Model": body,
        "ModelInput": body["inputs"][0],
        "ModelOutput": body["outputs"][0],
        "ModelPricing": page_of("ModelPricingPage", api.get(f"/v1/models/{model.pk}/pricing"))[0],
    }
    for name, value in shown.items():
        assert set(SCHEMAS["$defs"][name]["properties"]) - set(value) == set(), name


@pytest.mark.parametrize("whose", ["nobody's", "public"])
def test_whose_a_shared_model_is_is_not_told(api: Api, whose: str) -> None:
    owner = make_organization()
    shared = {"is_public": True, "organization": owner} if whose == "public" else {"organization": None}
    model = make_model(**shared)
    response = api.get(path_of(model))
    assert one_of("Model", response)["org_id"] is None
    assert str(owner.pk) not in response.content.decode()


def test_a_model_that_is_switched_off_is_still_shown(api: Api) -> None:
    model = make_model(status_code=ModelStatus.INACTIVE)
    assert one_of("Model", api.get(path_of(model)))["status_code"] == "inactive"
    assert [each["id"] for each in page_of("ModelPage", api.get("/v1/models"))] == [str(model.pk)]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/acme/none",
        "/v1/models/acme/a/b/c",
        "/v1/models/ACME/a",
        "/v1/models/acme/runs",
        "/v1/models/acme/a/examples",
        "/v1/models/acme/a/pricing",
        "/v1/models/acme/schema",
        "/v1/models/acme/a%00b",
        "/v1/models/acme/none/schema",
        "/v1/models/acme/pricing/schema",
        "/v1/models/acme/inputs",
        "/v1/models/acme/pricing",
        f"/v1/models/{uuid.uuid4()}/inputs",
        f"/v1/models/{uuid.uuid4()}/inputs/{uuid.uuid4()}",
        f"/v1/models/{uuid.uuid4()}/pricing",
    ],
)
def test_what_is_no_model_is_404(api: Api, path: str) -> None:
    assert assert_error(api.get(path), 404, "MODEL_NOT_FOUND") is None


def test_addresses_that_end_in_a_word_are_never_a_slug(api: Api) -> None:
    """A model could not be declared with such a slug; one that is there all the same hides no route."""
    model = make_model(inputs=INPUTS)
    for slug in (f"{model.slug}/schema", f"{model.slug}/inputs", "inputs", "pricing"):
        Model.objects.create(owner=model.owner, slug=slug, name="Bad")
    assert one_of("Model", api.get(path_of(model)))["id"] == str(model.pk)
    assert api.get(f"{path_of(model)}/schema").json()["title"] == model.name
    assert_error(api.get(f"{path_of(model)}/inputs"), 404, "MODEL_NOT_FOUND")
    assert_error(api.get(f"/v1/models/{model.owner}/pricing"), 404, "MODEL_NOT_FOUND")
    assert len(page_of("ModelInputPage", api.get(f"/v1/models/{model.pk}/inputs"))) == 2


@pytest.mark.parametrize("word", ["batches", "runs"])
def test_reading_where_work_is_posted_is_405(api: Api, word: str) -> None:
    assert_error(api.get(f"{path_of(make_model())}/{word}"), 405, "METHOD_NOT_ALLOWED")


# --- Lists ------------------------------------------------------------------------------------------------------------


def test_a_list_holds_ones_own_models_and_those_for_all_newest_first(api: Api) -> None:
    own = make_model(organization=api.organization)
    nobodys = make_model()
    public = make_model(organization=make_organization(), is_public=True)
    make_model(organization=make_organization())
    items = page_of("ModelPage", api.get("/v1/models"))
    assert [each["id"] for each in items] == [str(public.pk), str(nobodys.pk), str(own.pk)]
    assert [each["org_id"] for each in items] == [None, None, str(api.organization.pk)]


def test_a_list_leaves_declarations_out_unless_asked(api: Api) -> None:
    make_model()
    [lean] = page_of("ModelPage", api.get("/v1/models"))
    assert (lean["inputs"], lean["outputs"]) == (None, None)
    [half] = page_of("ModelPage", api.get("/v1/models?embed=inputs,nothing"))
    assert ([each["name"] for each in half["inputs"]], half["outputs"]) == (["text"], None)
    [public] = page_of("ModelPage", api.get("/v1/models?embed=inputs,outputs"))
    assert public["outputs"] == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/public/models", "/v1/models/any/inputs", "/v1/models/any/pricing"])
def test_lists_are_walked_in_pages_and_back(api: Api, path: str) -> None:
    ids = [str(make_model(is_public=True).pk) for _ in range(5)][::-1]
    member = "model_id" if "any" in path else "id"
    seen: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        body = api.get(f"{path}?limit=2&pq={cursor}").json()
        seen.append([each[member] for each in body["items"]])
        cursor, previous = body["next"], body["previous"]
    assert seen == [ids[0:2], ids[2:4], ids[4:]]
    back = api.get(f"{path}?limit=2&pq={previous}&from_prev=true").json()
    assert [each[member] for each in back["items"]] == ids[2:4]
    assert_error(api.get(f"{path}?pq=nonsense"), 400, "BAD_REQUEST")
    assert_error(api.get(f"{path}?limit=501"), 400, "BAD_REQUEST")


# --- Without a key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer rf_live_wrong"}, {"X-Organization-Id": "no uuid"}])
def test_public_and_active_models_are_listed_without_a_key(db: None, header: dict[str, str]) -> None:
    owner = make_organization()
    public = make_model(organization=owner, is_public=True, price=Decimal("0.55"))
    make_model(organization=owner)
    make_model()
    make_model(is_public=True, status_code=ModelStatus.INACTIVE)
    response = Client().get("/v1/public/models?embed=inputs,outputs", headers=header)
    [item] = page_of("PublicModelPage", response)
    assert (item["id"], item["price"], [each["name"] for each in item["inputs"]]) == (str(public.pk), "0.55", ["text"])
    assert response.headers["Cache-Control"] == "public, max-age=60"
    assert "Vary" not in response.headers or "Cookie" not in response.headers["Vary"]


def test_the_public_list_says_nothing_of_owners_and_of_what_a_model_runs_on(db: None) -> None:
    owner = make_organization(name="Secret Shop", slug="secret-shop")
    model = make_model(organization=owner, is_public=True, run_timeout=4711)
    link = ProviderLink.objects.select_related("provider", "template").get(model=model)
    assert link.template is not None
    text = Client().get("/v1/public/models?embed=inputs,outputs,organization,links").content.decode()
    [item] = json.loads(text)["items"]
    assert {"org_id", "is_public", "created_by", "organization", "links"} & set(item) == set()
    hidden = [owner.pk, owner.name, owner.slug, link.pk, link.provider.pk, link.provider.code, link.template.pk, 4711]
    assert [str(each) for each in hidden if str(each) in text] == []


def test_a_refused_public_request_is_not_kept_by_anybody(db: None) -> None:
    response = Client().get("/v1/public/models?limit=0")
    assert_error(response, 400, "BAD_REQUEST")
    assert "Cache-Control" not in response.headers


def test_what_a_key_sees_is_not_for_caches(api: Api) -> None:
    model = make_model()
    for path in ("/v1/models", path_of(model), f"{path_of(model)}/schema"):
        assert "public" not in api.get(path).headers.get("Cache-Control", "")


# --- Inputs and prices ------------------------------------------------------------------------------------------------


def test_the_inputs_of_a_model_are_a_page_and_each_can_be_read(api: Api) -> None:
    model, other = make_model(inputs=INPUTS), make_model()
    items = page_of("ModelInputPage", api.get(f"/v1/models/{model.pk}/inputs"))
    assert {each["name"] for each in items} == {"image_url", "resolution"}
    for item in items:
        for parent in (str(model.pk), str(model.pk).upper(), "any"):
            assert one_of("ModelInput", api.get(f"/v1/models/{parent}/inputs/{item['id']}")) == item
    for unknown in (other.inputs.get().pk, uuid.uuid4(), "x"):
        assert_error(api.get(f"/v1/models/{model.pk}/inputs/{unknown}"), 404, "NOT_FOUND")


def test_any_model_means_any_that_is_visible(api: Api) -> None:
    theirs = make_model(organization=make_organization())
    mine = make_model(organization=api.organization)
    for path in ("inputs", "pricing"):
        items = page_of("ModelInputPage", api.get(f"/v1/models/any/{path}"))
        assert [each["model_id"] for each in items] == [str(mine.pk)]
    assert_error(api.get(f"/v1/models/any/inputs/{theirs.inputs.get().pk}"), 404, "NOT_FOUND")


def test_the_price_of_a_model_is_one_rule(api: Api) -> None:
    model = make_model(price=Decimal("0.000125"))
    [rule] = page_of("ModelPricingPage", api.get(f"/v1/models/{model.pk}/pricing"))
    assert kept(rule) == {
        "id": str(model.pk),
        "model_id": str(model.pk),
        "pricing_model_code": "per_run",
        "rule_effect_code": "base",
        "price": "0.000125",
        "currency_code": "USD",
        "unit_code": "run",
        "description": "For each run that succeeds.",
        "sort_order": 0,
        "created_at": rule["created_at"],
        "updated_at": rule["updated_at"],
    }


# --- The JSON Schema --------------------------------------------------------------------------------------------------


def test_the_schema_of_a_model_answers_as_a_dry_run_does(api: Api) -> None:
    model = make_model(inputs=INPUTS)
    response = api.get(f"{path_of(model)}/schema")
    assert response.status_code == 200
    schema = json_of(response)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for item in (
        {"image_url": "https://shop.example/a.png", "resolution": "2K"},
        {"image_url": "data:image/png;base64,AAAA", "resolution": None},
        {"image_url": "https://shop.example/a.png", "resolution": "3K"},
        {"resolution": "1K"},
        {"image_url": "https://shop.example/a.png", "colour": "red"},
    ):
        dry_run = api.post(f"{path_of(model)}/runs?validate_only=true", {"input": item})
        assert validator.is_valid(item) == (dry_run.status_code == 200), (item, dry_run.content)


def test_the_schema_of_a_slug_with_several_segments_is_found(api: Api) -> None:
    make_model(owner="google", slug="nano-banana-pro/edit", name="Nano")
    assert api.get("/v1/models/google/nano-banana-pro/edit/schema").json()["title"] == "Nano"


# --- Statements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "statements"),
    [
        ("/v1/models", 2),
        ("/v1/models?embed=inputs,outputs", 4),
        ("/v1/public/models", 1),
        ("/v1/public/models?embed=inputs,outputs", 3),
        ("/v1/models/{model}", 4),
        ("/v1/models/{model}/schema", 3),
        ("/v1/models/{model.pk}/inputs", 3),
        ("/v1/models/any/inputs", 2),
        ("/v1/models/{model.pk}/inputs/{input.pk}", 3),
        ("/v1/models/{model.pk}/pricing", 3),
    ],
)
def test_reading_costs_the_same_for_one_model_and_for_thirty(
    api: Api, count_queries: Callable[..., Any], path: str, statements: int
) -> None:
    model = make_model(is_public=True)
    ModelOutput.objects.create(model=model, name="image", variable_type_code="image")
    address = path.format(model=model, input=ModelInput.objects.get())
    headers = {} if "public" in path else api.headers()
    api.get("/v1/models")  # writes last_used_at
    for _ in range(2):
        with count_queries() as log:
            assert api.client.get(address, headers=headers).status_code == 200
        assert len(log) == statements, [query["sql"] for query in log.captured_queries]
        for _ in range(29):
            ModelOutput.objects.create(model=make_model(is_public=True), name="a", variable_type_code="image")


@pytest.mark.parametrize("manifest", ["shop", "testing"])
def test_every_model_of_the_catalogue_has_a_schema(api: Api, manifest: str) -> None:
    call_command("import_models", f"catalogue/{manifest}.yaml", "--apply", verbosity=0)
    models = page_of("ModelPage", api.get("/v1/models"))
    assert models
    for model in models:
        schema = json_of(api.get(f"/v1/models/{model['owner']}/{model['slug']}/schema"))
        jsonschema.Draft202012Validator.check_schema(schema)
        inputs = page_of("ModelInputPage", api.get(f"/v1/models/{model['id']}/inputs"))
        assert set(schema["properties"]) == {each["name"] for each in inputs}
