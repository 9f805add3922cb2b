"""The catalogue over HTTP: what there is to run, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.authentication import caller_of
from accounts.models import Scope
from models_registry.api import schema
from models_registry.api.lists import INPUTS, MODELS, PRICES, PUBLIC_MODELS
from models_registry.api.serializers import (
    DECLARATIONS,
    input_body,
    model_body,
    pricing_body,
    public_model_body,
)
from models_registry.catalogue import ModelNotFound, public_models, visible_model, visible_models
from models_registry.input_schema import input_schema
from models_registry.models import Model, ModelInput
from runflow.lib import errors
from runflow.lib.views import ApiView, parse_uuid

# contract.md section 6: nested routes take this as the id of any parent.
ANY = "any"


class ModelsView(ApiView):
    """`GET /v1/models`"""

    scopes = {"GET": Scope.MODELS_READ}
    listing = MODELS
    documented = {"GET": schema.LIST_MODELS}

    def get(self, request: Request) -> Response:
        organization = caller_of(request).organization
        page = self.listing.page(visible_models(organization), request.query_params.dict())
        return Response(
            page.body(model_body(model, organization=organization, embedded=page.embeds) for model in page.rows)
        )


class PublicModelsView(ApiView):
    """`GET /v1/public/models`: the same to everybody, so anybody between may keep it for a while."""

    authentication_classes: Sequence[type] = []
    permission_classes: Sequence[type] = []
    listing = PUBLIC_MODELS
    documented = {"GET": schema.LIST_PUBLIC_MODELS}

    def get(self, request: Request) -> Response:
        page = self.listing.page(public_models(), request.query_params.dict())
        body = page.body(public_model_body(model, embedded=page.embeds) for model in page.rows)
        return Response(body, headers={"Cache-Control": "public, max-age=60"})


class ModelView(ApiView):
    """`GET /v1/models/{owner}/{slug}`"""

    scopes = {"GET": Scope.MODELS_READ}
    documented = {"GET": schema.GET_MODEL}

    def get(self, request: Request, owner: str, slug: str) -> Response:
        organization = caller_of(request).organization
        model = visible_model(owner=owner, slug=slug, organization=organization, related=DECLARATIONS)
        return Response(model_body(model, organization=organization))


class ModelSchemaView(ApiView):
    """`GET /v1/models/{owner}/{slug}/schema`"""

    scopes = {"GET": Scope.MODELS_READ}
    documented = {"GET": schema.GET_MODEL_SCHEMA}

    def get(self, request: Request, owner: str, slug: str) -> Response:
        model = visible_model(owner=owner, slug=slug, organization=caller_of(request).organization)
        return Response(input_schema(model, model.inputs.all()))


class ModelInputsView(ApiView):
    """`GET /v1/models/{model_id}/inputs`; `any` for those of all models."""

    scopes = {"GET": Scope.MODELS_READ}
    listing = INPUTS
    documented = {"GET": schema.LIST_MODEL_INPUTS}

    def get(self, request: Request, model_id: str) -> Response:
        inputs = ModelInput.objects.filter(model__in=_models_or_404(request, model_id))
        page = self.listing.page(inputs, request.query_params.dict())
        return Response(page.body(input_body(each) for each in page.rows))


class ModelInputView(ApiView):
    """`GET /v1/models/{model_id}/inputs/{id}`"""

    scopes = {"GET": Scope.MODELS_READ}
    documented = {"GET": schema.GET_MODEL_INPUT}

    def get(self, request: Request, model_id: str, input_id: str) -> Response:
        inputs = ModelInput.objects.filter(model__in=_models_or_404(request, model_id))
        parsed = parse_uuid(input_id)
        found = inputs.filter(pk=parsed).first() if parsed else None
        if found is None:
            raise errors.NotFound("The model has no input of this id.")
        return Response(input_body(found))


class ModelPricingView(ApiView):
    """`GET /v1/models/{model_id}/pricing`; `any` for those of all models."""

    scopes = {"GET": Scope.MODELS_READ}
    listing = PRICES
    documented = {"GET": schema.LIST_MODEL_PRICING}

    def get(self, request: Request, model_id: str) -> Response:
        page = self.listing.page(_models_or_404(request, model_id), request.query_params.dict())
        return Response(page.body(pricing_body(model) for model in page.rows))


def _models_or_404(request: Request, model_id: str) -> QuerySet[Model]:
    """The parent of a nested route: one model, or all that the caller sees. Raises ModelNotFound."""
    models = visible_models(caller_of(request).organization)
    if model_id == ANY:
        return models
    parsed = parse_uuid(model_id)
    if parsed is None or not models.filter(pk=parsed).exists():
        raise ModelNotFound
    return models.filter(pk=parsed)
