"""A great many rows at once, made by PostgreSQL itself, and what it does to find some of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from batches.models import Run
from models_registry.models import Model
from tests.factories import make_batch

BIG = {"batches_batch", "batches_run", "batches_batchitem"}


# Of a million: 1,000 failed, 10 canceled, the rest succeeded; 100 replays; half have the client_ref `same`, the others one of
# their own; metadata {"n": its number, "env": "prod"}, on the runs too; ended a minute after they began. Spread over 230 days.
_NUMBERS = """
SELECT n, (lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid
       AS id, created_at, created_at + interval '1 minute' AS completed_at,
       CASE WHEN n %% 1000 = 7 THEN 'failed' WHEN n %% 100000 = 9 THEN 'canceled' ELSE 'succeeded' END AS status_code,
       CASE WHEN n %% 2 = 0 THEN 'same' ELSE 'sku-' || n END AS client_ref,
       CASE WHEN n %% 10000 = 5 THEN 'replay' ELSE 'api' END AS source_code,
       jsonb_build_object('n', n, 'env', 'prod') AS metadata
  FROM (SELECT n, timestamptz '2026-01-01Z' + n * interval '230 days' / %(rows)s AS created_at
          FROM generate_series(1::bigint, %(rows)s) AS n) AS numbered
"""
_CHANGED = {
    "batches_batch": {
        "items_succeeded": "(made.status_code = 'succeeded')::int",
        "items_failed": "(made.status_code = 'failed')::int",
        "items_cancelled": "(made.status_code = 'canceled')::int",
    },
    "batches_run": {
        "batch_id": "made.id",
        "client_ref": "made.client_ref",
        "cost": "CASE WHEN made.status_code = 'succeeded' THEN 0.01 END",
        "failure_code": "CASE WHEN made.status_code = 'failed' THEN 'EXECUTION_FAILED' END",
    },
    "batches_batchitem": {"batch_id": "made.id", "run_id": "made.id", "client_ref": "made.client_ref"},
}
_MADE = ("id", "created_at", "completed_at", "status_code", "source_code", "metadata")


def make_many(*, organization: Organization, model: Model, rows: int) -> None:
    """So many ended batches of one run each, all of one organisation. What is not said above is as in a batch just made."""
    batch, (handle,) = make_batch(organization=organization, model=model)
    ids = {"batches_batch": batch.pk, "batches_run": handle.run_id, "batches_batchitem": handle.id}
    with connection.cursor() as cursor:
        for table, changed in _CHANGED.items():
            columns = [column.name for column in connection.introspection.get_table_description(cursor, table)]
            chosen = ", ".join(
                changed.get(name, f"made.{name}" if name in _MADE else f"one.{name}") for name in columns
            )
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen}"  # noqa: S608 our own names
                f" FROM {table} AS one, ({_NUMBERS}) AS made WHERE one.id = %(id)s",
                {"rows": rows, "id": ids[table]},
            )
        Run.objects.filter(pk=handle.run_id).delete()
        batch.delete()
        for table in _CHANGED:
            cursor.execute(f"VACUUM ANALYZE {table}")


@dataclass(frozen=True)
class Plan:
    """What PostgreSQL did for one statement.

    `scans`: tables of BIG that it scanned. `rows`: the most a node looked at, not counting entries of an
    index that it only noted.
    """

    sql: str
    scans: tuple[str, ...]
    indexes: tuple[str, ...]
    rows: int
    milliseconds: float


def plans_of(work: Callable[[], Any]) -> list[Plan]:
    """Of the statements that some work makes of tables in BIG, run again to see."""
    with CaptureQueriesContext(connection) as log:
        work()
    statements = [query["sql"] for query in log.captured_queries]
    found = []
    for sql in statements:
        if not any(table in sql for table in BIG):
            continue
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            plan = cursor.fetchone()[0]
        plan = json.loads(plan) if isinstance(plan, str) else plan
        nodes = list(_nodes(plan[0]["Plan"]))
        found.append(
            Plan(
                sql=sql,
                scans=tuple(
                    node["Relation Name"]
                    for node in nodes
                    if node["Node Type"] in ("Seq Scan", "Parallel Seq Scan") and node["Relation Name"] in BIG
                ),
                indexes=tuple(node["Index Name"] for node in nodes if "Index Name" in node),
                rows=max(
                    node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
                    for node in nodes
                    if node["Node Type"] != "Bitmap Index Scan"
                ),
                milliseconds=plan[0]["Execution Time"] + plan[0]["Planning Time"],
            )
        )
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)
