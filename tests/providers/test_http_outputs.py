"""From an answer to files: every form in which providers give outputs, and downloads that go wrong."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest

from providers.base import Artifact, Finished, Outcome, ProviderConfig, Rejected, Unavailable
from providers.http.client import HttpClient
from providers.http.config import read_config
from providers.http.files import extension_of, make_artifact
from tests.providers.fake_http_models import PNG, FakeServer, Received, Reply, picture, text_reply
from tests.providers.http_support import artifacts_of, perform

JPEG = picture(5, 4, "JPEG")
PNG_TEXT, JPEG_TEXT, BYTES_TEXT = (base64.b64encode(body).decode() for body in (PNG, JPEG, b"bytes"))
PNG_FILE = Artifact(PNG, "image/png", "image", "png", 3, 2)
JPEG_FILE = Artifact(JPEG, "image/jpeg", "image", "jpg", 5, 4)
NOT_ALLOWED = Rejected("OUTPUT_FETCH_FAILED", "An output's address is not allowed.", "collect")
NOT_DOWNLOADED = Unavailable("OUTPUT_FETCH_FAILED", "An output could not be downloaded.", "collect")
TOO_LARGE = Rejected("OUTPUT_FETCH_FAILED", "The provider's outputs are larger than is allowed.", "collect")
NO_OUTPUTS = Rejected("EXECUTION_FAILED", "The provider's answer has no outputs.", "collect")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.http.outputs.DOWNLOAD_PAUSES", (0, 0))


def outcome_of(reply: Reply, outputs: Any = None, *, seed: str | None = None, **config: Any) -> Outcome:
    outcome = {name: value for name, value in (("outputs", outputs), ("seed", seed)) if value is not None}
    with FakeServer(lambda request: reply) as server:
        return perform(server.url, outcome=outcome, **config)


# --- Forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "value", "artifacts"),
    [
        ({}, PNG_TEXT, [PNG_FILE]),
        ({}, JPEG_TEXT, [JPEG_FILE]),  # begins with "/9j/", which looks like a path
        ({}, [PNG_TEXT, None, JPEG_TEXT], [PNG_FILE, JPEG_FILE]),
        ({}, "\n".join([PNG_TEXT[:20], PNG_TEXT[20:]]), [PNG_FILE]),
        ({}, f"data:image/webp;base64,{PNG_TEXT}", [PNG_FILE]),  # what the bytes are, not what is said
        ({}, f"DATA:;base64,{BYTES_TEXT}", [Artifact(b"bytes", "text/plain", "text", "txt")]),
        ({}, "data:text/html;charset=utf-8,a%20b", [Artifact(b"a b", "text/html", "text", "html")]),
        ({}, BYTES_TEXT, [Artifact(b"bytes", "application/octet-stream", "file", "bin")]),
        ({"mime_type": "audio/mpeg"}, BYTES_TEXT, [Artifact(b"bytes", "audio/mpeg", "audio", "mp3")]),
        ({"type": "video"}, BYTES_TEXT, [Artifact(b"bytes", "application/octet-stream", "video", "bin")]),
        ({"mime_type": "image/jpeg"}, PNG_TEXT, [PNG_FILE]),
        ({"as": "base64"}, PNG_TEXT, [PNG_FILE]),
        ({"as": "base64"}, f"data:image/png;base64,{PNG_TEXT}", [PNG_FILE]),
        ({"as": "text"}, "a cat\ud800", [Artifact(b"a cat?", "text/plain", "text", "txt")]),
        ({"as": "text"}, "", [Artifact(b"", "text/plain", "text", "txt")]),
        (
            {"as": "text", "mime_type": "text/markdown"},
            ["# A", "# B"],
            [Artifact(b"# A", "text/markdown", "text", "md"), Artifact(b"# B", "text/markdown", "text", "md")],
        ),
        ({"as": "json"}, {"a": [1]}, [Artifact(b'{"a":[1]}', "application/json", "file", "json")]),
        ({"as": "json"}, [1, 2], [Artifact(b"[1,2]", "application/json", "file", "json")]),
        ({"as": "json"}, False, [Artifact(b"false", "application/json", "file", "json")]),
        (
            {},
            {"value": BYTES_TEXT, "mime_type": "Video/mp4", "width": 640, "height": 360},
            [Artifact(b"bytes", "video/mp4", "video", "mp4", 640, 360)],
        ),
        (
            {},
            {"value": BYTES_TEXT, "mime_type": 5, "width": -1, "height": True},
            [Artifact(b"bytes", "application/octet-stream", "file", "bin")],
        ),
        ({}, {"value": PNG_TEXT, "width": 640, "height": 360}, [PNG_FILE]),
    ],
)
def test_an_output_becomes_a_file(rule: dict[str, Any], value: Any, artifacts: list[Artifact]) -> None:
    outcome = outcome_of(Reply(200, {"output": value}), [{"select": "body.output", **rule}])
    assert artifacts_of(outcome) == tuple(artifacts)


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ({}, None, "has no outputs."),
        ({}, [], "has no outputs."),
        ({}, [None], "has no outputs."),
        ({"as": "json"}, None, "has no outputs."),
    ],
)
def test_an_answer_without_outputs_is_a_failure(rule: dict[str, Any], value: Any, message: str) -> None:
    assert outcome_of(Reply(200, {"output": value}), [{"select": "body.output", **rule}]) == NO_OUTPUTS


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ({}, "not base64!", "An output in the provider's answer is not base64."),
        ({}, "AA*AA", "An output in the provider's answer is not base64."),
        ({}, "AAA", "An output in the provider's answer is not base64."),
        ({}, "", "An output in the provider's answer is not base64."),
        ({}, "ümlaut", "An output in the provider's answer is not base64."),
        ({"as": "base64"}, "http://127.0.0.1/a.png", "An output in the provider's answer is not base64."),
        ({}, "data:image/png", "An output in the provider's answer is a data: URI without data."),
        ({}, "data:image/png;base64,*", "An output in the provider's answer is not base64."),
        ({}, 5, "An output in the provider's answer is not a text."),
        ({}, [[PNG_TEXT]], "An output in the provider's answer is not a text."),
        ({}, {"url": "https://a"}, "An output in the provider's answer is not a text."),
        ({"as": "text"}, {"a": 1}, "An output in the provider's answer is not a text."),
        ({}, [PNG_TEXT] * 101, "The provider's answer has more than 100 outputs."),
    ],
)
def test_an_output_in_another_form_is_a_failure(rule: dict[str, Any], value: Any, message: str) -> None:
    outcome = outcome_of(Reply(200, {"output": value}), [{"select": "body.output", **rule}])
    assert outcome == Rejected("EXECUTION_FAILED", message, "collect")


@pytest.mark.parametrize(
    ("reply", "outputs", "artifact"),
    [
        (Reply(200, PNG, {"Content-Type": "image/png"}), None, PNG_FILE),
        (Reply(200, PNG), None, PNG_FILE),
        (text_reply("a cat", "text/plain; charset=utf-8"), None, Artifact(b"a cat", "text/plain", "text", "txt")),
        (Reply(200, {"a": 1}), None, Artifact(b'{"a": 1}', "application/json", "file", "json")),
        (Reply(200, b"x", {"Content-Type": "nonsense"}), None, Artifact(b"x", "application/octet-stream", "file", "bin")),
        (
            Reply(200, b"x", {"Content-Type": "application/octet-stream"}),
            [{"mime_type": "video/mp4"}],
            Artifact(b"x", "video/mp4", "video", "mp4"),
        ),
        (text_reply("a cat"), [{"select": "body", "as": "text"}], Artifact(b"a cat", "text/plain", "text", "txt")),
    ],
)  # fmt: skip
def test_the_answer_itself_can_be_the_output(reply: Reply, outputs: Any, artifact: Artifact) -> None:
    assert artifacts_of(outcome_of(reply, outputs)) == (artifact,)


def test_an_empty_answer_is_no_output() -> None:
    assert outcome_of(Reply(204)) == NO_OUTPUTS


def test_expressions_find_nothing_in_an_answer_that_is_no_json() -> None:
    """A picture where JSON was configured is not taken for the output."""
    assert outcome_of(Reply(200, PNG, {"Content-Type": "image/png"}), "body.output") == NO_OUTPUTS


def test_several_rules_give_their_outputs_in_order() -> None:
    answer = {"images": [{"url": PNG_TEXT}], "caption": "a cat", "score": None}
    rules = [
        {"select": "body.images[].url"},
        {"select": "body.caption", "as": "text"},
        {"select": "body.score", "as": "json"},
    ]
    outcome = outcome_of(Reply(200, answer), rules)
    assert artifacts_of(outcome) == (PNG_FILE, Artifact(b"a cat", "text/plain", "text", "txt"))


@pytest.mark.parametrize(
    ("seed", "found"),
    [(7, 7), (2**70, 2**70), (0, 0), ("7", None), (7.5, None), (True, None), (None, None)],
)
def test_a_seed_is_a_whole_number(seed: Any, found: int | None) -> None:
    outcome = outcome_of(Reply(200, {"image": PNG_TEXT, "seed": seed}), "body.image", seed="body.seed")
    assert isinstance(outcome, Finished)
    assert outcome.seed == found


def test_a_seed_can_come_in_a_header() -> None:
    reply = Reply(200, PNG, {"Content-Type": "image/png", "X-Seed": "42"})
    outcome = outcome_of(reply, seed='to_number(headers."x-seed")')
    assert isinstance(outcome, Finished)
    assert (outcome.artifacts, outcome.seed) == ((PNG_FILE,), 42)


def test_nan_in_an_answer_is_null() -> None:
    reply = Reply(200, b'{"score": NaN, "label": "cat"}', {"Content-Type": "application/json"})
    assert (
        artifacts_of(outcome_of(reply, [{"select": "body", "as": "json"}]))[0].body == b'{"score":null,"label":"cat"}'
    )


# --- Downloads --------------------------------------------------------------------------------------------------------


def download(
    answer: Callable[[Received], Reply], url: str = "{url}/files/a.png", **config: Any
) -> tuple[Outcome, list[Received]]:
    """What becomes of an output at `url`; `answer` is for all requests but the job's own. Returns the downloads, too."""
    server = FakeServer()

    def answers(request: Received) -> Reply:
        if request.path == "/v1/do":
            return Reply(200, {"url": url.format(url=server.url, port=server.port)})
        return answer(request)

    server.answer = answers  # type: ignore[method-assign]
    with server:
        outcome = perform(
            f"{server.url}/v1", outcome={"outputs": [{"select": "body.url", "as": config.pop("form", "url")}]}, **config
        )
    assert server.lines[0] == "POST /v1/do"
    return outcome, server.received[1:]


def png(_request: Received) -> Reply:
    return Reply(200, PNG, {"Content-Type": "image/jpeg"})


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("{url}/files/a.png", "/files/a.png"),
        ("/files/a.png", "/files/a.png"),
        ("files/a.png", "/v1/files/a.png"),
        ("../files/ä b.png", "/files/%C3%A4%20b.png"),
        ("//127.0.0.1:{port}/a.png", "/a.png"),
    ],
)
def test_an_output_is_downloaded_from_the_provider(url: str, path: str) -> None:
    outcome, received = download(png, url)
    assert artifacts_of(outcome) == (PNG_FILE,)
    assert [(each.method, each.path) for each in received] == [("GET", path)]


def test_a_url_is_known_by_its_scheme() -> None:
    outcome, received = download(png, form="auto")
    assert artifacts_of(outcome) == (PNG_FILE,)
    assert len(received) == 1


def test_what_a_download_says_it_is_counts_for_other_than_pictures() -> None:
    outcome, _ = download(lambda request: Reply(200, b"x", {"Content-Type": "Video/MP4; codecs=a"}))
    assert artifacts_of(outcome) == (Artifact(b"x", "video/mp4", "video", "mp4"),)


@pytest.mark.parametrize(
    ("reply", "tries"),
    [
        (Reply(404), 1),
        (Reply(403), 1),
        (Reply(302), 1),
        (Reply(429), 3),
        (Reply(500), 3),
        (Reply(breaks=True), 3),
        (Reply(200, b""), 1),
    ],
)
def test_a_download_that_fails_is_worth_another_attempt(reply: Reply, tries: int) -> None:
    outcome, received = download(lambda request: reply)
    assert outcome == NOT_DOWNLOADED
    assert len(received) == tries


def test_a_download_that_stumbles_is_tried_again() -> None:
    replies = iter([Reply(503), Reply(breaks=True), png(Received("", "", [], {}, b""))])
    outcome, received = download(lambda request: next(replies))
    assert artifacts_of(outcome) == (PNG_FILE,)
    assert len(received) == 3


def test_a_download_follows_redirects() -> None:
    def answer(request: Received) -> Reply:
        number = int(request.path.rpartition("/")[2].partition(".")[0] or 0)
        return Reply(302, headers={"Location": f"/r/{number + 1}"}) if number < 5 else png(request)

    outcome, received = download(answer, "/r/0")
    assert artifacts_of(outcome) == (PNG_FILE,)
    assert [each.path for each in received] == [f"/r/{number}" for number in range(6)]


def test_a_download_does_not_follow_redirects_for_ever() -> None:
    outcome, received = download(lambda request: Reply(302, headers={"Location": "/again"}))
    assert outcome == NOT_DOWNLOADED
    assert len(received) == 6


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/a",
        "http://169.254.169.254/a",
        "ftp://127.0.0.1/a",
        "http://u:p@127.0.0.1:{port}/a",
        "http://[",
    ],
)
def test_an_address_that_the_config_does_not_name_is_not_called(url: str, caplog: pytest.LogCaptureFixture) -> None:
    outcome, received = download(png, url)
    assert (outcome, received) == (NOT_ALLOWED, [])
    assert [record.levelno for record in caplog.records if record.name == "providers.http.outputs"] == [logging.ERROR]


def test_a_redirect_to_an_address_that_the_config_does_not_name_is_not_followed() -> None:
    with FakeServer(png) as other:
        location = f"http://localhost:{other.port}/a"
        outcome, received = download(lambda request: Reply(302, headers={"Location": location}))
    assert outcome == NOT_ALLOWED
    assert (len(received), other.received) == (1, [])


@pytest.mark.parametrize("hosts", [["localhost"], ["*"]])
def test_outputs_lie_where_the_config_says_and_get_no_secret_there(
    hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "topsecret")
    outcome, received = download(
        lambda request: (
            Reply(302, headers={"Location": f"http://{request.headers['host']}/b"})
            if request.path == "/a"
            else png(request)
        ),
        "http://localhost:{port}/a",
        output_hosts=hosts,
        headers={"X-Key": {"env": "TOKEN"}, "X-Plain": "a"},
    )
    assert artifacts_of(outcome) == (PNG_FILE,)
    assert [(each.path, "x-key" in each.headers, "x-plain" in each.headers) for each in received] == [
        ("/a", False, False),
        ("/b", False, False),
    ]


def test_the_provider_s_own_files_are_asked_for_with_its_headers_until_a_redirect_leads_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "topsecret")
    with FakeServer(png) as other:
        outcome, received = download(
            lambda request: Reply(302, headers={"Location": f"{other.url}/b"}), headers={"X-Key": {"env": "TOKEN"}}
        )
    assert artifacts_of(outcome) == (PNG_FILE,)
    assert [each.headers.get("x-key") for each in received] == ["topsecret"]
    assert ["x-key" in each.headers for each in other.received] == [False], "another port is another origin"


@pytest.mark.parametrize(
    ("hosts", "host", "is_allowed"),
    [
        (["*.files.example"], "a.files.example", True),
        (["*.files.example"], "a.b.files.example", True),
        (["*.files.example"], "files.example", False),
        (["*.files.example"], "evilfiles.example", False),
        (["files.example"], "files.example", True),
        (["files.example"], "a.files.example", False),
        (["files.example"], "files.example.evil", False),
        ([], "models.example", True),
        ([], "a.models.example", False),
    ],
)
def test_hosts_match_whole_labels(hosts: list[str], host: str, is_allowed: bool) -> None:
    config = read_config(ProviderConfig("m", 1, {"base_url": "http://models.example", "output_hosts": hosts}))
    with HttpClient(config, base_url=config.base_url) as client:
        assert client._may_download_from(host) is is_allowed


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_a_download_that_is_too_large_is_not_tried_again() -> None:
    outcome, received = download(lambda request: Reply(200, b"x" * 101), max_output_bytes=100)
    assert outcome == TOO_LARGE
    assert len(received) == 1


def test_a_download_of_just_the_limit_is_kept() -> None:
    outcome, _ = download(lambda request: Reply(200, b"x" * 100), max_output_bytes=100)
    assert artifacts_of(outcome) == (Artifact(b"x" * 100, "application/octet-stream", "file", "bin"),)


def test_the_limit_is_for_all_outputs_together() -> None:
    answer, rule = {"text": "x" * 60}, {"select": "body.text", "as": "text"}
    assert len(artifacts_of(outcome_of(Reply(200, answer), [rule] * 2, max_output_bytes=120))) == 2
    assert outcome_of(Reply(200, answer), [rule] * 2, max_output_bytes=119) == TOO_LARGE


def test_an_answer_that_is_too_large_is_refused() -> None:
    assert outcome_of(Reply(200, b"x" * 101), max_output_bytes=100) == TOO_LARGE


# --- What files are ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mime_type", "extension"),
    [
        ("image/jpeg", "jpg"),
        ("image/png", "png"),
        ("video/mp4", "mp4"),
        ("audio/mpeg", "mp3"),
        ("application/vnd.ms-excel", "bin"),
        ("application/octet-stream", "bin"),
        ("", "bin"),
        ("model/gltf-binary", "glb"),
    ],
)
def test_a_media_type_has_an_ending(mime_type: str, extension: str) -> None:
    assert extension_of(mime_type) == extension


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_a_picture_says_itself_what_it_is(picture_format: str) -> None:
    artifact = make_artifact(picture(7, 5, picture_format), "text/html")
    assert (artifact.mime_type, artifact.type, artifact.width, artifact.height) == (
        f"image/{picture_format.lower()}",
        "image",
        7,
        5,
    )


@pytest.mark.parametrize(
    "body", [b"", b"\x89PNG\r\n\x1a\n", PNG[:30], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_only_looks_like_a_picture_is_what_it_is_said_to_be(body: bytes) -> None:
    assert make_artifact(body, "text/plain") == Artifact(body, "text/plain", "text", "txt")
