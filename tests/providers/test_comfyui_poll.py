"""What became of the jobs at a server."""

from __future__ import annotations

from typing import Any

import pytest

from providers.base import (
    Canceled,
    Done,
    EndpointDown,
    Gone,
    Rejected,
    Unavailable,
    Waiting,
)
from providers.comfyui.connection import MOST_SEEN, WINDOW, ComfyConnection
from tests.providers.comfyui import (
    OLD,
    connect,
    finished,
    make_job,
    place,
    run,
    small_graph,
    small_jobs,
    submit,
    two_steps,
    wait_for_end,
    wait_until_idle,
    wait_until_running,
)
from tests.providers.fake_comfyui import FakeComfyUI

LOOK = {"A": "GET /history/{id}", "B": "GET /api/jobs/{id}"}


def test_a_job_waits_then_runs_then_is_done(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    first, second = small_jobs(2)
    comfy.hold()
    submit(connection, first, second)
    wait_until_running(comfy, first)
    assert connection.poll([place(first), place(second)]) == {
        first.job_id: Waiting(is_running=True),
        second.job_id: Waiting(is_running=False),
    }
    comfy.release()
    wait_for_end(connection, second)
    assert {type(seen) for seen in connection.poll([place(first), place(second)]).values()} == {Done}


def test_a_waiting_job_is_never_gone_however_old_it_is(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    first, second = small_jobs(2)
    comfy.hold()
    submit(connection, first, second)
    wait_until_running(comfy, first)
    assert connection.poll([place(first, age=9999.0), place(second, age=9999.0)]) == {
        first.job_id: Waiting(is_running=True),
        second.job_id: Waiting(is_running=False),
    }
    comfy.release()


def test_only_the_oldest_are_looked_at_while_all_of_them_wait(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = small_jobs(100)
    comfy.hold()
    submit(connection, *jobs)
    seen = connection.poll([place(job) for job in jobs])
    assert list(seen) == [job.job_id for job in jobs[:WINDOW]]
    assert comfy.requests[LOOK[comfy.generation]] == WINDOW
    assert comfy.requests["GET /queue"] == (1 if comfy.generation == "A" else 0)
    comfy.release()


def test_the_next_are_looked_at_while_the_oldest_are_done(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = small_jobs(100)
    submit(connection, *jobs[:40])
    wait_until_idle(comfy)
    comfy.hold()
    submit(connection, *jobs[40:])
    seen = connection.poll([place(job) for job in jobs])
    # The first window is all done, the second partly, the third not at all.
    assert list(seen) == [job.job_id for job in jobs[: 3 * WINDOW]]
    assert [job.job_id for job in jobs if isinstance(seen.get(job.job_id), Done)] == [job.job_id for job in jobs[:40]]
    comfy.release()


def test_one_look_at_many_done_jobs_comes_to_an_end(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = small_jobs(MOST_SEEN + 100)
    connection.submit(jobs)
    wait_until_idle(comfy)
    assert len(connection.poll([place(job) for job in jobs])) == MOST_SEEN


def test_no_jobs_are_no_request(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    assert (connection.submit([]), connection.poll([]), connection.collect([])) == ([], {}, [])
    connection.cancel([])
    assert comfy.requests == {}


def test_the_generation_is_found_out_once_for_a_connection(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    (job,) = small_jobs(1)
    submit(connection, job)
    wait_until_idle(comfy)
    for _ in range(3):
        connection.poll([place(job)])
    looks = {"A": {"GET /api/jobs/{id}": 1, "GET /history/{id}": 3}, "B": {"GET /api/jobs/{id}": 3}}
    assert comfy.requests == {"POST /prompt": 1, **looks[comfy.generation]}


@pytest.mark.parametrize("comfy", ["A"], indirect=True)
def test_a_job_that_finishes_between_two_looks_is_not_lost(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    (job,) = small_jobs(1)
    comfy.hold()
    submit(connection, job)
    wait_until_running(comfy, job)

    def finish() -> None:
        comfy.release()
        wait_until_idle(comfy)

    # In no history yet, and in no queue any more.
    comfy.before("GET /queue", finish)
    assert isinstance(connection.poll([place(job, age=OLD)])[job.job_id], Done)


@pytest.mark.parametrize("comfy", ["A"], indirect=True)
def test_a_queue_that_was_read_for_an_earlier_window_loses_no_job(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    jobs = small_jobs(WINDOW + 8)
    submit(connection, *jobs[: WINDOW - 1])
    wait_until_idle(comfy)
    comfy.hold()
    submit(connection, *jobs[WINDOW - 1 :])
    wait_until_running(comfy, jobs[WINDOW - 1])

    def finish() -> None:
        comfy.release()
        wait_until_idle(comfy)

    # The last job of the first window makes the queue be read; those of the second window are in it, and finish after that.
    comfy.before("GET /queue", lambda: comfy.before("GET /history/{id}", finish))
    seen = connection.poll([place(job, age=OLD) for job in jobs])
    assert comfy.requests["GET /queue"] == 1
    assert {type(seen[job.job_id]) for job in jobs[WINDOW:]} == {Done}


def test_what_a_server_does_not_know_is_gone_after_a_grace(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = small_jobs(3)
    comfy.hold()
    submit(connection, *jobs)
    comfy.restart()
    comfy.release()
    young, old, older = jobs
    assert connection.poll([place(older, age=OLD), place(old, age=5.0), place(young, age=4.9)]) == {
        older.job_id: Gone(),
        old.job_id: Gone(),
        young.job_id: Waiting(is_running=False),
    }
    finished(run(connection, make_job(small_graph(), attempt=2)))


@pytest.mark.parametrize("comfy", ["B"], indirect=True)
@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"<html>no such page"), (404, b'{"detail": "no such page"}'), (200, b"<html>"), (502, b"bad gateway")],
)
def test_what_something_in_front_of_the_server_says_is_not_taken_for_a_lost_job(
    comfy: FakeComfyUI, connection: ComfyConnection, status: int, body: bytes
) -> None:
    (job,) = small_jobs(1)
    submit(connection, job)
    wait_for_end(connection, job)
    comfy.inject("GET /api/jobs/{id}", status=status, body=body)
    with pytest.raises(EndpointDown):
        connection.poll([place(job, age=OLD)])
    assert isinstance(connection.poll([place(job, age=OLD)])[job.job_id], Done)


@pytest.mark.parametrize("effect", ["reset", "hang", "answer"])
def test_a_server_that_does_not_answer_is_down(comfy: FakeComfyUI, effect: Any) -> None:
    connection = connect(comfy.url, timeout=0.2)
    (job,) = small_jobs(1)
    comfy.hold()
    submit(connection, job)
    comfy.inject("* *", status=500, body=b"/srv/secret", effect=effect, times=None)
    for ask in (lambda: connection.poll([place(job)]), lambda: connection.cancel([place(job)]), connection.check):
        with pytest.raises(EndpointDown, match=r"http://127\.0\.0\.1"):
            ask()
    connection.close()
    comfy.release()


def test_a_failure_is_rejected_in_words_without_paths(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.fail("ImageInvert", "no kernel in /srv/comfyui/nodes.py\n")
    job = make_job(two_steps())
    submit(connection, job)
    assert wait_for_end(connection, job) == Rejected(
        "EXECUTION_FAILED", "Node 2 (ImageInvert) failed: no kernel in [path]"
    )


def test_a_failure_for_want_of_memory_is_for_another_attempt(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.fail("ImageInvert", "Allocation on device", "torch.OutOfMemoryError")
    job = make_job(two_steps())
    submit(connection, job)
    assert wait_for_end(connection, job) == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider ran short of a resource, such as memory."
    )


def test_a_job_that_somebody_else_interrupted_is_canceled(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    job = make_job(two_steps())
    comfy.hold("1")
    submit(connection, job)
    wait_until_running(comfy, job)
    comfy.life.interrupt(None)
    comfy.release()
    assert wait_for_end(connection, job) == Canceled()
