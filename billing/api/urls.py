"""Routes of this app, below /v1/."""

from django.urls import path

from billing.api import views

urlpatterns = [
    path("billing/balance", views.BalanceView.as_view(), name="balance"),
]
