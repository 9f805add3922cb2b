"""The manifest of docs/providers/comfyui.md, as it stands there, against a server; and the page's other promises in numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models_registry.manifest import load_manifest, read_manifest
from models_registry.templates import check_bindings, render
from providers.base import EndpointConfig, Job, Media, ProviderConfig
from providers.comfyui.adapter import ComfyAdapter
from providers.comfyui.config import MAX_OUTPUT_BYTES, STALL_SHARE, TIMEOUT, UPLOAD_SUBFOLDER
from providers.comfyui.connection import GRACE_SECONDS, IDLE_SECONDS, LOOK_SECONDS
from tests.providers.comfyui import finished, run
from tests.providers.fake_comfyui import FakeComfyUI
from tests.providers.fake_comfyui.nodes import png

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "providers" / "comfyui.md").read_text(encoding="utf-8")


def test_the_example_runs_as_it_stands(comfy: FakeComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_TOKEN", "s3cret")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    manifest, faults = read_manifest(load_manifest(text), known_adapters={"comfyui"})
    assert faults == []
    (provider,), (model,) = manifest.providers, manifest.models
    assert [(endpoint.base_url, endpoint.values) for endpoint in provider.endpoints] == [
        ("http://10.0.0.7:8188", {"max_in_flight": 2}),
        ("http://10.0.0.8:8188", {"max_in_flight": 2}),
    ]
    assert model.links is not None
    (link,) = model.links
    assert link.template is not None
    body, bindings = link.template.body, link.template.bindings
    assert check_bindings(body, bindings, {"image_url", "width"}, {"image_url"}) == []

    config = ProviderConfig(provider.code, provider.values["run_timeout"], provider.values["config"])
    connection = ComfyAdapter(config).connect(EndpointConfig("endpoint-1", comfy.url))
    job = Job(
        run_id="run-1",
        attempt=1,
        body=render(body, bindings, {"image_url": "https://shop.example/a.png", "width": 64}),
        fetch=lambda url: Media(png(20, 10, 0x336699), "image/png"),
        media=("/1/inputs/image",),
        job_id="0190a1b2-0000-7000-8000-000000000001",
    )
    (artifact,) = finished(run(connection, job)).artifacts
    connection.close()
    assert (artifact.width, artifact.height) == (64, 64)
    assert list(comfy.views) == ["runflow/run-1/1/inverted_00001_.png"]
    assert comfy.headers["authorization"] == "Bearer s3cret"


def test_the_page_gives_the_defaults_that_the_code_has() -> None:
    defaults = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", PAGE, re.MULTILINE))
    assert defaults == {
        "headers": "{}",
        "timeout": f"{TIMEOUT:.0f}",
        "stall_seconds": f"{STALL_SHARE} × `run_timeout`",
        "upload_subfolder": f"`{UPLOAD_SUBFOLDER}`",
        "max_output_bytes": str(MAX_OUTPUT_BYTES),
    }
    for sentence in (
        f"knows nowhere, {GRACE_SECONDS:.0f} seconds after its hand-over",
        f"for {IDLE_SECONDS:.0f} seconds none has run",
        f"every {LOOK_SECONDS:.0f} seconds at most",
    ):
        assert sentence in PAGE
