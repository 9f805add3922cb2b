"""Stopping jobs at a server, and no others."""

from __future__ import annotations

import pytest

from providers.base import (
    Canceled,
    Done,
    Gone,
    Waiting,
)
from providers.comfyui.connection import WINDOW, ComfyConnection
from tests.providers.comfyui import (
    OLD,
    collect,
    connect,
    finished,
    make_job,
    place,
    small_jobs,
    submit,
    two_steps,
    wait_for_end,
    wait_until_running,
)
from tests.providers.fake_comfyui import FakeComfyUI
from tests.threads import wait_until


def test_a_waiting_job_is_taken_out_and_the_running_one_left_alone(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    first, second, third = (make_job(two_steps()) for _ in range(3))
    comfy.hold("1")
    submit(connection, first, second, third)
    wait_until_running(comfy, first)
    connection.cancel([place(second)])
    assert (comfy.queue_deletes, comfy.interrupts) == ([second.job_id], [])
    assert connection.poll([place(first), place(second), place(third)])[second.job_id] == Canceled()
    comfy.release()
    wait_for_end(connection, third)
    assert comfy.executed == {first.job_id: 1, third.job_id: 1}


def test_a_canceled_waiting_job_leaves_no_trace_for_the_next_connection(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    first, second = small_jobs(2)
    comfy.hold()
    submit(connection, first, second)
    connection.cancel([place(second)])
    later = connect(comfy.url)
    assert later.poll([place(second, age=OLD)]) == {second.job_id: Gone()}
    later.close()
    comfy.release()


def test_a_running_job_is_interrupted_by_its_id(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    first, second = make_job(two_steps()), make_job(two_steps())
    comfy.hold("1")
    submit(connection, first, second)
    wait_until_running(comfy, first)
    connection.cancel([place(first)])
    assert comfy.interrupts == [first.job_id]
    comfy.release()
    assert wait_for_end(connection, first) == Canceled()
    assert isinstance(wait_for_end(connection, second), Done)


def test_an_interrupt_in_the_last_node_comes_too_late_and_the_job_is_done(
    comfy: FakeComfyUI, connection: ComfyConnection
) -> None:
    job = make_job(two_steps())
    comfy.hold("3")
    submit(connection, job)
    wait_until_running(comfy, job)
    wait_until(lambda: len(comfy.life.cache) == 2, what="the last node to begin")
    connection.cancel([place(job)])
    comfy.release()
    finished(collect(connection, job, wait_for_end(connection, job)))
    assert comfy.interrupts == [job.job_id]


def test_an_interrupt_that_got_lost_can_be_sent_again(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    job = make_job(two_steps())
    comfy.controls.interrupts_to_lose = 1
    comfy.hold("1")
    submit(connection, job)
    wait_until_running(comfy, job)
    connection.cancel([place(job)])
    connection.cancel([place(job)])
    comfy.release()
    assert wait_for_end(connection, job) == Canceled()
    assert comfy.interrupts == [job.job_id, job.job_id]


def test_cancelling_what_is_over_or_unknown_does_nothing(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    over, unknown, running = small_jobs(3)
    submit(connection, over)
    wait_for_end(connection, over)
    comfy.hold()
    submit(connection, running)
    wait_until_running(comfy, running)
    connection.cancel([place(over), place(unknown)])
    connection.cancel([place(over), place(unknown)])
    assert comfy.interrupts == []
    assert connection.poll([place(running)]) == {running.job_id: Waiting(is_running=True)}
    assert isinstance(connection.poll([place(over)])[over.job_id], Done)
    comfy.release()


def test_no_request_ever_stops_whatever_runs(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = [make_job(two_steps()) for _ in range(20)]
    comfy.hold("1")
    submit(connection, *jobs)
    wait_until_running(comfy, jobs[0])
    connection.cancel([place(job) for job in jobs])
    assert comfy.interrupts == [jobs[0].job_id]
    assert sorted(set(comfy.queue_deletes) - {jobs[0].job_id}) == sorted(job.job_id for job in jobs[1:])
    comfy.release()
    assert wait_for_end(connection, jobs[0]) == Canceled()
    assert comfy.executed == {jobs[0].job_id: 1}


@pytest.mark.parametrize("comfy", ["B"], indirect=True)
@pytest.mark.parametrize("status", [404, 405])
def test_a_server_with_a_jobs_view_and_no_cancel_is_asked_the_older_way(
    comfy: FakeComfyUI, connection: ComfyConnection, status: int
) -> None:
    first, second = make_job(two_steps()), make_job(two_steps())
    comfy.hold("1")
    submit(connection, first, second)
    wait_until_running(comfy, first)
    comfy.inject("POST /api/jobs/{id}/cancel", status=status, times=None)
    connection.cancel([place(first), place(second)])
    assert (comfy.queue_deletes, comfy.interrupts) == ([first.job_id, second.job_id], [first.job_id])
    comfy.release()


def test_jobs_that_are_to_stop_are_looked_at_first(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    jobs = small_jobs(WINDOW + 10)
    comfy.hold()
    submit(connection, *jobs)
    connection.cancel([place(jobs[-1])])
    assert connection.poll([place(job) for job in jobs])[jobs[-1].job_id] == Canceled()
    comfy.release()
