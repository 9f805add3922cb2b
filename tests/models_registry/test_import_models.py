"""Importing a manifest: what it says, what it changes, and what it refuses."""

from __future__ import annotations

import re
from copy import deepcopy
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.db import connection
from django.forms.models import model_to_dict
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from models_registry.manifest import load_manifest, same_json
from models_registry.models import (
    Endpoint,
    Model,
    ModelInput,
    ModelOutput,
    Provider,
    ProviderLink,
    Template,
)
from models_registry.services import ManifestError, import_manifest
from models_registry.validation import ItemInput, compile_serializer, validate_items

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]

MANIFEST: dict[str, Any] = {
    "providers": [
        {
            "code": "gpu",
            "name": "GPU",
            "adapter_code": "fake",
            "config": {"token_env": "GPU_TOKEN"},
            "endpoints": [{"base_url": "http://gpu-1:8188", "max_in_flight": 2}],
        }
    ],
    "models": [
        {
            "owner": "shop",
            "slug": "upscale/v2",
            "name": "Upscale",
            "price": 0.55,
            "inputs": [
                {"name": "image_url", "variable_type_code": "image", "is_required": True},
                {"name": "factor", "variable_type_code": "integer", "default_value": 2},
            ],
            "outputs": [{"name": "image", "variable_type_code": "image"}],
            "links": [
                {
                    "provider": "gpu",
                    "template": {
                        "name": "upscale",
                        "body": {"image": None, "factor": 4, "fast": True},
                        "bindings": [
                            {"input": "image_url", "target": "/image"},
                            {"input": "factor", "target": "/factor"},
                        ],
                    },
                }
            ],
        }
    ],
}


@pytest.fixture(autouse=True)
def _adapters(settings: Any) -> None:
    settings.PROVIDER_ADAPTERS = {"fake": "tests.fake.Adapter", "local": "providers.local.adapter.LocalAdapter"}


def manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    """A fresh manifest, and its model to change."""
    made = deepcopy(MANIFEST)
    return made, made["models"][0]


def apply(data: Any) -> list[str]:
    return [str(change) for change in import_manifest(manifest=data, source="m.yaml", apply=True).changes]


def rows() -> dict[str, Any]:
    """Everything that the registry holds."""
    tables = (Provider, Endpoint, Model, ModelInput, ModelOutput, ProviderLink, Template)
    return {
        table.__name__: [
            model_to_dict(row) | {"pk": row.pk, "updated_at": getattr(row, "updated_at", None)}
            for row in table.objects.order_by("pk")
        ]
        for table in tables
    }


def reasons(data: Any) -> list[str]:
    before = rows()
    with pytest.raises(ManifestError) as refused:
        import_manifest(manifest=data, source="m.yaml", apply=True)
    assert rows() == before
    return [str(fault) for fault in refused.value.faults]


# --- What is made and changed ---------------------------------------------------------------------------------------

ADDED = [
    "added provider gpu",
    "added provider gpu: endpoint http://gpu-1:8188",
    "added model shop/upscale/v2",
    "added model shop/upscale/v2: input image_url",
    "added model shop/upscale/v2: input factor",
    "added model shop/upscale/v2: output image",
    "added template upscale v1",
    "added model shop/upscale/v2: link to gpu",
]


def test_a_first_import_makes_everything() -> None:
    assert apply(MANIFEST) == ADDED
    model = Model.objects.get()
    assert (model.owner, model.slug, model.name, model.price, model.version) == (
        "shop",
        "upscale/v2",
        "Upscale",
        Decimal("0.55"),
        1,
    )
    assert (model.is_public, model.status_code, model.organization) == (False, "active", None)
    assert list(model.inputs.values_list("name", "sort_order", "default_behavior_code", "default_value")) == [
        ("image_url", 0, "omit", None),
        ("factor", 1, "use_default", 2),
    ]
    assert list(model.outputs.values_list("name", "variable_type_code")) == [("image", "image")]
    link = model.links.get()
    assert (link.provider.code, link.priority, link.is_active) == ("gpu", 100, True)
    template = MANIFEST["models"][0]["links"][0]["template"]
    assert link.template is not None
    assert (link.template.name, link.template.version, link.template.body, link.template.bindings) == (
        "upscale",
        1,
        template["body"],
        template["bindings"],
    )
    provider = Provider.objects.get()
    assert (provider.adapter_code, provider.config, provider.claim_size, provider.run_timeout) == (
        "fake",
        {"token_env": "GPU_TOKEN"},
        8,
        600,
    )
    assert list(provider.endpoints.values_list("base_url", "max_in_flight")) == [("http://gpu-1:8188", 2)]


def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    report = import_manifest(manifest=MANIFEST, source="m.yaml", apply=False)
    assert [str(change) for change in report.changes] == ADDED
    assert not any(rows().values())


def test_a_second_import_changes_nothing() -> None:
    apply(MANIFEST)
    before = rows()
    assert apply(MANIFEST) == []
    assert rows() == before


def test_columns_are_changed_one_by_one_and_the_version_only_with_the_inputs() -> None:
    apply(MANIFEST)
    before = Model.objects.get()
    data, model = manifest()
    model |= {"price": "0.60", "is_public": True}
    data["providers"][0]["status_code"] = "paused"
    assert apply(data) == [
        'changed provider gpu\n    status_code: "active" → "paused"',
        "changed model shop/upscale/v2\n    price: 0.55 → 0.6\n    is_public: false → true",
    ]
    after = Model.objects.get()
    assert (after.price, after.is_public, after.version, after.pk) == (Decimal("0.60"), True, 1, before.pk)
    assert after.updated_at > before.updated_at


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"default_value": 3},
            ["changed model shop/upscale/v2: input factor\n    default_value: 2 → 3"],
        ),
        (
            {"default_value": 2.0, "variable_type_code": "number"},
            [
                "changed model shop/upscale/v2: input factor"
                '\n    variable_type_code: "integer" → "number"\n    default_value: 2 → 2.0'
            ],
        ),
        (
            {"description": "How many times larger."},
            ['changed model shop/upscale/v2: input factor\n    description: "" → "How many times larger."'],
        ),
        (
            {"name": "scale"},
            ["added model shop/upscale/v2: input scale", "removed model shop/upscale/v2: input factor"],
        ),
    ],
)
def test_any_change_of_an_input_raises_the_version(change: dict[str, Any], expected: list[str]) -> None:
    apply(MANIFEST)
    data, model = manifest()
    model["inputs"][1] |= change
    model["links"][0]["template"]["bindings"].pop()
    assert apply(data) == [
        "changed model shop/upscale/v2\n    version: 1 → 2",
        *expected,
        "added template upscale v2",
        "changed model shop/upscale/v2: link to gpu\n    template: upscale v1 → upscale v2",
    ]
    assert Model.objects.get().version == 2
    assert apply(data) == []


def test_the_order_of_inputs_is_a_change_too() -> None:
    apply(MANIFEST)
    data, model = manifest()
    model["inputs"].reverse()
    assert apply(data) == [
        "changed model shop/upscale/v2\n    version: 1 → 2",
        "changed model shop/upscale/v2: input factor\n    sort_order: 1 → 0",
        "changed model shop/upscale/v2: input image_url\n    sort_order: 0 → 1",
    ]


@pytest.mark.parametrize(("key", "value"), [("fast", 1), ("fast", False), ("factor", 4.0), ("more", None)])
def test_another_body_is_another_template(key: str, value: Any) -> None:
    apply(MANIFEST)
    first = Template.objects.get()
    data, model = manifest()
    model["links"][0]["template"]["body"][key] = value
    assert apply(data) == [
        "added template upscale v2",
        "changed model shop/upscale/v2: link to gpu\n    template: upscale v1 → upscale v2",
    ]
    second = Template.objects.get(version=2)
    assert second.body == {"image": None, "factor": 4, "fast": True} | {key: value}
    assert ProviderLink.objects.get().template == second
    assert Template.objects.get(version=1).body == first.body
    assert Model.objects.get().version == 1
    assert apply(data) == []


def test_links_can_share_a_template_and_lose_it() -> None:
    data, model = manifest()
    data["providers"].append({"code": "spare", "name": "Spare", "adapter_code": "local"})
    model["links"].append({**model["links"][0], "provider": "spare", "priority": 200})
    apply(data)
    assert Template.objects.count() == 1
    assert apply(data) == []
    del model["links"][1]["template"]
    assert apply(data) == ["changed model shop/upscale/v2: link to spare\n    template: upscale v1 → null"]


def test_what_the_file_does_not_name_is_left_alone() -> None:
    data, model = manifest()
    other = deepcopy(model) | {"slug": "other"}
    data["models"].append(other)
    data["providers"][0] |= {"claim_size": 3, "status_code": "paused"}
    data["providers"][0]["endpoints"].append({"base_url": "http://gpu-2:8188"})
    apply(data)
    before = rows()
    assert apply({"models": [{"owner": "shop", "slug": "upscale/v2", "name": "Upscale"}]}) == []
    assert apply(MANIFEST) == []
    assert apply({}) == []
    assert rows() == before


def test_what_a_named_models_lists_lack_is_removed_and_links_are_deactivated() -> None:
    apply(MANIFEST)
    data, model = manifest()
    model |= {"inputs": [], "outputs": [], "links": []}
    assert apply(data) == [
        "changed model shop/upscale/v2\n    version: 1 → 2",
        "removed model shop/upscale/v2: input image_url",
        "removed model shop/upscale/v2: input factor",
        "removed model shop/upscale/v2: output image",
        "deactivated model shop/upscale/v2: link to gpu\n    is_active: true → false",
    ]
    assert (ModelInput.objects.count(), ModelOutput.objects.count()) == (0, 0)
    assert ProviderLink.objects.get().is_active is False
    assert apply(data) == []
    assert apply(MANIFEST)[-1] == ("changed model shop/upscale/v2: link to gpu\n    is_active: false → true")


def test_a_model_can_be_given_to_an_organization_and_taken_back() -> None:
    shop = Organization.objects.create(name="Shop", slug="shop")
    data, model = manifest()
    model["organization"] = "shop"
    apply(data)
    assert Model.objects.get().organization == shop
    assert apply(MANIFEST) == []
    model["organization"] = None
    assert apply(data) == ["changed model shop/upscale/v2\n    organization: shop → null"]


@pytest.mark.parametrize("price", ["0", 0, 1, "0.55", 0.55, "999999.999999", "0.100000000", 0.000001])
def test_prices_are_exact(price: Any) -> None:
    data, model = manifest()
    model["price"] = price
    apply(data)
    assert Model.objects.get().price == Decimal(str(price))
    assert apply(data) == []


def test_large_and_odd_numbers_in_a_body_are_no_change_each_time() -> None:
    data, model = manifest()
    model["links"][0]["template"]["body"] |= {"a": 1e17, "b": -0.0, "c": 1e-7, "d": [True, 1, 1.0, 0.1], "e": 2**63 - 1}
    apply(data)
    assert apply(data) == []


@pytest.mark.parametrize("count", [1, 20])
def test_the_number_of_statements_does_not_grow(count: int) -> None:
    data, model = manifest()
    data["models"] = [
        deepcopy(model) | {"slug": f"m{number}", "links": [
            deepcopy(model["links"][0]) | {"template": deepcopy(model["links"][0]["template"]) | {"name": f"t{number}"}}
        ]}
        for number in range(count)
    ]  # fmt: skip
    for step in range(3):
        for each in data["models"]:
            each["inputs"][1]["default_value"] = 2 + step
            each["links"][0]["template"]["body"]["factor"] = step
        with CaptureQueriesContext(
            connection,
        ) as log:
            apply(data)
        assert len(log) <= 21
    assert Model.objects.filter(version=3).count() == count


# --- What is refused ------------------------------------------------------------------------------------------------


def changed(*path: str | int, value: Any) -> Any:
    """The manifest with one value replaced."""
    made: Any = deepcopy(MANIFEST)
    *way, last = path
    here = made
    for step in way:
        here = here[step]
    here[last] = value
    return made


MODEL = ("models", 0)
NO_PRICES: list[Any] = [-1, "-1", "", "free", True, None, "NaN", "1e3", "0,5", [], "٣"]
LINK = (*MODEL, "links", 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, ["must be a mapping"]),
        ([], ["must be a mapping"]),
        ({"model": []}, ["model: unknown key; known are providers, models"]),
        ({"models": {}}, ["models: must be a list"]),
        ({"models": ["a"]}, [
            "models[0]: must be a mapping",
            "models[0].owner: must match ^[a-z0-9][a-z0-9_-]*$ and have at most 100 characters",
            "models[0].slug: must be text of at most 200 characters",
            "models[0].name: is required",
        ]),
        ({"providers": [{}]}, [
            "providers[0].code: is required",
            "providers[0].name: is required",
            "providers[0].adapter_code: is required",
        ]),
        ({"providers": [{"code": "a b", "name": " ", "adapter_code": "x", "config": [], "claim_size": 0,
                         "run_timeout": True, "status_code": "off", "endpoints": [{"base_url": "a", "max_in_flight": "2"}],
                         "extra": 1}]}, [
            "providers[0].extra: unknown key; known are code, name, adapter_code, config, claim_size, run_timeout, "
            "status_code, endpoints",
            "providers[0].code: must match ^[A-Za-z0-9_-]+$",
            "providers[0].name: must not be empty",
            "providers[0].adapter_code: 'x' is none of fake, local",
            "providers[0].config: must be a mapping",
            "providers[0].claim_size: must be an integer from 1 to 1000",
            "providers[0].run_timeout: must be an integer from 1 to 2147483647",
            "providers[0].status_code: 'off' is none of active, paused",
            "providers[0].endpoints[0].base_url: must be an http(s) URL with a host and without a user name or password",
            "providers[0].endpoints[0].max_in_flight: must be an integer from 1 to 2147483647",
        ]),
        (MANIFEST | {"providers": MANIFEST["providers"] * 2}, [
            "providers[1]: is declared by providers[0] already"]),
        (MANIFEST | {"models": MANIFEST["models"] * 2}, ["models[1]: is declared by models[0] already"]),
        (changed(*MODEL, "slug", value="a/runs"), ["models[0].slug: the segment 'runs' is a route of the API"]),
        (changed(*MODEL, "name", value="a" * 256), ["models[0].name: must have at most 255 characters"]),
        (changed(*MODEL, "description", value=5), [
            "models[0].description: must be text (in quotes, if it looks like something else)"]),
        (changed(*MODEL, "is_public", value="yes"), ["models[0].is_public: must be true or false"]),
        (changed(*MODEL, "status_code", value="paused"), ["models[0].status_code: 'paused' is none of active, inactive"]),
        (changed(*MODEL, "organization", value="nobody"), ["models[0].organization: there is no organization 'nobody'"]),
        *((changed(*MODEL, "price", value=price), ['models[0].price: must be a decimal number of at least 0, like "0.55"'])
          for price in NO_PRICES),
        *((changed(*MODEL, "price", value=price), ["models[0].price: must be below 1000000 and have at most 6 decimals"])
          for price in (1000000, "1000000", "0.0000001")),
        (changed(*MODEL, "inputs", 1, value={"name": "factor", "variable_type_code": "integer", "validator_code": "range",
                                             "validator_attrs": {"min": 5, "max": 4}, "default": 1}), [
            "models[0].inputs[1].default: unknown key; known are name, display_name, description, variable_type_code, "
            "is_required, default_behavior_code, default_value, validator_code, validator_attrs, is_featured",
            "models[0].inputs[1].validator_attrs.min: is greater than max (4)",
        ]),
        (changed(*MODEL, "inputs", 0, "default_value", value="https://a.example"), [
            "models[0].inputs[0].default_value: a required input is always given, a default would never be used"]),
        (changed(*MODEL, "inputs", 1, "name", value="image_url"), [
            "models[0].inputs[1]: is declared by models[0].inputs[0] already",
            "models[0].links[0].template.bindings[1].input: the model declares no input 'factor'",
        ]),
        (changed(*MODEL, "inputs", 1, "name", value="client_ref"), [
            "models[0].inputs[1].name: 'client_ref' is taken out of every item before the model sees it",
            "models[0].links[0].template.bindings[1].input: the model declares no input 'factor'",
        ]),
        (changed(*MODEL, "outputs", value=[{"name": "a"}, {"name": "a", "variable_type_code": "image"}]), [
            "models[0].outputs[0].variable_type_code: must be one of string, integer, number, boolean, image, video, audio, "
            "file, array, json",
            "models[0].outputs[1]: is declared by models[0].outputs[0] already",
        ]),
        (changed(*LINK, "provider", value="cpu"), ["models[0].links[0].provider: there is no provider 'cpu'"]),
        (changed(*MODEL, "links", value=MANIFEST["models"][0]["links"] * 2), [
            "models[0].links[1]: is declared by models[0].links[0] already"]),
        (changed(*LINK, "priority", value=2**31), [
            "models[0].links[0].priority: must be an integer from -2147483647 to 2147483647"]),
        (changed(*LINK, "template", value={"bindings": []}), [
            "models[0].links[0].template.name: is required", "models[0].links[0].template.body: is required"]),
        (changed(*LINK, "template", "bindings", value=[{"input": "factor", "target": "/nope"}]), [
            "models[0].links[0].template.bindings[0].target: '/nope' is not in the body: there is no member 'nope'",
            "models[0].links[0].template.bindings: the required input 'image_url' is bound to nothing",
        ]),
        (changed(*LINK, "template", "body", value={"image": float("nan"), "factor": "\0"}), [
            "models[0].links[0].template.body.factor: Must not contain U+0000 or a lone surrogate. (not usable as JSON)",
            "models[0].links[0].template.body.image: Must be a finite number. (not usable as JSON)",
        ]),
        (changed(*MODEL, value={True: 1}), ["models[0]: Object keys must be text. (not usable as JSON)"]),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_every_reason(data: Any, expected: list[str]) -> None:
    assert reasons(data) == expected


def test_one_template_name_has_one_content() -> None:
    data, model = manifest()
    second = deepcopy(model) | {"slug": "second"}
    second["links"][0]["template"]["body"]["fast"] = 1
    data["models"].append(second)
    assert reasons(data) == ["models[1].links[0].template.name: models[0].links[0].template declares it differently"]


def test_inputs_cannot_be_taken_from_under_a_link_that_stays() -> None:
    apply(MANIFEST)
    data, model = manifest()
    del model["links"]
    model["inputs"][1]["name"] = "scale"
    assert reasons(data) == [
        "models[0].inputs: upscale v1 of the link to gpu: bindings[1].input: the model declares no input 'factor'"
    ]


def test_an_inactive_link_does_not_hold_the_inputs() -> None:
    apply(MANIFEST)
    ProviderLink.objects.update(is_active=False)
    data, model = manifest()
    del model["links"]
    model["inputs"][1]["name"] = "scale"
    assert apply(data)[0] == "changed model shop/upscale/v2\n    version: 1 → 2"


def test_links_are_checked_against_the_inputs_that_stay() -> None:
    apply(MANIFEST)
    data, model = manifest()
    del model["inputs"]
    model["links"][0]["template"]["bindings"].pop(0)
    assert reasons(data) == ["models[0].links[0].template.bindings: the required input 'image_url' is bound to nothing"]


# --- The command and the file ---------------------------------------------------------------------------------------


def run(path: Path, *options: str) -> str:
    out = StringIO()
    call_command("import_models", str(path), *options, stdout=out, no_color=True)
    return out.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(MANIFEST))
    return path


def test_the_command_says_what_it_would_do_then_does_it_then_has_nothing_to_do(file: Path) -> None:
    lines = "\n".join(ADDED)
    assert run(file) == f"{lines}\nWould make 8 change(s). Add --apply.\n"
    assert not any(rows().values())
    assert run(file, "--apply") == f"{lines}\nApplied 8 change(s).\n"
    before = rows()
    assert run(file, "--apply") == "Nothing to change.\n"
    assert run(file) == "Nothing to change.\n"
    assert rows() == before


def test_the_command_refuses_with_all_reasons_and_changes_nothing(file: Path) -> None:
    data, model = manifest()
    model["price"] = -1
    model["inputs"][0]["variable_type_code"] = "picture"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(CommandError) as refused:
        run(file, "--apply")
    assert str(refused.value) == (
        f"{file} is refused, nothing was changed:\n"
        '  models[0].price: must be a decimal number of at least 0, like "0.55"\n'
        "  models[0].inputs[0].variable_type_code: must be one of string, integer, number, boolean, image, video, audio, "
        "file, array, json"
    )
    assert not any(rows().values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"models: [", "expected the node content"),
        (b"models: []\nmodels: []", "found the key 'models' twice"),
        (b"models:\n  - {name: a, name: b}", "found the key 'name' twice"),
        (b"a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"a: &a [*a]", "unconstructable recursive node"),
        (b"a: &a {b: *a}", "unconstructable recursive node"),
        (b"[" * 2000, "nested too deeply"),
        (b"a: \xff", "can't decode"),
        (b"a: \x00", "special characters are not allowed"),
        (b"a: 1\n---\nb: 2", "expected a single document"),
        (b"? [a]\n: b", "unhashable key"),
    ],
)
def test_files_that_are_no_strict_yaml_are_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(text)
    with pytest.raises(CommandError) as refused:
        run(path, "--apply")
    assert str(refused.value).startswith(f"{path} cannot be read: ")
    assert reason in str(refused.value)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        run(tmp_path / "none.yaml")


def test_merge_keys_may_be_overridden() -> None:
    text = "base: &base {a: 1, b: 2}\nmade: {<<: *base, b: 3}\nagain: {<<: *base, a: 4}"
    assert load_manifest(text) == {"base": {"a": 1, "b": 2}, "made": {"a": 1, "b": 3}, "again": {"a": 4, "b": 2}}
    assert load_manifest("") is None


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (1, 1, True),
        (1, True, False),
        (0, False, False),
        (1, 1.0, False),
        (1e17, 10**17, True),
        (10**17, 1e17, True),
        ([1, {"a": None}], [1, {"a": None}], True),
        ([1], [True], False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"b": 1}, False),
        ([1], [1, 2], False),
        ("1", 1, False),
        (None, False, False),
    ],
)
def test_values_are_compared_as_json(one: Any, other: Any, is_same: bool) -> None:
    assert same_json(one, other) is is_same


def test_the_example_of_the_documentation_is_true(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "manifest.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "example.yaml"
    path.write_text(blocks[0])
    assert run(path, "--apply").endswith("Applied 10 change(s).\n")
    assert run(path, "--apply") == "Nothing to change.\n"
    serializer_class = compile_serializer(Model.objects.get(owner="runflow", slug="smart-resize").inputs.all())
    item = {"image_url": "https://cdn.example.com/a.png", "seed": 7}
    assert validate_items(serializer_class, [item]) == (
        [ItemInput(None, {"image_url": item["image_url"], "resolution": "1K", "seed": 7, "tags": None})],
        [],
    )


@pytest.mark.parametrize("path", sorted((ROOT / "catalogue").glob("*.yaml")), ids=lambda path: path.name)
def test_the_catalogue_can_be_imported(path: Path) -> None:
    assert "Applied" in run(path, "--apply")
    assert run(path, "--apply") == "Nothing to change.\n"
