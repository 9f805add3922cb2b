"""Organisations and their keys: a key is made and revoked by the same verbs as from the command line."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.models import ApiKey, Organization, Scope
from accounts.services import create_api_key, revoke_api_keys
from runflow.lib.admin import ModelForm, NoDeletionAdmin, QuestionFilter, log_changes, moment_column


@admin.register(Organization)
class OrganizationAdmin(NoDeletionAdmin[Organization]):
    list_display = ["slug", "name", "max_in_flight", "created"]
    search_fields = ["slug", "name"]
    fields = [
        *("name", "slug", "max_in_flight", "asset_quota_bytes", "is_prepaid", "rate_limit", "rate_limit_burst"),
        *("created", "updated"),
    ]
    readonly_fields = ["created", "updated"]
    show_full_result_count = False

    created = moment_column("created_at")
    updated = moment_column("updated_at")


class ApiKeyForm(ModelForm[ApiKey]):
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in Scope.values],
        initial=list(Scope.values),
        widget=forms.CheckboxSelectMultiple,
    )

    class Meta:
        model = ApiKey
        fields = ["organization", "name", "scopes", "expires_at"]

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise forms.ValidationError("This is over already.")
        return expires_at


class KeyState(QuestionFilter):
    title = "state"
    parameter_name = "state"
    questions = {
        "usable": lambda now: Q(revoked_at__isnull=True) & (Q(expires_at__isnull=True) | Q(expires_at__gt=now)),
        "expired": lambda now: Q(expires_at__lte=now),
        "revoked": lambda _: Q(revoked_at__isnull=False),
    }


@admin.register(ApiKey)
class ApiKeyAdmin(NoDeletionAdmin[ApiKey]):
    """Keys are made and revoked, never edited: what a key may do was agreed with whoever holds it."""

    form = ApiKeyForm
    list_display = ["prefix", "organization", "name", "scope_names", "expires", "revoked", "last_used"]
    list_filter = [KeyState]
    list_select_related = ["organization"]
    search_fields = ["prefix", "name", "=organization__slug"]
    search_help_text = "The first characters of a key, its name, or an organization's slug."
    show_full_result_count = False
    autocomplete_fields = ["organization"]
    readonly_fields = ["prefix", "scope_names", "expires", "revoked", "last_used", "created"]
    actions = ["revoke"]

    expires = moment_column("expires_at")
    revoked = moment_column("revoked_at")
    last_used = moment_column("last_used_at")
    created = moment_column("created_at")

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[Any]:
        if obj is None:
            return ["organization", "name", "scopes", "expires_at"]
        return ["organization", "name", "prefix", "scope_names", "expires", "revoked", "last_used", "created"]

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_apikey")

    @admin.display(description="scopes")
    def scope_names(self, key: ApiKey) -> str:
        return "all" if set(key.scopes) == set(Scope.values) else ", ".join(key.scopes)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: Any) -> None:
        """Make the key and show it. The message travels in a cookie that the next page deletes; nothing here keeps it."""
        row, key = create_api_key(
            organization=obj.organization,
            name=obj.name,
            scopes=obj.scopes,
            expires_in=obj.expires_at - timezone.now() if obj.expires_at is not None else None,
        )
        # The page and the history go on with the row that was made.
        obj.pk = row.pk
        obj.refresh_from_db()
        self.message_user(request, f"The key, shown this once: {key}", messages.WARNING)

    @admin.action(description="Revoke for good", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        keys = list(queryset)
        done = revoke_api_keys(ids=[key.pk for key in keys])
        log_changes(request, [key for key in keys if key.revoked_at is None], "Revoked.")
        self.message_user(request, f"Revoked {done}; {len(keys) - done} had been revoked before.")
