"""Routes of this app, below /v1/."""

from django.urls import path

from assets.api.views import FileView

urlpatterns = [path("files/<uuid:asset_id>", FileView.as_view(), name="file")]
