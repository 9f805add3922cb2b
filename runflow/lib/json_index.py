"""An index of the members of JSON documents that belong to somebody each."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db.models import F, Func, JSONField, OrderBy, Q
from django.db.models.expressions import Value
from django.db.models.fields.json import DataContains
from django.db.models.functions import Collate
from django.db.models.indexes import IndexExpression

# What `django.contrib.postgres` does as an app. It would also ask every new connection for types that nobody uses here.
IndexExpression.register_wrappers(OrderBy, OpClass, Collate)


class Owned(Func):
    """The document below its owner's id: {"<owner>": document}.

    So an index of it finds the rows of one owner that have a value, without those of others that have it too, and without an
    extension of PostgreSQL.
    """

    template = "jsonb_set('{}'::jsonb, ARRAY[%(expressions)s)"
    arg_joiner = "::text], "
    output_field = JSONField()


def owned_json_index(*, name: str, owner: str, document: str) -> GinIndex:
    """Of documents that are there: most rows have none, and cost nothing."""
    return GinIndex(
        OpClass(Owned(owner, document), name="jsonb_path_ops"), name=name, condition=Q(**{f"{document}__isnull": False})
    )


def owned_json_contains(*, owner: str, owner_id: object, document: str, part: dict[str, Any]) -> Q:
    """The rows of this owner whose document contains `part`, as the index finds them."""
    contains = DataContains(Owned(F(owner), F(document)), Value({str(owner_id): part}, output_field=JSONField()))
    return Q(contains, **{f"{document}__isnull": False})
