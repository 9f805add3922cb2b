"""What a customer may change in a workflow: proposed by the rule below, or as an operator says.

The rule: a value that names a media file in a loader node, and values whose fields have one of these names.
Everything else (model files, prefixes, methods, sizes of batches) stays as it is in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models_registry.manifest import same_json
from models_registry.models import VariableType
from models_registry.object_info import FieldInfo, ObjectInfo
from models_registry.workflows.graph import FILENAME_PREFIX, Node, Workflow, WorkflowError, is_seed
from models_registry.workflows.names import Field, name_fields, sides_of
from models_registry.workflows.values import Mismatch, Values, media_type, values_of

TEXTS = frozenset(
    {
        *("text", "prompt", "string", "positive", "negative", "caption", "lyrics", "tags", "instruction"),
        *("text_g", "text_l", "text_a", "text_b", "string_a", "string_b", "clip_g", "clip_l", "t5xxl"),
    }
)
TEXT_ENDINGS = ("_text", "_prompt")
CHOICES = frozenset({"sampler_name", "scheduler", "aspect_ratio", "resolution"})
NUMBERS = frozenset(
    {
        *("width", "height", "megapixels", "scale_by", "resolution"),
        *("steps", "cfg", "guidance", "denoise", "strength"),
        *("length", "num_frames", "fps", "frame_rate", "duration", "seconds"),
    }
)
# The only field of primitive nodes, which people add to a graph in order to turn it: of any type.
PRIMITIVE = "value"
# Buttons of the editor, written down as fields.
_BUTTONS = ("upload", "choose ")


@dataclass(frozen=True, slots=True)
class Target:
    node: Node
    name: str

    def __str__(self) -> str:
        return f"{self.node.id}.{self.name}"

    @property
    def pointer(self) -> str:
        """RFC 6901, into the template's body."""
        tokens = (self.node.id, "inputs", self.name)
        return "".join(f"/{token.replace('~', '~0').replace('/', '~1')}" for token in tokens)

    @property
    def value(self) -> Any:
        return self.node.inputs[self.name]


@dataclass(frozen=True, slots=True)
class ProposedInput:
    """`default` is None for media, which are required, and where the targets have different values, or null."""

    name: str
    targets: tuple[Target, ...]
    values: Values
    default: Any


@dataclass(frozen=True, slots=True)
class Choice:
    """What an operator says of one input: its name, and places as `<node id>.<field>`."""

    name: str
    places: tuple[str, ...]


def parse_choice(text: str) -> Choice:
    """Read `NAME=NODE.FIELD` or `NAME=NODE.FIELD,NODE.FIELD`. Raises WorkflowError."""
    name, equals, places = text.partition("=")
    parts = tuple(part.strip() for part in places.split(","))
    if not (name.strip() and equals and all(parts)):
        raise WorkflowError(f"{text!r} is no NAME=NODE.FIELD")
    return Choice(name.strip(), parts)


def propose_inputs(workflow: Workflow, info: ObjectInfo | None) -> list[ProposedInput]:
    """Inputs by the rule: media first, then texts, then the rest, each in the order of the graph.

    Raises WorkflowError when the graph's own value is none that the server takes.
    """
    sides = sides_of(workflow)
    fields = [
        Field(node, name, values.type_code, sides.get(node.id, frozenset()))
        for node in workflow.nodes.values()
        for name in node.values()
        if _is_proposed(node, name, _info(info, node, name))
        and (values := values_of(node, name, _info(info, node, name)))
    ]
    fields.sort(key=_rank)
    named = zip(name_fields(fields), fields, strict=True)
    return _build([(name, [Target(field.node, field.name)]) for name, field in named], info)


def choose_inputs(workflow: Workflow, info: ObjectInfo | None, choices: Sequence[Choice]) -> list[ProposedInput]:
    """Exactly these inputs, in this order. Raises WorkflowError."""
    faults: list[str] = []
    chosen: list[tuple[str, list[Target]]] = []
    for choice in choices:
        targets = []
        for place in choice.places:
            try:
                targets.append(_find(workflow, place))
            except WorkflowError as error:
                faults += [f"input {choice.name}: {reason}" for reason in error.reasons]
        chosen.append((choice.name, targets))
    names = [choice.name for choice in choices]
    faults += [
        f"input {name} is given twice: several places of one input are written {name}=NODE.FIELD,NODE.FIELD"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if faults:
        raise WorkflowError(*faults)
    return _build(chosen, info)


def left_over(workflow: Workflow, inputs: Sequence[ProposedInput]) -> list[Target]:
    """The values that stay as they are and could be inputs."""
    taken = {str(target) for one in inputs for target in one.targets}
    everything = [Target(node, name) for node in workflow.nodes.values() for name in node.values()]
    return [target for target in everything if str(target) not in taken and _is_free(target.name)]


def unlisted(targets: Sequence[Target], info: ObjectInfo) -> list[Target]:
    """Those whose value is none of the server's choices: mostly model files that it does not have.

    No reason to refuse: some nodes take more than they list.
    """
    known = [(target, _info(info, target.node, target.name)) for target in targets]
    return [target for target, field in known if field and field.choices and target.value not in field.choices]


def _is_free(name: str) -> bool:
    return name != FILENAME_PREFIX and not name.startswith(_BUTTONS)


def _is_proposed(node: Node, name: str, info: FieldInfo | None) -> bool:
    if not _is_free(name):
        return False
    if media_type(node, name, info):
        return True
    last, value = name.rpartition(".")[2], node.inputs[name]
    if last == PRIMITIVE:
        return isinstance(value, str | int | float)
    if isinstance(value, str):
        return last in TEXTS or last in CHOICES or last.endswith(TEXT_ENDINGS)
    return isinstance(value, int | float) and not isinstance(value, bool) and (last in NUMBERS or is_seed(last))


def _rank(field: Field) -> int:
    last = field.name.rpartition(".")[2]
    if field.type_code == VariableType.STRING and last not in CHOICES:
        return 2 if field.is_negative else 1
    return 0 if Values(field.type_code).is_media else 3


def _info(info: ObjectInfo | None, node: Node, name: str) -> FieldInfo | None:
    found = info.get(node.class_type) if info is not None else None
    return found.fields.get(name) if found is not None else None


def _find(workflow: Workflow, place: str) -> Target:
    """The value at `<node id>.<field>`. Raises WorkflowError naming what there is instead."""
    # Fields may have dots, and ids could: the longest id that fits.
    ids = [node_id for node_id in workflow.nodes if place.startswith(f"{node_id}.")]
    if not ids:
        there = ", ".join(f"{node.id} ({node.class_type})" for node in workflow.nodes.values())
        raise WorkflowError(f"{place!r} names no node and field; the nodes are {there}")
    node = workflow.nodes[max(ids, key=len)]
    name = place.removeprefix(f"{node.id}.")
    there = ", ".join(filter(_is_free, node.values())) or "none"
    if name in node.links():
        source = workflow.nodes[node.links()[name]]
        raise WorkflowError(f"{node}, {name} is a link from {source}, not a value; its values are {there}")
    if name == FILENAME_PREFIX:
        raise WorkflowError(f"{node}, {name} is set for each run and cannot be an input")
    if name not in node.inputs:
        raise WorkflowError(f"{node} has no field {name!r}; its values are {there}")
    return Target(node, name)


def _build(chosen: Sequence[tuple[str, list[Target]]], info: ObjectInfo | None) -> list[ProposedInput]:
    faults: list[str] = []
    inputs = []
    for name, targets in chosen:
        try:
            inputs.append(_make(name, targets, info))
        except WorkflowError as error:
            faults += [f"input {name}: {reason}" for reason in error.reasons]
    if faults:
        raise WorkflowError(*faults)
    return inputs


def _make(name: str, targets: Sequence[Target], info: ObjectInfo | None) -> ProposedInput:
    values: Values | None = None
    for target in targets:
        more = values_of(target.node, target.name, _info(info, target.node, target.name))
        if more is None:
            raise WorkflowError(f"{target.node}, {target.name} is null in the graph, so its type is not known")
        try:
            values = values.common(more) if values else more
        except Mismatch as mismatch:
            raise WorkflowError(f"{', '.join(map(str, targets))}: {mismatch}") from mismatch
    assert values is not None  # noqa: S101  # for the type checker: an input has a target
    first = targets[0].value
    is_same = all(same_json(first, target.value) for target in targets)
    default = first if is_same and not values.is_media else None
    if default is not None and (fault := values.fault(default)):
        target = targets[0]
        raise WorkflowError(f"{target.node}, {target.name} is {default!r} in the graph, which cannot be: {fault}")
    return ProposedInput(name, tuple(targets), values, default)
