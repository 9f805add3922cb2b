"""Secrets and the two signatures of a callback (contract.md section 7). Pure: texts and bytes in, texts out.

`Runflow-Signature` is the public Runflow API's. The three `webhook-…` headers are those of the Standard Webhooks
specification, whose timestamp lets a receiver refuse a replayed request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

SECRET_PREFIX = "whsec_"  # noqa: S105 no secret, only how one begins
# contract.md section 7; Standard Webhooks asks for 24 to 64.
_SECRET_BYTES = 32
# Seconds. Older or newer timestamps are taken for a replay; five minutes is what the Standard Webhooks libraries allow.
TOLERANCE = 300


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The active secrets of one organisation as plain texts: the current one, and all of them with it first."""

    current_id: UUID | None = None
    current: str | None = None
    active: tuple[str, ...] = ()


def new_secret() -> str:
    """`whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def runflow_signature(*, secret: str, body: bytes) -> str:
    """64 lower-case hex characters. The key is the whole text of the secret, `whsec_` included."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def webhook_signature(*, secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and base64 over `id.timestamp.body`. The key is the 32 bytes that the secret spells."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def callback_headers(
    *, keys: SigningKeys, message_id: str, timestamp: int, body: bytes, request_id: str
) -> dict[str, str]:
    """The headers of one attempt. Without a secret nothing is signed; id and timestamp are sent all the same.

    `message_id` is the delivery's id, the same at each attempt: a receiver knows by it what it has seen already.
    """
    headers = {
        "Content-Type": "application/json",
        "Runflow-Request-Id": request_id,
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
    }
    if keys.active:
        marks = [
            webhook_signature(secret=secret, message_id=message_id, timestamp=timestamp, body=body)
            for secret in keys.active
        ]
        headers["webhook-signature"] = " ".join(marks)
    if keys.current is not None:
        headers["Runflow-Signature"] = runflow_signature(secret=keys.current, body=body)
    return headers


def is_genuine(*, secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """What a receiver asks: both signatures are by this secret, and the callback is not an old one sent again.

    `headers` with lower-case names. `now` in seconds since 1970.
    """
    timestamp = headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and abs(now - int(timestamp)) <= TOLERANCE):
        return False
    ours = webhook_signature(
        secret=secret, message_id=headers.get("webhook-id", ""), timestamp=int(timestamp), body=body
    )
    signed = any(
        hmac.compare_digest(ours.encode(), mark.encode()) for mark in headers.get("webhook-signature", "").split(" ")
    )
    plain = runflow_signature(secret=secret, body=body).encode()
    return signed and hmac.compare_digest(plain, headers.get("runflow-signature", "").encode())
