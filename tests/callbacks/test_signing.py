"""The two signatures: against fixed vectors, and against the package that receivers use."""

from __future__ import annotations

import base64
import re
import time
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from callbacks.signing import SigningKeys, callback_headers, new_secret, runflow_signature, webhook_signature

# The bytes 0 to 31, and 32 to 63.
SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OTHER = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
SECRET_ID = UUID("01a20c33-30d3-737b-a193-fcc95c0215a8")
BODY = '{"event":"batch.succeeded","metadata":{"caf\u00e9":"\u2603"}}'.encode()

# By openssl: `dgst -sha256 -hmac $SECRET` over the body; `dgst -sha256 -mac HMAC -macopt hexkey:…` over m-1.1795504642.BODY.
RUNFLOW = "9dc7539e61ff58852f28aa62f8c6114a9112716a91321f6c5fa7ccdb281f1f49"
WEBHOOK = "v1,C2lsr0/low94c5eljil9EXFpsyffAl7A8Q6W6YyAoHg="
WEBHOOK_BY_OTHER = "v1,93MSmrWt2CV6zavacNN54ciC0YXKRIJlrCEFhaBKJoY="


def headers_with(*secrets: str, timestamp: int | None = None, **changed: str) -> dict[str, str]:
    """What is sent now, the first secret being the current one."""
    keys = SigningKeys(current_id=SECRET_ID, current=secrets[0], active=secrets)
    sent_at = int(time.time()) if timestamp is None else timestamp
    headers = callback_headers(keys=keys, message_id="m-1", timestamp=sent_at, body=BODY, request_id="r-1")
    return headers | {name.replace("_", "-"): value for name, value in changed.items()}


# --- Fixed vectors -----------------------------------------------------------------------------------------------------


def test_the_runflow_signature_is_keyed_with_the_whole_text_of_the_secret() -> None:
    assert runflow_signature(secret=SECRET, body=BODY) == RUNFLOW


def test_the_webhook_signature_is_keyed_with_the_bytes_that_the_secret_spells() -> None:
    signature = webhook_signature(secret=SECRET, message_id="m-1", timestamp=1795504642, body=BODY)
    assert signature == WEBHOOK


# --- All headers -------------------------------------------------------------------------------------------------------


def test_the_headers_of_a_callback_with_two_active_secrets() -> None:
    keys = SigningKeys(current_id=SECRET_ID, current=SECRET, active=(SECRET, OTHER))
    assert callback_headers(keys=keys, message_id="m-1", timestamp=1795504642, body=BODY, request_id="r-1") == {
        "Content-Type": "application/json",
        "Runflow-Request-Id": "r-1",
        "webhook-id": "m-1",
        "webhook-timestamp": "1795504642",
        "webhook-signature": f"{WEBHOOK} {WEBHOOK_BY_OTHER}",
        "Runflow-Signature": RUNFLOW,
    }


def test_without_a_secret_nothing_is_signed() -> None:
    headers = callback_headers(keys=SigningKeys(), message_id="m-1", timestamp=1795504642, body=BODY, request_id="r-1")
    assert headers == {
        "Content-Type": "application/json",
        "Runflow-Request-Id": "r-1",
        "webhook-id": "m-1",
        "webhook-timestamp": "1795504642",
    }


def test_without_a_current_secret_the_active_ones_still_sign() -> None:
    keys = SigningKeys(active=(OTHER,))
    headers = callback_headers(keys=keys, message_id="m-1", timestamp=1795504642, body=BODY, request_id="r-1")
    assert headers["webhook-signature"] == WEBHOOK_BY_OTHER
    assert "Runflow-Signature" not in headers


# --- The package that receivers use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secrets", "known"),
    [((SECRET,), SECRET), ((SECRET, OTHER), SECRET), ((SECRET, OTHER), OTHER), ((OTHER, SECRET), SECRET)],
    ids=["one", "the current of two", "the other of two", "the old of two"],
)
def test_whoever_knows_an_active_secret_verifies_a_callback(secrets: tuple[str, ...], known: str) -> None:
    body = Webhook(known).verify(BODY, headers_with(*secrets))
    assert body == {"event": "batch.succeeded", "metadata": {"caf\u00e9": "\u2603"}}


@pytest.mark.parametrize(
    ("secret", "changed", "body"),
    [
        (OTHER, {}, BODY),
        (SECRET, {}, BODY.replace(b"succeeded", b"succeedec")),
        (SECRET, {}, BODY + b" "),
        (SECRET, {"webhook_id": "m-2"}, BODY),
        (SECRET, {"webhook_timestamp": str(int(time.time()) - 1)}, BODY),
        (SECRET, {"webhook_signature": "v1,"}, BODY),
        (SECRET, {"webhook_signature": "v1," + base64.b64encode(bytes(32)).decode()}, BODY),
        (SECRET, headers_with(SECRET, timestamp=int(time.time()) - 400), BODY),
        (SECRET, headers_with(SECRET, timestamp=int(time.time()) + 7200), BODY),
    ],
    ids=["secret", "byte", "more bytes", "id", "timestamp", "no signature", "zeros", "old", "from the future"],
)
def test_what_was_changed_does_not_verify(secret: str, changed: dict[str, Any], body: bytes) -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers_with(SECRET, **changed))


def test_a_secret_that_is_no_longer_active_does_not_verify() -> None:
    Webhook(SECRET).verify(BODY, headers_with(OTHER, SECRET))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, headers_with(OTHER))


# --- Secrets -----------------------------------------------------------------------------------------------------------


def test_a_new_secret_is_whsec_and_32_random_bytes_in_base64() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
