"""Routes of this app, below /v1/."""

from django.urls import path

from assets.api import views
from assets.services import FILE_ROUTE, THUMBNAIL_ROUTE, UPLOAD_ROUTE

urlpatterns = [
    path("asset-uploads", views.AssetUploadsView.as_view(), name="asset-uploads"),
    path("asset-uploads/<uuid:asset_id>", views.AssetUploadView.as_view(), name=UPLOAD_ROUTE),
    path(
        "asset-uploads/<str:asset_id>/confirmations",
        views.AssetConfirmationsView.as_view(),
        name="asset-confirmations",
    ),
    path("assets/<str:asset_id>", views.AssetView.as_view(), name="asset"),
    path("files/<uuid:asset_id>", views.FileView.as_view(), name=FILE_ROUTE),
    path("files/<uuid:asset_id>/thumbnail", views.ThumbnailView.as_view(), name=THUMBNAIL_ROUTE),
]
