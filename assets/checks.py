"""Combinations of settings that would hand customers links they cannot open."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register


@register()
def public_base_url_is_a_url(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """assets.E001: signed URLs are made from PUBLIC_BASE_URL, so it must be absolute."""
    parts = urlsplit(settings.PUBLIC_BASE_URL)
    if parts.scheme in ("http", "https") and parts.hostname:
        return []
    return [Error("PUBLIC_BASE_URL is no http(s) URL.", hint="e.g. https://runflow.example", id="assets.E001")]


@register(deploy=True)
def public_base_url_is_reachable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """assets.W001: a deployment whose links lead back to the reader's own machine."""
    if urlsplit(settings.PUBLIC_BASE_URL).hostname not in ("127.0.0.1", "localhost", "::1"):
        return []
    return [
        Warning(
            "PUBLIC_BASE_URL names this machine only: the output links of runs will not open elsewhere.",
            hint="Set PUBLIC_BASE_URL to the address that customers use.",
            id="assets.W001",
        )
    ]
