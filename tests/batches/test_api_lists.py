"""Lists of batches and runs (contract.md sections 3.3, 4 and 6): whole answers, filters, orders, pages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Organization
from batches.api.lists import BATCHES, RUNS
from batches.models import BATCH_TERMINAL, TERMINAL, Batch, BatchItem, BatchStatus, Run, RunStatus
from models_registry.models import Model, ProviderLink
from runflow.lib import search
from tests.conftest import Api
from tests.contract.checks import assert_error, assert_matches, json_of
from tests.factories import end_batch, make_batch, make_model
from tests.filters import Filter, filters, meets, term, text_spellings, written

pytestmark = pytest.mark.django_db
SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=50
)
START = datetime(2026, 4, 1, tzinfo=UTC)
_minutes = itertools.count()


def put_run(organization: Organization, model: Model, *, status: str = "queued", **columns: Any) -> Run:
    """A run in this state, as if it had lived."""
    link = ProviderLink.objects.get(model=model)
    columns.setdefault("created_at", START + timedelta(minutes=next(_minutes)))
    is_live = status in ("dispatching", "running")
    return Run.objects.create(
        organization=organization,
        model=model,
        provider_id=link.provider_id,
        status_code=status,
        price=Decimal(1),
        cost=Decimal(1) if status == "succeeded" else None,
        failure_code="EXECUTION_FAILED" if status == "failed" else None,
        max_attempts=5,
        due_at=columns["created_at"],
        lease_expires_at=columns["created_at"] if is_live else None,
        **{"input": {}, "completed_at": columns["created_at"] + timedelta(hours=1) if status in TERMINAL else None}
        | columns,
    )


def put_batch(
    organization: Organization,
    model: Model,
    *,
    status: str = "queued",
    client_refs: tuple[str | None, ...] = (None,),
    **columns: Any,
) -> Batch:
    link = ProviderLink.objects.get(model=model)
    columns.setdefault("created_at", START + timedelta(minutes=next(_minutes)))
    counters = {"failed": "items_failed", "canceled": "items_cancelled"}
    ended = {counters.get(status, "items_succeeded"): len(client_refs)} if status in BATCH_TERMINAL else {}
    if status in BATCH_TERMINAL:
        columns.setdefault("completed_at", columns["created_at"] + timedelta(hours=1))
    batch = Batch.objects.create(
        organization=organization,
        model=model,
        status_code=status,
        items_total=len(client_refs),
        resolved_template_id=str(link.template_id),
        **ended | columns,
    )
    for index, ref in enumerate(client_refs):
        run = put_run(organization, model, status="canceled", batch=batch, client_ref=ref, created_at=batch.created_at)
        BatchItem.objects.create(
            batch=batch, run=run, sequence_index=index, client_ref=ref, created_at=batch.created_at
        )
    return batch


def listed(api: Api, path: str, **query: object) -> Any:
    page = json_of(api.get(f"{path}?{urlencode(query)}"))
    assert_matches({"/v1/batches": "BatchPage", "/v1/runs": "RunPage"}[path], page)
    return page


def ids(page: Any) -> list[str]:
    return [item["id"] for item in page["items"]]


# --- Whole answers ----------------------------------------------------------------------------------------------------


def test_a_list_of_nothing_is_an_empty_page(api: Api) -> None:
    empty: dict[str, Any] = {"items": [], "first": None, "next": None, "previous": None}
    assert listed(api, "/v1/batches") == empty
    assert listed(api, "/v1/runs") == empty


def test_batches_are_listed_as_their_details_without_what_is_large(api: Api) -> None:
    one, _ = make_batch(organization=api.organization, items=[{"text": "a", "client_ref": "r"}, {}], metadata={"a": 1})
    end_batch(one, "succeeded", "failed")
    two, _ = make_batch(organization=api.organization)
    details = [json_of(api.get(f"/v1/batches/{batch.pk}?embed=input")) for batch in (two, one)]
    light = [detail | {"items": None, "input": None, "output": None} for detail in details]
    assert listed(api, "/v1/batches") == {"items": light, "first": None, "next": None, "previous": None}
    assert listed(api, "/v1/batches", embed="items,input,output")["items"] == details
    for name in ("items", "input", "output"):
        expected = [row | {name: detail[name]} for row, detail in zip(light, details, strict=True)]
        assert listed(api, "/v1/batches", embed=f"{name},flow")["items"] == expected
        assert listed(api, "/v1/batches", fields=f"id,{name}")["items"] == [
            {"id": detail["id"], name: detail[name]} for detail in details
        ]


def test_runs_are_listed_as_they_are_read_one_by_one_without_their_input(api: Api) -> None:
    batch, handles = make_batch(organization=api.organization, items=[{"text": "a", "client_ref": "r"}, {}])
    end_batch(batch, "succeeded", "failed")
    details = [json_of(api.get(f"/v1/runs/{handle.run_id}")) for handle in reversed(handles)]
    light = [detail | {"input": None} for detail in details]
    assert listed(api, "/v1/runs") == {"items": light, "first": None, "next": None, "previous": None}
    assert listed(api, "/v1/runs", embed="input")["items"] == details
    assert listed(api, "/v1/runs", fields="output, client_ref,,id")["items"] == [
        {"output": detail["output"], "client_ref": detail["client_ref"], "id": detail["id"]} for detail in details
    ]


def test_lists_are_of_ones_own(api: Api) -> None:
    batch, (handle,) = make_batch(organization=api.organization, items=[{"client_ref": "same"}], metadata={"a": 1})
    other = Api()
    theirs, _ = make_batch(
        organization=other.organization, model=batch.model, items=[{"client_ref": "same"}], metadata={"a": 1}
    )
    model = batch.model
    for q in ("", "client_ref:same", "metadata.a:1", f"model:{model}", f"target_id:{model.pk}", "NOT client_ref:x"):
        assert ids(listed(api, "/v1/batches", q=q)) == [str(batch.pk)], q
    for q in (
        "",
        "client_ref:same",
        f"model:{model}",
        f"model_id:{model.pk}",
        f"batch_id:{batch.pk}",
        "NOT client_ref:x",
    ):
        assert ids(listed(api, "/v1/runs", q=q)) == [str(handle.run_id)], q
    assert ids(listed(api, "/v1/batches", q=f"id:{theirs.pk} OR replay_of:{theirs.pk}")) == []
    assert ids(listed(api, "/v1/runs", q=f"batch_id:{theirs.pk}")) == []


def test_a_page_with_what_is_large_holds_at_most_a_hundred(api: Api) -> None:
    for path, query in (
        ("/v1/batches", {"embed": "output"}),
        ("/v1/batches", {"fields": "id,items"}),
        ("/v1/runs", {"embed": "input"}),
    ):
        response = api.get(f"{path}?{urlencode({**query, 'limit': 101})}")
        assert assert_error(response, 400, "BAD_REQUEST") is None
        assert "at most 100" in response.json()["message"]
        assert listed(api, path, **query, limit=100)["items"] == []


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/runs"])
@pytest.mark.parametrize(
    ("query", "loc", "error_type"),
    [
        ({"q": "price>1"}, ["query", "q", 0], "unknown_member"),
        ({"q": "status_code:failed OR"}, ["query", "q", 21], "bad_syntax"),
        ({"sort_by": "cost"}, ["query", "sort_by"], "unknown_member"),
        ({"sort_by": "created_at:down"}, ["query", "sort_by"], "unknown_member"),
        ({"sort_by": "created_at,,id"}, ["query", "sort_by"], "unknown_member"),
        ({"sort_by": "created_at:asc,created_at:desc"}, ["query", "sort_by"], "not_allowed"),
        ({"fields": "id,secret"}, ["query", "fields"], "unknown_member"),
        ({"q": "NOT client_ref:a", "sort_by": "created_at,completed_at"}, ["query", "q", 4], "not_allowed"),
    ],
)
def test_what_cannot_be_done_is_400_and_says_where(
    api: Api, path: str, query: dict[str, str], loc: list[object], error_type: str
) -> None:
    faults = assert_error(api.get(f"{path}?{urlencode(query)}"), 400, "BAD_REQUEST")
    assert faults is not None
    assert [(fault["loc"], fault["type"]) for fault in faults] == [(loc, error_type)]


def test_batches_are_walked_along_by_their_making_only(api: Api) -> None:
    """Those without an end would be two stretches of an index."""
    query = urlencode({"q": "completed_at>2026-01-01 AND source_code:api"})
    faults = assert_error(api.get(f"/v1/batches?{query}"), 400, "BAD_REQUEST")
    msg = "source_code cannot be asked for here with sort_by=completed_at:desc; it can with created_at alone."
    assert faults == [{"loc": ["query", "q", 28], "msg": msg, "type": "not_allowed"}]
    assert listed(api, "/v1/batches", q="source_code:api")["items"] == []
    assert listed(api, "/v1/runs", q="completed_at>2026-01-01 AND source_code:api")["items"] == []


def test_a_cursor_of_another_order_or_list_is_400(api: Api) -> None:
    for _ in range(2):
        make_batch(organization=api.organization)
    cursor = listed(api, "/v1/batches", limit=1)["next"]
    assert listed(api, "/v1/batches", limit=1, pq=cursor, sort_by="created_at:desc")["next"] is None
    for path, query, message in (
        (
            "/v1/batches",
            {"sort_by": "created_at:asc"},
            "pq is a cursor of sort_by=created_at:desc, not of created_at:asc.",
        ),
        (
            "/v1/batches",
            {"q": "completed_at>2026-01-01"},
            "pq is a cursor of sort_by=created_at:desc, not of completed_at:desc.",
        ),
        ("/v1/runs", {}, "pq is not a cursor of this list."),
    ):
        response = api.get(f"{path}?{urlencode({**query, 'pq': cursor})}")
        assert assert_error(response, 400, "BAD_REQUEST") is None
        assert response.json()["message"] == message


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "W10",
        "bnVsbA",
        "%FF",
        "[" * 3000,
        "a" * 5000,
        "WyJydW5zIiwiY3JlYXRlZF9hdDpkZXNjIixbMSwiMSJdXQ",  # ["runs","created_at:desc",[1,"1"]]
        "WyJydW5zIiwiY3JlYXRlZF9hdDpkZXNjIixbbnVsbCwiMDFhMjBkNjgtMTc0My03MzU2LTg5YmEtNzNlMDlmMmY4Mzg0Il1d",  # created_at null
        "WyJydW5zIiwiY3JlYXRlZF9hdDpkZXNjIixbXV0",  # no values
    ],
    ids=lambda text: text[:12],
)
@pytest.mark.parametrize("back", ["", "&from_prev=true"])
def test_a_cursor_that_is_none_is_400(api: Api, cursor: str, back: str) -> None:
    response = api.get(f"/v1/runs?pq={cursor}{back}")
    assert assert_error(response, 400, "BAD_REQUEST") is None
    assert response.json()["message"] == "pq is not a cursor of this list."


def test_a_range_of_the_end_sorts_by_the_end(api: Api) -> None:
    model = make_model()
    early, late = (
        put_batch(api.organization, model, status="succeeded", completed_at=START + timedelta(days=days))
        for days in (9, 8)
    )
    assert ids(listed(api, "/v1/batches")) == [str(late.pk), str(early.pk)]
    by_end = [str(early.pk), str(late.pk)]
    assert ids(listed(api, "/v1/batches", q="completed_at>2026-04-02")) == by_end
    both = "completed_at>2026-04-02 AND created_at>2026-03-01"
    assert ids(listed(api, "/v1/batches", q=both)) == [str(late.pk), str(early.pk)]


# --- Items ------------------------------------------------------------------------------------------------------------


def items(api: Api, batch: object, **query: object) -> Any:
    page = json_of(api.get(f"/v1/batches/{batch}/items?{urlencode(query)}"))
    if "fields" not in query:
        assert_matches("BatchItemPage", page)
    return page


def test_the_items_of_a_batch_are_filtered_and_sorted(api: Api) -> None:
    given = [{"client_ref": "a"}, {"client_ref": "b"}, {}, {"client_ref": "a"}]
    batch, handles = make_batch(organization=api.organization, items=given)
    end_batch(batch, "succeeded", "failed", "failed", "failed")
    whole = items(api, batch.pk)["items"]
    assert [item["sequence_index"] for item in whole] == [0, 1, 2, 3]
    for q, expected in (
        ("status_code:failed", [1, 2, 3]),
        ("client_ref:a", [0, 3]),
        ("client_ref:a AND NOT status_code:failed", [0]),
        ("NOT client_ref:a", [1, 2]),
        (f"id:{handles[2].id} OR run_id:{handles[0].run_id}", [0, 2]),
    ):
        assert items(api, batch.pk, q=q)["items"] == [whole[index] for index in expected], q
    assert items(api, batch.pk, sort_by="sequence_index:desc")["items"] == whole[::-1]
    assert items(api, batch.pk, sort_by="created_at:desc,sequence_index:asc")["items"] == whole
    assert items(api, batch.pk, fields="client_ref,input", limit=1)["items"] == [{"client_ref": "a", "input": {}}]
    filtered = {"q": "status_code:failed", "limit": 2}
    first = items(api, batch.pk, **filtered)
    second = items(api, batch.pk, **filtered, pq=first["next"])
    assert [item["sequence_index"] for item in first["items"] + second["items"]] == [1, 2, 3]
    assert items(api, batch.pk, **filtered, pq=second["previous"], from_prev="true") == first


def test_any_lists_the_items_of_all_batches_newest_first_and_of_no_single_run(api: Api) -> None:
    model = make_model()
    one, _ = make_batch(organization=api.organization, model=model, items=[{"client_ref": "a"}, {"client_ref": "b"}])
    put_run(api.organization, model, client_ref="a", created_at=one.created_at)
    two, _ = make_batch(organization=api.organization, model=model, items=[{"client_ref": "a"}])
    make_batch(organization=Api().organization, model=model, items=[{"client_ref": "a"}])
    whole = [*items(api, two.pk)["items"], *reversed(items(api, one.pk)["items"])]
    light = [item | {"input": None, "run": item["run"] | {"input": None}} for item in whole]
    assert items(api, "any") == {"items": light, "first": None, "next": None, "previous": None}
    assert items(api, "any", embed="input")["items"] == whole
    assert items(api, "any", q="client_ref:a")["items"] == [light[0], light[2]]
    assert items(api, "any", q=f"batch_id:{one.pk} AND NOT client_ref:a")["items"] == [light[1]]
    assert items(api, "any", q=f"id:{whole[1]['id']}")["items"] == [light[1]]
    assert items(api, "any", q="status_code:failed")["items"] == []
    pages = list(walk(lambda more: items(api, "any", limit=2, **more)))
    assert [item for page in pages for item in page["items"]] == light
    assert json_of(api.get(f"/v1/batches/any/items/{whole[0]['id']}")) == whole[0]


def test_an_item_of_somebody_elses_batch_is_not_any(api: Api) -> None:
    _, (handle,) = make_batch()
    assert items(api, "any")["items"] == []
    assert_error(api.get(f"/v1/batches/any/items/{handle.id}"), 404, "BATCH_ITEM_NOT_FOUND")


def test_single_runs_between_do_not_hide_the_items_of_any(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk that ends among them goes on with the next page."""
    monkeypatch.setattr(search, "LOOKED_AT", 3)
    batch, (handle,) = make_batch(organization=api.organization)
    for hours in range(1, 8):
        put_run(api.organization, batch.model, created_at=batch.created_at + timedelta(hours=hours))
    pages = list(walk(lambda more: items(api, "any", **more)))
    assert [[item["id"] for item in page["items"]] for page in pages] == [[], [], [str(handle.id)]]


# --- Every filter in every order, page by page ------------------------------------------------------------------------


class Lake:
    """Batches and runs of every kind, beside the same of somebody else's; and what Python knows of them."""

    def __init__(self) -> None:
        self.api = Api()
        models = [make_model(), make_model()]
        for organization in (self.api.organization, Api().organization):
            first: Batch | None = None
            for number, (status, model) in enumerate(itertools.product(BatchStatus.values, models)):
                batch = put_batch(
                    organization,
                    model,
                    status=status,
                    client_refs=((None,), ("a", "b"), ("a", None, "c"), ("it's",))[number % 4],
                    metadata=(None, {"n": 1}, {"n": "1", "e": None}, {"n": True, "e": "x"}, {"n": 1.0})[number % 5],
                    source_code=("api", "replay", "api")[number % 3],
                    replay_of=first if number % 3 == 1 else None,
                    created_at=START + timedelta(days=number // 3),  # three at once
                )
                first = first or batch
            replayed: Run | None = None
            for number, (status, model) in enumerate(itertools.product(RunStatus.values, models)):
                run = put_run(
                    organization,
                    model,
                    status=status,
                    client_ref=(None, "a", "it's")[number % 3],
                    metadata=({"n": 1}, {"e": "x"}, None, {"n": "1"})[number % 4],
                    replay_of=replayed if number % 5 == 1 else None,
                    created_at=START + timedelta(days=number // 2),
                )
                replayed = replayed or run
        own = self.api.organization
        self.batches = [
            {
                "id": row.pk,
                "status_code": row.status_code,
                "source_code": row.source_code,
                "target_id": row.model_id,
                "model": str(row.model),
                "client_ref": {item.client_ref for item in row.items.all()},
                "metadata": row.metadata,
                "replay_of": row.replay_of_id,
                "created_at": row.created_at,
                "completed_at": row.completed_at,
            }
            for row in Batch.objects.filter(organization=own).select_related("model").prefetch_related("items")
        ]
        names = (
            "status_code",
            "source_code",
            "model_id",
            "batch_id",
            "client_ref",
            "metadata",
            "created_at",
            "completed_at",
        )
        self.runs = [
            {
                "id": row.pk,
                "model": str(row.model),
                "replay_of": row.replay_of_id,
                **{name: getattr(row, name) for name in names},
            }
            for row in Run.objects.filter(organization=own).select_related("model")
        ]


@pytest.fixture
def lake(db: None) -> Lake:
    return Lake()


def terms_for(rows: list[dict[str, Any]], listing: Any) -> st.SearchStrategy[Any]:
    """Conditions that some of these rows meet, and some that none does."""

    def plain(member: str) -> list[tuple[Any, tuple[str, ...]]]:
        found = sorted({str(row[member]): row[member] for row in rows if row[member] is not None}.items())
        return [(value, (text,)) for text, value in found]

    times = [
        (moment, (moment.isoformat(),))
        for moment in (START + timedelta(hours=hours) for hours in (-1, 0, 24, 25, 49, 999))
    ]
    scalars = [(1, ("1",)), ("1", ("'1'",)), (True, ("true",)), (None, ("null",)), ("x", ("x", "'x'")), (2, ("2",))]
    refs = [(text, text_spellings(text)) for text in ("a", "b", "it's", "nobody")]
    codes = {
        name: [(code, (code,)) for code in listing.filterable[name].kind.codes]
        for name in ("status_code", "source_code")
    }
    given: dict[str, Any] = {
        **codes,
        "client_ref": refs,
        "metadata": scalars,
        "created_at": times,
        "completed_at": times,
        "model": [*plain("model"), ("no/such", ("no/such",))],
    }
    return st.one_of(
        [
            term(
                name, given.get(name) or plain(name), each.operators, ("n", "e", "z") if each.kind.has_keys else (None,)
            )
            for name, each in sorted(listing.filterable.items())
        ]
    )


orders = st.lists(
    st.tuples(st.sampled_from(["created_at", "completed_at"]), st.booleans()),
    min_size=1,
    max_size=2,
    unique_by=lambda each: each[0],
)


def in_order(rows: list[dict[str, Any]], order: list[tuple[str, bool]]) -> list[str]:
    """Their ids. Null is later than every time; ties follow the last member."""
    rows = sorted(rows, key=lambda row: row["id"], reverse=order[-1][1])
    for member, is_descending in reversed(order):
        latest = datetime(9999, 1, 1, tzinfo=UTC)
        rows = sorted(rows, key=lambda row: row[member] or latest, reverse=is_descending)
    return [str(row["id"]) for row in rows]


def is_listed(name: str, row: dict[str, Any], order: list[tuple[str, bool]]) -> bool:
    """Sorted by their end, runs are listed that have one."""
    return name == "batches" or row["completed_at"] is not None or all(member != "completed_at" for member, _ in order)


def walk(get: Callable[[dict[str, object]], Any], cursor: str | None = None, *, back: bool = False) -> Iterator[Any]:
    for _ in range(200):
        page = get({} if cursor is None else {"pq": cursor, **({"from_prev": "true"} if back else {})})
        yield page
        cursor = page["previous" if back else "next"]
        if cursor is None:
            return
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("limits", [(5000, 20_000), (2, 5)], ids=["as it is", "walking soon"])
@pytest.mark.parametrize("name", ["batches", "runs"])
@given(data=st.data())
@SHARED
def test_every_filter_in_every_order_gives_the_rows_that_python_finds(
    lake: Lake, name: str, limits: tuple[int, int], data: st.DataObject
) -> None:
    rows, listing = (lake.batches, BATCHES) if name == "batches" else (lake.runs, RUNS)
    meant: Filter | None = data.draw(st.none() | filters(terms_for(rows, listing)))
    order: list[tuple[str, bool]] = data.draw(orders)
    query: dict[str, object] = {
        "limit": data.draw(st.sampled_from([2, 3, 7, 50])),
        "sort_by": ",".join(f"{member}:{'desc' if is_descending else 'asc'}" for member, is_descending in order),
        "fields": "id",
    }
    if meant is not None:
        query["q"] = data.draw(written(meant))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FEW", limits[0])
        patch.setattr(search, "LOOKED_AT", limits[1])
        response = lake.api.get(f"/v1/{name}?{urlencode(query)}")
        if response.status_code == 400:
            faults = assert_error(response, 400, "BAD_REQUEST")
            assert [fault["type"] for fault in faults or []] == ["not_allowed"]
            assert [member for member, _ in order] != ["created_at"]
            return

        def get(more: dict[str, object]) -> Any:
            return json_of(lake.api.get(f"/v1/{name}?{urlencode({**query, **more})}"))

        there = list(walk(get))
        expected = in_order(
            [row for row in rows if (meant is None or meets(meant, row)) and is_listed(name, row, order)], order
        )
        assert [each for page in there for each in ids(page)] == expected
        assert (there[0]["first"], there[0]["previous"]) == (None, None)
        if limits[1] == 20_000:
            # No page is short but the last.
            assert all(len(page["items"]) == query["limit"] for page in there[:-1])
        if len(there) > 1 and there[-1]["previous"] is not None:
            back = list(walk(get, there[-1]["previous"], back=True))
            seen = [each for page in reversed(back) for each in ids(page)]
            assert seen + ids(there[-1]) == expected
            assert get({"pq": there[-1]["first"]}) == there[0]


@pytest.mark.parametrize("sort_by", ["created_at:desc", "created_at:asc", "completed_at:desc", "completed_at:asc"])
@pytest.mark.parametrize("name", ["batches", "runs"])
def test_rows_that_come_meanwhile_neither_repeat_nor_hide_others(lake: Lake, name: str, sort_by: str) -> None:
    own = lake.api.organization
    model = Model.objects.order_by("pk")[0]
    rows = lake.batches if name == "batches" else lake.runs
    known = {str(row["id"]) for row in rows if is_listed(name, row, [(sort_by.partition(":")[0], False)])}
    moments = itertools.cycle([START - timedelta(days=1), START + timedelta(days=2), START + timedelta(days=99)])

    def get(more: dict[str, object]) -> Any:
        page = listed(lake.api, f"/v1/{name}", limit=4, sort_by=sort_by, fields="id", **more)
        for status in ("queued", "succeeded"):
            if name == "batches":
                put_batch(own, model, status=status, created_at=next(moments))
            else:
                put_run(own, model, status=status, created_at=next(moments))
        return page

    there = list(itertools.islice(walk(get), 60))
    seen = [each for page in there for each in ids(page)]
    assert len(seen) == len(set(seen))
    assert known <= set(seen)
    back = [each for page in itertools.islice(walk(get, there[-1]["previous"], back=True), 60) for each in ids(page)]
    assert len(back) == len(set(back))
    assert known <= set(back) | set(ids(there[-1]))


def test_runs_at_work_are_found_whatever_is_in_front_of_them(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LOOKED_AT", 2)
    model = make_model()
    running = put_run(api.organization, model, status="running")
    queued = put_run(api.organization, model, status="queued")
    for _ in range(5):
        put_run(api.organization, model, status="succeeded")
    for q, expected in (
        ("status_code:running", [running]),
        ("status_code:queued", [queued]),
        ("status_code.IN:(running,dispatching,queued)", [queued, running]),
        ("NOT status_code.IN:(succeeded,failed)", [queued, running]),
    ):
        page = listed(api, "/v1/runs", q=q)
        assert (ids(page), page["next"]) == ([str(run.pk) for run in expected], None), q
