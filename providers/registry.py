"""Which adapter a code names.

The web process reads `adapter_codes()` to validate a provider, so importing this module must import no
adapter: the built-in ones are dotted paths until the first one is built (the local adapter brings Pillow
along).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from providers.base import ProviderConfig, SyncAdapter

AdapterFactory = Callable[[ProviderConfig], SyncAdapter]
Factory = TypeVar("Factory", bound=AdapterFactory)

# code -> "module:attribute", or the factory itself once somebody has registered one.
_adapters: dict[str, str | AdapterFactory] = {
    "local": "providers.local.adapter:LocalAdapter",
}


class AdapterConfigError(ValueError):
    """A provider's configuration cannot be used.

    `str()` of it is written for operators, not for customers.
    """


class UnknownAdapterError(AdapterConfigError):
    """No adapter is registered under this code."""


def adapter_codes() -> tuple[str, ...]:
    """Name every adapter that can be built, sorted."""
    return tuple(sorted(_adapters))


def register_adapter(code: str, factory: str | None = None) -> Callable[[Factory], Factory]:
    """Register an adapter under `code`; as a decorator, or at once by a "module:attribute" path.

    @register_adapter("mine")                           a class or function from ProviderConfig to adapter
    register_adapter("mine", "shop.adapter:MyAdapter")  imported when the first one is built

    Raises ValueError when another adapter has that code: two modules would otherwise win by import order.
    """
    if factory is not None:
        _add(code, factory)

    def decorate(decorated: Factory) -> Factory:
        _add(code, decorated)
        return decorated

    return decorate


def build_adapter(adapter_code: str, config: ProviderConfig) -> SyncAdapter:
    """Build the adapter that `adapter_code` names, importing it when this is the first time.

    Raises UnknownAdapterError, or AdapterConfigError when the adapter cannot work with `config`.
    """
    try:
        registered = _adapters[adapter_code]
    except KeyError:
        known = ", ".join(adapter_codes())
        raise UnknownAdapterError(f"There is no adapter {adapter_code!r}. Known: {known}.") from None
    factory = _load(registered) if isinstance(registered, str) else registered
    return factory(config)


def _add(code: str, factory: str | AdapterFactory) -> None:
    if _adapters.get(code, factory) != factory:
        raise ValueError(f"An adapter {code!r} is already registered.")
    _adapters[code] = factory


def _load(path: str) -> AdapterFactory:
    module, _, attribute = path.partition(":")
    factory: AdapterFactory = getattr(import_module(module), attribute)
    return factory
