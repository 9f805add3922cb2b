"""What an answer, or none, means for a run; and what a customer may not read in a provider's words."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from providers.base import Finished, Outcome, Rejected, Unavailable
from providers.http.client import Answer, _tls_context
from providers.http.outcomes import retry_after
from providers.http.words import Words
from tests.providers.fake_http_models import FakeServer, Received, Reply, text_reply
from tests.providers.http_support import make_job, perform, sync_adapter
from tests.runflow.test_outbound import CERTIFICATE, PRIVATE_KEY
from tests.threads import InThread, wait_until

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def outcome_of(reply: Reply | Callable[[Received], Reply], **config: Any) -> Outcome:
    """What one job becomes when the server answers so."""
    with FakeServer(reply if callable(reply) else lambda request: reply) as server:
        return perform(server.url, **config)


# --- Statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (302, Rejected("PROVIDER_REJECTED", "The provider answered HTTP 302.")),
        (400, Rejected("PROVIDER_REJECTED", "The provider answered HTTP 400.")),
        (401, Rejected("PROVIDER_REJECTED", "The provider does not accept this server's credentials.")),
        (403, Rejected("PROVIDER_REJECTED", "The provider does not accept this server's credentials.")),
        (404, Rejected("PROVIDER_REJECTED", "The provider answered HTTP 404.")),
        (408, Unavailable("PROVIDER_TIMEOUT", "The provider answered HTTP 408.")),
        (409, Rejected("PROVIDER_REJECTED", "The provider answered HTTP 409.")),
        (413, Rejected("PROVIDER_REJECTED", "The provider answered HTTP 413.")),
        (422, Rejected("PROVIDER_REJECTED", "The provider answered HTTP 422.")),
        (425, Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 425.")),
        (429, Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 429.")),
        (500, Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 500.")),
        (502, Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 502.")),
        (503, Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 503.")),
        (504, Unavailable("PROVIDER_TIMEOUT", "The provider answered HTTP 504.")),
        (599, Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 599.")),
    ],
)
def test_a_status_has_its_retry_class(status: int, outcome: Outcome) -> None:
    assert outcome_of(Reply(status, {"error": None}, {"Location": "/elsewhere"})) == outcome


@pytest.mark.parametrize("status", [401, 403, 407])
def test_words_about_credentials_are_not_the_customer_s(status: int) -> None:
    assert outcome_of(Reply(status, {"error": "key sk-12**89 is wrong"}), outcome={"error": "body.error"}) == Rejected(
        "PROVIDER_REJECTED", "The provider does not accept this server's credentials."
    )


def test_a_redirect_of_a_request_is_not_followed() -> None:
    with FakeServer(lambda request: Reply(307, headers={"Location": "/elsewhere"})) as server:
        perform(server.url)
    assert server.lines == ["POST /do"]


def test_the_config_s_list_of_statuses_replaces_the_default() -> None:
    assert outcome_of(Reply(404), retryable_statuses=[404]) == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider answered HTTP 404."
    )
    assert outcome_of(Reply(500), retryable_statuses=[404]) == Rejected(
        "PROVIDER_REJECTED", "The provider answered HTTP 500."
    )


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("-1", None),
        ("soon", None),
        ("1e9", None),
        ("9" * 400, None),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 13:00:30 +0100", 30),
        ("Thu, 01 Jan 2026 12:00:30 -0000", 30),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("Thu, 99 Jan 2026 11:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    headers = {} if header is None else {"retry-after": header}
    assert retry_after(Answer(429, headers, b"", "", None), now=NOW) == seconds


def test_retry_after_goes_with_a_retryable_status() -> None:
    assert outcome_of(Reply(503, headers={"Retry-After": "7"})) == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider answered HTTP 503.", retry_after=7
    )


# --- The provider's own words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "error", "outcome"),
    [
        (Reply(422, {"error": {"message": "too big"}}), "body.error.message", Rejected("PROVIDER_REJECTED", "too big")),
        (Reply(503, {"error": "loading"}), "body.error", Unavailable("PROVIDER_UNAVAILABLE", "loading")),
        (text_reply("no scale", status=400), "body", Rejected("PROVIDER_REJECTED", "no scale")),
        (Reply(400, {"a": 1}), "body.error", Rejected("PROVIDER_REJECTED", "The provider answered HTTP 400.")),
        (Reply(400, [{"loc": "x"}]), "body", Rejected("PROVIDER_REJECTED", '[{"loc":"x"}]')),
        (Reply(200, {"error": "no face found"}), "body.error", Rejected("EXECUTION_FAILED", "no face found")),
        (Reply(200, {"error": {"code": 7}}), "body.error", Rejected("EXECUTION_FAILED", '{"code":7}')),
        (Reply(200, {"error": True}), "body.error", Rejected("EXECUTION_FAILED", "true")),
        (Reply(200, {"error": "\x00"}), "body.error", Rejected("EXECUTION_FAILED", "The provider reports an error.")),
    ],
)  # fmt: skip
def test_an_error_is_told_in_the_provider_s_words(reply: Reply, error: str, outcome: Outcome) -> None:
    assert outcome_of(reply, outcome={"error": error}) == outcome


@pytest.mark.parametrize("nothing", [None, False, "", [], {}, 0])
def test_what_is_empty_is_no_error(nothing: Any) -> None:
    assert isinstance(outcome_of(Reply(200, {"error": nothing}), outcome={"error": "body.error"}), Finished)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("The picture is upside down.", "The picture is upside down."),
        ("size must be 1/2 of 10, see /input/size", "size must be 1/2 of 10, see /input/size"),
        ("mask must be image/png", "mask must be image/png"),
        ("key topsecret, Bearer topsecret", "key ***, Bearer ***"),
        ("topsecret-longer and topsecret", "*** and ***"),
        ("cannot GET http://10.0.0.7:8000/x?y=1", "cannot GET [address]"),
        ("redis://cache:6379/0 is away", "[address] is away"),
        ("connect to 10.0.0.7:5432 failed", "connect to [address] failed"),
        ("connect to [fd00::1]:5432 failed", "connect to [address] failed"),
        ("gpu-7.internal:8188 and localhost:3 are down", "[address] and [address] are down"),
        ("Models.example is down, a model is not", "[address] is down, a model is not"),
        ("no file /home/me/a b.txt", "no file [path] b.txt"),
        ("cannot open '/x/weights.safetensors'", "cannot open '[path]'"),
        (r"cannot open C:\models\a.bin", "cannot open [path]"),
        ("Out of memory\nTraceback (most recent call last):\n  File x\nValueError: y", "Out of memory"),
        ("a\x00b\ud800c\n\n d", "a b?c d"),
        ("x" * 501, "x" * 499 + "…"),
        ("x" * 500, "x" * 500),
        ("x" * 495 + "topsecret" + "y", "x" * 495 + "***y"),
        (" " * 3000 + "late", ""),
    ],
)
def test_words_for_customers_hold_no_inside(text: str, told: str) -> None:
    assert Words(secrets=("topsecret-longer", "topsecret"), host="models.example").told(text) == told


def test_a_host_that_is_a_word_is_hidden_with_its_port_only() -> None:
    assert Words(secrets=(), host="model").told("the model at model:8000 is down") == "the model at [address] is down"


def test_hostile_words_take_no_time() -> None:
    """Patterns that grow with the square of the length would take minutes for these."""
    for text in ("/-" * 500_000, "a." * 500_000, "a://" * 250_000, "[:" * 500_000):
        assert len(Words(secrets=("s",), host="models.example").told(text)) <= 500


def test_a_secret_is_in_no_message_and_in_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOKEN", "topsecret")
    # Not httpcore's: it tells of every header that an answer has, and the settings keep it quiet at any level.
    for logger in (None, "httpx"):
        caplog.set_level(logging.DEBUG, logger)
    headers = {"Authorization": {"env": "TOKEN", "prefix": "Bearer "}}

    def answer(request: Received) -> Reply:
        echo = request.headers["authorization"]
        if request.path == "/do/breaks":
            return Reply(breaks=True)
        status = int(request.path.rpartition("/")[2])
        return Reply(
            status, {"error": f"you sent {echo}", "outputs": [f"https://evil.example/{echo}"]}, {"X-Echo": echo}
        )

    config: dict[str, Any] = {"headers": headers, "outcome": {"error": "body.error", "outputs": "body.outputs"}}
    with FakeServer(answer) as server:
        outcomes = [
            perform(server.url, {"path": f"/do/{kind}"}, **config)
            for kind in ("200", "302", "401", "422", "500", "breaks")
        ]
        outcomes.append(perform(server.url, {"path": "/do/200"}, **{**config, "outcome": {"outputs": "body.outputs"}}))
    assert len(server.received) == 7
    assert [type(each) for each in outcomes] == [
        Rejected,
        Rejected,
        Rejected,
        Rejected,
        Unavailable,
        Unavailable,
        Rejected,
    ]
    assert "you sent Bearer ***" in repr(outcomes)
    assert "topsecret" not in repr(outcomes)
    assert caplog.records
    assert "topsecret" not in caplog.text


# --- No answer --------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_refused_connection_is_worth_another_attempt(closed_port: int) -> None:
    assert perform(f"http://127.0.0.1:{closed_port}") == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch"
    )


def test_a_name_that_does_not_resolve_is_worth_another_attempt() -> None:
    assert perform("http://nobody.invalid") == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch"
    )


@pytest.mark.parametrize(
    "reply",
    [
        Reply(breaks=True),
        Reply(200, b"half", {"Content-Type": "image/png"}, stops_early=True),
        Reply(200, b"no gzip", {"Content-Encoding": "gzip"}),
    ],
    ids=["reset", "cut off", "not in its encoding"],
)
def test_an_answer_that_breaks_is_worth_another_attempt(reply: Reply) -> None:
    assert outcome_of(reply) == Unavailable("PROVIDER_UNAVAILABLE", "The connection to the provider broke.")


def test_a_server_that_hangs_ends_at_the_timeout_and_is_asked_once() -> None:
    over = threading.Event()
    with FakeServer(lambda request: Reply(waits_for=over)) as server:
        outcome = perform(server.url, timeout=0.2)
        over.set()
    assert outcome == Unavailable("PROVIDER_TIMEOUT", "The provider did not answer within 0.2 seconds.")
    assert server.lines == ["POST /do"]


def test_an_answer_that_trickles_ends_at_the_timeout() -> None:
    """Each byte comes in time, all of them do not."""
    over, sent = threading.Event(), []

    def trickle() -> None:
        sent.append(1)
        over.wait(0.05)

    with FakeServer(lambda request: Reply(pieces=[b"x"] * 1000, before_piece=trickle)) as server:
        outcome = perform(server.url, timeout=0.3)
        over.set()
    assert outcome == Unavailable("PROVIDER_TIMEOUT", "The provider did not answer within 0.3 seconds.")
    assert len(sent) < 1000


def test_the_run_s_time_is_the_timeout_of_a_synchronous_provider() -> None:
    over = threading.Event()
    with FakeServer(lambda request: Reply(waits_for=over)) as server:
        outcome = perform(server.url, run_timeout=0.2)
        over.set()
    assert outcome == Unavailable("PROVIDER_TIMEOUT", "The provider did not answer within 0.2 seconds.")


@pytest.mark.parametrize("has_authority", [True, False])
def test_a_certificate_is_checked_against_the_authorities_that_the_environment_names(
    has_authority: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_text(CERTIFICATE)
    key.write_text(PRIVATE_KEY)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    if has_authority:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    real = socket.getaddrinfo
    monkeypatch.setattr(
        "socket.getaddrinfo",
        lambda host, *args, **named: real("127.0.0.1" if host == "files.example.com" else host, *args, **named),
    )
    _tls_context.cache_clear()
    try:
        with FakeServer(lambda request: text_reply("done"), tls=tls) as server:
            outcome = perform(f"https://files.example.com:{server.port}")
    finally:
        _tls_context.cache_clear()
    if has_authority:
        assert isinstance(outcome, Finished)
        assert server.lines == ["POST /do"]
    else:
        assert outcome == Unavailable("PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch")
        assert server.lines == []


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_an_answer_that_calls_itself_json_and_is_not_is_worth_another_attempt(body: bytes) -> None:
    assert outcome_of(Reply(200, body, {"Content-Type": "application/json"})) == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider's answer cannot be read."
    )


# --- Sets of jobs -----------------------------------------------------------------------------------------------------


def test_outcomes_are_in_the_order_of_the_jobs_and_one_that_fails_fails_alone() -> None:
    def answer(request: Received) -> Reply:
        number = int(request.path[1:])
        return Reply(500) if number == 2 else text_reply(str(number))

    with FakeServer(answer) as server:
        outcomes = sync_adapter(server.url).perform([make_job({"path": f"/{number}"}) for number in range(5)])
    bodies = [each.artifacts[0].body if isinstance(each, Finished) else None for each in outcomes]
    assert bodies == [b"0", b"1", None, b"3", b"4"]


def test_no_jobs_are_no_work() -> None:
    assert sync_adapter("http://127.0.0.1:1").perform([]) == []


def test_as_many_requests_as_the_config_says_are_made_at_once() -> None:
    go = threading.Event()
    with FakeServer(lambda request: Reply(200, b"done", waits_for=go)) as server:
        adapter = sync_adapter(server.url, concurrency=3)
        with InThread(lambda: adapter.perform([make_job({"path": "/do"})] * 5)) as working:
            wait_until(lambda: len(server.received) == 3, what="three requests")
            assert not working.is_done
            assert len(server.received) == 3
            go.set()
    assert len(server.received) == 5
    assert all(isinstance(each, Finished) for each in working.result)


def test_a_finished_job_says_how_long_the_provider_took() -> None:
    outcome = outcome_of(text_reply("done"))
    assert isinstance(outcome, Finished)
    assert outcome.timing is not None
    assert list(outcome.timing) == ["execute"]
    assert outcome.timing["execute"] > 0
