"""How PostgreSQL finds the rows of lists (docs/lists.md, "What a filter costs"); the bench does it with a million."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection

from batches.api.lists import RUNS
from batches.models import Run
from models_registry.models import Model
from runflow.lib import ordering, search
from tests.conftest import Api
from tests.factories import make_model
from tests.many import BIG, Plan, make_many, plans_of

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 20_000  # more than a planner reads rather than looks up
PAGE = 50


@pytest.fixture
def crowd() -> Any:
    """A customer with so many batches and runs of one model, which is the only one there is: its statistics say "all"."""
    api, model = Api(), make_model()
    make_many(organization=api.organization, model=model, rows=ROWS)
    yield api, model
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(sorted(BIG))}")


def plans(api: Api, name: str, **query: str) -> list[Plan]:
    def get() -> None:
        response = api.get(f"/v1/{name}?{urlencode(query)}")
        assert response.status_code == 200, response.content

    return plans_of(get)


def test_no_list_scans_or_reads_many_rows(crowd: tuple[Api, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """As one test: the rows take seconds to make."""
    api, model = crowd
    monkeypatch.setattr(search, "LOOKED_AT", 500)
    monkeypatch.setattr(search, "FEW", 100)
    one = Run.objects.order_by("pk")[ROWS // 2]
    for name, own in (("batches", "target_id"), ("runs", "model_id")):
        # Along an index: a page and one row more, for each of the walks that are joined.
        for q, sort_by, walks in (
            ("", "created_at:desc", 1),
            ("", "created_at:asc", 1),
            ("", "completed_at:desc", 6 if name == "batches" else 1),
            ("", "completed_at:asc,created_at:desc", 6 if name == "batches" else 1),
            ("status_code:failed", "created_at:desc", 1),
            ("status_code:queued", "created_at:asc", 1),
            ("NOT status_code.IN:(succeeded,running)", "created_at:desc", 4),
            ("created_at>2026-03-01 AND created_at<2026-03-02", "created_at:asc", 1),
        ):
            for plan in plans(api, name, q=q, sort_by=sort_by):
                assert plan.scans == (), (q, sort_by, plan)
                assert plan.rows <= walks * (PAGE + 1) + 1, (q, sort_by, plan)
        if name == "batches":
            for q, sort_by, walks in (
                ("status_code.IN:(failed,canceled) AND completed_at<2026-03-01", "completed_at:desc", 2),
                (f"{own}:{model.pk}", "created_at:desc", 6),
                (f"model:{model} AND status_code:failed", "created_at:desc", 1),
                ("model:no/such", "created_at:desc", 6),
            ):
                for plan in plans(api, name, q=q, sort_by=sort_by):
                    assert plan.scans == (), (q, sort_by, plan)
                    assert plan.rows <= walks * (PAGE + 1) + 1, (q, sort_by, plan)
        # Looked up: the rows that there are.
        for q, rows in (
            (f"id:{one.pk}", 1),
            ("client_ref:sku-501", 1),
            ("client_ref:nobody", 1),
            ("metadata.n:501", 1),
            ("metadata.n:501 AND status_code:succeeded AND NOT source_code:admin", 1),
            ("metadata.n:501 OR status_code:failed", PAGE + 2),
            (f"replay_of:{one.pk}", 1),
        ):
            for plan in plans(api, name, q=q):
                assert plan.scans == (), (q, plan)
                assert plan.rows <= rows, (q, plan)
        # Walked: so many rows and no more, even if none matches.
        for q in (
            "source_code:admin",
            "model:no/such AND source_code:api",
            "NOT metadata.env:prod",
            "NOT client_ref:same AND status_code:succeeded",
            "client_ref:same AND NOT status_code:succeeded",
            "created_at<2026-04-01 AND completed_at>2026-06-01",
        ):
            for plan in plans(api, name, q=q):
                assert plan.scans == (), (q, plan)
                assert plan.rows <= 502, (q, plan)
    for plan in plans(api, "batches/any/items"):
        assert plan.scans == (), plan
        assert plan.rows <= 502, plan


def test_a_page_in_the_middle_reads_no_more_than_the_first(crowd: tuple[Api, Model]) -> None:
    api, _ = crowd
    for sort_by in ("created_at:desc", "created_at:asc", "completed_at:desc", "completed_at:asc"):
        order = ordering.parse(sort_by, RUNS.sortable, RUNS.name)
        cursor = order.encode(order.key(Run.objects.order_by("pk")[ROWS // 2]))
        for back in ("false", "true"):
            (plan,) = plans(api, "runs", sort_by=sort_by, limit="500", pq=cursor, from_prev=back)
            assert plan.scans == (), (sort_by, plan)
            assert plan.rows <= 501, (sort_by, plan)


def test_what_is_common_among_others_is_looked_up_where_it_is_rare(crowd: tuple[Api, Model]) -> None:
    """Half of all runs are called `same`, says the planner, so one need not look far. Of this customer's only the oldest is."""
    other, model = Api(), crowd[1]
    make_many(organization=other.organization, model=model, rows=ROWS - 1)  # not the same ids
    own = Run.objects.filter(organization=other.organization)
    own.update(client_ref="another")
    oldest = own.order_by("created_at")[0]
    own.filter(pk=oldest.pk).update(client_ref="same")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE batches_run")
    for plan in plans(other, "runs", q="client_ref:same"):
        assert plan.scans == (), plan
        assert plan.rows <= 1, plan
