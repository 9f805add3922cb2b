"""The `http` adapter's config: each fault is named with its place, and a secret is nowhere to be read."""

from __future__ import annotations

from typing import Any

import pytest

from providers.base import AdapterConfigError, EndpointConfig, ProviderConfig
from providers.http.adapter import HttpAsyncAdapter, HttpSyncAdapter, build
from providers.http.config import Call, read_config
from providers.http.expressions import Expression
from tests.providers.http_support import ASYNC

SYNC: dict[str, Any] = {"base_url": "http://127.0.0.1:1"}


def config_of(config: Any) -> ProviderConfig:
    return ProviderConfig("models", 600, config)


def fault_of(config: Any) -> str:
    with pytest.raises(AdapterConfigError) as caught:
        build(config_of(config))
    return str(caught.value)


def outcome(**changes: Any) -> dict[str, Any]:
    """The config of an asynchronous provider with another outcome. None takes a member out."""
    members = {**ASYNC["outcome"], **changes}
    return {**ASYNC, "outcome": {name: value for name, value in members.items() if value is not None}}


def test_a_provider_is_synchronous_unless_it_says_otherwise() -> None:
    assert type(build(config_of(SYNC))) is HttpSyncAdapter
    assert type(build(config_of({**SYNC, "mode": "sync"}))) is HttpSyncAdapter
    assert type(build(config_of(ASYNC))) is HttpAsyncAdapter


def test_an_adapter_is_of_one_kind_only() -> None:
    assert not hasattr(build(config_of(SYNC)), "connect")
    assert not hasattr(build(config_of(ASYNC)), "perform")


def test_what_is_not_given_has_a_default() -> None:
    sync, asynchronous = read_config(config_of(SYNC)), read_config(config_of(ASYNC))
    assert (sync.timeout, sync.concurrency, sync.media, sync.calls) == (600, 4, "data_uri", None)
    assert sync.retryable_statuses == {408, 425, 429, *range(500, 600)}
    assert (asynchronous.timeout, asynchronous.concurrency) == (30, 64)
    assert asynchronous.calls is not None
    assert (asynchronous.calls.status, asynchronous.calls.lost_after) == (Call("GET", "/jobs/{job_id}"), 10)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ([], ": must be an object."),
        ({}, ".base_url: is missing."),
        ({"base_url": 5}, ".base_url: must be a text."),
        ({"base_url": "10.0.0.7:8000"}, ".base_url: is no address to put paths behind (The URL must be absolute:"),
        (
            {"base_url": "ftp://models/"},
            ".base_url: is no address to put paths behind (The URL must use http or https.",
        ),
        (
            {"base_url": "http://user:pass@models/"},
            ".base_url: is no address to put paths behind (The URL must not contain",
        ),
        ({"base_url": "http://models/?key=1"}, ".base_url: must have no query and no fragment."),
        ({**SYNC, "mode": "later"}, ".mode: must be one of sync, async."),
        ({**SYNC, "mode": ["sync"]}, ".mode: must be one of sync, async."),
        ({**SYNC, "tiemout": 5}, ".tiemout: there is no such option."),
        ({**SYNC, "status": "GET /jobs/{job_id}"}, ".status: there is no such option."),
        ({**SYNC, "outcome": {"states": {}}}, ".outcome.states: there is no such option."),
        ({**SYNC, "outcome": "body"}, ".outcome: must be an object."),
        ({**SYNC, "timeout": 0}, ".timeout: must be a number from 0.01 to 86400."),
        ({**SYNC, "timeout": True}, ".timeout: must be a number from 0.01 to 86400."),
        ({**SYNC, "timeout": float("nan")}, ".timeout: must be a number from 0.01 to 86400."),
        ({**SYNC, "connect_timeout": "5"}, ".connect_timeout: must be a number from 0.01 to 86400."),
        ({**SYNC, "concurrency": 0}, ".concurrency: must be a whole number from 1 to 256."),
        ({**SYNC, "concurrency": 1.5}, ".concurrency: must be a whole number from 1 to 256."),
        ({**SYNC, "media": "file"}, ".media: must be one of url, data_uri, base64."),
        ({**SYNC, "max_output_bytes": -1}, ".max_output_bytes: must be a whole number from 1 to 17179869184."),
        ({**SYNC, "retryable_statuses": 429}, ".retryable_statuses: must be a list."),
        ({**SYNC, "retryable_statuses": [200]}, ".retryable_statuses: must be a list of status codes from 300 to 599."),
        (
            {**SYNC, "retryable_statuses": ["5xx"]},
            ".retryable_statuses: must be a list of status codes from 300 to 599.",
        ),
        ({**SYNC, "output_hosts": "*"}, ".output_hosts: must be a list."),
        ({**SYNC, "output_hosts": [""]}, ".output_hosts: must be a list of texts."),
        (
            {**SYNC, "output_hosts": ["https://files"]},
            '.output_hosts: must be host names in lower case, "*.example.com", or "*".',
        ),
        ({**SYNC, "output_hosts": ["a*"]}, '.output_hosts: must be host names in lower case, "*.example.com", or "*".'),
        ({**SYNC, "idempotency_header": "Not this"}, ".idempotency_header: is not a header that can be set."),
        ({**SYNC, "headers": ["X-A"]}, ".headers: must be an object."),
        ({**SYNC, "headers": {5: "x"}}, ".headers: 5 must be a text."),
        ({**SYNC, "headers": {"X A": "x"}}, ".headers.X A: is not a header that can be set."),
        ({**SYNC, "headers": {"Host": "x"}}, ".headers.Host: is not a header that can be set."),
        ({**SYNC, "headers": {"Content-Length": "5"}}, ".headers.Content-Length: is not a header that can be set."),
        ({**SYNC, "headers": {"X-A": 5}}, ".headers.X-A: must be a text of printable ASCII, without spaces around it."),
        (
            {**SYNC, "headers": {"X-A": "a\nb"}},
            ".headers.X-A: must be a text of printable ASCII, without spaces around it.",
        ),
        ({**SYNC, "headers": {"X-A": "a", "x-a": "b"}}, ".headers.x-a: is given twice."),
        (
            {**SYNC, "headers": {"authorization": "Bearer x"}},
            ".headers.authorization: must be the name of an environment",
        ),
        (
            {**SYNC, "headers": {"X-A": {"env": "NOT_THERE"}}},
            ".headers.X-A: the environment variable NOT_THERE is not set.",
        ),
        ({**SYNC, "headers": {"X-A": {"env": "EMPTY"}}}, ".headers.X-A: the environment variable EMPTY is not set."),
        ({**SYNC, "headers": {"X-A": {"prefix": "Bearer "}}}, ".headers.X-A.env: is missing."),
        ({**SYNC, "headers": {"X-A": {"env": "TOKEN", "value": "x"}}}, ".headers.X-A.value: there is no such option."),
        (
            {**SYNC, "outcome": {"error": "body["}},
            ".outcome.error: 'body[' is no JMESPath expression (Invalid jmespath",
        ),
        ({**SYNC, "outcome": {"error": 5}}, ".outcome.error: must be a text."),
        (
            {**SYNC, "outcome": {"seed": "foo(body)"}},
            ".outcome.seed: 'foo(body)' is no JMESPath expression (there is no function foo()).",
        ),
        (
            {**SYNC, "outcome": {"seed": "a || [length(body, body)]"}},
            ".outcome.seed: 'a || [length(body, body)]' is no JMESPath expression (length() takes 1 arguments, not 2).",
        ),
        ({**SYNC, "outcome": {"outputs": 5}}, ".outcome.outputs: must be a JMESPath expression or a list of rules."),
        ({**SYNC, "outcome": {"outputs": []}}, ".outcome.outputs: must be a JMESPath expression or a list of rules."),
        ({**SYNC, "outcome": {"outputs": "body.."}}, ".outcome.outputs[0].select: 'body..' is no JMESPath expression"),
        ({**SYNC, "outcome": {"outputs": ["body"]}}, ".outcome.outputs[0]: must be an object."),
        (
            {**SYNC, "outcome": {"outputs": [{"select": "body"}, {"select": "body", "as": "hex"}]}},
            ".outcome.outputs[1].as: must be one of auto, url, base64, text, json.",
        ),
        (
            {**SYNC, "outcome": {"outputs": [{"type": "picture"}]}},
            ".outcome.outputs[0].type: must be one of image, video",
        ),
        (
            {**SYNC, "outcome": {"outputs": [{"mime_type": "PNG"}]}},
            ".outcome.outputs[0].mime_type: must be a media type",
        ),
        ({**SYNC, "outcome": {"outputs": [{"as": "text"}]}}, ".outcome.outputs[0].as: has no meaning without `select`"),
        ({**ASYNC, "base_url": "http://models"}, ".base_url: there is no such option."),
        ({**ASYNC, "status": None}, ".status: is missing."),
        (
            {**ASYNC, "status": "/jobs/{job_id}"},
            ".status: must be a method and a path like 'GET /jobs', with {job_id} in",
        ),
        (
            {**ASYNC, "status": "GET /jobs"},
            ".status: must be a method and a path like 'GET /jobs', with {job_id} in the path.",
        ),
        ({**ASYNC, "status": "get /jobs/{job_id}"}, ".status: must be a method and a path like"),
        ({**ASYNC, "cancel": "POST jobs/{job_id}"}, ".cancel: must be a method and a path like"),
        ({**ASYNC, "result": 5}, ".result: must be a text."),
        ({**ASYNC, "health": "GET /{job_id}"}, ".health: must be a method and a path like 'GET /jobs', without a job."),
        ({**ASYNC, "poll_interval": "1"}, ".poll_interval: must be a number from 0 to 86400."),
        ({**ASYNC, "lost_after": -1}, ".lost_after: must be a number from 0 to 86400."),
        (outcome(state=None), ".outcome.state: is missing."),
        (outcome(job_id="]"), ".outcome.job_id: ']' is no JMESPath expression"),
        (outcome(states=None), ".outcome.states.succeeded: is missing: no job could ever end."),
        (outcome(states=[]), ".outcome.states: must be an object."),
        (outcome(states={"done": ["done"]}), ".outcome.states.succeeded: is missing: no job could ever end."),
        (outcome(states={"succeeded": ["a"], "done": []}), ".outcome.states.done: there is no such option."),
        (outcome(states={"succeeded": "done"}), ".outcome.states.succeeded: must be a list."),
        (
            outcome(states={"succeeded": [{}]}),
            ".outcome.states.succeeded: must be a list of texts, numbers, true, false",
        ),
        (
            outcome(states={"running": ["a"], "succeeded": ["a"]}),
            ".outcome.states.succeeded: 'a' is given for another state",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch, config: Any, place: str) -> None:
    monkeypatch.setenv("TOKEN", "topsecret")
    monkeypatch.setenv("EMPTY", " \n")
    monkeypatch.delenv("NOT_THERE", raising=False)
    assert fault_of(config).startswith(f"Provider 'models': config{place}")


def test_a_secret_that_cannot_be_a_header_is_not_repeated_in_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "top\nsecret")
    assert fault_of({**SYNC, "headers": {"X-A": {"env": "TOKEN"}}}) == (
        "Provider 'models': config.headers.X-A: must be a text of printable ASCII, without spaces around it."
    )


def test_a_secret_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "topsecret\n")
    headers = {"Authorization": {"env": "TOKEN", "prefix": "Bearer "}}
    config = read_config(config_of({**SYNC, "headers": headers}))
    assert (config.headers, config.secrets) == ({"authorization": "Bearer topsecret"}, ("topsecret",))
    asynchronous = build(config_of({**ASYNC, "headers": headers}))
    assert isinstance(asynchronous, HttpAsyncAdapter)
    connection = asynchronous.connect(EndpointConfig("e", "http://127.0.0.1:1"))
    for each in (
        config,
        build(config_of({**SYNC, "headers": headers})),
        asynchronous,
        connection,
        *vars(connection).values(),
    ):
        assert "topsecret" not in repr(each)
    connection.close()


def test_a_secret_that_is_a_part_of_another_does_not_leave_the_rest_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "abc")
    monkeypatch.setenv("LONG", "abcdef")
    for names in (("SHORT", "LONG"), ("LONG", "SHORT")):
        headers = {f"X-{name}": {"env": name} for name in names}
        assert read_config(config_of({**SYNC, "headers": headers})).secrets == ("abcdef", "abc")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://10.0.0.7:8000", "http://10.0.0.7:8000"),
        ("http://10.0.0.7:8000/", "http://10.0.0.7:8000"),
        ("HTTPS://Models.Example:443/v1/", "https://models.example/v1"),
        ("http://[::1]:8000/a/b", "http://[::1]:8000/a/b"),
    ],
)
def test_a_base_url_is_kept_in_one_spelling(given: str, kept: str) -> None:
    assert read_config(config_of({"base_url": given})).base_url == kept


def test_an_endpoint_s_address_is_checked_when_it_is_connected_to() -> None:
    adapter = build(config_of(ASYNC))
    assert isinstance(adapter, HttpAsyncAdapter)
    with pytest.raises(AdapterConfigError) as caught:
        adapter.connect(EndpointConfig("0190", "models:8000"))
    assert str(caught.value).startswith("Provider 'models': endpoint 0190.base_url: is no address to put paths behind")


@pytest.mark.parametrize(
    ("job_id", "path"),
    [
        ("j1", "/jobs/j1"),
        ("a b?c#d", "/jobs/a%20b%3Fc%23d"),
        ("operations/7", "/jobs/operations/7"),
        ("ü", "/jobs/%C3%BC"),
    ],
)
def test_a_job_s_id_stays_in_the_path(job_id: str, path: str) -> None:
    assert Call("GET", "/jobs/{job_id}").path_for(job_id) == path


@pytest.mark.parametrize(
    ("value", "state"),
    [("1", "queued"), (1, "running"), (True, "succeeded"), (None, "failed"), (False, None), ("", None), ({}, None)],
)
def test_states_are_told_apart_by_type(value: Any, state: str | None) -> None:
    states = {"queued": ["1"], "running": [1], "succeeded": [True], "failed": [None]}
    calls = read_config(config_of(outcome(states=states))).calls
    assert calls is not None
    assert calls.state_of(value) == state


@pytest.mark.parametrize(
    "expression",
    [
        "length(body.missing)",
        "contains('text', `1`)",
        "abs(body)",
        "sort_by(body, &name)",
        "join(',', body)",
        "max(body)",
    ],
)
@pytest.mark.parametrize("body", [None, [1, "a"], {"a": 1}, "text"])
def test_an_expression_that_does_not_apply_finds_nothing(expression: str, body: Any) -> None:
    assert Expression(expression).search({"status": 200, "headers": {}, "body": body}) is None
