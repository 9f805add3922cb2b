"""The database's own word: what it refuses, whoever writes it. One row a constraint; another test compares both lists."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from accounts.models import ApiKey, Organization
from batches.models import Batch, BatchItem, Run
from callbacks.models import CallbackAttempt, CallbackDelivery, CallbackSecret
from callbacks.services import create_secret
from idempotency.models import IdempotencyRecord
from models_registry.models import Endpoint, Model, ModelInput, ModelOutput, Provider, ProviderLink, Template
from runflow.lib.ids import uuid7
from tests.factories import make_attempt, make_batch, make_delivery, make_key, make_model, make_organization

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def again(row: Any, **changes: Any) -> None:
    """Store a copy of a row under another id."""
    row.pk = uuid7()
    for name, value in changes.items():
        setattr(row, name, value)
    row.save(force_insert=True)


def change(table: type[Any], make: Callable[[], object], **changes: Any) -> Callable[[], object]:
    def act() -> object:
        make()
        return table.objects.update(**changes)

    return act


def repeat(table: type[Any], make: Callable[[], object], **changes: Any) -> Callable[[], object]:
    def act() -> None:
        make()
        again(table.objects.all()[0], **changes)

    return act


def record() -> None:
    IdempotencyRecord.objects.create(
        organization=make_organization(), key="k", fingerprint="f", created_at=NOW, expires_at=NOW
    )


def endpoint() -> None:
    make_model()
    Endpoint.objects.create(provider=Provider.objects.get(), base_url="http://one.test")


def output() -> None:
    ModelOutput.objects.create(model=make_model(), name="image")


def secret() -> None:
    create_secret(organization=make_organization(), label="shop")


REFUSED: dict[str, Callable[[], object]] = {
    # batches
    "batch_status_known": change(Batch, make_batch, status_code="done"),
    "batch_completed_at_iff_terminal": change(Batch, make_batch, status_code="succeeded", items_succeeded=1),
    "batch_counters_within_total": change(Batch, make_batch, items_failed=2),
    "batch_counters_sum_to_total_when_terminal": change(Batch, make_batch, status_code="failed", completed_at=NOW),
    "batch_cost_not_negative": change(Batch, make_batch, cost=Decimal(-1)),
    "run_status_known": change(Run, make_batch, status_code="done"),
    "run_completed_at_iff_terminal": change(Run, make_batch, status_code="canceled"),
    "run_lease_iff_live": change(Run, make_batch, status_code="running"),
    "run_cost_iff_succeeded": change(Run, make_batch, cost=Decimal(1)),
    "run_failure_code_iff_failed": change(Run, make_batch, failure_code="X"),
    "run_cost_not_negative": change(Run, make_batch, status_code="succeeded", completed_at=NOW, cost=Decimal(-1)),
    "batchitem_batch_sequence_unique": change(
        BatchItem, lambda: make_batch(items=[{"text": "a"}, {"text": "b"}]), sequence_index=0
    ),
    # callbacks
    "callbacksecret_one_current": repeat(CallbackSecret, secret),
    "callbacksecret_wiped_iff_disabled": change(CallbackSecret, secret, disabled_at=NOW, is_current=False),
    "delivery_one_automatic": repeat(
        CallbackDelivery,
        make_delivery,
        status_code="delivered",
        next_attempt_at=None,
        completed_at=NOW,
    ),
    "delivery_one_in_flight": repeat(CallbackDelivery, make_delivery, is_automatic=False),
    "delivery_status_known": change(
        CallbackDelivery, make_delivery, status_code="lost", next_attempt_at=None, completed_at=NOW
    ),
    "delivery_subject_known": change(CallbackDelivery, make_delivery, subject_type="model"),
    "delivery_next_attempt_iff_pending": change(CallbackDelivery, make_delivery, next_attempt_at=None),
    "delivery_reason_iff_failed": change(CallbackDelivery, make_delivery, failure_reason_code="gone"),
    "delivery_attempts_within_max": change(CallbackDelivery, make_delivery, attempt_count=F("max_attempts") + 1),
    "attempt_of_delivery_unique": repeat(CallbackAttempt, make_attempt),
    # idempotency
    "idempotency_organization_key_unique": repeat(IdempotencyRecord, record),
    # models_registry
    "model_owner_slug_unique": repeat(Model, make_model),
    "model_status_known": change(Model, make_model, status_code="old"),
    "model_price_not_negative": change(Model, make_model, price=Decimal(-1)),
    "modelinput_model_name_unique": repeat(ModelInput, make_model),
    "modeloutput_model_name_unique": repeat(ModelOutput, output),
    "template_name_version_unique": repeat(Template, make_model),
    "provider_status_known": change(Provider, make_model, status_code="old"),
    "provider_claim_size_within_bounds": change(Provider, make_model, claim_size=0),
    "endpoint_provider_base_url_unique": repeat(Endpoint, endpoint),
    "endpoint_status_known": change(Endpoint, endpoint, status_code="old"),
    "providerlink_model_provider_unique": repeat(ProviderLink, make_model),
}
ENGINE = ("batches", "callbacks", "idempotency", "models_registry")


@pytest.mark.parametrize("name", REFUSED)
def test_the_database_refuses_what_cannot_be(name: str) -> None:
    with pytest.raises(IntegrityError, match=name), transaction.atomic():
        REFUSED[name]()


def test_every_constraint_of_the_engine_is_in_the_list() -> None:
    tables = [table for label in ENGINE for table in apps.get_app_config(label).get_models()]
    assert {constraint.name for table in tables for constraint in table._meta.constraints} == set(REFUSED)


def test_slugs_and_hashes_of_keys_are_unique() -> None:
    make_key()
    with pytest.raises(IntegrityError, match="secret_hash"), transaction.atomic():
        again(ApiKey.objects.get())
    with pytest.raises(IntegrityError, match="slug"), transaction.atomic():
        again(Organization.objects.get())


def test_an_item_has_a_run_of_its_own() -> None:
    make_batch(items=[{"text": "a"}, {"text": "b"}])
    with pytest.raises(IntegrityError, match="run_id"), transaction.atomic():
        BatchItem.objects.update(run=Run.objects.all()[0])
