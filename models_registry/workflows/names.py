"""What inputs are called: as a person would, who sees the graph in the editor."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models_registry.models import MEDIA_TYPES, VariableType
from models_registry.validation import CLIENT_REF
from models_registry.workflows.graph import Node, Workflow

# Titles of the primitive nodes that nobody has changed.
_DEFAULT_TITLES = frozenset({"", "string", "string_multiline", "int", "float", "boolean"})
# A field's name that says no more than that it holds text.
_PLAIN_TEXT = frozenset({"text", "prompt", "string", "value"})
_OPPOSITE = {"positive": "negative", "negative": "positive"}
# Names may have 100 characters (declarations.NAME_LENGTH); the rest is room for what tells two apart.
_LONGEST = 40


@dataclass(frozen=True, slots=True)
class Field:
    """A field that becomes an input. `sides`: which of a sampler's prompts it takes part in."""

    node: Node
    name: str
    type_code: VariableType
    sides: frozenset[str]

    @property
    def is_negative(self) -> bool:
        return self.sides == {"negative"}


def sides_of(workflow: Workflow) -> dict[str, frozenset[str]]:
    """For each node, whether what it makes ends in a sampler's `positive` or `negative` input: found by following the links.

    Nodes in between take both and pass both on (ControlNet); there the way goes on along the same side only.
    """
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for node in workflow.nodes.values():
        for side in _OPPOSITE:
            if side in node.links():
                _mark(workflow, node.links()[side], side, sides)
    return {node_id: frozenset(found) for node_id, found in sides.items()}


def _mark(workflow: Workflow, start: str, side: str, sides: defaultdict[str, set[str]]) -> None:
    todo = [start]
    while todo:
        node_id = todo.pop()
        if side in sides[node_id]:
            continue
        sides[node_id].add(side)
        todo += [source for name, source in workflow.nodes[node_id].links().items() if name != _OPPOSITE[side]]


def snake(text: str) -> str:
    """ "CLIPTextEncode", "Load Image" -> "clip_text_encode", "load_image"; "" when there is nothing to make a name of."""
    text = re.sub(r"([A-Z]{2,})([A-Z][a-z])", r"\1_\2", text)
    text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text)
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return (f"input_{name}" if name[:1].isdigit() else name)[:_LONGEST].rstrip("_")


def name_fields(fields: Sequence[Field]) -> list[str]:
    """A name for each, all different.

    Those that would be called the same are told apart by their titles, else by their node classes, else by their
    node ids.
    """
    bases = [_base_name(field) for field in fields]
    names: dict[int, str] = {index: base for index, base in enumerate(bases) if bases.count(base) == 1}
    for base in dict.fromkeys(bases):
        group = [index for index, other in enumerate(bases) if other == base]
        if len(group) > 1:
            names |= dict(zip(group, _told_apart(base, [fields[index].node for index in group]), strict=True))
    taken = {CLIENT_REF}
    result = []
    for index, field in enumerate(fields):
        name = names[index]
        while name in taken:
            name = f"{name}_{snake(field.node.id).removeprefix('input_') or 'x'}"
        taken.add(name)
        result.append(name)
    return result


def _base_name(field: Field) -> str:
    # Nested fields have dots: "resize_type.width".
    name = field.name.rpartition(".")[2]
    if field.type_code in MEDIA_TYPES:
        return field.type_code.value if name == "file" else _named(name)
    title = snake(field.node.title)
    if name == "value" and title not in _DEFAULT_TITLES:
        return title
    if name == "noise_seed":
        return "seed"
    if field.type_code == VariableType.STRING:
        if name in _PLAIN_TEXT and (field.sides or "TextEncode" in field.node.class_type):
            return "negative_prompt" if field.is_negative else "prompt"
        if field.is_negative and not name.startswith("negative"):
            return _named(f"negative_{name}")
    return _named(name)


def _named(text: str) -> str:
    return snake(text) or "input"


def _told_apart(base: str, nodes: Sequence[Node]) -> list[str]:
    ways: list[Callable[[Node], str]] = [lambda node: snake(node.title), lambda node: snake(node.class_type)]
    for way in ways:
        prefixes = [way(node) for node in nodes]
        if all(prefixes) and len(set(prefixes)) == len(nodes):
            return [
                prefix if prefix == base or prefix.endswith(f"_{base}") else f"{prefix}_{base}" for prefix in prefixes
            ]
    return [f"{base}_{snake(node.id).removeprefix('input_') or 'x'}" for node in nodes]
