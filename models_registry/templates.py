"""Templates: where inputs go in the JSON body that a provider is sent. Pure functions, no Django.

A binding is `{"input": name, "target": JSON Pointer (RFC 6901) into the body}`. One input may have several
targets, a target has one input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from runflow.lib.json_pointer import copy_json, get_at, put_at
from runflow.lib.json_pointer import parse_pointer as parse_pointer  # part of this module's vocabulary too


class Fault(NamedTuple):
    """What is wrong with a declaration, and where: `bindings[0].target`, `validator_attrs.min`."""

    path: str
    reason: str

    def under(self, prefix: str) -> Fault:
        """The same fault seen from outside: `models[0].inputs[2].` before the path."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        return Fault(f"{prefix}{dot}{self.path}", self.reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class TemplateError(ValueError):
    """A binding leads to a place that the body does not have (contract.md section 4: TEMPLATE_INVALID)."""


def _missing(body: Any, tokens: tuple[str, ...]) -> str | None:
    """Why the place does not exist in the body; None when it does."""
    try:
        get_at(body, tokens)
    except LookupError as error:
        return str(error.args[0])
    return None


def check_bindings(
    body: Any, bindings: Any, input_names: Collection[str], required_names: Collection[str]
) -> list[Fault]:
    """Say everything that is wrong with a template's bindings for a model with these inputs; [] for nothing.

    Refused: a target that the body does not have, a target given twice or lying inside another (which value
    would win depended on the order), an unknown input, a required input that is bound to nothing (its value
    would be lost without a word). An optional input need not be bound.
    """
    if not isinstance(bindings, list):
        return [Fault("bindings", "must be a list of {input, target}")]
    faults: list[Fault] = []
    bound: set[str] = set()
    targets: dict[tuple[str, ...], int] = {}
    for index, binding in enumerate(bindings):
        path = f"bindings[{index}]"
        if not isinstance(binding, dict):
            faults.append(Fault(path, "must be {input, target}"))
            continue
        for key in binding:
            if key not in ("input", "target"):
                faults.append(Fault(f"{path}.{key}", "unknown key; a binding has input and target"))
        name, target = binding.get("input"), binding.get("target")
        if not isinstance(name, str):
            faults.append(Fault(f"{path}.input", "must be the name of an input"))
        elif name not in input_names:
            faults.append(Fault(f"{path}.input", f"the model declares no input {name!r}"))
        else:
            bound.add(name)
        if not isinstance(target, str):
            faults.append(Fault(f"{path}.target", "must be a JSON Pointer (text)"))
            continue
        try:
            tokens = parse_pointer(target)
        except ValueError as error:
            faults.append(Fault(f"{path}.target", str(error)))
            continue
        if reason := _missing(body, tokens):
            faults.append(Fault(f"{path}.target", f"{target!r} is not in the body: {reason}"))
            continue
        for other, earlier in targets.items():
            if other == tokens:
                faults.append(Fault(f"{path}.target", f"{target!r} is the target of bindings[{earlier}] already"))
            elif other == tokens[: len(other)] or tokens == other[: len(tokens)]:
                faults.append(Fault(f"{path}.target", f"{target!r} overlaps the target of bindings[{earlier}]"))
        targets.setdefault(tokens, index)
    faults += [
        Fault("bindings", f"the required input {name!r} is bound to nothing")
        for name in required_names
        if name not in bound
    ]
    return faults


def render(body: Any, bindings: list[dict[str, str]], values: Mapping[str, Any]) -> Any:
    """Put the values at their targets and return the new body.

    An input that `values` does not have leaves the template's own value; None puts null. Types are kept, nothing is
    turned into text. The result shares nothing that can be changed with what was given: a function that works on its
    arguments in place must not change the template of the next run.

    Raises TemplateError when a target is not in the body; a template that passed check_bindings never does.
    """
    result = copy_json(body)
    for binding in bindings:
        if binding["input"] not in values:
            continue
        value = copy_json(values[binding["input"]])
        try:
            result = put_at(result, parse_pointer(binding["target"]), value)
        except LookupError as error:
            raise TemplateError(f"{binding['target']!r} is not in the template's body: {error.args[0]}") from error
    return result
