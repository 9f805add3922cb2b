"""Creating a batch over HTTP, and the floor below it."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from django.db import connection

from batches.models import Batch
from runflow.lib.ids import uuid7
from tests.bench.report import milliseconds, row
from tests.e2e.processes import running_stack
from tests.factories import make_key, make_model

ITEMS = 100
TARGET = 2.0


class RawInsert:
    """The floor: the rows of the last POST once more, by the fastest statements known, without any code of ours around.

    Prepared before the clock starts: columns as arrays, `unnest`, one statement a table, one transaction, plain psycopg.
    """

    TABLES = (("batches_batch", "id"), ("batches_run", "batch_id"), ("batches_batchitem", "batch_id"))

    def __init__(self) -> None:
        batch_id = Batch.objects.order_by("-id").values_list("pk", flat=True)[0]
        fresh: dict[UUID, UUID] = {}
        self.statements: list[tuple[str, list[list[Any]]]] = []
        with connection.cursor() as cursor:
            for table, key in self.TABLES:
                cursor.execute(
                    "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
                    " WHERE a.attrelid = %s::regclass AND a.attnum > 0 ORDER BY a.attnum",
                    [table],
                )
                columns = cursor.fetchall()
                cursor.execute(f"SELECT * FROM {table} WHERE {key} = %s ORDER BY id", [batch_id])  # noqa: S608 named above
                values = [list(column) for column in zip(*cursor.fetchall(), strict=True)]
                for (name, _), column in zip(columns, values, strict=True):
                    if name in ("id", "batch_id", "run_id"):
                        column[:] = [fresh.setdefault(value, uuid7()) for value in column]
                arrays = ", ".join(
                    f"%s::text[]::{kind}[]" if kind == "jsonb" else f"%s::{kind}[]" for _, kind in columns
                )
                names = ", ".join(name for name, _ in columns)
                self.statements.append((f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays})", values))  # noqa: S608

    def __call__(self) -> None:
        raw = connection.connection
        with raw.transaction(), raw.cursor() as cursor:
            for statement, values in self.statements:
                cursor.execute(statement, values)


def bench_create(rounds: int) -> bool:
    _, key = make_key()
    model = make_model(
        inputs=(
            {"name": "prompt", "variable_type_code": "string", "is_required": True},
            {"name": "image_url", "variable_type_code": "image", "is_required": True},
            {
                "name": "resolution",
                "variable_type_code": "string",
                "validator_code": "one_of",
                "validator_attrs": {"values": ["1K", "2K", "4K"]},
                "default_behavior_code": "use_default",
                "default_value": "1K",
            },
            {
                "name": "seed",
                "variable_type_code": "integer",
                "validator_code": "range",
                "validator_attrs": {"min": 0, "max": 1_000_000},
            },
        )
    )
    items = [
        {
            "prompt": f"a red mug, number {n}",
            "image_url": f"https://shop.example/{n}.jpg",
            "seed": n,
            "client_ref": f"{n}",
        }
        for n in range(ITEMS)
    ]
    body = json.dumps({"input": items, "metadata": {"order": 1}}).encode()
    posted, keyed, raw = [], [], []
    with tempfile.TemporaryDirectory() as logs, running_stack(Path(logs)) as stack:
        stack.web()
        client = httpx.Client(
            base_url=stack.url,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            trust_env=False,
            timeout=30,
        )

        def post(headers: dict[str, str]) -> None:
            response = client.post(f"/v1/models/{model}/batches", content=body, headers=headers)
            if response.status_code != 201:
                raise SystemExit(f"POST answered {response.status_code}: {response.text[:500]}")

        for number in range(10):
            post({"Idempotency-Key": f"warm-{number}"})
        for number in range(rounds):  # interleaved, so that all three meet the same machine
            posted.append(milliseconds(lambda: post({})))
            keyed.append(milliseconds(lambda number=number: post({"Idempotency-Key": f"k{number}"})))  # type: ignore[misc]
            raw.append(milliseconds(RawInsert()))
        client.close()
    floor = statistics.median(raw)
    ratio, ratio_keyed = statistics.median(posted) / floor, statistics.median(keyed) / floor
    row(f"raw SQL: one batch, {ITEMS} runs, {ITEMS} items", raw, "the floor")
    row(f"POST of {ITEMS} items over HTTP", posted, f"{ratio:.2f} x the floor (target <= {TARGET:.1f})")
    row("the same with an Idempotency-Key", keyed, f"{ratio_keyed:.2f} x the floor")
    return ratio <= TARGET
