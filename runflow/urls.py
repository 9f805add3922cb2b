"""All routes. Apps are named by dotted string, so that the project package imports none of them."""

from django.contrib import admin
from django.urls import include, path

from runflow.lib.docs import OpenApiView, RedocView, SwaggerView
from runflow.lib.views import HealthView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("docs", SwaggerView.as_view(), name="docs"),
    path("docs/redoc", RedocView.as_view(), name="redoc"),
    path("v1/openapi.json", OpenApiView.as_view(), name="openapi"),
    path("v1/health", HealthView.as_view(), name="health"),
    path("v1/", include("accounts.api.urls")),
    path("v1/", include("batches.api.urls")),
    path("v1/", include("models_registry.api.urls")),
    path("v1/", include("assets.api.urls")),
    path("v1/", include("callbacks.api.urls")),
    path("v1/", include("billing.api.urls")),
]

handler404 = "runflow.lib.api.not_found_view"
