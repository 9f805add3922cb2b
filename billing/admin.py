"""Accounts, whose balance changes by grants alone, and the ledger, to look at."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import F, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing import services
from billing.models import Account, LedgerEntry
from runflow.lib.admin import (
    NOTHING,
    ModelForm,
    NoDeletionAdmin,
    QuestionFilter,
    ReadOnlyAdmin,
    log_changes,
    moment_column,
    shortened,
)
from runflow.lib.money import money


class AccountForm(ModelForm[Account]):
    grant = forms.DecimalField(
        required=False,
        max_digits=14,
        decimal_places=6,
        help_text="USD to add to the balance now; a negative amount takes back.",
    )
    note = forms.CharField(required=False, max_length=255, help_text="Why; kept in the ledger.")

    class Meta:
        model = Account
        fields = ["organization", "low_balance_threshold"]

    def clean_grant(self) -> Decimal | None:
        """The verb decides; this says so where the amount was typed."""
        amount: Decimal | None = self.cleaned_data["grant"]
        if amount is not None and self.instance.balance + amount < 0:
            raise forms.ValidationError(
                f"The balance is {money(self.instance.balance)} USD: no more can be taken back."
            )
        return amount


class BalanceLevel(QuestionFilter):
    title = "balance"
    parameter_name = "balance"
    questions = {
        "low": lambda _: Q(balance__lt=F("low_balance_threshold")),
        "empty": lambda _: Q(balance=0),
    }


@admin.register(Account)
class AccountAdmin(NoDeletionAdmin[Account]):
    form = AccountForm
    list_display = ["organization", "is_prepaid", "balance_usd", "threshold", "updated"]
    list_filter = [BalanceLevel, "organization__is_prepaid"]
    list_select_related = ["organization"]
    search_fields = ["=organization__slug", "organization__name"]
    search_help_text = "An organization's slug or name."
    show_full_result_count = False
    autocomplete_fields = ["organization"]
    readonly_fields = ["is_prepaid", "balance_usd", "ledger", "created", "updated"]

    created = moment_column("created_at")
    updated = moment_column("updated_at")

    def get_fields(self, request: HttpRequest, obj: Account | None = None) -> list[Any]:
        if obj is None:
            return ["organization", "low_balance_threshold", "grant", "note"]
        return [
            *("organization", "is_prepaid", "balance_usd", "ledger", "low_balance_threshold", "grant", "note"),
            *("created", "updated"),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Account | None = None) -> list[Any]:
        return [*self.readonly_fields, *(["organization"] if obj else [])]

    @admin.display(description="prepaid", boolean=True)
    def is_prepaid(self, account: Account) -> bool:
        return account.organization.is_prepaid

    @admin.display(description="balance, USD")
    def balance_usd(self, account: Account) -> str:
        return money(account.balance)

    @admin.display(description="low below, USD")
    def threshold(self, account: Account) -> str:
        return money(account.low_balance_threshold) or NOTHING

    @admin.display(description="ledger")
    def ledger(self, account: Account) -> SafeString:
        entries = reverse("admin:billing_ledgerentry_changelist")
        return format_html('<a href="{}?account__id__exact={}">entries</a>', entries, account.pk)

    def save_model(self, request: HttpRequest, obj: Account, form: Any, change: Any) -> None:
        account = services.open_account(organization=obj.organization)
        services.set_low_balance_threshold(account=account, threshold=form.cleaned_data["low_balance_threshold"])
        # The page and the history go on with the row that was made.
        obj.pk = account.pk
        if amount := form.cleaned_data["grant"]:
            self._grant(request, obj, amount, form.cleaned_data["note"])
        obj.refresh_from_db()

    def _grant(self, request: HttpRequest, account: Account, amount: Decimal, note: str) -> None:
        try:
            services.grant_credit(
                organization=account.organization, amount=amount, note=note, created_by=str(request.user)
            )
        except services.InsufficientCredit as refused:  # spent since the form was checked
            self.message_user(request, f"Nothing was granted. {refused.message}", messages.ERROR)
        else:
            log_changes(request, [account], f"Granted {money(amount)} USD. {note}".strip())


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadOnlyAdmin[LedgerEntry]):
    list_display = ["created", "organization", "kind_code", "amount_usd", "subject", "note", "created_by"]
    list_filter = ["kind_code"]
    list_select_related = ["account__organization"]
    search_help_text = "The id of an entry, of a batch or of a run."
    id_columns = ("pk", "subject_id")
    fields = ["id", "organization", "kind_code", "amount_usd", "subject", "note", "created_by", "created"]
    readonly_fields = ["organization", "amount_usd", "subject", "created"]

    created = moment_column("created_at")

    @admin.display(description="organization")
    def organization(self, entry: LedgerEntry) -> str:
        return entry.account.organization.slug

    @admin.display(description="amount, USD")
    def amount_usd(self, entry: LedgerEntry) -> str:
        return money(entry.amount)

    @admin.display(description="of")
    def subject(self, entry: LedgerEntry) -> str:
        if entry.subject_id is None:
            return NOTHING
        page = reverse(f"admin:batches_{entry.subject_type}_change", args=[entry.subject_id])
        return format_html('<a href="{}">{} {}</a>', page, entry.subject_type, shortened(entry.subject_id))
