"""How many SQL statements a request costs: the same for one item and for a hundred (architecture.md section 10).

BEGIN and COMMIT are counted too. The first request of a process for a model's version reads its inputs, and a key's first
request of a minute writes `last_used_at`: these two are counted where they happen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import ApiKey
from batches import engine
from batches.models import Batch, Run
from models_registry.models import Model
from tests.conftest import Api, Rung
from tests.factories import make_model

pytestmark = pytest.mark.django_db(transaction=True)
CountQueries = Callable[[], Any]


def spent(count_queries: CountQueries, request: Callable[[], Any], status: int) -> list[str]:
    """The statements of a request, after one that warmed up what is only done once."""
    with count_queries() as log:
        response = request()
    assert response.status_code == status, response.content
    return [query["sql"] for query in log.captured_queries]


def listed(statements: list[str]) -> str:
    return "\n".join(f"{number:2} {sql[:200]}" for number, sql in enumerate(statements, 1))


def creating(api: Api, model: Model, items: int, **headers: str) -> Callable[[], Any]:
    return lambda: api.post(f"/v1/models/{model}/batches", {"input": [{"text": "a"}] * items}, **headers)


@pytest.fixture
def api(db: None) -> Api:
    """A customer whose key has been used within the minute."""
    api = Api()
    api.get("/v1/batches/x")
    return api


@pytest.fixture
def warm(api: Api, rung: Rung) -> Model:
    """A model whose declarations this process has compiled."""
    model = make_model()
    assert api.post(f"/v1/models/{model}/batches?validate_only=true", {"input": [{}]}).status_code == 200
    return model


@pytest.mark.parametrize("items", [1, 100])
def test_creating_costs_seven_statements_whatever_the_number_of_items(
    api: Api, warm: Model, count_queries: CountQueries, items: int
) -> None:
    statements = spent(count_queries, creating(api, warm, items), 201)
    assert len(statements) == 7, listed(statements)
    assert Run.objects.count() == items


@pytest.mark.parametrize("items", [1, 100])
def test_creating_with_an_idempotency_key_costs_eleven(
    api: Api, warm: Model, count_queries: CountQueries, items: int
) -> None:
    statements = spent(count_queries, creating(api, warm, items, Idempotency_Key="k"), 201)
    assert len(statements) == 11, listed(statements)
    assert Run.objects.count() == items


@pytest.mark.parametrize("items", [1, 100])
def test_replaying_costs_two(api: Api, warm: Model, count_queries: CountQueries, items: int) -> None:
    first = creating(api, warm, items, Idempotency_Key="k")
    assert first().status_code == 201
    statements = spent(count_queries, first, 201)
    assert len(statements) == 2, listed(statements)
    assert Batch.objects.count() == 1


@pytest.mark.parametrize("items", [1, 100])
def test_a_dry_run_costs_two(api: Api, warm: Model, count_queries: CountQueries, items: int) -> None:
    body = {"input": [{"text": "a"}] * items}
    path = f"/v1/models/{warm}/batches?validate_only=true"
    statements = spent(count_queries, lambda: api.post(path, body), 200)
    assert len(statements) == 2, listed(statements)


def test_the_first_request_of_all_costs_one_more_for_the_inputs_and_one_for_the_key(
    rung: Rung, count_queries: CountQueries
) -> None:
    api, model = Api(), make_model()
    statements = spent(count_queries, creating(api, model, 100), 201)
    assert len(statements) == 9, listed(statements)
    ApiKey.objects.update(last_used_at=timezone.now() - timedelta(minutes=2))
    statements = spent(count_queries, creating(api, model, 100), 201)
    assert len(statements) == 8, listed(statements)


@pytest.mark.parametrize("is_terminal", [False, True], ids=["queued", "terminal"])
@pytest.mark.parametrize("query", ["", "?embed=input"])
@pytest.mark.parametrize("items", [1, 100])
def test_a_batch_costs_two(
    api: Api, warm: Model, count_queries: CountQueries, items: int, query: str, is_terminal: bool
) -> None:
    path = f"/v1/batches/{post_noops(api, warm, items)}{query}"
    if is_terminal:
        engine.execute(provider_id=Run.objects.all()[0].provider_id)
    statements = spent(count_queries, lambda: api.get(path), 200)
    assert len(statements) == 2, listed(statements)
    body = api.get(path).json()
    assert (len(body["items"]), body["output"] is not None) == (items, is_terminal)


def post_noops(api: Api, model: Model, items: int) -> str:
    """A batch without outputs, so that executing it leaves no files. Returns its id."""
    batch_id: str = api.post(f"/v1/models/{model}/batches", {"input": [{}] * items}).json()["id"]
    return batch_id


@pytest.mark.parametrize("items", [1, 100])
def test_a_page_of_items_costs_three(api: Api, warm: Model, count_queries: CountQueries, items: int) -> None:
    path = f"/v1/batches/{post_noops(api, warm, items)}/items?limit=500"
    statements = spent(count_queries, lambda: api.get(path), 200)
    assert len(statements) == 3, listed(statements)
    assert len(api.get(path).json()["items"]) == items


def test_a_page_in_the_middle_costs_no_more_and_walking_back_neither(
    api: Api, warm: Model, count_queries: CountQueries
) -> None:
    path = f"/v1/batches/{post_noops(api, warm, 30)}/items?limit=10"
    middle = f"{path}&pq={api.get(path).json()['next']}"
    back = f"{path}&pq={api.get(middle).json()['previous']}&from_prev=true"
    for each in (middle, back):
        statements = spent(count_queries, lambda each=each: api.get(each), 200)  # type: ignore[misc]
        assert len(statements) == 3, listed(statements)


@pytest.mark.parametrize("items", [1, 60])
@pytest.mark.parametrize(
    ("query", "statements"),
    [
        ("batches?limit=100", 2),
        ("batches?limit=100&embed=items,input,output", 2),
        ("batches?limit=100&q=status_code:queued OR status_code:failed&sort_by=completed_at", 2),
        ("runs?limit=100&q=status_code:failed OR status_code:queued", 2),
        ("runs?limit=100&q=model:testing/x OR status_code:queued", 3),
        ("batches?limit=100&q=client_ref:a", 3),  # how many rows have it?
        ("runs?limit=100&q=client_ref:a OR metadata.a:1 OR status_code:queued", 3),
        ("batches?limit=100&q=source_code:api", 3),  # where does the walk end?
        ("batches?limit=100&q=source_code:api OR client_ref:a", 4),
        ("batches/any/items?limit=100", 3),
        ("batches/any/items?limit=100&q=client_ref:a OR NOT client_ref:a", 4),
    ],
)
def test_a_page_of_a_list_costs_at_most_four_whatever_it_holds(
    api: Api, warm: Model, count_queries: CountQueries, items: int, query: str, statements: int
) -> None:
    for _ in range(items):
        post_noops(api, warm, 1)
    spent_ = spent(count_queries, lambda: api.get(f"/v1/{query}"), 200)
    assert len(spent_) == statements, listed(spent_)


def test_lists_read_no_inputs_unless_they_are_asked_for(api: Api, warm: Model, count_queries: CountQueries) -> None:
    post_noops(api, warm, 2)
    for path in ("batches", "runs", "batches/any/items"):
        *_, page = spent(count_queries, lambda path=path: api.get(f"/v1/{path}"), 200)  # type: ignore[misc]
        assert '"input"' not in page
        *_, page = spent(count_queries, lambda path=path: api.get(f"/v1/{path}?embed=input"), 200)  # type: ignore[misc]
        assert '"input"' in page


def test_one_item_costs_three_and_a_run_two(api: Api, warm: Model, count_queries: CountQueries) -> None:
    batch_id = post_noops(api, warm, 1)
    handle = api.get(f"/v1/batches/{batch_id}").json()["items"][0]
    statements = spent(count_queries, lambda: api.get(f"/v1/batches/{batch_id}/items/{handle['id']}"), 200)
    assert len(statements) == 3, listed(statements)
    statements = spent(count_queries, lambda: api.get(f"/v1/runs/{handle['run_id']}"), 200)
    assert len(statements) == 2, listed(statements)


def test_polling_reads_no_inputs_and_outputs_only_in_the_end(
    api: Api, warm: Model, count_queries: CountQueries
) -> None:
    path = f"/v1/batches/{post_noops(api, warm, 1)}"
    *_, polled = spent(count_queries, lambda: api.get(path), 200)
    assert '"input"' not in polled
    for column in ("output", "failure_code", "failure_message", "failure_stage_code"):
        read = [match.start() for match in re.finditer(rf'"batches_run"\."{column}"|U\d\."{column}"', polled)]
        assert len(read) == 1, polled
        assert re.search(r"CASE WHEN [^)]*\)+ THEN $", polled[: read[0]]), polled[: read[0]]


def test_counters_and_items_of_a_batch_are_of_one_moment(api: Api, warm: Model, count_queries: CountQueries) -> None:
    """One statement reads both, so no poll sees a run that has ended beside counters that do not know it."""
    path = f"/v1/batches/{post_noops(api, warm, 3)}"
    statements = spent(count_queries, lambda: api.get(path), 200)
    assert [sql for sql in statements if "batches_" in sql] == [statements[-1]]
    assert "batches_batchitem" in statements[-1]


def test_a_refusal_writes_nothing_and_opens_no_transaction(api: Api, warm: Model, count_queries: CountQueries) -> None:
    body = {"input": [{"wrong": 1}] * 100}
    statements = spent(count_queries, lambda: api.post(f"/v1/models/{warm}/batches", body), 422)
    assert len(statements) == 2, listed(statements)
    assert {sql.split()[0] for sql in statements} == {"SELECT"}
