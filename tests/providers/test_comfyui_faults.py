"""Everything that was seen to go wrong with real servers, and what it comes to for a job. Nothing is lost in any of it.

A job that is for another attempt (Unavailable, Gone) is then run with a new id, as the engine does.
"""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from providers.base import Accepted, Canceled, Done, EndpointDown, Gone, Rejected, Unavailable, Unknown, Waiting
from providers.comfyui.connection import ComfyConnection
from tests.providers.comfyui import (
    OLD,
    collect,
    connect,
    finished,
    make_job,
    place,
    run,
    sample,
    save_image,
    small_graph,
    small_jobs,
    submit,
    wait_for_end,
    wait_until_running,
)
from tests.providers.fake_comfyui import FakeComfyUI
from tests.threads import wait_until


def post(fake: FakeComfyUI, body: dict[str, Any]) -> int:
    """Somebody else's submission, with everything that we never send. Its status."""
    return httpx.post(f"{fake.url}/prompt", json=body, trust_env=False).status_code


def test_a_crash_is_seen_at_once_and_its_jobs_are_gone_when_the_server_is_back(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    done, running, waiting = small_jobs(3)
    submit(connection, done)
    wait_for_end(connection, done)
    comfy.hold()
    submit(connection, running, waiting)
    wait_until_running(comfy, running)
    comfy.crash()
    for ask in (lambda: connection.poll([place(running)]), connection.check):
        with pytest.raises(EndpointDown):
            ask()
    (refused,) = connection.submit([make_job(small_graph())])
    assert refused == Unavailable("PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch")
    comfy.start()
    comfy.release()
    connection.check()
    # Even what it had finished: history lives in memory.
    jobs = (done, running, waiting)
    assert connection.poll([place(job, age=OLD) for job in jobs]) == {job.job_id: Gone() for job in jobs}
    for job in jobs:
        finished(run(connection, make_job(small_graph(), run_id=job.run_id, attempt=2)))


def test_a_crash_between_submission_and_answer_leaves_the_job_unknown_and_then_gone(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    comfy.inject("POST /prompt", effect="crash", is_handled=True)
    job = make_job(small_graph())
    (answer,) = connection.submit([job])
    assert isinstance(answer, Unknown)
    comfy.start()
    assert connection.poll([place(job)]) == {job.job_id: Waiting(is_running=False)}
    assert connection.poll([place(job, age=OLD)]) == {job.job_id: Gone()}


def test_a_crash_inside_a_job_costs_that_attempt(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.controls.crash_at_node = "2"
    job = make_job(small_graph())
    submit(connection, job)
    wait_until(lambda: not comfy.is_up, what="the crash")
    comfy.start()
    assert connection.poll([place(job, age=OLD)]) == {job.job_id: Gone()}
    finished(run(connection, make_job(small_graph(), attempt=2)))


def is_stalled(connection: ComfyConnection) -> bool:
    try:
        connection.check()
    except EndpointDown:
        return True
    return False


def test_a_crash_before_the_outputs_were_fetched_makes_the_job_run_again(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    job = make_job(small_graph())
    submit(connection, job)
    seen = wait_for_end(connection, job)
    comfy.crash()
    with pytest.raises(EndpointDown):
        collect(connection, job, seen)
    comfy.start()
    assert connection.poll([place(job, age=OLD)]) == {job.job_id: Gone()}


def test_a_request_that_kills_servers_is_never_ours(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    ours = make_job(small_graph())
    comfy.hold()
    submit(connection, ours)
    assert type(comfy.received[-1]["client_id"]) is str
    assert post(comfy, {"prompt": small_graph(), "client_id": {"a": 1}}) == 200
    wait_until(lambda: not comfy.is_up, what="the server to die of somebody else's request")
    comfy.start()
    comfy.release()
    assert connection.poll([place(ours, age=OLD)]) == {ours.job_id: Gone()}


def test_a_zombie_takes_everything_runs_nothing_and_is_found_out(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url, run_timeout=0.05, stall_seconds=0.05)
    comfy.hold()
    ours = make_job(small_graph())
    submit(connection, ours)
    wait_until_running(comfy, ours)
    prompt_id = str(uuid.uuid4())
    twins = [{"prompt": small_graph(colour), "prompt_id": prompt_id, "number": 5} for colour in range(5)]
    assert [post(comfy, twin) for twin in twins] == [200, 500, 500, 500, 500]
    comfy.release()
    # Ours still ends, and is the last that does.
    assert isinstance(wait_for_end(connection, ours), Done)
    later = make_job(small_graph())
    submit(connection, later)
    assert connection.poll([place(later, age=OLD)]) == {later.job_id: Waiting(is_running=False)}
    wait_until(lambda: is_stalled(connection), what="the stall to be seen")
    with pytest.raises(EndpointDown, match="answers, but has worked on nothing for"):
        connection.check()
    comfy.restart()
    connection.check()
    assert connection.poll([place(later, age=OLD)]) == {later.job_id: Gone()}
    finished(run(connection, make_job(small_graph(), attempt=2)))
    connection.close()


@pytest.mark.parametrize("comfy", ["A"], indirect=True)
def test_a_server_that_null_made_a_zombie_is_found_out_as_well(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url, run_timeout=0.05, stall_seconds=0.05)
    assert post(comfy, {"prompt": small_graph(), "extra_data": None}) == 200
    ours = make_job(small_graph())
    submit(connection, ours)
    assert "extra_data" in comfy.received[-1]
    wait_until(lambda: is_stalled(connection), what="the stall to be seen")
    connection.close()


def test_a_zombie_with_a_job_in_hand_is_found_out_too(comfy: FakeComfyUI) -> None:
    connection = connect(comfy.url, run_timeout=0.05, stall_seconds=0.05)
    comfy.hold()
    ours = make_job(small_graph())
    submit(connection, ours)
    wait_until_running(comfy, ours)
    comfy.become_zombie()
    comfy.release()
    wait_until(lambda: is_stalled(connection), what="the stall to be seen")
    assert connection.poll([place(ours, age=OLD)]) == {ours.job_id: Waiting(is_running=True)}
    comfy.restart()
    connection.close()


@pytest.mark.parametrize(
    ("graph", "outcome"),
    [
        (
            sample("graph-40_fail_exec_blur_pad"),
            Rejected(
                "EXECUTION_FAILED",
                "Node 2 (ImageBlur) failed: Argument #4: Padding size should be less than the corresponding input "
                "dimension, but got: padding (31, 31) at dimension 3 of input [1, 3, 4, 4]",
            ),
        ),
        # What node 4 had saved by then is no result.
        (
            {"4": save_image("1"), **sample("graph-40_fail_exec_blur_pad")},
            Rejected(
                "EXECUTION_FAILED",
                "Node 2 (ImageBlur) failed: Argument #4: Padding size should be less than the corresponding input "
                "dimension, but got: padding (31, 31) at dimension 3 of input [1, 3, 4, 4]",
            ),
        ),
    ],
)
def test_a_failure_while_it_runs_is_final(
    comfy: FakeComfyUI, connection: ComfyConnection, graph: dict[str, Any], outcome: Rejected
) -> None:
    job = make_job(graph)
    submit(connection, job)
    assert wait_for_end(connection, job) == outcome


def test_a_file_that_is_no_picture_is_final_and_its_place_on_the_server_untold(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    comfy.files.upload("", "a.png", b"text", overwrite=False)
    job = make_job({"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}, "2": save_image("1")})
    submit(connection, job)
    assert wait_for_end(connection, job) == Rejected(
        "EXECUTION_FAILED", "Node 1 (LoadImage) failed: cannot identify image file [path]"
    )


def test_want_of_memory_is_for_another_attempt(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.fail("EmptyImage", "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    job = make_job(small_graph())
    submit(connection, job)
    assert wait_for_end(connection, job) == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider ran short of a resource, such as memory."
    )


def test_a_slow_job_can_be_stopped_and_the_next_one_is_not_hit(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    graph = sample("graph-07_slow_blur_chain")
    graph["1"]["inputs"] |= {"width": 64, "height": 64}
    slow, other = make_job(graph), make_job(small_graph())
    comfy.hold("5")
    submit(connection, slow, other)
    wait_until_running(comfy, slow)
    connection.cancel([place(slow)])
    comfy.release()
    assert wait_for_end(connection, slow) == Canceled()
    finished(collect(connection, other, wait_for_end(connection, other)))


def test_a_stale_cached_output_makes_the_job_run_again_and_save_again(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    first, twin = make_job(small_graph()), make_job(small_graph())
    finished(run(connection, first))
    comfy.files.empty("output")
    # The same run and attempt, so the same prefix: what a server would do to a graph without a prefix of its own.
    assert run(connection, twin) == Unavailable(
        "OUTPUT_FETCH_FAILED", "The provider no longer has an output.", "collect"
    )
    finished(run(connection, make_job(small_graph(), attempt=2)))


def test_a_submission_that_arrived_twice_is_one_result(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    job = make_job(small_graph())
    comfy.inject("POST /prompt", effect="reset", is_handled=True)
    (answer,) = connection.submit([job])
    assert isinstance(answer, Unknown)
    # Whoever does not look first sends it again, and the server runs it again.
    assert connection.submit([job]) == [Accepted(job.job_id, 2)]
    wait_until(lambda: comfy.executed[job.job_id] == 2 and comfy.life.remaining == 0, what="both to run")
    assert connection.poll([place(job)]).keys() == {job.job_id}
    assert len(finished(collect(connection, job, wait_for_end(connection, job))).artifacts) == 1


def test_a_second_server_on_a_port_cannot_start_and_the_first_goes_on(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    second = FakeComfyUI(port=int(comfy.url.rpartition(":")[2]))
    with pytest.raises(OSError):
        second.start()
    second.close()
    finished(run(connection, make_job(small_graph())))
