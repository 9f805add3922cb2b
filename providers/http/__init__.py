"""Models behind HTTP: a template is the request, the provider's config says how to read the answer (docs/providers/http.md)."""
