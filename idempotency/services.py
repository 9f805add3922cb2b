"""Keys, fingerprints, and the record that makes a request happen once (contract.md section 3.2, architecture.md section 6)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from idempotency.models import IdempotencyRecord
from runflow.lib import encryption, errors, jsonlib
from runflow.lib.ids import uuid7

# draft-ietf-httpapi-idempotency-key-header writes the key in quotes, most clients do not; the visible ASCII characters.
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_PURGE_SLICE = 1000


def parse_key(header: str) -> str:
    """The key in an Idempotency-Key header. Raises BadRequest unless it is 1-255 visible ASCII characters."""
    key = header[1:-1] if len(header) >= 2 and header[0] == header[-1] == '"' else header
    if not _KEY.fullmatch(key):
        raise errors.BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def fingerprint(*, method: str, path: str, body: bytes) -> str:
    """What "the same request" means: method, path, and the body, JSON compared by value.

    Member order, spacing and escapes do not count; a body that is not JSON is compared byte for byte.
    """
    try:
        canonical = json.dumps(jsonlib.loads(body), sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        canonical = body
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), canonical):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def find_record(*, organization_id: UUID, key: str) -> IdempotencyRecord | None:
    """The record of an answered request, unless its time is over."""
    return IdempotencyRecord.objects.filter(
        organization_id=organization_id, key=key, expires_at__gt=timezone.now()
    ).first()


_RESERVE = """
INSERT INTO idempotency_idempotencyrecord AS mine
    (id, organization_id, key, fingerprint, response_status, response_headers, response_body, is_encrypted,
     created_at, expires_at)
VALUES (%(id)s, %(organization_id)s, %(key)s, %(fingerprint)s, NULL, '{}', '', false, %(now)s, %(expires_at)s)
ON CONFLICT (organization_id, key) DO UPDATE SET
    id = EXCLUDED.id, fingerprint = EXCLUDED.fingerprint, response_status = NULL, response_headers = '{}',
    response_body = '', is_encrypted = false, created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
    WHERE mine.expires_at <= EXCLUDED.created_at
RETURNING id
"""


def reserve(*, organization_id: UUID, key: str, fingerprint: str, retention: timedelta, wait: timedelta) -> UUID | None:
    """Take the key for the transaction that is open, and return the id of its record.

    None: it is taken, by a request that has committed its answer meanwhile. While a twin's transaction is open this waits, at
    most `wait`, and then raises django.db.OperationalError (lock_not_available), which ends the transaction. `wait` bounds
    every other lock that the transaction waits for as well: a request with a key never hangs on one.
    """
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{int(wait.total_seconds() * 1000)}ms"])
        cursor.execute(
            _RESERVE,
            {
                "id": uuid7(),
                "organization_id": organization_id,
                "key": key,
                "fingerprint": fingerprint,
                "now": now,
                "expires_at": now + retention,
            },
        )
        row = cursor.fetchone()
    return row[0] if row else None


def keep(*, record_id: UUID, status: int, headers: Mapping[str, str], body: bytes, is_secret: bool = False) -> None:
    """Store the answer beside the work it tells of; both commit or neither. One that `is_secret` is stored encrypted."""
    IdempotencyRecord.objects.filter(pk=record_id).update(
        response_status=status,
        response_headers=dict(headers),
        response_body=encryption.encrypt_bytes(body) if is_secret else body,
        is_encrypted=is_secret,
    )


def kept_body(record: IdempotencyRecord) -> bytes:
    """The body as it was answered. Raises CannotDecrypt when the key that encrypted it is gone."""
    body = bytes(record.response_body)
    return encryption.decrypt_bytes(body) if record.is_encrypted else body


def count_expired() -> int:
    return IdempotencyRecord.objects.filter(expires_at__lte=timezone.now()).count()


def purge_expired() -> int:
    """Delete the records whose time is over, a slice a transaction. Returns how many."""
    total = 0
    while True:
        with transaction.atomic():
            ids = list(
                IdempotencyRecord.objects.filter(expires_at__lte=timezone.now())
                .order_by("pk")
                .select_for_update(skip_locked=True)
                .values_list("pk", flat=True)[:_PURGE_SLICE]
            )
            deleted, _ = IdempotencyRecord.objects.filter(pk__in=ids).delete()
        total += deleted
        if len(ids) < _PURGE_SLICE:
            return total
