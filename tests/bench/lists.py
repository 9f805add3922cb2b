"""Every list, filter and order with a million rows of one organisation, beside the same with a thousand."""

from __future__ import annotations

import statistics
import sys
from typing import Any
from urllib.parse import urlencode

from django.db import connection
from django.test import Client

from batches.models import Run
from models_registry.models import Model
from tests.bench.report import milliseconds
from tests.factories import make_key, make_model
from tests.many import BIG, Plan, make_many, plans_of

ROWS = 1_000_000
FEW_ROWS = 1000
ROUNDS = 30
# architecture.md section 10: of lists without a filter. What is looked up or walked finds more where there is more.
MOST_GROWTH = 1.25
# Rows that one node of a plan may read: LOOKED_AT, and a little.
MOST_ROWS = 21_000

Case = tuple[str, str]  # filter, order


def cases(model: Model) -> dict[str, list[Case]]:
    one = Run.objects.order_by("pk")[FEW_ROWS // 2]
    own = {"batches": f"target_id:{model.pk}", "runs": f"model_id:{model.pk}"}
    found: dict[str, list[Case]] = {}
    for name in ("batches", "runs"):
        found[name] = [
            ("", ""),
            ("", "created_at:asc"),
            ("", "completed_at:desc"),
            ("", "completed_at:asc"),
            ("", "created_at:desc,completed_at:asc"),
            ("status_code:succeeded", ""),
            ("status_code:failed", ""),
            ("status_code:queued", ""),
            ("NOT status_code:succeeded", ""),
            ("status_code:failed OR status_code:canceled", "completed_at:desc"),
            (own[name], ""),
            (f"model:{model}", "created_at:asc"),
            ("model:no/such", ""),
            (f"{own[name]} AND status_code:failed", ""),
            ("created_at>2026-04-01", ""),
            ("created_at>2026-04-01 AND created_at<2026-04-02", "created_at:asc"),
            ("completed_at>2026-04-01", ""),
            ("status_code:failed AND completed_at>2026-04-01", ""),
            (f"id:{one.pk}", ""),
            (f"id:{one.pk}", "completed_at:asc"),
            ("client_ref:sku-501", ""),
            ("client_ref.IN:(sku-501,sku-503)", "completed_at:desc"),
            ("client_ref:nobody", ""),
            ("metadata.n:501", ""),
            ("metadata.n:501 AND status_code:succeeded", "completed_at:desc"),
            ("metadata.n:501 OR status_code:failed", ""),
            ("metadata.n:0", ""),
            (f"replay_of:{one.pk}", ""),
            ("client_ref:same", ""),
            ("metadata.env:prod", ""),
            ("metadata.env:prod AND status_code:failed", ""),
            ("source_code:replay", ""),
            ("source_code:admin", ""),
            ("NOT metadata.env:prod", ""),
            ("created_at<2026-04-01 AND completed_at>2026-06-01", ""),
            ("status_code:failed AND NOT client_ref:same", ""),
        ]
    found["runs"] += [(f"batch_id:{one.batch_id}", "")]
    return found


def bench_lists(rows: int) -> bool:
    caller, key = make_key()
    client = Client(headers={"Authorization": f"Bearer {key}"})
    model = make_model()
    make_many(organization=caller.organization, model=model, rows=FEW_ROWS)
    small = {name: [measured(client, path_of(name, case)) for case in each] for name, each in cases(model).items()}
    empty()
    took = milliseconds(lambda: make_many(organization=caller.organization, model=model, rows=rows))
    sys.stdout.write(f"  {rows} batches, runs and items, made in {took / 1000:.0f} s\n")
    is_good = True
    for name, each in cases(model).items():
        sys.stdout.write(f"  GET /v1/{name:<8} {'':79} rows     ms   growth  indexes\n")
        for case, times in zip(each, small[name], strict=True):
            is_good &= report(client, name, case, times)
    empty()
    return is_good


def empty() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(sorted(BIG))}")


def report(client: Client, name: str, case: Case, before: list[float]) -> bool:
    path = path_of(name, case)
    plans = plans_of(lambda: client.get(path))
    now = measured(client, path)
    # The fastest of each: the two were minutes apart, and whatever else the machine did meanwhile only made them slower.
    growth = min(now) / min(before)
    rows = max(plan.rows for plan in plans)
    faults = faults_of(plans, rows, growth, case)
    indexes = sorted({index for plan in plans for index in plan.indexes})
    sys.stdout.write(
        f"    {case[0][:58]:<58} {case[1]:<32} {rows:>6} {statistics.median(now):6.1f} {growth:7.2f}  "
        f"{', '.join(indexes)}{'   ' + '; '.join(faults) if faults else ''}\n"
    )
    return not faults


def faults_of(plans: list[Plan], rows: int, growth: float, case: Case) -> list[str]:
    faults = [f"SCANS {', '.join(plan.scans)}" for plan in plans if plan.scans]
    if rows > MOST_ROWS:
        faults.append("TOO MANY ROWS")
    if case[0] == "" and growth > MOST_GROWTH:
        faults.append("GROWS")
    return faults


def path_of(name: str, case: Case) -> str:
    query = {key: value for key, value in (("q", case[0]), ("sort_by", case[1])) if value}
    return f"/v1/{name}?{urlencode(query)}"


def measured(client: Client, path: str) -> list[float]:
    def get() -> None:
        response: Any = client.get(path)
        if response.status_code != 200:
            raise SystemExit(f"{path} answered {response.status_code}: {response.content[:500]!r}")

    get()
    return [milliseconds(get) for _ in range(ROUNDS)]
