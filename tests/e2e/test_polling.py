"""What a client sees of polling and of results through gunicorn, byte by byte."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from batches.models import Batch
from tests.conftest import Api
from tests.e2e.processes import Stack, running_stack
from tests.factories import end_batch, make_batch

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running_stack(tmp_path) as stack:
        stack.web()
        yield stack


def test_bodies_and_lengths_are_what_http_wants(stack: Stack, api: Api) -> None:
    batch: Batch = end_batch(make_batch(organization=api.organization, items=[{}] * 100)[0])
    # One connection for everything: a body too many, or a length that is wrong, would garble the next answer.
    connection = http.client.HTTPConnection(urlsplit(stack.url).netloc, timeout=30)

    def ask(method: str, tail: str = "", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/v1/batches/{batch.pk}{tail}", headers=api.headers(**named))
        response = connection.getresponse()
        return response, response.read()

    response, whole = ask("GET")
    etag = response.headers["ETag"]
    assert (response.status, int(response.headers["Content-Length"])) == (200, len(whole))

    response, body = ask("GET", If_None_Match=etag, Accept_Encoding="gzip")
    assert (response.status, body, response.headers["ETag"]) == (304, b"", etag)
    assert (response.headers["Content-Length"], response.headers["Content-Type"]) == (None, None)

    response, body = ask("HEAD")
    assert (response.status, body, int(response.headers["Content-Length"])) == (200, b"", len(whole))

    response, body = ask("GET", Accept_Encoding="gzip")
    assert (response.headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", whole)
    assert int(response.headers["Content-Length"]) == len(body)

    response, lines = ask("GET", "/results")
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert [json.loads(line)["sequence_index"] for line in lines.splitlines()] == list(range(100))
    response, body = ask("GET", "/results", Accept_Encoding="gzip")
    assert gzip.decompress(body) == lines

    for tail in ("/results?format=csv", "/events"):
        response, body = ask("HEAD", tail)
        assert (response.status, body) == (200, b"")
    response, body = ask("GET", "/events")
    assert (response.status, body.count(b"event: ")) == (200, 2)
    response, body = ask("GET", "/events", Last_Event_ID="end")
    assert (response.status, body) == (204, b"")
    response, body = ask("GET")
    assert body == whole
    connection.close()
