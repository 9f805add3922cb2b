"""What can be run, and where: models with their declared inputs, providers with their endpoints, and the links between."""

from __future__ import annotations

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models

from accounts.models import Organization
from runflow.lib.ids import uuid7


class ModelStatus(models.TextChoices):
    ACTIVE = "active"
    INACTIVE = "inactive"  # stays in the catalogue; creating anything for it is 503


class ProviderStatus(models.TextChoices):
    ACTIVE = "active"
    PAUSED = "paused"  # its queued runs wait


class VariableType(models.TextChoices):
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    FILE = "file"
    ARRAY = "array"
    JSON = "json"


MEDIA_TYPES = (VariableType.IMAGE, VariableType.VIDEO, VariableType.AUDIO, VariableType.FILE)


class Validator(models.TextChoices):
    NONE = "none"
    ONE_OF = "one_of"
    RANGE = "range"
    LENGTH = "length"
    PATTERN = "pattern"
    URL = "url"
    ITEMS = "items"
    JSON_SCHEMA = "json_schema"


class DefaultBehavior(models.TextChoices):
    USE_DEFAULT = "use_default"  # fill default_value
    OMIT = "omit"  # leave it out: the template keeps its own value
    NULL = "null"  # put null


class Model(models.Model):
    """A thing that turns inputs into outputs. `version` grows with each change of what it declares."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="models",
        help_text="Whose it is: others cannot see it unless it is public. Empty: everybody may use it.",
    )
    owner = models.CharField(max_length=100)
    slug = models.CharField(max_length=200, help_text="May hold several segments, e.g. nano-banana-pro/edit.")
    name = models.CharField(max_length=255)
    description = models.TextField(blank=True)
    is_public = models.BooleanField(
        default=False, help_text="Every organisation may use it, and it is listed without a key."
    )
    status_code = models.CharField(max_length=20, choices=ModelStatus.choices, default=ModelStatus.ACTIVE)
    price = models.DecimalField(
        max_digits=12,
        decimal_places=6,
        default=Decimal(0),
        validators=[MinValueValidator(Decimal(0))],
        help_text="USD for one succeeded run.",
    )
    run_timeout = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Seconds from the start of an attempt; empty: the provider's.",
    )
    batch_timeout = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Seconds from the creation of a batch; what is not done then fails. Empty: no limit.",
    )
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["owner", "slug"]
        constraints = [
            models.UniqueConstraint(name="model_owner_slug_unique", fields=["owner", "slug"]),
            models.CheckConstraint(name="model_status_known", condition=models.Q(status_code__in=ModelStatus.values)),
            models.CheckConstraint(name="model_price_not_negative", condition=models.Q(price__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.owner}/{self.slug}"


class ModelInput(models.Model):
    """One declared input of a model (contract.md section 5)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="inputs")
    name = models.CharField(max_length=100)
    display_name = models.CharField(max_length=255, blank=True)
    description = models.TextField(blank=True)
    variable_type_code = models.CharField(max_length=20, choices=VariableType.choices)
    default_behavior_code = models.CharField(
        max_length=20, choices=DefaultBehavior.choices, default=DefaultBehavior.OMIT
    )
    validator_code = models.CharField(max_length=20, choices=Validator.choices, default=Validator.NONE)
    validator_attrs = models.JSONField(default=dict, blank=True)
    is_required = models.BooleanField(default=False)
    default_value = models.JSONField(null=True, blank=True)
    sort_order = models.IntegerField(default=0)
    is_featured = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["sort_order", "name"]
        constraints = [models.UniqueConstraint(name="modelinput_model_name_unique", fields=["model", "name"])]

    def __str__(self) -> str:
        return self.name


class ModelOutput(models.Model):
    """One declared output of a model: documentation for those who read the results."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="outputs")
    name = models.CharField(max_length=100)
    display_name = models.CharField(max_length=255, blank=True)
    description = models.TextField(blank=True)
    variable_type_code = models.CharField(max_length=20, choices=VariableType.choices)
    sort_order = models.IntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["sort_order", "name"]
        constraints = [models.UniqueConstraint(name="modeloutput_model_name_unique", fields=["model", "name"])]

    def __str__(self) -> str:
        return self.name


class Template(models.Model):
    """What is sent to a provider: a JSON body and the places in it where inputs go.

    `bindings` is `[{"input": name, "target": JSON Pointer (RFC 6901) into body}]`. Never changed once written: runs name the
    template they were made with, so a change makes a new version.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=255)
    version = models.PositiveIntegerField(default=1)
    body = models.JSONField()
    bindings = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "-version"]
        constraints = [models.UniqueConstraint(name="template_name_version_unique", fields=["name", "version"])]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


class Provider(models.Model):
    """Something that can run models: an adapter with its configuration. Secrets in it are names of environment variables."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    code = models.SlugField(max_length=100, unique=True)
    name = models.CharField(max_length=255)
    adapter_code = models.CharField(max_length=50)
    config = models.JSONField(default=dict, blank=True)
    claim_size = models.PositiveIntegerField(default=8, help_text="Runs that a worker takes at once.")
    run_timeout = models.PositiveIntegerField(default=600, help_text="Seconds from the start of an attempt.")
    status_code = models.CharField(max_length=20, choices=ProviderStatus.choices, default=ProviderStatus.ACTIVE)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["code"]
        constraints = [
            models.CheckConstraint(
                name="provider_status_known", condition=models.Q(status_code__in=ProviderStatus.values)
            ),
            models.CheckConstraint(
                name="provider_claim_size_within_bounds", condition=models.Q(claim_size__range=(1, 1000))
            ),
        ]

    def __str__(self) -> str:
        return self.code


class Endpoint(models.Model):
    """One server of a provider. Adding a server is adding a row."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="endpoints")
    # No URLField: its validator refuses names of one label, and servers are called http://comfyui:8188.
    base_url = models.CharField(max_length=500)
    max_in_flight = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    status_code = models.CharField(max_length=20, choices=ProviderStatus.choices, default=ProviderStatus.ACTIVE)
    # Written by `batches.endpoints` alone. One driver speaks to a server at a time; its token is the fence.
    driver_token = models.UUIDField(null=True, editable=False)
    driver_lease_expires_at = models.DateTimeField(null=True, editable=False)
    down_since = models.DateTimeField(null=True, editable=False, help_text="It does not answer, or works on nothing.")
    retry_at = models.DateTimeField(null=True, editable=False, help_text="Not spoken to before this.")
    down_reason = models.TextField(default="", blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["provider", "base_url"]
        constraints = [
            models.UniqueConstraint(name="endpoint_provider_base_url_unique", fields=["provider", "base_url"]),
            models.CheckConstraint(
                name="endpoint_status_known", condition=models.Q(status_code__in=ProviderStatus.values)
            ),
        ]

    def __str__(self) -> str:
        return self.base_url


class ProviderLink(models.Model):
    """A way to run a model: on this provider, with this template. The active one with the lowest priority number is taken."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="links")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="links")
    template = models.ForeignKey(
        Template,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="links",
        help_text="Empty: reachable through the provider only, single runs but no batches.",
    )
    priority = models.IntegerField(default=100)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["model", "priority", "id"]
        constraints = [models.UniqueConstraint(name="providerlink_model_provider_unique", fields=["model", "provider"])]

    def __str__(self) -> str:
        return f"{self.model_id} on {self.provider_id}"
