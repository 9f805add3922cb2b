"""The local adapter: every way a job can end, and what a customer may not read in any of them."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from providers.base import (
    AdapterConfigError,
    Artifact,
    FetchError,
    Finished,
    Job,
    Media,
    Outcome,
    ProviderConfig,
    Rejected,
    Unavailable,
)
from providers.local import Context, Refused, TryLater, local_function
from providers.local.adapter import LocalAdapter

TEXT = Artifact(b"done", "text/plain", "text", "txt")
ROOT = Path(__file__).resolve().parent.parent.parent


@local_function("tests.finish")
def finish(_context: Context) -> Artifact:
    return TEXT


@local_function("tests.look")
def look(context: Context, *, source: str) -> Artifact:
    media = context.fetch(source)
    return Artifact(f"{context.run_id} {context.attempt} {media.mime_type}".encode(), "text/plain", "text", "txt")


@local_function("tests.refuse")
def refuse(_context: Context) -> Artifact:
    raise Refused("The picture is upside down.")


@local_function("tests.later")
def later(_context: Context) -> Artifact:
    raise TryLater("Come back.", retry_after=7.5)


@local_function("tests.stumble")
def stumble(_context: Context, *, kind: str) -> Artifact:
    raise {
        "os": OSError(28, "No space left", "/srv/secret"),
        "memory": MemoryError(),
        "type": TypeError("/srv/secret"),
    }[kind]


@local_function("tests.wrong")
def wrong(_context: Context, *, among: bool) -> Any:
    return [TEXT, "text"] if among else "text"


def no_fetch(url: str) -> Media:
    raise AssertionError(f"fetched {url}")


def make_adapter(*modules: str) -> LocalAdapter:
    return LocalAdapter(ProviderConfig("local", 120, {"modules": list(modules)}))


def make_job(body: Any, *, attempt: int = 1, fetch: Callable[[str], Media] = no_fetch) -> Job:
    return Job(run_id="run-1", attempt=attempt, body=body, fetch=fetch)


def perform(function: str, *, attempt: int = 1, fetch: Callable[[str], Media] = no_fetch, **arguments: Any) -> Outcome:
    body = {"function": function, "arguments": arguments}
    adapter = make_adapter(__name__, "providers.local.testing")
    (outcome,) = adapter.perform([make_job(body, attempt=attempt, fetch=fetch)])
    return outcome


def artifacts_of(outcome: Outcome) -> tuple[Artifact, ...]:
    assert isinstance(outcome, Finished), outcome
    return outcome.artifacts


def test_a_result_is_finished_and_timed() -> None:
    outcome = perform("tests.finish")
    assert isinstance(outcome, Finished)
    assert outcome.timing is not None
    assert (outcome.artifacts, outcome.seed, list(outcome.timing)) == ((TEXT,), None, ["execute"])
    assert outcome.timing["execute"] >= 0


def test_a_function_gets_the_run_the_attempt_and_the_fetch() -> None:
    fetched: list[str] = []

    def fetch(url: str) -> Media:
        fetched.append(url)
        return Media(b"", "image/png")

    outcome = perform("tests.look", attempt=3, fetch=fetch, source="https://shop.example/a.png")
    assert [artifact.body for artifact in artifacts_of(outcome)] == [b"run-1 3 image/png"]
    assert fetched == ["https://shop.example/a.png"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "The model's template names no function."),
        (["tests.finish"], "The model's template names no function."),
        ({"function": 1}, "The model's template names no function."),
        ({"function": "tests.nobody"}, "The model's template names an unknown function, 'tests.nobody'."),
        ({"function": "noop"}, "The model's template names an unknown function, 'noop'."),
        (
            {"function": "tests.finish", "arguments": ["x"]},
            "The arguments in the model's template are not an object.",
        ),
        (
            {"function": "tests.finish", "arguments": {"colour": 1}},
            "The arguments in the model's template do not fit 'tests.finish': "
            "got an unexpected keyword argument 'colour'.",
        ),
        (
            {"function": "tests.look"},
            "The arguments in the model's template do not fit 'tests.look': missing a required argument: 'source'.",
        ),
    ],
)
def test_a_template_that_fits_no_function_is_rejected_before_anything_runs(body: Any, message: str) -> None:
    (outcome,) = make_adapter(__name__).perform([make_job(body)])
    assert outcome == Rejected("TEMPLATE_INVALID", message, "dispatch")


def test_an_input_that_cannot_be_fetched_is_rejected_or_retried_as_the_error_says() -> None:
    def gone(_url: str) -> Media:
        raise FetchError("The server answered 404.")

    def slow(_url: str) -> Media:
        raise FetchError("The server did not answer in time.", is_retryable=True)

    assert [perform("tests.look", fetch=fetch, source="x") for fetch in (gone, slow)] == [
        Rejected("INPUT_FETCH_FAILED", "The server answered 404.", "preprocess"),
        Unavailable("INPUT_FETCH_FAILED", "The server did not answer in time.", "preprocess"),
    ]


def test_a_refusal_reaches_the_customer_in_the_functions_words() -> None:
    assert perform("tests.refuse") == Rejected("EXECUTION_FAILED", "The picture is upside down.", "execute")


def test_a_function_may_ask_for_another_attempt() -> None:
    assert perform("tests.later") == Unavailable("PROVIDER_UNAVAILABLE", "Come back.", "execute", 7.5)


@pytest.mark.parametrize("kind", ["os", "memory"])
def test_a_machine_without_room_is_worth_another_attempt(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    outcome = perform("tests.stumble", kind=kind)
    assert outcome == Unavailable("PROVIDER_UNAVAILABLE", "The worker ran short of a resource.", "execute")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_bug_is_logged_with_its_trace_and_told_in_general_words(caplog: pytest.LogCaptureFixture) -> None:
    outcome = perform("tests.stumble", kind="type")
    assert outcome == Rejected("EXECUTION_FAILED", "The function failed on this input.", "execute")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is TypeError


@pytest.mark.parametrize("among", [False, True])
def test_a_result_that_is_no_artifact_is_the_functions_bug(among: bool, caplog: pytest.LogCaptureFixture) -> None:
    outcome = perform("tests.wrong", among=among)
    assert outcome == Rejected("EXECUTION_FAILED", "The function failed on this input.", "execute")
    assert "returned str" in caplog.text


def test_outcomes_keep_the_order_of_jobs_and_one_failure_spoils_no_other() -> None:
    names = ["tests.finish", "tests.refuse", "tests.nobody", "tests.later", "tests.finish"]
    jobs = [make_job({"function": name}) for name in names]
    outcomes = make_adapter(__name__).perform(jobs)
    assert [type(outcome) for outcome in outcomes] == [Finished, Rejected, Rejected, Unavailable, Finished]
    assert make_adapter().perform([]) == []


def test_functions_of_a_module_are_offered_only_where_it_is_configured() -> None:
    body = {"function": "noop"}
    (configured,) = make_adapter("providers.local.testing").perform([make_job(body)])
    (bare,) = make_adapter().perform([make_job(body)])
    assert artifacts_of(configured) == ()
    assert isinstance(bare, Rejected)


@pytest.mark.parametrize("modules", ["providers.local.testing", [1], {"a": 1}])
def test_a_module_setting_that_is_no_list_of_paths_is_refused(modules: Any) -> None:
    with pytest.raises(AdapterConfigError, match="must be a list of dotted paths"):
        LocalAdapter(ProviderConfig("mine", 1, {"modules": modules}))


def test_a_missing_module_is_refused_when_the_adapter_is_built() -> None:
    with pytest.raises(AdapterConfigError, match=r"cannot import 'shop\.nowhere'"):
        make_adapter("shop.nowhere")


def test_two_functions_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @local_function("smart_resize")
    def twin(_context: Context) -> Artifact:
        return TEXT

    module = ModuleType("twin_functions")
    module.__dict__["twin"] = twin
    monkeypatch.setitem(sys.modules, "twin_functions", module)
    with pytest.raises(AdapterConfigError, match="two functions are named 'smart_resize'"):
        make_adapter("twin_functions")


def test_noop_gives_its_text_back_or_nothing() -> None:
    assert artifacts_of(perform("noop")) == ()
    assert artifacts_of(perform("noop", text=None)) == ()
    assert artifacts_of(perform("noop", text="é")) == (Artifact("é".encode(), "text/plain", "text", "txt"),)


def test_fail_fails_in_the_way_asked_for() -> None:
    assert [perform("fail", mode=mode) for mode in ("permanent", "retryable", "crash", "?")] == [
        Rejected("EXECUTION_FAILED", "This model always fails."),
        Unavailable("PROVIDER_UNAVAILABLE", "Attempt 1 failed; another one may succeed."),
        Rejected("EXECUTION_FAILED", "The function failed on this input."),
        Rejected("EXECUTION_FAILED", 'The mode must be "permanent", "retryable" or "crash".'),
    ]


def test_fail_succeeds_from_the_attempt_it_was_told() -> None:
    outcomes = [perform("fail", attempt=n, mode="retryable", until_attempt=3) for n in (1, 2, 3, 4)]
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable, Finished, Finished]


def test_hold_waits_for_its_file_and_not_longer(tmp_path: Path) -> None:
    gate = tmp_path / "go"
    ended = threading.Event()

    def held() -> None:
        artifacts_of(perform("hold", path=str(gate), seconds=30))
        ended.set()

    worker = threading.Thread(target=held)
    worker.start()
    assert not ended.wait(0.2)
    gate.touch()
    assert ended.wait(10)
    worker.join()


def test_hold_gives_up_when_its_time_is_over(tmp_path: Path) -> None:
    assert artifacts_of(perform("hold", path=str(tmp_path / "never"), seconds=0)) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("manifest", ["shop", "testing"])
def test_every_template_of_the_manifests_fits_its_function(manifest: str) -> None:
    loaded = yaml.safe_load((ROOT / "catalogue" / f"{manifest}.yaml").read_text())
    adapters = {
        provider["code"]: LocalAdapter(ProviderConfig(provider["code"], 1, provider["config"]))
        for provider in loaded["providers"]
    }
    for model in loaded["models"]:
        names = {declared["name"] for declared in model["inputs"]}
        for link in model["links"]:
            template = link["template"]
            context = Context("run", 1, no_fetch)
            _, arguments = adapters[link["provider"]]._resolve(template["body"], context)
            assert {binding["input"] for binding in template["bindings"]} == names
            assert {binding["target"] for binding in template["bindings"]} == {f"/arguments/{a}" for a in arguments}
