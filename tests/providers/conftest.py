"""Fixtures that several modules of adapter tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from providers.comfyui import connection as connection_module
from providers.comfyui import submissions
from providers.comfyui.connection import ComfyConnection
from providers.comfyui.health import StallWatch
from providers.comfyui.uploads import UploadCache
from tests.providers.comfyui import connect
from tests.providers.fake_comfyui import FakeComfyUI


@pytest.fixture(params=["A", "B"])
def comfy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeComfyUI]:
    """A fake ComfyUI of each generation, whose prompts take no time."""
    # What a process remembers goes by the URL, and the port may have been another server's before.
    monkeypatch.setattr(submissions, "UPLOADS", UploadCache())
    monkeypatch.setattr(connection_module, "STALLS", StallWatch())
    with FakeComfyUI(generation=request.param, seconds_per_prompt=0) as fake:
        yield fake


@pytest.fixture
def connection(comfy: FakeComfyUI) -> Iterator[ComfyConnection]:
    """The adapter's connection to that fake."""
    connection = connect(comfy.url)
    yield connection
    connection.close()
