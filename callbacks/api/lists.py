"""What the list of callback secrets offers (contract.md section 6); docs/lists.md tells it to clients."""

from __future__ import annotations

from callbacks.api.serializers import secret_body
from callbacks.models import CallbackSecret
from runflow.lib import filtering, ordering
from runflow.lib.lists import Listing
from runflow.lib.search import Filterable

SECRETS = Listing[CallbackSecret](
    name="callback-secrets",
    filterable={
        "id": Filterable(kind=filtering.ID, column="id"),
        "label": Filterable(kind=filtering.TEXT, column="label"),
        "is_current": Filterable(kind=filtering.BOOLEAN, column="is_current"),
        "created_at": Filterable(kind=filtering.TIME, column="created_at"),
        "disabled_at": Filterable(kind=filtering.TIME, column="disabled_at"),
    },
    sortable={"created_at": ordering.TIME, "label": ordering.TEXT},
    default_sort="created_at:desc",
    members=tuple(secret_body(CallbackSecret())),
    is_short=True,
)
