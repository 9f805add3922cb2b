"""The fake against the recorded exchanges: a test against it is worth what it is like the real one."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.providers.comfyui import VERSIONS, Graph, empty_image, sample, save_image, small_graph
from tests.providers.comfyui_http import interrupted, link, node, post, run
from tests.providers.fake_comfyui import FakeComfyUI


def shape(value: Any) -> Any:
    """Names and types, without the values."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def scale(**inputs: Any) -> dict[str, Any]:
    return node("ImageScale", **{"image": link("1"), "width": 8, "height": 8, "crop": "disabled", **inputs})


WRONG_GRAPHS: dict[str, Graph] = {
    "20": sample("graph-20_bad_value_too_big"),
    "21": {"1": empty_image(), "2": scale(upscale_method="magic"), "3": save_image("2")},
    "22": {"1": node("NoSuchNode_Runflow"), "2": save_image("1")},
    "23": {
        "1": empty_image(),
        "2": node("ImageScale", image=link("1"), upscale_method="area", width=8, crop="disabled"),
        "3": save_image("2"),
    },
    "24": {"3": save_image("99")},
    "25": {"1": node("PrimitiveString", value="a"), "3": save_image("1")},
    "26": {"1": empty_image()},
    "27": {
        "1": empty_image(),
        "2": save_image("1"),
        "3": node("EmptyImage", width=-5, height=8, batch_size=1, color=0),
        "4": save_image("3"),
    },
    "28": {"1": node("LoadImage", image="does-not-exist.png"), "2": save_image("1")},
    "29": {
        "1": node("ImageInvert", image=link("2")),
        "2": node("ImageInvert", image=link("1")),
        "3": save_image("2"),
    },
    "30": {"1": node("EmptyImage", width="wide", height=8, batch_size=1, color=0), "2": save_image("1")},
    "31": {
        "1": empty_image(),
        "2": node("ImageBlend", image1=link("1"), image2=link("1"), blend_factor=0.5, blend_mode="no-such-mode"),
        "3": save_image("2"),
    },
}


@pytest.mark.parametrize("number", list(WRONG_GRAPHS))
def test_wrong_graphs_are_answered_as_recorded(comfy: FakeComfyUI, number: str) -> None:
    recorded = sample(f"validation-{VERSIONS[comfy.generation]}")[number]
    response = post(comfy, "/prompt", {"prompt": WRONG_GRAPHS[number], "client_id": "c"})
    answer = {"status": response.status_code, "body": response.json()}
    for each in (answer, recorded):
        # A new id, another count, and the line numbers of another version.
        each["body"].pop("prompt_id", None)
        each["body"].pop("number", None)
        for errors in each["body"]["node_errors"].values():
            for error in errors["errors"]:
                error["extra_info"].pop("traceback", None)
    assert answer["status"] == recorded["status"]
    assert answer["body"] == recorded["body"]


def test_a_success_looks_as_recorded(comfy: FakeComfyUI) -> None:
    recorded = sample(f"success-{VERSIONS[comfy.generation]}")
    entry = run(comfy, sample("graph-01_empty_scale_save"))
    assert shape(entry) == shape(recorded["history"])
    assert entry["outputs"] == recorded["history"]["outputs"]
    assert entry["meta"] == recorded["history"]["meta"]
    assert entry["prompt"][0] == recorded["response"]["number"] == 0


@pytest.mark.parametrize(
    ("sample_name", "graph"),
    [("exec-error", sample("graph-40_fail_exec_blur_pad")), ("interrupted", None)],
)
def test_failures_and_interruptions_look_as_recorded(comfy: FakeComfyUI, sample_name: str, graph: Graph | None) -> None:
    recorded = sample(f"{sample_name}-{VERSIONS[comfy.generation]}")
    entry = interrupted(comfy) if graph is None else run(comfy, graph)
    assert shape_of_end(entry) == shape_of_end(recorded)
    assert entry["status"]["status_str"] == recorded["status"]["status_str"] == "error"
    assert entry["outputs"] == recorded["outputs"] == {}


def shape_of_end(entry: Any) -> Any:
    """How many nodes ran before and how deep the stack was is the graph's and the version's."""
    name, details = entry["status"]["messages"][-1]
    return [name, {key: type(value).__name__ for key, value in sorted(details.items())}]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"prompt": null}',
        b'{"prompt": []}',
        b'{"prompt": {"1": []}}',
        b'{"prompt": {"last_node_id": 9, "nodes": []}}',
        json.dumps({"prompt": small_graph(), "number": "abc"}).encode(),
    ],
)
def test_malformed_submissions_are_500_in_plain_text(comfy: FakeComfyUI, body: bytes) -> None:
    response = httpx.post(f"{comfy.url}/prompt", content=body, trust_env=False)
    assert response.status_code == 500
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "500 Internal Server Error\n\nServer got itself in trouble"


def test_no_prompt_is_400(comfy: FakeComfyUI) -> None:
    response = post(comfy, "/prompt", {})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "no_prompt")


@pytest.mark.parametrize(
    ("given", "by_a", "by_b"),
    [
        (12345, "12345", 400),
        (None, "None", "new"),
        ("", "", 400),
        ("A0190A1B-0000-4000-8000-000000000001", "A0190A1B-0000-4000-8000-000000000001", 400),
        ("a0190a1b-0000-4000-8000-000000000001", "a0190a1b-0000-4000-8000-000000000001", "same"),
    ],
)
def test_the_generations_differ_in_the_ids_they_take(
    comfy: FakeComfyUI, given: Any, by_a: str, by_b: str | int
) -> None:
    response = post(comfy, "/prompt", {"prompt": small_graph(), "prompt_id": given})
    if comfy.generation == "B" and by_b == 400:
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_prompt_id")
        return
    taken = response.json()["prompt_id"]
    if comfy.generation == "A":
        assert taken == by_a
    else:
        assert str(uuid.UUID(taken)) == taken
        assert (taken == given) is (by_b == "same")
