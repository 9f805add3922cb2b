"""The adapter for ComfyUI servers."""

from __future__ import annotations

from providers.base import EndpointConfig, ProviderConfig
from providers.comfyui.config import read_config
from providers.comfyui.connection import ComfyConnection


class ComfyAdapter:
    """Runs graphs on ComfyUI servers, each of them an endpoint of the provider."""

    def __init__(self, config: ProviderConfig) -> None:
        """Read the provider's config. Raises AdapterConfigError."""
        self._config = read_config(config)

    def connect(self, endpoint: EndpointConfig) -> ComfyConnection:
        """A connection to one server. Opens nothing yet. Raises AdapterConfigError when its URL cannot be used."""
        return ComfyConnection(endpoint, self._config)
