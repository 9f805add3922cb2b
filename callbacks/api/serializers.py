"""Callback secrets and deliveries as contract.md section 7 has them: what may be sent, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from callbacks.models import CallbackAttempt, CallbackDelivery, CallbackSecret
from runflow.lib import errors, jsonlib
from runflow.lib.errors import ErrorItem
from runflow.lib.faults import NOT_STORABLE, body_fault, cap_errors, is_storable, unknown_members

MAX_LABEL = 255


@dataclass(frozen=True, slots=True)
class SecretChanges:
    """What a PATCH asks for. None: as it is."""

    label: str | None
    is_current: bool | None


def check_create(body: Mapping[str, Any]) -> str:
    """The label of the secret to be made. Raises ValidationFailed with all faults at once."""
    label = body.get("label")
    missing = [body_fault("missing", f"Give 1 to {MAX_LABEL} characters.", "label")] if label is None else []
    _refuse_if_any(unknown_members(body, known=("label",)), missing, _label_faults(label))
    return str(label)


def check_update(body: Mapping[str, Any]) -> SecretChanges:
    """Raises ValidationFailed with all faults at once."""
    label, is_current = body.get("label"), body.get("is_current")
    wrong = []
    if not isinstance(is_current, bool | None):
        wrong.append(body_fault("wrong_type", "Must be true, false or null.", "is_current"))
    _refuse_if_any(unknown_members(body, known=("label", "is_current")), _label_faults(label), wrong)
    return SecretChanges(label=label, is_current=is_current)


def secret_body(secret: CallbackSecret) -> dict[str, Any]:
    """CallbackSecret."""
    return {
        "id": secret.pk,
        "org_id": secret.organization_id,
        "key_prefix": secret.key_prefix,
        "is_current": secret.is_current,
        "label": secret.label,
        "disabled_at": secret.disabled_at,
        "last_used_at": secret.last_used_at,
        "created_at": secret.created_at,
        "updated_at": secret.updated_at,
    }


def secret_created_body(secret: CallbackSecret, plain_secret: str) -> dict[str, Any]:
    """CallbackSecretCreated: the only answer that holds the secret."""
    return {**secret_body(secret), "plain_secret": plain_secret}


def delivery_body(delivery: CallbackDelivery) -> dict[str, Any]:
    """BatchCallbackDelivery or RunCallbackDelivery, with its attempts in order."""
    return {
        "id": delivery.pk,
        f"{delivery.subject_type}_id": delivery.subject_id,
        "callback_url": delivery.callback_url,
        # The body as it is sent and signed, as text; and the same to read.
        "payload_bytes": bytes(delivery.payload).decode(),
        "payload": jsonlib.loads(bytes(delivery.payload)),
        "signing_secret_id": delivery.signing_secret_id,
        "is_automatic": delivery.is_automatic,
        "status_code": delivery.status_code,
        "failure_reason_code": delivery.failure_reason_code,
        "failure_detail": delivery.failure_detail,
        "attempt_count": delivery.attempt_count,
        "max_attempts": delivery.max_attempts,
        "next_attempt_at": delivery.next_attempt_at,
        "created_at": delivery.created_at,
        "updated_at": delivery.updated_at,
        "completed_at": delivery.completed_at,
        "attempts": [attempt_body(attempt) for attempt in delivery.attempts.all()],
    }


def attempt_body(attempt: CallbackAttempt) -> dict[str, Any]:
    """DeliveryAttempt."""
    return {
        "id": attempt.pk,
        "delivery_id": attempt.delivery_id,
        "attempt_number": attempt.attempt_number,
        "status_code": attempt.status_code,
        "response_body": attempt.response_body,
        "response_time_ms": attempt.response_time_ms,
        "error_message": attempt.error_message,
        "created_at": attempt.created_at,
    }


def _label_faults(label: Any) -> list[ErrorItem]:
    if label is None:
        return []
    if not isinstance(label, str):
        return [body_fault("wrong_type", "Must be a string.", "label")]
    faults = []
    if not label.strip():
        faults.append(body_fault("too_short", "Must not be blank.", "label"))
    if len(label) > MAX_LABEL:
        faults.append(body_fault("too_long", f"Must have at most {MAX_LABEL} characters.", "label"))
    if not is_storable(label):
        faults.append(body_fault("not_storable", NOT_STORABLE, "label"))
    return faults


def _refuse_if_any(*faults: list[ErrorItem]) -> None:
    if any(faults):
        raise errors.ValidationFailed(errors=cap_errors(*faults))
