"""What is typed into the admin of the catalogue, checked as a manifest is."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings

from models_registry.declarations import check_declaration, check_model_path, check_output
from models_registry.faults import json_fault
from models_registry.models import Endpoint, Model, ModelInput, ModelOutput, Provider, ProviderLink, Template
from models_registry.templates import Fault, check_bindings
from models_registry.uris import url_fault
from runflow.lib.admin import BaseInlineFormSet, ModelForm


class JSONField(forms.JSONField):
    """JSON as it is typed. An empty box is `empty`, and the other way round."""

    def __init__(self, *, empty: Any = None, help_text: str = "") -> None:
        super().__init__(required=False, help_text=help_text, widget=forms.Textarea(attrs={"rows": 3, "cols": 50}))
        self.empty = empty

    def to_python(self, value: Any) -> Any:
        parsed = super().to_python(value)
        if parsed is None:
            return self.empty
        # Python takes NaN, U+0000 and integers of any length; jsonb does not.
        if fault := json_fault(parsed):
            raise forms.ValidationError(str(fault))
        return parsed

    def prepare_value(self, value: Any) -> Any:
        return "" if value == self.empty else super().prepare_value(value)


def add_faults(form: forms.BaseForm, faults: list[Fault]) -> None:
    """Show each fault at the field that its path begins with: `validator_attrs.min` at `validator_attrs`."""
    for fault in faults:
        field = fault.path.split(".")[0].split("[")[0]
        form.add_error(field if field in form.fields else None, str(fault))


class CatalogueForm(ModelForm[Model]):
    class Meta:
        model = Model
        fields = [
            *("owner", "slug", "name", "description", "organization", "is_public", "status_code", "price"),
            *("run_timeout", "batch_timeout"),
        ]
        widgets = {"description": forms.Textarea(attrs={"rows": 3, "cols": 80})}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "owner" in cleaned and "slug" in cleaned:
            add_faults(self, check_model_path(cleaned["owner"], cleaned["slug"]))
        return cleaned


class InputForm(ModelForm[ModelInput]):
    validator_attrs = JSONField(empty={})
    default_value = JSONField()

    class Meta:
        model = ModelInput
        fields = [
            *("name", "display_name", "description", "variable_type_code", "is_required"),
            *("default_behavior_code", "default_value", "validator_code", "validator_attrs"),
            *("sort_order", "is_featured"),
        ]
        widgets = {"description": forms.Textarea(attrs={"rows": 2, "cols": 60})}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        # A field that is wrong by itself has been told of, and nothing can be said of the whole without it.
        if not self.errors:
            add_faults(self, check_declaration(ModelInput(**{name: cleaned[name] for name in self._meta.fields or ()})))
        return cleaned


class OutputForm(ModelForm[ModelOutput]):
    class Meta:
        model = ModelOutput
        fields = ["name", "display_name", "description", "variable_type_code", "sort_order"]
        widgets = {"description": forms.Textarea(attrs={"rows": 1, "cols": 30})}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            add_faults(self, check_output(ModelOutput(**{name: cleaned[name] for name in self._meta.fields or ()})))
        return cleaned


class LinkFormSet(BaseInlineFormSet[ProviderLink, Model, Any]):
    # The inputs on the same page; set by CatalogueAdmin.
    inputs: BaseInlineFormSet[ModelInput, Model, Any]

    def clean(self) -> None:
        """Hold the templates of active links against the inputs as they will be."""
        super().clean()
        if not self.inputs.is_valid():
            return
        kept = [form.instance for form in self.inputs.forms if form not in self.inputs.deleted_forms]
        declared = [row for row in kept if row.name]
        for form in self.forms:
            link: ProviderLink = form.instance
            if not form.errors and link.is_active and link.template is not None:
                add_faults(form, [fault.under("template") for fault in _binding_faults(link.template, declared)])


class LinkForm(ModelForm[ProviderLink]):
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        model, template = cleaned.get("model"), cleaned.get("template")
        if model is not None and template is not None and cleaned.get("is_active"):
            faults = _binding_faults(template, list(model.inputs.all()))
            add_faults(self, [fault.under("template") for fault in faults])
        return cleaned


def _binding_faults(template: Template, inputs: list[ModelInput]) -> list[Fault]:
    names = [row.name for row in inputs]
    return check_bindings(template.body, template.bindings, names, [row.name for row in inputs if row.is_required])


class ProviderForm(ModelForm[Provider]):
    adapter_code = forms.ChoiceField()
    config = JSONField(empty={}, help_text="Secrets do not belong here: name the environment variables that hold them.")

    class Meta:
        model = Provider
        fields = ["code", "name", "adapter_code", "config", "claim_size", "run_timeout", "status_code"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        adapter: Any = self.fields.get("adapter_code")
        if adapter is not None:  # a form that is only looked at has no fields
            # The provider's own stays choosable when the settings have lost it, or nothing else could be saved.
            codes = {*settings.PROVIDER_ADAPTERS, *filter(None, [self.instance.adapter_code])}
            adapter.choices = [(code, code) for code in sorted(codes)]

    def clean_config(self) -> dict[str, Any]:
        config = self.cleaned_data["config"]
        if not isinstance(config, dict):
            raise forms.ValidationError("Must be an object.")
        return config


class EndpointForm(ModelForm[Endpoint]):
    # Not Django's URLField, as in manifest.py: it refuses the single-label hosts of container networks.
    base_url = forms.CharField(max_length=500, widget=forms.TextInput(attrs={"size": 60}))

    class Meta:
        model = Endpoint
        fields = ["base_url", "max_in_flight", "status_code"]

    def clean_base_url(self) -> str:
        base_url: str = self.cleaned_data["base_url"]
        if not base_url.startswith(("http://", "https://")) or url_fault(base_url):
            raise forms.ValidationError("Must be an http(s) URL with a host and without a user name or password.")
        return base_url

    def _get_validation_exclusions(self) -> set[str]:
        exclusions: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return exclusions | {"base_url"}


class EndpointFormSet(BaseInlineFormSet[Endpoint, Provider, Any]):
    def clean(self) -> None:
        super().clean()
        # All endpoints of the provider are on the page, so this is the whole check of the unique constraint.
        seen: set[str] = set()
        for form in self.forms:
            base_url = form.cleaned_data.get("base_url")
            if base_url is None or form in self.deleted_forms:
                continue
            if base_url in seen:
                form.add_error("base_url", "This provider has this endpoint already.")
            seen.add(base_url)
