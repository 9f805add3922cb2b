"""Routes of this app, below /v1/."""

from django.urls import path

from accounts.api.me import AuthMeView

urlpatterns = [
    path("auth/me", AuthMeView.as_view(), name="auth-me"),
]
