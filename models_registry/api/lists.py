"""What the lists of models, their inputs and prices offer (contract.md section 6); docs/lists.md tells it to clients.

A catalogue holds hundreds of models and thousands of inputs, which are filtered and sorted as a whole.
"""

from __future__ import annotations

from collections.abc import Collection

from django.db.models import QuerySet

from accounts.models import Organization
from models_registry.api.serializers import DECLARATIONS, input_body, model_body, pricing_body, public_model_body
from models_registry.models import DefaultBehavior, Model, ModelInput, ModelStatus, Validator, VariableType
from runflow.lib import filtering, ordering
from runflow.lib.lists import Listing
from runflow.lib.pagination import MAX_LIMIT
from runflow.lib.search import Filterable


def _models_with(models: QuerySet[Model], embeds: Collection[str]) -> QuerySet[Model]:
    return models.prefetch_related(*embeds)


_TIMES = {name: Filterable(kind=filtering.TIME, column=name) for name in ("created_at", "updated_at")}
_SORTABLE_TIMES = dict.fromkeys(_TIMES, ordering.TIME)

_PUBLIC = {
    "id": Filterable(kind=filtering.ID, column="id"),
    **{name: Filterable(kind=filtering.TEXT, column=name) for name in ("owner", "slug", "name")},
    "status_code": Filterable(kind=filtering.code(tuple(ModelStatus.values)), column="status_code"),
    **_TIMES,
}
_SORTABLE = {**_SORTABLE_TIMES, **dict.fromkeys(("owner", "slug", "name"), ordering.TEXT)}

MODELS = Listing[Model](
    name="models",
    # Not by org_id: asking for another organisation's would tell which shared models are its own.
    filterable={**_PUBLIC, "is_public": Filterable(kind=filtering.BOOLEAN, column="is_public")},
    sortable=_SORTABLE,
    default_sort="created_at:desc",
    members=tuple(model_body(Model(), organization=Organization(), embedded=())),
    embeddable=DECLARATIONS,
    embed_limit=MAX_LIMIT,  # a declaration takes half a kilobyte
    prepare=_models_with,
    is_short=True,
)

PUBLIC_MODELS = Listing[Model](
    name="public-models",
    filterable=_PUBLIC,
    sortable=_SORTABLE,
    default_sort="created_at:desc",
    members=tuple(public_model_body(Model(), embedded=())),
    embeddable=DECLARATIONS,
    embed_limit=MAX_LIMIT,
    prepare=_models_with,
    is_short=True,
)

INPUTS = Listing[ModelInput](
    name="model-inputs",
    filterable={
        "id": Filterable(kind=filtering.ID, column="id"),
        "model_id": Filterable(kind=filtering.ID, column="model_id"),
        "name": Filterable(kind=filtering.TEXT, column="name"),
        "variable_type_code": Filterable(kind=filtering.code(tuple(VariableType.values)), column="variable_type_code"),
        "default_behavior_code": Filterable(
            kind=filtering.code(tuple(DefaultBehavior.values)), column="default_behavior_code"
        ),
        "validator_code": Filterable(kind=filtering.code(tuple(Validator.values)), column="validator_code"),
        **{name: Filterable(kind=filtering.BOOLEAN, column=name) for name in ("is_required", "is_featured")},
        **_TIMES,
    },
    sortable={**_SORTABLE_TIMES, "sort_order": ordering.WHOLE, "name": ordering.TEXT},
    default_sort="created_at:desc",
    members=tuple(input_body(ModelInput())),
    is_short=True,
)

# Of models: each has the one rule that its price is.
PRICES = Listing[Model](
    name="prices",
    filterable={**{name: Filterable(kind=filtering.ID, column="id") for name in ("id", "model_id")}, **_TIMES},
    sortable=_SORTABLE_TIMES,
    default_sort="created_at:desc",
    members=tuple(pricing_body(Model())),
    is_short=True,
)
