"""The operators' console: everything can be looked at, the engine's rows cannot be touched, the rest goes through verbs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import ApiKey, Organization, Scope
from accounts.services import find_caller, hash_key
from assets.models import Asset, AssetType, AssetUpload
from batches import engine, lifecycle
from batches.models import Batch, BatchItem, Heartbeat, Run
from billing.models import Account, LedgerEntry, SubjectType
from billing.services import grant_credit, hold_credit
from callbacks.models import CallbackAttempt, CallbackDelivery, CallbackSecret
from callbacks.services import create_secret, disable_secret, signing_keys
from idempotency.models import IdempotencyRecord
from models_registry.models import Endpoint, Model, ModelInput, ModelOutput, Provider, ProviderLink, Template
from runflow.lib.encryption import encrypt_bytes
from tests.factories import end_batch, make_attempt, make_batch, make_key, make_model, make_organization, make_provider

OURS = ("accounts", "idempotency", "models_registry", "assets", "callbacks", "billing", "batches")
READ_ONLY: tuple[type[models.Model], ...] = (
    *(Batch, Run, BatchItem, Asset, AssetUpload, IdempotencyRecord, Template, ModelInput, ModelOutput),
    *(CallbackDelivery, CallbackAttempt, LedgerEntry),
)
EVERY_MODEL: list[type[models.Model]] = [model for app in OURS for model in apps.get_app_config(app).get_models()]

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("operator"))
    return client


def page(model: type[models.Model], name: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=args)


def count(function: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as log:
        function()
    return len(log)


def filled_in(response: Any) -> dict[str, Any]:
    """What a browser would send back if nothing on the page were changed."""
    formsets = [inline.formset for inline in response.context["inline_admin_formsets"]]
    forms = [response.context["adminform"].form]
    for formset in formsets:
        forms += [formset.management_form, *formset.forms]
    values = {bound.html_name: bound.value() for form in forms for bound in form}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def make_asset(**overrides: Any) -> Asset:
    values = {
        "organization": overrides.pop("organization", None) or make_organization(),
        "name": "cat.png",
        "storage_key": f"tests/{uuid4()}",
        "asset_type": AssetType.IMAGE,
        "mime_type": "image/png",
        "size_bytes": 2048,
        "width": 640,
        "height": 480,
    }
    return Asset.objects.create(**values | overrides)


def make_upload(**overrides: Any) -> AssetUpload:
    values = {
        "organization": overrides.pop("organization", None) or make_organization(),
        "name": "cat.png",
        "mime_type": "image/png",
        "size_bytes": 2048,
    }
    return AssetUpload.objects.create(**values | overrides)


def make_record(**overrides: Any) -> IdempotencyRecord:
    now = timezone.now()
    values = {
        "organization": overrides.pop("organization", None) or make_organization(),
        "key": str(uuid4()),
        "fingerprint": "f" * 64,
        "response_status": 201,
        "response_body": b'{"id": 1}',
        "created_at": now,
        "expires_at": now + timedelta(days=1),
    }
    return IdempotencyRecord.objects.create(**values | overrides)


def make_one_of_everything() -> None:
    """A new row in every table, with new rows behind each of its foreign keys."""
    organization, provider = make_organization(), make_provider()
    model = make_model(provider=provider)
    Endpoint.objects.create(provider=provider, base_url="http://comfy:8188")
    ModelOutput.objects.create(model=model, name="text", variable_type_code="string")
    make_batch(organization=organization, model=model)
    caller, _ = make_key(organization)
    make_asset(organization=organization, created_by=caller.api_key)
    make_upload(organization=organization, created_by=caller.api_key)
    make_record(organization=organization)
    create_secret(organization=organization, label="shop")
    grant_credit(organization=organization, amount=Decimal(1))
    make_attempt(organization=organization)
    Heartbeat.objects.create(name=f"claim {provider.pk}", beat_at=timezone.now())


# --- Every page -------------------------------------------------------------------------------------------------------


def test_every_model_of_every_app_is_registered() -> None:
    assert [model for model in EVERY_MODEL if not admin.site.is_registered(model)] == []


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.__name__)
def test_a_list_costs_the_same_for_one_row_and_for_thirty(model: type[models.Model], operator: Client) -> None:
    make_one_of_everything()
    operator.get(page(model, "changelist"))  # what is read once per process
    one = count(lambda: operator.get(page(model, "changelist")))
    for _ in range(29):
        make_one_of_everything()
    thirty = operator.get(page(model, "changelist"))
    assert thirty.status_code == 200
    assert len(thirty.context["cl"].result_list) == 30
    assert count(lambda: operator.get(page(model, "changelist"))) == one


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.__name__)
def test_every_row_can_be_opened_and_found_by_its_id(model: type[models.Model], operator: Client) -> None:
    make_one_of_everything()
    make_one_of_everything()
    row: Any = model._default_manager.order_by("pk").last()
    assert operator.get(page(model, "change", row.pk)).status_code == 200
    if model in READ_ONLY:
        found = operator.get(page(model, "changelist"), {"q": f" {row.pk} "})
        assert list(found.context["cl"].result_list) == [row]


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.__name__)
def test_every_filter_and_a_search_for_anything_answer(model: type[models.Model], operator: Client) -> None:
    make_one_of_everything()
    answers = [operator.get(page(model, "changelist"), {"q": 'nothing\'s "like" this'})]
    for spec in answers[0].context["cl"].filter_specs:
        for choice in spec.choices(answers[0].context["cl"]):
            answers.append(operator.get(page(model, "changelist") + choice["query_string"]))
    assert [answer.status_code for answer in answers] == [200] * len(answers)


@pytest.mark.parametrize("model", READ_ONLY, ids=lambda model: model.__name__)
def test_rows_of_the_engine_are_not_touched(model: type[models.Model], operator: Client) -> None:
    make_one_of_everything()
    before = list(model._default_manager.order_by("pk").values())
    pk = before[0]["id"]
    changelist = page(model, "changelist")
    answers = [
        operator.get(page(model, "add")),
        operator.post(page(model, "add"), {}),
        operator.post(page(model, "change", pk), {"status_code": "failed", "name": "x"}),
        operator.post(page(model, "delete", pk), {"post": "yes"}),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    operator.post(changelist, {"action": "delete_selected", "_selected_action": [str(pk)], "post": "yes"})
    assert list(model._default_manager.order_by("pk").values()) == before


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.__name__)
def test_nothing_that_history_names_is_deleted(model: type[models.Model], operator: Client) -> None:
    make_one_of_everything()
    row: Any = model._default_manager.order_by("pk").first()
    assert operator.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model._default_manager.filter(pk=row.pk).exists()


def test_a_model_s_page_leads_to_its_json_schema_as_a_file(operator: Client) -> None:
    model = make_model(owner="google", slug="nano/edit", name="Nano")
    address = page(Model, "schema", model.pk)
    assert address in operator.get(page(Model, "change", model.pk)).content.decode()
    assert "/schema/" not in operator.get(page(Model, "add")).content.decode()
    response = operator.get(address)
    assert response.headers["Content-Disposition"] == 'attachment; filename="google-nano-edit.schema.json"'
    assert (response.json()["title"], list(response.json()["properties"])) == ("Nano", ["text"])
    assert operator.get(page(Model, "schema", uuid4())).status_code == 404
    guest = get_user_model().objects.create_user("guest", is_staff=True)
    operator.force_login(guest)
    assert operator.get(address).status_code == 403
    operator.logout()
    assert operator.get(address).status_code == 302  # to the login


def test_a_run_s_page_tells_its_log(operator: Client) -> None:
    batch, _ = make_batch()
    end_batch(batch, "failed")
    html = operator.get(page(Run, "change", Run.objects.get().pk)).content.decode()
    assert "The run was accepted.\n" in html
    assert "It failed: EXECUTION_FAILED: No." in html


def test_a_person_without_permissions_sees_nothing(client: Client) -> None:
    client.force_login(get_user_model().objects.create_user("guest", is_staff=True))
    assert client.get(page(Batch, "changelist")).status_code == 403
    assert client.get(page(ApiKey, "changelist")).status_code == 403


def test_secrets_are_on_no_page(operator: Client) -> None:
    caller, key = make_key()
    body = f'{{"plain_secret": "whsec_{"A" * 43}=", "key": "{key}"}}'.encode()
    record = make_record(organization=caller.organization, response_body=body)
    sealed = make_record(organization=caller.organization, response_body=encrypt_bytes(body), is_encrypted=True)
    secret, plain_secret = create_secret(organization=caller.organization, label="shop")
    pages = [page(model, "changelist") for model in EVERY_MODEL]
    pages += [
        page(ApiKey, "change", caller.api_key.pk),
        page(ApiKey, "add"),
        page(ApiKey, "history", caller.api_key.pk),
        page(Organization, "change", caller.organization.pk),
        page(IdempotencyRecord, "change", record.pk),
        page(IdempotencyRecord, "change", sealed.pk),
        page(CallbackSecret, "change", secret.pk),
        page(CallbackSecret, "add"),
        page(CallbackSecret, "history", secret.pk),
    ]
    html = "".join(operator.get(url).content.decode() for url in pages)
    assert caller.api_key.prefix in html
    assert secret.key_prefix in html
    assert "plain_secret" in html
    assert "secret_hash" not in html
    tokens = (secret.encrypted, bytes(sealed.response_body).decode())
    for hidden in (hash_key(key), key, "A" * 43, plain_secret, *tokens, *(token[:40] for token in tokens)):
        assert hidden not in html


def test_an_encrypted_answer_is_said_to_be_so(operator: Client) -> None:
    record = make_record(response_body=encrypt_bytes(b"{}"), is_encrypted=True)
    html = operator.get(page(IdempotencyRecord, "change", record.pk)).content.decode()
    [shown] = re.findall(r"<label>Response body:</label>.*?<pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    assert shown == "encrypted"


def test_json_is_escaped_and_cut(operator: Client) -> None:
    metadata = {"note": "<b>", **{f"key{number:04}": "" for number in range(500)}}
    batch, [item] = make_batch(items=[{"text": "<script>alert(1)</script>" + "z" * 5000}], metadata=metadata)
    run = operator.get(page(Run, "change", item.run_id)).content.decode()
    assert "&lt;script&gt;alert(1)" in run
    assert "<script>alert" not in run
    assert max(map(len, re.findall("z+", run))) == 200 - len("<script>alert(1)</script>")
    assert "… (5,025 characters)" in run
    html = operator.get(page(Batch, "change", batch.pk)).content.decode()
    assert "&quot;&lt;b&gt;&quot;" in html
    assert 100 < html.count("&quot;key") < 150
    assert "characters in all" in html


# --- Organisations and keys -------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_works(operator: Client) -> None:
    organization = make_organization()
    add = page(ApiKey, "add")
    assert operator.get(add).context["adminform"].form["scopes"].value() == list(Scope.values)
    sent = {"organization": str(organization.pk), "name": "shop", "scopes": ["models:read", "assets:read"]}
    sent |= {"expires_at_0": "2099-01-02", "expires_at_1": "03:04:05"}
    answer = operator.post(add, sent, follow=True)
    [key] = re.findall(r"rf_live_\w{43}", answer.content.decode())
    caller = find_caller(key=key)
    assert caller is not None
    assert (caller.organization, caller.api_key.name) == (organization, "shop")
    assert caller.scopes == {"models:read", "assets:read"}
    assert caller.api_key.expires_at is not None
    assert abs(caller.api_key.expires_at - datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)) < timedelta(seconds=5)
    assert ApiKey.objects.count() == 1
    again = operator.get(page(ApiKey, "changelist")).content + operator.get("/admin/").content
    assert key.encode() not in again


@pytest.mark.parametrize(
    "wrong",
    [{"scopes": ["everything"]}, {"scopes": []}, {"expires_at_0": "2001-01-01", "expires_at_1": "00:00"}, {"name": ""}],
)
def test_a_key_that_makes_no_sense_is_not_made(wrong: dict[str, Any], operator: Client) -> None:
    sent = {"organization": str(make_organization().pk), "name": "shop", "scopes": ["models:read"]} | wrong
    answer = operator.post(page(ApiKey, "add"), sent)
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors
    assert not ApiKey.objects.exists()


def test_a_key_is_not_edited(operator: Client) -> None:
    caller, _ = make_key(scopes=["models:read"])
    answer = operator.post(page(ApiKey, "change", caller.api_key.pk), {"scopes": list(Scope.values), "name": "x"})
    assert answer.status_code == 403
    assert ApiKey.objects.get().scopes == ["models:read"]


def test_revoking_tells_what_was_done_and_what_was_not(operator: Client) -> None:
    (first, key), (second, _), (other, other_key) = make_key(), make_key(), make_key()
    ApiKey.objects.filter(pk=second.api_key.pk).update(revoked_at=timezone.now())
    sent = {"action": "revoke", "_selected_action": [str(first.api_key.pk), str(second.api_key.pk)]}
    answer = operator.post(page(ApiKey, "changelist"), sent, follow=True)
    assert "Revoked 1; 1 had been revoked before." in answer.content.decode()
    assert find_caller(key=key) is None
    assert find_caller(key=other_key) == other
    assert "Revoked." in operator.get(page(ApiKey, "history", first.api_key.pk)).content.decode()
    assert "Revoked." not in operator.get(page(ApiKey, "history", second.api_key.pk)).content.decode()


def test_revoking_needs_the_permission_to_change(client: Client, django_user_model: Any) -> None:
    person = django_user_model.objects.create_user("viewer", is_staff=True)
    person.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client.force_login(person)
    caller, key = make_key()
    client.post(page(ApiKey, "changelist"), {"action": "revoke", "_selected_action": [str(caller.api_key.pk)]})
    assert find_caller(key=key) is not None


@pytest.mark.parametrize("state", ["usable", "expired", "revoked"])
def test_keys_are_asked_for_by_state(state: str, operator: Client) -> None:
    for name, changes in {
        "usable": {"expires_at": timezone.now() + timedelta(days=1)},
        "expired": {"expires_at": timezone.now() - timedelta(days=1)},
        "revoked": {"revoked_at": timezone.now()},
    }.items():
        ApiKey.objects.filter(pk=make_key(name=name)[0].api_key.pk).update(**changes)
    found = operator.get(page(ApiKey, "changelist"), {"state": state}).context["cl"].result_list
    assert [key.name for key in found] == [state]


def test_an_organization_gets_a_cap(operator: Client) -> None:
    organization = make_organization()
    url = page(Organization, "change", organization.pk)
    operator.post(url, filled_in(operator.get(url)) | {"max_in_flight": "7"})
    organization.refresh_from_db()
    assert organization.max_in_flight == 7


def test_an_organization_gets_a_quota(operator: Client) -> None:
    organization = make_organization()
    url = page(Organization, "change", organization.pk)
    operator.post(url, filled_in(operator.get(url)) | {"asset_quota_bytes": "1000000000000"})
    organization.refresh_from_db()
    assert organization.asset_quota_bytes == 10**12


def test_an_organization_gets_a_rate_limit(operator: Client) -> None:
    organization = make_organization()
    url = page(Organization, "change", organization.pk)
    operator.post(url, filled_in(operator.get(url)) | {"rate_limit": "0", "rate_limit_burst": "20"})
    organization.refresh_from_db()
    assert (organization.rate_limit, organization.rate_limit_burst) == (0, 20)
    answer = operator.post(url, filled_in(operator.get(url)) | {"rate_limit_burst": "0"})
    assert set(answer.context["adminform"].form.errors) == {"rate_limit_burst"}


# --- Credit -----------------------------------------------------------------------------------------------------------


def test_an_organization_is_put_on_prepaid_credit(operator: Client) -> None:
    organization = make_organization()
    url = page(Organization, "change", organization.pk)
    operator.post(url, filled_in(operator.get(url)) | {"is_prepaid": "on"})
    organization.refresh_from_db()
    assert organization.is_prepaid


def test_an_account_is_opened_with_a_grant(operator: Client) -> None:
    organization = make_organization()
    sent = {"organization": str(organization.pk), "low_balance_threshold": "5", "grant": "12.50", "note": "invoice 17"}
    assert operator.post(page(Account, "add"), sent).status_code == 302
    account = Account.objects.get()
    assert (account.organization, account.balance, account.low_balance_threshold) == (
        organization,
        Decimal("12.5"),
        Decimal(5),
    )
    entry = LedgerEntry.objects.get()
    assert (entry.account, entry.amount, entry.note, entry.created_by) == (
        *(account, Decimal("12.5"), "invoice 17", "operator"),
    )
    history = operator.get(page(Account, "history", account.pk)).content.decode()
    assert "Granted 12.50 USD. invoice 17" in history


def test_a_grant_adds_to_what_the_balance_is_then(operator: Client) -> None:
    """A page that has been open for an hour shows an old balance, and writes none."""
    organization = make_organization()
    account = grant_credit(organization=organization, amount=Decimal(10))
    url = page(Account, "change", account.pk)
    opened = filled_in(operator.get(url))
    hold_credit(organization=organization, cost=Decimal(4), subject_type=SubjectType.RUN, subject_id=organization.pk)
    operator.post(url, opened | {"grant": "1", "balance": "99", "low_balance_threshold": "2"})
    account.refresh_from_db()
    assert (account.balance, account.low_balance_threshold) == (Decimal(7), Decimal(2))
    operator.post(url, opened | {"low_balance_threshold": ""})
    account.refresh_from_db()
    assert (account.balance, account.low_balance_threshold) == (Decimal(7), None)
    assert LedgerEntry.objects.count() == 3


@pytest.mark.parametrize(
    ("grant", "error"),
    [
        ("-10.01", "The balance is 10.00 USD: no more can be taken back."),
        ("much", "Enter a number."),
        ("0.0000001", "Ensure that there are no more than 6 decimal places."),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(grant: str, error: str, operator: Client) -> None:
    account = grant_credit(organization=make_organization(), amount=Decimal(10))
    url = page(Account, "change", account.pk)
    answer = operator.post(url, filled_in(operator.get(url)) | {"grant": grant})
    assert answer.context["adminform"].form.errors == {"grant": [error]}
    assert LedgerEntry.objects.count() == 1


def test_an_entry_is_found_by_what_it_is_of(operator: Client) -> None:
    organization = make_organization(is_prepaid=True)
    account = grant_credit(organization=organization, amount=Decimal(10))
    batch, _ = make_batch(organization=organization)
    make_batch(organization=organization)
    found = operator.get(page(LedgerEntry, "changelist"), {"q": str(batch.pk)}).context["cl"].result_list
    assert [(entry.kind_code, entry.subject_id) for entry in found] == [("hold", batch.pk)]
    assert (
        f"{page(LedgerEntry, 'changelist')}?q={batch.pk}"
        in operator.get(page(Batch, "change", batch.pk)).content.decode()
    )
    html = operator.get(page(LedgerEntry, "change", found[0].pk)).content.decode()
    assert page(Batch, "change", batch.pk) in html
    ledger = page(LedgerEntry, "changelist") + f"?account__id__exact={account.pk}"
    assert ledger in operator.get(page(Account, "change", account.pk)).content.decode()
    assert len(operator.get(ledger).context["cl"].result_list) == 3


@pytest.mark.parametrize(("balance", "expected"), [("low", {"low", "empty"}), ("empty", {"empty"})])
def test_accounts_are_asked_for_by_balance(balance: str, expected: set[str], operator: Client) -> None:
    for slug, credit in (("full", 10), ("low", 1), ("empty", 0)):
        organization = make_organization(slug=slug)
        Account.objects.create(organization=organization, balance=credit, low_balance_threshold=5)
    found = operator.get(page(Account, "changelist"), {"balance": balance}).context["cl"].result_list
    assert {account.organization.slug for account in found} == expected


def test_granting_needs_the_permission_to_change(client: Client, django_user_model: Any) -> None:
    person = django_user_model.objects.create_user("viewer", is_staff=True)
    person.user_permissions.add(Permission.objects.get(codename="view_account"))
    client.force_login(person)
    account = grant_credit(organization=make_organization(), amount=Decimal(10))
    assert client.post(page(Account, "change", account.pk), {"grant": "5"}).status_code == 403
    assert LedgerEntry.objects.count() == 1


# --- Callback secrets -------------------------------------------------------------------------------------------------


def act(operator: Client, action: str, *secrets: CallbackSecret) -> str:
    sent = {"action": action, "_selected_action": [str(secret.pk) for secret in secrets]}
    return str(operator.post(page(CallbackSecret, "changelist"), sent, follow=True).content.decode())


def test_a_callback_secret_is_shown_once_and_signs(operator: Client) -> None:
    organization = make_organization()
    sent = {"organization": str(organization.pk), "label": "shop"}
    answer = operator.post(page(CallbackSecret, "add"), sent, follow=True)
    [secret] = re.findall(r"whsec_[A-Za-z0-9+/]{43}=", answer.content.decode())
    row = CallbackSecret.objects.get()
    assert (row.organization, row.label, row.is_current) == (organization, "shop", True)
    keys = signing_keys(organization_ids=[organization.pk])[organization.pk]
    assert keys is not None
    assert (keys.current_id, keys.active) == (row.pk, (secret,))
    again = operator.get(page(CallbackSecret, "changelist")).content + operator.get("/admin/").content
    assert secret.encode() not in again
    assert operator.get(page(CallbackSecret, "change", row.pk)).status_code == 200


@pytest.mark.parametrize("label", ["", " ", "x" * 256])
def test_a_callback_secret_without_a_proper_label_is_not_made(label: str, operator: Client) -> None:
    sent = {"organization": str(make_organization().pk), "label": label}
    answer = operator.post(page(CallbackSecret, "add"), sent)
    assert set(answer.context["adminform"].form.errors) == {"label"}
    assert not CallbackSecret.objects.exists()


def test_an_eleventh_callback_secret_is_not_made(operator: Client) -> None:
    organization = make_organization()
    for _ in range(10):
        create_secret(organization=organization, label="shop")
    answer = operator.post(page(CallbackSecret, "add"), {"organization": str(organization.pk), "label": "more"})
    msg = "There are 10 active secrets already: delete one first."
    assert answer.context["adminform"].form.errors == {"organization": [msg]}
    assert CallbackSecret.objects.count() == 10


def test_a_callback_secret_is_not_edited(operator: Client) -> None:
    secret, _ = create_secret(organization=make_organization(), label="shop")
    before = CallbackSecret.objects.values().get()
    assert operator.post(page(CallbackSecret, "change", secret.pk), {"label": "x"}).status_code == 403
    assert CallbackSecret.objects.values().get() == before


def test_disabling_secrets_tells_what_was_done_and_what_was_not(operator: Client) -> None:
    organization = make_organization()
    first, second, third = (create_secret(organization=organization, label="shop")[0] for _ in range(3))
    disable_secret(secret_id=second.pk, organization=organization)
    assert "Disabled 1; 1 had been disabled before." in act(operator, "disable", first, second)
    assert list(CallbackSecret.objects.filter(disabled_at__isnull=True, is_current=True)) == [third]
    assert "Disabled." in operator.get(page(CallbackSecret, "history", first.pk)).content.decode()
    assert "Disabled." not in operator.get(page(CallbackSecret, "history", second.pk)).content.decode()


def test_another_secret_is_made_current(operator: Client) -> None:
    organization = make_organization()
    first, second, third = (create_secret(organization=organization, label="shop")[0] for _ in range(3))
    other, _ = create_secret(organization=make_organization(), label="shop")
    answer = act(operator, "make_current", second, other)
    assert "Made 1 current; 1 had been before, or were disabled." in answer
    assert set(CallbackSecret.objects.filter(is_current=True)) == {second, other}
    disable_secret(secret_id=third.pk, organization=organization)
    assert "Made 0 current; 1 had been before, or were disabled." in act(operator, "make_current", third)
    assert "Choose one secret for each organization." in act(operator, "make_current", first, second)
    assert set(CallbackSecret.objects.filter(is_current=True)) == {second, other}
    assert "Made current." in operator.get(page(CallbackSecret, "history", second.pk)).content.decode()
    assert "Made current." not in operator.get(page(CallbackSecret, "history", other.pk)).content.decode()


@pytest.mark.parametrize("action", ["disable", "make_current"])
def test_switching_secrets_needs_the_permission_to_change(action: str, client: Client, django_user_model: Any) -> None:
    person = django_user_model.objects.create_user("viewer", is_staff=True)
    person.user_permissions.add(Permission.objects.get(codename="view_callbacksecret"))
    client.force_login(person)
    organization = make_organization()
    _, second = (create_secret(organization=organization, label="shop")[0] for _ in range(2))
    before = list(CallbackSecret.objects.order_by("pk").values())
    act(client, action, second)
    assert list(CallbackSecret.objects.order_by("pk").values()) == before


@pytest.mark.parametrize(("state", "labels"), [("current", ["a"]), ("active", ["b", "a"]), ("disabled", ["c"])])
def test_secrets_are_asked_for_by_state(state: str, labels: list[str], operator: Client) -> None:
    organization = make_organization()
    *_, last = (create_secret(organization=organization, label=label)[0] for label in "abc")
    disable_secret(secret_id=last.pk, organization=organization)
    found = operator.get(page(CallbackSecret, "changelist"), {"state": state}).context["cl"].result_list
    assert [secret.label for secret in found] == labels


def test_the_encrypted_secret_stays_in_the_database(operator: Client) -> None:
    secret, _ = create_secret(organization=make_organization(), label="shop")
    with CaptureQueriesContext(connection) as log:
        operator.get(page(CallbackSecret, "changelist"))
        operator.get(page(CallbackSecret, "change", secret.pk))
    assert [query["sql"] for query in log.captured_queries if '"encrypted"' in query["sql"]] == []


# --- Models -----------------------------------------------------------------------------------------------------------


def edit(operator: Client, model: Model, **changes: Any) -> Any:
    """Open the model's page, change these fields, save."""
    url = page(Model, "change", model.pk)
    return operator.post(
        url, filled_in(operator.get(url)) | {name.replace("__", "-"): changes[name] for name in changes}
    )


def test_a_page_saved_as_it_was_makes_no_version(operator: Client) -> None:
    inputs: list[dict[str, Any]] = [
        {"name": "size", "variable_type_code": "integer", "validator_code": "range", "validator_attrs": {"min": 1}},
        {
            "name": "color",
            "variable_type_code": "string",
            "default_behavior_code": "use_default",
            "default_value": "red",
        },
    ]
    model = make_model(inputs=inputs)
    before = list(ModelInput.objects.values())
    answer = edit(operator, model)
    assert answer.status_code == 302
    assert list(ModelInput.objects.values()) == before
    model.refresh_from_db()
    assert model.version == 1


def test_another_price_makes_no_version(operator: Client) -> None:
    model = make_model()
    assert edit(operator, model, price="0.25").status_code == 302
    model.refresh_from_db()
    assert (str(model.price), model.version) == ("0.250000", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs__0__validator_code": "length", "inputs__0__validator_attrs": '{"max": 5}'},
        {"inputs__0__is_required": "on"},
        {
            "inputs__TOTAL_FORMS": "2",
            "inputs__1__name": "more",
            "inputs__1__variable_type_code": "json",
            "inputs__1__validator_code": "none",
            "inputs__1__default_behavior_code": "omit",
            "inputs__1__sort_order": "1",
        },
    ],
    ids=["changed", "required", "added"],
)
def test_changed_inputs_make_a_new_version(changes: dict[str, str], operator: Client) -> None:
    model = make_model()
    answer = edit(operator, model, **changes)
    assert answer.status_code == 302, answer.context["errors"]
    model.refresh_from_db()
    assert model.version == 2


def test_an_unbound_input_is_removed_with_a_new_version(operator: Client) -> None:
    model = make_model()
    extra = ModelInput.objects.create(model=model, name="extra", variable_type_code="string", sort_order=5)
    assert edit(operator, model, inputs__1__DELETE="on").status_code == 302
    model.refresh_from_db()
    assert (model.version, ModelInput.objects.filter(pk=extra.pk).exists()) == (2, False)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"validator_code": "range", "validator_attrs": '{"min": 1}'}, {"validator_code"}),
        ({"validator_code": "length", "validator_attrs": '{"min": 9, "max": 3}'}, {"validator_attrs"}),
        ({"validator_attrs": '{"min": NaN}'}, {"validator_attrs"}),
        ({"validator_attrs": "no json"}, {"validator_attrs"}),
        ({"default_value": '"\\u0000"'}, {"default_value"}),
        ({"is_required": "on", "default_behavior_code": "use_default", "default_value": '"x"'}, {"default_value"}),
        ({"name": "client_ref"}, {"name"}),
        ({"name": "Not A Name"}, {"name"}),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(
    changes: dict[str, str], fields: set[str], operator: Client
) -> None:
    model = make_model()
    before = list(ModelInput.objects.values())
    answer = edit(operator, model, **{f"inputs__0__{name}": value for name, value in changes.items()})
    assert answer.status_code == 200
    [formset] = [each.formset for each in answer.context["inline_admin_formsets"] if each.opts.model is ModelInput]
    assert fields <= set(formset.forms[0].errors)
    assert list(ModelInput.objects.values()) == before
    model.refresh_from_db()
    assert model.version == 1


def test_an_input_that_a_template_binds_stays(operator: Client) -> None:
    model = make_model()
    answer = edit(operator, model, inputs__0__DELETE="on")
    assert answer.status_code == 200
    assert "the model declares no input &#x27;text&#x27;" in answer.content.decode()
    assert model.inputs.count() == 1


def test_a_required_input_that_no_template_binds_is_refused(operator: Client) -> None:
    model = make_model()
    ModelInput.objects.create(model=model, name="extra", variable_type_code="string", sort_order=5)
    answer = edit(operator, model, inputs__1__is_required="on")
    assert "the required input &#x27;extra&#x27; is bound to nothing" in answer.content.decode()
    assert not model.inputs.filter(is_required=True).exists()


def test_a_link_with_a_template_for_other_inputs_is_refused(operator: Client) -> None:
    model, other = make_model(), make_model(inputs=[{"name": "prompt", "variable_type_code": "string"}])
    link, template = model.links.get(), Template.objects.get(links__model=other)
    sent = {"model": str(model.pk), "provider": str(link.provider_id), "priority": "1", "is_active": "on"}
    answer = operator.post(page(ProviderLink, "change", link.pk), {**sent, "template": str(template.pk)})
    assert "the model declares no input &#x27;prompt&#x27;" in answer.content.decode()
    link.refresh_from_db()
    assert link.template != template


@pytest.mark.parametrize(("field", "value"), [("owner", "No Owner"), ("slug", "a//b"), ("slug", "x/runs")])
def test_a_model_is_reachable_by_its_path(field: str, value: str, operator: Client) -> None:
    model = make_model()
    answer = edit(operator, model, **{field: value})
    assert set(answer.context["adminform"].form.errors) == {field}


def test_a_model_is_made_by_hand_with_version_1(operator: Client) -> None:
    template = Template.objects.get(links__model=make_model())
    sent = filled_in(operator.get(page(Model, "add"))) | {
        "owner": "shop",
        "slug": "echo",
        "name": "Echo",
        "price": "0.5",
        "inputs-TOTAL_FORMS": "1",
        "inputs-0-name": "text",
        "inputs-0-variable_type_code": "string",
        "inputs-0-validator_code": "none",
        "inputs-0-default_behavior_code": "omit",
        "inputs-0-sort_order": "0",
        "links-TOTAL_FORMS": "1",
        "links-0-provider": str(make_provider().pk),
        "links-0-template": str(template.pk),
        "links-0-priority": "100",
        "links-0-is_active": "on",
        "outputs-TOTAL_FORMS": "1",
        "outputs-0-name": "text",
        "outputs-0-variable_type_code": "string",
        "outputs-0-sort_order": "0",
    }
    answer = operator.post(page(Model, "add"), sent)
    assert answer.status_code == 302, answer.context["errors"]
    model = Model.objects.get(owner="shop")
    assert model.version == 1
    batch, _ = make_batch(model=model)
    assert batch.resolved_template == template


def test_a_models_page_costs_the_same_for_one_link_and_for_thirty(operator: Client) -> None:
    model = make_model()
    url = page(Model, "change", model.pk)
    operator.get(url)
    one = count(lambda: operator.get(url))
    for number in range(29):
        template = Template.objects.create(name=f"more-{number}", body={})
        ProviderLink.objects.create(model=model, provider=make_provider(), template=template, is_active=False)
        ModelInput.objects.create(model=model, name=f"more_{number}", variable_type_code="string")
    assert count(lambda: operator.get(url)) == one


# --- Providers --------------------------------------------------------------------------------------------------------


def test_pausing_and_resuming_tell_what_was_done(operator: Client) -> None:
    first, second = make_provider(), make_provider(status_code="paused")
    chosen = {"_selected_action": [str(first.pk), str(second.pk)]}
    answer = operator.post(page(Provider, "changelist"), {"action": "pause", **chosen}, follow=True)
    assert "Paused 1; 1 had been paused before." in answer.content.decode()
    assert set(Provider.objects.values_list("status_code", flat=True)) == {"paused"}
    answer = operator.post(page(Provider, "changelist"), {"action": "resume", **chosen}, follow=True)
    assert "Resumed 2; 0 had been active before." in answer.content.decode()
    assert set(Provider.objects.values_list("status_code", flat=True)) == {"active"}


def add_endpoint(operator: Client, provider: Provider, base_url: str) -> Any:
    url = page(Provider, "change", provider.pk)
    sent = filled_in(operator.get(url))
    number = int(sent["endpoints-TOTAL_FORMS"])
    new = {"base_url": base_url, "max_in_flight": "2", "status_code": "active"}
    sent |= {f"endpoints-{number}-{name}": value for name, value in new.items()}
    return operator.post(url, sent | {"endpoints-TOTAL_FORMS": str(number + 1)})


def test_a_server_of_a_container_network_is_added(operator: Client) -> None:
    provider = make_provider()
    assert add_endpoint(operator, provider, "http://comfyui:8188").status_code == 302
    assert list(Endpoint.objects.values_list("base_url", "max_in_flight")) == [("http://comfyui:8188", 2)]


@pytest.mark.parametrize("base_url", ["http://first:1", "ftp://x", "http://user:word@x/", "comfyui:8188"])
def test_an_endpoint_that_cannot_be_is_refused(base_url: str, operator: Client) -> None:
    provider = make_provider()
    Endpoint.objects.create(provider=provider, base_url="http://first:1")
    answer = add_endpoint(operator, provider, base_url)
    assert answer.status_code == 200
    assert answer.context["errors"]
    assert Endpoint.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"config": "[]"}, "config"),
        ({"config": "{"}, "config"),
        ({"claim_size": "0"}, "__all__"),
        ({"adapter_code": "x"}, "adapter_code"),
    ],
)
def test_a_provider_that_cannot_be_is_refused(changes: dict[str, str], field: str, operator: Client) -> None:
    provider = make_provider()
    url = page(Provider, "change", provider.pk)
    answer = operator.post(url, filled_in(operator.get(url)) | changes)
    assert set(answer.context["adminform"].form.errors) == {field}


# --- Batches and runs -------------------------------------------------------------------------------------------------


def test_a_batch_page_costs_the_same_for_one_item_and_for_thirty(operator: Client) -> None:
    model = make_model()
    one, _ = make_batch(model=model)
    thirty, handles = make_batch(model=model, items=[{"text": str(number)} for number in range(30)])
    operator.get(page(Batch, "change", one.pk))
    statements = count(lambda: operator.get(page(Batch, "change", one.pk)))
    answer = operator.get(page(Batch, "change", thirty.pk))
    assert [answer.content.decode().count(page(Run, "change", handle.run_id)) for handle in handles] == [1] * 30
    assert count(lambda: operator.get(page(Batch, "change", thirty.pk))) == statements


def test_lists_leave_inputs_and_outputs_in_the_database(operator: Client) -> None:
    make_batch(metadata={"a": 1})
    for model, names in ((Run, ("input", "output", "metadata")), (Batch, ("metadata",))):
        with CaptureQueriesContext(connection) as log:
            operator.get(page(model, "changelist"))
        sql = "".join(query["sql"] for query in log.captured_queries)
        table = model._meta.db_table
        assert f'"{table}"."status_code"' in sql
        assert [name for name in names if f'"{table}"."{name}"' in sql] == []


@pytest.mark.django_db(transaction=True)
def test_a_finished_batch_shows_its_counters_cost_and_errors(operator: Client) -> None:
    inputs = [{"name": "mode", "variable_type_code": "string"}]
    failing, fine = make_model(function="fail", inputs=inputs), make_model()
    organization = make_organization()
    batches = [
        make_batch(organization=organization, model=fine, items=[{"text": "a"}, {"text": "b"}])[0],
        make_batch(organization=organization, model=failing, items=[{"mode": "permanent"}])[0],
    ]
    for provider in Provider.objects.all():
        engine.execute(provider_id=provider.pk)
    html = operator.get(page(Batch, "changelist")).content.decode()
    assert "2/2 ok" in html
    assert "0/1 ok, 1 failed" in html
    assert "0.02" in html
    failure = Run.objects.get(batch=batches[1])
    detail = operator.get(page(Batch, "change", batches[1].pk)).content.decode()
    assert f"{failure.failure_code}: {failure.failure_message}" in detail.replace("&#x27;", "'").replace("&quot;", '"')


def test_batches_that_are_still_open_are_asked_for(operator: Client) -> None:
    still, _ = make_batch()
    over, _ = make_batch()
    Batch.objects.filter(pk=over.pk).update(status_code="canceled", items_cancelled=1, completed_at=timezone.now())
    found = operator.get(page(Batch, "changelist"), {"progress": "still open"}).context["cl"].result_list
    assert list(found) == [still]


def test_batches_of_an_organization_and_runs_of_a_batch_are_found(operator: Client) -> None:
    batch, handles = make_batch(items=[{"text": "a"}, {"text": "b"}])
    make_batch()
    of_organization = operator.get(page(Batch, "changelist"), {"q": batch.organization.slug}).context["cl"].result_list
    assert list(of_organization) == [batch]
    of_batch = operator.get(page(Run, "changelist"), {"q": str(batch.pk)}).context["cl"].result_list
    assert {run.pk for run in of_batch} == {handle.run_id for handle in handles}


def test_runs_in_trouble_are_asked_for(operator: Client) -> None:
    model = make_model()
    batch, _ = make_batch(model=model, items=[{"text": text} for text in "abcd"])
    provider_id = model.links.get().provider_id
    expired, held = lifecycle.claim_runs(provider_id=provider_id, limit=2)
    Run.objects.filter(pk=expired.id).update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    retried = Run.objects.filter(batch=batch).exclude(pk__in=[expired.id, held.id]).order_by("pk")[0]
    Run.objects.filter(pk=retried.pk).update(attempt=1, due_at=timezone.now() + timedelta(minutes=1))

    def found(trouble: str) -> list[Any]:
        answer = operator.get(page(Run, "changelist"), {"trouble": trouble})
        return [run.pk for run in answer.context["cl"].result_list]

    assert found("lease expired") == [expired.id]
    assert found("waiting to retry") == [retried.pk]


# --- Files and answers ------------------------------------------------------------------------------------------------


def test_a_picture_is_previewed_and_other_files_are_linked(operator: Client) -> None:
    picture, text = make_asset(), make_asset(asset_type=AssetType.TEXT, mime_type="text/plain")
    link = f"/v1/files/{picture.pk}?expires="
    html = operator.get(page(Asset, "change", picture.pk)).content.decode()
    assert re.search(rf'<img src="http[^"]+{re.escape(link)}', html)
    html = operator.get(page(Asset, "change", text.pk)).content.decode()
    assert f"/v1/files/{text.pk}?expires=" in html
    assert '<img src="http' not in html


def test_uploads_without_bytes_are_asked_for(operator: Client) -> None:
    waiting, here = make_upload(), make_upload(storage_key="uploads/x")
    for question, upload in {"not here yet": waiting, "here, not confirmed": here}.items():
        found = operator.get(page(AssetUpload, "changelist"), {"bytes": question}).context["cl"].result_list
        assert list(found) == [upload]


def test_a_runs_pictures_are_on_its_page(operator: Client) -> None:
    _, [item] = make_batch()
    asset = make_asset()
    outputs = [{"asset_id": str(asset.pk), "type": "image"}, {"asset_id": str(uuid4()), "type": "text"}]
    Run.objects.filter(pk=item.run_id).update(output={"outputs": outputs})
    html = operator.get(page(Run, "change", item.run_id)).content.decode()
    assert re.findall(r'<img src="http[^"]+/v1/files/([^?]+)', html) == [str(asset.pk)]


def test_an_answer_is_shown_as_text_whatever_its_bytes(operator: Client) -> None:
    record = make_record(response_body=b"\xff<i>" + b"y" * 3000, expires_at=timezone.now() - timedelta(seconds=1))
    make_record()
    html = operator.get(page(IdempotencyRecord, "change", record.pk)).content.decode()
    assert "\ufffd&lt;i&gt;yyy" in html
    assert "y" * 2001 not in html
    found = operator.get(page(IdempotencyRecord, "changelist"), {"time": "expired"}).context["cl"].result_list
    assert list(found) == [record]
    found = operator.get(page(IdempotencyRecord, "changelist"), {"q": record.key}).context["cl"].result_list
    assert list(found) == [record]


# --- The first operator -----------------------------------------------------------------------------------------------


def test_createsuperuser_makes_an_operator_who_can_log_in(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"USERNAME": "root", "EMAIL": "root@example.com", "PASSWORD": "correct horse"}.items():
        monkeypatch.setenv(f"DJANGO_SUPERUSER_{name}", value)
    call_command("createsuperuser", interactive=False, verbosity=0)
    answer = client.post("/admin/login/?next=/admin/", {"username": "root", "password": "correct horse"}, follow=True)
    assert answer.redirect_chain == [("/admin/", 302)]
    html = answer.content.decode()
    assert [model for model in EVERY_MODEL if page(model, "changelist") not in html] == []


# --- Callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_are_sent_again_by_an_action_on_batches(operator: Client) -> None:
    over, going_on = (make_batch(callback_url="https://shop.example/done")[0] for _ in range(2))
    end_batch(over)
    CallbackDelivery.objects.update(status_code="delivered", next_attempt_at=None, completed_at=timezone.now())
    response = operator.post(
        page(Batch, "changelist"),
        {"action": "send_callback_again", "_selected_action": [str(over.pk), str(going_on.pk)]},
        follow=True,
    )
    assert (
        "Sending 1; 1 left out: not over, without a callback_url, or with one in flight." in response.content.decode()
    )
    (again,) = CallbackDelivery.objects.filter(is_automatic=False)
    assert (again.subject_id, again.status_code) == (over.pk, "pending")


def test_who_may_only_look_is_not_offered_to_send_again(client: Client) -> None:
    watcher = get_user_model().objects.create_user("watcher", is_staff=True)
    watcher.user_permissions.set(Permission.objects.filter(codename="view_batch"))
    client.force_login(watcher)
    make_batch()
    assert "send_callback_again" not in client.get(page(Batch, "changelist")).content.decode()


def test_a_delivery_is_found_by_its_batch_and_shows_its_attempts_and_its_body(operator: Client) -> None:
    delivery = make_attempt(payload=b'{"event": "batch.succeeded", "note": "<b>"}').delivery
    make_attempt()
    found = operator.get(page(CallbackDelivery, "changelist"), {"q": str(delivery.subject_id)})
    assert list(found.context["cl"].result_list) == [delivery]
    shown = operator.get(page(CallbackDelivery, "change", delivery.pk)).content.decode()
    assert "batch.succeeded" in shown
    assert "&lt;b&gt;" in shown
    assert re.search(r"<td class=\"field-status\">\s*<p>500</p>", shown), "the attempt"
