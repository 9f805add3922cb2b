"""`GET /v1/batches/{batch_id}/events`: what changes in a batch, as server-sent events, until it has ended.

The format is that of the HTML standard, section 9.2. A stream lasts some seconds and can be cut at any byte: each event's id
is all that the client has seen by then, so any process goes on from there, sends nothing twice and leaves nothing out.
"""

from __future__ import annotations

import re
import signal
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from accounts.api.authentication import caller_of
from accounts.models import Scope
from batches.api import operations
from batches.api.serializers import row_handle
from batches.api.views import BatchNotFound
from batches.models import Batch, BatchStatus, RunStatus
from batches.watching import Places, State, Watcher
from runflow.lib import errors, jsonlib
from runflow.lib.money import money
from runflow.lib.views import ApiView, parse_uuid

# Milliseconds until a client comes again whose stream has ended.
RETRY = 1000
# Seconds of silence before a comment. So a proxy sees a connection that lives, and we notice one that does not.
HEARTBEAT = 10.0
# The id of an `end`: there is nothing to say any more.
END = "end"

_LETTERS = {status[0]: str(status) for status in RunStatus.values}
_ID = re.compile(
    rf"({'|'.join(BatchStatus.values)})\.([0-9]{{1,5}})\.([0-9]{{1,5}})\.([0-9]{{1,5}})\.([{''.join(_LETTERS)}]+)"
)

# Of this process.
watcher = Watcher()
places = Places()


class BatchEventsView(ApiView):
    """`GET /v1/batches/{batch_id}/events`"""

    scopes = {"GET": Scope.BATCHES_READ}
    documented = {"GET": operations.STREAM_BATCH_EVENTS}

    def get(self, request: Request, batch_id: str) -> HttpResponseBase:
        organization = caller_of(request).organization
        parsed = parse_uuid(batch_id)
        batches = Batch.objects.visible_to(organization).with_item_rows()
        batch = batches.filter(pk=parsed).first() if parsed is not None else None
        if batch is None:
            raise BatchNotFound
        state = state_of(batch)
        given = request.headers.get("Last-Event-ID", "")
        if given == END and state.is_terminal:
            return HttpResponse(status=204)  # which tells an EventSource not to come again
        seen = parse_id(given, items=batch.items_total)
        told = Told(batch.pk, [row_handle(row) for row in batch.item_rows])
        headers = {"Cache-Control": "private, no-store", "Vary": "Authorization", "X-Accel-Buffering": "no"}
        if state.is_terminal or request.method == "HEAD":
            return HttpResponse(told.changes(seen, state), content_type="text/event-stream", headers=headers)
        if not places.take(
            organization_id=organization.pk,
            most=settings.EVENT_STREAMS,
            most_each=settings.EVENT_STREAMS_PER_ORGANIZATION,
        ):
            # By then every stream that is there now has ended.
            raise errors.RateLimited(
                "There are too many streams of events at the moment. Asking for the batch itself always works.",
                retry_after=settings.EVENT_STREAM_DURATION.total_seconds(),
            )
        stream = Stream(follow(told, seen, state), partial(places.give_back, organization.pk))
        return StreamingHttpResponse(stream, content_type="text/event-stream", headers=headers)


def state_of(batch: Batch) -> State:
    """The state of a batch that was read `with_item_rows`."""
    return State(
        batch.status_code,
        batch.items_succeeded,
        batch.items_failed,
        batch.items_cancelled,
        batch.cost,
        tuple(row["status_code"] for row in batch.item_rows),
    )


class Stream:
    """The lines of a stream, and its place, which is given back once: by whoever closes it, or drops it unread."""

    def __init__(self, lines: Generator[bytes], give_back: Callable[[], None]) -> None:
        self._lines = lines
        self._give_back = weakref.finalize(self, give_back)

    def __iter__(self) -> Iterator[bytes]:
        return self._lines

    def close(self) -> None:
        """Called by the web server: at the end, or when a write has failed because the client is gone."""
        self._lines.close()
        self._give_back()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client has been told: the batch's status and counters, and the status of each item."""

    batch: tuple[str, int, int, int]
    items: tuple[str, ...]

    @classmethod
    def all_of(cls, state: State) -> Seen:
        return cls(_counters(state), state.item_statuses)

    def __str__(self) -> str:
        return ".".join((*map(str, self.batch), "".join(status[0] for status in self.items)))


def parse_id(text: str, *, items: int) -> Seen | None:
    """What the sender of this Last-Event-ID has seen of a batch of so many items; None: nothing. Raises BadRequest."""
    if text in ("", END):
        return None
    match = _ID.fullmatch(text)
    if match is None or len(match[5]) != items:
        raise errors.BadRequest("Last-Event-ID is not the id of an event of this batch.")
    batch = (match[1], int(match[2]), int(match[3]), int(match[4]))
    return Seen(batch, tuple(_LETTERS[letter] for letter in match[5]))


class Told:
    """Writes events of one batch. `handles`: its items as answers show them, in order."""

    def __init__(self, batch_id: UUID, handles: Sequence[dict[str, Any]]) -> None:
        self.batch_id = batch_id
        self._handles = handles

    def changes(self, seen: Seen | None, state: State) -> bytes:
        """The events from what was `seen` to `state`; none if that is the same and not the end. A pure function.

        The id of each is what has been seen with it: a client that was cut off in the middle misses the rest only.
        """
        return b"".join(self._changes(seen, state))

    def _changes(self, seen: Seen | None, state: State) -> Iterator[bytes]:
        now = Seen.all_of(state)
        if seen is None:
            items = [self._item(index, status) for index, status in enumerate(state.item_statuses)]
            yield _event("snapshot", now, self._batch(state) | {"items": items})
            seen = now
        for index, status in enumerate(state.item_statuses):
            if status != seen.items[index]:
                seen = Seen(seen.batch, (*seen.items[:index], status, *seen.items[index + 1 :]))
                yield _event("item", seen, self._item(index, status))
        if seen.batch != now.batch:
            yield _event("counters", now, self._batch(state))
        if state.is_terminal:
            yield _event("end", END, self._batch(state))

    def _batch(self, state: State) -> dict[str, Any]:
        return {
            "id": self.batch_id,
            "status_code": state.status_code,
            "items_total": len(self._handles),
            "items_succeeded": state.items_succeeded,
            "items_failed": state.items_failed,
            "items_cancelled": state.items_cancelled,
            "cost": money(state.cost),
        }

    def _item(self, index: int, status: str) -> dict[str, Any]:
        return self._handles[index] | {"status_code": status}


def follow(told: Told, seen: Seen | None, state: State) -> Generator[bytes]:
    """The lines of a stream: what changed since `seen`, then what changes, until the end or until its time is over."""
    # Read by this thread and not needed while it waits.
    connection.close()
    until = time.monotonic() + settings.EVENT_STREAM_DURATION.total_seconds()
    yield b"retry: %d\n\n" % RETRY + told.changes(seen, state)
    with watcher.watch(told.batch_id) as wait:
        while not is_stopping() and (left := until - time.monotonic()) > 0:
            newer = wait(seen=state, timeout=min(left, HEARTBEAT), is_over=is_stopping)
            if newer is None:
                return
            yield told.changes(Seen.all_of(state), newer) if newer != state else b": nothing new\n\n"
            state = newer
            if state.is_terminal:
                return


def is_stopping() -> bool:
    """Whether the web process was asked to stop. It waits for its requests, but should not for these.

    gunicorn's worker, whose method handles SIGTERM, tells it by `alive`. Of other servers nothing is known: with them a stream
    lasts for its time.
    """
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return not getattr(worker, "alive", True)


def _counters(state: State) -> tuple[str, int, int, int]:
    return (state.status_code, state.items_succeeded, state.items_failed, state.items_cancelled)


def _event(name: str, event_id: Seen | str, body: dict[str, Any]) -> bytes:
    return f"event: {name}\nid: {event_id}\ndata: ".encode() + jsonlib.dumps(body) + b"\n\n"
