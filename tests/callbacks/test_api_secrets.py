"""`/v1/callback-secrets`: what it answers, and what it refuses (contract.md section 7)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from accounts.models import Scope
from callbacks.models import CallbackSecret
from callbacks.services import create_secret, disable_secret, signing_keys
from idempotency.models import IdempotencyRecord
from runflow.lib.encryption import decrypt
from tests.conftest import Api
from tests.contract.checks import assert_error, assert_matches, faults_of, json_of

pytestmark = pytest.mark.django_db
PATH = "/v1/callback-secrets"


def send(api: Api, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """`body` as JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return api.client.generic(method, path, content, content_type="application/json", headers=api.headers(**headers))


def create(api: Api, label: str = "shop") -> dict[str, Any]:
    response = api.post(PATH, {"label": label})
    assert response.status_code == 201, response.content
    return dict(response.json())


def whole(secret: CallbackSecret) -> dict[str, Any]:
    def at(moment: Any) -> str | None:
        return None if moment is None else str(moment.isoformat())

    return {
        "id": str(secret.pk),
        "org_id": str(secret.organization_id),
        "key_prefix": secret.key_prefix,
        "is_current": secret.is_current,
        "label": secret.label,
        "disabled_at": at(secret.disabled_at),
        "last_used_at": at(secret.last_used_at),
        "created_at": at(secret.created_at),
        "updated_at": at(secret.updated_at),
    }


def rows() -> list[dict[str, Any]]:
    return [dict(row) for row in CallbackSecret.objects.order_by("pk").values()]


# --- What is answered -------------------------------------------------------------------------------------------------


def test_a_secret_is_answered_whole_and_itself_once(api: Api) -> None:
    sent = {"label": "shop"}
    assert_matches("CallbackSecretCreateRequest", sent)
    response = api.post(PATH, sent)
    assert response.status_code == 201
    body = json_of(response)
    assert_matches("CallbackSecretCreated", body)
    secret = CallbackSecret.objects.get()
    plain_secret = body.pop("plain_secret")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", plain_secret)
    assert decrypt(secret.encrypted) == plain_secret
    assert body == whole(secret)
    assert (body["label"], body["key_prefix"], body["is_current"]) == ("shop", plain_secret[:10], True)
    assert (body["disabled_at"], body["last_used_at"]) == (None, None)
    later = [send(api, *each).content.decode() for each in (("GET", PATH), ("GET", f"{PATH}/{secret.pk}"))]
    later.append(send(api, "PATCH", f"{PATH}/{secret.pk}", {"label": "renamed"}).content.decode())
    assert [text for text in later if plain_secret in text or "plain_secret" in text] == []


def test_a_second_secret_signs_but_is_not_current(api: Api) -> None:
    first, second = create(api), create(api)
    assert (first["is_current"], second["is_current"]) == (True, False)
    keys = signing_keys(organization_ids=[api.organization.pk])[api.organization.pk]
    assert keys is not None
    assert (keys.current, keys.active) == (
        first["plain_secret"],
        (first["plain_secret"], second["plain_secret"]),
    )


def test_one_secret_is_answered_whole(api: Api) -> None:
    create(api)
    CallbackSecret.objects.update(last_used_at=timezone.now())
    secret = CallbackSecret.objects.get()
    body = json_of(api.get(f"{PATH}/{secret.pk}"))
    assert body == whole(secret)
    assert body["last_used_at"] is not None
    assert_matches("CallbackSecret", body)


@pytest.mark.parametrize(
    ("body", "label", "is_current"),
    [
        ({"label": "renamed"}, "renamed", False),
        ({"is_current": True}, "second", True),
        ({"label": "ü" * 255, "is_current": True}, "ü" * 255, True),
        ({"label": None, "is_current": True}, "second", True),
        ({"label": " x ", "is_current": None}, " x ", False),
        ({"is_current": False}, "second", False),
        ({}, "second", False),
    ],
)
def test_what_a_patch_names_is_changed(api: Api, body: dict[str, Any], label: str, is_current: bool) -> None:
    first, second = create(api, "first"), create(api, "second")
    assert_matches("CallbackSecretUpdateRequest", body)
    response = send(api, "PATCH", f"{PATH}/{second['id']}", body)
    assert response.status_code == 200
    secret = CallbackSecret.objects.get(pk=second["id"])
    assert json_of(response) == whole(secret)
    assert_matches("CallbackSecret", response.json())
    assert (secret.label, secret.is_current) == (label, is_current)
    assert api.get(f"{PATH}/{first['id']}").json()["is_current"] is not is_current


def test_a_deleted_secret_signs_no_more_and_can_still_be_read(api: Api) -> None:
    first, second = create(api, "first"), create(api, "second")
    response = send(api, "DELETE", f"{PATH}/{first['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert "Content-Type" not in response.headers
    body = json_of(api.get(f"{PATH}/{first['id']}"))
    assert body == whole(CallbackSecret.objects.get(pk=first["id"]))
    assert_matches("CallbackSecret", body)
    assert body["disabled_at"] is not None
    assert (body["is_current"], api.get(f"{PATH}/{second['id']}").json()["is_current"]) == (False, True)
    assert CallbackSecret.objects.get(pk=first["id"]).encrypted == ""
    keys = signing_keys(organization_ids=[api.organization.pk])[api.organization.pk]
    assert keys is not None
    assert (str(keys.current_id), keys.active) == (second["id"], (second["plain_secret"],))


def test_deleting_again_changes_nothing(api: Api) -> None:
    secret = create(api)
    send(api, "DELETE", f"{PATH}/{secret['id']}")
    before = rows()
    assert send(api, "DELETE", f"{PATH}/{secret['id']}").status_code == 204
    assert rows() == before


# --- Pages ------------------------------------------------------------------------------------------------------------


def test_the_list_has_everything_of_ones_own_newest_first(api: Api) -> None:
    create(Api())
    made = [create(api, str(number)) for number in range(3)]
    send(api, "DELETE", f"{PATH}/{made[1]['id']}")
    create(Api())
    body = json_of(api.get(PATH))
    mine = CallbackSecret.objects.filter(organization=api.organization).order_by("-pk")
    assert body == {"items": [whole(secret) for secret in mine], "first": None, "next": None, "previous": None}
    assert [item["label"] for item in body["items"]] == ["2", "1", "0"]
    for item in body["items"]:
        assert_matches("CallbackSecret", item)


def test_a_list_of_nothing_is_an_empty_page(api: Api) -> None:
    assert json_of(api.get(PATH)) == {"items": [], "first": None, "next": None, "previous": None}


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (7, 1), (7, 3), (6, 3), (7, 7)])
def test_pages_hold_every_secret_exactly_once_forwards_and_backwards(api: Api, count: int, limit: int) -> None:
    for number in range(count):
        row, _ = create_secret(organization=api.organization, label=str(number))
        disable_secret(secret_id=row.pk, organization=api.organization)

    def labels(page: dict[str, Any]) -> list[int]:
        return [int(item["label"]) for item in page["items"]]

    there = [json_of(api.get(f"{PATH}?limit={limit}"))]
    while there[-1]["next"] is not None:
        there.append(json_of(api.get(f"{PATH}?limit={limit}&pq={there[-1]['next']}")))
    newest_first = list(range(count))[::-1]
    assert list(map(labels, there)) == [newest_first[start : start + limit] for start in range(0, count, limit)]
    ends = [(index == 0, index == 0) for index in range(len(there))]
    assert [(page["first"] is None, page["previous"] is None) for page in there] == ends
    back = [there[-1]]
    while back[-1]["previous"] is not None:
        back.append(json_of(api.get(f"{PATH}?limit={limit}&pq={back[-1]['previous']}&from_prev=true")))
    assert list(map(labels, back)) == list(map(labels, there))[::-1]
    if len(there) > 1:
        assert json_of(api.get(f"{PATH}?limit={limit}&pq={there[-1]['first']}")) == there[0]
        assert json_of(api.get(f"{PATH}?limit={limit}&pq={back[-1]['next']}")) == there[1]


def test_a_secret_made_meanwhile_neither_repeats_nor_hides_others(api: Api) -> None:
    made = [create(api)["id"] for _ in range(4)]
    first = api.get(f"{PATH}?limit=2").json()
    create(api)
    second = api.get(f"{PATH}?limit=2&pq={first['next']}").json()
    assert [item["id"] for page in (first, second) for item in page["items"]] == made[::-1]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "pq=x", "pq=aTA", "pq=bg", "pq=bjE", "pq=%FF"])
def test_a_limit_or_a_cursor_that_is_none_is_400(api: Api, query: str) -> None:
    assert assert_error(api.get(f"{PATH}?{query}"), 400, "BAD_REQUEST") is None


# --- Refusals: nothing is left behind ---------------------------------------------------------------------------------

LABEL_FAULTS: list[tuple[Any, list[str]]] = [
    (1, ["wrong_type"]),
    (True, ["wrong_type"]),
    ([], ["wrong_type"]),
    ({}, ["wrong_type"]),
    ("", ["too_short"]),
    (" \n", ["too_short"]),
    ("x" * 256, ["too_long"]),
    (" " * 256, ["too_short", "too_long"]),
    ("a\0", ["not_storable"]),
    ("\ud800", ["not_storable"]),
    ("\0" * 256, ["too_long", "not_storable"]),
]


@pytest.mark.parametrize(("label", "types"), LABEL_FAULTS)
def test_a_label_that_is_none_is_refused(api: Api, label: Any, types: list[str]) -> None:
    made = create(api)
    before = rows()
    for method, path in (("POST", PATH), ("PATCH", f"{PATH}/{made['id']}")):
        errors = assert_error(send(api, method, path, {"label": label}), 422, "VALIDATION_ERROR")
        assert faults_of(errors) == [(["body", "label"], each) for each in types]
    assert rows() == before


@pytest.mark.parametrize("body", [{}, {"label": None}])
def test_a_secret_needs_a_label(api: Api, body: dict[str, Any]) -> None:
    errors = assert_error(api.post(PATH, body), 422, "VALIDATION_ERROR")
    assert errors == [{"loc": ["body", "label"], "msg": "Give 1 to 255 characters.", "type": "missing"}]
    assert rows() == []


def test_all_faults_come_in_one_answer(api: Api) -> None:
    made = create(api)
    before = rows()
    errors = assert_error(api.post(PATH, {"label": 1, "is_current": True, "a\0": 1}), 422, "VALIDATION_ERROR")
    assert faults_of(errors) == [
        (["body", "is_current"], "unknown_input"),
        (["body", "a\\x00"], "unknown_input"),
        (["body", "label"], "wrong_type"),
    ]
    body = {"plain_secret": "x", "label": "", "is_current": "yes"}
    errors = assert_error(send(api, "PATCH", f"{PATH}/{made['id']}", body), 422, "VALIDATION_ERROR")
    assert faults_of(errors) == [
        (["body", "plain_secret"], "unknown_input"),
        (["body", "label"], "too_short"),
        (["body", "is_current"], "wrong_type"),
    ]
    assert rows() == before


@pytest.mark.parametrize("is_current", [0, 1, "true", [], {}])
def test_is_current_is_a_boolean(api: Api, is_current: Any) -> None:
    made = create(api)
    errors = assert_error(
        send(api, "PATCH", f"{PATH}/{made['id']}", {"is_current": is_current}), 422, "VALIDATION_ERROR"
    )
    assert faults_of(errors) == [(["body", "is_current"], "wrong_type")]


def test_of_a_thousand_unknown_members_500_faults_are_listed(api: Api) -> None:
    errors = assert_error(api.post(PATH, dict.fromkeys(map(str, range(1000)), 1)), 422, "VALIDATION_ERROR")
    assert len(errors) == 500
    assert errors[-1] == {"loc": ["body"], "msg": "502 more errors are left out.", "type": "too_many_errors"}
    assert rows() == []


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"label"', b"1", b"{", b'{"label": NaN}', b"\xff"])
def test_a_body_that_is_no_object_is_400(api: Api, body: bytes) -> None:
    made = create(api)
    before = rows()
    for method, path in (("POST", PATH), ("PATCH", f"{PATH}/{made['id']}")):
        assert assert_error(send(api, method, path, body), 400, "BAD_REQUEST") is None
    assert rows() == before


def test_an_eleventh_active_secret_is_refused(api: Api) -> None:
    for _ in range(10):
        create(api)
    before = rows()
    errors = assert_error(api.post(PATH, {"label": "one more"}, Idempotency_Key="k"), 422, "VALIDATION_ERROR")
    msg = "There are 10 active secrets already: delete one first."
    assert errors == [{"loc": ["body"], "msg": msg, "type": "too_many"}]
    assert (rows(), IdempotencyRecord.objects.count()) == (before, 0)


def test_the_mark_is_moved_and_not_removed(api: Api) -> None:
    current, other = create(api), create(api)
    send(api, "DELETE", f"{PATH}/{other['id']}")
    before = rows()
    for secret, is_current, msg in (
        (current, False, "Make another secret current instead."),
        (other, True, "This secret is disabled."),
    ):
        response = send(api, "PATCH", f"{PATH}/{secret['id']}", {"label": "renamed", "is_current": is_current})
        errors = assert_error(response, 422, "VALIDATION_ERROR")
        assert errors == [{"loc": ["body", "is_current"], "msg": msg, "type": "not_allowed"}]
    assert rows() == before


@pytest.mark.parametrize("secret_id", ["x", "null", "%00", "%FF", "0" * 32, "{}", "x" * 5000, str(uuid4())], ids=len)
def test_malformed_and_unknown_ids_are_404(api: Api, secret_id: str) -> None:
    create(api)
    before = rows()
    for method, body in (("GET", None), ("PATCH", {"label": "a"}), ("DELETE", None)):
        response = send(api, method, f"{PATH}/{secret_id}", body)
        assert assert_error(response, 404, "NOT_FOUND") is None
        assert response.json()["message"] == "There is no such callback secret."
    assert rows() == before


def test_another_organizations_secret_is_not_there_and_stays_as_it_is(api: Api) -> None:
    theirs = create(Api())
    before = rows()
    for method, body in (("GET", None), ("PATCH", {"label": "mine", "is_current": False}), ("DELETE", None)):
        assert assert_error(send(api, method, f"{PATH}/{theirs['id']}", body), 404, "NOT_FOUND") is None
    assert api.get(PATH).json()["items"] == []
    assert rows() == before


@pytest.mark.parametrize(
    ("method", "on_one", "scope", "body", "status"),
    [
        ("GET", False, Scope.CALLBACK_SECRETS_READ, None, 200),
        ("GET", True, Scope.CALLBACK_SECRETS_READ, None, 200),
        ("POST", False, Scope.CALLBACK_SECRETS_CREATE, {"label": "b"}, 201),
        ("PATCH", True, Scope.CALLBACK_SECRETS_EDIT, {"label": "b"}, 200),
        ("DELETE", True, Scope.CALLBACK_SECRETS_DELETE, None, 204),
    ],
)
def test_each_method_needs_its_own_scope(
    api: Api, method: str, on_one: bool, scope: Scope, body: Any, status: int
) -> None:
    path = f"{PATH}/{create(api)['id']}" if on_one else PATH
    before = rows()
    others = Api(api.organization, scopes=[each for each in Scope.values if each != scope])
    assert assert_error(send(others, method, path, body), 403, "PERMISSION_DENIED") is None
    assert rows() == before
    assert send(Api(api.organization, scopes=[scope]), method, path, body).status_code == status


@pytest.mark.parametrize(("method", "path"), [("PUT", PATH), ("DELETE", PATH), ("POST", f"{PATH}/{uuid4()}")])
def test_other_methods_are_405(api: Api, method: str, path: str) -> None:
    assert assert_error(send(api, method, path, {}), 405, "METHOD_NOT_ALLOWED") is None


# --- Sent twice, and what it costs ------------------------------------------------------------------------------------


def test_the_same_request_makes_one_secret_and_gives_it_again(api: Api) -> None:
    first = api.post(PATH, {"label": "shop"}, Idempotency_Key="k")
    again = api.post(PATH, {"label": "shop"}, Idempotency_Key="k")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Content-Type"] == "application/json"
    assert CallbackSecret.objects.count() == 1


def test_a_replayed_deletion_is_as_empty_as_the_first(api: Api) -> None:
    path = f"{PATH}/{create(api)['id']}"
    first, again = (send(api, "DELETE", path, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (204, 204)
    assert (first.content, again.content) == (b"", b"")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Content-Type" not in again.headers


@pytest.fixture
def seen(api: Api) -> Api:
    """A customer whose key has been used within the minute: that is written once."""
    api.get(PATH)
    return api


@pytest.mark.parametrize("others", [0, 9])
def test_statements_do_not_grow_with_the_number_of_secrets(
    seen: Api, count_queries: Callable[[], Any], others: int
) -> None:
    def spent(request: Callable[[], Any], status: int) -> int:
        with count_queries() as log:
            response = request()
        assert response.status_code == status
        return len([query for query in log.captured_queries if "SAVEPOINT" not in query["sql"]])

    for _ in range(others):
        create(seen)
    # The key, then the organization's lock, the number of active ones, the insert.
    assert spent(lambda: seen.post(PATH, {"label": "a"}), 201) == 4
    one = f"{PATH}/{CallbackSecret.objects.order_by('-pk')[0].pk}"
    assert spent(lambda: seen.get(PATH), 200) == 2
    assert spent(lambda: seen.get(one), 200) == 2
    # The key, the lock, the row, its change.
    assert spent(lambda: send(seen, "PATCH", one, {"label": "b"}), 200) == 4
    if others:
        # And the mark taken from another.
        assert spent(lambda: send(seen, "PATCH", one, {"is_current": True}), 200) == 5
    # And the mark given to another.
    assert spent(lambda: send(seen, "DELETE", one), 204) == 5


def test_reading_leaves_the_encrypted_secret_in_the_database(api: Api, count_queries: Callable[[], Any]) -> None:
    made = create(api)
    with count_queries() as log:
        api.get(PATH)
        api.get(f"{PATH}/{made['id']}")
    read = [query["sql"] for query in log.captured_queries if "callbacks_callbacksecret" in query["sql"]]
    assert len(read) == 2
    assert [sql for sql in read if '"encrypted"' in sql] == []


def test_ids_are_uuid7(api: Api) -> None:
    assert UUID(create(api)["id"]).version == 7
