"""Routes of this app, below /v1/. Slugs hold several segments; what follows them is matched from the end."""

from django.urls import path

from batches.api import views
from batches.api.events import BatchEventsView
from batches.api.readiness import ReadinessView
from batches.api.results import BatchResultsView

urlpatterns = [
    path("readiness", ReadinessView.as_view(), name="readiness"),
    path("models/<str:owner>/<path:slug>/batches", views.ModelBatchesView.as_view(), name="model-batches"),
    path("models/<str:owner>/<path:slug>/runs", views.ModelRunsView.as_view(), name="model-runs"),
    path("batches", views.BatchesView.as_view(), name="batches"),
    path("runs", views.RunsView.as_view(), name="runs"),
    path("batches/<str:batch_id>", views.BatchView.as_view(), name="batch"),
    path("batches/<str:batch_id>/items", views.BatchItemsView.as_view(), name="batch-items"),
    path("batches/<str:batch_id>/items/<str:item_id>", views.BatchItemView.as_view(), name="batch-item"),
    path("batches/<str:batch_id>/events", BatchEventsView.as_view(), name="batch-events"),
    path("batches/<str:batch_id>/results", BatchResultsView.as_view(), name="batch-results"),
    path("batches/<str:batch_id>/cancellation", views.BatchCancellationView.as_view(), name="batch-cancellation"),
    path("runs/<str:run_id>/cancellation", views.RunCancellationView.as_view(), name="run-cancellation"),
    path("batches/<str:batch_id>/replays", views.BatchReplaysView.as_view(), name="batch-replays"),
    path("runs/<str:run_id>/replays", views.RunReplaysView.as_view(), name="run-replays"),
    path("batches/<str:batch_id>/callback", views.BatchCallbackView.as_view(), name="batch-callback"),
    path(
        "batches/<str:batch_id>/callback-redeliveries",
        views.BatchCallbackRedeliveriesView.as_view(),
        name="batch-callback-redeliveries",
    ),
    path("runs/<str:run_id>/callback", views.RunCallbackView.as_view(), name="run-callback"),
    path(
        "runs/<str:run_id>/callback-redeliveries",
        views.RunCallbackRedeliveriesView.as_view(),
        name="run-callback-redeliveries",
    ),
    path("runs/<str:run_id>/logs", views.RunLogsView.as_view(), name="run-logs"),
    path("runs/statuses", views.RunStatusesView.as_view(), name="run-statuses"),
    path("runs/<str:run_id>", views.RunView.as_view(), name="run"),
]
