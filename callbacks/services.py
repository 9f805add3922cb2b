"""Verbs on callback secrets (contract.md section 7). Deliveries are `lifecycle`'s."""

from __future__ import annotations

import logging
from collections.abc import Collection
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.models import Organization
from callbacks.models import CallbackSecret
from callbacks.signing import SECRET_PREFIX, SigningKeys, new_secret
from runflow.lib import encryption, errors
from runflow.lib.encryption import CannotDecrypt
from runflow.lib.faults import body_fault

logger = logging.getLogger(__name__)

# Each adds 48 characters to a header of every callback, and receivers refuse long headers (8 KiB is usual). Changing a secret
# takes two; the rest is room for one per receiver.
MAX_ACTIVE_SECRETS = 10
_ROTATION_SLICE = 500


class CallbackSecretNotFound(errors.NotFound):
    message = "There is no such callback secret."


def secrets_of(*, organization: Organization) -> QuerySet[CallbackSecret]:
    """An organisation's secrets, disabled ones too, without their tokens."""
    return CallbackSecret.objects.filter(organization=organization).defer("encrypted")


def find_secret(*, secret_id: UUID, organization: Organization) -> CallbackSecret:
    """Raises CallbackSecretNotFound."""
    secret = secrets_of(organization=organization).filter(pk=secret_id).first()
    if secret is None:
        raise CallbackSecretNotFound
    return secret


def check_room(*, organization: Organization) -> int:
    """How many active secrets there are. Raises ValidationFailed (too_many) when there may be no further one."""
    active = _active(organization).count()
    if active >= MAX_ACTIVE_SECRETS:
        msg = f"There are {MAX_ACTIVE_SECRETS} active secrets already: delete one first."
        raise errors.ValidationFailed(errors=[body_fault("too_many", msg)])
    return active


def create_secret(*, organization: Organization, label: str) -> tuple[CallbackSecret, str]:
    """Make a secret. Returns the row and the secret itself, which nobody is shown again.

    The first active one of an organisation becomes the current one. A later one does not, so that it can be given to the
    receivers first. Raises ValidationFailed (too_many) beyond MAX_ACTIVE_SECRETS.
    """
    secret = new_secret()
    with transaction.atomic():
        _take_turns(organization)
        active = check_room(organization=organization)
        row = CallbackSecret.objects.create(
            organization=organization,
            label=label,
            key_prefix=secret[: len(SECRET_PREFIX) + 4],
            encrypted=encryption.encrypt(secret),
            is_current=active == 0,
        )
    return row, secret


def update_secret(
    *, secret_id: UUID, organization: Organization, label: str | None = None, is_current: bool | None = None
) -> CallbackSecret:
    """Change what is not None. Making a secret the current one takes the mark from the one that had it.

    Raises CallbackSecretNotFound; ValidationFailed (not_allowed) for a disabled secret that shall become current, and for
    taking the mark from the current one without giving it to another: callbacks would stop being signed.
    """
    with transaction.atomic():
        _take_turns(organization)
        secret = find_secret(secret_id=secret_id, organization=organization)
        changed = []
        if is_current is False and secret.is_current:
            raise _not_allowed("Make another secret current instead.")
        if is_current and secret.disabled_at is not None:
            raise _not_allowed("This secret is disabled.")
        if is_current and not secret.is_current:
            _active(organization).filter(is_current=True).update(is_current=False, updated_at=timezone.now())
            secret.is_current = True
            changed.append("is_current")
        if label is not None and label != secret.label:
            secret.label = label
            changed.append("label")
        if changed:
            secret.save(update_fields=[*changed, "updated_at"])
    return secret


def disable_secret(*, secret_id: UUID, organization: Organization) -> CallbackSecret:
    """Disable a secret for good and wipe it. Doing it again changes nothing. Raises CallbackSecretNotFound.

    The newest active one takes the place of a current one: signing does not stop while a secret is left.
    """
    with transaction.atomic():
        _take_turns(organization)
        secret = find_secret(secret_id=secret_id, organization=organization)
        if secret.disabled_at is not None:
            return secret
        was_current = secret.is_current
        secret.disabled_at, secret.encrypted, secret.is_current = timezone.now(), "", False
        secret.save(update_fields=["disabled_at", "encrypted", "is_current", "updated_at"])
        if was_current:
            heir = _active(organization).order_by("-pk").values("pk")[:1]
            CallbackSecret.objects.filter(pk__in=heir).update(is_current=True, updated_at=timezone.now())
    return secret


def signing_keys(*, organization_ids: Collection[UUID]) -> dict[UUID, SigningKeys | None]:
    """The keys of each of these organisations, in one statement.

    Empty SigningKeys: it has no secret. None: one of its secrets cannot be decrypted, which is logged; a callback without that
    signature would be refused by the receivers that know it.
    """
    rows = (
        CallbackSecret.objects.filter(organization_id__in=organization_ids, disabled_at__isnull=True)
        .order_by("-is_current", "-pk")
        .values_list("organization_id", "pk", "is_current", "encrypted")
    )
    found: dict[UUID, SigningKeys | None] = {each: SigningKeys() for each in organization_ids}
    for organization_id, pk, is_current, encrypted in rows:
        keys = found[organization_id]
        if keys is None:
            continue
        try:
            secret = encryption.decrypt(encrypted)
        except CannotDecrypt:
            logger.error("No key of ENCRYPTION_KEYS decrypts the callback secret %s: nothing is signed with it", pk)
            found[organization_id] = None
            continue
        found[organization_id] = SigningKeys(
            current_id=pk if is_current else keys.current_id,
            current=secret if is_current else keys.current,
            active=(*keys.active, secret),
        )
    return found


def count_encrypted() -> int:
    return CallbackSecret.objects.exclude(encrypted="").count()


def rotate_encryption() -> int:
    """Encrypt every secret anew with the first of ENCRYPTION_KEYS, a slice a transaction. Returns how many.

    Rows are locked while their slice is at work, so one that is disabled meanwhile stays wiped. Raises CannotDecrypt, which
    names the secret; the slices before its own are done.
    """
    total = 0
    last = UUID(int=0)
    while True:
        with transaction.atomic():
            rows = list(
                CallbackSecret.objects.filter(pk__gt=last)
                .exclude(encrypted="")
                .order_by("pk")
                .select_for_update(no_key=True)[:_ROTATION_SLICE]
            )
            for row in rows:
                try:
                    row.encrypted = encryption.reencrypt(row.encrypted)
                except CannotDecrypt:
                    raise CannotDecrypt(f"the callback secret {row.pk}") from None
            CallbackSecret.objects.bulk_update(rows, ["encrypted"])
        total += len(rows)
        if len(rows) < _ROTATION_SLICE:
            return total
        last = rows[-1].pk


def _take_turns(organization: Organization) -> None:
    """One write at a time for an organisation's secrets: two first ones at once would both become the current one."""
    Organization.objects.select_for_update(no_key=True).only("pk").get(pk=organization.pk)


def _active(organization: Organization) -> QuerySet[CallbackSecret]:
    return secrets_of(organization=organization).filter(disabled_at__isnull=True)


def _not_allowed(msg: str) -> errors.ValidationFailed:
    return errors.ValidationFailed(errors=[body_fault("not_allowed", msg, "is_current")])
