"""`GET /v1/batches/{batch_id}/results`: what became of each item, a line each, to be kept as a file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from typing import Any

from django.http import StreamingHttpResponse
from rest_framework.request import Request

from accounts.api.authentication import caller_of
from accounts.models import Scope
from batches.api import operations
from batches.api.views import BatchNotFound
from batches.models import Batch, BatchItem
from batches.output import error_body, output_body
from runflow.lib import errors, jsonlib
from runflow.lib.money import money
from runflow.lib.views import ApiView, parse_uuid

COLUMNS = (
    "sequence_index",
    "client_ref",
    "run_id",
    "status_code",
    "cost",
    "error_code",
    "error_message",
    "error_stage_code",
    "output_url",
    "output_urls",
)
# What a spreadsheet takes for the beginning of a formula, the wide forms of East Asian keyboards too (OWASP, "CSV Injection").
_FORMULA = tuple("=+-@＝＋－＠")


class BatchResultsView(ApiView):
    """`GET /v1/batches/{batch_id}/results`"""

    scopes = {"GET": Scope.BATCHES_READ}
    documented = {"GET": operations.GET_BATCH_RESULTS}

    def get(self, request: Request, batch_id: str) -> StreamingHttpResponse:
        name = request.query_params.get("format", "jsonl")
        if name not in _FORMATS:
            raise errors.BadRequest(f"format must be one of: {', '.join(_FORMATS)}.")
        content_type, lines = _FORMATS[name]
        parsed = parse_uuid(batch_id)
        if parsed is None or not Batch.objects.visible_to(caller_of(request).organization).filter(pk=parsed).exists():
            raise BatchNotFound
        # Read before the first byte is sent: all of one moment, a database that is away is still 503, and a client that
        # takes its time holds no cursor. The lines are written, and their URLs signed, as they are taken.
        rows = list(BatchItem.objects.filter(batch=parsed).order_by("sequence_index").values(*_READ))
        return StreamingHttpResponse(
            lines(result_body(row) for row in rows),
            content_type=content_type,
            headers={
                "Content-Disposition": f'attachment; filename="batch-{parsed}.{name}"',
                "Cache-Control": "private, no-cache",
                "Vary": "Authorization",
            },
        )


_READ = (
    *("sequence_index", "client_ref", "run_id", "run__status_code", "run__cost", "run__output"),
    *("run__failure_code", "run__failure_message", "run__failure_stage_code"),
)


def result_body(row: dict[str, Any]) -> dict[str, Any]:
    """One item as it is now, with URLs signed anew."""
    return {
        "sequence_index": row["sequence_index"],
        "client_ref": row["client_ref"],
        "run_id": row["run_id"],
        "status_code": row["run__status_code"],
        "cost": money(row["run__cost"]),
        "output": output_body(row["run__output"]),
        "error": error_body(
            status_code=row["run__status_code"],
            code=row["run__failure_code"],
            message=row["run__failure_message"],
            stage_code=row["run__failure_stage_code"],
        ),
    }


def jsonl_lines(results: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """JSON Lines: an object each, exactly as it is."""
    for result in results:
        yield jsonlib.dumps(result) + b"\n"


def csv_lines(results: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """RFC 4180 in UTF-8, with a header line. Null is an empty cell."""
    line = StringIO(newline="")
    writer = csv.DictWriter(line, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for result in results:
        yield _take(line)
        writer.writerow({column: _harmless(value) for column, value in _flat(result).items()})
    yield _take(line)


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    error = result["error"] or {}
    urls = [output["url"] for output in (result["output"] or {"outputs": []})["outputs"]]
    return result | {
        "error_code": error.get("code"),
        "error_message": error.get("message"),
        "error_stage_code": error.get("stage_code"),
        "output_url": urls[0] if urls else None,
        # No URL holds a space.
        "output_urls": " ".join(urls),
    }


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front, which makes it a text there.

    Whoever opens the file need not be who chose the `client_ref`. Programs that need it unchanged read JSON Lines.
    """
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(_FORMULA) else value


def _take(line: StringIO) -> bytes:
    text = line.getvalue()
    line.seek(0)
    line.truncate()
    return text.encode()


_FORMATS: dict[str, tuple[str, Callable[[Iterable[dict[str, Any]]], Iterator[bytes]]]] = {
    "jsonl": ("application/x-ndjson", jsonl_lines),
    "csv": ("text/csv; charset=utf-8; header=present", csv_lines),
}
