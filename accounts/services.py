"""Verbs on organisations and API keys."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from accounts.models import ApiKey, Organization, Scope
from runflow.lib.token_bucket import Limit

KEY_PREFIX = "rf_live_"
# 43 characters of 62 are a little more than 256 bits. Real clients refuse characters beyond letters, digits, underscore.
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SECRET_LENGTH = 43
# Enough to know when a key was last seen, without a write per request.
_LAST_USED_RESOLUTION = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from: one API key and the organisation it belongs to."""

    api_key: ApiKey
    organization: Organization

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset(self.api_key.scopes)

    # DRF and Django ask a user these.
    is_authenticated = True
    is_active = True

    @property
    def pk(self) -> object:
        return self.api_key.pk


def hash_key(key: str) -> str:
    """SHA-256, hex. A key is 256 random bits, so there is nothing for a slow hash to protect."""
    return hashlib.sha256(key.encode()).hexdigest()


def create_api_key(
    *,
    organization: Organization,
    name: str,
    scopes: Sequence[str] = tuple(Scope.values),
    expires_in: timedelta | None = None,
) -> tuple[ApiKey, str]:
    """Make a key. Returns the row and the key itself, which is kept nowhere: show it now or never.

    Raises ValueError for a scope that does not exist.
    """
    unknown = sorted(set(scopes) - set(Scope.values))
    if unknown:
        raise ValueError(f"unknown scope: {', '.join(unknown)}")
    key = KEY_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    row = ApiKey.objects.create(
        organization=organization,
        name=name,
        prefix=key[: len(KEY_PREFIX) + 4],
        secret_hash=hash_key(key),
        scopes=list(dict.fromkeys(scopes)),
        expires_at=timezone.now() + expires_in if expires_in is not None else None,
    )
    return row, key


def revoke_api_keys(*, ids: Sequence[UUID]) -> int:
    """Revoke keys for good. Returns how many were not revoked before."""
    return ApiKey.objects.filter(pk__in=ids, revoked_at__isnull=True).update(revoked_at=timezone.now())


def rate_limit_of(organization: Organization) -> Limit | None:
    """How many requests it may send: its own numbers, else those of the settings. None: as many as it likes."""
    own, own_burst = organization.rate_limit, organization.rate_limit_burst
    per_minute = settings.RATE_LIMIT_PER_MINUTE if own is None else own
    if not per_minute:
        return None
    return Limit(per_minute, own_burst or settings.RATE_LIMIT_BURST or per_minute)


def find_caller(*, key: str) -> Caller | None:
    """The caller behind a key, in one statement; None if it is unknown, expired or revoked."""
    row = (
        ApiKey.objects.select_related("organization")
        .filter(Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now()))
        .filter(secret_hash=hash_key(key), revoked_at__isnull=True)
        .first()
    )
    if row is None:
        return None
    now = timezone.now()
    if row.last_used_at is None or now - row.last_used_at >= _LAST_USED_RESOLUTION:
        ApiKey.objects.filter(pk=row.pk).update(last_used_at=now)
    return Caller(api_key=row, organization=row.organization)
