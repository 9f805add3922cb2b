"""Workflows in API format: `{node id: {"class_type", "inputs", "_meta"?}}`, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from models_registry.faults import MAX_INTEGER, MIN_INTEGER, json_faults
from models_registry.object_info import ObjectInfo

EDITOR_FORMAT = (
    "is a workflow as ComfyUI's editor saves it. Export it for the API: in the menu File → Export Workflow (API), in "
    "earlier versions Workflow → Export (API), or Save (API Format) once the dev mode options are on in the settings"
)
# What a prefix says is replaced by the adapter, so that no two attempts share a file.
FILENAME_PREFIX = "filename_prefix"
# Its files are temporary, and left out of a run's outputs.
PREVIEW = "PreviewImage"


class WorkflowError(ValueError):
    """A workflow cannot be imported. `reasons` holds everything that is wrong with it."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Node:
    """`title` is the one that a person gave it in the editor, "" when the file has none."""

    id: str
    class_type: str
    title: str
    inputs: Mapping[str, Any]

    def __str__(self) -> str:
        return f"node {self.id} ({self.class_type})"

    def values(self) -> dict[str, Any]:
        """The fields that hold a value, not a link."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, list)}

    def links(self) -> dict[str, str]:
        """The fields that hold a link, with the id of the node that it comes from."""
        return {name: value[0] for name, value in self.inputs.items() if isinstance(value, list)}


@dataclass(frozen=True, slots=True)
class Workflow:
    """`body` is what a server is sent. `notes` say what in it is not as in the file."""

    body: dict[str, Any]
    nodes: Mapping[str, Node]
    notes: list[str] = field(default_factory=list)

    def class_types(self) -> list[str]:
        """Each once, in the order of the file."""
        return list(dict.fromkeys(node.class_type for node in self.nodes.values()))


def is_seed(name: str) -> bool:
    return name == "seed" or name.endswith("_seed")


def read_workflow(text: str) -> Workflow:
    """Read the text of a file. Raises WorkflowError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"is no JSON: {error}") from error
    # As it is sent to a server, with the graph under "prompt".
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]:
        data = data["prompt"]
    if not isinstance(data, dict):
        raise WorkflowError("is no workflow: an object with a member for each node is expected")
    if isinstance(data.get("nodes"), list) and "links" in data:
        raise WorkflowError(EDITOR_FORMAT)
    if not data:
        raise WorkflowError("has no nodes")
    if faults := [reason for node_id, entry in data.items() for reason in _shape_faults(node_id, entry)]:
        raise WorkflowError(*faults)
    nodes = {node_id: _read_node(node_id, entry) for node_id, entry in data.items()}
    workflow = Workflow(data, nodes, _bring_seeds_into_range(data, nodes))
    faults = [reason for node in nodes.values() for reason in _link_faults(node, nodes)]
    faults += [f"{'.'.join(map(str, fault.path))}: {fault}" for fault in json_faults(data)]
    if faults:
        raise WorkflowError(*faults)
    return workflow


def _shape_faults(node_id: str, entry: Any) -> Iterator[str]:
    is_node = (
        isinstance(entry, dict) and isinstance(entry.get("class_type"), str) and isinstance(entry.get("inputs"), dict)
    )
    if not is_node:
        yield f"{node_id!r} is no node: an object with class_type and inputs is expected"


def _read_node(node_id: str, entry: dict[str, Any]) -> Node:
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return Node(node_id, entry["class_type"], title if isinstance(title, str) else "", entry["inputs"])


def _link_faults(node: Node, nodes: Mapping[str, Node]) -> Iterator[str]:
    for name, value in node.inputs.items():
        if not isinstance(value, list):
            continue
        is_link = len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int
        if not is_link:
            yield f'{node}, {name}: a list that is no link; a link is ["<node id>", <number of its output>]'
        elif value[0] not in nodes:
            yield f"{node}, {name}: a link from node {value[0]}, which is not there"


def _bring_seeds_into_range(body: dict[str, Any], nodes: Mapping[str, Node]) -> list[str]:
    """ComfyUI's seeds go up to 2**64 - 1, and JSON numbers of this server stay within signed 64 bits."""
    notes = []
    for node in nodes.values():
        for name, value in node.values().items():
            if is_seed(name) and type(value) is int and not MIN_INTEGER <= value <= MAX_INTEGER:
                body[node.id]["inputs"][name] = min(max(value, MIN_INTEGER), MAX_INTEGER)
                notes.append(
                    f"{node}, {name}: {value} is beyond signed 64 bits; the template has {body[node.id]['inputs'][name]}"
                )
    return notes


def check_server(workflow: Workflow, info: ObjectInfo) -> None:
    """Raise WorkflowError when the server cannot run the workflow: node classes that it lacks, or nothing to put out."""
    missing = [class_type for class_type in workflow.class_types() if class_type not in info]
    if missing:
        raise WorkflowError(
            *(
                f"the server has no node class {class_type!r} (node "
                f"{', '.join(node.id for node in workflow.nodes.values() if node.class_type == class_type)}): "
                "install the custom nodes that it comes with"
                for class_type in missing
            )
        )
    outputs = {class_type for class_type in workflow.class_types() if info[class_type].is_output}
    if not outputs:
        raise WorkflowError("has no output node: add one that saves something, like SaveImage")
    if outputs == {PREVIEW}:
        raise WorkflowError(f"only has previews, which are not kept: put SaveImage in the place of {PREVIEW}")
