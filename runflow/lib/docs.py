"""The OpenAPI document over HTTP, and the pages that show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drf_spectacular.views import SpectacularRedocView, SpectacularSwaggerView
from rest_framework.request import Request
from rest_framework.response import Response

from runflow.lib.openapi import document
from runflow.lib.schemas import OBJECT, Answer, Operation
from runflow.lib.views import ApiView


class OpenApiView(ApiView):
    """`GET /v1/openapi.json`"""

    authentication_classes: Sequence[type] = []
    permission_classes: Sequence[type] = []
    documented = {
        "GET": Operation(
            id="getOpenApi",
            tag="Server",
            summary="Read this document",
            answers={200: Answer(OBJECT, "An OpenAPI 3.1 document.")},
        )
    }

    def get(self, request: Request) -> Response:
        return Response(document())


class _PageMixin:
    """The pages load nothing from other servers: neither does the browser if a new version of one should want to."""

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)  # type: ignore[misc]
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; worker-src 'self' blob:"
        )
        return response


class SwaggerView(_PageMixin, SpectacularSwaggerView):
    """`GET /docs`: to read, and to try with a key."""

    url_name = "openapi"


class RedocView(_PageMixin, SpectacularRedocView):
    """`GET /docs/redoc`: to read."""

    url_name = "openapi"
    template_name = "docs/redoc.html"
