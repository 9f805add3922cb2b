"""`manage.py import_workflow`: from a graph in a file to a model that takes batches."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from models_registry.manifest import load_manifest, same_json
from models_registry.models import Endpoint, Model, ModelInput, Provider, ProviderLink, Template
from models_registry.templates import render
from models_registry.validation import compile_serializer, validate_items
from models_registry.workflows import inputs as rule
from models_registry.workflows.manifest import dump_manifest
from tests.conftest import Api
from tests.models_registry.test_import_models import rows
from tests.providers.fake_comfyui import FakeComfyUI

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = Path(__file__).parent / "graphs"
TEXT_TO_IMAGE = GRAPHS / "text_to_image.json"
SAMPLES = sorted(path for path in GRAPHS.glob("*.json"))
# Its width is more than the server takes.
TOO_BIG = GRAPHS / "graph-20_bad_value_too_big.json"
# What the manifests beside the graphs say instead of the fake's address.
ADDRESS = "http://comfyui:8188"
MODEL = ("--owner", "shop", "--slug", "mug/v1")


@pytest.fixture
def fake(db: None) -> Iterator[FakeComfyUI]:
    with FakeComfyUI(seconds_per_prompt=0) as started:
        yield started


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@dataclass(frozen=True)
class Said:
    """What went to standard output and to standard error."""

    out: str
    err: str

    @property
    def talk(self) -> list[str]:
        """Everything before the request to try."""
        return self.err.partition("\n\n")[0].splitlines()

    @property
    def curl(self) -> str:
        return self.err.split(":\n\n", 1)[1]


def run(path: Path, *options: str) -> Said:
    out, err = StringIO(), StringIO()
    call_command("import_workflow", str(path), *MODEL, *options, stdout=out, stderr=err, no_color=True)
    return Said(out.getvalue(), err.getvalue())


def refusal(path: Path, *options: str) -> str:
    """Why it is refused; nothing is changed."""
    before = rows()
    with pytest.raises(CommandError) as refused:
        run(path, "--apply", *options)
    assert rows() == before
    return str(refused.value)


def graph_file(tmp_path: Path, data: Any) -> Path:
    path = tmp_path / "graph.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def request_of(curl: str) -> tuple[str, Any]:
    """The path and the body of a printed request."""
    match = re.fullmatch(
        r"curl -s http://127\.0\.0\.1:8000(/\S+) \\\n"
        r"  -H \"Authorization: Bearer \$KEY\" -H \"Content-Type: application/json\" -d @- <<'JSON'\n(.*)\nJSON\n",
        curl,
        re.DOTALL,
    )
    assert match is not None, curl
    return match[1], json.loads(match[2])


# --- The manifest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in SAMPLES if path != TOO_BIG], ids=lambda path: path.stem)
def test_a_graph_becomes_the_manifest_beside_it(fake: FakeComfyUI, path: Path) -> None:
    said = run(path, "--endpoint", fake.url)
    assert said.out.replace(fake.url, ADDRESS) == path.with_suffix(".yaml").read_text(encoding="utf-8")
    assert said.talk[0] == f"Types, ranges and choices are those of {fake.url}."
    assert not any(rows().values())


def test_a_graph_whose_own_value_the_server_does_not_take_is_refused(fake: FakeComfyUI) -> None:
    assert refusal(TOO_BIG, "--endpoint", fake.url) == (
        f"{TOO_BIG} is refused, nothing was changed:\n"
        "  input width: node 1 (EmptyImage), width is 99999 in the graph, which cannot be: Must be at most 16384."
    )


@pytest.mark.django_db
def test_when_no_server_answers_the_manifest_has_types_only(nobody: str) -> None:
    said = run(TOO_BIG, "--endpoint", nobody)
    assert said.out.replace(nobody, ADDRESS) == TOO_BIG.with_suffix(".yaml").read_text(encoding="utf-8")
    assert re.fullmatch(
        rf"No server answers \({nobody}: ConnectError \(.+\)\): "
        "types are those of the graph's values, without ranges and choices.",
        said.talk[0],
    )


@pytest.mark.parametrize("path", [path for path in SAMPLES if path != TOO_BIG], ids=lambda path: path.stem)
def test_without_a_server_there_are_the_same_inputs_without_ranges_and_choices(
    fake: FakeComfyUI, nobody: str, path: Path
) -> None:
    asked = yaml.safe_load(run(path, "--endpoint", fake.url).out)
    silent = yaml.safe_load(run(path, "--endpoint", nobody).out)
    for entry in asked["models"][0]["inputs"]:
        if entry["name"] != "seed":  # its range is known
            entry.pop("validator_code", None)
            entry.pop("validator_attrs", None)
    assert silent["models"] == asked["models"]


def test_the_manifest_is_what_import_models_takes(fake: FakeComfyUI, tmp_path: Path) -> None:
    path = tmp_path / "mug.yaml"
    path.write_text(run(TEXT_TO_IMAGE, "--endpoint", fake.url).out, encoding="utf-8")
    call_command("import_models", str(path), "--apply", stdout=StringIO())
    assert "Nothing to change." in run(TEXT_TO_IMAGE, "--endpoint", fake.url).talk


def test_the_manifest_can_go_to_a_file(fake: FakeComfyUI, tmp_path: Path) -> None:
    path = tmp_path / "mug.yaml"
    printed = run(TEXT_TO_IMAGE, "--endpoint", fake.url)
    said = run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--output-manifest", str(path))
    assert path.read_text(encoding="utf-8") == printed.out
    head, *rest = printed.err.splitlines(keepends=True)
    assert (said.out, said.err) == ("".join([head, f"Wrote {path}.\n", *rest]), "")


def test_a_manifest_that_somebody_has_changed_is_not_overwritten(fake: FakeComfyUI, tmp_path: Path) -> None:
    path = tmp_path / "mug.yaml"
    options = ("--endpoint", fake.url, "--output-manifest", str(path))
    run(TEXT_TO_IMAGE, *options)
    run(TEXT_TO_IMAGE, *options)  # the same is no change
    path.write_text("mine", encoding="utf-8")
    assert (
        refusal(TEXT_TO_IMAGE, *options) == f"{path} exists and says something else. Name another file, or delete it."
    )
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_file_that_cannot_be_written_is_said_so(fake: FakeComfyUI, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "mug.yaml"):
        with pytest.raises(CommandError, match=rf"^{path} cannot be written: "):
            run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--output-manifest", str(path))


# What PyYAML treats specially comes up more often than by chance.
SPECIAL = "a \t\n\r\x85\u2028\u2029\ufeff\x7f:#'\"|>-&*!%@`{}[],?~=é漢😀"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from(SPECIAL))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e18, 1e18) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    read = load_manifest(dump_manifest({"value": value}))
    assert same_json(read, {"value": value})


# --- Applying -------------------------------------------------------------------------------------------------------


def test_it_says_what_it_would_do_then_does_it_then_has_nothing_to_do(fake: FakeComfyUI) -> None:
    path = GRAPHS / "graph-02_upload_edit_save.json"
    options = ("--endpoint", fake.url, "--price", "0.05")
    head = [
        f"Types, ranges and choices are those of {fake.url}.",
        "Not inputs (take one with --input NAME=NODE.FIELD): 2.upscale_method, 2.crop, 4.blur_radius, 4.sigma, "
        "5.sharpen_radius, 5.sigma, 5.alpha",
    ]
    added = [
        "added provider comfyui",
        f"added provider comfyui: endpoint {fake.url}",
        "added model shop/mug/v1",
        "added model shop/mug/v1: input image",
        "added model shop/mug/v1: input width",
        "added model shop/mug/v1: input height",
        "added template shop/mug/v1 v1",
        "added model shop/mug/v1: link to comfyui",
    ]
    dry = run(path, *options)
    assert dry.talk == [*head, *added, "Would make 8 change(s). Add --apply."]
    assert "\n\nOnce it is applied, try it:\n\ncurl" in dry.err
    assert not any(rows().values())

    done = run(path, *options, "--apply")
    assert done.talk == [*head, *added, "Applied 8 change(s)."]
    assert "\n\nTry it:\n\ncurl" in done.err
    assert done.out == dry.out
    before = rows()
    for again in (run(path, *options, "--apply"), run(path, *options), run(path, "--apply")):
        assert again.talk == [*head, "Nothing to change."]
    assert rows() == before


def test_everything_that_a_batch_needs_is_made(fake: FakeComfyUI) -> None:
    run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--endpoint", "http://gpu-2:8188/", "--price", "0.05", "--apply")
    provider = Provider.objects.get()
    assert (provider.code, provider.name, provider.adapter_code) == ("comfyui", "ComfyUI", "comfyui")
    endpoints = provider.endpoints.values_list("base_url", "max_in_flight", "status_code")
    assert set(endpoints) == {(fake.url, 2, "active"), ("http://gpu-2:8188", 2, "active")}
    model = Model.objects.get()
    assert (str(model), model.name, str(model.price), model.version) == ("shop/mug/v1", "Mug v1", "0.050000", 1)
    assert [row.name for row in model.inputs.all()] == [
        *(
            "prompt",
            "negative_prompt",
            "seed",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "denoise",
            "width",
            "height",
        )
    ]
    behaviors = model.inputs.values_list("default_behavior_code", "is_required")
    assert set(behaviors) == {("use_default", False)}
    link = ProviderLink.objects.get()
    assert (link.model, link.provider, link.is_active) == (model, provider, True)
    assert link.template is not None
    assert (link.template.name, link.template.version) == ("shop/mug/v1", 1)
    assert link.template.body == json.loads(TEXT_TO_IMAGE.read_text())


def test_only_the_inputs_that_are_named_are_made(fake: FakeComfyUI) -> None:
    options = ("--input", "size=5.width,5.height", "--input", "file=4.ckpt_name", "--input", "prompt=6.text")
    said = run(TEXT_TO_IMAGE, "--endpoint", fake.url, *options, "--apply")
    assert said.talk[1:3] == [
        "Note: input size has no default: left out, each place keeps its own value.",
        "Not inputs (take one with --input NAME=NODE.FIELD): 3.seed, 3.steps, 3.cfg, 3.sampler_name, 3.scheduler, "
        "3.denoise, 5.batch_size, 7.text",
    ]
    size, file, prompt = ModelInput.objects.order_by("sort_order")
    assert (size.name, size.default_behavior_code, size.validator_attrs) == ("size", "omit", {"min": 16, "max": 16384})
    assert (file.name, file.validator_code, file.default_value) == ("file", "one_of", "v1-5-pruned-emaonly.safetensors")
    assert (prompt.name, prompt.variable_type_code) == ("prompt", "string")
    assert Template.objects.get().bindings == [
        {"input": "size", "target": "/5/inputs/width"},
        {"input": "size", "target": "/5/inputs/height"},
        {"input": "file", "target": "/4/inputs/ckpt_name"},
        {"input": "prompt", "target": "/6/inputs/text"},
    ]
    # Left out of the request, and so each keeps its own.
    assert request_of(said.curl)[1]["input"][0].keys() == {"file", "prompt"}


def test_another_graph_is_another_version_of_the_template(fake: FakeComfyUI, tmp_path: Path) -> None:
    run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--apply")
    graph = json.loads(TEXT_TO_IMAGE.read_text())
    graph["3"]["inputs"]["steps"] = 30
    graph["7"]["inputs"].pop("text")
    said = run(graph_file(tmp_path, graph), "--apply")
    said_of_rows = [line for line in said.talk[2:] if "sort_order" not in line]
    moved = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "width", "height")
    assert said_of_rows == [
        "changed model shop/mug/v1",
        "    version: 1 → 2",
        "changed model shop/mug/v1: input seed",
        "changed model shop/mug/v1: input steps",
        "    default_value: 20 → 30",
        *(f"changed model shop/mug/v1: input {name}" for name in moved[2:]),
        "removed model shop/mug/v1: input negative_prompt",
        "added template shop/mug/v1 v2",
        "changed model shop/mug/v1: link to comfyui",
        "    template: shop/mug/v1 v1 → shop/mug/v1 v2",
        "Applied 12 change(s).",
    ]


def test_what_the_operator_has_set_stays(fake: FakeComfyUI) -> None:
    run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--price", "0.05", "--name", "Mugs", "--apply")
    Provider.objects.update(name="Our GPUs", claim_size=3, run_timeout=60)
    Endpoint.objects.update(max_in_flight=5)
    before = rows()
    assert "Nothing to change." in run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--apply").talk
    assert rows() == before
    said = run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--price", "0.06", "--name", "Cups", "--apply")
    assert said.talk[-4:] == [
        "changed model shop/mug/v1",
        '    name: "Mugs" → "Cups"',
        "    price: 0.05 → 0.06",
        "Applied 1 change(s).",
    ]


def test_a_server_is_added_to_a_provider_that_exists(fake: FakeComfyUI) -> None:
    run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--apply")
    with FakeComfyUI() as second:
        said = run(TEXT_TO_IMAGE, "--endpoint", second.url, "--apply")
        assert said.talk[-2:] == [f"added provider comfyui: endpoint {second.url}", "Applied 1 change(s)."]
    assert set(Endpoint.objects.values_list("base_url", flat=True)) == {fake.url, second.url}


def test_a_second_provider_has_a_name_of_its_own(fake: FakeComfyUI) -> None:
    run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--provider", "video", "--apply")
    assert Provider.objects.get().name == "ComfyUI (video)"
    assert ProviderLink.objects.get().provider.code == "video"


# --- Which server is asked ------------------------------------------------------------------------------------------


def test_the_first_given_server_is_asked_and_no_other(fake: FakeComfyUI) -> None:
    with FakeComfyUI() as second:
        run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--endpoint", second.url)
        assert fake.requests == {"GET /object_info/{id}": 6}
        assert not second.requests


def test_else_the_providers_first_server_in_use_is_asked(fake: FakeComfyUI, nobody: str) -> None:
    run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--apply")
    Endpoint.objects.create(provider=Provider.objects.get(), base_url="http://127.0.0.1:1", status_code="paused")
    fake.requests.clear()
    assert run(TEXT_TO_IMAGE).talk[0] == f"Types, ranges and choices are those of {fake.url}."
    assert fake.requests == {"GET /object_info/{id}": 6}


@pytest.mark.django_db
def test_a_provider_without_servers_is_no_obstacle() -> None:
    Provider.objects.create(code="comfyui", name="ComfyUI", adapter_code="comfyui")
    said = run(TEXT_TO_IMAGE, "--apply")
    assert said.talk[0] == "The provider comfyui has no endpoint to ask: types are those of the graph's values."
    assert "providers" not in yaml.safe_load(said.out)
    assert Model.objects.count() == 1


# --- The request to try ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in SAMPLES if path != TOO_BIG], ids=lambda path: path.stem)
def test_the_printed_request_is_accepted(api: Api, fake: FakeComfyUI, path: Path) -> None:
    said = run(path, "--endpoint", fake.url, "--apply")
    url, body = request_of(said.curl)
    items, errors = validate_items(compile_serializer(Model.objects.get().inputs.all()), body["input"])
    assert (len(items), errors) == (1, [])
    answer = api.post(url, body)
    assert answer.status_code == 201
    assert answer.json()["items_total"] == 1


def test_a_media_input_is_a_sample_in_the_printed_request(fake: FakeComfyUI) -> None:
    said = run(GRAPHS / "graph-02_upload_edit_save.json", "--endpoint", fake.url)
    item = {"image": "https://example.com/picture.png", "width": 512, "height": 512}
    assert request_of(said.curl) == ("/v1/models/shop/mug/v1/batches", {"input": [item]})


@pytest.mark.parametrize("text", ["it's", "$KEY `id` \\", "JSON", "a\nJSON\nb", "“ü”"])
def test_texts_survive_the_shell(fake: FakeComfyUI, tmp_path: Path, text: str) -> None:
    graph = json.loads(TEXT_TO_IMAGE.read_text())
    graph["6"]["inputs"]["text"] = text
    said = run(graph_file(tmp_path, graph), "--endpoint", fake.url)
    assert request_of(said.curl)[1]["input"][0]["prompt"] == text
    assert said.curl.count("\nJSON\n") == 1


def test_the_template_is_what_a_server_runs(fake: FakeComfyUI) -> None:
    run(TEXT_TO_IMAGE, "--endpoint", fake.url, "--apply")
    template = Template.objects.get()
    items, errors = validate_items(
        compile_serializer(Model.objects.get().inputs.all()), [{"prompt": "a blue cup", "steps": 4.0}]
    )
    assert errors == []
    graph = render(template.body, template.bindings, items[0].values)
    expected = deepcopy(json.loads(TEXT_TO_IMAGE.read_text()))
    expected["6"]["inputs"]["text"] = "a blue cup"
    expected["3"]["inputs"]["steps"] = 4
    assert graph == expected
    answer = httpx.post(f"{fake.url}/prompt", json={"prompt": graph})
    assert (answer.status_code, answer.json()["node_errors"]) == (200, {})


# --- What is refused and what is noted ------------------------------------------------------------------------------


def test_all_reasons_are_said(fake: FakeComfyUI, tmp_path: Path) -> None:
    path = graph_file(tmp_path, {"1": {"class_type": "A", "inputs": {"x": ["2", 0], "y": ["3", 0]}}})
    assert refusal(path, "--endpoint", fake.url) == (
        f"{path} is refused, nothing was changed:\n"
        "  node 1 (A), x: a link from node 2, which is not there\n"
        "  node 1 (A), y: a link from node 3, which is not there"
    )
    assert not fake.requests


def test_a_workflow_of_the_editor_is_refused_with_the_way_to_the_other(fake: FakeComfyUI, tmp_path: Path) -> None:
    path = graph_file(tmp_path, {"nodes": [], "links": []})
    assert "File → Export Workflow (API)" in refusal(path, "--endpoint", fake.url)


def test_missing_custom_nodes_are_named(fake: FakeComfyUI, tmp_path: Path) -> None:
    graph = json.loads(TEXT_TO_IMAGE.read_text())
    graph["8"]["class_type"] = "FancyDecode"
    path = graph_file(tmp_path, graph)
    assert refusal(path, "--endpoint", fake.url) == (
        f"{path} is refused, nothing was changed:\n"
        "  the server has no node class 'FancyDecode' (node 8): install the custom nodes that it comes with"
    )


def test_a_graph_without_an_output_node_is_refused(fake: FakeComfyUI, tmp_path: Path) -> None:
    graph = json.loads(TEXT_TO_IMAGE.read_text())
    del graph["9"]
    path = graph_file(tmp_path, graph)
    assert refusal(path, "--endpoint", fake.url).endswith(
        "has no output node: add one that saves something, like SaveImage"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--input", "a"), "'a' is no NAME=NODE.FIELD"),
        (("--input", "a=3.model"), "input a: node 3 (KSampler), model is a link from node 4 (CheckpointLoaderSimple)"),
        (("--input", "A=3.seed"), "models[0].inputs[0].name: must match ^[a-z][a-z0-9_]*$"),
        (("--input", "client_ref=3.seed"), "models[0].inputs[0].name: 'client_ref' is taken out of every item"),
        (
            ("--input", "a=3.seed", "--input", "b=3.seed"),
            "bindings[1].target: '/3/inputs/seed' is the target of bindings[0] already",
        ),
        (("--price", "free"), 'models[0].price: must be a decimal number of at least 0, like "0.55"'),
        (("--owner", "Shop"), "models[0].owner: must match ^[a-z0-9][a-z0-9_-]*$"),
        (("--slug", "a/runs"), "models[0].slug: the segment 'runs' is a route of the API"),
        (("--provider", "a b"), "providers[0].code: must match ^[A-Za-z0-9_-]+$"),
        (("--endpoint", "comfyui:8188"), "providers[0].endpoints[1].base_url: must be an http(s) URL"),
        (("--name", " "), "models[0].name: must not be empty"),
    ],
)
def test_options_that_cannot_be_are_refused(fake: FakeComfyUI, options: tuple[str, ...], reason: str) -> None:
    assert reason in refusal(TEXT_TO_IMAGE, "--endpoint", fake.url, *options)


@pytest.mark.django_db
@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "graph.json"
    if content is not None:
        path.write_bytes(content)
    assert refusal(path, "--endpoint", "http://127.0.0.1:1").startswith(f"{path} cannot be read: ")


@pytest.mark.django_db
def test_a_provider_is_not_made_without_a_server() -> None:
    assert refusal(TEXT_TO_IMAGE) == (
        "There is no provider 'comfyui'. Give the address of a server with --endpoint to make it."
    )


@pytest.mark.django_db
def test_a_provider_of_another_kind_is_refused() -> None:
    Provider.objects.create(code="shop", name="Shop", adapter_code="local")
    assert refusal(TEXT_TO_IMAGE, "--provider", "shop", "--endpoint", "http://a:1") == (
        "The provider 'shop' is not for ComfyUI (adapter 'local'). Name another with --provider."
    )


def test_what_is_not_as_in_the_file_is_noted(fake: FakeComfyUI, tmp_path: Path) -> None:
    graph = json.loads(TEXT_TO_IMAGE.read_text())
    graph["3"]["inputs"]["seed"] = 2**64 - 1
    graph["4"]["inputs"]["ckpt_name"] = "other.safetensors"
    said = run(graph_file(tmp_path, graph), "--endpoint", fake.url, "--apply")
    assert said.talk[1:3] == [
        "Note: node 3 (KSampler), seed: 18446744073709551615 is beyond signed 64 bits; "
        "the template has 9223372036854775807.",
        "Note: node 4 (CheckpointLoaderSimple), ckpt_name: the server does not list 'other.safetensors'.",
    ]
    assert Template.objects.get().body["3"]["inputs"]["seed"] == 2**63 - 1
    assert ModelInput.objects.get(name="seed").default_value == 2**63 - 1


# --- The documentation ----------------------------------------------------------------------------------------------


def test_the_page_lists_the_fields_that_are_proposed() -> None:
    page = (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")
    table = page.split("\n## Which inputs are proposed\n")[1].split("\n## ")[0]
    rows_of_table = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE)[1:]
    listed = {name for fields, _ in rows_of_table for name in re.findall(r"`([^`]+)`", fields)}
    named = rule.TEXTS | rule.CHOICES | rule.NUMBERS | {"seed", "…_seed", rule.PRIMITIVE}
    assert listed == named | {f"…{ending}" for ending in rule.TEXT_ENDINGS}
