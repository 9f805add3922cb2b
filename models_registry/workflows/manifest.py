"""The manifest of a workflow (format: docs/manifest.md), and a request to try it with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from models_registry.models import Validator, VariableType
from models_registry.workflows.graph import Workflow
from models_registry.workflows.inputs import ProposedInput

ADAPTER_CODE = "comfyui"
# One runs, one waits: the server is never idle, and little is lost when it restarts.
MAX_IN_FLIGHT = 2
# Line breaks that PyYAML reads back as others, unless they are escaped.
_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")
_SAMPLES = {
    VariableType.IMAGE: "https://example.com/picture.png",
    VariableType.VIDEO: "https://example.com/clip.mp4",
    VariableType.AUDIO: "https://example.com/sound.mp3",
}


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """`endpoints`: base URL -> how many runs it holds at once."""

    code: str
    name: str
    endpoints: dict[str, int]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """`price` None: what the model has, or nothing for a new one."""

    owner: str
    slug: str
    name: str
    price: str | None = None


def build_manifest(
    *, workflow: Workflow, inputs: Sequence[ProposedInput], model: ModelEntry, provider: ProviderEntry
) -> dict[str, Any]:
    """What `import_models` takes. The provider is declared only when it is given endpoints."""
    template = {
        "name": f"{model.owner}/{model.slug}",
        "body": workflow.body,
        "bindings": [{"input": one.name, "target": target.pointer} for one in inputs for target in one.targets],
    }
    entry: dict[str, Any] = {"owner": model.owner, "slug": model.slug, "name": model.name}
    if model.price is not None:
        entry["price"] = model.price
    entry["inputs"] = [_declaration(one) for one in inputs]
    entry["links"] = [{"provider": provider.code, "template": template}]
    manifest: dict[str, Any] = {"models": [entry]}
    if provider.endpoints:
        endpoints = [{"base_url": url, "max_in_flight": count} for url, count in provider.endpoints.items()]
        declared = {"code": provider.code, "name": provider.name, "adapter_code": ADAPTER_CODE, "endpoints": endpoints}
        manifest = {"providers": [declared], **manifest}
    return manifest


def _declaration(one: ProposedInput) -> dict[str, Any]:
    validator, attrs = one.values.validator()
    entry: dict[str, Any] = {"name": one.name, "variable_type_code": one.values.type_code.value}
    if one.values.is_media:
        entry["is_required"] = True
    if one.default is not None:
        entry["default_value"] = one.default
    if validator != Validator.NONE:
        entry |= {"validator_code": validator.value, "validator_attrs": attrs}
    return entry


class _Dumper(yaml.SafeDumper):
    """Indented lists, no anchors; what fits on a line is on one."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    is_flat = not any(isinstance(element, dict | list) for element in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=is_flat)


def _represent_dict(dumper: _Dumper, data: dict[Any, Any]) -> yaml.Node:
    is_short = data.keys() == {"input", "target"} or data.keys() <= {"min", "max", "step"}
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=is_short)


def _represent_text(dumper: _Dumper, data: str) -> yaml.Node:
    style = '"' if _OTHER_BREAKS.search(data) else "|" if "\n" in data else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(dict, _represent_dict)
_Dumper.add_representer(str, _represent_text)


def dump_manifest(manifest: dict[str, Any]) -> str:
    """The manifest as YAML, which load_manifest reads back as the same values."""
    text: str = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def build_curl(*, base_url: str, model: ModelEntry, inputs: Sequence[ProposedInput]) -> str:
    """A request for a batch of one, with the graph's own values and samples for media."""
    item = {
        one.name: _SAMPLES[one.values.type_code] if one.values.is_media else one.default
        for one in inputs
        if one.values.is_media or one.default is not None
    }
    # The shell takes what stands between the two JSON lines as it is, and JSON text has no line of its own that says JSON.
    body = json.dumps({"input": [item]}, ensure_ascii=False, indent=2)
    return (
        f"curl -s {base_url}/v1/models/{model.owner}/{model.slug}/batches \\\n"
        '  -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" -d @- <<\'JSON\'\n'
        f"{body}\nJSON"
    )
