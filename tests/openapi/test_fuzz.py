"""Nothing that can be made up from the document gets an answer that the document does not have. `make fuzz` asks longer."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.conf import settings

from assets.models import Asset, AssetUpload
from batches.models import Batch, Run
from callbacks.services import create_secret
from tests.e2e.processes import Stack, running_stack
from tests.factories import end_batch, make_batch, make_key, make_model
from tests.openapi.fuzz import fuzz

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    broker = redis.Redis.from_url(settings.REDIS_URL)
    broker.flushdb()
    with running_stack(tmp_path) as stack:
        yield stack
    broker.flushdb()
    broker.close()


def test_made_up_requests_get_no_answer_that_the_document_does_not_have(
    stack: Stack, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    caller, key = make_key()
    organization = caller.organization
    model = make_model(owner="testing", slug="any")
    # One that has ended, some of it failed, so that it can be replayed and its callback sent again.
    batch, handles = make_batch(
        organization=organization,
        model=model,
        items=[{"text": "a", "client_ref": "a"}, {"text": "b"}],
        callback_url="https://receiver.invalid/done",
    )
    end_batch(batch, "succeeded", "failed")
    secret, _ = create_secret(organization=organization, label="a")
    asset = Asset.objects.create(
        organization=organization,
        name="a",
        storage_key="fuzz/a",
        asset_type="file",
        size_bytes=1,
        source_type="upload",
        mime_type="text/plain",
    )
    # A stream of a batch that goes on is over before the tool's patience is.
    stack.web(EVENT_STREAM_SECONDS="1")
    stack.worker()
    stack.beat()
    real = {
        "path.owner": model.owner,
        "path.slug": model.slug,
        "path.batch_id": str(batch.pk),
        "path.item_id": str(handles[0].id),
        "path.model_id": str(model.pk),
        "path.input_id": str(model.inputs.get().pk),
        "path.run_id": str(handles[0].run_id),
        "path.secret_id": str(secret.pk),
        "path.asset_id": str(asset.pk),
        "header.X-Organization-Id": str(organization.pk),
    }
    examples = request.config.getoption("--fuzz-examples")
    seed = request.config.getoption("--fuzz-seed") or random.randrange(2**32)
    reports = []
    for round_seed in range(seed, seed + request.config.getoption("--fuzz-rounds")):
        report = fuzz(url=stack.url, key=key, real=real, directory=tmp_path, max_examples=examples, seed=round_seed)
        sys.stdout.write(report.text)
        reports.append(report)
    assert all(report.is_clean for report in reports)
    # It did ask, and some of it was taken: nothing would be found in 404s alone.
    assert min(report.requests for report in reports) > 1000
    made = [Batch.objects.count(), Run.objects.filter(batch=None).count(), AssetUpload.objects.count()]
    assert min(made) > 1, made
    sys.stdout.write(f"{sum(report.requests for report in reports)} requests without a finding\n")
