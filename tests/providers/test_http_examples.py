"""The manifests of docs/providers/http-*.md, as they stand there, against servers that speak those APIs."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models_registry.manifest import ModelSpec, ProviderSpec, load_manifest, read_manifest
from models_registry.models import ModelInput
from models_registry.templates import check_bindings, render
from models_registry.validation import compile_serializer
from providers.base import (
    Accepted,
    Artifact,
    Canceled,
    Connection,
    Done,
    EndpointConfig,
    Finished,
    Job,
    Media,
    Outcome,
    Placed,
    ProviderConfig,
    Rejected,
    Unavailable,
    Waiting,
)
from providers.http.adapter import HttpAsyncAdapter, HttpSyncAdapter, build
from tests.providers.fake_http_models import PNG, FakeServer, ImagesApi, JsonModel, PredictionsApi
from tests.providers.http_support import make_job

DOCS = Path(__file__).resolve().parents[2] / "docs" / "providers"
PNG_FILE = Artifact(PNG, "image/png", "image", "png", 3, 2)
MEDIA_TYPES = {"image", "video", "audio", "file"}


def block(page: str, language: str) -> str:
    """The only code block of this language on a page."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)


class Example:
    """A page's manifest, with the addresses in it replaced; its models' templates rendered as the engine does."""

    def __init__(self, page: str, **addresses: str) -> None:
        text = block(page, "yaml")
        for placeholder, address in addresses.items():
            assert text.count(placeholder) == 1
            text = text.replace(placeholder, address)
        manifest, faults = read_manifest(load_manifest(text), known_adapters=("http",))
        assert faults == []
        self.provider: ProviderSpec = manifest.providers[0]
        self.models = {model.slug: model for model in manifest.models}
        self.batch: list[dict[str, Any]] = json.loads(block(page, "json"))["input"]

    @property
    def adapter(self) -> HttpSyncAdapter | HttpAsyncAdapter:
        values = self.provider.values
        adapter = build(ProviderConfig(self.provider.code, values["run_timeout"], values["config"]))
        assert isinstance(adapter, (HttpSyncAdapter, HttpAsyncAdapter))
        return adapter

    def job(self, slug: str, item: dict[str, Any], *, run_id: str = "run-1") -> Job:
        """The job of one item, its inputs validated."""
        body, bindings, inputs = parts_of(self.models[slug])
        media = {each.name for each in inputs if is_media(each)}
        values = compile_serializer(inputs).shared().run_validation(item)
        pointers = tuple(each["target"] for each in bindings if each["input"] in media & set(values))
        return make_job(render(body, bindings, values), run_id=run_id, media=pointers, fetch=fetch)

    def perform(self, slug: str, *items: dict[str, Any]) -> list[Outcome]:
        adapter = self.adapter
        assert isinstance(adapter, HttpSyncAdapter)
        return adapter.perform([self.job(slug, item) for item in items])

    def connect(self) -> Connection:
        (endpoint,) = self.provider.endpoints
        adapter = self.adapter
        assert isinstance(adapter, HttpAsyncAdapter)
        return adapter.connect(EndpointConfig("e1", endpoint.base_url))


def parts_of(model: ModelSpec) -> tuple[Any, list[dict[str, str]], list[ModelInput]]:
    assert model.inputs is not None
    assert model.links is not None
    (link,) = model.links
    assert link.template is not None
    names, required = {each.name for each in model.inputs}, {each.name for each in model.inputs if each.is_required}
    assert check_bindings(link.template.body, link.template.bindings, names, required) == []
    return link.template.body, link.template.bindings, model.inputs


def is_media(declaration: ModelInput) -> bool:
    return bool({declaration.variable_type_code, declaration.validator_attrs.get("type")} & MEDIA_TYPES)


def fetch(url: str) -> Media:
    return Media(PNG, "image/png")


# --- http-json.md -----------------------------------------------------------------------------------------------------


@pytest.fixture
def upscaler() -> Iterator[JsonModel]:
    with JsonModel() as server:
        yield server


def example_json(server: FakeServer) -> Example:
    return Example("http-json", **{"http://10.0.0.7:8000": server.url})


def test_the_json_example_runs_its_batch(upscaler: JsonModel) -> None:
    example = example_json(upscaler)
    (outcome,) = example.perform("upscale", *example.batch)
    assert isinstance(outcome, Finished)
    assert [(each.mime_type, each.width, each.height) for each in outcome.artifacts] == [("image/png", 12, 8)]
    assert outcome.seed == 0
    assert upscaler.lines == ["POST /v1/upscale"]


def test_the_json_example_keeps_the_template_s_values_and_the_inputs_types(upscaler: JsonModel) -> None:
    example_json(upscaler).perform("upscale", {"image_url": "https://shop.example/a.png", "seed": 7})
    picture = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert [each.json for each in upscaler.received] == [{"image": picture, "scale": 2, "seed": 7}]


def test_the_json_example_tells_what_the_server_refuses(upscaler: JsonModel) -> None:
    outcomes = example_json(upscaler).perform("upscale", {"image_url": "https://shop.example/a.png", "scale": 8})
    assert outcomes == [Rejected("PROVIDER_REJECTED", "scale must be at most 4")]


# --- http-predictions.md ----------------------------------------------------------------------------------------------


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> Iterator[PredictionsApi]:
    monkeypatch.setenv("PREDICTIONS_API_TOKEN", PredictionsApi.token)
    # Ten seconds pass between two looks.
    monkeypatch.setattr("providers.http.connection.monotonic", itertools.count(1000, 10).__next__)
    with PredictionsApi() as server:
        yield server


def example_predictions(server: FakeServer) -> Example:
    return Example(
        "http-predictions",
        **{"https://api.predictions.example/v1\n": f"{server.url}/v1\n", "*.predictions.example": "localhost"},
    )


def submit(connection: Connection, *jobs: Job) -> list[Placed]:
    submitted = connection.submit(jobs)
    accepted = [each for each in submitted if isinstance(each, Accepted)]
    assert len(accepted) == len(jobs), submitted
    return [
        Placed(job_id=each.job_id, run_id=job.run_id, attempt=1, age=1)
        for each, job in zip(accepted, jobs, strict=True)
    ]


def test_the_predictions_example_runs_its_batch(predictions: PredictionsApi) -> None:
    example = example_predictions(predictions)
    jobs = [example.job("dream", item, run_id=f"run-{number}") for number, item in enumerate(example.batch)]
    with closing(example.connect()) as connection:
        first, second = submit(connection, *jobs)
        by_prompt = {each["input"]["prompt"]: name for name, each in predictions.predictions.items()}
        assert (first.job_id, second.job_id) == (by_prompt["a red shoe"], by_prompt["a blue shoe"])
        assert connection.poll([first, second]) == {
            first.job_id: Waiting(is_running=False),
            second.job_id: Waiting(is_running=False),
        }
        file = f"http://localhost:{predictions.port}/files/out.png"
        predictions.finish(first.job_id, "succeeded", output=file)
        predictions.finish(second.job_id, "processing")
        seen = connection.poll([first, second])
        assert seen[second.job_id] == Waiting()
        predictions.finish(second.job_id, "succeeded", output=[file, file])
        seen |= connection.poll([second])
        done = [(each, seen[each.job_id]) for each in (first, second)]
        outcomes = connection.collect([(job, each) for job, each in done if isinstance(each, Done)])
    assert outcomes == [Finished((PNG_FILE,)), Finished((PNG_FILE, PNG_FILE))]


def test_the_predictions_example_sends_urls_as_they_are(predictions: PredictionsApi) -> None:
    example = example_predictions(predictions)
    with closing(example.connect()) as connection:
        submit(connection, *(example.job("dream", item) for item in example.batch))
    sent = sorted((each.json for each in predictions.received), key=lambda body: str(body["input"]["image"]))
    assert sent == [
        {"version": "5c7d5dc6", "input": {"prompt": "a red shoe", "image": None}},
        {"version": "5c7d5dc6", "input": {"prompt": "a blue shoe", "image": "https://shop.example/shoe.png"}},
    ]


def test_the_predictions_example_cancels(predictions: PredictionsApi) -> None:
    example = example_predictions(predictions)
    with closing(example.connect()) as connection:
        first, second = submit(connection, *(example.job("dream", item) for item in example.batch))
        predictions.finish(second.job_id, "processing")
        connection.cancel([first])
        assert connection.poll([first, second]) == {first.job_id: Canceled(), second.job_id: Waiting()}


def test_the_predictions_example_tells_why_a_prediction_failed(predictions: PredictionsApi) -> None:
    example = example_predictions(predictions)
    with closing(example.connect()) as connection:
        (job,) = submit(connection, example.job("dream", example.batch[0]))
        predictions.finish(job.job_id, "failed", error="NSFW content detected")
        assert connection.poll([job]) == {job.job_id: Rejected("EXECUTION_FAILED", "NSFW content detected")}


def test_the_predictions_example_tells_what_the_api_refuses(predictions: PredictionsApi) -> None:
    example = example_predictions(predictions)
    with closing(example.connect()) as connection:
        submitted = connection.submit([example.job("dream", {"prompt": ""})])
        assert submitted == [Rejected("PROVIDER_REJECTED", "- input: prompt is required", "dispatch")]
        connection.check()


def test_the_predictions_example_with_a_wrong_token_says_so_and_not_the_token(
    predictions: PredictionsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PredictionsApi, "token", "another-one")
    example = example_predictions(predictions)
    with closing(example.connect()) as connection:
        assert connection.submit([example.job("dream", example.batch[0])]) == [
            Rejected("PROVIDER_REJECTED", "The provider does not accept this server's credentials.", "dispatch")
        ]


# --- http-images.md ---------------------------------------------------------------------------------------------------


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImagesApi]:
    monkeypatch.setenv("IMAGES_API_KEY", ImagesApi.token)
    with ImagesApi() as server:
        yield server


def example_images(server: FakeServer) -> Example:
    return Example(
        "http-images", **{"https://images.example/v1": f"{server.url}/v1", "files.images.example": "localhost"}
    )


def test_the_images_example_runs_its_batch(images: ImagesApi) -> None:
    example = example_images(images)
    outcomes = example.perform("generate", *example.batch)
    assert [each.artifacts for each in outcomes if isinstance(each, Finished)] == [(PNG_FILE,), (PNG_FILE, PNG_FILE)]
    assert sorted((each.json for each in images.received), key=lambda body: int(body["n"])) == [
        {"model": "image-1", "prompt": "a red shoe", "size": "1536x1024", "n": 1},
        {"model": "image-1", "prompt": "a blue shoe", "size": "1024x1024", "n": 2},
    ]


def test_the_images_example_takes_pictures_at_urls_too(images: ImagesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImagesApi, "gives_urls", True)
    (outcome,) = example_images(images).perform("generate", {"prompt": "a red shoe"})
    assert isinstance(outcome, Finished)
    assert outcome.artifacts == (PNG_FILE,)
    assert images.lines == ["POST /v1/images/generations", "GET /files/made.png"]
    assert "authorization" not in images.received[1].headers, "the key went to the host of the files"


def test_the_images_example_sends_pictures_as_files(images: ImagesApi) -> None:
    item = {"prompt": "make it blue", "image_urls": ["https://shop.example/a.png", "https://shop.example/b.png"]}
    (outcome,) = example_images(images).perform("edit", item)
    assert isinstance(outcome, Finished)
    assert outcome.artifacts == (PNG_FILE,)
    assert images.received[0].form == [
        ("model", None, None, b"image-1"),
        ("prompt", None, None, b"make it blue"),
        ("image[]", "image.png", "image/png", PNG),
        ("image[]", "image.png", "image/png", PNG),
    ]


def test_the_images_example_tells_the_api_s_refusals_apart(images: ImagesApi) -> None:
    outcomes = example_images(images).perform("generate", {"prompt": "busy"}, {"prompt": "forbidden"})
    assert outcomes == [
        Unavailable("PROVIDER_UNAVAILABLE", "Rate limit reached", retry_after=7),
        Rejected("PROVIDER_REJECTED", "Your request was rejected by the safety system."),
    ]
