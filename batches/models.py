"""Batch, its thin items, and the runs that do the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from django.contrib.postgres.expressions import ArraySubquery
from django.db import models
from django.db.models import Case, F, OuterRef, Q, When
from django.db.models.functions import MD5, Cast, Concat, JSONObject
from django.db.models.lookups import In

from accounts.models import ApiKey, Organization
from models_registry.models import Endpoint, Model, Provider, ProviderLink, Template
from runflow.lib.ids import uuid7
from runflow.lib.json_index import owned_json_index


class RunStatus(models.TextChoices):
    """The literal is `canceled`; the counter of a batch is `items_cancelled` (contract.md section 3.4)."""

    QUEUED = "queued"  # waits for a worker, not before due_at
    DISPATCHING = "dispatching"  # a worker holds a lease on it and hands it to the provider
    RUNNING = "running"  # the provider works on it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


LIVE = (RunStatus.DISPATCHING, RunStatus.RUNNING)
# What an index finds the runs of, for lists. Of LIVE there are few, and most have succeeded.
LISTED = (RunStatus.QUEUED, RunStatus.FAILED, RunStatus.CANCELED)
TERMINAL = (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELED)

# Every move a run may make: nothing leaves a terminal status. docs/state_machine.md draws it, a test compares both.
REACHED_FROM: dict[RunStatus, tuple[RunStatus, ...]] = {
    RunStatus.DISPATCHING: (RunStatus.QUEUED,),
    RunStatus.RUNNING: (RunStatus.DISPATCHING,),
    RunStatus.QUEUED: LIVE,  # given back for another attempt
    RunStatus.SUCCEEDED: LIVE,
    RunStatus.FAILED: LIVE,
    RunStatus.CANCELED: (RunStatus.QUEUED, *LIVE),
}


class BatchStatus(models.TextChoices):
    QUEUED = "queued"
    RUNNING = "running"  # the first run has left `queued`
    SUCCEEDED = "succeeded"
    PARTIAL_SUCCEEDED = "partial_succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


BATCH_TERMINAL = (
    BatchStatus.SUCCEEDED,
    BatchStatus.PARTIAL_SUCCEEDED,
    BatchStatus.FAILED,
    BatchStatus.CANCELED,
)


class Source(models.TextChoices):
    """Through which door something was created."""

    API = "api"
    ADMIN = "admin"
    COMMAND = "command"
    REPLAY = "replay"


class Stage(models.TextChoices):
    """Where a run failed."""

    DISPATCH = "dispatch"
    PREPROCESS = "preprocess"
    EXECUTE = "execute"
    COLLECT = "collect"


def _terminal_iff_completed(statuses: tuple[models.TextChoices, ...]) -> Q:
    return Q(status_code__in=statuses, completed_at__isnull=False) | (
        ~Q(status_code__in=statuses) & Q(completed_at__isnull=True)
    )


class BatchQuerySet(models.QuerySet["Batch"]):
    def visible_to(self, organization: Organization) -> Self:
        """The only way an API view starts a query."""
        return self.filter(organization=organization)

    def with_item_rows(self, *, with_input: bool = False, with_output: bool = True) -> Self:
        """Annotate `item_rows`: the items in order, a dict each, with what a detail shows of their runs.

        In the batch's own statement, so that its counters and its items are of one moment. A batch at work reads no more of
        its runs than their status: polling stays cheap.
        """
        when_terminal = {
            name: Case(When(In(OuterRef("status_code"), BATCH_TERMINAL), then=F(f"run__{name}")))
            for name in ("output", "failure_code", "failure_message", "failure_stage_code")
            if with_output
        }
        items = BatchItem.objects.filter(batch=OuterRef("pk")).order_by("sequence_index")
        row = JSONObject(
            id="id",
            sequence_index="sequence_index",
            run_id="run_id",
            client_ref="client_ref",
            status_code="run__status_code",
            **when_terminal,
            **({"input": "run__input", "input_digest": _digest("run__input")} if with_input else {}),
        )
        return self.annotate(item_rows=ArraySubquery(items.values(row=row)))

    def with_version(self, *, with_input: bool = False) -> Self:
        """Annotate `version`: what a detail shows of the runs and can change, by the runs' ids.

        Small to read: their statuses, and a digest of each input where inputs are shown, because a `data:` URI in one becomes
        an asset's while the status stays. Outputs come with the end, and statuses tell of that. `version_of` says the same of
        item rows.
        """
        shown = (
            Concat("status_code", _digest("input"), output_field=models.TextField()) if with_input else F("status_code")
        )
        runs = Run.objects.filter(batch=OuterRef("pk")).order_by("pk")
        return self.annotate(version=ArraySubquery(runs.values(shown=shown)))


def version_of(item_rows: Sequence[dict[str, Any]]) -> list[str]:
    """The `version` (BatchQuerySet.with_version) that a batch with these item rows has."""
    in_order = sorted(item_rows, key=lambda row: str(row["run_id"]))
    return [row["status_code"] + row.get("input_digest", "") for row in in_order]


class Batch(models.Model):
    """Up to a hundred runs of one model that were asked for together.

    Its counters, cost and status are written by `lifecycle.settle` alone, in the transaction that moves the runs. Its
    `output` is not stored: it is the runs' output, and a terminal batch never changes (docs/adr/0003).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="batches", db_index=False)
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="batches")
    status_code = models.CharField(max_length=20, choices=BatchStatus.choices, default=BatchStatus.QUEUED)
    source_code = models.CharField(max_length=20, choices=Source.choices, default=Source.API)
    items_total = models.PositiveIntegerField()
    items_succeeded = models.PositiveIntegerField(default=0)
    items_failed = models.PositiveIntegerField(default=0)
    items_cancelled = models.PositiveIntegerField(default=0)
    cost = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    has_hold = models.BooleanField(
        default=False, db_default=False, help_text="Credit is held for it until it ends (docs/credit.md)."
    )
    metadata = models.JSONField(null=True)
    callback_url = models.CharField(max_length=2048, null=True)
    resolved_template = models.ForeignKey(Template, on_delete=models.PROTECT, related_name="+")
    dispatch_provider_link = models.ForeignKey(
        ProviderLink, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    replay_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="replays", db_index=False)
    cancel_requested_at = models.DateTimeField(null=True)
    cancel_reason = models.TextField(null=True)
    request_id = models.CharField(max_length=128, default="")
    created_by = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)

    objects = BatchQuerySet.as_manager()
    item_rows: list[dict[str, Any]]  # where BatchQuerySet.with_item_rows annotated it
    version: list[str]  # where BatchQuerySet.with_version did

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "batches"
        constraints = [
            models.CheckConstraint(name="batch_status_known", condition=Q(status_code__in=BatchStatus.values)),
            models.CheckConstraint(
                name="batch_completed_at_iff_terminal", condition=_terminal_iff_completed(BATCH_TERMINAL)
            ),
            models.CheckConstraint(
                name="batch_counters_within_total",
                condition=Q(items_total__gte=F("items_succeeded") + F("items_failed") + F("items_cancelled")),
            ),
            models.CheckConstraint(
                name="batch_counters_sum_to_total_when_terminal",
                condition=~Q(status_code__in=BATCH_TERMINAL)
                | Q(items_total=F("items_succeeded") + F("items_failed") + F("items_cancelled")),
            ),
            models.CheckConstraint(name="batch_cost_not_negative", condition=Q(cost__isnull=True) | Q(cost__gte=0)),
        ]
        # Most batches are no replay: an index of the whole column would grow with them for nothing.
        indexes = [
            models.Index(name="batch_replays", fields=["replay_of"], condition=Q(replay_of__isnull=False)),
            # sweep: whose time is over?
            models.Index(name="batch_open", fields=["created_at"], condition=Q(status_code__in=("queued", "running"))),
            # lists (api/lists.py): in order, whatever of these is fixed
            models.Index(name="batch_list", fields=["organization", "created_at", "id"]),
            models.Index(name="batch_list_status", fields=["organization", "status_code", "created_at", "id"]),
            models.Index(name="batch_list_model", fields=["organization", "model", "status_code", "created_at", "id"]),
            models.Index(name="batch_list_completed", fields=["organization", "status_code", "completed_at", "id"]),
            owned_json_index(name="batch_metadata", owner="organization", document="metadata"),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def duration_ms(self) -> int | None:
        """Milliseconds from the first run's start to the end; null until terminal."""
        return _duration_ms(self)


class RunQuerySet(models.QuerySet["Run"]):
    def visible_to(self, organization: Organization) -> Self:
        """The only way an API view starts a query."""
        return self.filter(organization=organization)

    def with_version(self) -> Self:
        """Annotate `version`: a digest of the input, which changes beside the small columns (see BatchQuerySet)."""
        return self.annotate(version=_digest("input"))


class Run(models.Model):
    """One input for one model. The row is the truth: lease, attempt and due time are here, a message only says "look"."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="runs", db_index=False)
    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, null=True, related_name="runs")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="runs", db_index=False)
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="runs", db_index=False)
    resolved_template = models.ForeignKey(
        Template, on_delete=models.PROTECT, null=True, related_name="runs", db_index=False
    )
    dispatch_provider_link = models.ForeignKey(
        ProviderLink, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    status_code = models.CharField(max_length=20, choices=RunStatus.choices, default=RunStatus.QUEUED)
    source_code = models.CharField(max_length=20, choices=Source.choices, default=Source.API)
    input = models.JSONField()
    output = models.JSONField(null=True, help_text="As stored: assets by id; URLs are signed when it is read.")
    price = models.DecimalField(max_digits=12, decimal_places=6, help_text="USD if it succeeds, as of its creation.")
    cost = models.DecimalField(max_digits=12, decimal_places=6, null=True)
    has_hold = models.BooleanField(
        default=False, db_default=False, help_text="The same for a single run; for those of a batch the batch has it."
    )
    client_ref = models.CharField(max_length=255, null=True)
    metadata = models.JSONField(null=True)
    callback_url = models.CharField(max_length=2048, null=True)
    # The fencing token: whoever holds an older attempt can no longer write.
    attempt = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField()
    lease_expires_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(help_text="Not claimed before this.")
    # Of the current attempt: when it was claimed, where it is, and what that server calls it.
    dispatched_at = models.DateTimeField(null=True)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False)
    provider_job_id = models.CharField(max_length=255, null=True)
    past_attempts = models.JSONField(null=True, help_text="Those given back, oldest first (docs/adr/0011).")
    cancel_requested_at = models.DateTimeField(null=True)
    cancel_reason = models.TextField(null=True)
    nodes_total = models.PositiveIntegerField(null=True)
    nodes_completed = models.PositiveIntegerField(null=True)
    failure_code = models.CharField(max_length=50, null=True)
    failure_message = models.TextField(null=True)
    failure_stage_code = models.CharField(max_length=20, choices=Stage.choices, null=True)
    replay_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="replays", db_index=False)
    request_id = models.CharField(max_length=128, default="")
    created_by = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)

    objects = RunQuerySet.as_manager()
    version: str  # where RunQuerySet.with_version annotated it

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(name="run_status_known", condition=Q(status_code__in=RunStatus.values)),
            models.CheckConstraint(name="run_completed_at_iff_terminal", condition=_terminal_iff_completed(TERMINAL)),
            models.CheckConstraint(
                name="run_lease_iff_live",
                condition=Q(status_code__in=LIVE, lease_expires_at__isnull=False)
                | (~Q(status_code__in=LIVE) & Q(lease_expires_at__isnull=True)),
            ),
            models.CheckConstraint(
                name="run_cost_iff_succeeded",
                condition=Q(status_code=RunStatus.SUCCEEDED, cost__isnull=False)
                | (~Q(status_code=RunStatus.SUCCEEDED) & Q(cost__isnull=True)),
            ),
            models.CheckConstraint(
                name="run_failure_code_iff_failed",
                condition=Q(status_code=RunStatus.FAILED, failure_code__isnull=False)
                | (~Q(status_code=RunStatus.FAILED) & Q(failure_code__isnull=True)),
            ),
            models.CheckConstraint(name="run_cost_not_negative", condition=Q(cost__isnull=True) | Q(cost__gte=0)),
        ]
        # Partial, each for one question, so that millions of finished rows cost the engine nothing.
        indexes = [
            models.Index(name="run_replays", fields=["replay_of"], condition=Q(replay_of__isnull=False)),
            # claim: whose turn is it, and what is their oldest?
            models.Index(
                name="run_queued",
                fields=["provider", "organization", "due_at", "id"],
                condition=Q(status_code=RunStatus.QUEUED),
            ),
            # claim: how many does this organisation have in flight?
            models.Index(name="run_live_of_organization", fields=["organization"], condition=Q(status_code__in=LIVE)),
            # driver: what is at this endpoint?
            models.Index(
                name="run_live_at_endpoint",
                fields=["endpoint", "dispatched_at", "id"],
                condition=Q(status_code__in=LIVE, endpoint__isnull=False),
            ),
            # driver: what is to be stopped there?
            models.Index(
                name="run_to_cancel_at_endpoint",
                fields=["endpoint"],
                condition=Q(status_code__in=LIVE, endpoint__isnull=False, cancel_requested_at__isnull=False),
            ),
            # sweep: whose worker died?
            models.Index(name="run_lease_when_live", fields=["lease_expires_at"], condition=Q(status_code__in=LIVE)),
            # lists (api/lists.py): in order, whatever of these is fixed
            models.Index(name="run_list", fields=["organization", "created_at", "id"]),
            # Not of those that succeeded, nor of those at work: every run would be written into it four times.
            models.Index(
                name="run_list_status",
                fields=["organization", "status_code", "created_at", "id"],
                condition=Q(status_code__in=LISTED),
            ),
            models.Index(
                name="run_list_completed",
                fields=["organization", "completed_at", "id"],
                condition=Q(completed_at__isnull=False),
            ),
            models.Index(
                name="run_client_ref", fields=["organization", "client_ref"], condition=Q(client_ref__isnull=False)
            ),
            owned_json_index(name="run_metadata", owner="organization", document="metadata"),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def duration_ms(self) -> int | None:
        """Milliseconds from the start of the last attempt to the end; null until terminal."""
        return _duration_ms(self)


class BatchItem(models.Model):
    """Joins a batch and a run, and says where the run stood in the request. State lives in the run."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="items", db_index=False)
    run = models.OneToOneField(Run, on_delete=models.CASCADE, related_name="item")
    sequence_index = models.PositiveSmallIntegerField(help_text="Position in the request, from 0.")
    client_ref = models.CharField(max_length=255, null=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["batch", "sequence_index"]
        constraints = [
            models.UniqueConstraint(name="batchitem_batch_sequence_unique", fields=["batch", "sequence_index"]),
        ]

    def __str__(self) -> str:
        return f"{self.batch_id}[{self.sequence_index}]"


class Heartbeat(models.Model):
    """When something was last done. Written by `heartbeat.beat` alone; read by who asks whether the engine makes progress."""

    name = models.CharField(max_length=100, primary_key=True)
    beat_at = models.DateTimeField()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


def _digest(column: str) -> MD5:
    """Of a JSON column: to notice that it changed, without reading it."""
    return MD5(Cast(column, models.TextField()))


def _duration_ms(row: Batch | Run) -> int | None:
    if row.completed_at is None:
        return None
    return round((row.completed_at - (row.started_at or row.completed_at)).total_seconds() * 1000)
