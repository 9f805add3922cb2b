"""`GET /v1/batches/{batch_id}/results`: JSON Lines and CSV, ordered, streamed, with URLs that open."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.test import Client

from batches import engine, lifecycle
from batches.api.results import COLUMNS, csv_lines
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from models_registry.models import Model
from tests.conftest import Api
from tests.contract.checks import assert_error
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db
CountQueries = Callable[[], Any]


@pytest.fixture
def model() -> Model:
    """What its items hold comes out as files of text."""
    return make_model(price=Decimal("0.25"))


def results(api: Api, batch: Batch, query: str = "", **headers: str) -> tuple[Any, bytes]:
    """The answer and its whole body."""
    response = api.get(f"/v1/batches/{batch.pk}/results{query}", **headers)
    assert response.status_code == 200
    return response, b"".join(response.streaming_content)


def json_lines(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(b"}\n")
    return [json.loads(line) for line in body[:-1].split(b"\n")]


def csv_rows(body: bytes) -> list[list[str]]:
    return list(csv.reader(StringIO(body.decode(), newline=""), strict=True))


@pytest.fixture
def mixed(api: Api) -> tuple[Batch, list[str]]:
    """Five items, one of each status that a client may meet. Returns the batch and the ids of its runs."""
    batch, handles = make_batch(
        organization=api.organization,
        model=make_model(price=Decimal("0.25")),
        items=[{"text": "a", "client_ref": reference} for reference in ("sku-1", 'a "b", c\nd', "ü", "-5")] + [{}],
    )
    runs = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=4)
    lifecycle.begin_runs(runs=runs)
    done, failed, canceled, _ = runs
    output = {"outputs": [], "seed": 7, "timing": None, "nsfw_detected": None}
    lifecycle.settle(
        settlements=[
            Settlement(done.id, 1, RunStatus.SUCCEEDED, output=json.dumps(output)),
            Settlement(failed.id, 1, RunStatus.FAILED, None, "EXECUTION_FAILED", '=No, "never".', "execute"),
            Settlement(canceled.id, 1, RunStatus.CANCELED),
        ]
    )
    return batch, [str(handle.run_id) for handle in handles]


def test_json_lines_have_every_item_in_order_as_it_is_now(api: Api, mixed: tuple[Batch, list[str]]) -> None:
    batch, runs = mixed
    response, body = results(api, batch)
    assert json_lines(body) == [
        {
            "sequence_index": index,
            "client_ref": reference,
            "run_id": runs[index],
            "status_code": status,
            "cost": cost,
            "output": output,
            "error": error,
        }
        for index, (reference, status, cost, output, error) in enumerate(
            [
                (
                    "sku-1",
                    "succeeded",
                    "0.25",
                    {"outputs": [], "seed": 7, "timing": None, "nsfw_detected": None},
                    None,
                ),
                (
                    'a "b", c\nd',
                    "failed",
                    None,
                    None,
                    {"code": "EXECUTION_FAILED", "message": '=No, "never".', "stage_code": "execute"},
                ),
                ("ü", "canceled", None, None, None),
                ("-5", "running", None, None, None),
                (None, "queued", None, None, None),
            ]
        )
    ]
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert response.headers["Content-Disposition"] == f'attachment; filename="batch-{batch.pk}.jsonl"'
    assert (response.headers["Cache-Control"], "Content-Length" in response.headers) == ("private, no-cache", False)
    assert results(api, batch, "?format=jsonl")[1] == body


def test_csv_has_the_same_in_flat_columns_and_runs_in_no_spreadsheet(api: Api, mixed: tuple[Batch, list[str]]) -> None:
    batch, runs = mixed
    response, body = results(api, batch, "?format=csv")
    assert csv_rows(body) == [
        list(COLUMNS),
        ["0", "sku-1", runs[0], "succeeded", "0.25", "", "", "", "", ""],
        ["1", 'a "b", c\nd', runs[1], "failed", "", "EXECUTION_FAILED", '\'=No, "never".', "execute", "", ""],
        ["2", "ü", runs[2], "canceled", "", "", "", "", "", ""],
        ["3", "'-5", runs[3], "running", "", "", "", "", "", ""],
        ["4", "", runs[4], "queued", "", "", "", "", "", ""],
    ]
    # RFC 4180: CRLF between records, quotes doubled.
    assert body.split(b"\r\n")[2].startswith(b'1,"a ""b"", c\nd",')
    assert body.endswith(b"\r\n")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert response.headers["Content-Disposition"] == f'attachment; filename="batch-{batch.pk}.csv"'


def test_urls_are_signed_anew_and_open(api: Api, model: Model) -> None:
    batch, _ = make_batch(organization=api.organization, model=model, items=[{"text": "a"}, {"text": "b"}])
    engine.execute(provider_id=Run.objects.all()[0].provider_id)
    first, second = [line["output"]["outputs"] for line in json_lines(results(api, batch)[1])]
    _, *rows = csv_rows(results(api, batch, "?format=csv")[1])
    assert [len(first), len(second)] == [1, 1]
    for row, outputs in zip(rows, (first, second), strict=True):
        assert row[COLUMNS.index("output_url")].split("?")[0] == outputs[0]["url"].split("?")[0]
        assert Client().get(row[COLUMNS.index("output_urls")]).getvalue() in (b"a", b"b")


def test_several_outputs_of_an_item_stand_in_one_cell_the_first_in_one_of_its_own() -> None:
    urls = ["https://shop.example/1?a=b", "https://shop.example/2"]
    result = {
        "sequence_index": 0,
        "client_ref": "a",
        "run_id": "r",
        "status_code": "succeeded",
        "cost": "0.10",
        "output": {"outputs": [{"url": url} for url in urls]},
        "error": None,
    }
    _, row = csv_rows(b"".join(csv_lines([result])))
    assert row[-2:] == [urls[0], " ".join(urls)]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n@x", "  =1", "＝1", "＋1", "－1", "＠x"]
)
def test_what_a_spreadsheet_would_run_is_made_a_text(api: Api, text: str) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{"client_ref": text}])
    assert csv_rows(results(api, batch, "?format=csv")[1])[1][1] == f"'{text}"
    assert json_lines(results(api, batch)[1])[0]["client_ref"] == text


@pytest.mark.parametrize("text", ["a=1", "'", "1-2", "", " ", "sku@shop", "0"])
def test_other_texts_stay_as_they_are(api: Api, text: str) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{"client_ref": text}])
    assert csv_rows(results(api, batch, "?format=csv")[1])[1][1] == text


@pytest.mark.parametrize("text", ["xlsx", "", "JSONL", "csv,jsonl"])
def test_another_format_is_400(api: Api, text: str) -> None:
    batch, _ = make_batch(organization=api.organization)
    response = api.get(f"/v1/batches/{batch.pk}/results?format={text}")
    assert_error(response, 400, "BAD_REQUEST")
    assert response.json()["message"] == "format must be one of: jsonl, csv."


@pytest.mark.parametrize("name", ["jsonl", "csv"])
@pytest.mark.parametrize("items", [1, 100])
def test_it_costs_three_statements_and_is_sent_line_by_line(
    api: Api, count_queries: CountQueries, items: int, name: str
) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{"text": "a" * 1000}] * items)
    api.get("/v1/batches/x")  # writes when the key was last used
    with count_queries() as log:
        response = api.get(f"/v1/batches/{batch.pk}/results?format={name}")
        parts = list(response.streaming_content)
    assert len(log.captured_queries) == 3
    assert '"input"' not in log.captured_queries[-1]["sql"]
    assert len(parts) == items + (name == "csv")


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_it_is_compressed_as_it_is_sent(api: Api, name: str) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{"client_ref": "a" * 200}] * 100)
    _, plain = results(api, batch, f"?format={name}")
    response, small = results(api, batch, f"?format={name}", **{"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Vary"] == "Authorization, Accept-Encoding"
    assert gzip.decompress(small) == plain
    assert len(small) < len(plain) / 3


def test_head_tells_of_the_file(api: Api) -> None:
    batch, _ = make_batch(organization=api.organization)
    response = api.client.head(f"/v1/batches/{batch.pk}/results?format=csv", headers=api.headers())
    assert response.status_code == 200
    assert response.headers["Content-Disposition"] == f'attachment; filename="batch-{batch.pk}.csv"'


def test_an_unknown_batch_is_404(api: Api) -> None:
    assert_error(api.get("/v1/batches/x/results"), 404, "BATCH_NOT_FOUND")
