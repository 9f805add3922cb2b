"""Manifests: the file in which an operator declares providers and models (format: docs/manifest.md).

Reading and checking what needs no database; services.py compares the result with the tables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from models_registry.declarations import check_declaration, check_model_path, check_output
from models_registry.faults import json_faults
from models_registry.models import DefaultBehavior, ModelInput, ModelOutput, ModelStatus, ProviderStatus, Validator
from models_registry.sections import (
    MAX_DB_INTEGER,
    MISSING,
    Missing,
    Once,
    Section,
    given_values,
    items_or_empty,
    text_or_empty,
)
from models_registry.templates import Fault
from models_registry.uris import url_fault

CODE = re.compile(r"[A-Za-z0-9_-]+")
PRICE = re.compile(r"[0-9]+(\.[0-9]+)?")
# Model.price: max_digits=12, decimal_places=6.
PRICE_DECIMALS = 6
PRICE_LIMIT = Decimal(10) ** 6


@dataclass
class EndpointSpec:
    base_url: str
    values: dict[str, Any]


@dataclass
class ProviderSpec:
    """`values` holds the columns that the file gives; the others keep what they have."""

    path: str
    code: str
    values: dict[str, Any]
    endpoints: list[EndpointSpec] = field(default_factory=list)


@dataclass
class TemplateSpec:
    path: str
    name: str
    body: Any
    bindings: Any


@dataclass
class LinkSpec:
    path: str
    provider: str
    priority: int
    is_active: bool
    template: TemplateSpec | None


@dataclass
class ModelSpec:
    """`inputs`, `outputs` and `links` are None when the file does not have the key: they are left alone then."""

    path: str
    owner: str
    slug: str
    values: dict[str, Any]
    organization: str | Missing | None
    inputs: list[ModelInput] | None
    outputs: list[ModelOutput] | None
    links: list[LinkSpec] | None

    def __str__(self) -> str:
        return f"{self.owner}/{self.slug}"


@dataclass
class Manifest:
    providers: list[ProviderSpec] = field(default_factory=list)
    models: list[ModelSpec] = field(default_factory=list)


# --- YAML ---------------------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; here they are an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before `<<` is resolved: a key beside it may override a merged one.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, Hashable]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"found the key {key.value!r} twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


def load_manifest(text: str) -> Any:
    """Read a manifest's YAML into plain values. Tags that make objects, and keys given twice, are refused.

    Raises ValueError with the place.
    """
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        # deep: a list that contains itself is an error then, not an endless value.
        return None if node is None else loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


# --- Checking -----------------------------------------------------------------------------------------------


def read_manifest(data: Any, *, known_adapters: Collection[str]) -> tuple[Manifest, list[Fault]]:
    """Turn a manifest's values into specs, and say everything that is wrong with them.

    The specs are usable for further checks when there are faults, and for changes only when there are none.
    """
    faults: list[Fault] = []
    for unstorable in sorted(json_faults(data), key=lambda fault: str(fault.path)):
        faults.append(Fault(_path_of(unstorable.path), f"{unstorable} (not usable as JSON)"))
    if faults:
        return Manifest(), faults
    top = Section(data, "", ("providers", "models"), faults)
    manifest = Manifest()
    once = Once(faults)
    for path, element in items_or_empty(top.items("providers")):
        provider = _read_provider(element, path, known_adapters, faults)
        once.see(("provider", provider.code), path)
        manifest.providers.append(provider)
    once = Once(faults)
    for path, element in items_or_empty(top.items("models")):
        model = _read_model(element, path, faults)
        once.see((model.owner, model.slug), path)
        manifest.models.append(model)
    _check_templates_agree(manifest, faults)
    return manifest, faults


def _path_of(steps: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _read_provider(data: Any, path: str, known_adapters: Collection[str], faults: list[Fault]) -> ProviderSpec:
    known = ("code", "name", "adapter_code", "config", "claim_size", "run_timeout", "status_code", "endpoints")
    section = Section(data, path, known, faults)
    code = text_or_empty(section.text("code", 100, is_required=True))
    if code and not CODE.fullmatch(code):
        section.fault("code", f"must match ^{CODE.pattern}$")
    provider = ProviderSpec(
        path,
        code,
        given_values(
            name=section.text("name", 255, is_required=True),
            adapter_code=section.choice("adapter_code", known_adapters, is_required=True),
            config=section.mapping("config"),
            claim_size=section.integer("claim_size", 1, 1000),
            run_timeout=section.integer("run_timeout", 1),
            status_code=section.choice("status_code", ProviderStatus.values),
        ),
    )
    once = Once(faults)
    for endpoint_path, element in items_or_empty(section.items("endpoints")):
        endpoint = Section(element, endpoint_path, ("base_url", "max_in_flight"), faults)
        base_url = text_or_empty(endpoint.text("base_url", 500, is_required=True))
        # Not Django's URLValidator: it refuses the single-label hosts of container networks
        # (http://comfyui:8188).
        if base_url and (not base_url.startswith(("http://", "https://")) or url_fault(base_url)):
            endpoint.fault("base_url", "must be an http(s) URL with a host and without a user name or password")
        once.see(base_url, endpoint_path)
        provider.endpoints.append(
            EndpointSpec(base_url, given_values(max_in_flight=endpoint.integer("max_in_flight", 1)))
        )
    return provider


def _read_model(data: Any, path: str, faults: list[Fault]) -> ModelSpec:
    known = (
        *("owner", "slug", "name", "description", "price", "is_public", "status_code", "organization"),
        *("run_timeout", "batch_timeout"),
        *("inputs", "outputs", "links"),
    )
    section = Section(data, path, known, faults)
    owner, slug = section.data.get("owner"), section.data.get("slug")
    faults += [fault.under(path) for fault in check_model_path(owner, slug)]
    organization: str | Missing | None = None
    if section.data.get("organization", MISSING) is not None:
        organization = section.text("organization")
    model = ModelSpec(
        path,
        owner if isinstance(owner, str) else "",
        slug if isinstance(slug, str) else "",
        given_values(
            name=section.text("name", 255, is_required=True),
            description=section.text("description"),
            price=_read_price(section),
            run_timeout=section.integer("run_timeout", 1),
            batch_timeout=section.integer("batch_timeout", 1),
            is_public=section.flag("is_public"),
            status_code=section.choice("status_code", ModelStatus.values),
        ),
        organization,
        None,
        None,
        None,
    )
    inputs, outputs, links = section.items("inputs"), section.items("outputs"), section.items("links")
    if inputs is not MISSING:
        once = Once(faults)
        model.inputs = []
        for index, (input_path, element) in enumerate(inputs):
            declaration = _read_input(element, input_path, index, faults)
            once.see(str(declaration.name), input_path)
            model.inputs.append(declaration)
    if outputs is not MISSING:
        once = Once(faults)
        model.outputs = []
        for index, (output_path, element) in enumerate(outputs):
            output = _read_output(element, output_path, index, faults)
            once.see(str(output.name), output_path)
            model.outputs.append(output)
    if links is not MISSING:
        once = Once(faults)
        model.links = []
        for link_path, element in links:
            link = _read_link(element, link_path, faults)
            once.see(link.provider, link_path)
            model.links.append(link)
    return model


def _read_price(section: Section) -> Decimal | Missing:
    """The exact decimal that is written: YAML's 0.55 is a float, whose shortest text is "0.55" again."""
    value = section.data.get("price", MISSING)
    if value is MISSING:
        return MISSING
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = f"{Decimal(repr(value)):f}"
    else:
        text = value if isinstance(value, str) else ""
    if not PRICE.fullmatch(text):
        section.fault("price", 'must be a decimal number of at least 0, like "0.55"')
        return MISSING
    price = Decimal(text)
    exponent = price.normalize().as_tuple().exponent
    if price >= PRICE_LIMIT or (isinstance(exponent, int) and exponent < -PRICE_DECIMALS):
        section.fault("price", f"must be below {PRICE_LIMIT} and have at most {PRICE_DECIMALS} decimals")
        return MISSING
    return price


def _read_input(data: Any, path: str, index: int, faults: list[Fault]) -> ModelInput:
    known = (
        *("name", "display_name", "description", "variable_type_code", "is_required", "default_behavior_code"),
        *("default_value", "validator_code", "validator_attrs", "is_featured"),
    )
    section = Section(data, path, known, faults)
    given: dict[str, Any] = section.data
    default = given.get("default_value")
    behavior = DefaultBehavior.OMIT if default is None else DefaultBehavior.USE_DEFAULT
    if given.get("is_required") is True:
        behavior = DefaultBehavior.OMIT  # what is wrong with the default is said once
    declaration = ModelInput(
        name=given.get("name", ""),
        display_name=text_or_empty(section.text("display_name", 255)),
        description=text_or_empty(section.text("description")),
        variable_type_code=given.get("variable_type_code", ""),
        default_behavior_code=given.get("default_behavior_code", behavior.value),
        validator_code=given.get("validator_code", Validator.NONE.value),
        validator_attrs=given.get("validator_attrs", {}),
        is_required=given.get("is_required", False),
        default_value=default,
        is_featured=section.flag("is_featured") is True,
        sort_order=index,
    )
    faults += [fault.under(path) for fault in check_declaration(declaration)]
    return declaration


def _read_output(data: Any, path: str, index: int, faults: list[Fault]) -> ModelOutput:
    section = Section(data, path, ("name", "variable_type_code", "display_name", "description"), faults)
    given: dict[str, Any] = section.data
    output = ModelOutput(
        name=given.get("name", ""),
        variable_type_code=given.get("variable_type_code", ""),
        display_name=text_or_empty(section.text("display_name", 255)),
        description=text_or_empty(section.text("description")),
        sort_order=index,
    )
    faults += [fault.under(path) for fault in check_output(output)]
    return output


def _read_link(data: Any, path: str, faults: list[Fault]) -> LinkSpec:
    section = Section(data, path, ("provider", "priority", "is_active", "template"), faults)
    priority, is_active = section.integer("priority", -MAX_DB_INTEGER), section.flag("is_active")
    template = None
    # `template: null` is a link without one, too.
    if section.data.get("template") is not None:
        inner_path = f"{path}.template"
        inner = Section(section.data["template"], inner_path, ("name", "body", "bindings"), faults)
        name = text_or_empty(inner.text("name", 255, is_required=True))
        if inner.data and inner.data.get("body") is None:
            inner.fault("body", "is required")
        template = TemplateSpec(inner_path, name, inner.data.get("body"), inner.data.get("bindings", []))
    return LinkSpec(
        path,
        text_or_empty(section.text("provider", is_required=True)),
        100 if priority is MISSING else priority,
        is_active is not False,
        template,
    )


def _check_templates_agree(manifest: Manifest, faults: list[Fault]) -> None:
    """One name is one template: two links may share it, not give it two bodies."""
    first: dict[str, TemplateSpec] = {}
    for model in manifest.models:
        for link in model.links or []:
            if link.template is None:
                continue
            other = first.setdefault(link.template.name, link.template)
            if not (same_json(other.body, link.template.body) and same_json(other.bindings, link.template.bindings)):
                faults.append(Fault(f"{link.template.path}.name", f"{other.path} declares it differently"))


def same_json(one: Any, other: Any) -> bool:
    """Equality of JSON values without Python's `1 == True == 1.0`.

    A float of 1e16 or more equals the integer that jsonb makes of it; else every import would find a change.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    if type(one) is type(other):
        return bool(one == other)
    both_numbers = {type(one), type(other)} == {int, float}
    return both_numbers and bool(one == other) and abs(one) >= 1e16
