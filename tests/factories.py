"""`make_*`: plain functions with overrides; what a test does not name is valid and of no interest to it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from typing import Any

from accounts.models import Organization
from accounts.services import Caller, create_api_key
from batches.models import Batch
from batches.services import ItemHandle, check_batch_request, create_batch
from models_registry.catalogue import batch_target
from models_registry.models import Model, ModelInput, Provider, ProviderLink, Template

_numbers = count(1)


def make_organization(**overrides: Any) -> Organization:
    number = next(_numbers)
    return Organization.objects.create(**{"name": f"Shop {number}", "slug": f"shop-{number}"} | overrides)


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
