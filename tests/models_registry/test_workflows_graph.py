"""Reading a workflow file: what is one, and what is refused in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models_registry.object_info import NodeInfo
from models_registry.workflows.graph import EDITOR_FORMAT, WorkflowError, check_server, read_workflow

GRAPHS = Path(__file__).parent / "graphs"
GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def reasons(data: Any) -> list[str]:
    with pytest.raises(WorkflowError) as refused:
        read_workflow(data if isinstance(data, str) else json.dumps(data))
    return list(refused.value.reasons)


def with_field(name: str, value: Any) -> dict[str, Any]:
    """The graph with one more field in node 1."""
    return GRAPH | {"1": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], name: value}}}


def test_a_graph_is_read_as_it_is() -> None:
    workflow = read_workflow(json.dumps(GRAPH))
    assert workflow.body == GRAPH
    assert workflow.notes == []
    assert [str(node) for node in workflow.nodes.values()] == ["node 1 (EmptyImage)", "node 2 (SaveImage)"]
    assert workflow.nodes["2"].links() == {"images": "1"}
    assert workflow.nodes["2"].values() == {"filename_prefix": "x"}


@pytest.mark.parametrize("more", [{}, {"client_id": "a", "extra_data": {}}])
def test_a_request_to_a_server_is_read_as_its_graph(more: dict[str, Any]) -> None:
    assert read_workflow(json.dumps({"prompt": GRAPH, **more})).body == GRAPH


def test_a_node_may_be_called_prompt() -> None:
    graph = {"prompt": GRAPH["1"]}
    assert read_workflow(json.dumps(graph)).body == graph


def test_titles_are_read_and_may_be_missing() -> None:
    titled = {"1": {**GRAPH["1"], "_meta": {"title": "Canvas"}}, "2": {**GRAPH["2"], "_meta": None}}
    assert [node.title for node in read_workflow(json.dumps(titled)).nodes.values()] == ["Canvas", ""]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{", ["is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"]),
        ("", ["is no JSON: Expecting value: line 1 column 1 (char 0)"]),
        ([], ["is no workflow: an object with a member for each node is expected"]),
        (None, ["is no workflow: an object with a member for each node is expected"]),
        ({}, ["has no nodes"]),
        ({"prompt": {}}, ["has no nodes"]),
        ({"nodes": [], "links": [], "version": 0.4}, [EDITOR_FORMAT]),
        ({"prompt": {"nodes": [], "links": []}}, [EDITOR_FORMAT]),
        (
            {"1": {"inputs": {}}, "2": [], "3": {"class_type": "A"}, "4": {"class_type": 5, "inputs": {}}},
            [f"{node_id!r} is no node: an object with class_type and inputs is expected" for node_id in "1234"],
        ),
        (
            {"2": GRAPH["2"]},
            ["node 2 (SaveImage), images: a link from node 1, which is not there"],
        ),
        *(
            (
                with_field("x", value),
                [
                    "node 1 (EmptyImage), x: a list that is no link; a link is "
                    '["<node id>", <number of its output>]'
                ],
            )
            for value in ([], ["2"], [2, 0], ["2", "0"], ["2", 0, 0], ["2", True], ["2", 0.0])
        ),
        (with_field("x", 2**63), ["1.inputs.x: Must be within signed 64 bits."]),
        (with_field("x", float("nan")), ["1.inputs.x: Must be a finite number."]),
        (with_field("x", "a\0"), ["1.inputs.x: Must not contain U+0000 or a lone surrogate."]),
        (
            {**with_field("x", ["9", 0]), "3": {"class_type": "B", "inputs": {"y": -(2**64)}}},
            [
                "node 1 (EmptyImage), x: a link from node 9, which is not there",
                "3.inputs.y: Must be within signed 64 bits.",
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_no_workflow_is_refused_with_every_reason(data: Any, expected: list[str]) -> None:
    assert reasons(data) == expected


def test_a_file_that_is_nested_too_deeply_is_refused() -> None:
    assert reasons("[" * 100_000)[0].startswith("is no JSON: ")


def test_the_words_about_the_editors_format_say_where_the_other_is() -> None:
    assert "File → Export Workflow (API)" in EDITOR_FORMAT
    assert "Export (API)" in EDITOR_FORMAT


@pytest.mark.parametrize(
    ("seed", "kept"),
    [(2**64 - 1, 2**63 - 1), (2**63, 2**63 - 1), (2**63 - 1, 2**63 - 1), (-(2**64), -(2**63)), (0, 0)],
)
@pytest.mark.parametrize("name", ["seed", "noise_seed"])
def test_seeds_are_brought_into_the_range_and_it_is_said(name: str, seed: int, kept: int) -> None:
    workflow = read_workflow(json.dumps(with_field(name, seed)))
    assert workflow.body["1"]["inputs"][name] == kept
    said = [f"node 1 (EmptyImage), {name}: {seed} is beyond signed 64 bits; the template has {kept}"]
    assert workflow.notes == ([] if seed == kept else said)


# --- What a server says of it ---------------------------------------------------------------------------------------

PLAIN, OUTPUT = NodeInfo(False, {}), NodeInfo(True, {})


def server_reasons(graph: dict[str, Any], info: dict[str, NodeInfo]) -> list[str]:
    with pytest.raises(WorkflowError) as refused:
        check_server(read_workflow(json.dumps(graph)), info)
    return list(refused.value.reasons)


def test_a_server_that_has_all_nodes_will_do() -> None:
    check_server(read_workflow(json.dumps(GRAPH)), {"EmptyImage": PLAIN, "SaveImage": OUTPUT, "More": PLAIN})


def test_node_classes_that_the_server_lacks_are_named() -> None:
    graph = {**GRAPH, "7": GRAPH["1"], "8": {"class_type": "Sharpen+", "inputs": {}}}
    assert server_reasons(graph, {"SaveImage": OUTPUT}) == [
        "the server has no node class 'EmptyImage' (node 1, 7): install the custom nodes that it comes with",
        "the server has no node class 'Sharpen+' (node 8): install the custom nodes that it comes with",
    ]


def test_a_graph_without_an_output_is_refused() -> None:
    assert server_reasons({"1": GRAPH["1"]}, {"EmptyImage": PLAIN}) == [
        "has no output node: add one that saves something, like SaveImage"
    ]


def test_a_graph_that_only_shows_previews_is_refused() -> None:
    preview = {**GRAPH, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    info = {"EmptyImage": PLAIN, "PreviewImage": OUTPUT, "SaveImage": OUTPUT}
    assert server_reasons(preview, info) == [
        "only has previews, which are not kept: put SaveImage in the place of PreviewImage"
    ]
    check_server(read_workflow(json.dumps({**preview, "3": GRAPH["2"]})), info)
