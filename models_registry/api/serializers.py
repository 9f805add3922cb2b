"""The shapes of contract.md section 5, written from rows. schemas.json in tests/contract checks every shape."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from accounts.models import Organization
from models_registry.models import Model, ModelInput, ModelOutput
from runflow.lib.money import money

# Members of the public API that say nothing here: this server keeps no marketing pages of its models.
_NOT_KEPT = (
    *("model_creator_id", "is_open_source", "icon_url", "cover_url", "category_code", "family_id"),
    *("family_variant_code", "param_count", "architecture", "license_code", "max_resolution", "lora_support"),
    *("fine_tuning", "supports_streaming", "paper_url", "github_url", "is_official", "availability_status"),
    *("seo", "notable_features", "content", "pricing_note"),
)
# What a page of models leaves out unless `embed` names it.
DECLARATIONS = ("inputs", "outputs")


def public_model_body(model: Model, *, embedded: Collection[str] = DECLARATIONS) -> dict[str, Any]:
    """PublicModel: nothing of whose it is, nor of where it runs. `inputs` and `outputs` are null unless `embedded`."""
    return {
        "id": model.pk,
        "owner": model.owner,
        "slug": model.slug,
        "name": model.name,
        "description": model.description,
        "version": str(model.version),
        "status_code": model.status_code,
        "price": money(model.price),
        **dict.fromkeys(_NOT_KEPT),
        "created_at": model.created_at,
        "updated_at": model.updated_at,
        "inputs": [input_body(each) for each in model.inputs.all()] if "inputs" in embedded else None,
        "outputs": [output_body(each) for each in model.outputs.all()] if "outputs" in embedded else None,
    }


def model_body(model: Model, *, organization: Organization, embedded: Collection[str] = DECLARATIONS) -> dict[str, Any]:
    """Model, as an organisation sees it. `org_id` is its own id or null: whose the others are is not its business."""
    return public_model_body(model, embedded=embedded) | {
        "org_id": model.organization_id if model.organization_id == organization.pk else None,
        "is_public": model.is_public,
        "created_by": None,
        "deleted_at": None,
        "deleted_by": None,
    }


def input_body(declaration: ModelInput) -> dict[str, Any]:
    """ModelInput."""
    return {
        "id": declaration.pk,
        "model_id": declaration.model_id,
        "name": declaration.name,
        "display_name": declaration.display_name,
        "description": declaration.description,
        "variable_type_code": declaration.variable_type_code,
        "default_behavior_code": declaration.default_behavior_code,
        "validator_code": declaration.validator_code,
        "validator_attrs": declaration.validator_attrs,
        "is_required": declaration.is_required,
        "default_value": declaration.default_value,
        "sort_order": declaration.sort_order,
        "is_featured": declaration.is_featured,
        "created_at": declaration.created_at,
        "updated_at": declaration.updated_at,
    }


def output_body(output: ModelOutput) -> dict[str, Any]:
    """ModelOutput."""
    return {
        "id": output.pk,
        "model_id": output.model_id,
        "name": output.name,
        "display_name": output.display_name,
        "description": output.description,
        "variable_type_code": output.variable_type_code,
        "validator_code": None,
        "validator_attrs": None,
        "sort_order": output.sort_order,
        "created_at": output.created_at,
    }


def pricing_body(model: Model) -> dict[str, Any]:
    """ModelPricing. A model has one price, for a run that succeeds, so the rule has the id of its model."""
    return {
        "id": model.pk,
        "model_id": model.pk,
        "pricing_model_code": "per_run",
        "rule_effect_code": "base",
        "model_input_id": None,
        "match_value": None,
        "dimension_code": None,
        "min_value": None,
        "max_value": None,
        "price": money(model.price),
        "currency_code": "USD",
        "unit_code": "run",
        "multiplier_label": None,
        "description": "For each run that succeeds.",
        "sort_order": 0,
        "disabled_at": None,
        "measurement_source": None,
        "created_at": model.created_at,
        "updated_at": model.updated_at,
    }
