"""`/docs` and `/docs/redoc` show the document from this server's own files."""

from __future__ import annotations

import re
from contextlib import closing

import pytest
from django.test import Client

PAGES = pytest.mark.parametrize("page", ["/docs", "/docs/redoc"])
# What a page loads by itself: scripts, styles, pictures; and where its script finds the document.
_LOADED = re.compile(r'(?:src|href)="([^"]*)"')


@PAGES
def test_a_page_needs_no_key_and_shows_the_document(client: Client, page: str) -> None:
    response = client.get(page)
    text = response.content.decode()
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<title>Runflow batch API</title>" in text
    assert '"/v1/openapi.json"' in text


@PAGES
def test_everything_that_a_page_loads_is_here(client: Client, page: str) -> None:
    loaded = _LOADED.findall(client.get(page).content.decode())
    assert loaded
    for address in loaded:
        assert address.startswith("/static/drf_spectacular_sidecar/")
        with closing(client.get(address)) as file:
            assert file.status_code == 200


@PAGES
def test_a_browser_would_load_nothing_from_elsewhere(client: Client, page: str) -> None:
    policy = client.get(page).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; ")
    assert re.findall(r"https?:|\*", policy) == []
