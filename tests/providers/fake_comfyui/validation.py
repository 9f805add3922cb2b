"""What the fake refuses before it queues a prompt, in the shapes of both generations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.providers.fake_comfyui.nodes import HOME, NODE_TYPES

Graph = dict[str, Any]
Error = dict[str, Any]


class Verdict(NamedTuple):
    """`error` is None when something can run; `outputs` are the output nodes that can."""

    error: Error | None
    node_errors: dict[str, Any]
    outputs: list[str]


def validate(graph: Graph, *, generation: str, has_input: Callable[[str], bool]) -> Verdict:
    for node_id, node in graph.items():
        if node["class_type"] not in NODE_TYPES:
            return Verdict(_unknown_node(node_id, node["class_type"], generation), {}, [])
    targets = [node_id for node_id, node in graph.items() if NODE_TYPES[node["class_type"]].is_output]
    if not targets:
        return Verdict(_error("prompt_no_outputs", "Prompt has no outputs"), {}, [])
    check = _Check(graph, generation, has_input)
    good, details = [], []
    node_errors: dict[str, Any] = {}
    for target in targets:
        bad = check.errors_under(target)
        if not bad:
            good.append(target)
        details += [f"{error['message']}: {error['details']}" for error in bad.get(target, [])]
        for node_id, errors in bad.items():
            if errors:
                entry = node_errors.setdefault(
                    node_id,
                    {"errors": errors, "dependent_outputs": [], "class_type": graph[node_id]["class_type"]},
                )
                entry["dependent_outputs"].append(target)
    if good:
        return Verdict(None, node_errors, good)
    failed = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(details))
    return Verdict(failed, node_errors, [])


class _Check:
    def __init__(self, graph: Graph, generation: str, has_input: Callable[[str], bool]) -> None:
        self._graph = graph
        self._generation = generation
        self._has_input = has_input

    def errors_under(self, target: str) -> dict[str, list[Error]]:
        """Errors by node, of an output node and all it needs. A cycle is an empty list, at the older generation."""
        bad: dict[str, list[Error]] = {}
        done: set[str] = set()
        try:
            self._visit(target, [], bad, done)
        except KeyError as error:
            paths = [f'  File "{HOME}/execution.py", line {line}, in validate_prompt\n' for line in (1010, 788)]
            extra = {"exception_type": "KeyError", "traceback": paths}
            bad = {
                target: [_error("exception_during_validation", "Exception when validating node", str(error), **extra)]
            }
        return bad

    def _visit(self, node_id: str, path: list[str], bad: dict[str, list[Error]], done: set[str]) -> None:
        if node_id in path:
            self._report_cycle([*path[path.index(node_id) :], node_id], bad)
            return
        if node_id in done:
            return
        done.add(node_id)
        errors = []
        node = self._graph[node_id]
        for name, spec in NODE_TYPES[node["class_type"]].inputs.items():
            if name not in node["inputs"]:
                errors.append(_error("required_input_missing", "Required input is missing", name, input_name=name))
                continue
            value = node["inputs"][name]
            if isinstance(value, list):
                errors += self._link_errors(name, spec, value)
                self._visit(value[0], [*path, node_id], bad, done)
            else:
                errors += self._literal_errors(node, name, spec)
        if errors:
            bad.setdefault(node_id, []).extend(errors)

    def _link_errors(self, name: str, spec: list[Any], link: list[Any]) -> list[Error]:
        received = NODE_TYPES[self._graph[link[0]]["class_type"]].returns[link[1]]
        if spec[0] in ("*", received):
            return []
        details = f"{name}, received_type({received}) mismatch input_type({spec[0]})"
        extra = {"input_name": name, "input_config": spec, "received_type": received, "linked_node": link}
        return [_error("return_type_mismatch", "Return type mismatch between linked nodes", details, **extra)]

    def _literal_errors(self, node: dict[str, Any], name: str, spec: list[Any]) -> list[Error]:
        value, kind, options = node["inputs"][name], spec[0], spec[1]
        extra = {"input_name": name, "input_config": spec, "received_value": value}
        if options.get("image_upload"):
            if self._has_input(str(value)):
                return []
            details = f"{name} - Invalid image file: {value}"
            return [_error("custom_validation_failed", "Custom validation failed for node", details, input_name=name)]
        if isinstance(kind, list) or (kind == "COMBO" and self._generation == "B"):
            choices = kind if isinstance(kind, list) else options["options"]
            details = f"{name}: {value!r} not in {choices}"
            return [] if value in choices else [_error("value_not_in_list", "Value not in list", details, **extra)]
        if kind not in ("INT", "FLOAT", "STRING"):
            return []
        try:
            # The server converts, and goes on with what came of it.
            converted = {"INT": int, "FLOAT": float, "STRING": str}[kind](value)
        except (TypeError, ValueError) as error:
            message = f"Failed to convert an input value to a {kind} value"
            details = f"{name}, {value}, {error}"
            return [_error("invalid_input_type", message, details, **extra, exception_message=str(error))]
        node["inputs"][name] = converted
        extra["received_value"] = converted
        if "min" in options and converted < options["min"]:
            message = f"Value {converted} smaller than min of {options['min']}"
            return [_error("value_smaller_than_min", message, name, **extra)]
        if "max" in options and converted > options["max"]:
            message = f"Value {converted} bigger than max of {options['max']}"
            return [_error("value_bigger_than_max", message, name, **extra)]
        return []

    def _report_cycle(self, cycle: list[str], bad: dict[str, list[Error]]) -> None:
        if self._generation == "A":
            bad.setdefault(cycle[0], [])
            return
        text = " -> ".join(f"{node_id} ({self._graph[node_id]['class_type']})" for node_id in cycle)
        for node_id in cycle[:-1]:
            extra = {"node_id": node_id, "cycle_nodes": cycle[:-1]}
            bad.setdefault(node_id, []).append(_error("dependency_cycle", "Dependency cycle detected", text, **extra))


def _error(error_type: str, message: str, details: str = "", **extra: Any) -> Error:
    return {"type": error_type, "message": message, "details": details, "extra_info": extra}


def _unknown_node(node_id: str, class_type: str, generation: str) -> Error:
    details = f"Node ID '#{node_id}'"
    if generation == "A":
        return _error("invalid_prompt", f"Cannot execute because node {class_type} does not exist.", details)
    message = f"Node '{class_type}' not found. The custom node may not be installed."
    extra = {"node_id": node_id, "class_type": class_type, "node_title": class_type}
    return _error("missing_node_type", message, details, **extra)
