"""Who may do what on which route. The matrix is checked against the URL table: a route without an entry fails here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from accounts.models import Scope
from assets.models import Asset, AssetUpload
from batches.models import Batch, BatchItem, Run
from callbacks.models import CallbackSecret
from callbacks.services import create_secret
from runflow.lib.views import ApiView
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class Rule:
    """What a method of a route needs and what it answers to a stranger about somebody's object.

    `scope` None: no key is needed, or with `is_for_any_key` one without scopes will do. `stranger` None: the route names
    nothing that belongs to anybody.
    """

    scope: Scope | None
    is_for_any_key: bool = field(default=False, kw_only=True)
    stranger: str | None = None
    body: bytes = b""
    success: int = 200


# By method and route, as the URL table spells it. A new route needs a line here, and an address in `address_of`.
RULES: dict[tuple[str, str], Rule] = {
    ("GET", "v1/health"): Rule(None),
    ("GET", "v1/openapi.json"): Rule(None),
    ("GET", "v1/readiness"): Rule(None),
    ("POST", "v1/models/<str:owner>/<path:slug>/batches"): Rule(
        Scope.BATCHES_CREATE, "MODEL_NOT_FOUND", b'{"input": [{}]}', 201
    ),
    ("POST", "v1/models/<str:owner>/<path:slug>/runs"): Rule(
        Scope.RUNS_CREATE, "MODEL_NOT_FOUND", b'{"input": {}}', 201
    ),
    ("GET", "v1/batches"): Rule(Scope.BATCHES_READ),
    ("GET", "v1/runs"): Rule(Scope.RUNS_READ),
    ("GET", "v1/batches/<str:batch_id>"): Rule(Scope.BATCHES_READ, "BATCH_NOT_FOUND"),
    ("GET", "v1/batches/<str:batch_id>/items"): Rule(Scope.BATCHES_READ, "BATCH_NOT_FOUND"),
    ("GET", "v1/batches/<str:batch_id>/items/<str:item_id>"): Rule(Scope.BATCHES_READ, "BATCH_NOT_FOUND"),
    ("GET", "v1/batches/<str:batch_id>/events"): Rule(Scope.BATCHES_READ, "BATCH_NOT_FOUND"),
    ("GET", "v1/batches/<str:batch_id>/results"): Rule(Scope.BATCHES_READ, "BATCH_NOT_FOUND"),
    ("POST", "v1/batches/<str:batch_id>/cancellation"): Rule(Scope.RUNS_EXECUTE, "BATCH_NOT_FOUND", success=201),
    ("POST", "v1/runs/<str:run_id>/cancellation"): Rule(Scope.RUNS_EXECUTE, "RUN_NOT_FOUND", success=201),
    # 422: neither has ended.
    ("POST", "v1/batches/<str:batch_id>/replays"): Rule(Scope.RUNS_EXECUTE, "BATCH_NOT_FOUND", success=422),
    ("POST", "v1/runs/<str:run_id>/replays"): Rule(Scope.RUNS_EXECUTE, "RUN_NOT_FOUND", success=422),
    ("GET", "v1/batches/<str:batch_id>/callback"): Rule(Scope.BATCHES_READ, "BATCH_NOT_FOUND"),
    # 422: it has not ended.
    ("POST", "v1/batches/<str:batch_id>/callback-redeliveries"): Rule(
        Scope.RUNS_EXECUTE, "BATCH_NOT_FOUND", success=422
    ),
    ("GET", "v1/runs/<str:run_id>/callback"): Rule(Scope.RUNS_READ, "RUN_NOT_FOUND"),
    ("POST", "v1/runs/<str:run_id>/callback-redeliveries"): Rule(Scope.RUNS_EXECUTE, "RUN_NOT_FOUND", success=422),
    ("GET", "v1/runs/<str:run_id>"): Rule(Scope.RUNS_READ, "RUN_NOT_FOUND"),
    ("GET", "v1/runs/<str:run_id>/logs"): Rule(Scope.RUNS_READ, "RUN_NOT_FOUND"),
    ("GET", "v1/runs/statuses"): Rule(Scope.RUNS_READ),
    ("GET", "v1/callback-secrets"): Rule(Scope.CALLBACK_SECRETS_READ),
    ("POST", "v1/callback-secrets"): Rule(Scope.CALLBACK_SECRETS_CREATE, None, b'{"label": "a"}', 201),
    ("GET", "v1/callback-secrets/<str:secret_id>"): Rule(Scope.CALLBACK_SECRETS_READ, "NOT_FOUND"),
    ("PATCH", "v1/callback-secrets/<str:secret_id>"): Rule(Scope.CALLBACK_SECRETS_EDIT, "NOT_FOUND", b'{"label": "b"}'),
    ("DELETE", "v1/callback-secrets/<str:secret_id>"): Rule(Scope.CALLBACK_SECRETS_DELETE, "NOT_FOUND", success=204),
    ("POST", "v1/asset-uploads"): Rule(
        Scope.ASSETS_CREATE, None, b'{"filename": "a", "mime_type": "text/plain", "size_bytes": 1}', 201
    ),
    ("POST", "v1/asset-uploads/<str:asset_id>/confirmations"): Rule(Scope.ASSETS_CREATE, "NOT_FOUND", b"{}", 201),
    ("GET", "v1/assets/<str:asset_id>"): Rule(Scope.ASSETS_READ, "NOT_FOUND"),
    ("GET", "v1/auth/me"): Rule(None, is_for_any_key=True),
    ("GET", "v1/models"): Rule(Scope.MODELS_READ),
    ("GET", "v1/public/models"): Rule(None),
    ("GET", "v1/models/<str:owner>/<path:slug>"): Rule(Scope.MODELS_READ, "MODEL_NOT_FOUND"),
    ("GET", "v1/models/<str:owner>/<path:slug>/schema"): Rule(Scope.MODELS_READ, "MODEL_NOT_FOUND"),
    ("GET", "v1/models/<str:model_id>/inputs"): Rule(Scope.MODELS_READ, "MODEL_NOT_FOUND"),
    ("GET", "v1/models/<str:model_id>/inputs/<str:input_id>"): Rule(Scope.MODELS_READ, "MODEL_NOT_FOUND"),
    ("GET", "v1/models/<str:model_id>/pricing"): Rule(Scope.MODELS_READ, "MODEL_NOT_FOUND"),
    ("GET", "v1/billing/balance"): Rule(None, is_for_any_key=True),
    # Whoever has the signed URL may: tests/assets/test_files.py, test_uploads.py, test_thumbnails.py.
    ("PUT", "v1/asset-uploads/<uuid:asset_id>"): Rule(None),
    ("GET", "v1/files/<uuid:asset_id>"): Rule(None),
    ("GET", "v1/files/<uuid:asset_id>/thumbnail"): Rule(None),
}
SCOPED = [(method, route) for (method, route), rule in RULES.items() if rule.scope is not None]
FOR_ANY_KEY = [(method, route) for (method, route), rule in RULES.items() if rule.is_for_any_key]
OWNED = [(method, route) for (method, route), rule in RULES.items() if rule.stranger is not None]


def routes(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, type[ApiView]]]:
    """Every route under v1/ with its view."""
    for pattern in patterns:
        here = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern) and here.startswith("v1/"):
            yield here, pattern.callback.view_class  # type: ignore[attr-defined]


def methods_of(view: type[ApiView]) -> set[str]:
    return {name.upper() for name in view.http_method_names if name != "head" and hasattr(view, name)}


TABLE = {
    (method, route): view for route, view in routes(get_resolver().url_patterns) for method in sorted(methods_of(view))
}


def things_of(api: Api) -> dict[str, str]:
    """An object of each kind that belongs to a customer, by the name that routes have for its id."""
    model = make_model(organization=api.organization)
    batch, (handle,) = make_batch(organization=api.organization, model=model)
    asset = Asset.objects.create(
        organization=api.organization,
        name="a",
        storage_key=str(uuid.uuid4()),
        asset_type="file",
        size_bytes=1,
        source_type="upload",
    )
    secret, _ = create_secret(organization=api.organization, label="a")
    return {
        "owner": model.owner,
        "slug": model.slug,
        "model_id": str(model.pk),
        "input_id": str(model.inputs.get().pk),
        "batch_id": str(batch.pk),
        "item_id": str(handle.id),
        "run_id": str(handle.run_id),
        "asset_id": str(asset.pk),
        "secret_id": str(secret.pk),
    }


def address_of(route: str, things: dict[str, str]) -> str:
    address = f"/{route}"
    for kind in ("str", "path", "uuid"):
        for name, value in things.items():
            address = address.replace(f"<{kind}:{name}>", value)
    assert "<" not in address, f"tell things_of what stands for the rest of {address}"
    return address


def ask(method: str, route: str, things: dict[str, str], headers: dict[str, str]) -> Any:
    client = Client(raise_request_exception=False)
    content_type = "application/json"
    return client.generic(
        method, address_of(route, things), RULES[method, route].body, content_type=content_type, headers=headers
    )


def test_every_route_has_its_rule_and_every_rule_its_route() -> None:
    assert set(TABLE) == set(RULES), "give the new route a line in RULES"


def test_what_a_view_declares_is_what_the_matrix_says() -> None:
    declared = {(method, route): view.scopes.get(method) for (method, route), view in TABLE.items()}
    assert declared == {key: rule.scope for key, rule in RULES.items()}


def test_only_public_routes_do_without_authentication() -> None:
    open_to_all = {key for key, view in TABLE.items() if not view.permission_classes or not view.authentication_classes}
    assert open_to_all == {key for key, rule in RULES.items() if rule.scope is None and not rule.is_for_any_key}


@pytest.mark.parametrize(("method", "route"), SCOPED)
def test_a_key_with_just_the_scope_may(rung: Rung, method: str, route: str) -> None:
    owner = Api(scopes=[RULES[method, route].scope])
    assert ask(method, route, things_of(owner), owner.headers()).status_code == RULES[method, route].success


@pytest.mark.parametrize(("method", "route"), FOR_ANY_KEY)
def test_a_key_without_any_scope_may_do_what_needs_none(method: str, route: str) -> None:
    owner = Api(scopes=[])
    assert ask(method, route, things_of(owner), owner.headers()).status_code == RULES[method, route].success


@pytest.mark.parametrize(("method", "route"), SCOPED)
def test_a_key_with_every_other_scope_may_not(rung: Rung, method: str, route: str) -> None:
    needed = RULES[method, route].scope
    owner = Api(scopes=[scope for scope in Scope.values if scope != needed])
    things = things_of(owner)
    before = counts()
    response = ask(method, route, things, owner.headers())
    assert assert_error(response, 403, "PERMISSION_DENIED") is None
    assert response.json()["message"] == f"This API key lacks the scope {needed}."
    assert (counts(), rung.calls) == (before, [])


@pytest.mark.parametrize(("method", "route"), SCOPED)
def test_a_key_without_scopes_may_nothing_and_learns_nothing(rung: Rung, method: str, route: str) -> None:
    # The same answer whether the thing exists or not: the scope is asked for first.
    owner, stranger = Api(scopes=[]), Api(scopes=[])
    things = things_of(owner)
    answers = [ask(method, route, things, api.headers()) for api in (owner, stranger)]
    for answer in answers:
        assert_error(answer, 403, "PERMISSION_DENIED")
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize(("method", "route"), [*SCOPED, *FOR_ANY_KEY])
def test_without_a_key_it_is_401(rung: Rung, method: str, route: str) -> None:
    things = things_of(Api())
    before = counts()
    response = ask(method, route, things, {})
    assert assert_error(response, 401, "UNAUTHORIZED") is None
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (counts(), rung.calls) == (before, [])


@pytest.mark.parametrize(("method", "route"), OWNED)
def test_somebody_elses_thing_is_as_if_it_did_not_exist(rung: Rung, method: str, route: str) -> None:
    stranger = Api()
    things = things_of(Api())
    unknown = {name: str(uuid.uuid4()) for name in things} | {"owner": "testing", "slug": "none"}
    before = counts()
    theirs = ask(method, route, things, stranger.headers())
    nobodys = ask(method, route, unknown, stranger.headers())
    code = RULES[method, route].stranger
    assert code is not None
    assert assert_error(theirs, 404, code) is None
    assert theirs.content == nobodys.content
    assert (counts(), rung.calls) == (before, [])


def test_somebody_elses_item_in_ones_own_batch_does_not_exist() -> None:
    own, other = Api(), Api()
    mine, theirs = things_of(own), things_of(other)
    path = f"/v1/batches/{mine['batch_id']}/items/{theirs['item_id']}"
    assert_error(own.get(path), 404, "BATCH_ITEM_NOT_FOUND")


@pytest.mark.parametrize(("method", "route"), OWNED)
def test_another_key_of_the_organization_sees_the_same(rung: Rung, method: str, route: str) -> None:
    owner = Api()
    things = things_of(owner)
    colleague = Api(owner.organization)
    assert ask(method, route, things, colleague.headers()).status_code == RULES[method, route].success


def counts() -> list[int]:
    active = CallbackSecret.objects.filter(disabled_at__isnull=True).count()
    return [Batch.objects.count(), Run.objects.count(), BatchItem.objects.count(), active, AssetUpload.objects.count()]
