"""What models look like, and what their routes do (see runflow.lib.schemas)."""

from __future__ import annotations

from typing import Any

from models_registry.api import lists
from models_registry.input_schema import DIALECT
from models_registry.models import DefaultBehavior, ModelStatus, Validator, VariableType
from runflow.lib.list_query import BAD_QUERY, list_query
from runflow.lib.schemas import (
    BOOLEAN,
    INTEGER,
    MONEY,
    NULL,
    STRING,
    TIMESTAMP,
    UUID,
    Answer,
    Component,
    Operation,
    Schema,
    array,
    listed,
    nullable,
    one_of,
    page,
    record,
    said,
)

TAG = "Models"

_MODEL_ID = "01a20c32-19b0-7676-94c1-486340fc8234"
_CREATED = "2026-11-24T06:15:40.272191+00:00"

STATUS = Component("ModelStatusCode", said(one_of(*ModelStatus.values), "`inactive`: it takes no new work."))
VARIABLE_TYPE = Component("VariableTypeCode", one_of(*VariableType.values))
INPUT = record(
    "ModelInput",
    {
        "id": UUID,
        "model_id": UUID,
        "name": said(STRING, "The member of `input`."),
        "display_name": STRING,
        "description": STRING,
        "variable_type_code": VARIABLE_TYPE,
        "default_behavior_code": said(
            one_of(*DefaultBehavior.values),
            "What becomes of an input that is not given; `omit`: the template's own value.",
        ),
        "validator_code": one_of(*Validator.values),
        "validator_attrs": {"type": "object", "description": "As the validator has them: `values`, `min`, `regex`, …"},
        "is_required": BOOLEAN,
        "default_value": {"description": "Any JSON."},
        "sort_order": said(INTEGER, "In forms."),
        "is_featured": BOOLEAN,
        "created_at": TIMESTAMP,
        "updated_at": TIMESTAMP,
    },
    example={
        "id": "01a20c32-19b4-7a0e-8f5e-0d9c4a1b6f11",
        "model_id": _MODEL_ID,
        "name": "resolution",
        "display_name": "Resolution",
        "description": "",
        "variable_type_code": "string",
        "default_behavior_code": "omit",
        "validator_code": "one_of",
        "validator_attrs": {"values": ["1K", "2K", "4K"]},
        "is_required": True,
        "default_value": None,
        "sort_order": 2,
        "is_featured": False,
        "created_at": _CREATED,
        "updated_at": _CREATED,
    },
)
OUTPUT = record(
    "ModelOutput",
    {
        "id": UUID,
        "model_id": UUID,
        "name": STRING,
        "display_name": STRING,
        "description": STRING,
        "variable_type_code": VARIABLE_TYPE,
        "validator_code": NULL,
        "validator_attrs": NULL,
        "sort_order": INTEGER,
        "created_at": TIMESTAMP,
    },
)

# In the order of the answer, which is that of the public API.
_OF_THE_PUBLIC_API = (
    *("model_creator_id", "is_open_source", "icon_url", "cover_url", "category_code", "family_id"),
    *("family_variant_code", "param_count", "architecture", "license_code", "max_resolution", "lora_support"),
    *("fine_tuning", "supports_streaming", "paper_url", "github_url", "is_official", "availability_status"),
    *("seo", "notable_features", "content", "pricing_note"),
)
_EMBEDDED = "Null in a list unless `embed` names it."
_PUBLIC = {
    "id": UUID,
    "owner": STRING,
    "slug": said(STRING, "May have several segments."),
    "name": STRING,
    "description": STRING,
    "version": said(STRING, "Grows when what it declares changes."),
    "status_code": STATUS,
    "price": said(MONEY, "USD for one run that succeeds."),
    **dict.fromkeys(_OF_THE_PUBLIC_API, NULL),
    "created_at": TIMESTAMP,
    "updated_at": TIMESTAMP,
    "inputs": said(nullable(array(INPUT)), _EMBEDDED),
    "outputs": said(nullable(array(OUTPUT)), _EMBEDDED),
}
_PUBLIC_EXAMPLE: dict[str, Any] = {
    "id": _MODEL_ID,
    "owner": "runflow",
    "slug": "smart-resize",
    "name": "Smart resize",
    "description": "Brings a picture to another aspect ratio.",
    "version": "1",
    "status_code": "active",
    "price": "0.55",
    **dict.fromkeys(_OF_THE_PUBLIC_API),
    "created_at": _CREATED,
    "updated_at": _CREATED,
    "inputs": [INPUT.example],
    "outputs": [],
}
PUBLIC_MODEL = record("PublicModel", _PUBLIC, example=_PUBLIC_EXAMPLE | {"inputs": None, "outputs": None})
_OWN = {
    "org_id": said(nullable(UUID), "Your organisation's for its own models, null for others."),
    "is_public": BOOLEAN,
    "created_by": NULL,
    "deleted_at": NULL,
    "deleted_by": NULL,
}
_OWN_EXAMPLE = {"org_id": None, "is_public": True, "created_by": None, "deleted_at": None, "deleted_by": None}
MODEL = record("Model", _PUBLIC | _OWN, example=_PUBLIC_EXAMPLE | _OWN_EXAMPLE)
INPUT_SCHEMA = Component(
    "ModelInputSchema",
    {"type": "object", "description": "JSON Schema, draft 2020-12, of one run's `input`."},
    {
        "$schema": DIALECT,
        "title": "Smart resize",
        "description": "…",
        "type": "object",
        "properties": {"resolution": {"title": "Resolution", "type": "string", "enum": ["1K", "2K", "4K"]}},
        "required": ["resolution"],
        "additionalProperties": False,
    },
)


def _always(value: str) -> Schema:
    return {"type": "string", "const": value}


PRICING = record(
    "ModelPricing",
    {
        "id": said(UUID, "The model's: it has one price."),
        "model_id": UUID,
        "pricing_model_code": _always("per_run"),
        "rule_effect_code": _always("base"),
        **dict.fromkeys(("model_input_id", "match_value", "dimension_code", "min_value", "max_value"), NULL),
        "price": MONEY,
        "currency_code": _always("USD"),
        "unit_code": _always("run"),
        "multiplier_label": NULL,
        "description": STRING,
        "sort_order": INTEGER,
        "disabled_at": NULL,
        "measurement_source": NULL,
        "created_at": TIMESTAMP,
        "updated_at": TIMESTAMP,
    },
    example={
        "id": _MODEL_ID,
        "model_id": _MODEL_ID,
        "pricing_model_code": "per_run",
        "rule_effect_code": "base",
        **dict.fromkeys(("model_input_id", "match_value", "dimension_code", "min_value", "max_value")),
        "price": "0.55",
        "currency_code": "USD",
        "unit_code": "run",
        "multiplier_label": None,
        "description": "For each run that succeeds.",
        "sort_order": 0,
        "disabled_at": None,
        "measurement_source": None,
        "created_at": _CREATED,
        "updated_at": _CREATED,
    },
)

_MODEL_PAGE = page(listed(MODEL, "ModelRow"), "ModelPage")
_PUBLIC_MODEL_PAGE = page(listed(PUBLIC_MODEL, "PublicModelRow"), "PublicModelPage")
_NO_MODEL = {404: "There is no such model (`MODEL_NOT_FOUND`)."}
# contract.md section 6: nested routes take `any` as the id of any parent.
_OF_MODEL = {"model_id": {"anyOf": [UUID, {"type": "string", "const": "any"}], "description": "`any`: of all models."}}
_FIRST = {"model_id": "$response.body#/items/0/id"}

LIST_MODELS = Operation(
    id="listModels",
    tag=TAG,
    summary="List models",
    description="Those that the organisation may use, newest first: its own, and those for all.",
    query=list_query(lists.MODELS),
    answers={
        200: Answer(
            page(listed(MODEL, "ModelRow"), "ModelPage"),
            "A page of models.",
            links={"listModelInputs": _FIRST, "listModelPricing": _FIRST},
        )
    },
    errors={400: BAD_QUERY},
)
LIST_PUBLIC_MODELS = Operation(
    id="listPublicModels",
    tag=TAG,
    summary="List public models",
    description="Those that are public and active, newest first. The same to everybody.",
    query=list_query(lists.PUBLIC_MODELS),
    answers={
        200: Answer(
            page(listed(PUBLIC_MODEL, "PublicModelRow"), "PublicModelPage"),
            "A page of models.",
            headers=["Cache-Control"],
        )
    },
    errors={400: BAD_QUERY, 503: "The database is away."},
)
GET_MODEL = Operation(
    id="getModel",
    tag=TAG,
    summary="Read a model",
    description="With what it takes and gives.",
    answers={
        200: Answer(
            MODEL,
            "The model.",
            links={name: {"model_id": "$response.body#/id"} for name in ("listModelInputs", "listModelPricing")}
            | {"getModelInput": {"model_id": "$response.body#/id", "input_id": "$response.body#/inputs/0/id"}},
        )
    },
    errors=_NO_MODEL,
)
GET_MODEL_SCHEMA = Operation(
    id="getModelSchema",
    tag=TAG,
    summary="Read a model's inputs as JSON Schema",
    description="Of the `input` of one run: for forms, generated clients, or a check before the request.",
    answers={200: Answer(INPUT_SCHEMA, "The schema.")},
    errors=_NO_MODEL,
)
LIST_MODEL_INPUTS = Operation(
    id="listModelInputs",
    tag=TAG,
    summary="List the inputs of a model",
    description="Newest first; `sort_order` is the order of a form.",
    path=_OF_MODEL,
    query=list_query(lists.INPUTS),
    answers={200: Answer(page(listed(INPUT, "ModelInputRow"), "ModelInputPage"), "A page of inputs.")},
    errors=_NO_MODEL | {400: BAD_QUERY},
)
GET_MODEL_INPUT = Operation(
    id="getModelInput",
    tag=TAG,
    summary="Read an input of a model",
    path=_OF_MODEL,
    answers={200: Answer(INPUT, "The input.")},
    errors={404: "There is no such model (`MODEL_NOT_FOUND`), or no such input of it."},
)
LIST_MODEL_PRICING = Operation(
    id="listModelPricing",
    tag=TAG,
    summary="Read a model's price",
    description="A page with the one rule that it is; with `any`, one for each model.",
    path=_OF_MODEL,
    query=list_query(lists.PRICES),
    answers={200: Answer(page(listed(PRICING, "ModelPricingRow"), "ModelPricingPage"), "A page of rules.")},
    errors=_NO_MODEL | {400: BAD_QUERY},
)
