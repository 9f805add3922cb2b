"""Verbs of the registry: importing a manifest."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import Prefetch
from django.utils import timezone

from accounts.models import Organization
from models_registry.manifest import LinkSpec, Manifest, ModelSpec, ProviderSpec, read_manifest, same_json
from models_registry.models import Endpoint, Model, ModelInput, ModelOutput, Provider, ProviderLink, Template
from models_registry.sections import MISSING
from models_registry.templates import Fault, check_bindings

# Any fixed number: two imports at once would both think that the next version of a template is theirs.
IMPORT_LOCK = 7_201_508_333
INPUT_COLUMNS = (
    *("display_name", "description", "variable_type_code", "default_behavior_code", "validator_code"),
    *("validator_attrs", "is_required", "default_value", "sort_order", "is_featured"),
)
OUTPUT_COLUMNS = ("display_name", "description", "variable_type_code", "sort_order")


class ManifestError(ValueError):
    """A manifest is refused, and nothing is changed. `faults` holds every reason, `source` the file's name."""

    def __init__(self, source: str, faults: list[Fault]) -> None:
        reasons = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(f"{source} is refused, nothing was changed:{reasons}")
        self.source = source
        self.faults = faults


@dataclass(frozen=True)
class FieldChange:
    name: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.name}: {self.old} → {self.new}"


@dataclass(frozen=True)
class Change:
    """One row that is `added`, `changed` (with its columns), `removed`, or `deactivated` (links)."""

    action: str
    subject: str
    columns: tuple[FieldChange, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} {self.subject}" + "".join(f"\n    {column}" for column in self.columns)


@dataclass(frozen=True)
class ImportReport:
    """What an import changed or, when it is not applied, would change."""

    source: str
    is_applied: bool
    changes: list[Change]


def import_manifest(*, manifest: Any, source: str, apply: bool) -> ImportReport:
    """Make the tables say what a manifest says (format: docs/manifest.md); without `apply` only report what would change.

    1. Everything is checked; ManifestError with all reasons, nothing changed. 2. The file is compared with
    the rows. What the file does not name is left alone, except inside a model that it names: inputs,
       and outputs that are missing from a list that is given are removed, links are deactivated.
    3. With `apply`, all changes happen in one transaction. Running it again changes nothing.

    Any change of its inputs raises a model's version by one. A template is never changed: another body or
    other bindings make a new version, and the link moves to it. `source` names the file in messages.
    """
    specs, faults = read_manifest(manifest, known_adapters=settings.PROVIDER_ADAPTERS)
    with transaction.atomic():
        if apply:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [IMPORT_LOCK])
        plan = _Plan(specs, faults, is_locked=apply)
        if plan.faults:
            raise ManifestError(source, plan.faults)
        plan.compare()
        if apply:
            plan.write()
    return ImportReport(source, apply, plan.changes)


@dataclass
class _Rows:
    """Rows of one table to be written, in a statement each for new, changed and removed ones."""

    new: list[Any] = field(default_factory=list)
    changed: list[Any] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    removed: list[Any] = field(default_factory=list)


class _Plan:
    """The difference between a manifest and the tables."""

    def __init__(self, specs: Manifest, faults: list[Fault], *, is_locked: bool) -> None:
        self.specs = specs
        self.faults = faults
        self.changes: list[Change] = []
        self.rows: dict[type[models.Model], _Rows] = {}
        self._read(is_locked)
        self._check()

    # --- Reading: a statement per table, whatever the file's length

    def _read(self, is_locked: bool) -> None:
        links = [link for model in self.specs.models for link in model.links or []]
        organizations = {model.organization for model in self.specs.models if isinstance(model.organization, str)}
        self.organizations = {row.slug: row for row in Organization.objects.filter(slug__in=organizations)}
        codes = {spec.code for spec in self.specs.providers} | {link.provider for link in links}
        self.providers = {
            row.code: row
            for row in Provider.objects.filter(code__in=codes).prefetch_related(
                Prefetch("endpoints", queryset=Endpoint.objects.order_by("base_url"))
            )
        }
        stored = Model.objects.filter(
            owner__in={spec.owner for spec in self.specs.models}, slug__in={spec.slug for spec in self.specs.models}
        ).prefetch_related("inputs", "outputs", "links__provider", "links__template")
        if is_locked:
            # An operator who edits a model in the admin waits, and so does its version.
            stored = stored.order_by("id").select_for_update(of=("self",))
        self.models = {(row.owner, row.slug): row for row in stored}
        names = {link.template.name for link in links if link.template}
        self.templates = {
            row.name: row
            for row in Template.objects.filter(name__in=names).order_by("name", "-version").distinct("name")
        }

    # --- Checks that need the tables

    def _check(self) -> None:
        declared = {spec.code for spec in self.specs.providers}
        for spec in self.specs.models:
            if isinstance(spec.organization, str) and spec.organization not in self.organizations:
                self._fault(f"{spec.path}.organization", f"there is no organization {spec.organization!r}")
            stored = self.models.get((spec.owner, spec.slug))
            inputs = spec.inputs if spec.inputs is not None else list(stored.inputs.all()) if stored else []
            names = [str(one.name) for one in inputs]
            required = [str(one.name) for one in inputs if one.is_required]
            for link in spec.links or []:
                if link.provider and link.provider not in declared and link.provider not in self.providers:
                    self._fault(f"{link.path}.provider", f"there is no provider {link.provider!r}")
                if link.template and link.template.body is not None:
                    faults = check_bindings(link.template.body, link.template.bindings, names, required)
                    self.faults += [fault.under(link.template.path) for fault in faults]
            if spec.links is None and stored:
                # The links stay: what they bind must still be declared.
                for kept in stored.links.all():
                    if kept.is_active and kept.template:
                        for fault in check_bindings(kept.template.body, kept.template.bindings, names, required):
                            self._fault(
                                f"{spec.path}.inputs", f"{kept.template} of the link to {kept.provider}: {fault}"
                            )

    def _fault(self, path: str, reason: str) -> None:
        self.faults.append(Fault(path, reason))

    # --- Comparing

    def compare(self) -> None:
        for provider in self.specs.providers:
            self._compare_provider(provider)
        for model in self.specs.models:
            self._compare_model(model)

    def _compare_provider(self, spec: ProviderSpec) -> None:
        subject = f"provider {spec.code}"
        provider = self.providers.get(spec.code)
        if provider is None:
            provider = self.providers[spec.code] = Provider(code=spec.code, **spec.values)
            self._add(provider, subject)
            endpoints: dict[str, Endpoint] = {}
        else:
            self._change(provider, spec.values, subject)
            endpoints = {row.base_url: row for row in provider.endpoints.all()}
        for endpoint in spec.endpoints:
            inner = f"{subject}: endpoint {endpoint.base_url}"
            if endpoint.base_url in endpoints:
                self._change(endpoints[endpoint.base_url], endpoint.values, inner)
            else:
                self._add(Endpoint(provider=provider, base_url=endpoint.base_url, **endpoint.values), inner)

    def _compare_model(self, spec: ModelSpec) -> None:
        subject = f"model {spec}"
        values = dict(spec.values)
        if spec.organization is not MISSING:
            values["organization"] = self.organizations[spec.organization] if spec.organization else None
        stored = self.models.get((spec.owner, spec.slug))
        inputs: list[ModelInput] = []
        outputs: list[ModelOutput] = []
        links: list[ProviderLink] = []
        if stored is None:
            model = Model(owner=spec.owner, slug=spec.slug, **values)
            self._add(model, subject)
        else:
            model = stored
            inputs, outputs, links = list(model.inputs.all()), list(model.outputs.all()), list(model.links.all())
            if spec.inputs is not None and _differ(inputs, spec.inputs, INPUT_COLUMNS):
                values["version"] = model.version + 1
            self._change(model, values, subject)
        if spec.inputs is not None:
            self._compare_declared(model, inputs, spec.inputs, INPUT_COLUMNS, f"{subject}: input")
        if spec.outputs is not None:
            self._compare_declared(model, outputs, spec.outputs, OUTPUT_COLUMNS, f"{subject}: output")
        if spec.links is not None:
            self._compare_links(model, links, spec.links, f"{subject}: link to")

    def _compare_declared(
        self,
        model: Model,
        stored: Iterable[ModelInput | ModelOutput],
        declared: Iterable[ModelInput | ModelOutput],
        columns: Collection[str],
        subject: str,
    ) -> None:
        unnamed = {row.name: row for row in stored}
        for row in declared:
            found = unnamed.pop(row.name, None)
            if found is None:
                row.model = model
                self._add(row, f"{subject} {row.name}")
            else:
                self._change(found, {name: getattr(row, name) for name in columns}, f"{subject} {row.name}")
        for row in unnamed.values():
            self._remove(row, f"{subject} {row.name}")

    def _compare_links(
        self, model: Model, stored: Iterable[ProviderLink], declared: Iterable[LinkSpec], subject: str
    ) -> None:
        unnamed = {row.provider.code: row for row in stored}
        for spec in declared:
            values = {
                "priority": spec.priority,
                "is_active": spec.is_active,
                "template": self._template(spec) if spec.template else None,
            }
            found = unnamed.pop(spec.provider, None)
            if found is None:
                link = ProviderLink(model=model, provider=self.providers[spec.provider], **values)
                self._add(link, f"{subject} {spec.provider}")
            else:
                self._change(found, values, f"{subject} {spec.provider}")
        for code, row in unnamed.items():
            # Not removed: a finished batch and its runs name the link they went through, and never change.
            if row.is_active:
                self._change(row, {"is_active": False}, f"{subject} {code}", action="deactivated")

    def _template(self, link: LinkSpec) -> Template:
        """The latest version of the link's template, or a new one if the file says something else."""
        spec = link.template
        assert spec is not None  # noqa: S101  # for the type checker: the caller has looked
        latest = self.templates.get(spec.name)
        if latest and same_json(latest.body, spec.body) and same_json(latest.bindings, spec.bindings):
            return latest
        version = latest.version + 1 if latest else 1
        made = Template(name=spec.name, version=version, body=spec.body, bindings=spec.bindings)
        self.templates[spec.name] = made
        self._add(made, f"template {made}")
        return made

    def _add(self, row: models.Model, subject: str) -> None:
        self._rows_of(row).new.append(row)
        self.changes.append(Change("added", subject))

    def _remove(self, row: models.Model, subject: str) -> None:
        self._rows_of(row).removed.append(row)
        self.changes.append(Change("removed", subject))

    def _change(self, row: models.Model, values: dict[str, Any], subject: str, action: str = "changed") -> None:
        differing = {name: new for name, new in values.items() if not _same(getattr(row, name), new)}
        if not differing:
            return
        columns = tuple(FieldChange(name, _shown(getattr(row, name)), _shown(new)) for name, new in differing.items())
        for name, new in differing.items():
            setattr(row, name, new)
        rows = self._rows_of(row)
        rows.changed.append(row)
        rows.columns |= differing.keys()
        self.changes.append(Change(action, subject, columns))

    def _rows_of(self, row: models.Model) -> _Rows:
        return self.rows.setdefault(type(row), _Rows())

    # --- Writing

    def write(self) -> None:
        """At most three statements per table; rows before those that refer to them."""
        now = timezone.now()
        for model_class in (Provider, Endpoint, Template, Model, ModelInput, ModelOutput, ProviderLink):
            _write(model_class, self.rows.get(model_class, _Rows()), now)


def _write(model_class: type[models.Model], rows: _Rows, now: datetime) -> None:
    manager = model_class._default_manager
    if rows.removed:
        manager.filter(pk__in=[row.pk for row in rows.removed]).delete()
    if rows.changed:
        columns = set(rows.columns)
        if any(column.name == "updated_at" for column in model_class._meta.concrete_fields):
            columns.add("updated_at")  # bulk_update does not do what auto_now does on save()
            for row in rows.changed:
                row.updated_at = now
        manager.bulk_update(rows.changed, sorted(columns))
    if rows.new:
        manager.bulk_create(rows.new)


def _differ(stored: Collection[ModelInput], declared: Collection[ModelInput], columns: Collection[str]) -> bool:
    """Whether the two sets of declarations differ in anything."""
    by_name = {row.name: row for row in stored}
    if by_name.keys() != {row.name for row in declared}:
        return True
    return not all(_same(getattr(by_name[row.name], name), getattr(row, name)) for row in declared for name in columns)


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, models.Model | Decimal) or isinstance(new, models.Model | Decimal):
        return bool(old == new)
    return same_json(_plain(old), _plain(new))


def _plain(value: Any) -> Any:
    """Members of TextChoices as the text that they are."""
    return str(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    """A value in a report: short, and as it would be written in the file."""
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, models.Model):
        return str(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
