"""Speaking to the fake ComfyUI without the adapter."""

from __future__ import annotations

import uuid
from typing import Any

import httpx

from tests.providers.comfyui import Graph, small_graph, wait_until_idle
from tests.providers.fake_comfyui import FakeComfyUI
from tests.threads import wait_until


def post(fake: FakeComfyUI, path: str, body: Any) -> httpx.Response:
    return httpx.post(fake.url + path, json=body, trust_env=False)


def get(fake: FakeComfyUI, path: str, **params: str) -> httpx.Response:
    return httpx.get(fake.url + path, params=params, trust_env=False)


def submit(fake: FakeComfyUI, graph: Graph, **more: Any) -> str:
    """Queue a graph; its id."""
    response = post(fake, "/prompt", {"prompt": graph, "prompt_id": str(uuid.uuid4()), "client_id": "c", **more})
    assert (response.status_code, response.json()["node_errors"]) == (200, {})
    return str(response.json()["prompt_id"])


def history(fake: FakeComfyUI, prompt_id: str) -> Any:
    return get(fake, f"/history/{prompt_id}").json().get(prompt_id)


def run(fake: FakeComfyUI, graph: Graph, **more: Any) -> Any:
    """A graph's history entry."""
    prompt_id = submit(fake, graph, **more)
    wait_until_idle(fake)
    return history(fake, prompt_id)


def interrupted(fake: FakeComfyUI) -> Any:
    fake.hold("1")
    prompt_id = submit(fake, small_graph(colour=0x123456))
    wait_until(lambda: fake.running_id == prompt_id, what="the prompt to run")
    assert post(fake, "/interrupt", {"prompt_id": prompt_id}).status_code == 200
    fake.release()
    wait_until_idle(fake)
    return history(fake, prompt_id)


def link(node_id: str, slot: int = 0) -> list[Any]:
    return [node_id, slot]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
