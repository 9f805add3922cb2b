"""Lists of models, their inputs and prices (contract.md sections 5 and 6): whole answers, filters, orders, pages."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from models_registry.models import Model, ModelInput, ModelOutput, ModelStatus
from tests.conftest import Api
from tests.contract.checks import assert_error, assert_matches, json_of
from tests.factories import make_model, make_organization

pytestmark = pytest.mark.django_db

MODELS, PUBLIC = "/v1/models", "/v1/public/models"
PAGES = {MODELS: "ModelPage", PUBLIC: "PublicModelPage", "/v1/models/any/inputs": "ModelInputPage"}
PATHS = [*PAGES, "/v1/models/any/pricing"]
START = datetime(2026, 4, 1, tzinfo=UTC)


def listed(api: Api, path: str, **query: object) -> Any:
    response = api.get(f"{path}?{urlencode(query)}")
    assert response.status_code == 200, response.content
    page = json_of(response)
    if "fields" not in query:
        assert_matches(PAGES.get(path, "ModelPricingPage"), page)
    return page


def page(*items: dict[str, Any]) -> dict[str, Any]:
    """One that is the whole list."""
    return {"items": list(items), "first": None, "next": None, "previous": None}


@pytest.fixture
def shelf(api: Api) -> dict[str, Model]:
    """By slug: models of every kind, oldest first, each an hour younger than the one before."""
    made = [
        make_model(owner="acme", slug="resize", name="Resize", organization=api.organization),
        make_model(owner="acme", slug="it/has/parts", name="Same name", is_public=True),
        make_model(owner="acme", slug="off", name="Off", status_code=ModelStatus.INACTIVE, is_public=True),
        make_model(owner="zoo", slug="resize", name="Same name", organization=make_organization(), is_public=True),
        make_model(owner="zoo", slug="hidden", name="Hidden", organization=make_organization()),
    ]
    for hours, model in enumerate(made):
        moment = START + timedelta(hours=hours)
        Model.objects.filter(pk=model.pk).update(created_at=moment, updated_at=START - timedelta(hours=hours))
        ModelInput.objects.filter(model=model).update(created_at=moment)
    return {str(model): model for model in Model.objects.order_by("created_at")}


# --- Whole answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_list_of_nothing_is_an_empty_page(api: Api, path: str) -> None:
    assert listed(api, path) == page()


def test_models_are_listed_as_they_are_read_one_by_one_without_their_declarations(
    api: Api, shelf: dict[str, Model]
) -> None:
    ModelOutput.objects.create(model=shelf["acme/off"], name="image", variable_type_code="image")
    details = [
        json_of(api.get(f"/v1/models/{name}"))
        for name in ("zoo/resize", "acme/off", "acme/it/has/parts", "acme/resize")
    ]
    light = [detail | {"inputs": None, "outputs": None} for detail in details]
    assert listed(api, MODELS) == page(*light)
    assert listed(api, MODELS, embed="outputs, inputs,nothing") == page(*details)
    for name in ("inputs", "outputs"):
        expected = [row | {name: detail[name]} for row, detail in zip(light, details, strict=True)]
        assert listed(api, MODELS, embed=name) == page(*expected)
        assert listed(api, MODELS, fields=f"slug,{name}") == page(
            *({"slug": detail["slug"], name: detail[name]} for detail in details)
        )
    assert [len(detail["outputs"]) for detail in details] == [0, 1, 0, 0]


def test_public_models_are_the_same_without_what_is_an_organization_s_business(
    api: Api, shelf: dict[str, Model]
) -> None:
    hidden = {"org_id", "is_public", "created_by", "deleted_at", "deleted_by"}
    details = [
        {name: value for name, value in json_of(api.get(f"/v1/models/{name_}")).items() if name not in hidden}
        for name_ in ("zoo/resize", "acme/it/has/parts")
    ]
    assert listed(api, PUBLIC, embed="inputs,outputs") == page(*details)
    assert listed(api, PUBLIC, fields="owner,price") == page(
        {"owner": "zoo", "price": "0.01"}, {"owner": "acme", "price": "0.01"}
    )


@pytest.mark.parametrize("path", [MODELS, PUBLIC])
def test_a_page_of_models_may_hold_five_hundred_with_their_declarations(api: Api, path: str) -> None:
    make_model(is_public=True)
    assert len(listed(api, path, embed="inputs,outputs", limit=500)["items"]) == 1


# --- Filters and orders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("slug.eq:'resize'", ["zoo/resize", "acme/resize"]),
        ("slug.EQ:'it/has/parts'", ["acme/it/has/parts"]),
        ("owner:acme AND slug:resize", ["acme/resize"]),
        ("slug.IN:(resize,off) AND NOT owner:zoo", ["acme/off", "acme/resize"]),
        ("name:'Same name'", ["zoo/resize", "acme/it/has/parts"]),
        ("name:'same name'", []),
        ("status_code:inactive", ["acme/off"]),
        ("status_code.NE:inactive AND is_public:true", ["zoo/resize", "acme/it/has/parts"]),
        ("is_public:false OR status_code:inactive", ["acme/off", "acme/resize"]),
        ("created_at>=2026-04-01T02:00:00+00:00", ["zoo/resize", "acme/off"]),
        ("updated_at>2026-03-31T22:30:00+00:00", ["acme/resize", "acme/it/has/parts"]),  # sorts by it
        ("slug:hidden OR owner:zoo", ["zoo/resize"]),
        ("NOT slug:nothing", ["zoo/resize", "acme/off", "acme/it/has/parts", "acme/resize"]),
    ],
)
def test_models_are_filtered_and_those_of_others_are_never_found(
    api: Api, shelf: dict[str, Model], q: str, expected: list[str]
) -> None:
    items = listed(api, MODELS, q=q)["items"]
    assert [f"{each['owner']}/{each['slug']}" for each in items] == expected


def test_a_filter_finds_neither_private_nor_inactive_models_for_the_public(shelf: dict[str, Model]) -> None:
    api = Api()
    for q in ("owner.IN:(acme,zoo)", "status_code:active OR status_code:inactive", "NOT slug:x"):
        assert [each["id"] for each in listed(api, PUBLIC, q=q)["items"]] == [
            str(shelf["zoo/resize"].pk),
            str(shelf["acme/it/has/parts"].pk),
        ]
    for name in ("zoo/hidden", "acme/resize", "acme/off"):
        assert listed(api, PUBLIC, q=f"id:{shelf[name].pk}") == page()


@pytest.mark.parametrize("path", [MODELS, PUBLIC])
def test_whose_a_shared_model_is_cannot_be_found_out_by_a_filter(api: Api, path: str) -> None:
    faults = assert_error(api.get(f"{path}?q=org_id:{uuid.uuid4()}"), 400, "BAD_REQUEST")
    assert faults is not None
    assert [(fault["loc"], fault["type"]) for fault in faults] == [(["query", "q", 0], "unknown_member")]


def test_inputs_are_filtered_within_one_model_and_over_all(api: Api) -> None:
    declared: tuple[dict[str, Any], ...] = (
        {"name": "image_url", "variable_type_code": "image", "is_required": True, "is_featured": True},
        {
            "name": "resolution",
            "variable_type_code": "string",
            "validator_code": "one_of",
            "validator_attrs": {"values": ["1K", "2K"]},
            "default_behavior_code": "use_default",
            "default_value": "1K",
        },
        {"name": "colour", "variable_type_code": "string"},
    )
    model, other = make_model(inputs=declared), make_model(inputs=declared[:1])
    make_model(inputs=declared, organization=make_organization())
    path = f"/v1/models/{model.pk}/inputs"
    colour, resolution, image = json_of(api.get(path))["items"]
    for q, expected in (
        ("name.eq:'colour'", [colour]),
        ("variable_type_code:string", [colour, resolution]),
        ("validator_code:one_of AND default_behavior_code:use_default", [resolution]),
        ("is_required:true", [image]),
        ("NOT is_featured:true", [colour, resolution]),
        (f"id:{image['id']} OR id:{colour['id']}", [colour, image]),
        (f"model_id:{other.pk}", []),
    ):
        assert json_of(api.get(f"{path}?{urlencode({'q': q})}")) == page(*expected), q
    in_form_order = json_of(api.get(f"{path}?sort_by=sort_order"))["items"]
    assert in_form_order == [image, resolution, colour]
    [theirs] = json_of(api.get(f"/v1/models/{other.pk}/inputs"))["items"]
    assert listed(api, "/v1/models/any/inputs", q="variable_type_code:image") == page(theirs, image)
    assert listed(api, "/v1/models/any/inputs", q=f"model_id:{other.pk}") == page(theirs)
    assert listed(api, "/v1/models/any/inputs", sort_by="name,sort_order:desc", fields="name") == page(
        {"name": "colour"}, {"name": "image_url"}, {"name": "image_url"}, {"name": "resolution"}
    )


def test_prices_are_filtered_over_all_models(api: Api, shelf: dict[str, Model]) -> None:
    any_price = "/v1/models/any/pricing"
    rules = listed(api, any_price)["items"]
    visible = [shelf[name] for name in ("zoo/resize", "acme/off", "acme/it/has/parts", "acme/resize")]
    assert [rule["model_id"] for rule in rules] == [str(model.pk) for model in visible]
    for member in ("id", "model_id"):
        assert listed(api, any_price, q=f"{member}:{visible[1].pk}") == page(rules[1])
        assert listed(api, any_price, q=f"{member}:{shelf['zoo/hidden'].pk}") == page()
    assert listed(api, any_price, q="created_at<2026-04-01T01:30:00+00:00") == page(*rules[2:])
    assert listed(api, any_price, sort_by="updated_at:desc", fields="id,price") == page(
        *({"id": rule["id"], "price": "0.01"} for rule in reversed(rules))
    )


# --- Pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize(
    ("path", "members"),
    [
        (MODELS, ["created_at", "updated_at", "owner", "slug", "name"]),
        (PUBLIC, ["created_at", "updated_at", "owner", "slug", "name"]),
        ("/v1/models/any/inputs", ["created_at", "updated_at", "sort_order", "name"]),
        ("/v1/models/any/pricing", ["created_at", "updated_at"]),
    ],
)
@pytest.mark.parametrize("filtered", [{}, {"q": "created_at>2026-01-01"}], ids=["all", "filtered"])
def test_every_order_is_walked_in_pages_there_and_back(
    api: Api, path: str, members: list[str], direction: str, filtered: dict[str, str]
) -> None:
    for number in range(5):  # ties in every member but created_at
        model = make_model(owner=f"o{number % 2}", slug=f"s{number}", name=f"n{number % 2}", is_public=True)
        Model.objects.filter(pk=model.pk).update(updated_at=START)
    for member in members:
        query = {"sort_by": f"{member}:{direction}", **filtered}
        expected = sorted(listed(api, path)["items"], key=lambda each: (each[member], each["id"]))
        whole = listed(api, path, **query)
        assert whole["items"] == (expected if direction == "asc" else expected[::-1]), member
        there = [listed(api, path, **query, limit=2)]
        while there[-1]["next"] is not None:
            there.append(listed(api, path, **query, limit=2, pq=there[-1]["next"]))
        items = whole["items"]
        assert [each["items"] for each in there] == [items[:2], items[2:4], items[4:]], member
        assert (there[0]["first"], there[0]["previous"]) == (None, None)
        back = [there[-1]]
        while back[-1]["previous"] is not None:
            back.append(listed(api, path, **query, limit=2, pq=back[-1]["previous"], from_prev="true"))
        assert [each["items"] for each in back] == [items[4:], items[2:4], items[:2]], member
        assert listed(api, path, **query, limit=2, pq=there[-1]["first"]) == there[0]


def test_a_model_made_meanwhile_neither_repeats_nor_hides_others(api: Api, shelf: dict[str, Model]) -> None:
    first = listed(api, MODELS, limit=2)
    new = make_model()
    second = listed(api, MODELS, limit=2, pq=first["next"])
    names = [f"{each['owner']}/{each['slug']}" for each in first["items"] + second["items"]]
    assert names == ["zoo/resize", "acme/off", "acme/it/has/parts", "acme/resize"]
    before = listed(api, MODELS, limit=2, pq=first["next"], from_prev="true")["items"]
    assert [each["id"] for each in before] == [str(new.pk), str(shelf["zoo/resize"].pk)]


# --- What cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "loc", "error_type"),
    [
        ({"q": "created_at>2026-01-01 AND price>1"}, ["query", "q", 26], "unknown_member"),
        ({"q": "id:x"}, ["query", "q", 3], "bad_value"),
        ({"q": "created_at>2026-01-01 OR"}, ["query", "q", 24], "bad_syntax"),
        ({"q": "id.LIKE:x"}, ["query", "q", 3], "unknown_operator"),
        ({"sort_by": "price"}, ["query", "sort_by"], "unknown_member"),
        ({"sort_by": "created_at:down"}, ["query", "sort_by"], "unknown_member"),
        ({"fields": "id,secret"}, ["query", "fields"], "unknown_member"),
    ],
)
def test_what_cannot_be_done_is_400_and_says_where(
    api: Api, path: str, query: dict[str, str], loc: list[object], error_type: str
) -> None:
    faults = assert_error(api.get(f"{path}?{urlencode(query)}"), 400, "BAD_REQUEST")
    assert faults is not None
    assert [(fault["loc"], fault["type"]) for fault in faults] == [(loc, error_type)]


@pytest.mark.parametrize(
    ("path", "q", "at", "error_type"),
    [
        (MODELS, "status_code:Active", 12, "bad_value"),
        (MODELS, "is_public:1", 10, "bad_value"),
        (MODELS, "is_public.IN:(true)", 0, "not_allowed"),
        (MODELS, "slug:a AND slug>a", 11, "not_allowed"),
        (PUBLIC, "is_public:true", 0, "unknown_member"),
        ("/v1/models/any/inputs", "variable_type_code:picture", 19, "bad_value"),
        ("/v1/models/any/inputs", "sort_order:1", 0, "unknown_member"),
        ("/v1/models/any/pricing", "name:x", 0, "unknown_member"),
    ],
)
def test_a_filter_that_does_not_go_with_the_list_is_400_at_its_place(
    api: Api, path: str, q: str, at: int, error_type: str
) -> None:
    faults = assert_error(api.get(f"{path}?{urlencode({'q': q})}"), 400, "BAD_REQUEST")
    assert faults is not None
    assert [(fault["loc"], fault["type"]) for fault in faults] == [(["query", "q", at], error_type)]


def test_a_cursor_of_another_list_or_order_is_400(api: Api) -> None:
    for _ in range(2):
        make_model(is_public=True)
    cursors = {path: listed(api, path, limit=1)["next"] for path in PATHS}
    for path in PATHS:
        for other, cursor in cursors.items():
            response = api.get(f"{path}?pq={cursor}")
            if path == other:
                assert response.status_code == 200
            else:
                assert assert_error(response, 400, "BAD_REQUEST") is None
                assert response.json()["message"] == "pq is not a cursor of this list."
        response = api.get(f"{path}?pq={cursors[path]}&sort_by=created_at:asc")
        assert assert_error(response, 400, "BAD_REQUEST") is None
        assert response.json()["message"] == "pq is a cursor of sort_by=created_at:desc, not of created_at:asc."


# --- Statements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "statements"),
    [
        ("/v1/models?q=slug:a OR NOT owner:x&sort_by=name,created_at:desc", 2),
        ("/v1/models?q=NOT owner:x&fields=slug,inputs,outputs", 4),
        ("/v1/public/models?q=NOT owner:x&sort_by=slug", 1),
        ("/v1/public/models?q=NOT owner:x&embed=inputs,outputs", 3),
        ("/v1/models/{model.pk}/inputs?q=NOT name:x&sort_by=sort_order", 3),
        ("/v1/models/any/inputs?q=NOT name:x&sort_by=sort_order", 2),
        ("/v1/models/{model.pk}/pricing?q=created_at>2026-01-01", 3),
        ("/v1/models/any/pricing?q=created_at>2026-01-01&sort_by=updated_at", 2),
    ],
)
def test_a_filtered_page_costs_the_same_for_one_model_and_for_thirty(
    api: Api, count_queries: Callable[..., Any], path: str, statements: int
) -> None:
    model = make_model(is_public=True)
    address = path.format(model=model)
    headers = {} if "public" in path else api.headers()
    api.get("/v1/models")  # writes last_used_at
    for _ in range(2):
        with count_queries() as log:
            assert api.client.get(address, headers=headers).status_code == 200
        assert len(log) == statements, [query["sql"] for query in log.captured_queries]
        for _ in range(29):
            ModelOutput.objects.create(model=make_model(is_public=True), name="a", variable_type_code="image")
