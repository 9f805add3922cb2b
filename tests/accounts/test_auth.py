"""Who calls: keys, the organisation header, and what of a key is kept (contract.md section 1)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.models import ApiKey, Scope
from accounts.services import create_api_key, find_caller, hash_key, revoke_api_keys
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error, assert_nothing_happened
from tests.factories import make_batch, make_key, make_model, make_organization

pytestmark = pytest.mark.django_db
CountQueries = Callable[[], Any]
NO_KEY = "A valid API key is required: Authorization: Bearer rf_live_…"
BAD_KEY = "This API key is unknown, expired or revoked."


@pytest.fixture
def path(api: Api) -> str:
    """Something of the customer's that a good key may read."""
    batch, _ = make_batch(organization=api.organization)
    return f"/v1/batches/{batch.pk}"


def get(path: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Client(raise_request_exception=False).get(path, headers=named)


def assert_401(response: Any, message: str) -> None:
    assert assert_error(response, 401, "UNAUTHORIZED") is None
    assert response.json()["message"] == message
    assert response.headers["WWW-Authenticate"] == "Bearer"


# --- The key ----------------------------------------------------------------------------------------------------------


def test_no_key_is_401(path: str) -> None:
    assert_401(get(path), NO_KEY)


@pytest.mark.parametrize(
    "header", ["Basic {}", "Token {}", "{}", "Bearer", "Bearer ", "Bearer    ", "", "Bearer{}", "bearer:{}"]
)
def test_another_scheme_or_no_credentials_is_401(api: Api, path: str, header: str) -> None:
    assert_401(get(path, Authorization=header.format(api.key)), NO_KEY)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: key.lower(),
        lambda key: key.upper(),
        lambda key: hash_key(key),
        lambda key: key.removeprefix("rf_live_"),
        lambda key: f'"{key}"',
        lambda key: f"{key} {key}",
        lambda key: key + "\0",
        lambda key: "Größe",
        lambda key: "x" * 7000,
    ],
)
def test_an_unknown_key_is_401(api: Api, path: str, change: Callable[[str], str]) -> None:
    assert_401(get(path, Authorization=f"Bearer {change(api.key)}"), BAD_KEY)


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}  "])
def test_scheme_is_written_in_any_case(api: Api, path: str, header: str) -> None:
    assert get(path, Authorization=header.format(api.key)).status_code == 200


def test_a_revoked_key_is_401_for_good(api: Api, path: str) -> None:
    assert revoke_api_keys(ids=[api.caller.api_key.pk]) == 1
    first = ApiKey.objects.get().revoked_at
    assert_401(api.get(path), BAD_KEY)
    assert revoke_api_keys(ids=[api.caller.api_key.pk]) == 0
    assert ApiKey.objects.get().revoked_at == first


def test_revoking_one_key_leaves_the_others(api: Api, path: str) -> None:
    colleague = Api(api.organization)
    revoke_api_keys(ids=[api.caller.api_key.pk])
    assert (api.get(path).status_code, colleague.get(path).status_code) == (401, 200)


def test_a_key_lives_until_it_expires(api: Api, path: str) -> None:
    def expires(seconds: float) -> Any:
        ApiKey.objects.update(expires_at=timezone.now() + timedelta(seconds=seconds))
        return api.get(path)

    assert expires(60).status_code == 200
    assert_401(expires(0), BAD_KEY)
    assert_401(expires(-1), BAD_KEY)


def test_a_bad_key_creates_nothing(api: Api, rung: Rung) -> None:
    model = make_model()
    revoke_api_keys(ids=[api.caller.api_key.pk])
    assert_401(api.post(f"/v1/models/{model}/batches", {"input": [{}]}, Idempotency_Key="k"), BAD_KEY)
    assert_nothing_happened(rung)


def test_health_wants_no_key() -> None:
    assert get("/v1/health").json() == {"status": "ok"}


# --- X-Organization-Id ------------------------------------------------------------------------------------------------


def test_own_organization_may_be_named_in_any_spelling_of_a_uuid(api: Api, path: str) -> None:
    own = str(api.organization.pk)
    for spelling in (own, own.upper(), own.replace("-", "")):
        assert api.get(path, **{"X-Organization-Id": spelling}).status_code == 200


def test_another_organization_is_403_whether_it_exists_or_not(api: Api, path: str) -> None:
    answers = [
        api.get(path, **{"X-Organization-Id": str(named)})
        for named in (make_organization().pk, uuid.uuid4(), uuid.UUID(int=0))
    ]
    for answer in answers:
        assert assert_error(answer, 403, "ORGANIZATION_MEMBERSHIP_REQUIRED") is None
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("named", ["", " ", "x", "shop-1", "1", "null", "0" * 33, "Größe", "\0", "x" * 5000])
def test_what_is_no_uuid_is_400(api: Api, path: str, named: str) -> None:
    response = api.get(path, **{"X-Organization-Id": named})
    assert assert_error(response, 400, "BAD_REQUEST") is None
    assert response.json()["message"] == "X-Organization-Id is not a UUID."


def test_a_bad_key_is_told_before_a_bad_organization(path: str) -> None:
    assert_401(get(path, Authorization="Bearer x", X_Organization_Id="y"), BAD_KEY)
    assert_401(get(path, X_Organization_Id="y"), NO_KEY)


def test_the_wrong_organization_creates_nothing(api: Api, rung: Rung) -> None:
    model, other = make_model(), make_organization()
    for named in (str(other.pk), "x"):
        response = api.post(f"/v1/models/{model}/batches", {"input": [{}]}, X_Organization_Id=named)
        assert response.status_code in (400, 403)
    assert_nothing_happened(rung)


# --- last_used_at -----------------------------------------------------------------------------------------------------


def test_first_use_is_noted_and_the_next_within_a_minute_is_not(
    api: Api, path: str, count_queries: CountQueries
) -> None:
    assert ApiKey.objects.get().last_used_at is None
    before = timezone.now()
    api.get(path)
    noted = ApiKey.objects.get().last_used_at
    assert noted is not None
    assert before <= noted <= timezone.now()
    with count_queries() as log:
        api.get(path)
    assert [query["sql"] for query in log.captured_queries if not query["sql"].startswith("SELECT")] == []
    assert ApiKey.objects.get().last_used_at == noted


@pytest.mark.parametrize(("age", "is_written"), [(0, False), (59, False), (60, True), (3600, True)])
def test_last_used_is_written_at_most_once_a_minute(api: Api, path: str, age: int, is_written: bool) -> None:
    then = timezone.now() - timedelta(seconds=age)
    ApiKey.objects.update(last_used_at=then)
    api.get(path)
    assert (ApiKey.objects.get().last_used_at != then) == is_written


def test_a_refused_key_is_not_noted(api: Api, path: str) -> None:
    revoke_api_keys(ids=[api.caller.api_key.pk])
    api.get(path)
    assert ApiKey.objects.get().last_used_at is None


# --- Making keys ------------------------------------------------------------------------------------------------------


def test_keys_are_letters_digits_and_underscores_and_never_the_same() -> None:
    organization = make_organization()
    keys = [create_api_key(organization=organization, name="k")[1] for _ in range(50)]
    assert [key for key in keys if not re.fullmatch(r"rf_live_[A-Za-z0-9]{43}", key)] == []
    assert len(set(keys)) == 50
    # All 62 characters are in use: 2150 draws miss one of them with a chance below 1e-13.
    assert len(set("".join(key.removeprefix("rf_live_") for key in keys))) == 62


def test_only_a_hash_of_a_key_is_kept() -> None:
    _, key = make_key()
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(kept)::text FROM accounts_apikey AS kept")
        ((row,),) = cursor.fetchall()
    assert hash_key(key) in row
    # The prefix recognises a key; what follows it is nowhere.
    secret = key.removeprefix("rf_live_")
    assert f'"{key[:12]}"' in row
    assert [part for part in (secret[start : start + 5] for start in range(39)) if part in row] == []


def test_a_key_has_all_scopes_unless_told_and_each_once() -> None:
    organization = make_organization()
    whole, _ = create_api_key(organization=organization, name="k")
    some, _ = create_api_key(organization=organization, name="k", scopes=["runs:read", "runs:read", "models:read"])
    assert (whole.scopes, some.scopes) == (list(Scope.values), ["runs:read", "models:read"])
    assert (whole.expires_at, whole.revoked_at, whole.last_used_at) == (None, None, None)


def test_unknown_scopes_make_no_key() -> None:
    with pytest.raises(ValueError, match="unknown scope: batches:write, x"):
        create_api_key(organization=make_organization(), name="k", scopes=["x", "runs:read", "batches:write"])
    assert ApiKey.objects.count() == 0


def test_scopes_are_those_of_the_contract() -> None:
    assert set(Scope.values) == {
        "models:read",
        "batches:create",
        "batches:read",
        "runs:create",
        "runs:read",
        "runs:execute",
        "callback_secrets:read",
        "callback_secrets:create",
        "callback_secrets:edit",
        "callback_secrets:delete",
        "assets:create",
        "assets:read",
    }


def test_finding_a_caller_is_one_statement(count_queries: CountQueries) -> None:
    caller, key = make_key()
    find_caller(key=key)
    with count_queries() as log:
        found = find_caller(key=key)
        assert found is not None
        assert (found.organization, found.api_key) == (caller.organization, caller.api_key)
    assert len(log.captured_queries) == 1, [query["sql"] for query in log.captured_queries]
