"""What is read out of a server's `/object_info`, and what happens when it does not answer as it should."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from models_registry.models import VariableType
from models_registry.object_info import FieldInfo, NoAnswer, fetch_object_info, read_field_info, read_node_info
from tests.providers.fake_comfyui import FakeComfyUI
from tests.providers.fake_comfyui.nodes import NODE_TYPES

INTEGER, NUMBER, STRING = VariableType.INTEGER, VariableType.NUMBER, VariableType.STRING
SAYS_NOTHING = FieldInfo()
ODD: list[Any] = [None, "INT", 5, {}, [], [None], [5, {}], ["IMAGE"], ["*", {}], ["FLOAT,INT", {}], [{}, {}]]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (["INT"], FieldInfo(INTEGER)),
        (["INT", {"default": 512, "min": 16, "max": 16384, "step": 8}], FieldInfo(INTEGER, (), 16, 16384, 8)),
        (["INT", {"min": 1, "max": 10, "step": 1}], FieldInfo(INTEGER, (), 1, 10)),
        (["INT", {"min": 0, "max": 2**64 - 1}], FieldInfo(INTEGER, (), 0, 2**63 - 1)),
        (["INT", {"min": -(2**64), "max": 5}], FieldInfo(INTEGER, (), -(2**63), 5)),
        (["INT", {"min": 0.5, "max": 9.5, "step": 0.5}], FieldInfo(INTEGER, (), 1, 9)),
        (["INT", {"min": 5, "max": 4, "step": "8"}], FieldInfo(INTEGER)),
        (["INT", {"min": "0", "max": True}], FieldInfo(INTEGER)),
        (["INT", None], FieldInfo(INTEGER)),
        (["FLOAT", {"min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}], FieldInfo(NUMBER, (), 0.0, 100.0)),
        (["FLOAT", {"min": -1e300, "max": float("inf")}], FieldInfo(NUMBER)),
        (["FLOAT", {"min": 2.0, "max": 1.0}], FieldInfo(NUMBER)),
        (["STRING", {"multiline": True, "default": ""}], FieldInfo(STRING)),
        (["BOOLEAN", {"default": True}], FieldInfo(VariableType.BOOLEAN)),
        ([["euler", "dpmpp_2m", "euler"], {}], FieldInfo(STRING, ("euler", "dpmpp_2m"))),
        ([["euler"]], FieldInfo(STRING, ("euler",))),
        (["COMBO", {"multiselect": False, "options": ["a", "b"]}], FieldInfo(STRING, ("a", "b"))),
        ([[1, 2, 4], {}], FieldInfo(INTEGER, (1, 2, 4))),
        ([[1, 0.5], {}], FieldInfo(NUMBER, (1, 0.5))),
        ([[True, False], {}], SAYS_NOTHING),
        ([["1", 1], {}], SAYS_NOTHING),
        ([["a\0"], {}], SAYS_NOTHING),
        ([[], {}], SAYS_NOTHING),
        (["COMBO", {"remote": {"route": "/files"}}], SAYS_NOTHING),
        ([["a.png"], {"image_upload": True}], FieldInfo(VariableType.IMAGE)),
        (["COMBO", {"options": [], "video_upload": True}], FieldInfo(VariableType.VIDEO)),
        (["COMBO", {"options": [], "audio_upload": True}], FieldInfo(VariableType.AUDIO)),
        ([["a.png"], {"image_upload": False}], FieldInfo(STRING, ("a.png",))),
        *((spec, SAYS_NOTHING) for spec in ODD),
    ],
)
def test_a_fields_declaration_is_read_and_nonsense_says_nothing(spec: Any, expected: FieldInfo) -> None:
    assert read_field_info(spec) == expected


def test_required_and_optional_fields_are_read_and_hidden_ones_are_not() -> None:
    entry = {
        "input": {"required": {"a": ["INT", {}]}, "optional": {"b": ["STRING", {}]}, "hidden": {"c": "PROMPT"}},
        "output_node": True,
    }
    info = read_node_info(entry)
    assert info.is_output is True
    assert info.fields == {"a": FieldInfo(INTEGER), "b": FieldInfo(STRING)}


@pytest.mark.parametrize("entry", [{}, {"input": None}, {"input": {"required": []}}, {"output_node": 1}])
def test_an_entry_without_anything_useful_is_read_as_that(entry: dict[str, Any]) -> None:
    info = read_node_info(entry)
    assert (info.is_output, dict(info.fields)) == (False, {})


# --- Over HTTP ------------------------------------------------------------------------------------------------------


def test_each_class_is_asked_for_once_and_unknown_ones_are_missing() -> None:
    with FakeComfyUI() as fake:
        info = fetch_object_info(f"{fake.url}/", ["EmptyImage", "Fancy", "SaveImage"])
        assert fake.requests == {"GET /object_info/{id}": 3}
    assert list(info) == ["EmptyImage", "SaveImage"]
    assert info["EmptyImage"].fields["width"] == FieldInfo(INTEGER, (), 1, 16384)
    assert (info["EmptyImage"].is_output, info["SaveImage"].is_output) == (False, True)


def test_classes_may_be_called_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "Resize? #1 & 100% (é)"
    monkeypatch.setitem(NODE_TYPES, name, NODE_TYPES["EmptyImage"])
    with FakeComfyUI() as fake:
        assert list(fetch_object_info(fake.url, [name])) == [name]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"", "answers 401"),
        (500, b"trouble", "answers 500"),
        (302, b"", "answers 302"),
        (200, b"<html>", "answers, but not as ComfyUI does"),
        (200, b"[]", "answers, but not as ComfyUI does"),
        (200, b'{"Other": {}}', "answers, but not as ComfyUI does"),
        (200, b'{"EmptyImage": []}', "answers, but not as ComfyUI does"),
    ],
)
def test_another_answer_is_no_answer(status: int, body: bytes, said: str) -> None:
    with FakeComfyUI() as fake:
        fake.inject("* *", status=status, body=body)
        with pytest.raises(NoAnswer) as silent:
            fetch_object_info(fake.url, ["EmptyImage", "SaveImage"])
        assert str(silent.value) == f"{fake.url} {said}"
        assert sum(fake.requests.values()) == 1


def test_a_server_that_is_not_there_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NoAnswer, match=rf"^{url}: ConnectError"):
        fetch_object_info(url, ["EmptyImage"])


@pytest.mark.parametrize("url", ["comfyui:8188", "http://", "http://a:b", "http://[::1"])
def test_an_address_that_is_none_is_no_answer(url: str) -> None:
    with pytest.raises(NoAnswer):
        fetch_object_info(url, ["EmptyImage"])


def test_a_server_that_says_nothing_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models_registry.object_info._TIMEOUT", 0.2)
    with FakeComfyUI() as fake:
        fake.inject("* *", effect="hang")
        with pytest.raises(NoAnswer, match="ReadTimeout"):
            fetch_object_info(fake.url, ["EmptyImage"])


def test_a_server_that_is_slow_with_each_class_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models_registry.object_info._DEADLINE", -1.0)
    with FakeComfyUI() as fake:
        with pytest.raises(NoAnswer) as silent:
            fetch_object_info(fake.url, ["EmptyImage"])
        assert str(silent.value) == f"{fake.url} takes too long"
        assert not fake.requests
