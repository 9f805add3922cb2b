"""Fake ComfyUI servers, each a process of its own, and a model that runs on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from models_registry.models import Endpoint, Model, ModelInput, ProviderLink, Template
from tests.e2e.processes import ROOT
from tests.factories import make_model, make_provider

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "bench"}},
}


@contextmanager
def fake_server(seconds: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    argv = [sys.executable, "-m", "tests.providers.fake_comfyui", "--seconds", str(seconds)]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def make_comfy_model(urls: list[str], *, places: int) -> Model:
    provider = make_provider(adapter_code="comfyui", config={}, run_timeout=3600)
    for url in urls:
        Endpoint.objects.create(provider=provider, base_url=url, max_in_flight=places)
    model = make_model(provider=provider, inputs=(), is_template_backed=False)
    ModelInput.objects.create(model=model, name="color", variable_type_code="integer")
    template = Template.objects.create(
        name=f"bench-{uuid4()}", body=GRAPH, bindings=[{"input": "color", "target": "/1/inputs/color"}]
    )
    ProviderLink.objects.filter(model=model).update(template=template)
    return model
