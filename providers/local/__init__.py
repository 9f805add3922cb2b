"""Models that are Python functions, run inside the worker.

    @local_function("shout")
    def shout(context: Context, *, text: str) -> Artifact:
        ...

The module's dotted path goes into the provider's config, `{"modules": ["shop.functions"]}`; a link's
template is `{"function": "shout", "arguments": {"text": null}}`.
"""

# Only names that need no Pillow: whoever imports this package pays for nothing else.
from providers.local.functions import Context, Refused, TryLater, local_function

__all__ = ["Context", "Refused", "TryLater", "local_function"]
