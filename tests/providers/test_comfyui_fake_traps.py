"""What the fake has in common with the real one where it matters most: where it misleads, and how it dies."""

from __future__ import annotations

import heapq
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.providers.comfyui import VERSIONS, empty_image, sample, save_image, small_graph, wait_until_idle
from tests.providers.comfyui_http import get, history, interrupted, link, node, post, run, submit
from tests.providers.fake_comfyui import FakeComfyUI
from tests.threads import wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_the_same_id_twice_runs_twice_and_leaves_one_entry(comfy: FakeComfyUI) -> None:
    prompt_id = str(uuid.uuid4())
    submit(comfy, small_graph(), prompt_id=prompt_id)
    wait_until_idle(comfy)
    submit(comfy, small_graph(), prompt_id=prompt_id)
    wait_until_idle(comfy)
    assert (comfy.submits[prompt_id], comfy.executed[prompt_id], len(comfy.life.history)) == (2, 2, 1)


def test_a_graph_seen_before_names_the_earlier_file_even_if_that_is_gone(comfy: FakeComfyUI) -> None:
    first = run(comfy, small_graph())
    comfy.files.empty("output")
    second = run(comfy, small_graph())
    assert second["outputs"] == first["outputs"]
    assert second["status"]["status_str"] == "success"
    assert second["status"]["messages"][1][1]["nodes"] == ["1", "2"]
    assert get(comfy, "/view", **second["outputs"]["2"]["images"][0]).status_code == 404
    post(comfy, "/free", {"free_memory": True})
    third = run(comfy, small_graph())
    assert get(comfy, "/view", **third["outputs"]["2"]["images"][0]).status_code == 200
    # The same name again, for another job.
    assert third["outputs"] == first["outputs"]


def test_an_upload_over_the_same_name_is_noticed_by_the_cache(comfy: FakeComfyUI) -> None:
    from tests.providers.fake_comfyui.nodes import png

    graph = {"1": node("LoadImage", image="a.png"), "2": save_image("1")}
    for size in (8, 16):
        comfy.files.upload("", "a.png", png(size, size, 0), overwrite=True)
        cached = run(comfy, graph)["status"]["messages"][1][1]["nodes"]
        assert cached == []


def test_uploads_of_different_files_under_one_name_get_names_of_their_own(comfy: FakeComfyUI) -> None:
    def upload(content: bytes, **data: str) -> Any:
        files = {"image": ("a.png", content)}
        return httpx.post(f"{comfy.url}/upload/image", files=files, data=data, trust_env=False).json()

    assert upload(b"1") == {"name": "a.png", "subfolder": "", "type": "input"}
    assert upload(b"1") == {"name": "a.png", "subfolder": "", "type": "input"}
    assert upload(b"2") == {"name": "a (1).png", "subfolder": "", "type": "input"}
    assert upload(b"2", subfolder="runflow") == {"name": "a.png", "subfolder": "runflow", "type": "input"}
    assert upload(b"3", overwrite="true") == {"name": "a.png", "subfolder": "", "type": "input"}
    assert httpx.post(f"{comfy.url}/upload/image", data={"x": "y"}, trust_env=False).status_code == 400


def test_a_prefix_outside_the_output_folder_fails_when_it_runs(comfy: FakeComfyUI) -> None:
    for prefix in ("../x", "/x"):
        entry = run(comfy, {"1": empty_image(), "2": save_image("1", prefix)})
        name, details = entry["status"]["messages"][-1]
        assert name == "execution_error"
        assert "Saving image outside the output folder is not allowed" in details["exception_message"]


def test_a_file_that_is_no_picture_is_taken_and_fails_when_it_runs(comfy: FakeComfyUI) -> None:
    comfy.files.upload("", "a.png", b"text", overwrite=False)
    entry = run(comfy, {"1": node("LoadImage", image="a.png"), "2": save_image("1")})
    assert entry["status"]["messages"][-1][1]["exception_type"] == "PIL.UnidentifiedImageError"


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"filename": "pic_00001_.png", "subfolder": "shop", "type": "output"}, 200),
        ({"filename": "pic_00001_.png", "subfolder": "shop"}, 200),
        ({"filename": "pic_00002_.png", "subfolder": "shop"}, 404),
        ({"filename": "pic_00001_.png", "subfolder": "../shop"}, 400),
        ({"filename": "../pic_00001_.png"}, 400),
        ({"filename": "pic_00001_.png", "type": "secret"}, 400),
    ],
)
def test_files_are_viewed_by_name_and_folder(comfy: FakeComfyUI, params: dict[str, str], status: int) -> None:
    run(comfy, small_graph())
    response = get(comfy, "/view", **params)
    assert response.status_code == status
    if status == 200:
        assert response.headers["content-type"] == "image/png"


def test_queue_deletes_take_one_copy_for_each_mention_and_leave_no_trace(comfy: FakeComfyUI) -> None:
    comfy.hold()
    running, twice = submit(comfy, small_graph()), submit(comfy, small_graph())
    submit(comfy, small_graph(), prompt_id=twice)
    wait_until(lambda: comfy.running_id == running, what="the first to run")
    assert post(comfy, "/queue", {"delete": [twice, running, "unknown"]}).status_code == 200
    assert comfy.life.remaining == 2
    assert post(comfy, "/queue", {"delete": [twice]}).content == b""
    assert get(comfy, "/prompt").json() == {"exec_info": {"queue_remaining": 1}}
    comfy.release()
    wait_until_idle(comfy)
    assert list(get(comfy, "/history").json()) == [running]


def test_an_interrupt_without_an_id_hits_whatever_runs(comfy: FakeComfyUI) -> None:
    comfy.hold("1")
    running = submit(comfy, small_graph())
    wait_until(lambda: comfy.running_id == running, what="the prompt to run")
    assert post(comfy, "/interrupt", {"prompt_id": str(uuid.uuid4())}).status_code == 200
    assert post(comfy, "/interrupt", []).status_code == 500
    assert post(comfy, "/interrupt", {}).status_code == 200
    comfy.release()
    wait_until_idle(comfy)
    assert history(comfy, running)["status"]["messages"][-1][0] == "execution_interrupted"
    assert len(comfy.interrupts) == 2


@pytest.mark.parametrize("comfy", ["B"], indirect=True)
def test_the_jobs_view_tells_all_five_states(comfy: FakeComfyUI) -> None:
    completed = submit(comfy, small_graph())
    failed = submit(comfy, sample("graph-40_fail_exec_blur_pad"))
    wait_until_idle(comfy)
    cancelled = interrupted(comfy)["prompt"][1]
    comfy.hold()
    in_progress, pending = submit(comfy, small_graph(1)), submit(comfy, small_graph(2))
    wait_until(lambda: comfy.running_id == in_progress, what="the prompt to run")
    states = {
        completed: "completed",
        failed: "failed",
        cancelled: "cancelled",
        in_progress: "in_progress",
        pending: "pending",
    }
    jobs = {job_id: get(comfy, f"/api/jobs/{job_id}").json() for job_id in states}
    assert {job_id: job["status"] for job_id, job in jobs.items()} == states
    assert jobs[completed]["outputs"] == history(comfy, completed)["outputs"]
    assert jobs[completed]["execution_status"] == history(comfy, completed)["status"]
    assert jobs[failed]["execution_error"] == history(comfy, failed)["status"]["messages"][-1][1]
    assert jobs[pending]["outputs_count"] == 0
    listed = get(comfy, "/api/jobs", sort_order="asc").json()
    assert [job["id"] for job in listed["jobs"]] == list(states)
    assert listed["pagination"] == {"offset": 0, "limit": 5, "total": 5, "has_more": False}
    page = get(comfy, "/api/jobs", status="pending,failed", limit="1", sort_order="asc").json()
    assert ([job["id"] for job in page["jobs"]], page["pagination"]["has_more"]) == ([failed], True)
    assert get(comfy, "/api/jobs", status="odd").status_code == 400
    unknown = get(comfy, f"/api/jobs/{uuid.uuid4()}")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Job not found"})
    for job_id, is_cancelled in ((completed, False), (pending, True), (in_progress, True), (str(uuid.uuid4()), False)):
        assert post(comfy, f"/api/jobs/{job_id}/cancel", {}).json() == {"cancelled": is_cancelled}
    comfy.release()


@pytest.mark.parametrize("comfy", ["A"], indirect=True)
def test_the_older_generation_has_no_jobs_view(comfy: FakeComfyUI) -> None:
    assert get(comfy, "/api/jobs").status_code == 404
    assert get(comfy, f"/api/jobs/{uuid.uuid4()}").status_code == 404
    assert post(comfy, f"/api/jobs/{uuid.uuid4()}/cancel", {}).status_code == 405
    assert get(comfy, "/api/queue").json() == {"queue_running": [], "queue_pending": []}


def test_another_sites_page_may_not_submit(comfy: FakeComfyUI) -> None:
    headers = {"Origin": "http://evil.example"}
    response = httpx.post(f"{comfy.url}/prompt", json={"prompt": small_graph()}, headers=headers, trust_env=False)
    assert (response.status_code, response.content) == (403, b"")


def test_nodes_tell_what_they_take(comfy: FakeComfyUI) -> None:
    info = get(comfy, "/object_info/EmptyImage").json()
    assert info["EmptyImage"]["input"]["required"]["width"] == [
        "INT",
        {"default": 512, "min": 1, "max": 16384, "step": 1},
    ]
    assert get(comfy, "/object_info/NoSuchNode").json() == {}
    assert "KSampler" in get(comfy, "/object_info").json()
    assert get(comfy, "/system_stats").json()["system"]["comfyui_version"] == VERSIONS[comfy.generation]


def test_equal_numbers_and_ids_stop_the_worker_for_good(comfy: FakeComfyUI) -> None:
    comfy.hold()
    submit(comfy, small_graph())
    wait_until(lambda: comfy.running_id is not None, what="the first to run")
    prompt_id = str(uuid.uuid4())
    twins = [{"prompt": small_graph(colour), "prompt_id": prompt_id, "number": 5} for colour in range(5)]
    assert [post(comfy, "/prompt", twin).status_code for twin in twins] == [200, 500, 500, 500, 500]
    assert comfy.life.remaining == 6
    comfy.release()
    wait_until(lambda: comfy.life.is_zombie, what="the worker to die")
    assert get(comfy, "/system_stats").status_code == 200
    later = submit(comfy, small_graph())
    assert comfy.executed[later] == 0


def test_python_compares_graphs_of_equal_entries() -> None:
    """The cause of the zombie, which the fake inherits from Python instead of imitating it."""
    queue: list[Any] = [(5, "id", {"1": {}})]
    with pytest.raises(TypeError):
        heapq.heappush(queue, (5, "id", {"2": {}}))
    assert len(queue) == 2


@pytest.mark.parametrize("comfy", ["A"], indirect=True)
def test_null_as_extra_data_makes_the_older_one_a_zombie(comfy: FakeComfyUI) -> None:
    post(comfy, "/prompt", {"prompt": small_graph(), "extra_data": None})
    assert comfy.life.is_zombie


def test_an_object_as_client_id_is_answered_and_kills_the_server(comfy: FakeComfyUI) -> None:
    assert post(comfy, "/prompt", {"prompt": small_graph(), "client_id": {"a": 1}}).status_code == 200
    wait_until(lambda: not comfy.is_up, what="the server to die")
    with pytest.raises(httpx.ConnectError):
        get(comfy, "/prompt")
    comfy.start()
    assert get(comfy, "/queue").json() == {"queue_running": [], "queue_pending": []}


def test_a_crash_loses_queue_history_and_temp_and_keeps_other_files(comfy: FakeComfyUI) -> None:
    graph = {**small_graph(), "3": node("PreviewImage", images=link("1"))}
    entry = run(comfy, graph)
    url = comfy.url
    comfy.controls.crash_at_node = "1"
    submit(comfy, {"1": empty_image(9), "2": save_image("1")})
    wait_until(lambda: not comfy.is_up, what="the crash")
    comfy.start()
    assert comfy.url == url
    assert get(comfy, "/history").json() == {}
    assert get(comfy, "/view", **entry["outputs"]["2"]["images"][0]).status_code == 200
    assert get(comfy, "/view", **entry["outputs"]["3"]["images"][0]).status_code == 404


def test_a_port_that_is_taken_refuses_a_second_server(comfy: FakeComfyUI) -> None:
    port = int(comfy.url.rpartition(":")[2])
    second = FakeComfyUI(port=port)
    with pytest.raises(OSError):
        second.start()
    second.close()


def test_it_runs_as_a_process_that_says_where_it_answers() -> None:
    command = [sys.executable, "-m", "tests.providers.fake_comfyui", "--generation", "B", "--seconds", "0.02"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/system_stats", trust_env=False).json()["system"]["comfyui_version"] == "0.33.0"
        process.kill()
