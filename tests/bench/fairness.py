"""Two tenants: one with a hundred thousand queued runs, the other with a single one."""

from __future__ import annotations

import time

from django.db import connection

from batches import lifecycle
from batches.models import Run
from tests.bench.report import line, row
from tests.factories import make_batch, make_model

QUEUED = 100_000
CLAIM = 8
ROUNDS = 50
MOST_GROWTH = 1.25


def claims(provider_id: object, rounds: int) -> list[float]:
    """Milliseconds of claims, each of which is given back."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        runs = lifecycle.claim_runs(provider_id=provider_id, limit=CLAIM)  # type: ignore[arg-type]
        times.append((time.perf_counter() - start) * 1000)
        assert len(runs) == CLAIM
        Run.objects.filter(pk__in=[run.id for run in runs]).update(
            status_code="queued", lease_expires_at=None, attempt=0, dispatched_at=None
        )
    return times


def bench_fairness() -> bool:
    model = make_model()
    make_batch(model=model, items=[{"text": str(n)} for n in range(100)])
    provider_id = Run.objects.filter(model=model)[0].provider_id
    claims(provider_id, 10)
    few = claims(provider_id, ROUNDS)
    with connection.cursor() as cursor:
        columns = ", ".join(str(field.column) for field in Run._meta.concrete_fields if field.column != "id")
        cursor.execute(
            f"INSERT INTO batches_run (id, {columns}) SELECT gen_random_uuid(), {columns}"  # noqa: S608 our own columns
            f" FROM batches_run, generate_series(1, {QUEUED // 100}) WHERE model_id = %s AND status_code = 'queued'",
            [model.pk],
        )
        cursor.execute("VACUUM ANALYZE batches_run")
    many = claims(provider_id, ROUNDS)
    growth = sorted(many)[ROUNDS // 2] / sorted(few)[ROUNDS // 2]
    _, (handle,) = make_batch(model=model)
    taken = 0
    while handle.run_id not in {run.id for run in lifecycle.claim_runs(provider_id=provider_id, limit=CLAIM)}:
        taken += 1
    row(f"claim of {CLAIM} runs, 100 queued", few)
    row(f"the same, {QUEUED} queued", many, f"{growth:.2f} x (target <= {MOST_GROWTH})")
    line(f"a second tenant's run behind {QUEUED}", f"in claim number {taken + 1} (target: 1)")
    Run.objects.all().delete()
    return growth <= MOST_GROWTH and taken == 0
