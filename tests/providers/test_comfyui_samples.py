"""Exchanges recorded from two real servers, replayed into the parts that read them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from providers.base import Accepted, Canceled, Done, Rejected, Seen, Unavailable
from providers.comfyui.answers import PartlyAccepted, is_lost_upload, read_submission
from providers.comfyui.endings import read_entry, read_job
from providers.comfyui.graphs import check_graph
from tests.providers.comfyui import SAMPLES, VERSIONS, sample

versions = pytest.mark.parametrize("version", list(VERSIONS.values()))


def as_job(entry: dict[str, Any], status: str) -> dict[str, Any]:
    """The jobs view's form of a history entry."""
    return {
        "id": entry["prompt"][1],
        "status": status,
        "outputs": entry["outputs"],
        "execution_status": entry["status"],
        "workflow": {"prompt": entry["prompt"][2], "extra_data": entry["prompt"][3]},
    }


def read_both(entry: dict[str, Any], status: str) -> Seen:
    """The one ending that both views tell of."""
    seen = read_entry(entry)
    assert read_job(as_job(entry, status)) == seen
    return seen


def answer_of(recorded: dict[str, Any]) -> httpx.Response:
    return httpx.Response(
        recorded["status"], json=recorded["body"], request=httpx.Request("POST", "http://comfy/prompt")
    )


@pytest.mark.parametrize(("version", "seconds"), [("0.3.64", 0.074), ("0.33.0", 0.07)])
def test_a_recorded_success_is_done_with_its_file_and_its_time(version: str, seconds: float) -> None:
    history = sample(f"success-{version}")["history"]
    item = {"filename": "t01_00001_.png", "subfolder": "runflow", "type": "output"}
    assert read_both(history, "completed") == Done({"items": [item], "seed": None, "execute": seconds})


@versions
def test_a_recorded_acceptance_is_accepted_under_the_servers_id(version: str) -> None:
    response = sample(f"success-{version}")["response"]
    answer = read_submission(answer_of({"status": 200, "body": response}), nodes_total=3)
    assert answer == Accepted(response["prompt_id"], 3)


@versions
def test_a_recorded_failure_names_node_and_reason_and_nothing_of_the_server(version: str) -> None:
    message = (
        "Node 2 (ImageBlur) failed: Argument #4: Padding size should be less than the corresponding input dimension, "
        "but got: padding (31, 31) at dimension 3 of input [1, 3, 4, 4]"
    )
    assert read_both(sample(f"exec-error-{version}"), "failed") == Rejected("EXECUTION_FAILED", message)


@versions
def test_a_recorded_interruption_is_canceled_although_its_status_is_error(version: str) -> None:
    entry = sample(f"interrupted-{version}")
    assert entry["status"]["status_str"] == "error"
    assert read_both(entry, "cancelled") == Canceled()


REFUSALS = {
    "20": "node 1 (EmptyImage), width: Value 99999 bigger than max of 16384",
    "21": "node 2 (ImageScale), upscale_method: Value not in list ('magic')",
    "23": "node 2 (ImageScale), height: Required input is missing",
    "24": "node 3 (SaveImage): Exception when validating node ('99')",
    "25": (
        "node 3 (SaveImage), images: Return type mismatch between linked nodes "
        "(images, received_type(STRING) mismatch input_type(IMAGE))"
    ),
    "26": "Prompt has no outputs",
    "28": (
        "node 1 (LoadImage), image: Custom validation failed for node (image - Invalid image file: does-not-exist.png)"
    ),
    "30": (
        "node 1 (EmptyImage), width: Failed to convert an input value to a INT value "
        "(width, wide, invalid literal for int() with base 10: 'wide')"
    ),
}


@versions
@pytest.mark.parametrize("number", list(REFUSALS))
def test_a_recorded_refusal_is_rejected_with_node_and_field(version: str, number: str) -> None:
    answer = read_submission(answer_of(sample(f"validation-{version}")[number]), nodes_total=3)
    assert answer == Rejected("PROVIDER_REJECTED", f"The provider refused the graph: {REFUSALS[number]}.", "dispatch")


@pytest.mark.parametrize(
    ("version", "number", "reason"),
    [
        ("0.3.64", "22", "Cannot execute because node NoSuchNode_Runflow does not exist (Node ID '#1')"),
        (
            "0.33.0",
            "22",
            "Node 'NoSuchNode_Runflow' not found. The custom node may not be installed (Node ID '#1')",
        ),
        ("0.3.64", "29", "Prompt outputs failed validation"),
        (
            "0.33.0",
            "29",
            "node 2 (ImageInvert): Dependency cycle detected (2 (ImageInvert) -> 1 (ImageInvert) -> 2 (ImageInvert)); "
            "node 1 (ImageInvert): Dependency cycle detected (2 (ImageInvert) -> 1 (ImageInvert) -> 2 (ImageInvert))",
        ),
        ("0.33.0", "31", "node 2 (ImageBlend), blend_mode: Value not in list ('no-such-mode')"),
    ],
)
def test_the_two_servers_word_some_refusals_differently(version: str, number: str, reason: str) -> None:
    answer = read_submission(answer_of(sample(f"validation-{version}")[number]), nodes_total=3)
    assert answer == Rejected("PROVIDER_REJECTED", f"The provider refused the graph: {reason}.", "dispatch")


@versions
def test_a_recorded_partial_acceptance_is_none(version: str) -> None:
    recorded = sample(f"validation-{version}")["27"]
    message = "The provider refused the graph: node 3 (EmptyImage), width: Value -5 smaller than min of 1."
    assert read_submission(answer_of(recorded), nodes_total=4) == PartlyAccepted(
        recorded["body"]["prompt_id"], Rejected("PROVIDER_REJECTED", message, "dispatch")
    )
    # What its half came to is a success in the server's eyes, which is why the answer has to be read.
    assert isinstance(read_entry(recorded["history"]), Done)


def test_a_choice_that_the_older_server_lets_through_fails_when_it_runs() -> None:
    recorded = sample("validation-0.3.64")["31"]
    assert read_submission(answer_of(recorded), nodes_total=3) == Accepted(recorded["body"]["prompt_id"], 3)
    assert read_entry(recorded["history"]) == Rejected(
        "EXECUTION_FAILED", "Node 2 (ImageBlend) failed: Unsupported blend mode: no-such-mode"
    )


@versions
@pytest.mark.parametrize("number", [str(number) for number in range(20, 32)])
def test_no_recorded_answer_shows_a_path_or_a_traceback(version: str, number: str) -> None:
    recorded = sample(f"validation-{version}")[number]
    seen: list[Any] = [read_submission(answer_of(recorded), nodes_total=3)]
    if "history" in recorded:
        seen.append(read_entry(recorded["history"]))
    for text in map(repr, seen):
        assert "/srv" not in text
        assert ".py" not in text
        assert "tensor" not in text


@versions
@pytest.mark.parametrize(
    ("number", "path", "is_lost"),
    [
        ("28", "does-not-exist.png", True),
        ("28", "another.png", False),
        ("21", "magic", False),
        ("26", "does-not-exist.png", False),
    ],
)
def test_a_refusal_for_want_of_a_file_is_told_from_others(version: str, number: str, path: str, is_lost: bool) -> None:
    assert is_lost_upload(answer_of(sample(f"validation-{version}")[number]), [path]) is is_lost


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("graph-*.json")), ids=lambda path: path.stem)
def test_every_recorded_graph_has_the_shape_of_one(path: Any) -> None:
    graph = sample(path.stem)
    assert check_graph(graph) is graph


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torch.OutOfMemoryError", "Allocation on device"),
        ("torch.cuda.OutOfMemoryError", ""),
        ("MemoryError", ""),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        ("RuntimeError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered"),
        ("OSError", "[Errno 28] No space left on device: '/srv/comfyui/output/x.png'"),
        ("OSError", "[Errno 24] Too many open files"),
        ("OSError", "[Errno 5] Input/output error"),
    ],
)
def test_a_server_short_of_a_resource_may_do_it_another_time(kind: str, message: str) -> None:
    assert read_entry(failed_entry(kind, message)) == Unavailable(
        "PROVIDER_UNAVAILABLE", "The provider ran short of a resource, such as memory."
    )


@pytest.mark.parametrize(
    ("kind", "message", "shown"),
    [
        (
            "PIL.UnidentifiedImageError",
            "cannot identify image file '/srv/comfyui/input/runflow/ab.png'\n",
            "cannot identify image file [path]",
        ),
        (
            "OSError",
            "image file is truncated (5 bytes not processed)",
            "image file is truncated (5 bytes not processed)",
        ),
        ("KeyError", "", "KeyError"),
        (
            "ValueError",
            'Bad.\nTraceback (most recent call last):\n  File "/srv/comfyui/nodes.py", line 1, in f\nValueError',
            "Bad.",
        ),
    ],
)
def test_other_failures_are_final_and_worded_for_customers(kind: str, message: str, shown: str) -> None:
    assert read_entry(failed_entry(kind, message)) == Rejected("EXECUTION_FAILED", f"Node 7 (KSampler) failed: {shown}")


def failed_entry(kind: str, message: str) -> dict[str, Any]:
    details = {"node_id": "7", "node_type": "KSampler", "exception_type": kind, "exception_message": message}
    status = {"status_str": "error", "completed": False, "messages": [["execution_error", details]]}
    return {"prompt": [1, "id", {}, {}, []], "outputs": {}, "status": status}


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        ({}, Done({"items": [], "seed": None})),
        ({"status": None, "outputs": None, "prompt": []}, Done({"items": [], "seed": None})),
        (
            {"status": {"status_str": "error", "messages": []}},
            Rejected("EXECUTION_FAILED", "The provider reported a failure and gave no reason."),
        ),
        # A failed node, then a success: the last message decides.
        (
            {"status": {"messages": [["execution_error", {}], ["execution_success", {}], ["other", {}]]}},
            Done({"items": [], "seed": None}),
        ),
    ],
)
def test_an_entry_that_says_little_is_read_all_the_same(entry: dict[str, Any], seen: Seen) -> None:
    assert read_entry(entry) == seen
