"""From a ComfyUI workflow to a model: what a manifest would say, read out of the graph (docs/comfyui.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper

from models_registry.manifest import load_manifest
from models_registry.models import Model, Provider
from models_registry.object_info import NoAnswer, ObjectInfo, fetch_object_info
from models_registry.services import ImportReport, ManifestError, import_manifest
from models_registry.workflows.graph import Workflow, WorkflowError, check_server, read_workflow
from models_registry.workflows.inputs import (
    ProposedInput,
    choose_inputs,
    left_over,
    parse_choice,
    propose_inputs,
    unlisted,
)
from models_registry.workflows.manifest import (
    ADAPTER_CODE,
    MAX_IN_FLIGHT,
    ModelEntry,
    ProviderEntry,
    build_curl,
    build_manifest,
    dump_manifest,
)


class Command(BaseCommand):
    help = (
        "Make a model of a ComfyUI workflow in API format: proposes inputs, asks the server what their fields take, and "
        "prints the manifest. Only says what would change, unless --apply. Of a model that exists, inputs and links are "
        "replaced by those of the workflow; change them afterwards in the manifest, with import_models."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file", type=Path, metavar="GRAPH.json", help="from File → Export Workflow (API) in ComfyUI"
        )
        parser.add_argument("--owner", required=True)
        parser.add_argument("--slug", required=True)
        parser.add_argument("--name", default=None, help="default: what the model is called, or its slug")
        parser.add_argument("--price", default=None, help="USD for one succeeded run; default: what it has, or 0")
        parser.add_argument(
            "--provider",
            default=ADAPTER_CODE,
            metavar="CODE",
            help="made when it does not exist (default: %(default)s)",
        )
        parser.add_argument(
            "--endpoint", action="append", default=[], metavar="URL", help="a server of the provider; may be repeated"
        )
        parser.add_argument(
            "--input",
            action="append",
            default=[],
            metavar="NAME=NODE.FIELD[,NODE.FIELD]",
            help="take these inputs, in this order, instead of those proposed; may be repeated",
        )
        parser.add_argument(
            "--output-manifest",
            type=Path,
            default=None,
            metavar="FILE",
            help="where the manifest goes; default: printed",
        )
        parser.add_argument("--apply", action="store_true", help="change it; without this, only say what would change")

    def handle(self, *, file: Path, apply: bool, output_manifest: Path | None, **options: Any) -> None:
        # The manifest alone on standard output, so that it can be redirected.
        self.talk: OutputWrapper = self.stderr if output_manifest is None else self.stdout
        model = _model_entry(options["owner"], options["slug"], options["name"], options["price"])
        provider = _provider_entry(options["provider"], options["endpoint"])
        try:
            workflow = read_workflow(file.read_text(encoding="utf-8"))
            info = self._ask(provider, workflow)
            if info is not None:
                check_server(workflow, info)
            inputs = (
                choose_inputs(workflow, info, [parse_choice(text) for text in options["input"]])
                if options["input"]
                else propose_inputs(workflow, info)
            )
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        except WorkflowError as error:
            reasons = "".join(f"\n  {reason}" for reason in error.reasons)
            raise CommandError(f"{file} is refused, nothing was changed:{reasons}") from error
        text = dump_manifest(build_manifest(workflow=workflow, inputs=inputs, model=model, provider=provider))
        _refuse_to_overwrite(output_manifest, text)
        try:
            report = import_manifest(manifest=load_manifest(text), source=f"the manifest of {file}", apply=apply)
        except ManifestError as error:
            raise CommandError(str(error)) from error
        if output_manifest is None:
            self.stdout.write(text)
            self.stdout.flush()
        else:
            _write(output_manifest, text)
            self._say(f"Wrote {output_manifest}.")
        self._tell_inputs(workflow, inputs, info)
        self._tell_changes(report)
        curl = build_curl(base_url=settings.PUBLIC_BASE_URL, model=model, inputs=inputs)
        self._say(f"\n{'Try it' if apply else 'Once it is applied, try it'}:\n\n{curl}")

    def _say(self, text: str) -> None:
        self.talk.write(text, lambda line: line)

    def _ask(self, provider: ProviderEntry, workflow: Workflow) -> ObjectInfo | None:
        """What the provider's first server says of the workflow's nodes; None when none answers."""
        base_url = next(iter(provider.endpoints), None) or _first_endpoint(provider.code)
        if base_url is None:
            self._say(f"The provider {provider.code} has no endpoint to ask: types are those of the graph's values.")
            return None
        try:
            info = fetch_object_info(base_url, workflow.class_types())
        except NoAnswer as fault:
            self._say(
                f"No server answers ({fault}): types are those of the graph's values, without ranges and choices."
            )
            return None
        self._say(f"Types, ranges and choices are those of {base_url}.")
        return info

    def _tell_inputs(self, workflow: Workflow, inputs: Sequence[ProposedInput], info: ObjectInfo | None) -> None:
        others = left_over(workflow, inputs)
        for note in workflow.notes:
            self._say(f"Note: {note}.")
        for one in inputs:
            if one.default is None and not one.values.is_media:
                self._say(f"Note: input {one.name} has no default: left out, each place keeps its own value.")
        for target in unlisted(others, info or {}):
            self._say(f"Note: {target.node}, {target.name}: the server does not list {target.value!r}.")
        if others:
            self._say(f"Not inputs (take one with --input NAME=NODE.FIELD): {', '.join(map(str, others))}")

    def _tell_changes(self, report: ImportReport) -> None:
        if not report.changes:
            self._say("Nothing to change.")
            return
        for change in report.changes:
            self._say(str(change))
        count = len(report.changes)
        if report.is_applied:
            self._say(self.style.SUCCESS(f"Applied {count} change(s)."))
        else:
            self._say(self.style.NOTICE(f"Would make {count} change(s). Add --apply."))


def _model_entry(owner: str, slug: str, name: str | None, price: str | None) -> ModelEntry:
    if name is None:
        stored = Model.objects.filter(owner=owner, slug=slug).values_list("name", flat=True).first()
        name = stored or slug.replace("/", " ").replace("-", " ").replace("_", " ").strip().capitalize() or slug
    return ModelEntry(owner, slug, name, price)


def _provider_entry(code: str, endpoints: Sequence[str]) -> ProviderEntry:
    """The provider as it is or as it will be. Raises CommandError when it can be neither."""
    stored = Provider.objects.filter(code=code).prefetch_related("endpoints").first()
    if stored is None and not endpoints:
        raise CommandError(f"There is no provider {code!r}. Give the address of a server with --endpoint to make it.")
    if stored is not None and stored.adapter_code != ADAPTER_CODE:
        raise CommandError(
            f"The provider {code!r} is not for ComfyUI (adapter {stored.adapter_code!r}). Name another with --provider."
        )
    counts = {row.base_url: row.max_in_flight for row in stored.endpoints.all()} if stored is not None else {}
    urls = [url.rstrip("/") for url in endpoints]
    return ProviderEntry(
        code,
        stored.name if stored is not None else "ComfyUI" if code == ADAPTER_CODE else f"ComfyUI ({code})",
        {url: counts.get(url, MAX_IN_FLIGHT) for url in urls},
    )


def _first_endpoint(code: str) -> str | None:
    """The address of the stored provider's first server in use."""
    rows = Provider.objects.filter(code=code, endpoints__status_code="active").order_by("endpoints__base_url")
    return rows.values_list("endpoints__base_url", flat=True).first()


def _refuse_to_overwrite(path: Path | None, text: str) -> None:
    """A manifest is made to be edited: one that says something else is somebody's work."""
    if path is None or not path.exists():
        return
    try:
        is_same = path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be written: {error}") from error
    if not is_same:
        raise CommandError(f"{path} exists and says something else. Name another file, or delete it.")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error}") from error
