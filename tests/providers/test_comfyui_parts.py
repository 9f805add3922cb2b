"""The parts that need no server: graphs, uploads, outputs, stalls."""

from __future__ import annotations

import contextlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from providers.base import Artifact, Media
from providers.comfyui.client import File
from providers.comfyui.graphs import InvalidGraph, build_graph, check_graph, find_seed, find_sources
from providers.comfyui.health import StallWatch
from providers.comfyui.outputs import file_artifact, find_outputs, text_artifact
from providers.comfyui.uploads import Upload, UploadCache, name_of
from tests.providers.comfyui import make_job

SHA_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- Graphs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "The model's template is no graph."),
        ({}, "The model's template is no graph."),
        ([{"class_type": "A", "inputs": {}}], "The model's template is no graph."),
        ({"1": []}, "The model's template is no graph in API format: '1' is no node with class_type and inputs."),
        (
            {"1": {"inputs": {}}},
            "The model's template is no graph in API format: '1' is no node with class_type and inputs.",
        ),
        (
            {"last_node_id": 9, "nodes": [], "links": []},
            "The model's template is no graph in API format: 'last_node_id' is no node with class_type and inputs.",
        ),
    ],
)
def test_what_is_no_graph_in_api_format_is_refused(body: Any, reason: str) -> None:
    with pytest.raises(InvalidGraph) as refused:
        check_graph(body)
    assert str(refused.value) == reason


def graph_with(**inputs: Any) -> dict[str, Any]:
    return {"4": {"class_type": "Node", "inputs": inputs}}


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("ComfyUI", "ComfyUI"),
        ("runflow/t01", "t01"),
        ("../../etc/x", "x"),
        ("/abs/olute/", "olute"),
        ("a\\b", "b"),
        ("%date:yyyy-MM-dd%_Bild ü", "date_yyyy-MM-dd__Bild"),
        ("..", "4"),
        ("", "4"),
        ("x" * 200, "x" * 80),
    ],
)
def test_every_attempt_has_prefixes_of_its_own_inside_the_output_folder(prefix: str, name: str) -> None:
    graph = build_graph(make_job(graph_with(filename_prefix=prefix), run_id="run-9", attempt=3), {})
    assert graph == graph_with(filename_prefix=f"runflow/run-9/3/{name}")


def test_a_prefix_that_another_node_makes_is_left_alone() -> None:
    assert build_graph(make_job(graph_with(filename_prefix=["1", 0])), {}) == graph_with(filename_prefix=["1", 0])


def test_media_inputs_are_found_once_each_and_replaced_in_a_copy() -> None:
    body = graph_with(
        image="https://shop.example/a.png", images=["data:image/png;base64,", "https://shop.example/a.png"]
    )
    job = make_job(body, media=("/4/inputs/image", "/4/inputs/images"))
    assert find_sources(job) == ["https://shop.example/a.png", "data:image/png;base64,"]
    names = {"https://shop.example/a.png": "runflow/a.png", "data:image/png;base64,": "runflow/b.png"}
    assert build_graph(job, names) == graph_with(image="runflow/a.png", images=["runflow/b.png", "runflow/a.png"])
    assert body["4"]["inputs"]["image"] == "https://shop.example/a.png"


@pytest.mark.parametrize("value", [None, "example.png", "folder/example.png", 7, ["example.png", None]])
def test_a_templates_own_file_is_no_media_input(value: Any) -> None:
    job = make_job(graph_with(image=value), media=("/4/inputs/image",))
    assert find_sources(job) == []
    assert build_graph(job, {}) == graph_with(image=value)


@pytest.mark.parametrize("pointer", ["/5/inputs/image", "4/inputs/image", "/4/inputs/images/0"])
def test_a_media_input_without_a_place_is_a_broken_template(pointer: str) -> None:
    with pytest.raises(InvalidGraph, match="A media input of the model has no place in its template"):
        find_sources(make_job(graph_with(image="https://shop.example/a.png"), media=(pointer,)))


@pytest.mark.parametrize(
    ("graph", "seed"),
    [
        (graph_with(seed=7), 7),
        (graph_with(noise_seed=2**63), 2**63),
        ({**graph_with(seed=7), "5": {"inputs": {"noise_seed": 7}}}, 7),
        ({**graph_with(seed=7), "5": {"inputs": {"seed": 8}}}, None),
        (graph_with(seed=["1", 0]), None),
        (graph_with(seed=True), None),
        (graph_with(steps=20), None),
        (None, None),
        ({"4": "odd", "5": {"inputs": "odd"}}, None),
    ],
)
def test_the_seed_is_known_when_the_graph_names_exactly_one(graph: Any, seed: int | None) -> None:
    assert find_seed(graph) == seed


# --- Uploads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "mime_type", "extension"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/jpeg", "png"),
        (b"\xff\xd8\xff\xe0", "application/octet-stream", "jpg"),
        (b"GIF89a", "", "gif"),
        (b"RIFF\x00\x00\x00\x00WEBP", "", "webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", "", "wav"),
        (b"\x00\x00\x00\x18ftypmp42", "", "mp4"),
        (b"\x00\x00\x00\x18ftypavif", "", "avif"),
        (b"\x1aE\xdf\xa3", "", "webm"),
        (b"fLaC", "", "flac"),
        (b"OggS", "", "ogg"),
        (b"ID3", "", "mp3"),
        (b"hello", "text/plain; charset=utf-8", "txt"),
        (b"", "nonsense", "bin"),
    ],
)
def test_the_extension_follows_the_bytes_and_then_the_mime_type(body: bytes, mime_type: str, extension: str) -> None:
    assert name_of(Media(body, mime_type)).partition(".")[2] == extension


def test_the_name_is_the_hash_of_the_content() -> None:
    assert name_of(Media(b"", "image/png")) == f"{SHA_OF_NOTHING}.png"


def test_a_content_is_uploaded_once_for_each_server_however_many_ask_at_once() -> None:
    cache, uploads, two_uploads_at_once = UploadCache(), [], threading.Barrier(2)

    def upload() -> str:
        uploads.append(1)
        with contextlib.suppress(threading.BrokenBarrierError):  # as it should be: nobody comes
            two_uploads_at_once.wait(0.2)
        return "runflow/a.png"

    def ask(_: int) -> str:
        return cache.path_of(Upload("http://one", "a.png"), upload)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {"runflow/a.png"}
    assert len(uploads) == 1
    assert cache.path_of(Upload("http://two", "a.png"), lambda: "other") == "other"


def test_a_failed_upload_is_not_remembered() -> None:
    cache, key = UploadCache(), Upload("http://one", "a.png")

    def fail() -> str:
        raise OSError

    with pytest.raises(OSError):
        cache.path_of(key, fail)
    assert cache.path_of(key, lambda: "runflow/a.png") == "runflow/a.png"
    cache.forget(key)
    assert cache.path_of(key, lambda: "again") == "again"


def test_the_uploads_used_longest_ago_are_forgotten_first() -> None:
    cache = UploadCache(limit=2)
    for name in ("a", "b", "a", "c"):
        cache.path_of(Upload("http://one", name), name.lower)
    assert [cache.path_of(Upload("http://one", name), lambda: "again") for name in ("a", "c", "b")] == [
        "a",
        "c",
        "again",
    ]


# --- Outputs --------------------------------------------------------------------------------------------------------


def item(filename: str, **more: str) -> dict[str, str]:
    return {"filename": filename, "subfolder": "", "type": "output", **more}


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (None, []),
        ({}, []),
        ({"1": "odd", "2": {"images": "odd"}, "3": {"images": [None, 1, {}, {"filename": 1}]}}, []),
        ({"10": {"images": [item("b")]}, "9": {"images": [item("a")]}}, [item("a"), item("b")]),
        (
            {"12:3": {"a": [item("c")]}, "x": {"a": [item("d")]}, "12": {"a": [item("b")]}, "2": {"a": [item("a")]}},
            [item("a"), item("b"), item("c"), item("d")],
        ),
        ({"1": {"images": [item("a.mp4", subfolder="video")], "animated": [True]}}, [item("a.mp4", subfolder="video")]),
        ({"1": {"gifs": [{**item("a.gif"), "format": "image/gif", "frame_rate": 8.0}]}}, [item("a.gif")]),
        ({"1": {"audio": [item("b.flac"), item("a.flac")]}}, [item("b.flac"), item("a.flac")]),
        ({"1": {"images": [item("p.png", type="temp"), item("a.png")]}}, [item("a.png")]),
        ({"1": {"text": ["hello", ""]}, "2": {"result": ["model.glb"]}}, [{"text": "hello"}, {"text": ""}]),
        ({"1": {"3d": [{"filename": "a.glb"}]}}, [item("a.glb")]),
    ],
)
def test_outputs_of_every_kind_are_found_in_the_order_of_their_nodes(outputs: Any, found: list[Any]) -> None:
    assert find_outputs(outputs) == found


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("filename", "body", "content_type", "expected"),
    [
        ("a_00001_.png", picture("PNG"), "image/png", ("image/png", "image", "png", 5, 3)),
        ("a.JPG", picture("JPEG"), "image/jpeg", ("image/jpeg", "image", "jpg", 5, 3)),
        ("a.webp", picture("WEBP"), "", ("image/webp", "image", "webp", 5, 3)),
        ("a.png", b"no picture", "image/png", ("image/png", "image", "png", None, None)),
        ("a.mp4", b"x", "video/mp4", ("video/mp4", "video", "mp4", None, None)),
        ("a.flac", b"x", "audio/flac", ("audio/flac", "audio", "flac", None, None)),
        ("a.txt", b"x", "text/plain; charset=utf-8", ("text/plain", "text", "txt", None, None)),
        ("a.glb", b"x", "application/octet-stream", ("application/octet-stream", "file", "glb", None, None)),
        # Sent as bytes so that no browser runs it, and it stays that.
        ("a.html", b"x", "application/octet-stream", ("application/octet-stream", "file", "html", None, None)),
        ("noname", b"x", "image/gif", ("image/gif", "image", "gif", None, None)),
        ("noname", b"x", "", ("application/octet-stream", "file", "bin", None, None)),
    ],
)
def test_a_file_becomes_an_artifact_of_its_kind(
    filename: str, body: bytes, content_type: str, expected: tuple[Any, ...]
) -> None:
    mime_type, output_type, extension, width, height = expected
    artifact = Artifact(body, mime_type, output_type, extension, width, height)
    assert file_artifact(filename, File(body, content_type)) == artifact


def test_the_size_of_a_picture_is_read_without_decoding_it() -> None:
    header = bytearray(picture("BMP"))
    header[18:26] = (60_000).to_bytes(4, "little") * 2  # 10 GB of pixels, if there were any
    artifact = file_artifact("a.bmp", File(bytes(header), "image/bmp"))
    assert (artifact.type, artifact.width, artifact.height) == ("image", None, None)
    header[18:26] = (12_000).to_bytes(4, "little") * 2
    assert file_artifact("a.bmp", File(bytes(header), "image/bmp")).width == 12_000


def test_text_is_an_artifact_too() -> None:
    assert text_artifact("grüße\ud800") == Artifact("grüße?".encode(), "text/plain; charset=utf-8", "text", "txt")


# --- Stalls ---------------------------------------------------------------------------------------------------------


def test_a_server_stalls_when_its_sign_stays_the_same_for_longer_than_the_limit() -> None:
    watch = StallWatch()

    def observe(sign: str, now: float, base_url: str = "http://one") -> float | None:
        return watch.observe(base_url, sign, limit=30.0, now=now)

    assert [observe("a", now) for now in (100.0, 130.0, 130.1)] == [None, None, pytest.approx(30.1)]
    assert observe("a", 131.0, "http://two") is None
    assert [observe("b", now) for now in (131.0, 161.0)] == [None, None]
    watch.forget("http://one")
    assert observe("b", 170.0) is None


def test_a_server_is_looked_at_now_and_then_and_always_while_it_stalls() -> None:
    watch = StallWatch()

    def needs_look(now: float) -> bool:
        return watch.needs_look("http://one", every=10.0, now=now)

    assert needs_look(0.0)
    watch.observe("http://one", "a", limit=30.0, now=0.0)
    assert [needs_look(now) for now in (9.9, 10.0)] == [False, True]
    watch.observe("http://one", "a", limit=30.0, now=31.0)
    assert needs_look(31.1)
    watch.observe("http://one", "b", limit=30.0, now=32.0)
    assert not needs_look(32.1)
