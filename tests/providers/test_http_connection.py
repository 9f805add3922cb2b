"""Asynchronous providers: jobs handed over, asked about, collected, cancelled; and servers that are not there."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from providers.base import (
    Accepted,
    Artifact,
    Canceled,
    Connection,
    Done,
    EndpointDown,
    FetchError,
    Finished,
    Gone,
    Media,
    Rejected,
    Seen,
    Unavailable,
    Unknown,
    Waiting,
)
from providers.http.connection import _tell_of_state
from tests.providers.fake_http_models import PNG, FakeServer, Received, Reply
from tests.providers.http_support import ASYNC, OUR_ID, connect, make_job, placed
from tests.threads import InThread, wait_until

STATES = {
    "queued": ["new"],
    "running": ["busy"],
    "succeeded": ["done", True],
    "failed": ["broken"],
    "canceled": ["stopped"],
}
CONFIG: dict[str, Any] = {
    **ASYNC,
    "cancel": "POST /jobs/{job_id}/cancel",
    "outcome": {
        "job_id": "body.id",
        "state": "body.state",
        "states": STATES,
        "error": "body.error",
        "outputs": [{"select": "body.text", "as": "text"}],
        "seed": "body.seed",
    },
}
# A server that knows a job by the id that we give it.
OUR_ID_CONFIG: dict[str, Any] = {
    **CONFIG,
    "outcome": {name: value for name, value in CONFIG["outcome"].items() if name != "job_id"},
}
OUR_ID_JOB = make_job({"path": "/jobs", "json": {"id": "{job_id}"}})
TEXT = Artifact(b"a cat", "text/plain", "text", "txt")


@contextmanager
def serving(answer: Any, **changes: Any) -> Iterator[tuple[FakeServer, Connection]]:
    """A server that answers so (a Reply, or a function), and a connection to it."""
    with (
        FakeServer(answer if callable(answer) else lambda request: answer) as server,
        closing(connect(server.url, config=CONFIG, **changes)) as connection,
    ):
        yield server, connection


def submit_one(answer: Any, job: Any = None, **changes: Any) -> Any:
    with serving(answer, **changes) as (_, connection):
        (submitted,) = connection.submit([job or make_job({"path": "/jobs"})])
    return submitted


def look(answer: Any, *, age: float = 60, **changes: Any) -> Seen | None:
    """What `poll` says about the one job j1."""
    with serving(answer, **changes) as (_, connection):
        seen = connection.poll([placed(age=age)])
    assert set(seen) <= {"j1"}
    return seen.get("j1")


def down(answer: Any, **changes: Any) -> str:
    with serving(answer, **changes) as (server, connection), pytest.raises(EndpointDown) as caught:
        connection.poll([placed()])
    return str(caught.value).removeprefix(f"{server.url}: ")


# --- Submitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "submitted"),
    [
        (Reply(201, {"id": "j1"}), Accepted("j1")),
        (Reply(200, {"id": 17}), Accepted("17")),
        (Reply(200, {"id": "operations/17"}), Accepted("operations/17")),
        (Reply(200, {"id": "j1", "error": None}), Accepted("j1")),
        (Reply(200, {"id": None}), Rejected("PROVIDER_REJECTED", "The provider's answer names no job.", "dispatch")),
        (Reply(200, {"id": True}), Rejected("PROVIDER_REJECTED", "The provider's answer names no job.", "dispatch")),
        (Reply(200, {"id": "a\x00"}), Rejected("PROVIDER_REJECTED", "The provider's answer names no job.", "dispatch")),
        (
            Reply(200, {"id": "a" * 256}),
            Rejected("PROVIDER_REJECTED", "The provider's answer names no job.", "dispatch"),
        ),
        (Reply(200, b"j1"), Rejected("PROVIDER_REJECTED", "The provider's answer names no job.", "dispatch")),
        (Reply(200, {"id": "j1", "error": "no"}), Rejected("EXECUTION_FAILED", "no", "dispatch")),
        (Reply(422, {"error": "too big"}), Rejected("PROVIDER_REJECTED", "too big", "dispatch")),
        (
            Reply(429, {"error": "slow down"}, {"Retry-After": "9"}),
            Unavailable("PROVIDER_UNAVAILABLE", "slow down", "dispatch", 9),
        ),
        (Reply(502), Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 502.", "dispatch")),
        (Reply(504), Unavailable("PROVIDER_TIMEOUT", "The provider answered HTTP 504.", "dispatch")),
        (Reply(breaks=True), Unavailable("PROVIDER_UNAVAILABLE", "The connection to the provider broke.", "dispatch")),
    ],
)
def test_a_submission_where_the_server_makes_the_ids(reply: Reply, submitted: object) -> None:
    assert submit_one(reply) == submitted


@pytest.mark.parametrize(
    ("reply", "submitted"),
    [
        (Reply(201, {"anything": 1}), Accepted(OUR_ID)),
        (Reply(200), Accepted(OUR_ID)),
        (Reply(422, {"error": "too big"}), Rejected("PROVIDER_REJECTED", "too big", "dispatch")),
        (Reply(500), Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 500.", "dispatch")),
        (Reply(503), Unavailable("PROVIDER_UNAVAILABLE", "The provider answered HTTP 503.", "dispatch")),
        (Reply(502), Unknown("The provider answered HTTP 502.")),
        (Reply(504), Unknown("The provider answered HTTP 504.")),
        (Reply(breaks=True), Unknown("The connection to the provider broke.")),
        (Reply(200, b"half", stops_early=True), Unknown("The connection to the provider broke.")),
    ],
)
def test_a_submission_where_the_server_takes_our_id(reply: Reply, submitted: object) -> None:
    assert submit_one(reply, OUR_ID_JOB, outcome=OUR_ID_CONFIG["outcome"]) == submitted


@pytest.mark.parametrize(
    ("config", "submitted"),
    [
        (CONFIG, Unavailable("PROVIDER_TIMEOUT", "The provider did not answer within 0.2 seconds.", "dispatch")),
        (OUR_ID_CONFIG, Unknown("The provider did not answer within 0.2 seconds.")),
    ],
    ids=["the server's id", "our id"],
)
def test_a_submission_without_an_answer_can_be_looked_up_by_our_id_only(
    config: dict[str, Any], submitted: object
) -> None:
    over = threading.Event()
    with serving(lambda request: Reply(waits_for=over), **{**config, "timeout": 0.2}) as (server, connection):
        assert connection.submit([OUR_ID_JOB]) == [submitted]
        over.set()
    assert server.lines == ["POST /jobs"]


def test_an_endpoint_that_refuses_the_connection_has_not_got_the_job() -> None:
    with FakeServer() as server:
        url = server.url
    with closing(connect(url, config=OUR_ID_CONFIG)) as connection:
        assert connection.submit([OUR_ID_JOB]) == [
            Unavailable("PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch")
        ]


def test_our_id_goes_where_the_template_says() -> None:
    body = {
        "method": "PUT",
        "path": "/jobs/{job_id}/new",
        "headers": {"X-Job": "{job_id}"},
        "query": {"id": "{job_id}"},
        "json": {"ids": ["{job_id}"], "text": "my {job_id}", "n": 1},
    }
    with serving(Reply(200), outcome=OUR_ID_CONFIG["outcome"]) as (server, connection):
        assert connection.submit([make_job(body)]) == [Accepted(OUR_ID)]
    (received,) = server.received
    assert (received.method, received.path) == ("PUT", f"/jobs/{OUR_ID}/new")
    assert (received.headers["x-job"], received.query) == (OUR_ID, [("id", OUR_ID)])
    assert received.json == {"ids": [OUR_ID], "text": "my {job_id}", "n": 1}


def test_a_template_that_places_no_id_is_refused_where_the_server_needs_it() -> None:
    with serving(Reply(200), outcome=OUR_ID_CONFIG["outcome"]) as (server, connection):
        assert connection.submit([make_job({"path": "/jobs"})]) == [
            Rejected(
                "TEMPLATE_INVALID",
                "The model's template places no {job_id}, and the provider's config takes no job_id from the answer.",
                "dispatch",
            )
        ]
    assert server.received == []


def test_a_set_is_submitted_side_by_side_and_each_job_has_its_own_answer() -> None:
    everyone_is_here = threading.Barrier(4, timeout=10)

    def answer(request: Received) -> Reply:
        everyone_is_here.wait()
        number = request.json["number"]
        return Reply(422, {"error": f"not {number}"}) if number == 2 else Reply(201, {"id": f"j{number}"})

    def failing(url: str) -> Media:
        raise FetchError("There is no such asset.")

    jobs = [make_job({"path": "/jobs", "json": {"number": number}}) for number in range(4)]
    jobs.insert(1, make_job({"path": "/jobs", "json": {"image": "runflow://"}}, media=("/json/image",), fetch=failing))
    jobs.append(make_job({"path": "jobs"}))
    jobs.append(make_job({"path": "/jobs\x00"}))
    with serving(answer) as (server, connection):
        submitted = connection.submit(jobs)
    assert submitted == [
        Accepted("j0"),
        Rejected("INPUT_FETCH_FAILED", "There is no such asset.", "preprocess"),
        Accepted("j1"),
        Rejected("PROVIDER_REJECTED", "not 2", "dispatch"),
        Accepted("j3"),
        Rejected("TEMPLATE_INVALID", 'The model\'s template has a path that does not start with "/".', "dispatch"),
        Rejected(
            "TEMPLATE_INVALID", "The model's template and these inputs make no request that can be sent.", "dispatch"
        ),
    ]
    assert len(server.received) == 4


def test_the_idempotency_key_goes_with_the_submission_only() -> None:
    with serving(Reply(200, {"id": "j1", "state": "busy"}), idempotency_header="Idempotency-Key") as (
        server,
        connection,
    ):
        connection.submit([make_job({"path": "/jobs"}, run_id="run-7")])
        connection.poll([placed()])
        connection.cancel([placed()])
    assert [each.headers.get("idempotency-key") for each in server.received] == ["run-7", None, None]


# --- Polling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ({"state": "new"}, Waiting(is_running=False)),
        ({"state": "busy"}, Waiting()),
        ({"state": "thinking"}, Waiting()),
        ({"state": None}, Waiting()),
        ({}, Waiting()),
        ({"state": "broken", "error": "no face found"}, Rejected("EXECUTION_FAILED", "no face found")),
        ({"state": "broken"}, Rejected("EXECUTION_FAILED", "The provider reports that the job failed.")),
        (
            {"state": "broken", "error": "\x00"},
            Rejected("EXECUTION_FAILED", "The provider reports that the job failed."),
        ),
        ({"state": "stopped"}, Canceled()),
        ({"state": "busy", "error": "a warning"}, Waiting()),
    ],
)
def test_a_state_is_what_the_config_says(body: dict[str, Any], seen: Seen) -> None:
    assert look(Reply(200, body)) == seen


@pytest.mark.parametrize("state", ["done", True])
def test_a_job_that_has_succeeded_is_done(state: object) -> None:
    assert isinstance(look(Reply(200, {"state": state, "text": "a cat"})), Done)


def test_a_state_that_the_config_does_not_name_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    _tell_of_state.cache_clear()
    with serving(lambda request: Reply(200, {"state": "thinking"}), concurrency=1) as (_, connection):
        connection.poll([placed("j1"), placed("j2")])
        connection.poll([placed("j1")])
    records = [record for record in caplog.records if record.name == "providers.http.connection"]
    assert [(record.levelno, record.getMessage()) for record in records] == [
        (logging.WARNING, "Provider models: the state 'thinking' is not among its states")
    ]


@pytest.mark.parametrize("status", [400, 404, 410, 422])
@pytest.mark.parametrize(
    ("age", "seen"), [(0, Waiting(is_running=False)), (9.9, Waiting(is_running=False)), (10, Gone()), (60, Gone())]
)
def test_a_job_that_the_server_does_not_know_is_lost_after_a_while(status: int, age: float, seen: Seen) -> None:
    assert look(Reply(status), age=age) == seen


def test_how_long_that_is_can_be_set() -> None:
    assert look(Reply(404), age=0, lost_after=0) == Gone()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(401), "It answered HTTP 401 when asked for a job."),
        (Reply(302), "It answered HTTP 302 when asked for a job."),
        (Reply(500), "It answered HTTP 500 when asked for a job."),
        (Reply(503), "It answered HTTP 503 when asked for a job."),
        (Reply(200, b"{", {"Content-Type": "application/json"}), "Its answer about a job cannot be read."),
        (Reply(breaks=True), "The connection to the provider broke."),
    ],
)
def test_a_server_that_says_nothing_of_any_job_is_down(reply: Reply, reason: str) -> None:
    assert down(reply) == reason


def test_a_server_that_answers_about_some_jobs_is_not_down() -> None:
    def answer(request: Received) -> Reply:
        return Reply(500) if request.path == "/jobs/j1" else Reply(200, {"state": "busy"})

    with serving(answer) as (_, connection):
        assert connection.poll([placed("j1"), placed("j2")]) == {"j2": Waiting()}


def test_a_server_that_falls_silent_is_not_asked_about_the_jobs_that_are_left() -> None:
    over = threading.Event()

    def answer(request: Received) -> Reply:
        return Reply(200, {"state": "busy"}, waits_for=over if request.path == "/jobs/j1" else None)

    with serving(answer, concurrency=1, timeout=0.2) as (server, connection):
        assert connection.poll([placed(f"j{number}") for number in range(9)]) == {"j0": Waiting()}
        assert server.lines == ["GET /jobs/j0", "GET /jobs/j1"]
        over.set()


def test_a_server_that_is_not_there_is_down() -> None:
    with FakeServer() as server:
        url = server.url
    with closing(connect(url)) as connection:
        for ask in (lambda: connection.poll([placed()]), lambda: connection.check()):
            with pytest.raises(EndpointDown) as caught:
                ask()
            assert str(caught.value) == f"{url}: The provider cannot be reached."


@pytest.mark.parametrize("status", [408, 425, 429])
def test_a_server_that_says_not_now_is_left_alone_and_is_not_down(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("providers.http.connection.monotonic", lambda: now)
    replies = iter([Reply(status, headers={"Retry-After": "7"}), Reply(200, {"state": "busy"})])
    with serving(lambda request: next(replies)) as (server, connection):
        assert connection.poll([placed()]) == {}
        now = 1006.9
        assert connection.poll([placed()]) == {}
        assert len(server.received) == 1
        now = 1007.0
        assert connection.poll([placed()]) == {"j1": Waiting()}


def test_a_server_that_says_not_now_is_not_asked_about_the_jobs_that_are_left_but_still_to_cancel() -> None:
    with serving(Reply(429, headers={"Retry-After": "60"}), concurrency=1) as (server, connection):
        assert connection.poll([placed("j1"), placed("j2")]) == {}
        assert connection.poll([placed("j1"), placed("j2")]) == {}
        connection.cancel([placed("j1"), placed("j2")])
    assert server.lines == ["GET /jobs/j1", "POST /jobs/j1/cancel", "POST /jobs/j2/cancel"]


@pytest.mark.parametrize(("header", "seconds"), [({}, 1), ({"Retry-After": "86400"}, 60)])
def test_the_pause_is_bounded(header: dict[str, str], seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("providers.http.connection.monotonic", lambda: now)
    with serving(lambda request: Reply(429, headers=header)) as (server, connection):
        connection.poll([placed()])
        now += seconds - 0.1
        connection.poll([placed()])
        assert len(server.received) == 1
        now += 0.1
        connection.poll([placed()])
        assert len(server.received) == 2


def test_a_job_is_not_asked_about_again_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("providers.http.connection.monotonic", lambda: now)
    with serving(lambda request: Reply(200, {"state": "busy"}), poll_interval=2) as (server, connection):
        assert connection.poll([placed("j1")]) == {"j1": Waiting()}
        now = 1001.0
        assert connection.poll([placed("j1"), placed("j2")]) == {"j2": Waiting()}
        now = 1002.0
        assert connection.poll([placed("j1"), placed("j2")]) == {"j1": Waiting()}
        now = 1002.9
        assert connection.poll([placed("j1"), placed("j2")]) == {}
        now = 1003.0
        assert connection.poll([placed("j1"), placed("j2")]) == {"j2": Waiting()}
    assert server.lines == ["GET /jobs/j1", "GET /jobs/j2", "GET /jobs/j1", "GET /jobs/j2"]


def test_no_more_jobs_are_asked_about_at_once_than_the_config_says() -> None:
    go = threading.Event()
    with serving(lambda request: Reply(200, {"state": "busy"}, waits_for=go), concurrency=3) as (server, connection):
        jobs = [placed(f"j{number}") for number in range(8)]
        with InThread(lambda: connection.poll(jobs)) as polling:
            wait_until(lambda: len(server.received) == 3, what="three requests")
            assert not polling.is_done
            assert len(server.received) == 3
            go.set()
    assert polling.result == {f"j{number}": Waiting() for number in range(8)}


def test_a_job_s_id_cannot_leave_its_path() -> None:
    with serving(Reply(200, {"state": "busy"})) as (server, connection):
        connection.poll([placed("a?b#c d")])
    assert [(each.path, each.query) for each in server.received] == [("/jobs/a%3Fb%23c%20d", [])]


def test_a_status_that_is_too_large_ends_the_job() -> None:
    assert look(Reply(200, b"x" * 101), max_output_bytes=100) == Rejected(
        "OUTPUT_FETCH_FAILED", "The provider's outputs are larger than is allowed.", "collect"
    )


# --- Collecting -------------------------------------------------------------------------------------------------------


def collect(answer: Any, **changes: Any) -> Any:
    with serving(answer, **changes) as (_, connection):
        done = connection.poll([placed()])["j1"]
        assert isinstance(done, Done)
        (outcome,) = connection.collect([(placed(), done)])
    return outcome


def test_outputs_are_taken_from_the_status() -> None:
    outcome = collect(Reply(200, {"state": "done", "text": "a cat", "seed": 7}))
    assert outcome == Finished((TEXT,), seed=7)


def test_a_job_that_is_done_without_outputs_has_failed() -> None:
    assert collect(Reply(200, {"state": "done"})) == Rejected(
        "EXECUTION_FAILED", "The provider's answer has no outputs.", "collect"
    )


def test_outputs_can_be_asked_for_apart() -> None:
    def answer(request: Received) -> Reply:
        is_status = request.path == "/jobs/j1"
        return Reply(200, {"state": "done"} if is_status else {"text": "a cat", "seed": 7})

    assert collect(answer, result="GET /jobs/{job_id}/result") == Finished((TEXT,), seed=7)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(404), "The provider does not give the result."),
        (Reply(500), "The provider does not give the result."),
        (Reply(200, b"{", {"Content-Type": "application/json"}), "The provider does not give the result."),
        (Reply(breaks=True), "The connection to the provider broke."),
    ],
)
def test_a_result_that_cannot_be_had_is_worth_another_attempt(reply: Reply, message: str) -> None:
    def answer(request: Received) -> Reply:
        return Reply(200, {"state": "done"}) if request.path == "/jobs/j1" else reply

    assert collect(answer, result="GET /jobs/{job_id}/result") == Unavailable("OUTPUT_FETCH_FAILED", message, "collect")


def test_outcomes_are_in_the_order_of_the_jobs_and_files_are_downloaded() -> None:
    def answer(request: Received) -> Reply:
        if request.path.startswith("/files/"):
            return Reply(404) if request.path.endswith("j2") else Reply(200, PNG)
        return Reply(200, {"state": "done", "url": request.path.replace("jobs", "files")})

    outcome = {**CONFIG["outcome"], "outputs": [{"select": "body.url", "as": "url"}]}
    jobs = [placed(f"j{number}") for number in range(4)]
    with serving(answer, outcome=outcome) as (_, connection):
        seen = connection.poll(jobs)
        outcomes = connection.collect([(job, done) for job in jobs if isinstance(done := seen[job.job_id], Done)])
    finished = Finished((Artifact(PNG, "image/png", "image", "png", 3, 2),))
    missing = Unavailable("OUTPUT_FETCH_FAILED", "An output could not be downloaded.", "collect")
    assert outcomes == [finished, finished, missing, finished]


def test_base64_in_a_status_is_an_output_too() -> None:
    outcome = {**CONFIG["outcome"], "outputs": "body.image"}
    reply = Reply(200, {"state": "done", "image": base64.b64encode(PNG).decode()})
    assert collect(reply, outcome=outcome) == Finished((Artifact(PNG, "image/png", "image", "png", 3, 2),))


# --- Cancelling, health -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 404, 409, 500])
def test_what_a_server_says_to_a_cancellation_does_not_count(status: int) -> None:
    with serving(Reply(status)) as (server, connection):
        connection.cancel([placed("j1"), placed("j2")])
    assert sorted(server.lines) == ["POST /jobs/j1/cancel", "POST /jobs/j2/cancel"]


def test_a_provider_without_a_cancel_call_is_asked_nothing() -> None:
    with serving(Reply(200), cancel=None) as (server, connection):
        connection.cancel([placed()])
    assert server.received == []


def test_a_cancellation_without_an_answer_says_that_the_server_is_down() -> None:
    with serving(Reply(breaks=True)) as (server, connection), pytest.raises(EndpointDown) as caught:
        connection.cancel([placed()])
    assert str(caught.value) == f"{server.url}: The connection to the provider broke."


@pytest.mark.parametrize("status", [200, 301, 401, 404, 500])
def test_without_a_health_call_any_answer_is_a_sign_of_life(status: int) -> None:
    with serving(Reply(status)) as (server, connection):
        connection.check()
    assert server.lines == ["GET /"]


def test_a_health_call_must_be_answered_well() -> None:
    with serving(lambda request: Reply(200), health="GET /health") as (server, connection):
        connection.check()
    assert server.lines == ["GET /health"]
    with serving(Reply(503), health="GET /health") as (server, connection), pytest.raises(EndpointDown) as caught:
        connection.check()
    assert str(caught.value) == f"{server.url}: HTTP 503 from GET /health."


def test_every_request_has_the_config_s_headers_and_no_fault_repeats_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "topsecret")
    headers = {"Authorization": {"env": "TOKEN", "prefix": "Bearer "}}

    def answer(request: Received) -> Reply:
        return Reply(200, {"id": "j1", "state": "broken", "error": f"bad {request.headers['authorization']}"})

    with serving(answer, headers=headers, health="GET /health") as (server, connection):
        submitted, seen = connection.submit([make_job({"path": "/jobs"})]), connection.poll([placed()])
        connection.cancel([placed()])
        connection.check()
    assert [each.headers["authorization"] for each in server.received] == ["Bearer topsecret"] * 4
    assert submitted == [Rejected("EXECUTION_FAILED", "bad Bearer ***", "dispatch")]
    assert seen == {"j1": Rejected("EXECUTION_FAILED", "bad Bearer ***")}


def test_nothing_is_sent_for_no_jobs() -> None:
    with serving(Reply(200)) as (server, connection):
        assert (connection.submit([]), connection.poll([]), connection.collect([])) == ([], {}, [])
        connection.cancel([])
    assert server.received == []


def test_connecting_opens_nothing() -> None:
    with FakeServer() as server:
        connect(server.url).close()
    assert server.received == []
