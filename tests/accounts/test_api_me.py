"""Whose key is this?"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.services import revoke_api_keys
from tests.conftest import Api
from tests.contract.checks import assert_error, assert_matches, json_of
from tests.factories import make_organization

pytestmark = pytest.mark.django_db


def test_a_key_learns_its_name_its_scopes_and_its_organization() -> None:
    api = Api(make_organization(name="Acme", slug="acme"), name="nightly", scopes=["runs:read", "models:read"])
    response = api.get("/v1/auth/me")
    assert response.status_code == 200
    body = json_of(response)
    assert_matches("AuthMe", body)
    key = api.caller.api_key
    scopes = ["runs:read", "models:read"]
    assert body == {
        "id": str(key.pk),
        "email": "",
        "first_name": "nightly",
        "last_name": None,
        "avatar_url": None,
        "timezone": "UTC",
        "locale_code": None,
        "email_verified_at": None,
        "memberships": [
            {
                "org": {"id": str(api.organization.pk), "name": "Acme", "slug": "acme", "plan_code": None},
                "role_code": None,
                "scopes": scopes,
            }
        ],
        "api_key": {
            "id": str(key.pk),
            "name": "nightly",
            "key_prefix": key.prefix,
            "scopes": scopes,
            "expires_at": None,
            "created_at": key.created_at.isoformat(),
        },
    }
    assert api.key not in response.content.decode()
    assert key.secret_hash not in response.content.decode()


def test_a_key_without_scopes_may_ask_too() -> None:
    assert Api(scopes=[]).get("/v1/auth/me").json()["api_key"]["scopes"] == []


def test_without_a_valid_key_it_is_401() -> None:
    api, expired = Api(), Api(expires_in=timedelta(seconds=-1))
    assert_error(Client().get("/v1/auth/me"), 401, "UNAUTHORIZED")
    assert_error(expired.get("/v1/auth/me"), 401, "UNAUTHORIZED")
    revoke_api_keys(ids=[api.caller.api_key.pk])
    assert_error(api.get("/v1/auth/me"), 401, "UNAUTHORIZED")


def test_another_organization_is_refused_and_another_method_too() -> None:
    api = Api()
    response = api.client.get("/v1/auth/me", headers=api.headers(**{"X-Organization-Id": str(uuid.uuid4())}))
    assert_error(response, 403, "ORGANIZATION_MEMBERSHIP_REQUIRED")
    assert_error(api.post("/v1/auth/me", {}), 405, "METHOD_NOT_ALLOWED")
    assert_error(Client().post("/v1/auth/me"), 405, "METHOD_NOT_ALLOWED")


def test_it_costs_one_statement(count_queries: Callable[..., Any]) -> None:
    api = Api()
    api.get("/v1/auth/me")  # writes last_used_at
    with count_queries() as log:
        assert api.get("/v1/auth/me").status_code == 200
    assert len(log) == 1
