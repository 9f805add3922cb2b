"""Handing jobs over: what a server is sent, and what its answers become."""

from __future__ import annotations

import io
import socket
from typing import Any

import pytest
from PIL import Image

from providers.base import (
    Accepted,
    Done,
    Gone,
    Outcome,
    Rejected,
    Submitted,
    Unavailable,
    Unknown,
    Waiting,
)
from providers.comfyui.connection import ComfyConnection
from tests.providers.comfyui import (
    OLD,
    collect,
    connect,
    empty_image,
    finished,
    make_job,
    place,
    run,
    sample,
    save_image,
    small_graph,
    submit,
    wait_for_end,
    wait_until_running,
)
from tests.providers.fake_comfyui import FakeComfyUI

UNREACHABLE = Unavailable("PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch")


# --- What is sent ---------------------------------------------------------------------------------------------------


def test_a_graph_runs_and_its_picture_comes_back(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    job = make_job(sample("graph-01_empty_scale_save"), run_id="run-7", attempt=2)
    result = finished(run(connection, job))
    (artifact,) = result.artifacts
    assert (artifact.type, artifact.mime_type, artifact.extension) == ("image", "image/png", "png")
    assert (artifact.width, artifact.height) == (768, 768)
    assert Image.open(io.BytesIO(artifact.body)).getpixel((0, 0)) == (0x33, 0x66, 0xCC)
    assert result.seed is None
    assert result.timing is not None
    assert list(result.timing) == ["execute"]
    assert comfy.submits == {job.job_id: 1}
    assert comfy.executed == {job.job_id: 1}
    assert comfy.views == {"runflow/run-7/2/t01_00001_.png": 1}


def test_a_submission_has_our_id_a_text_as_client_id_and_never_a_number(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    job = make_job(small_graph(), run_id="run-7", attempt=2)
    submit(connection, job)
    assert list(comfy.received) == [
        {
            "prompt": {"1": empty_image(), "2": save_image("1", "runflow/run-7/2/pic")},
            "prompt_id": job.job_id,
            "client_id": "runflow",
            "extra_data": {"runflow": {"run_id": "run-7", "attempt": 2}},
        }
    ]
    assert job.body == small_graph()


def test_a_set_is_handed_over_whole_and_answered_in_order(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = [make_job(small_graph()) if number % 2 else make_job(None) for number in range(40)]
    bad = Rejected("TEMPLATE_INVALID", "The model's template is no graph.", "dispatch")
    assert connection.submit(jobs) == [Accepted(job.job_id, 2) if job.body else bad for job in jobs]
    assert comfy.submits == {job.job_id: 1 for job in jobs if job.body}


def test_the_servers_own_id_replaces_ours_where_it_makes_one(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.inject("POST /prompt", body=b'{"prompt_id": "theirs", "number": 1, "node_errors": {}}')
    assert connection.submit([make_job(small_graph())]) == [Accepted("theirs", 2)]


def test_the_seed_of_a_run_is_told(connection: ComfyConnection) -> None:
    noise = {"class_type": "ImageAddNoise", "inputs": {"image": ["1", 0], "seed": 42, "strength": 0.5}}
    graph = {"1": empty_image(), "2": noise, "3": save_image("2")}
    assert finished(run(connection, make_job(graph))).seed == 42


def test_headers_go_with_every_request(comfy: FakeComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_TOKEN", "s3cret")
    connection = connect(comfy.url, headers={"Authorization": {"env": "COMFY_TOKEN", "prefix": "Bearer "}})
    connection.check()
    assert comfy.headers["authorization"] == "Bearer s3cret"
    connection.submit([make_job(small_graph())])
    assert comfy.headers["authorization"] == "Bearer s3cret"
    connection.close()


def test_a_server_may_live_below_a_path(comfy: FakeComfyUI) -> None:
    # The fake answers below /api as well, as the real one does.
    connection = connect(f"{comfy.url}/api/")
    connection.check()
    connection.submit([make_job(small_graph())])
    assert comfy.requests == {"GET /prompt": 1, "POST /prompt": 1}
    connection.close()


def test_a_proxy_of_the_environment_is_not_for_the_operators_own_servers(
    comfy: FakeComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    connection = connect(comfy.url)
    connection.check()
    connection.close()


# --- What comes of a body -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, [], {}, {"1": "node"}, {"nodes": [], "links": []}])
def test_a_template_that_is_no_graph_never_reaches_the_server(
    comfy: FakeComfyUI, connection: ComfyConnection, body: Any
) -> None:
    (answer,) = connection.submit([make_job(body)])
    assert isinstance(answer, Rejected)
    assert (answer.code, answer.stage_code) == ("TEMPLATE_INVALID", "dispatch")
    assert comfy.requests == {}


def test_a_media_input_without_a_place_never_reaches_the_server(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    message = "A media input of the model has no place in its template."
    answer = Rejected("TEMPLATE_INVALID", message, "dispatch")
    assert connection.submit([make_job(small_graph(), media=("/1/inputs/image",))]) == [answer]
    assert comfy.requests == {}


def test_a_refused_graph_is_rejected_with_node_and_field(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    job = make_job(sample("graph-20_bad_value_too_big"))
    message = "The provider refused the graph: node 1 (EmptyImage), width: Value 99999 bigger than max of 16384."
    assert connection.submit([job]) == [Rejected("PROVIDER_REJECTED", message, "dispatch")]
    assert comfy.executed == {}


def half_bad_graph() -> dict[str, Any]:
    return {"1": empty_image(), "2": save_image("1"), "3": empty_image(-5), "4": save_image("3")}


HALF_BAD = Rejected(
    "PROVIDER_REJECTED",
    "The provider refused the graph: node 3 (EmptyImage), width: Value -5 smaller than min of 1; "
    "node 3 (EmptyImage), height: Value -5 smaller than min of 1.",
    "dispatch",
)


def test_the_half_that_was_accepted_is_taken_out_of_the_queue(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    first, half = make_job(small_graph()), make_job(half_bad_graph())
    comfy.hold()
    submit(connection, first)
    wait_until_running(comfy, first)
    assert connection.submit([half]) == [HALF_BAD]
    assert (comfy.life.remaining, comfy.queue_deletes, comfy.interrupts) == (1, [half.job_id], [])
    comfy.release()
    finished(collect(connection, first, wait_for_end(connection, first)))
    assert comfy.executed == {first.job_id: 1}


def test_the_half_that_already_runs_is_interrupted_by_its_id(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    half = make_job(half_bad_graph())
    comfy.hold("1")
    comfy.before("POST /queue", lambda: wait_until_running(comfy, half))
    assert connection.submit([half]) == [HALF_BAD]
    assert comfy.interrupts == [half.job_id]
    comfy.release()


def test_a_half_that_cannot_be_stopped_is_rejected_all_the_same(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    comfy.inject("POST /queue", status=500)
    assert connection.submit([make_job(half_bad_graph())]) == [HALF_BAD]


# --- What comes of an answer ----------------------------------------------------------------------------------------


def unavailable(message: str, retry_after: float | None = None) -> Outcome:
    return Unavailable("PROVIDER_UNAVAILABLE", message, "dispatch", retry_after)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, Rejected("PROVIDER_REJECTED", "The provider refused the graph and gave no reason.", "dispatch")),
        (413, Rejected("PROVIDER_REJECTED", "The provider refused the request as too large.", "dispatch")),
        (422, Rejected("PROVIDER_REJECTED", "The provider refused the graph and gave no reason.", "dispatch")),
        (302, unavailable("The provider is not set up correctly.")),
        (401, unavailable("The provider is not set up correctly.")),
        (403, unavailable("The provider is not set up correctly.")),
        (404, unavailable("The provider is not set up correctly.")),
        (405, unavailable("The provider is not set up correctly.")),
        (408, unavailable("The provider takes no work at the moment.", 7.0)),
        (429, unavailable("The provider takes no work at the moment.", 7.0)),
        (503, unavailable("The provider takes no work at the moment.", 7.0)),
        (500, Unknown("The server answered 500 to a submission.")),
        (502, Unknown("The server answered 502 to a submission.")),
        (504, Unknown("The server answered 504 to a submission.")),
        (202, Unknown("The server answered 202 to a submission.")),
        (200, Unknown("The server answered 200 to a submission, but not as ComfyUI does.")),
    ],
)
def test_every_answer_has_its_outcome(
    comfy: FakeComfyUI, connection: ComfyConnection, status: int, answer: Submitted
) -> None:
    comfy.inject("POST /prompt", status=status, body=b"<html>10.0.0.7", headers={"Retry-After": "7"})
    job = make_job(small_graph())
    assert connection.submit([job]) == [answer]
    # Nothing is sent twice of its own accord.
    assert comfy.requests == {"POST /prompt": 1}


def test_a_body_beyond_the_servers_limit_is_rejected(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.limit_bodies(1000)
    graph = small_graph()
    graph["2"]["inputs"]["note"] = "x" * 2000
    assert connection.submit([make_job(graph)]) == [
        Rejected("PROVIDER_REJECTED", "The provider refused the request as too large.", "dispatch")
    ]


def test_a_500_may_have_queued_the_job_and_a_look_tells(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.inject("POST /prompt", status=500, is_handled=True)
    job = make_job(small_graph())
    assert connection.submit([job]) == [Unknown("The server answered 500 to a submission.")]
    assert isinstance(wait_for_end(connection, job), Done)
    assert comfy.executed == {job.job_id: 1}


@pytest.mark.parametrize(("is_handled", "seen"), [(True, Done), (False, Gone)])
def test_a_broken_connection_leaves_the_job_unknown_until_it_is_looked_up(
    comfy: FakeComfyUI, connection: ComfyConnection, is_handled: bool, seen: type
) -> None:
    comfy.inject("POST /prompt", effect="reset", is_handled=is_handled)
    job = make_job(small_graph())
    assert connection.submit([job]) == [Unknown("No answer came to the submission (ReadError).")]
    if is_handled:
        wait_for_end(connection, job)
    else:
        assert connection.poll([place(job)]) == {job.job_id: Waiting(is_running=False)}
    assert isinstance(connection.poll([place(job, age=OLD)])[job.job_id], seen)
    assert comfy.executed[job.job_id] == int(is_handled)


def test_a_server_that_hangs_keeps_one_round_waiting_and_not_all(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url, timeout=0.3)
    comfy.inject("POST /prompt", effect="hang", times=None)
    answers = connection.submit([make_job(small_graph()) for _ in range(40)])
    connection.close()
    unknown = Unknown("No answer came to the submission (ReadTimeout).")
    assert set(answers) == {unknown, UNREACHABLE}
    # As many as are sent side by side. The others were not sent, so that they can go elsewhere.
    assert answers.count(unknown) == sum(comfy.requests.values()) == 8


def test_a_refused_connection_is_unavailable_as_nothing_can_have_been_sent(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url)
    comfy.crash()
    assert connection.submit([make_job(small_graph())]) == [UNREACHABLE]
    connection.close()
    comfy.start()
    assert comfy.requests == {}


def test_a_port_that_nobody_listens_on_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        connection = connect(f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert connection.submit([make_job(small_graph())]) == [UNREACHABLE]
        connection.close()
