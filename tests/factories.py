"""`make_*`: plain functions with overrides; what a test does not name is valid and of no interest to it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from typing import Any

from django.utils import timezone

from accounts.models import Organization
from accounts.services import Caller, create_api_key
from batches import lifecycle
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from batches.services import ItemHandle, check_batch_request, create_batch
from billing.services import grant_credit
from callbacks.lifecycle import Draft, create_deliveries
from callbacks.models import CallbackAttempt, CallbackDelivery, SubjectType
from models_registry.catalogue import batch_target
from models_registry.models import Model, ModelInput, Provider, ProviderLink, Template
from runflow.lib.ids import uuid7

_numbers = count(1)


def make_organization(**overrides: Any) -> Organization:
    number = next(_numbers)
    return Organization.objects.create(**{"name": f"Shop {number}", "slug": f"shop-{number}"} | overrides)


def make_prepaid(credit: str | Decimal = "0", **overrides: Any) -> Organization:
    """An organisation that may spend so much USD."""
    organization = make_organization(is_prepaid=True, **overrides)
    if Decimal(credit):
        grant_credit(organization=organization, amount=Decimal(credit))
    return organization


def make_key(organization: Organization | None = None, **overrides: Any) -> tuple[Caller, str]:
    """A caller and the key to send."""
    organization = organization or make_organization()
    row, key = create_api_key(organization=organization, **{"name": "tests"} | overrides)
    return Caller(api_key=row, organization=organization), key


def make_provider(**overrides: Any) -> Provider:
    number = next(_numbers)
    values = {
        "code": f"provider-{number}",
        "name": f"Provider {number}",
        "adapter_code": "local",
        "config": {"modules": ["providers.local.testing"]},
        "claim_size": 100,
        "run_timeout": 60,
    }
    return Provider.objects.create(**values | overrides)


def make_model(
    *,
    inputs: Sequence[dict[str, Any]] = ({"name": "text", "variable_type_code": "string"},),
    function: str = "noop",
    provider: Provider | None = None,
    is_template_backed: bool = True,
    **overrides: Any,
) -> Model:
    """A model of the testing provider, whose inputs go to the arguments of `function` by name."""
    number = next(_numbers)
    values = {
        "owner": "testing",
        "slug": f"model-{number}",
        "name": f"Model {number}",
        "price": Decimal("0.01"),
    }
    model = Model.objects.create(**values | overrides)
    for order, each in enumerate(inputs):
        ModelInput.objects.create(model=model, sort_order=order, **each)
    template = None
    if is_template_backed:
        template = Template.objects.create(
            name=f"template-{number}",
            body={"function": function, "arguments": {each["name"]: None for each in inputs}},
            bindings=[{"input": each["name"], "target": f"/arguments/{each['name']}"} for each in inputs],
        )
    ProviderLink.objects.create(model=model, provider=provider or make_provider(), template=template)
    return model


def make_batch(
    *,
    organization: Organization | None = None,
    model: Model | None = None,
    items: Sequence[dict[str, Any]] = ({"text": "a"},),
    **body: Any,
) -> tuple[Batch, list[ItemHandle]]:
    organization, model = organization or make_organization(), model or make_model()
    target = batch_target(owner=model.owner, slug=model.slug, organization=organization)
    request = check_batch_request(target=target, body={"input": list(items), **body})
    return create_batch(organization=organization, target=target, request=request)


def end_batch(batch: Batch, *statuses: str) -> Batch:
    """End the runs of a batch in order with these statuses, all of them succeeded if none is given."""
    runs = lifecycle.claim_runs(provider_id=Run.objects.filter(batch=batch)[0].provider_id, limit=1000)
    assert {run.batch_id for run in runs} == {batch.pk}, "another batch waits at this provider"
    given = statuses or (RunStatus.SUCCEEDED,) * len(runs)
    lifecycle.settle(
        settlements=[
            Settlement(
                run.id,
                run.attempt,
                RunStatus(status),
                output='{"outputs": [], "seed": null, "timing": null, "nsfw_detected": null}'
                if status == RunStatus.SUCCEEDED
                else None,
                failure_code="EXECUTION_FAILED" if status == RunStatus.FAILED else None,
                failure_message="No." if status == RunStatus.FAILED else None,
                failure_stage_code="execute" if status == RunStatus.FAILED else None,
            )
            for run, status in zip(runs, given, strict=True)
        ]
    )
    batch.refresh_from_db()
    return batch


def make_delivery(*, organization: Organization | None = None, **overrides: Any) -> CallbackDelivery:
    """One due delivery of a batch that nobody knows."""
    values: dict[str, Any] = {
        "subject_type": SubjectType.BATCH,
        "subject_id": uuid7(),
        "organization_id": (organization or make_organization()).pk,
        "callback_url": "https://shop.example/done",
        "payload": b'{"event":"batch.succeeded"}',
        "request_id": "the-request",
    }
    created = create_deliveries(drafts=[Draft(**values | overrides)], is_automatic=True)
    return CallbackDelivery.objects.get(pk__in=created.values())


def make_attempt(**delivery: Any) -> CallbackAttempt:
    """One attempt that was answered 500, of a new delivery."""
    return CallbackAttempt.objects.create(
        delivery=make_delivery(**delivery),
        attempt_number=1,
        status_code=500,
        response_body="no",
        created_at=timezone.now(),
    )
