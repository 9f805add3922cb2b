"""The documentation says what the code does: links, settings, dependencies, routes, and examples that run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.management import call_command
from django.urls import URLPattern, URLResolver, get_resolver

from assets.models import Asset
from assets.services import read_asset
from batches import engine
from batches.api.lists import BATCHES, ITEMS, ITEMS_OF_ANY, RUNS
from batches.models import Run
from callbacks.api.lists import SECRETS
from models_registry.api.lists import INPUTS, MODELS, PRICES, PUBLIC_MODELS
from models_registry.models import Provider
from runflow.lib import filtering, pagination, search
from runflow.lib.errors import DomainError
from runflow.lib.lists import Listing
from tests.conftest import Api

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands below a second-level heading, up to the next."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_column(table: str) -> set[str]:
    """The names in the first cells of a Markdown table, without backquotes and header."""
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    return {row.strip("`") for row in rows} - {"variable", "package", "what"}


def block(text: str, language: str) -> str:
    """The only code block of this language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def block_lines(path: str, heading: str) -> list[str]:
    """The lines of the first code block below a heading."""
    return re.split(r"^```\w*\n", section(text_of(path), heading), flags=re.MULTILINE)[1].strip().splitlines()


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings make, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_is_reachable_from_the_readme(page: Path) -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        here = todo.pop()
        if here in reached or here.suffix != ".md" or not here.is_file():
            continue
        reached.add(here)
        todo += [
            (here.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(here.read_text(encoding="utf-8"))
        ]
    assert page in reached


def test_every_setting_is_documented_and_every_documented_one_is_read() -> None:
    read = set(re.findall(r'\benv\.\w+\(\s*"([A-Z0-9_]+)"', text_of("runflow/settings.py")))
    assert first_column(section(text_of("docs/settings.md"), "Server")) == read


def test_what_the_stack_command_supplies_is_documented() -> None:
    services, application = text_of("runflow/stack/services.py"), text_of("runflow/stack/application.py")
    supplied = set(re.findall(r'"([A-Z_]+)"', re.search(r"for name in \((.*?)\)\s+if os\.environ", services)[1]))  # type: ignore[index]
    supplied |= set(re.findall(r'"([A-Z_]+)":', re.search(r"defaults = \{(.*?)\}", application)[1]))  # type: ignore[index]
    assert first_column(section(text_of("docs/settings.md"), "The stack command")) == supplied


def test_make_variables_are_documented() -> None:
    makefile = text_of("Makefile")
    taken = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE)) | {"KEEP", "ARGS"}
    assert first_column(section(text_of("docs/settings.md"), "Make")) == taken
    assert {name for name in taken if f"$({name})" not in makefile and f"$(if $({name})," not in makefile} == set()


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z]+)\b", page.read_text(), re.MULTILINE)}
    assert named <= targets


@pytest.mark.parametrize(
    ("file", "heading"),
    [
        ("requirements.txt", "Runtime: `requirements.txt`"),
        ("requirements-dev.txt", "Development: `requirements-dev.txt`"),
    ],
)
def test_every_dependency_has_its_reason(file: str, heading: str) -> None:
    required = set(re.findall(r"^([A-Za-z][^=\s]*)==", text_of(file), re.MULTILINE))
    assert first_column(section(text_of("docs/dependencies.md"), heading)) == required


def routes(resolver: URLResolver, prefix: str = "/") -> Iterator[str]:
    for each in resolver.url_patterns:
        path = prefix + re.sub(r"<\w+:(\w+)>", r"{\1}", str(each.pattern))
        if isinstance(each, URLResolver):
            yield from routes(each, path)
        elif isinstance(each, URLPattern):
            yield path


def test_every_route_is_documented_and_every_documented_one_exists() -> None:
    documented = set(re.findall(r"^## `[A-Z]+ (/\S+)`$", text_of("docs/api.md"), re.MULTILINE))
    assert documented == {path for path in routes(get_resolver()) if path.startswith("/v1/")}


def error_codes(error: type[DomainError]) -> Iterator[str]:
    yield error.code
    for each in error.__subclasses__():
        yield from error_codes(each)


def test_every_error_code_is_documented() -> None:
    get_resolver().url_patterns  # noqa: B018  # imports the views, and with them their errors
    documented = set(re.findall(r"`([A-Z_]+)`", section(text_of("docs/api.md"), "Errors")))
    assert set(error_codes(DomainError)) - documented == set()


def test_the_cases_of_idempotency_have_the_tests_that_the_page_names() -> None:
    rows = re.findall(r"^\| (\d) \|.*`(test_\w+)` \|$", text_of("docs/idempotency.md"), re.MULTILINE)
    cases = re.findall(r"^(\d)\. ", text_of("idempotency/middleware.py"), re.MULTILINE)
    tests = set(re.findall(r"^def (test_\w+)", text_of("tests/idempotency/test_middleware.py"), re.MULTILINE))
    assert [number for number, _ in rows] == cases
    assert {name for _, name in rows} <= tests


# --- The example of docs/providers/local.md ----------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, db: None) -> Iterator[Provider]:
    """The two files of the page, in place: the module importable, the manifest imported."""
    page = text_of("docs/providers/local.md")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "functions.py").write_text(block(page, "python"), encoding="utf-8")
    manifest = tmp_path / "shop.yaml"
    manifest.write_text(block(page, "yaml"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    call_command("import_models", str(manifest), "--apply", verbosity=0)
    yield Provider.objects.get(code="shop")
    for name in ("shop.functions", "shop"):
        sys.modules.pop(name, None)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("item", "output", "failure"),
    [
        ({"text": "hello"}, b"HELLO", None),
        ({"text": "hello", "attachment_url": "data:text/plain,there"}, b"HELLO\nthere", None),
        ({"text": " "}, None, ("EXECUTION_FAILED", "There is nothing to shout.")),
    ],
    ids=["text", "with a file", "refused"],
)
def test_the_example_of_a_function_of_ones_own_works(
    api: Api, shop: Provider, item: dict[str, Any], output: bytes | None, failure: tuple[str, str] | None
) -> None:
    assert api.post("/v1/models/shop/shout/batches", {"input": [item]}).status_code == 201
    assert engine.execute(provider_id=shop.pk) == 1
    run = Run.objects.get()
    assert (run.failure_code, run.failure_message) == (failure or (None, None))
    if output is not None:
        asset = Asset.objects.get()
        assert read_asset(asset_id=asset.pk, organization_id=api.organization.pk) == (output, "text/plain")


@pytest.mark.django_db(transaction=True)
def test_the_example_s_function_is_tried_again_when_it_says_so(api: Api, shop: Provider) -> None:
    api.post("/v1/models/shop/shout/batches", {"input": [{"text": "busy"}]})
    engine.execute(provider_id=shop.pk)
    run = Run.objects.get()
    assert (run.status_code, run.attempt) == ("queued", 1)
    assert (run.due_at - run.created_at).total_seconds() >= 30


def test_the_functions_that_are_there_are_those_that_the_page_lists() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `", section(text_of("docs/providers/local.md"), "What is there"), re.MULTILINE)
    offered = re.findall(r'^@local_function\("(\w+)"\)', text_of("providers/local/images.py"), re.MULTILINE)
    assert listed == offered


def test_the_tests_that_guards_are_said_to_have_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", text_of("docs/guards.md")))
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named
    assert named - written == set()


LISTINGS: dict[str, Listing[Any]] = {
    "GET /v1/batches": BATCHES,
    "GET /v1/runs": RUNS,
    "GET /v1/batches/{batch_id}/items": ITEMS,
    "GET /v1/batches/any/items": ITEMS_OF_ANY,
    "GET /v1/callback-secrets": SECRETS,
    "GET /v1/models": MODELS,
    "GET /v1/public/models": PUBLIC_MODELS,
    "GET /v1/models/{model_id}/inputs": INPUTS,
    "GET /v1/models/{model_id}/pricing": PRICES,
}


def test_lists_offer_what_the_documentation_says_they_do() -> None:
    members = section(text_of("docs/lists.md"), "Members")
    parts = re.split(r"^### `(.+)`$", members, flags=re.MULTILINE)[1:]
    assert parts[::2] == list(LISTINGS)
    for text, listing in zip(parts[1::2], LISTINGS.values(), strict=True):
        rows = re.findall(r"^\| `(\w+)` \| `([A-Z ]+)` \|", text, re.MULTILINE)
        assert dict(rows) == {name: " ".join(each.operators) for name, each in listing.filterable.items()}
        sentence = re.search(r"^Sorted by (.+); `(.+)` if not told\.(?: Embeds (.+))?", text, re.MULTILINE)
        assert sentence is not None
        assert re.findall(r"`(\w+)`", sentence[1]) == list(listing.sortable)
        assert sentence[2] == listing.default_sort
        assert re.findall(r"`(\w+)`", sentence[3] or "") == list(listing.embeddable)


def test_the_limits_of_lists_are_documented() -> None:
    text = text_of("docs/lists.md")
    for limit in (
        f"1 to {pagination.MAX_LIMIT} rows, {pagination.DEFAULT_LIMIT} if not given",
        f"At most {filtering.MAX_LENGTH} characters, {filtering.MAX_CONDITIONS} conditions, {filtering.MAX_DEPTH} levels",
        f"one of a list of up to {filtering.MAX_VALUES}",
        f"no more than {search.FEW:,} rows",
        f"{search.LOOKED_AT:,} rows are looked at",
        f"a page holds at most {BATCHES.embed_limit}, of models {MODELS.embed_limit}",
    ):
        assert limit in text


@pytest.mark.django_db
@pytest.mark.parametrize("q", block_lines("docs/lists.md", "Filters"))
def test_the_filters_of_the_documentation_are_understood(q: str) -> None:
    assert Api().get(f"/v1/batches?{urlencode({'q': q})}").status_code == 200
