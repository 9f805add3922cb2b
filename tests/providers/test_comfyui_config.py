"""What a provider row may say, and the words that customers and operators get."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from providers.base import AdapterConfigError, EndpointConfig, ProviderConfig
from providers.comfyui.adapter import ComfyAdapter
from providers.comfyui.answers import retry_after_of
from providers.comfyui.config import ComfyConfig, read_config
from providers.comfyui.wording import clean, describe_refusal


def configured(environ: dict[str, str] | None = None, *, run_timeout: float = 60.0, **config: Any) -> ComfyConfig:
    return read_config(ProviderConfig("comfy", run_timeout, config), environ=environ or {})


def test_a_provider_needs_no_config() -> None:
    assert configured() == ComfyConfig({}, 30.0, 48.0, "runflow", 256 * 1024 * 1024)


def test_a_stall_is_seen_before_the_time_of_a_run_is_over() -> None:
    assert configured(run_timeout=900.0).stall_seconds == 720.0
    assert configured(run_timeout=900.0, stall_seconds=60).stall_seconds == 60.0


def test_headers_are_texts_or_names_of_environment_variables() -> None:
    headers = {"X-Team": "shop", "Authorization": {"env": "TOKEN", "prefix": "Bearer "}, "X-Key": {"env": "TOKEN"}}
    config = configured({"TOKEN": "s3cret\n"}, headers=headers)
    assert config.headers == {"X-Team": "shop", "Authorization": "Bearer s3cret", "X-Key": "s3cret"}
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"header": {}},
            "there is no option 'header'; there are headers, timeout, stall_seconds, upload_subfolder, "
            "max_output_bytes",
        ),
        ({"headers": []}, "headers must be an object"),
        ({"headers": {"X Y": "a"}}, "'X Y' is no name of a header"),
        ({"headers": {"X": 1}}, "header 'X' must be a text, or {env: NAME, prefix: TEXT}"),
        ({"headers": {"X": {"prefix": "a"}}}, "header 'X' must be a text, or {env: NAME, prefix: TEXT}"),
        ({"headers": {"X": {"env": "A", "b": "c"}}}, "header 'X' must be a text, or {env: NAME, prefix: TEXT}"),
        ({"headers": {"X": {"env": 1}}}, "header 'X' must be a text, or {env: NAME, prefix: TEXT}"),
        ({"headers": {"X": {"env": "MISSING"}}}, "the environment variable MISSING is not set, which header 'X' needs"),
        ({"headers": {"X": "a\nb"}}, "the value of header 'X' is empty, or is not plain ASCII"),
        ({"headers": {"X": {"env": "BAD"}}}, "the value of header 'X' is empty, or is not plain ASCII"),
        ({"headers": {"X": {"env": "EMPTY"}}}, "the environment variable EMPTY is not set, which header 'X' needs"),
        ({"headers": {"Host": "a"}}, "header 'Host' is set by the HTTP client"),
        (
            {"headers": {"Authorization": "Bearer a"}},
            "header 'Authorization' must be the name of an environment variable, {env: NAME}",
        ),
        ({"timeout": 0}, "timeout must be a number above 0"),
        ({"timeout": "5"}, "timeout must be a number above 0"),
        ({"max_output_bytes": True}, "max_output_bytes must be a number above 0"),
        ({"stall_seconds": -1}, "stall_seconds must be a number above 0"),
        (
            {"upload_subfolder": "../x"},
            "upload_subfolder must be a folder's name, or empty for the input folder itself",
        ),
        ({"upload_subfolder": None}, "upload_subfolder must be a folder's name, or empty for the input folder itself"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_and_no_secret_is_repeated(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(AdapterConfigError) as refused:
        configured({"BAD": "hu\nsh", "EMPTY": " "}, **config)
    assert str(refused.value) == f"Provider 'comfy': {reason}."


@pytest.mark.parametrize("url", ["", "10.0.0.7:8188", "ftp://comfy", "http://", "http://host:port"])
def test_an_endpoint_needs_an_http_url(url: str) -> None:
    with pytest.raises(AdapterConfigError):
        ComfyAdapter(ProviderConfig("comfy", 60)).connect(EndpointConfig("endpoint-1", url))


# --- Words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Value 99999 bigger than max of 16384", "Value 99999 bigger than max of 16384"),
        ("shape [1, 3, 4, 4], 1/2 and float16/bfloat16", "shape [1, 3, 4, 4], 1/2 and float16/bfloat16"),
        ("no model models/checkpoints/a.safetensors", "no model models/checkpoints/a.safetensors"),
        ("at '/srv/my comfy/input/a b.png'", "at [path]"),
        ('at "C:\\Program Files\\ComfyUI\\x.png"', "at [path]"),
        ("at /srv/comfyui/nodes.py:12 in f", "at [path]:12 in f"),
        ("at /tmp", "at [path]"),
        ("at ~/comfy/x and (/etc/passwd)", "at [path] and ([path])"),
        ("at C:\\ComfyUI\\nodes.py, D:/comfy/x or \\\\nas\\share", "at [path], [path] or [path]"),
        ("in custom_nodes/pack/node.py", "in [path]"),
        ("asked http://10.0.0.7:8188/view?x=1 in vain", "asked [address] in vain"),
        ("asked 10.0.0.7:8188, gpu-1.internal:8188", "asked [address], [address]"),
        ("asked localhost:8188, [fe80::1]:8188", "asked [address], [address]"),
        ("<Foo object at 0x7f3a2b1c>", "<Foo object at [address]>"),
        ('No.\n  File "/srv/a.py", line 3, in f\n', "No."),
        ("No.\nTraceback (most recent call last):\n  whatever", "No."),
        ("a\n b\t c ", "a b c"),
        ("a\x00b\ud800c", "a b?c"),
        (None, "None"),
        ("x" * 501, "x" * 499 + "…"),
    ],
)
def test_words_lose_paths_addresses_and_tracebacks(text: object, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize("text", ["a." * 500_000, "\\" * 500_000, "/a" * 500_000, "1." * 500_000])
def test_long_words_are_cut_before_they_are_searched(text: str) -> None:
    assert len(clean(text)) <= 500


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "The provider refused the graph and gave no reason."),
        ({}, "The provider refused the graph: no reason given."),
        ({"error": {}, "node_errors": []}, "The provider refused the graph: Invalid graph."),
        (
            {"error": "odd", "node_errors": {"1": "odd", "2": {"errors": "odd"}}},
            "The provider refused the graph: no reason given.",
        ),
        (
            {"node_errors": {"1": {"class_type": "A", "errors": [{"message": f"M{n}"} for n in range(7)]}}},
            "The provider refused the graph: node 1 (A): M0; node 1 (A): M1; node 1 (A): M2; node 1 (A): M3; "
            "node 1 (A): M4; and 2 more.",
        ),
    ],
)
def test_a_refusal_is_told_in_one_message(body: Any, message: str) -> None:
    assert describe_refusal(body) == message


# --- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("0", 0.0), ("", None), ("soon", None), ("-1", None)])
def test_retry_after_is_in_seconds(text: str, seconds: float | None) -> None:
    assert retry_after_of(httpx.Headers({"Retry-After": text})) == seconds


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    earlier = format_datetime(datetime.now(UTC) - timedelta(seconds=100), usegmt=True)
    seconds = retry_after_of(httpx.Headers({"Retry-After": later}))
    assert seconds is not None
    assert 90 < seconds <= 100
    assert retry_after_of(httpx.Headers({"Retry-After": earlier})) == 0.0
