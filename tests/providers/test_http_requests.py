"""From a job to a request: what arrives at a real server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from providers.base import FetchError, Finished, Media, Outcome, Rejected, Unavailable
from tests.providers.fake_http_models import FakeServer, Received, Reply
from tests.providers.http_support import make_job, no_fetch, perform, sync_adapter

DATA_URI = "data:image/png;base64," + base64.b64encode(b"bytes").decode()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(lambda request: Reply(200, b"done", {"Content-Type": "text/plain"})) as server:
        yield server


def send(server: FakeServer, body: Any, *, base_path: str = "", **config: Any) -> Received:
    """The one request that a template's body makes."""
    assert isinstance(perform(server.url + base_path, body, **config), Finished)
    (received,) = server.received
    return received


def fetch(url: str) -> Media:
    return Media(b"bytes", "image/png")


def send_media(server: FakeServer, body: Any, *media: str, **config: Any) -> Received:
    job = make_job(body, media=media, fetch=fetch)
    assert isinstance(perform(server.url, job=job, **config), Finished)
    (received,) = server.received
    return received


# --- The template -----------------------------------------------------------------------------------------------------


def test_a_template_is_the_request(server: FakeServer) -> None:
    body = {
        "method": "PUT",
        "path": "/v1/do?debug=1",
        "headers": {"X-Tier": "fast"},
        "query": {"size": 5, "tag": ["a", "b & c"], "none": None, "is_good": True, "deep": {"a": 1}},
        "json": {"prompt": "süß", "n": 2, "half": 0.5, "on": True, "none": None},
    }
    received = send(server, body)
    assert (received.method, received.path) == ("PUT", "/v1/do")
    assert received.query == [
        *(("debug", "1"), ("size", "5"), ("tag", "a"), ("tag", "b & c"), ("is_good", "true"), ("deep", '{"a":1}')),
    ]
    assert (received.headers["x-tier"], received.headers["content-type"]) == ("fast", "application/json")
    assert received.json == body["json"]


def test_a_path_goes_behind_the_base_url_s_own(server: FakeServer) -> None:
    received = send(server, {"path": "/do"}, base_path="/v1/")
    assert (received.method, received.path, received.body) == ("POST", "/v1/do", b"")
    assert "content-type" not in received.headers


def test_the_config_s_headers_win(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "topsecret")
    headers = {"Authorization": {"env": "TOKEN", "prefix": "Bearer "}, "X-Plain": "a"}
    received = send(server, {"path": "/do", "headers": {"authorization": "mine", "x-plain": "b"}}, headers=headers)
    assert (received.headers["authorization"], received.headers["x-plain"]) == ("Bearer topsecret", "a")


def test_a_body_is_not_compressed_and_no_cookie_is_kept() -> None:
    def answer(request: Received) -> Reply:
        return Reply(200, b"done", {"Content-Type": "text/plain", "Set-Cookie": "session=1; Path=/"})

    with FakeServer(answer) as server:
        sync_adapter(server.url, concurrency=1).perform([make_job({"path": "/do"})] * 2)
    assert [("cookie" in each.headers, each.headers["accept-encoding"]) for each in server.received] == [
        (False, "identity")
    ] * 2


def test_a_proxy_and_a_netrc_of_the_environment_are_not_used(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password something")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert "authorization" not in send(server, {"path": "/do"}).headers


def test_the_idempotency_key_is_the_same_over_attempts(server: FakeServer) -> None:
    adapter = sync_adapter(server.url, idempotency_header="Idempotency-Key")
    adapter.perform([make_job({"path": "/do"}, run_id="run-7", attempt=1)])
    adapter.perform([make_job({"path": "/do"}, run_id="run-7", attempt=2)])
    assert [each.headers["idempotency-key"] for each in server.received] == ["run-7", "run-7"]


def test_a_synchronous_provider_is_sent_no_job_id(server: FakeServer) -> None:
    assert send(server, {"path": "/do", "json": {"id": "{job_id}"}}).json == {"id": "{job_id}"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "is no request: it has no path"),
        ({"prompt": "a shoe"}, "is no request: it has no path"),
        ({"path": 5}, "is no request: it has no path"),
        ({"path": "do"}, 'has a path that does not start with "/"'),
        ({"path": "@evil.example/"}, 'has a path that does not start with "/"'),
        ({"path": "/", "body": {}}, "has an unknown member, 'body'"),
        ({"path": "/", "json": 1, "form": {}}, "has both a json and a form"),
        ({"path": "/", "method": "post"}, "has no method of GET, POST, PUT, PATCH, DELETE"),
        ({"path": "/", "method": None}, "has no method of GET, POST, PUT, PATCH, DELETE"),
        ({"path": "/", "headers": []}, "has headers that are no object"),
        ({"path": "/", "headers": {"Host": "a"}}, "has a header 'Host' that is not a header that can be set"),
        (
            {"path": "/", "headers": {"X-A": "a\r\nX-B: b"}},
            "has a header 'X-A' that must be a text of printable ASCII, without spaces around it",
        ),
        ({"path": "/", "query": "a=1"}, "has a query that is no object"),
        ({"path": "/", "form": [1]}, "has a form that is no object"),
        (
            {"path": "/", "form": {}, "headers": {"Content-Type": "x/y"}},
            "gives a form a content type; the form has its own",
        ),
    ],
)
def test_a_body_that_is_no_request_is_refused_and_nothing_is_sent(server: FakeServer, body: Any, reason: str) -> None:
    outcome = perform(server.url, job=make_job(body))
    assert outcome == Rejected("TEMPLATE_INVALID", f"The model's template {reason}.", "dispatch")
    assert server.received == []


@pytest.mark.parametrize("path", ["/a\nb", "/\x00", "/" + "a" * 70_000, "/\ud800"])
def test_a_path_that_cannot_be_sent_is_refused(server: FakeServer, path: str) -> None:
    assert perform(server.url, {"path": path}) == Rejected(
        "TEMPLATE_INVALID", "The model's template and these inputs make no request that can be sent.", "dispatch"
    )
    assert server.received == []


@pytest.mark.parametrize(
    "body",
    [{"json": "\ud800"}, {"json": 2**70}, {"form": {"a\ud800": "\ud800"}}, {"query": {"\ud800": "\ud800"}}],
    ids=["text", "integer", "form", "query"],
)
def test_no_value_makes_the_adapter_raise(server: FakeServer, body: dict[str, Any]) -> None:
    outcome = perform(server.url, {"path": "/do", **body})
    assert isinstance(outcome, Finished) or (isinstance(outcome, Rejected) and outcome.code == "TEMPLATE_INVALID")


# --- Media ------------------------------------------------------------------------------------------------------------

HTTP_URL = "https://shop.example/a.png"


@pytest.mark.parametrize(
    ("media", "given", "sent"),
    [
        ("data_uri", HTTP_URL, DATA_URI),
        ("data_uri", "runflow://assets/1", DATA_URI),
        ("base64", HTTP_URL, DATA_URI.partition(",")[2]),
        ("base64", "data:image/png;base64,AAAA", DATA_URI.partition(",")[2]),
        ("url", HTTP_URL, HTTP_URL),
        ("url", "HTTP://shop.example/a.png", "HTTP://shop.example/a.png"),
        ("url", "runflow://assets/1", DATA_URI),
        ("url", "data:image/png;base64,AAAA", DATA_URI),
        ("data_uri", "", ""),
        ("data_uri", None, None),
    ],
)
def test_a_media_input_is_sent_in_the_form_that_the_config_names(
    server: FakeServer, media: str, given: Any, sent: Any
) -> None:
    received = send_media(server, {"path": "/do", "json": {"image": given}}, "/json/image", media=media)
    assert received.json == {"image": sent}


def test_a_list_of_media_inputs_is_sent_as_one_and_each_is_fetched_once(server: FakeServer) -> None:
    fetched = []

    def counted(url: str) -> Media:
        fetched.append(url)
        return Media(url.encode(), "")

    body = {
        "path": "/do",
        "json": {"images": ["https://a", "https://b", "https://a"], "mask": "https://b", "text": "https://a"},
    }
    job = make_job(body, media=("/json/images", "/json/mask"), fetch=counted)
    perform(server.url, job=job)
    uris = {
        letter: f"data:application/octet-stream;base64,{base64.b64encode(f'https://{letter}'.encode()).decode()}"
        for letter in "ab"
    }
    assert server.received[0].json == {
        "images": [uris["a"], uris["b"], uris["a"]],
        "mask": uris["b"],
        "text": "https://a",
    }
    assert fetched == ["https://a", "https://b"]
    assert body["json"]["images"] == ["https://a", "https://b", "https://a"], "the job's own body was changed"  # type: ignore[index]


def test_a_media_input_in_a_form_is_a_file(server: FakeServer) -> None:
    form = {
        "prompt": 'a "red" shoe',
        "n": 2,
        "is_good": True,
        "none": None,
        "deep": {"a": 1},
        "image[]": [HTTP_URL, "runflow://assets/1"],
        "tag": ["x", "y"],
    }
    received = send_media(server, {"path": "/do", "form": form}, "/form/image[]", media="url")
    assert received.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert received.form == [
        ("prompt", None, None, b'a "red" shoe'),
        ("n", None, None, b"2"),
        ("is_good", None, None, b"true"),
        ("deep", None, None, b'{"a":1}'),
        ("image[]", "image.png", "image/png", b"bytes"),
        ("image[]", "image.png", "image/png", b"bytes"),
        ("tag", None, None, b"x"),
        ("tag", None, None, b"y"),
    ]


def test_a_form_without_files_is_multipart_all_the_same(server: FakeServer) -> None:
    received = send(server, {"path": "/do", "form": {"prompt": "a shoe"}})
    assert received.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert received.form == [("prompt", None, None, b"a shoe")]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (
            FetchError("There is no such asset."),
            Rejected("INPUT_FETCH_FAILED", "There is no such asset.", "preprocess"),
        ),
        (
            FetchError("The server did not answer.", is_retryable=True),
            Unavailable("INPUT_FETCH_FAILED", "The server did not answer.", "preprocess"),
        ),
    ],
)
def test_a_media_input_that_cannot_be_had_ends_the_attempt_and_nothing_is_sent(
    server: FakeServer, fault: FetchError, outcome: Outcome
) -> None:
    def failing(url: str) -> Media:
        raise fault

    body = {"path": "/do", "json": {"image": HTTP_URL}}
    assert perform(server.url, job=make_job(body, media=("/json/image",), fetch=failing)) == outcome
    assert server.received == []


def test_a_media_input_without_a_place_is_a_fault_of_the_template(server: FakeServer) -> None:
    job = make_job({"path": "/do", "json": {}}, media=("/json/image",), fetch=no_fetch)
    assert perform(server.url, job=job) == Rejected(
        "TEMPLATE_INVALID",
        "The model's template has no place for a media input: there is no member 'image'.",
        "dispatch",
    )
    assert server.received == []


def test_a_number_beyond_64_bits_stays_exact(server: FakeServer) -> None:
    assert json.loads(send(server, {"path": "/do", "json": {"seed": 2**70}}).body) == {"seed": 2**70}
