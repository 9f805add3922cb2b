"""Media inputs: fetched, uploaded once, and put into the graph under the server's name."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest
from PIL import Image

from providers.base import (
    FetchError,
    Media,
    Rejected,
    Submitted,
    Unavailable,
)
from providers.comfyui.connection import ComfyConnection
from tests.providers.comfyui import (
    connect,
    empty_image,
    finished,
    make_job,
    run,
    save_image,
    upload_graph,
)
from tests.providers.fake_comfyui import FakeComfyUI

URL = "https://shop.example/a.png"
UNREACHABLE = Unavailable("PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch")


def photo(colour: tuple[int, int, int] = (200, 100, 0)) -> Media:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return Media(buffer.getvalue(), "image/png")


def path_of(media: Media) -> str:
    return f"runflow/{hashlib.sha256(media.body).hexdigest()}.png"


def upload_job(media: Media | None = None, **more: Any) -> Any:
    given = media or photo()
    graph = upload_graph()
    graph["1"]["inputs"]["image"] = URL
    return make_job(graph, media=("/1/inputs/image",), fetch=lambda url: given, **more)


def test_media_are_uploaded_under_their_hash_and_stand_in_the_graph(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    job = upload_job()
    (artifact,) = finished(run(connection, job)).artifacts
    assert (artifact.width, artifact.height) == (6, 4)
    assert Image.open(io.BytesIO(artifact.body)).getpixel((0, 0)) == (55, 155, 255)
    assert comfy.uploads == {path_of(photo()): 1}
    assert comfy.received[0]["prompt"]["1"]["inputs"]["image"] == path_of(photo())
    assert job.body["1"]["inputs"]["image"] == URL


def test_a_content_goes_to_a_server_once_whatever_its_urls_are(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    connection.submit([upload_job() for _ in range(20)])
    later = connect(comfy.url)
    later.submit([upload_job(), upload_job(photo((1, 2, 3)))])
    later.close()
    assert comfy.uploads == {path_of(photo()): 1, path_of(photo((1, 2, 3))): 1}
    with FakeComfyUI(seconds_per_prompt=0) as other:
        elsewhere = connect(other.url)
        elsewhere.submit([upload_job()])
        elsewhere.close()
        assert other.uploads == {path_of(photo()): 1}


def test_a_source_is_fetched_once_for_a_job_and_again_for_the_next(connection: ComfyConnection) -> None:
    fetched: list[str] = []

    def fetch(url: str) -> Media:
        fetched.append(url)
        return photo()

    graph = {"1": upload_graph()["1"], "2": upload_graph()["1"], "3": save_image("1"), "4": save_image("2")}
    graph["1"] = graph["2"] = {"class_type": "LoadImage", "inputs": {"image": URL}}
    media = ("/1/inputs/image", "/2/inputs/image")
    for _ in range(2):
        connection.submit([make_job(graph, media=media, fetch=fetch)])
    assert fetched == [URL, URL]


def test_the_name_that_the_server_gives_is_the_one_that_is_used(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    folder, _, name = path_of(photo()).partition("/")
    comfy.files.upload(folder, name, b"something else", overwrite=False)
    (artifact,) = finished(run(connection, upload_job())).artifacts
    assert comfy.received[0]["prompt"]["1"]["inputs"]["image"] == path_of(photo()).replace(".png", " (1).png")
    assert (artifact.width, artifact.height) == (6, 4)


def test_uploads_can_go_to_the_input_folder_itself(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url, upload_subfolder="")
    connection.submit([upload_job()])
    assert comfy.uploads == {path_of(photo()).removeprefix("runflow/"): 1}
    connection.close()


def test_an_input_that_the_server_has_lost_is_uploaded_again(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    connection.submit([upload_job()])
    comfy.files.empty("input")
    job = upload_job()
    finished(run(connection, job))
    assert comfy.uploads == {path_of(photo()): 2}
    # The first of the two was refused, so that nothing was queued for it.
    assert (comfy.submits[job.job_id], comfy.executed[job.job_id]) == (2, 1)


def test_an_input_that_gets_lost_again_and_again_ends_the_job(
    comfy: FakeComfyUI, connection: ComfyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy.files, "has_input", lambda path: False)
    job = upload_job()
    (answer,) = connection.submit([job])
    assert isinstance(answer, Rejected)
    assert answer.message == (
        "The provider refused the graph: node 1 (LoadImage), image: Custom validation failed for node "
        f"(image - Invalid image file: {path_of(photo())})."
    )
    assert (comfy.submits, comfy.uploads) == ({job.job_id: 2}, {path_of(photo()): 2})


def test_a_lost_input_of_which_the_rest_was_accepted_is_for_another_attempt(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    connection.submit([upload_job()])
    comfy.files.empty("input")
    job = upload_job()
    job.body.update({"8": empty_image(), "9": save_image("8")})
    comfy.hold()
    assert connection.submit([job]) == [
        Unavailable("PROVIDER_UNAVAILABLE", "The provider lost an input. It will be sent again.", "dispatch")
    ]
    assert comfy.submits[job.job_id] == 1
    comfy.release()
    finished(run(connection, upload_job(attempt=2)))
    assert comfy.uploads == {path_of(photo()): 2}


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (FetchError("Gone."), Rejected("INPUT_FETCH_FAILED", "Gone.", "preprocess")),
        (FetchError("Slow.", is_retryable=True), Unavailable("INPUT_FETCH_FAILED", "Slow.", "preprocess")),
        (RuntimeError("/srv/secret"), Unavailable("INPUT_FETCH_FAILED", "An input could not be read.", "preprocess")),
    ],
)
def test_a_media_input_that_cannot_be_read_ends_the_job_before_the_server_hears_of_it(
    comfy: FakeComfyUI, connection: ComfyConnection, error: Exception, answer: Submitted
) -> None:
    def fetch(url: str) -> Media:
        raise error

    graph = upload_graph()
    graph["1"]["inputs"]["image"] = URL
    assert connection.submit([make_job(graph, media=("/1/inputs/image",), fetch=fetch)]) == [answer]
    assert comfy.requests == {}


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, Rejected("PROVIDER_REJECTED", "The provider refused an input file.", "preprocess")),
        (401, Unavailable("PROVIDER_UNAVAILABLE", "The provider is not set up correctly.", "preprocess")),
        (413, Rejected("PROVIDER_REJECTED", "The provider refused the request as too large.", "preprocess")),
        (500, Unavailable("PROVIDER_UNAVAILABLE", "The provider did not take an input file.", "preprocess")),
        (503, Unavailable("PROVIDER_UNAVAILABLE", "The provider takes no work at the moment.", "preprocess", 7.0)),
    ],
)
def test_an_upload_that_fails_ends_the_job_without_a_submission(
    comfy: FakeComfyUI, connection: ComfyConnection, status: int, answer: Submitted
) -> None:
    comfy.inject("POST /upload/image", status=status, headers={"Retry-After": "7"} if status == 503 else {})
    assert connection.submit([upload_job()]) == [answer]
    assert comfy.submits == {}
    finished(run(connection, upload_job()))  # nothing wrong was remembered


def test_an_upload_whose_connection_breaks_is_for_another_attempt(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    comfy.inject("POST /upload/image", effect="reset", is_handled=True)
    assert connection.submit([upload_job()]) == [UNREACHABLE]
    assert comfy.submits == {}


def test_an_upload_to_a_server_that_is_away_is_for_another_attempt(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    comfy.crash()
    assert connection.submit([upload_job()]) == [UNREACHABLE]
