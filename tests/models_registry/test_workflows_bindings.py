"""From a customer's item to the body that a server is sent: typed, at every target, with defaults as declared."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from models_registry.models import Model, Template
from models_registry.services import ManifestError, import_manifest
from models_registry.templates import render
from models_registry.validation import compile_serializer, validate_items

pytestmark = pytest.mark.django_db

BODY: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 16, "color": 3}},
    "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], "width": 32, "height": 64, "crop": "center"}},
}


def manifest(inputs: list[dict[str, Any]], bindings: list[dict[str, Any]]) -> dict[str, Any]:
    template = {"name": "t", "body": deepcopy(BODY), "bindings": bindings}
    return {
        "providers": [{"code": "gpu", "name": "GPU", "adapter_code": "comfyui"}],
        "models": [
            {"owner": "shop", "slug": "m", "name": "M", "inputs": inputs, "links": [{"provider": "gpu", "template": template}]}
        ],
    }  # fmt: skip


def declare(inputs: list[dict[str, Any]], bindings: list[dict[str, Any]]) -> None:
    import_manifest(manifest=manifest(inputs, bindings), source="m.yaml", apply=True)


def sent(item: dict[str, Any]) -> Any:
    """What a server gets of this item."""
    serializer_class = compile_serializer(Model.objects.get().inputs.all())
    items, errors = validate_items(serializer_class, [item])
    assert errors == []
    template = Template.objects.get()
    return render(template.body, template.bindings, items[0].values)


def with_values(**changes: Any) -> dict[str, Any]:
    """The template's body with other values, by place: n1_width."""
    made = deepcopy(BODY)
    for place, value in changes.items():
        node_id, name = place[1:].split("_")
        made[node_id]["inputs"][name] = value
    return made


SIZE = [{"input": "size", "target": f"/{node_id}/inputs/width"} for node_id in "12"]


@pytest.mark.parametrize("given", [512, 512.0])
def test_an_integer_arrives_as_an_integer_at_all_its_targets(given: float) -> None:
    declare([{"name": "size", "variable_type_code": "integer", "is_required": True}], SIZE)
    made = sent({"size": given})
    assert made == with_values(n1_width=512, n2_width=512)
    assert [type(made[node_id]["inputs"]["width"]) for node_id in "12"] == [int, int]


@pytest.mark.parametrize(
    ("type_code", "given"),
    [("number", 0.5), ("number", 2), ("string", "2"), ("boolean", True), ("json", {"a": [1]}), ("array", ["2"])],
)
def test_nothing_is_turned_into_another_type(type_code: str, given: Any) -> None:
    declare([{"name": "size", "variable_type_code": type_code, "is_required": True}], SIZE)
    made = sent({"size": given})
    assert made == with_values(n1_width=given, n2_width=given)
    assert type(made["1"]["inputs"]["width"]) is type(given)


@pytest.mark.parametrize("item", [{}, {"size": None}])
@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"default_value": 7}, {"n1_width": 7, "n2_width": 7}),
        ({"default_value": 7, "default_behavior_code": "use_default"}, {"n1_width": 7, "n2_width": 7}),
        ({"default_behavior_code": "omit"}, {}),
        ({}, {}),
        ({"default_behavior_code": "null"}, {"n1_width": None, "n2_width": None}),
    ],
)
def test_an_input_that_is_not_given_becomes_what_its_behaviour_says(
    item: dict[str, Any], declared: dict[str, Any], expected: dict[str, Any]
) -> None:
    declare([{"name": "size", "variable_type_code": "integer", **declared}], SIZE)
    assert sent(item) == with_values(**expected)


@pytest.mark.parametrize(
    ("binding", "reason"),
    [
        (
            {"input": "size", "target": "/9/inputs/width"},
            "bindings[0].target: '/9/inputs/width' is not in the body: there is no member '9'",
        ),
        (
            {"input": "size", "target": "/1/inputs/depth"},
            "bindings[0].target: '/1/inputs/depth' is not in the body: there is no member 'depth'",
        ),
        (
            {"input": "size", "target": "/2/inputs/image/2"},
            "bindings[0].target: '/2/inputs/image/2' is not in the body: there is no element '2' in an array of 2",
        ),
        ({"input": "siez", "target": "/1/inputs/width"}, "bindings[0].input: the model declares no input 'siez'"),
    ],
)
def test_a_binding_that_points_nowhere_is_refused_when_it_is_declared(binding: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestError) as refused:
        declare([{"name": "size", "variable_type_code": "integer"}], [binding])
    assert [str(fault) for fault in refused.value.faults] == [f"models[0].links[0].template.{reason}"]
    assert (Model.objects.count(), Template.objects.count()) == (0, 0)


def test_a_required_input_that_is_bound_to_nothing_is_refused_when_it_is_declared() -> None:
    inputs = [{"name": name, "variable_type_code": "integer", "is_required": True} for name in ("size", "color")]
    with pytest.raises(ManifestError) as refused:
        declare(inputs, SIZE)
    assert [str(fault) for fault in refused.value.faults] == [
        "models[0].links[0].template.bindings: the required input 'color' is bound to nothing"
    ]
    assert (Model.objects.count(), Template.objects.count()) == (0, 0)


@pytest.mark.parametrize("change", ["unbound", "required"])
def test_a_later_declaration_is_held_to_the_same(change: str) -> None:
    inputs: list[dict[str, Any]] = [{"name": name, "variable_type_code": "integer"} for name in ("size", "color")]
    color = {"input": "color", "target": "/1/inputs/color"}
    declare(inputs, SIZE if change == "required" else [*SIZE, color])
    stored = Model.objects.get()
    data = manifest(inputs, [*SIZE, {**color, "target": "/1/inputs/colour"}])
    if change == "required":
        inputs[1]["is_required"] = True
        del data["models"][0]["links"]
    with pytest.raises(ManifestError) as refused:
        import_manifest(manifest=data, source="m.yaml", apply=True)
    assert [str(fault) for fault in refused.value.faults] == {
        "unbound": [
            "models[0].links[0].template.bindings[2].target: '/1/inputs/colour' is not in the body: "
            "there is no member 'colour'"
        ],
        "required": [
            "models[0].inputs: t v1 of the link to gpu: bindings: the required input 'color' is bound to nothing"
        ],
    }[change]
    assert (Template.objects.count(), Model.objects.get().version) == (1, stored.version)
