"""The catalogue by hand: the same checks as `import_models`, and the same rule that changed inputs make a new version."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import ForeignKey, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html

from models_registry.forms import (
    CatalogueForm,
    EndpointForm,
    EndpointFormSet,
    InputForm,
    LinkForm,
    LinkFormSet,
    OutputForm,
    ProviderForm,
)
from models_registry.input_schema import input_schema
from models_registry.models import (
    Endpoint,
    Model,
    ModelInput,
    ModelOutput,
    Provider,
    ProviderLink,
    ProviderStatus,
    Template,
)
from runflow.lib import jsonlib
from runflow.lib.admin import (
    NO_ROW_TITLES,
    NOTHING,
    NoDeletionAdmin,
    QuestionFilter,
    ReadOnlyAdmin,
    StackedInline,
    TabularInline,
    json_column,
    log_changes,
    moment_column,
)

# --- Models -----------------------------------------------------------------------------------------------------------


class InputInline(StackedInline[ModelInput, Model]):
    model = ModelInput
    form = InputForm
    extra = 0
    classes = ["collapse"]
    fields = [
        ("name", "display_name", "sort_order"),
        ("variable_type_code", "is_required", "is_featured"),
        ("validator_code", "validator_attrs"),
        ("default_behavior_code", "default_value"),
        "description",
    ]


class OutputInline(TabularInline[ModelOutput, Model]):
    model = ModelOutput
    form = OutputForm
    extra = 0
    classes = ["collapse"]


class LinkInline(TabularInline[ProviderLink, Model]):
    model = ProviderLink
    formset = LinkFormSet
    extra = 0
    # A finished batch names the link it went through: switch it off instead.
    can_delete = False
    fields = ["provider", "template", "priority", "is_active"]

    class Media:
        js = [NO_ROW_TITLES]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderLink]:
        return super().get_queryset(request).select_related("provider", "template").defer(*_BODY_OF_TEMPLATE)

    def formfield_for_foreignkey(
        self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> forms.ModelChoiceField[Any] | None:
        if db_field.name == "template":
            kwargs["queryset"] = Template.objects.only("name", "version")
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if field is not None and db_field.name in ("provider", "template"):
            # Read once for the page: by itself every row of the table would ask for them.
            choices: Any = field.choices
            field.choices = list(choices)
        return field


_BODY_OF_TEMPLATE = ("template__body", "template__bindings")


@admin.register(Model)
class CatalogueAdmin(NoDeletionAdmin[Model]):
    form = CatalogueForm
    list_display = ["__str__", "name", "organization", "status_code", "is_public", "price", "version", "updated"]
    list_filter = ["status_code", "is_public"]
    list_select_related = ["organization"]
    search_fields = ["owner", "slug", "name"]
    show_full_result_count = False
    autocomplete_fields = ["organization"]
    fieldsets = [
        (None, {"fields": [("owner", "slug"), "name", "description"]}),
        (
            "Use",
            {"fields": [("status_code", "price"), ("is_public", "organization"), ("run_timeout", "batch_timeout")]},
        ),
        ("History", {"fields": [("version", "created", "updated"), "json_schema"]}),
    ]
    readonly_fields = ["version", "created", "updated", "json_schema"]
    inlines = [LinkInline, InputInline, OutputInline]

    created = moment_column("created_at")
    updated = moment_column("updated_at")

    @admin.display(description="JSON Schema")
    def json_schema(self, model: Model) -> str:
        # The page of a model that is being added has none yet.
        if model._state.adding:
            return NOTHING
        address = reverse("admin:models_registry_model_schema", args=[model.pk])
        return format_html('<a href="{}">of its input, as saved</a>', address)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.schema_view)
        return [path("<uuid:model_id>/schema/", view, name="models_registry_model_schema"), *super().get_urls()]

    def schema_view(self, request: HttpRequest, model_id: UUID) -> HttpResponse:
        """What `GET /v1/models/{owner}/{slug}/schema` answers, as a file."""
        model = get_object_or_404(Model.objects.prefetch_related("inputs"), pk=model_id)
        if not self.has_view_permission(request, model):
            raise PermissionDenied
        name = f"{model}.schema.json".replace("/", "-")
        return HttpResponse(
            jsonlib.dumps(input_schema(model, model.inputs.all())),
            content_type="application/json",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Model | None:
        if request.method == "POST" and transaction.get_connection().in_atomic_block:
            # An import that changes the same model waits, or is waited for: else one of two versions would get lost.
            list(self.get_queryset(request).filter(pk=object_id).select_for_update().values_list("pk"))
        return super().get_object(request, object_id, from_field)

    def _create_formsets(self, request: HttpRequest, obj: Model, change: bool) -> tuple[list[Any], list[Any]]:
        formsets, inlines = super()._create_formsets(request, obj, change)  # type: ignore[misc]
        inputs = next(formset for formset in formsets if formset.model is ModelInput)
        for formset in formsets:
            if isinstance(formset, LinkFormSet):
                formset.inputs = inputs
        return formsets, inlines

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:
        super().save_related(request, form, formsets, change)
        inputs = next(formset for formset in formsets if formset.model is ModelInput)
        if change and (inputs.new_objects or inputs.changed_objects or inputs.deleted_objects):
            # Processes keep the compiled declarations of each version: the same number would mean the old ones.
            form.instance.version += 1
            form.instance.save(update_fields=["version", "updated_at"])


@admin.register(ModelInput)
class ModelInputAdmin(ReadOnlyAdmin[ModelInput]):
    """To find who declares what. Changed on the model's page, which checks the whole and counts the version."""

    list_display = ["name", "model", "variable_type_code", "is_required", "validator_code", "default_behavior_code"]
    list_filter = ["variable_type_code", "validator_code", "is_required"]
    list_select_related = ["model"]
    list_defer = ("description", "validator_attrs", "default_value", "model__description")
    search_fields = ["name"]
    search_help_text = "A name, or an id."
    id_columns = ("pk", "model")
    fields = [
        *("model", "name", "display_name", "description", "variable_type_code", "is_required"),
        *("default_behavior_code", "default_json", "validator_code", "attrs_json", "sort_order", "is_featured"),
    ]
    readonly_fields = ["default_json", "attrs_json"]

    default_json = json_column("default_value")
    attrs_json = json_column("validator_attrs")


@admin.register(ModelOutput)
class ModelOutputAdmin(ReadOnlyAdmin[ModelOutput]):
    """Like inputs: changed on the model's page."""

    list_display = ["name", "model", "variable_type_code"]
    list_filter = ["variable_type_code"]
    list_select_related = ["model"]
    list_defer = ("description", "model__description")
    search_fields = ["name"]
    search_help_text = "A name, or an id."
    id_columns = ("pk", "model")


@admin.register(Template)
class TemplateAdmin(ReadOnlyAdmin[Template]):
    """Never changed once written, because runs name it: `import_models` makes new versions, checked against the model."""

    list_display = ["name", "version", "created"]
    list_defer = ("body", "bindings")
    # By name, and few: there are as many as an operator has written.
    search_fields = ["name"]
    search_help_text = "A name, or an id."
    fields = ["id", "name", "version", "bindings_json", "body_json", "created"]
    readonly_fields = ["bindings_json", "body_json", "created"]

    created = moment_column("created_at")

    bindings_json = json_column("bindings")
    body_json = json_column("body")


# --- Providers --------------------------------------------------------------------------------------------------------


class EndpointInline(TabularInline[Endpoint, Provider]):
    model = Endpoint
    form = EndpointForm
    formset = EndpointFormSet
    extra = 0

    class Media:
        js = [NO_ROW_TITLES]


class PausingAdmin(NoDeletionAdmin[Any]):
    """Providers and their endpoints: their work waits while they are paused, and the sweep finds it afterwards."""

    actions = ["pause", "resume"]
    show_full_result_count = False

    updated = moment_column("updated_at")

    @admin.action(description="Pause: queued runs wait", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        done, skipped = self._move(request, queryset, ProviderStatus.PAUSED)
        self.message_user(request, f"Paused {done}; {skipped} had been paused before.")

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        done, skipped = self._move(request, queryset, ProviderStatus.ACTIVE)
        self.message_user(request, f"Resumed {done}; {skipped} had been active before.")

    def _move(self, request: HttpRequest, queryset: QuerySet[Any], status_code: ProviderStatus) -> tuple[int, int]:
        with transaction.atomic():
            rows = list(queryset.order_by("pk").select_for_update(of=("self",)))
            moved = [row for row in rows if row.status_code != status_code]
            self.model.objects.filter(pk__in=[row.pk for row in moved]).update(
                status_code=status_code, updated_at=timezone.now()
            )
            log_changes(request, moved, f"Set to {status_code}.")
        return len(moved), len(rows) - len(moved)


@admin.register(Provider)
class ProviderAdmin(PausingAdmin):
    form = ProviderForm
    list_display = ["code", "name", "adapter_code", "status_code", "claim_size", "run_timeout", "updated"]
    list_filter = ["status_code", "adapter_code"]
    search_fields = ["code", "name"]
    inlines = [EndpointInline]


class EndpointTrouble(QuestionFilter):
    title = "trouble"
    parameter_name = "trouble"
    questions = {
        "down": lambda _: Q(down_since__isnull=False),
        "being driven": lambda now: Q(driver_lease_expires_at__gte=now),
    }


@admin.register(Endpoint)
class EndpointAdmin(PausingAdmin):
    list_display = ["base_url", "provider", "max_in_flight", "status_code", "down", "retry", "driven"]
    list_filter = [EndpointTrouble, "status_code"]
    list_select_related = ["provider"]
    search_fields = ["base_url", "provider__code"]
    fields = ["provider", "base_url", "max_in_flight", "status_code", ("down", "retry"), "down_reason", "driven"]
    # Added on the provider's page, which sees all of them.
    readonly_fields = ["provider", "base_url", "down", "retry", "down_reason", "driven"]

    down = moment_column("down_since")
    retry = moment_column("retry_at")
    driven = moment_column("driver_lease_expires_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(ProviderLink)
class ProviderLinkAdmin(NoDeletionAdmin[ProviderLink]):
    form = LinkForm
    list_display = ["model", "provider", "template", "priority", "is_active"]
    list_display_links = ["model"]
    list_filter = ["is_active", "provider"]
    list_select_related = ["model", "provider", "template"]
    search_fields = ["model__owner", "model__slug", "provider__code"]
    autocomplete_fields = ["model", "provider", "template"]
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderLink]:
        return super().get_queryset(request).defer("model__description", *_BODY_OF_TEMPLATE)
