"""Routes of this app, below /v1/."""

from django.urls import path

from callbacks.api import views

urlpatterns = [
    path("callback-secrets", views.CallbackSecretsView.as_view(), name="callback-secrets"),
    path("callback-secrets/<str:secret_id>", views.CallbackSecretView.as_view(), name="callback-secret"),
]
