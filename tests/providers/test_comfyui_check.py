"""Whether a server is fit for work."""

from __future__ import annotations

import time

import pytest

from providers.base import (
    EndpointDown,
)
from providers.comfyui import connection as connection_module
from providers.comfyui.connection import ComfyConnection
from tests.providers.comfyui import (
    connect,
    small_jobs,
    submit,
    wait_until_idle,
    wait_until_running,
)
from tests.providers.fake_comfyui import FakeComfyUI
from tests.threads import wait_until


def test_a_server_with_nothing_to_do_is_fit(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    connection.check()
    assert comfy.requests == {"GET /prompt": 1}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"exec_info": {"queue_remaining": "many"}}'])
def test_a_server_that_answers_otherwise_than_comfyui_is_down(
    comfy: FakeComfyUI, connection: ComfyConnection, body: bytes
) -> None:
    comfy.inject("GET /prompt", body=body)
    with pytest.raises(EndpointDown):
        connection.check()


def test_a_server_that_is_away_is_down_and_fit_once_it_is_back(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    comfy.crash()
    with pytest.raises(EndpointDown):
        connection.check()
    comfy.start()
    connection.check()


def test_a_server_that_works_on_nothing_is_down_until_it_moves(comfy: FakeComfyUI) -> None:
    first, second = small_jobs(2)
    comfy.hold()
    connection = connect(comfy.url, run_timeout=0.05, stall_seconds=0.05)
    submit(connection, first)
    wait_until_running(comfy, first)
    begun = time.monotonic()
    connection.check()
    wait_until(lambda: is_down(comfy), what="the stall to be seen")
    assert time.monotonic() - begun > 0.05
    # More work for it is no sign of life.
    submit(connection, second)
    assert is_down(comfy)
    comfy.release()
    wait_until_idle(comfy)
    connection.check()
    connection.close()


def is_down(comfy: FakeComfyUI) -> bool:
    """By a connection that has seen nothing itself, as each lives for seconds."""
    connection = connect(comfy.url, run_timeout=0.05, stall_seconds=0.05)
    try:
        connection.check()
    except EndpointDown:
        return True
    finally:
        connection.close()
    return False


def test_a_server_that_works_one_job_off_after_the_other_never_stalls(comfy: FakeComfyUI) -> None:
    comfy.controls.seconds_per_prompt = 0.02
    connection = connect(comfy.url, run_timeout=0.05, stall_seconds=0.5)
    jobs = small_jobs(40)
    submit(connection, *jobs)
    while comfy.life.remaining:
        connection.check()
    assert comfy.executed == {job.job_id: 1 for job in jobs}
    connection.close()


def test_a_working_servers_queue_is_read_now_and_then_only(comfy: FakeComfyUI, connection: ComfyConnection) -> None:
    (job,) = small_jobs(1)
    comfy.hold()
    submit(connection, job)
    for _ in range(20):
        connection.check()
    assert (comfy.requests["GET /prompt"], comfy.requests["GET /queue"]) == (20, 1)
    comfy.release()


def test_a_server_that_runs_none_of_what_waits_is_found_out_sooner(
    comfy: FakeComfyUI, connection: ComfyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(connection_module, "LOOK_SECONDS", 0.01)
    (job,) = small_jobs(1)
    comfy.hold()
    submit(connection, job)
    wait_until_running(comfy, job)
    begun = time.monotonic()
    while time.monotonic() < begun + 0.1:
        connection.check()  # a long prompt is none of that
    comfy.restart()
    comfy.become_zombie()
    submit(connection, *small_jobs(1))

    def is_down() -> bool:
        try:
            connection.check()
        except EndpointDown:
            return True
        return False

    wait_until(is_down, what="the stall to be seen")
