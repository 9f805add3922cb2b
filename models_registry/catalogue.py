"""Reading the registry: what may be seen, and what a new batch or run goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q, QuerySet

from accounts.models import Organization
from models_registry.declarations import check_model_path
from models_registry.models import Model, ModelStatus, ProviderLink, Template
from models_registry.validation import ItemSerializer, validator_for
from runflow.lib import errors


class ModelNotFound(errors.NotFound):
    code, message = "MODEL_NOT_FOUND", "There is no such model."


class ModelUnavailable(errors.ServiceUnavailable):
    code, message = "MODEL_UNAVAILABLE", "This model does not accept work at the moment."


@dataclass(frozen=True, slots=True)
class Target:
    """A model that may be used, the link through which its runs go, and its compiled declarations."""

    model: Model
    link: ProviderLink
    serializer_class: type[ItemSerializer]


@dataclass(frozen=True, slots=True)
class BatchTarget(Target):
    """One whose link has a template: only such models take batches (contract.md section 3.1)."""

    template: Template


def _usable_by(organization: Organization, prefix: str = "") -> Q:
    """Models of its own, and those that belong to nobody or are public."""
    return (
        Q(**{f"{prefix}organization__isnull": True})
        | Q(**{f"{prefix}organization": organization})
        | Q(**{f"{prefix}is_public": True})
    )


def visible_models(organization: Organization) -> QuerySet[Model]:
    """What the organisation may see: the models that it may use, inactive ones too."""
    return Model.objects.filter(_usable_by(organization))


def public_models() -> QuerySet[Model]:
    """What everybody may see, without a key."""
    return Model.objects.filter(is_public=True, status_code=ModelStatus.ACTIVE)


def visible_model(*, owner: str, slug: str, organization: Organization, related: Sequence[str] = ()) -> Model:
    """The model of this name, with its `related` rows ("inputs", "outputs"), each in a statement of its own.

    Raises ModelNotFound, also for another organisation's private model.
    """
    if check_model_path(owner, slug):
        raise ModelNotFound  # before the database sees it: no text that PostgreSQL could not take
    model = visible_models(organization).prefetch_related(*related).filter(owner=owner, slug=slug).first()
    if model is None:
        raise ModelNotFound
    return model


def find_model(*, owner: str, slug: str, organization: Organization) -> Model:
    """The active model of this name that the organisation may use.

    Raises ModelNotFound, also for another organisation's private model; ModelUnavailable for an inactive one.
    """
    model = visible_model(owner=owner, slug=slug, organization=organization)
    if model.status_code != ModelStatus.ACTIVE:
        raise ModelUnavailable
    return model


def batch_target(
    *, owner: str, slug: str, organization: Organization, loc: Sequence[str | int] = ("path", "slug")
) -> BatchTarget:
    """What a batch of this model runs on: its active link of the lowest priority number that has a template.

    One statement, and one more when this process meets the model's version for the first time. Raises ModelNotFound,
    ModelUnavailable, and ValidationFailed `model_not_template_backed` at `loc` for a provider-only model.
    """
    links = _active_links(owner=owner, slug=slug, organization=organization)
    link = links.filter(template__isnull=False).first()
    if link is None or link.template is None:
        find_model(owner=owner, slug=slug, organization=organization)  # says what is wrong with the model itself
        message = "This model cannot run batches: no active provider link of it has a template."
        raise errors.ValidationFailed(
            message, errors=[{"loc": [*loc], "msg": message, "type": "model_not_template_backed"}]
        )
    return BatchTarget(link.model, link, _validator_for(link.model), link.template)


def run_target(*, owner: str, slug: str, organization: Organization) -> Target:
    """What a single run of this model runs on: its active link of the lowest priority number, with a template or without.

    Statements as for `batch_target`. Raises ModelNotFound, and ModelUnavailable also for a model without an active link.
    """
    link = _active_links(owner=owner, slug=slug, organization=organization).first()
    if link is None:
        find_model(owner=owner, slug=slug, organization=organization)
        raise ModelUnavailable
    return Target(link.model, link, _validator_for(link.model))


def _active_links(*, owner: str, slug: str, organization: Organization) -> QuerySet[ProviderLink]:
    """The links of an active model that may be taken, the first choice first."""
    if check_model_path(owner, slug):
        raise ModelNotFound
    return (
        ProviderLink.objects.select_related("model", "provider", "template")
        .defer("template__body", "template__bindings")
        .filter(
            _usable_by(organization, "model__"),
            model__owner=owner,
            model__slug=slug,
            model__status_code=ModelStatus.ACTIVE,
            is_active=True,
        )
        .order_by("priority", "id")
    )


def _validator_for(model: Model) -> type[ItemSerializer]:
    return validator_for(model.pk, model.version, model.inputs.all)
