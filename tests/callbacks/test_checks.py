"""Settings under which callbacks could not arrive are named when the server starts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.checks import Error, run_checks

from callbacks.checks import MAKE_A_KEY
from runflow.lib.encryption import decrypt, encrypt

KEY = "dGVzdHMtb25seS10ZXN0cy1vbmx5LXRlc3RzLW9ubHk="


def found() -> list[tuple[str | None, object]]:
    """(id, message) of what the checks of this app say."""
    messages = run_checks()
    return [(each.id, each.msg) for each in messages if each.id is not None and each.id.startswith("callbacks.")]


def test_the_defaults_are_fine() -> None:
    assert found() == []


def test_no_key_at_all_is_named_with_a_way_to_make_one(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = []
    message = Error("ENCRYPTION_KEYS is empty.", hint=MAKE_A_KEY, id="callbacks.E001")
    assert [each for each in run_checks() if each.id == "callbacks.E001"] == [message]


@pytest.mark.parametrize("wrong", ["", "x", KEY[:-4], KEY[:-1], f"{KEY};{KEY}", f" {KEY}", "ü" * 44, "secret" * 7])
def test_a_key_that_is_none_is_named_by_its_place_and_never_printed(settings: Any, wrong: str) -> None:
    settings.ENCRYPTION_KEYS = [KEY, wrong]
    [message] = [each for each in run_checks() if each.id == "callbacks.E001"]
    assert message == Error(
        "Key number 2 of ENCRYPTION_KEYS is not 32 bytes in base64.", hint=MAKE_A_KEY, id="callbacks.E001"
    )


@pytest.mark.parametrize(
    "key",
    [
        "+/" * 21 + "8=",
        "-_" * 21 + "8=",
    ],
)
def test_keys_are_taken_in_both_alphabets(settings: Any, key: str) -> None:
    settings.ENCRYPTION_KEYS = [key, KEY]
    assert found() == []
    assert decrypt(encrypt("secret")) == "secret"


@pytest.mark.parametrize(
    ("lease", "timeout", "is_long_enough"), [(60, 15, True), (30, 15, True), (29.9, 15, False), (15, 15, False)]
)
def test_a_lease_is_at_least_twice_the_timeout(
    settings: Any, lease: float, timeout: float, is_long_enough: bool
) -> None:
    settings.CALLBACK_LEASE, settings.CALLBACK_TIMEOUT = timedelta(seconds=lease), timedelta(seconds=timeout)
    assert [check_id for check_id, _ in found()] == ([] if is_long_enough else ["callbacks.E002"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CALLBACK_HOST_CONCURRENCY", 0, "CALLBACK_HOST_CONCURRENCY is below 1."),
        ("CALLBACK_CONCURRENCY", -1, "CALLBACK_CONCURRENCY is below 1."),
        ("CALLBACK_TIMEOUT", timedelta(0), "CALLBACK_TIMEOUT_SECONDS is not above 0."),
        ("CALLBACK_RETRY_DELAYS", (5, -1), "CALLBACK_RETRY_DELAYS_SECONDS has a delay that is below 0, or none."),
        (
            "CALLBACK_RETRY_DELAYS",
            (float("nan"),),
            "CALLBACK_RETRY_DELAYS_SECONDS has a delay that is below 0, or none.",
        ),
        (
            "CALLBACK_RETRY_DELAYS",
            (float("inf"),),
            "CALLBACK_RETRY_DELAYS_SECONDS has a delay that is below 0, or none.",
        ),
    ],
)
def test_a_number_that_lets_nothing_be_sent_is_named(settings: Any, name: str, value: object, message: str) -> None:
    setattr(settings, name, value)
    assert found() == [("callbacks.E003", message)]


@pytest.mark.parametrize(
    ("name", "value"), [("CALLBACK_HOST_CONCURRENCY", 1), ("CALLBACK_CONCURRENCY", 1), ("CALLBACK_RETRY_DELAYS", ())]
)
def test_the_smallest_that_works_is_fine(settings: Any, name: str, value: object) -> None:
    setattr(settings, name, value)
    assert found() == []
