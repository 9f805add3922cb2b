"""Routes of this app, below /v1/. Slugs hold several segments, none of which is a word that follows them here
(declarations.RESERVED_SEGMENTS), so no address has two meanings. Those that end in a word come first."""

from django.urls import path

from models_registry.api import views

urlpatterns = [
    path("models", views.ModelsView.as_view(), name="models"),
    path("public/models", views.PublicModelsView.as_view(), name="public-models"),
    path("models/<str:model_id>/inputs", views.ModelInputsView.as_view(), name="model-inputs"),
    path("models/<str:model_id>/inputs/<str:input_id>", views.ModelInputView.as_view(), name="model-input"),
    path("models/<str:model_id>/pricing", views.ModelPricingView.as_view(), name="model-pricing"),
    path("models/<str:owner>/<path:slug>/schema", views.ModelSchemaView.as_view(), name="model-schema"),
    path("models/<str:owner>/<path:slug>", views.ModelView.as_view(), name="model"),
]
