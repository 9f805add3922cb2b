"""What the lists of batches, runs and items offer (contract.md section 6); docs/lists.md tells it to clients."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db.models import OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.db.models.lookups import GreaterThan

from batches.api.serializers import BATCH_MEMBERS, ITEM_MEMBERS, RUN_MEMBERS
from batches.models import LISTED, LIVE, Batch, BatchItem, BatchStatus, Run, RunStatus, Source
from batches.services import MAX_ITEMS
from models_registry.models import Model
from runflow.lib import filtering, ordering
from runflow.lib.filtering import Condition
from runflow.lib.json_index import owned_json_contains
from runflow.lib.lists import Listing
from runflow.lib.search import Filterable, Index, look_up_by_column

NOBODY = UUID(int=0)


def _of_model(filterable: Filterable, condition: Condition) -> Q:
    """`owner/slug`. One that does not exist is nobody's, so that NOT is the complement there too."""

    def model_id(path: str) -> Coalesce:
        owner, _, slug = path.partition("/")
        found = Model.objects.filter(owner=owner, slug=slug).order_by().values("pk")[:1]
        return Coalesce(Subquery(found), Value(NOBODY))

    paths = [each.value for each in condition.one_by_one()]
    whole = Q()
    for path in paths:
        whole |= Q(**{filterable.column: model_id(path)})
    return whole


def _has_member(_: Filterable, condition: Condition) -> Q:
    """In a form that no index knows: it is for walking."""
    whole = Q()
    for each in condition.one_by_one():
        whole |= Q(metadata__contains={each.key: each.value})
    return whole


def _look_up_member(_: Filterable, condition: Condition, organization_id: Any) -> Q:
    whole = Q()
    for each in condition.one_by_one():
        part = {str(each.key): each.value}
        whole |= owned_json_contains(owner="organization_id", owner_id=organization_id, document="metadata", part=part)
    return whole


def _has_item(_: Filterable, condition: Condition) -> Q:
    """Asked of each batch by itself: a subquery in SELECT is not made a join, which might read all items."""
    refs = [each.value for each in condition.one_by_one()]
    item = BatchItem.objects.filter(batch=OuterRef("pk"), client_ref__in=refs).order_by().values("pk")[:1]
    return Q(GreaterThan(Coalesce(Subquery(item), Value(NOBODY)), NOBODY))


def _look_up_item(_: Filterable, condition: Condition, organization_id: Any) -> Q:
    refs = [each.value for each in condition.one_by_one()]
    runs = Run.objects.filter(organization_id=organization_id, client_ref__in=refs, batch__isnull=False)
    return Q(pk__in=runs.order_by().values("batch"))


def _batches_with(batches: QuerySet[Batch], embeds: Collection[str]) -> QuerySet[Batch]:
    """Items in the statement of the page itself; none are read unless something of them is asked for."""
    if not embeds:
        return batches
    return batches.with_item_rows(with_input="input" in embeds, with_output="output" in embeds)  # type: ignore[attr-defined,no-any-return]


def _runs_with(runs: QuerySet[Run], embeds: Collection[str]) -> QuerySet[Run]:
    return runs if "input" in embeds else runs.defer("input")


def _look_up_live(_: Filterable, condition: Condition, __: Any) -> Q | None:
    return Q(status_code=condition.value) if condition.operator == filtering.EQ and condition.value in LIVE else None


# Batches and runs alike.
_SOURCE = Filterable(kind=filtering.code(tuple(Source.values)), column="source_code")
_MODEL = Filterable(kind=filtering.TEXT, column="model_id", to_q=_of_model, note="`owner/slug`")
_REPLAY_OF = Filterable(kind=filtering.ID, column="replay_of_id", look_up=look_up_by_column)
_METADATA = Filterable(
    kind=filtering.JSON, column="metadata", to_q=_has_member, look_up=_look_up_member, note="`metadata.key:value`"
)

BATCHES = Listing[Batch](
    name="batches",
    filterable={
        "id": Filterable(kind=filtering.ID, column="id", look_up=look_up_by_column, most=1),
        "status_code": Filterable(kind=filtering.code(tuple(BatchStatus.values)), column="status_code"),
        "source_code": _SOURCE,
        "target_id": Filterable(kind=filtering.ID, column="model_id"),
        "model": _MODEL,
        "client_ref": Filterable(
            kind=filtering.TEXT, column="pk", to_q=_has_item, look_up=_look_up_item, note="of any of its items"
        ),
        "metadata": _METADATA,
        "replay_of": _REPLAY_OF,
        "created_at": Filterable(kind=filtering.TIME, column="created_at"),
        "completed_at": Filterable(kind=filtering.TIME, column="completed_at"),
    },
    sortable={"created_at": ordering.TIME, "completed_at": ordering.NULLABLE_TIME},
    default_sort="created_at:desc",
    indexes={
        "created_at": (Index(), Index(("status_code",)), Index(("model_id", "status_code"))),
        "completed_at": (Index(("status_code",)),),
    },
    members=BATCH_MEMBERS,
    embeddable=("items", "input", "output"),
    prepare=_batches_with,
)

RUNS = Listing[Run](
    name="runs",
    filterable={
        "id": Filterable(kind=filtering.ID, column="id", look_up=look_up_by_column, most=1),
        "status_code": Filterable(
            kind=filtering.code(tuple(RunStatus.values)), column="status_code", look_up=_look_up_live
        ),
        "source_code": _SOURCE,
        "model_id": Filterable(kind=filtering.ID, column="model_id"),
        "model": _MODEL,
        "batch_id": Filterable(kind=filtering.ID, column="batch_id", look_up=look_up_by_column, most=MAX_ITEMS),
        "client_ref": Filterable(kind=filtering.TEXT, column="client_ref", look_up=look_up_by_column),
        "metadata": _METADATA,
        "replay_of": _REPLAY_OF,
        "created_at": Filterable(kind=filtering.TIME, column="created_at"),
        "completed_at": Filterable(kind=filtering.TIME, column="completed_at"),
    },
    sortable={"created_at": ordering.TIME, "completed_at": ordering.TIME_THAT_IS_THERE},
    default_sort="created_at:desc",
    indexes={
        "created_at": (Index(), Index(("status_code",), holds=tuple(LISTED))),
        "completed_at": (Index(),),
    },
    members=RUN_MEMBERS,
    embeddable=("input",),
    prepare=_runs_with,
)

ITEMS = Listing[BatchItem](
    name="items",
    filterable={
        "id": Filterable(kind=filtering.ID, column="id"),
        "run_id": Filterable(kind=filtering.ID, column="run_id"),
        "status_code": Filterable(kind=filtering.code(tuple(RunStatus.values)), column="run__status_code"),
        "client_ref": Filterable(kind=filtering.TEXT, column="client_ref"),
    },
    sortable={"sequence_index": ordering.WHOLE, "created_at": ordering.TIME},
    default_sort="sequence_index:asc",
    indexes={"sequence_index": (Index(),)},
    members=ITEM_MEMBERS,
    prepare=lambda items, _: items.select_related("run"),
    is_short=True,
)

# Of all batches: found by their runs, which know whose they are, and when they were made. Single runs lie between them.
ITEMS_OF_ANY = Listing[Run](
    name="any-items",
    filterable={
        "id": Filterable(kind=filtering.ID, column="item__id", look_up=look_up_by_column, most=1),
        "run_id": Filterable(kind=filtering.ID, column="id", look_up=look_up_by_column, most=1),
        **{
            name: RUNS.filterable[name]
            for name in ("status_code", "batch_id", "client_ref", "created_at", "completed_at")
        },
    },
    sortable={"created_at": ordering.TIME},
    default_sort="created_at:desc",
    indexes={"created_at": RUNS.indexes["created_at"]},
    members=ITEM_MEMBERS,
    embeddable=("input",),
    prepare=lambda runs, embeds: _runs_with(runs.select_related("item"), embeds),
)
