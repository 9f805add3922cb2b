"""Prepaid credit: an organisation's account, and the ledger of all that was done to it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from accounts.models import Organization
from runflow.lib.ids import uuid7


class Account(models.Model):
    """What an organisation has left to spend. It is limited by it only while `Organization.is_prepaid` says so.

    `balance` is written by the statements of `billing.sql` alone, each of which writes the ledger too.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.OneToOneField(Organization, on_delete=models.PROTECT, related_name="account")
    balance = models.DecimalField(
        max_digits=18, decimal_places=6, default=0, editable=False, help_text="USD, without what is held."
    )
    low_balance_threshold = models.DecimalField(
        max_digits=18,
        decimal_places=6,
        null=True,
        blank=True,
        help_text="USD. Told to clients beside the balance; nothing else is done with it.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["organization__slug"]
        constraints = [models.CheckConstraint(name="account_balance_not_negative", condition=Q(balance__gte=0))]

    def __str__(self) -> str:
        return f"account of {self.organization}"


class EntryKind(models.TextChoices):
    GRANT = "grant"  # by the operator; a negative one takes back
    HOLD = "hold"  # what a batch or a single run may cost, when it is created
    RELEASE = "release"  # the whole of the hold, when it has ended
    CHARGE = "charge"  # what it did cost, together with the release


class SubjectType(models.TextChoices):
    """What credit is held for."""

    BATCH = "batch"
    RUN = "run"


class LedgerEntry(models.Model):
    """One change of a balance. Rows are only ever added, and `amount` is signed: an account's entries sum to its balance.

    `subject_id` is no foreign key: this app does not know batches and runs, and entries outlive them.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="entries")
    kind_code = models.CharField(max_length=20, choices=EntryKind.choices)
    amount = models.DecimalField(max_digits=18, decimal_places=6, help_text="USD that the balance grew by.")
    subject_type = models.CharField(max_length=20, choices=SubjectType.choices, null=True)
    subject_id = models.UUIDField(null=True)
    note = models.CharField(max_length=255, default="", db_default="")
    created_by = models.CharField(max_length=150, default="", db_default="", help_text="Of a grant: who gave it.")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "ledger entries"
        constraints = [
            models.CheckConstraint(
                name="ledgerentry_amount_fits_kind",
                condition=(Q(kind_code=EntryKind.GRANT) & ~Q(amount=0))
                | Q(kind_code=EntryKind.RELEASE, amount__gt=0)
                | Q(kind_code__in=(EntryKind.HOLD, EntryKind.CHARGE), amount__lt=0),
            ),
            models.CheckConstraint(
                name="ledgerentry_subject_unless_grant",
                condition=Q(kind_code=EntryKind.GRANT, subject_type__isnull=True, subject_id__isnull=True)
                | (~Q(kind_code=EntryKind.GRANT) & Q(subject_type__isnull=False, subject_id__isnull=False)),
            ),
            # Nothing is held, released or charged twice.
            models.UniqueConstraint(
                name="ledgerentry_once_for_a_subject",
                fields=["subject_id", "kind_code"],
                condition=Q(subject_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind_code} {self.amount}"
