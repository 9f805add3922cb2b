"""The URL table as the document spells it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from runflow.lib.views import ApiView


def template_of(route: str) -> str:
    """`v1/batches/<str:batch_id>` as OpenAPI writes it."""
    return "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route)


def operations() -> Iterator[tuple[str, str, type[ApiView]]]:
    """(method, path, view) of everything under /v1/."""
    for route, view in _routes(get_resolver().url_patterns, ""):
        for method in view.http_method_names:
            if method != "head" and hasattr(view, method):
                yield method.upper(), template_of(route), view


def _routes(patterns: list[Any], prefix: str) -> Iterator[tuple[str, type[ApiView]]]:
    for pattern in patterns:
        here = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern) and here.startswith("v1/"):
            yield here, pattern.callback.view_class  # type: ignore[attr-defined]
