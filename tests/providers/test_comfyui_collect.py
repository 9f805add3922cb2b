"""Fetching what a job has made."""

from __future__ import annotations

from typing import Any

import pytest

from providers.base import (
    Artifact,
    Done,
    EndpointDown,
    Job,
    Outcome,
    Rejected,
    Unavailable,
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
    save_image,
    small_graph,
    small_jobs,
    submit,
    wait_for_end,
)
from tests.providers.fake_comfyui import FakeComfyUI


def test_outputs_of_every_kind_are_collected_in_the_order_of_their_nodes(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    graph = {
        "1": empty_image(),
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "3": {"class_type": "EmptyAudio", "inputs": {"duration": 1.0}},
        "10": save_image("1", "pic"),
        "9": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0], "filename_prefix": "video/clip"}},
        "8": {"class_type": "SaveAudio", "inputs": {"audio": ["3", 0], "filename_prefix": "audio/sound"}},
        "7": {
            "class_type": "VHS_VideoCombine",
            "inputs": {"images": ["1", 0], "frame_rate": 8.0, "filename_prefix": "loop"},
        },
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "5": {"class_type": "PreviewAny", "inputs": {"source": "a caption"}},
    }
    artifacts = finished(run(connection, make_job(graph, run_id="r"))).artifacts
    assert [(each.type, each.mime_type, each.extension, each.width) for each in artifacts] == [
        ("text", "text/plain; charset=utf-8", "txt", None),
        ("image", "image/gif", "gif", 8),
        ("audio", "audio/flac", "flac", None),
        ("video", "video/mp4", "mp4", None),
        ("image", "image/png", "png", 8),
    ]
    assert artifacts[0].body == b"a caption"
    assert comfy.views == {
        "runflow/r/1/loop_00001_.gif": 1,
        "runflow/r/1/sound_00001_.flac": 1,
        "runflow/r/1/clip_00001_.mp4": 1,
        "runflow/r/1/pic_00001_.png": 1,
    }


def test_several_pictures_of_several_jobs_are_collected_side_by_side(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    graph = small_graph()
    graph["1"]["inputs"]["batch_size"] = 3
    jobs = [make_job(graph, run_id=f"run-{number}") for number in range(10)]
    submit(connection, *jobs)
    wait_for_end(connection, jobs[-1])
    seen = connection.poll([place(job) for job in jobs])
    done = [(place(job), each) for job in jobs if isinstance(each := seen[job.job_id], Done)]
    assert [len(finished(outcome).artifacts) for outcome in connection.collect(done)] == [3] * 10
    assert (len(comfy.views), set(comfy.views.values())) == (30, {1})


def test_a_graph_that_was_run_before_makes_new_files(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    for attempt in (1, 2):
        finished(run(connection, make_job(small_graph(), attempt=attempt)))
    assert comfy.files.names("output") == ["runflow/run-1/1/pic_00001_.png", "runflow/run-1/2/pic_00001_.png"]


NO_LONGER = Unavailable("OUTPUT_FETCH_FAILED", "The provider no longer has an output.", "collect")
NOT_FETCHED = Unavailable("OUTPUT_FETCH_FAILED", "An output could not be fetched from the provider.", "collect")


def done_job(comfy: FakeComfyUI, connection: ComfyConnection) -> tuple[Job, Done]:
    job = make_job(small_graph())
    submit(connection, job)
    seen = wait_for_end(connection, job)
    assert isinstance(seen, Done)
    return job, seen


@pytest.mark.parametrize("status", [404, 400])
def test_an_output_that_is_not_there_makes_the_job_run_again(
    comfy: FakeComfyUI, connection: ComfyConnection, status: int
) -> None:
    job, seen = done_job(comfy, connection)
    comfy.inject("GET /view", status=status)
    assert collect(connection, job, seen) == NO_LONGER
    assert comfy.requests["GET /view"] == 1


@pytest.mark.parametrize("effect", ["reset", "answer"])
@pytest.mark.parametrize(("times", "outcome"), [(1, None), (2, NOT_FETCHED)])
def test_an_output_is_asked_for_twice_before_its_job_runs_again(
    comfy: FakeComfyUI, connection: ComfyConnection, effect: Any, times: int, outcome: Outcome | None
) -> None:
    job, seen = done_job(comfy, connection)
    comfy.inject("GET /view", status=500, effect=effect, times=times)
    if outcome is None:
        finished(collect(connection, job, seen))
    else:
        assert collect(connection, job, seen) == outcome
    assert comfy.requests["GET /view"] == 2


def test_a_server_that_does_not_answer_keeps_what_it_has_done(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url, timeout=0.2)
    jobs = small_jobs(50)
    submit(connection, *jobs)
    wait_for_end(connection, jobs[-1])
    seen = connection.poll([place(job) for job in jobs])
    done = [(place(job), each) for job in jobs if isinstance(each := seen[job.job_id], Done)]
    assert len(done) == 50
    comfy.inject("GET /view", effect="hang", times=None)
    with pytest.raises(EndpointDown):
        connection.collect(done)
    connection.close()
    # As many as are asked for side by side; the others did not have to wait as well.
    assert comfy.requests["GET /view"] <= 16
    comfy.clear_faults()
    successor = connect(comfy.url)
    successor.poll([])
    assert [len(finished(outcome).artifacts) for outcome in successor.collect(done)] == [1] * 50
    assert (comfy.history_deletes, sum(comfy.executed.values())) == ([], 50)
    successor.close()


def test_an_output_beyond_the_limit_is_refused(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url, max_output_bytes=50)
    job, seen = done_job(comfy, connection)
    assert collect(connection, job, seen) == Rejected(
        "OUTPUT_FETCH_FAILED", "An output is larger than this server stores.", "collect"
    )
    connection.close()


def test_a_job_without_outputs_has_failed(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    graph = {"1": empty_image(), "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    assert run(connection, make_job(graph)) == Rejected(
        "EXECUTION_FAILED", "The graph ran, but produced no output.", "collect"
    )


def test_one_outcome_is_not_another_jobs(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = [make_job(small_graph(colour), run_id=f"run-{colour}") for colour in range(3)]
    submit(connection, *jobs)
    wait_for_end(connection, jobs[-1])
    seen = connection.poll([place(job) for job in jobs])
    done = [(place(job), each) for job in jobs if isinstance(each := seen[job.job_id], Done)]
    comfy.files.delete("output", "runflow/run-1/1/pic_00001_.png")
    first, second, third = connection.collect(done)
    assert second == NO_LONGER
    assert finished(first).artifacts != finished(third).artifacts
    assert {type(each) for each in finished(first).artifacts} == {Artifact}


def test_history_is_emptied_of_what_was_collected_once_the_caller_is_back(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    job, seen = done_job(comfy, connection)
    other, _ = done_job(comfy, connection)
    collect(connection, job, seen)
    # Whoever collected it may be killed before it has stored anything. The next one finds the job done.
    assert comfy.history_deletes == []
    successor = connect(comfy.url)
    assert successor.poll([place(job, age=OLD)]) == {job.job_id: seen}
    successor.close()
    assert connection.poll([place(other)]).keys() == {other.job_id}
    assert comfy.history_deletes == [job.job_id]
    assert list(comfy.life.history) == [other.job_id]
    connection.poll([place(other)])
    assert comfy.history_deletes == [job.job_id]


def test_a_history_that_cannot_be_emptied_stops_nothing(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    job, seen = done_job(comfy, connection)
    collect(connection, job, seen)
    comfy.inject("POST /history", status=500)
    assert connection.poll([place(job)]) == {job.job_id: seen}
