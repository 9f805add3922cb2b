"""Which inputs a workflow is given: proposed, named, typed, or as an operator says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from models_registry.models import Validator, VariableType
from models_registry.object_info import NodeInfo, ObjectInfo, read_field_info
from models_registry.workflows import inputs as rule
from models_registry.workflows.graph import Workflow, WorkflowError, read_workflow
from models_registry.workflows.inputs import (
    ProposedInput,
    choose_inputs,
    left_over,
    parse_choice,
    propose_inputs,
    unlisted,
)
from models_registry.workflows.names import snake

GRAPHS = Path(__file__).parent / "graphs"


def node(class_type: str, title: Any = None, **inputs: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return made if title is None else {**made, "_meta": {"title": title}}


def workflow_of(**nodes: dict[str, Any]) -> Workflow:
    """Nodes by id; ids are numbers: n1, n2."""
    return read_workflow(json.dumps({node_id.removeprefix("n"): made for node_id, made in nodes.items()}))


def info_of(**classes: Mapping[str, Any]) -> ObjectInfo:
    return {name: NodeInfo(True, {field: read_field_info(spec) for field, spec in fields.items()})
            for name, fields in classes.items()}  # fmt: skip


def shown(inputs: list[ProposedInput]) -> dict[str, list[str]]:
    return {one.name: [str(target) for target in one.targets] for one in inputs}


def proposed(workflow: Workflow, info: ObjectInfo | None = None) -> dict[str, list[str]]:
    return shown(propose_inputs(workflow, info))


def only(inputs: list[ProposedInput]) -> ProposedInput:
    (one,) = inputs
    return one


# --- Which values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "a") for name in sorted(rule.TEXTS | rule.CHOICES)),
        *((name, 5) for name in sorted(rule.NUMBERS)),
        *((name, 0.5) for name in sorted(rule.NUMBERS)),
        ("system_prompt", "a"),
        ("alt_text", "a"),
        ("seed", 5),
        ("noise_seed", 5),
        ("upscale_seed", 5),
        ("resize_type.width", 5),
        *(("value", value) for value in ("a", 5, 0.5, True)),
    ],
)
def test_a_value_with_a_telling_field_is_an_input(name: str, value: Any) -> None:
    one = only(propose_inputs(workflow_of(n1=node("Any", **{name: value})), None))
    assert [str(target) for target in one.targets] == [f"1.{name}"]
    assert one.default == value


@pytest.mark.parametrize(
    ("class_type", "name", "value"),
    [
        ("SaveImage", "filename_prefix", "a"),
        ("CheckpointLoaderSimple", "ckpt_name", "model.safetensors"),
        ("LoraLoader", "strength_model", 1.0),
        ("CLIPLoader", "type", "sd3"),
        ("DualCLIPLoader", "text_encoder1", "t5.safetensors"),
        ("EmptyLatentImage", "batch_size", 1),
        ("ImageScale", "crop", "center"),
        ("LoadImage", "upload", "image"),
        ("VHS_LoadVideo", "choose video to upload", "image"),
        ("Any", "text", 5),
        ("Any", "seed", "5"),
        ("Any", "seed", True),
        ("Any", "width", "wide"),
        ("Any", "value", None),
        ("Power Lora Loader", "value", {"on": True}),
    ],
)
def test_other_values_stay_as_they_are(class_type: str, name: str, value: Any) -> None:
    assert proposed(workflow_of(n1=node(class_type, **{name: value}))) == {}


@pytest.mark.parametrize(
    ("class_type", "field", "value", "name", "type_code"),
    [
        ("LoadImage", "image", "photo.PNG", "image", VariableType.IMAGE),
        ("LoadImage", "image", "runflow/a b.jpeg [input]", "image", VariableType.IMAGE),
        ("LoadImageMask", "image", "mask.webp", "image", VariableType.IMAGE),
        ("LoadVideo", "file", "clip.mp4", "video", VariableType.VIDEO),
        ("VHS_LoadVideo", "video", "clip.webm", "video", VariableType.VIDEO),
        ("LoadAudio", "audio", "song.flac", "audio", VariableType.AUDIO),
    ],
)
def test_files_in_loaders_are_required_media(
    class_type: str, field: str, value: str, name: str, type_code: VariableType
) -> None:
    one = only(propose_inputs(workflow_of(n1=node(class_type, **{field: value})), None))
    assert (one.name, one.values.type_code, one.default) == (name, type_code, None)


@pytest.mark.parametrize(
    ("class_type", "value"),
    [
        ("VHS_LoadVideoPath", "/data/clip.mp4"),
        ("LoadImageFromURL", "a.png"),
        ("LoadImageX", "https://example.com/a.png"),
        ("Composer", "a.png"),
        ("LoadLatent", "a.latent"),
    ],
)
def test_other_files_are_none(class_type: str, value: str) -> None:
    assert proposed(workflow_of(n1=node(class_type, file=value))) == {}


def test_an_upload_field_is_media_whatever_its_value_looks_like() -> None:
    info = info_of(Picker={"picture": [["x"], {"image_upload": True}]})
    one = only(propose_inputs(workflow_of(n1=node("Picker", picture="x")), info))
    assert (one.name, one.values.type_code, one.default) == ("picture", VariableType.IMAGE, None)


def test_links_are_followed_and_never_inputs() -> None:
    workflow = workflow_of(n1=node("PrimitiveInt", value=512), n2=node("EmptyImage", width=["1", 0], height=64))
    assert proposed(workflow) == {"value": ["1.value"], "height": ["2.height"]}


# --- Names ----------------------------------------------------------------------------------------------------------


def sampled(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A sampler with a positive prompt (1) and a negative one (2), and more nodes, which may replace these."""
    return {
        "n1": node("CLIPTextEncode", text="a"),
        "n2": node("CLIPTextEncode", text="b"),
        "n3": node("KSampler", positive=["1", 0], negative=["2", 0]),
        **more,
    }


def test_prompts_are_told_apart_by_where_they_lead() -> None:
    assert proposed(workflow_of(**sampled())) == {"prompt": ["1.text"], "negative_prompt": ["2.text"]}
    swapped = sampled(n3=node("KSampler", positive=["2", 0], negative=["1", 0]))
    assert proposed(workflow_of(**swapped)) == {"prompt": ["2.text"], "negative_prompt": ["1.text"]}


def test_nodes_that_take_both_prompts_pass_them_on_apart() -> None:
    nodes = sampled(
        n3=node("KSampler", positive=["4", 0], negative=["4", 1]),
        n4=node("ControlNetApplyAdvanced", positive=["1", 0], negative=["2", 0], strength=0.5),
    )
    assert proposed(workflow_of(**nodes)) == {
        "prompt": ["1.text"],
        "negative_prompt": ["2.text"],
        "strength": ["4.strength"],
    }


def test_texts_behind_other_nodes_are_prompts_too() -> None:
    nodes = sampled(
        n1=node("CLIPTextEncode", text=["5", 0]),
        n2=node("CLIPTextEncode", text=["6", 0]),
        n5=node("StringConcatenate", string_a="a", string_b="b"),
        n6=node("PrimitiveString", value="c"),
    )
    assert proposed(workflow_of(**nodes)) == {
        "string_a": ["5.string_a"],
        "string_b": ["5.string_b"],
        "negative_prompt": ["6.value"],
    }


def test_a_prompt_used_on_both_sides_is_the_prompt() -> None:
    nodes = {
        "n1": node("CLIPTextEncode", text="a"),
        "n2": node("ConditioningZeroOut", conditioning=["1", 0]),
        "n3": node("KSampler", positive=["1", 0], negative=["2", 0]),
    }
    assert proposed(workflow_of(**nodes)) == {"prompt": ["1.text"]}


def test_a_prompt_without_sides_is_the_prompt() -> None:
    nodes = {"n1": node("CLIPTextEncode", text="a"), "n2": node("BasicGuider", conditioning=["1", 0])}
    assert proposed(workflow_of(**nodes)) == {"prompt": ["1.text"]}


def test_prompts_of_several_texts_keep_their_fields_names() -> None:
    nodes = sampled(
        n1=node("CLIPTextEncodeFlux", clip_l="a", t5xxl="b", guidance=3.5),
        n2=node("CLIPTextEncodeFlux", clip_l="c", t5xxl="d", guidance=3.5),
    )
    assert proposed(workflow_of(**nodes)) == {
        "clip_l": ["1.clip_l"],
        "t5xxl": ["1.t5xxl"],
        "negative_clip_l": ["2.clip_l"],
        "negative_t5xxl": ["2.t5xxl"],
        "guidance_1": ["1.guidance"],
        "guidance_2": ["2.guidance"],
    }


def test_a_loop_of_links_is_walked_once() -> None:
    nodes = {
        "n1": node("CLIPTextEncode", text="a", loop=["2", 0]),
        "n2": node("Combine", first=["1", 0], second=["2", 0]),
        "n3": node("KSampler", positive=["2", 0], negative=["2", 0]),
    }
    assert proposed(workflow_of(**nodes)) == {"prompt": ["1.text"]}


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (("KSampler", "Base"), ("KSampler", "Refiner pass"), ["base_seed", "refiner_pass_seed"]),
        (("KSampler", "Seed"), ("KSampler", "Second seed"), ["seed", "second_seed"]),
        (("KSampler", "KSampler"), ("KSampler", "KSampler"), ["seed_1", "seed_2"]),
        (("KSampler", "Base"), ("KSampler", None), ["seed_1", "seed_2"]),
        (("KSampler", "S"), ("RandomNoise", "S"), ["ksampler_seed", "random_noise_seed"]),
        (("KSampler", "基础"), ("RandomNoise", "噪声"), ["ksampler_seed", "random_noise_seed"]),
    ],
)
def test_equal_names_are_told_apart_by_title_then_class_then_id(
    first: tuple[str, str], second: tuple[str, str], names: list[str]
) -> None:
    workflow = workflow_of(n1=node(*first, seed=1), n2=node(*second, noise_seed=1))
    assert list(proposed(workflow)) == names


def test_nodes_of_a_subgraph_have_ids_with_colons() -> None:
    graph = {"12:5": node("KSampler", seed=1), "12:6": node("KSampler", seed=1)}
    assert proposed(read_workflow(json.dumps(graph))) == {"seed_12_5": ["12:5.seed"], "seed_12_6": ["12:6.seed"]}


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Style", "style"),
        ("Number of people", "number_of_people"),
        ("2nd line!", "input_2nd_line"),
        ("x" * 200, "x" * 40),
        ("Client Ref", "client_ref_1"),
        ("String", "value"),
        ("String (Multiline)", "value"),
        ("", "value"),
        ("样式", "value"),
    ],
)
def test_a_primitive_is_called_by_its_title(title: str, name: str) -> None:
    assert list(proposed(workflow_of(n1=node("PrimitiveString", title, value="a")))) == [name]


def test_names_made_apart_do_not_meet_others() -> None:
    workflow = workflow_of(
        n1=node("A", seed=1), n2=node("A", seed=1), n3=node("PrimitiveInt", "seed_1", value=1),
        n4=node("PrimitiveInt", "Height", value=1), n5=node("B", height=1),
    )  # fmt: skip
    assert proposed(workflow) == {
        "seed_1": ["1.seed"],
        "seed_2": ["2.seed"],
        "seed_1_3": ["3.value"],
        "primitive_int_height": ["4.value"],
        "b_height": ["5.height"],
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CLIPTextEncode", "clip_text_encode"),
        ("VHS_LoadVideo", "vhs_load_video"),
        ("KSampler", "ksampler"),
        ("Load Image", "load_image"),
        ("Résumé", "r_sum"),
        ("__", ""),
        ("", ""),
    ],
)
def test_names_are_made_of_words(text: str, name: str) -> None:
    assert snake(text) == name


def test_media_come_first_then_texts_then_the_rest() -> None:
    nodes = sampled(n0=node("EmptyLatentImage", width=8), n9=node("LoadImage", image="a.png"))
    assert list(proposed(workflow_of(**nodes))) == ["image", "prompt", "negative_prompt", "width"]


# --- Types ----------------------------------------------------------------------------------------------------------

NONE: tuple[Validator, dict[str, Any]] = (Validator.NONE, {})


@pytest.mark.parametrize(
    ("name", "value", "type_code", "validator"),
    [
        ("value", "a", VariableType.STRING, NONE),
        ("value", 5, VariableType.INTEGER, NONE),
        ("value", 0.5, VariableType.NUMBER, NONE),
        ("value", True, VariableType.BOOLEAN, NONE),
        ("steps", 20, VariableType.INTEGER, NONE),
        ("cfg", 8, VariableType.NUMBER, NONE),
        ("denoise", 1, VariableType.NUMBER, NONE),
        ("seed", 5, VariableType.INTEGER, (Validator.RANGE, {"min": 0, "max": 2**63 - 1})),
        ("noise_seed", -1, VariableType.INTEGER, (Validator.RANGE, {"min": -1, "max": 2**63 - 1})),
        ("seed", 2**64 - 1, VariableType.INTEGER, (Validator.RANGE, {"min": 0, "max": 2**63 - 1})),
    ],
)
def test_without_a_server_types_are_those_of_the_graphs_values(
    name: str, value: Any, type_code: VariableType, validator: tuple[Validator, dict[str, Any]]
) -> None:
    one = only(propose_inputs(workflow_of(n1=node("Any", **{name: value})), None))
    assert (one.values.type_code, one.values.validator()) == (type_code, validator)
    assert one.default == min(value, 2**63 - 1) if isinstance(value, int) else one.default == value


@pytest.mark.parametrize(
    ("spec", "value", "type_code", "validator"),
    [
        (["INT", {"min": 1, "max": 9}], 5, VariableType.INTEGER, (Validator.RANGE, {"min": 1, "max": 9})),
        (["INT", {"min": 16, "step": 8}], 24, VariableType.INTEGER, (Validator.RANGE, {"min": 16, "step": 8})),
        (["INT", {"min": 16, "step": 8}], 20, VariableType.INTEGER, (Validator.RANGE, {"min": 16})),
        (["INT", {}], 5.0, VariableType.INTEGER, NONE),
        (["FLOAT", {"min": 0.0, "step": 0.1}], 7.55, VariableType.NUMBER, (Validator.RANGE, {"min": 0.0})),
        (["FLOAT", {}], 7, VariableType.NUMBER, NONE),
        (["STRING", {}], "a", VariableType.STRING, NONE),
        ([["a", "b"]], "a", VariableType.STRING, (Validator.ONE_OF, {"values": ["a", "b"]})),
        (["COMBO", {"options": [1, 2]}], 2, VariableType.INTEGER, (Validator.ONE_OF, {"values": [1, 2]})),
        (["BOOLEAN", {}], True, VariableType.BOOLEAN, NONE),
        (["COMBO", {"options": []}], "a", VariableType.STRING, NONE),
        (["*", {}], 5, VariableType.INTEGER, NONE),
    ],
)
def test_with_a_server_types_ranges_and_choices_are_its_own(
    spec: Any, value: Any, type_code: VariableType, validator: tuple[Validator, dict[str, Any]]
) -> None:
    one = only(propose_inputs(workflow_of(n1=node("Any", value=value)), info_of(Any={"value": spec})))
    assert (one.values.type_code, one.values.validator(), one.default) == (type_code, validator, value)


def test_the_server_changes_what_inputs_take_not_which_there_are() -> None:
    workflow = workflow_of(n1=node("Any", text="a", mode="b", width=8))
    info = info_of(Any={"text": ["STRING"], "mode": [["b", "c"]], "width": ["INT"]})
    assert proposed(workflow, info) == proposed(workflow) == {"text": ["1.text"], "width": ["1.width"]}


@pytest.mark.parametrize(
    ("spec", "value", "reason"),
    [
        (["INT", {"max": 4}], 5, "1.value is 5 in the graph, which cannot be: Must be at most 4."),
        (["INT", {}], "5", "1.value is '5' in the graph, which cannot be: Must be an integer."),
        ([["a"]], "b", "1.value is 'b' in the graph, which cannot be: Must be one of: \"a\""),
    ],
)
def test_a_graphs_own_value_that_the_server_would_refuse_is_refused(spec: Any, value: Any, reason: str) -> None:
    with pytest.raises(WorkflowError) as refused:
        propose_inputs(workflow_of(n1=node("Any", value=value)), info_of(Any={"value": spec}))
    assert refused.value.reasons == (f"input value: node 1 (Any), {reason.removeprefix('1.')}",)


# --- As an operator says --------------------------------------------------------------------------------------------

CHAIN = {
    "n1": node("EmptyImage", width=8, height=8, batch_size=1, color=0, ratio=1.5, mode="a"),
    "n2": node("ImageScale", image=["1", 0], width=8, height=16, crop="center"),
    "n3": node("SaveImage", images=["2", 0], filename_prefix="x"),
    "n4": node("Loader", ckpt_name="m.safetensors", file="a.png", setting={"on": True}, nothing=None),
}


def choose(*texts: str, info: ObjectInfo | None = None) -> list[ProposedInput]:
    return choose_inputs(workflow_of(**CHAIN), info, [parse_choice(text) for text in texts])


def refusal(*texts: str, info: ObjectInfo | None = None) -> list[str]:
    with pytest.raises(WorkflowError) as refused:
        choose(*texts, info=info)
    return list(refused.value.reasons)


def test_exactly_the_named_inputs_are_taken_in_their_order() -> None:
    inputs = choose("background=1.color", " model = 4.ckpt_name", "size=1.width, 2.width")
    assert shown(inputs) == {"background": ["1.color"], "model": ["4.ckpt_name"], "size": ["1.width", "2.width"]}
    assert [(one.values.type_code, one.default) for one in inputs] == [
        (VariableType.INTEGER, 0),
        (VariableType.STRING, "m.safetensors"),
        (VariableType.INTEGER, 8),
    ]


def test_an_input_with_different_values_in_its_places_has_no_default() -> None:
    assert [one.default for one in choose("height=1.height,2.height", "width=1.width,2.width")] == [None, 8]


def test_values_of_a_graph_that_are_objects_are_json() -> None:
    one = only(choose("setting=4.setting"))
    assert (one.values.type_code, one.default) == (VariableType.JSON, {"on": True})


def test_a_field_may_have_dots() -> None:
    workflow = workflow_of(n1=node("Resize", **{"type.width": 8}))
    assert shown(choose_inputs(workflow, None, [parse_choice("w=1.type.width")])) == {"w": ["1.type.width"]}


def test_pointers_are_escaped() -> None:
    graph = {"1/2": node("Any", **{"a~b": 1})}
    inputs = choose_inputs(read_workflow(json.dumps(graph)), None, [parse_choice("x=1/2.a~b")])
    assert only(inputs).targets[0].pointer == "/1~12/inputs/a~0b"


@pytest.mark.parametrize("text", ["", "a", "a=", "=1.b", "a=1.b,", "a=,", " = "])
def test_what_names_no_input_is_refused(text: str) -> None:
    with pytest.raises(WorkflowError) as refused:
        parse_choice(text)
    assert refused.value.reasons == (f"{text!r} is no NAME=NODE.FIELD",)


NODES = "1 (EmptyImage), 2 (ImageScale), 3 (SaveImage), 4 (Loader)"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a=9.width"], [f"input a: '9.width' names no node and field; the nodes are {NODES}"]),
        (["a=width"], [f"input a: 'width' names no node and field; the nodes are {NODES}"]),
        (
            ["a=1.colour"],
            [
                "input a: node 1 (EmptyImage) has no field 'colour'; its values are "
                "width, height, batch_size, color, ratio, mode"
            ],
        ),
        (
            ["a=2.image"],
            [
                "input a: node 2 (ImageScale), image is a link from node 1 (EmptyImage), not a value; "
                "its values are width, height, crop"
            ],
        ),
        (
            ["a=3.images"],
            ["input a: node 3 (SaveImage), images is a link from node 2 (ImageScale), not a value; its values are none"],
        ),
        (["a=3.filename_prefix"], ["input a: node 3 (SaveImage), filename_prefix is set for each run and cannot be an input"]),
        (["a=4.nothing"], ["input a: node 4 (Loader), nothing is null in the graph, so its type is not known"]),
        (
            ["a=1.width", "a=2.width", "b=9.x"],
            [
                f"input b: '9.x' names no node and field; the nodes are {NODES}",
                "input a is given twice: several places of one input are written a=NODE.FIELD,NODE.FIELD",
            ],
        ),
        (["a=1.width,1.mode"], ["input a: 1.width, 1.mode: integer and string do not go together"]),
        (["a=4.file,1.mode"], ["input a: 4.file, 1.mode: image and string do not go together"]),
    ],
)  # fmt: skip
def test_places_that_cannot_be_inputs_are_refused_with_what_there_is(texts: list[str], expected: list[str]) -> None:
    assert refusal(*texts) == expected


INT_1_9, INT_5_20, INT_30 = ["INT", {"min": 1, "max": 9}], ["INT", {"min": 5, "max": 20}], ["INT", {"min": 30}]


@pytest.mark.parametrize(
    ("one", "other", "validator"),
    [
        (INT_1_9, INT_5_20, (Validator.RANGE, {"min": 5, "max": 9})),
        (INT_1_9, ["INT", {}], (Validator.RANGE, {"min": 1, "max": 9})),
        (INT_1_9, ["FLOAT", {"min": 0.5, "max": 8.5}], (Validator.RANGE, {"min": 1, "max": 8})),
        (["FLOAT", {"min": 1.5, "max": 8.5}], ["INT", {}], (Validator.RANGE, {"min": 2, "max": 8})),
        (["INT", {"min": 0, "step": 8}], ["INT", {"min": 0, "step": 8}], (Validator.RANGE, {"min": 0, "step": 8})),
        (["INT", {"min": 0, "step": 8}], ["INT", {"min": 0, "step": 4}], (Validator.RANGE, {"min": 0})),
        ([[4, 8, 9]], [[8, 4, 2]], (Validator.ONE_OF, {"values": [4, 8]})),
        ([[4, 8]], ["INT", {}], (Validator.ONE_OF, {"values": [4, 8]})),
        ([[8, 0.5]], ["INT", {}], (Validator.ONE_OF, {"values": [8]})),
    ],
)
def test_an_input_for_two_fields_takes_what_both_take(
    one: Any, other: Any, validator: tuple[Validator, dict[str, Any]]
) -> None:
    info = info_of(EmptyImage={"width": one}, ImageScale={"width": other})
    chosen = only(choose("w=1.width,2.width", info=info))
    assert (chosen.values.type_code, chosen.values.validator(), chosen.default) == (VariableType.INTEGER, validator, 8)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (INT_1_9, INT_30, "their ranges have nothing in common"),
        ([[8, 9]], [[1]], "they have no choice in common"),
        ([[0.5]], ["INT", {}], "they have no choice in common"),
        (INT_1_9, ["STRING", {}], "integer and string do not go together"),
    ],
)
def test_fields_without_a_common_value_are_no_input(one: Any, other: Any, reason: str) -> None:
    info = info_of(EmptyImage={"width": one}, ImageScale={"width": other})
    assert refusal("w=1.width,2.width", info=info) == [f"input w: 1.width, 2.width: {reason}"]


# --- What is left ---------------------------------------------------------------------------------------------------


def test_what_stays_as_it_is_can_be_listed() -> None:
    workflow = workflow_of(**CHAIN)
    rest = left_over(workflow, choose("a=1.width,2.width", "b=1.color"))
    assert [str(target) for target in rest] == [
        *("1.height", "1.batch_size", "1.ratio", "1.mode", "2.height", "2.crop"),
        *("4.ckpt_name", "4.file", "4.setting", "4.nothing"),
    ]


def test_values_that_the_server_does_not_list_are_found() -> None:
    info = info_of(Loader={"ckpt_name": [["other.safetensors"]]}, ImageScale={"crop": [["center"]]})
    rest = left_over(workflow_of(**CHAIN), [])
    assert [str(target) for target in unlisted(rest, info)] == ["4.ckpt_name"]
    assert unlisted(rest, {}) == []


def test_every_sample_graph_has_inputs() -> None:
    paths = sorted(GRAPHS.glob("*.json"))
    assert len(paths) == 7
    assert all(proposed(read_workflow(path.read_text())) for path in paths)
