"""What a history entry, or a job of the jobs view, says became of a prompt. Pure functions."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from providers.base import Canceled, Done, Rejected, Seen, Unavailable, Waiting
from providers.comfyui.graphs import find_seed
from providers.comfyui.outputs import find_outputs
from providers.comfyui.wording import clean, describe_node

logger = logging.getLogger(__name__)

_FINAL = ("execution_success", "execution_error", "execution_interrupted")
# The state of the server, not of the graph: memory, disk, descriptors, the GPU's driver.
_OUT_OF_RESOURCES = re.compile(
    r"out of memory|(?:can't|cannot|could not|unable to) allocate|not enough memory|no space left|disk quota|"
    r"too many open files|input/output error|\[errno (?:5|12|24|28|122)\]|cuda error|cudnn|cublas|hip error",
    re.IGNORECASE,
)


def read_job(job: Mapping[str, Any]) -> Seen:
    """A job of `/api/jobs/{id}`."""
    status = job.get("status")
    if status in ("pending", "in_progress"):
        return Waiting(is_running=status == "in_progress")
    workflow = job.get("workflow")
    graph = workflow.get("prompt") if isinstance(workflow, Mapping) else None
    return _read_ending(job.get("execution_status"), job.get("outputs"), graph)


def read_entry(entry: Mapping[str, Any]) -> Seen:
    """An entry of `/history/{id}`. There is one once the prompt has finished."""
    prompt = entry.get("prompt")
    graph = prompt[2] if isinstance(prompt, list) and len(prompt) > 2 else None
    return _read_ending(entry.get("status"), entry.get("outputs"), graph)


def _read_ending(status: Any, outputs: Any, graph: Any) -> Seen:
    """The last message decides: `status_str` is "error" for failed and interrupted prompts alike."""
    status = status if isinstance(status, Mapping) else {}
    times: dict[str, Any] = {}
    name = ""
    details: Mapping[str, Any] = {}
    for message in status.get("messages") or ():
        if isinstance(message, Sequence) and len(message) == 2 and isinstance(message[1], Mapping):
            times[message[0]] = message[1].get("timestamp")
            if message[0] in _FINAL:
                name, details = message[0], message[1]
    if name == "execution_interrupted":
        return Canceled()
    if name == "execution_error":
        return _read_failure(details)
    if not name and status.get("status_str") == "error":
        return Rejected("EXECUTION_FAILED", "The provider reported a failure and gave no reason.")
    found: dict[str, Any] = {"items": find_outputs(outputs), "seed": find_seed(graph)}
    begun, ended = times.get("execution_start"), times.get("execution_success")
    if isinstance(begun, int) and isinstance(ended, int):
        found["execute"] = max(0, ended - begun) / 1000
    return Done(found)


def _read_failure(details: Mapping[str, Any]) -> Rejected | Unavailable:
    kind, message = str(details.get("exception_type")), str(details.get("exception_message"))
    if kind.rpartition(".")[2] in ("OutOfMemoryError", "MemoryError") or _OUT_OF_RESOURCES.search(message):
        logger.warning("A ComfyUI server is out of resources: %s: %s", kind, message)
        return Unavailable("PROVIDER_UNAVAILABLE", "The provider ran short of a resource, such as memory.")
    node = describe_node(details.get("node_id"), details.get("node_type"))
    return Rejected("EXECUTION_FAILED", f"Node {node} failed: {clean(message) or clean(kind)}")
