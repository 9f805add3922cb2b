"""Views do three things: check the input, call a verb, write the answer. Domain errors know their HTTP status."""

from __future__ import annotations

from typing import Any, NoReturn
from uuid import UUID

from django.db.models import Q
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.authentication import caller_of
from accounts.models import Scope
from batches.api import operations
from batches.api.lists import BATCHES, ITEMS, ITEMS_OF_ANY, RUNS
from batches.api.polling import answer_unless_known
from batches.api.serializers import (
    batch_body,
    batch_created_body,
    batch_row_body,
    item_body,
    log_entry_body,
    run_body,
    run_statuses_body,
)
from batches.cancellation import cancel, check_cancellation
from batches.logs import OLDEST_FIRST, log_of
from batches.models import Batch, BatchItem, Run
from batches.replays import check_batch_replay, check_run_replay, replay_batch, replay_run
from batches.services import (
    check_batch_request,
    check_run_request,
    create_batch,
    create_run,
    estimate_cost,
    redeliver_callback,
)
from callbacks.api.serializers import delivery_body
from callbacks.models import CallbackDelivery, SubjectType
from models_registry.catalogue import batch_target, run_target
from runflow.lib import errors
from runflow.lib.money import money
from runflow.lib.pagination import page_of_list
from runflow.lib.request_id import current_request_id
from runflow.lib.views import ApiView, is_true, json_object, parse_uuid


class BatchNotFound(errors.NotFound):
    code, message = "BATCH_NOT_FOUND", "There is no such batch."


class BatchItemNotFound(errors.NotFound):
    code, message = "BATCH_ITEM_NOT_FOUND", "There is no such item in this batch."


class RunNotFound(errors.NotFound):
    code, message = "RUN_NOT_FOUND", "There is no such run."


class ModelBatchesView(ApiView):
    """`POST /v1/models/{owner}/{slug}/batches`"""

    scopes = {"POST": Scope.BATCHES_CREATE}
    documented = {"POST": operations.CREATE_BATCH}

    def post(self, request: Request, owner: str, slug: str) -> Response:
        caller = caller_of(request)
        target = batch_target(owner=owner, slug=slug, organization=caller.organization)
        checked = check_batch_request(target=target, body=json_object(request))
        if is_true(request.query_params.get("validate_only")):
            total = len(checked.items)
            estimate = money(estimate_cost(target=target, items=total))
            return _dry_run({"valid": True, "items_total": total, "estimated_cost": estimate})
        batch, handles = create_batch(
            organization=caller.organization,
            target=target,
            request=checked,
            request_id=current_request_id(),
            created_by=caller.api_key,
        )
        return Response(batch_created_body(batch, handles), status=201)


class ModelRunsView(ApiView):
    """`POST /v1/models/{owner}/{slug}/runs`"""

    scopes = {"POST": Scope.RUNS_CREATE}
    documented = {"POST": operations.CREATE_RUN}

    def post(self, request: Request, owner: str, slug: str) -> Response:
        caller = caller_of(request)
        target = run_target(owner=owner, slug=slug, organization=caller.organization)
        checked = check_run_request(target=target, body=json_object(request))
        if is_true(request.query_params.get("validate_only")):
            return _dry_run({"valid": True, "estimated_cost": money(estimate_cost(target=target, items=1))})
        run = create_run(
            organization=caller.organization,
            target=target,
            request=checked,
            request_id=current_request_id(),
            created_by=caller.api_key,
        )
        return Response(run_body(run), status=201)


class BatchesView(ApiView):
    """`GET /v1/batches`"""

    scopes = {"GET": Scope.BATCHES_READ}
    documented = {"GET": operations.LIST_BATCHES}
    listing = BATCHES

    def get(self, request: Request) -> Response:
        organization = caller_of(request).organization
        batches = Batch.objects.visible_to(organization)
        page = self.listing.page(batches, request.query_params.dict(), tied_to=organization.pk)
        return Response(page.body(batch_row_body(batch, embeds=page.embeds) for batch in page.rows))


class BatchView(ApiView):
    """`GET /v1/batches/{id}`"""

    scopes = {"GET": Scope.BATCHES_READ}
    documented = {"GET": operations.GET_BATCH}

    def get(self, request: Request, batch_id: str) -> Response:
        parsed = parse_uuid(batch_id) or _raise(BatchNotFound)
        with_input = "input" in request.query_params.get("embed", "").split(",")
        batches = Batch.objects.visible_to(caller_of(request).organization).filter(pk=parsed)
        answer = answer_unless_known(
            request,
            small=lambda: batches.with_version(with_input=with_input),
            whole=lambda: batches.with_item_rows(with_input=with_input),
            body=lambda batch: batch_body(batch, batch.item_rows),
            variant="input" if with_input else "",
        )
        return answer or _raise(BatchNotFound)


# Instead of a parent's id: all of them (contract.md section 6).
ANY = "any"


class BatchItemsView(ApiView):
    """`GET /v1/batches/{batch_id}/items`; `any` for those of all batches."""

    scopes = {"GET": Scope.BATCHES_READ}
    documented = {"GET": operations.LIST_BATCH_ITEMS}
    listing = ITEMS
    listing_of_any = ITEMS_OF_ANY

    def get(self, request: Request, batch_id: str) -> Response:
        query = request.query_params.dict()
        if batch_id == ANY:
            organization = caller_of(request).organization
            runs = self.listing_of_any.page(
                Run.objects.visible_to(organization), query, tied_to=organization.pk, only=Q(batch__isnull=False)
            )
            with_input = "input" in runs.embeds
            return Response(runs.body(item_body(run.item, with_input=with_input) for run in runs.rows))
        batch = _batch_or_404(request, batch_id)
        items = self.listing.page(BatchItem.objects.filter(batch=batch), query)
        return Response(items.body(item_body(item) for item in items.rows))


class BatchItemView(ApiView):
    """`GET /v1/batches/{batch_id}/items/{id}`; `any` for that of whatever batch."""

    scopes = {"GET": Scope.BATCHES_READ}
    documented = {"GET": operations.GET_BATCH_ITEM}

    def get(self, request: Request, batch_id: str, item_id: str) -> Response:
        if batch_id == ANY:
            items = BatchItem.objects.filter(batch__organization=caller_of(request).organization)
        else:
            items = BatchItem.objects.filter(batch=_batch_or_404(request, batch_id))
        parsed = parse_uuid(item_id) or _raise(BatchItemNotFound)
        item = items.filter(pk=parsed).select_related("run").first()
        return Response(item_body(item or _raise(BatchItemNotFound)))


class RunsView(ApiView):
    """`GET /v1/runs`"""

    scopes = {"GET": Scope.RUNS_READ}
    documented = {"GET": operations.LIST_RUNS}
    listing = RUNS

    def get(self, request: Request) -> Response:
        organization = caller_of(request).organization
        runs = Run.objects.visible_to(organization)
        page = self.listing.page(runs, request.query_params.dict(), tied_to=organization.pk)
        return Response(page.body(run_body(run, with_input="input" in page.embeds) for run in page.rows))


class RunView(ApiView):
    """`GET /v1/runs/{id}`"""

    scopes = {"GET": Scope.RUNS_READ}
    documented = {"GET": operations.GET_RUN}

    def get(self, request: Request, run_id: str) -> Response:
        parsed = parse_uuid(run_id) or _raise(RunNotFound)
        runs = Run.objects.visible_to(caller_of(request).organization).filter(pk=parsed)
        answer = answer_unless_known(request, small=runs.with_version, whole=runs.with_version, body=run_body)
        return answer or _raise(RunNotFound)


class RunStatusesView(ApiView):
    """`GET /v1/runs/statuses`"""

    scopes = {"GET": Scope.RUNS_READ}
    documented = {"GET": operations.LIST_RUN_STATUSES}

    def get(self, request: Request) -> Response:
        return Response(run_statuses_body())


class RunLogsView(ApiView):
    """`GET /v1/runs/{run_id}/logs`"""

    scopes = {"GET": Scope.RUNS_READ}
    documented = {"GET": operations.LIST_RUN_LOGS}

    def get(self, request: Request, run_id: str) -> Response:
        entries = log_of(_run_or_404(request, run_id))
        page = page_of_list(entries, request.query_params.dict(), order=OLDEST_FIRST)
        return Response(page.body([log_entry_body(entry) for entry in page.rows]))


class BatchCancellationView(ApiView):
    """`POST /v1/batches/{batch_id}/cancellation`"""

    scopes = {"POST": Scope.RUNS_EXECUTE}
    documented = {"POST": operations.CANCEL_BATCH}

    def post(self, request: Request, batch_id: str) -> Response:
        batch = _batch_or_404(request, batch_id)
        cancelled = cancel(batch_ids=[batch.pk], reason=check_cancellation(_optional_body(request)))
        row = Batch.objects.with_item_rows().get(pk=batch.pk)
        return Response(batch_body(row, row.item_rows), status=201 if cancelled.has_effect else 200)


class RunCancellationView(ApiView):
    """`POST /v1/runs/{run_id}/cancellation`"""

    scopes = {"POST": Scope.RUNS_EXECUTE}
    documented = {"POST": operations.CANCEL_RUN}

    def post(self, request: Request, run_id: str) -> Response:
        run = _run_or_404(request, run_id)
        cancelled = cancel(run_ids=[run.pk], reason=check_cancellation(_optional_body(request)))
        run.refresh_from_db()
        return Response(run_body(run), status=201 if cancelled.has_effect else 200)


class BatchReplaysView(ApiView):
    """`POST /v1/batches/{batch_id}/replays`"""

    scopes = {"POST": Scope.RUNS_EXECUTE}
    documented = {"POST": operations.REPLAY_BATCH}

    def post(self, request: Request, batch_id: str) -> Response:
        caller = caller_of(request)
        batch, handles = replay_batch(
            batch=_batch_or_404(request, batch_id, with_model=True),
            request=check_batch_replay(_optional_body(request)),
            request_id=current_request_id(),
            created_by=caller.api_key,
        )
        return Response(batch_created_body(batch, handles), status=201)


class RunReplaysView(ApiView):
    """`POST /v1/runs/{run_id}/replays`"""

    scopes = {"POST": Scope.RUNS_EXECUTE}
    documented = {"POST": operations.REPLAY_RUN}

    def post(self, request: Request, run_id: str) -> Response:
        caller = caller_of(request)
        run = replay_run(
            run=_run_or_404(request, run_id, with_model=True),
            request=check_run_replay(_optional_body(request)),
            request_id=current_request_id(),
            created_by=caller.api_key,
        )
        return Response(run_body(run), status=201)


class BatchCallbackView(ApiView):
    """`GET /v1/batches/{batch_id}/callback`"""

    scopes = {"GET": Scope.BATCHES_READ}
    documented = {"GET": operations.LIST_BATCH_CALLBACKS}

    def get(self, request: Request, batch_id: str) -> Response:
        batch = _batch_or_404(request, batch_id)
        deliveries = CallbackDelivery.objects.of_subject(SubjectType.BATCH, batch.pk)
        return Response([delivery_body(delivery) for delivery in deliveries])


class BatchCallbackRedeliveriesView(ApiView):
    """`POST /v1/batches/{batch_id}/callback-redeliveries`"""

    scopes = {"POST": Scope.RUNS_EXECUTE}
    documented = {"POST": operations.REDELIVER_BATCH_CALLBACK}

    def post(self, request: Request, batch_id: str) -> Response:
        delivery_id = redeliver_callback(subject=_batch_or_404(request, batch_id))
        return Response(delivery_body(CallbackDelivery.objects.get(pk=delivery_id)), status=201)


class RunCallbackView(ApiView):
    """`GET /v1/runs/{run_id}/callback`"""

    scopes = {"GET": Scope.RUNS_READ}
    documented = {"GET": operations.LIST_RUN_CALLBACKS}

    def get(self, request: Request, run_id: str) -> Response:
        run = _run_or_404(request, run_id)
        deliveries = CallbackDelivery.objects.of_subject(SubjectType.RUN, run.pk)
        return Response([delivery_body(delivery) for delivery in deliveries])


class RunCallbackRedeliveriesView(ApiView):
    """`POST /v1/runs/{run_id}/callback-redeliveries`"""

    scopes = {"POST": Scope.RUNS_EXECUTE}
    documented = {"POST": operations.REDELIVER_RUN_CALLBACK}

    def post(self, request: Request, run_id: str) -> Response:
        delivery_id = redeliver_callback(subject=_run_or_404(request, run_id))
        return Response(delivery_body(CallbackDelivery.objects.get(pk=delivery_id)), status=201)


def _dry_run(body: dict[str, Any]) -> Response:
    """An answer of a request that made nothing (idempotency.middleware keeps none of these)."""
    response = Response(body)
    response.is_dry_run = True  # type: ignore[attr-defined]
    return response


def _optional_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request whose body may be left out."""
    return {} if request.stream is None else json_object(request)


def _run_or_404(request: Request, run_id: str, *, with_model: bool = False) -> Run:
    parsed: UUID = parse_uuid(run_id) or _raise(RunNotFound)
    runs = Run.objects.visible_to(caller_of(request).organization)
    if with_model:
        runs = runs.select_related("model", "organization")
    return runs.filter(pk=parsed).first() or _raise(RunNotFound)


def _batch_or_404(request: Request, batch_id: str, *, with_model: bool = False) -> Batch:
    parsed: UUID = parse_uuid(batch_id) or _raise(BatchNotFound)
    batches = Batch.objects.visible_to(caller_of(request).organization)
    if with_model:
        batches = batches.select_related("model", "organization")
    return batches.filter(pk=parsed).first() or _raise(BatchNotFound)


def _raise(error: type[errors.DomainError], *args: Any) -> NoReturn:
    raise error(*args)
