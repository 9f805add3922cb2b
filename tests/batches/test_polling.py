"""Polling: `ETag` and 304 on a batch and on a run, whatever changes, and when to ask next (RFC 9110)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from batches import cancellation, lifecycle, repair
from batches.api.polling import etag_of, retry_after
from batches.models import Batch, Run, RunStatus
from batches.retry import Settlement
from tests.conftest import Api
from tests.contract.checks import assert_error, json_of
from tests.factories import end_batch, make_batch, make_model

pytestmark = pytest.mark.django_db
CountQueries = Callable[[], Any]
OUTPUT = '{"outputs": [], "seed": null, "timing": null, "nsfw_detected": null}'
HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Accept-Encoding"}


@pytest.fixture
def batch(api: Api) -> Batch:
    return make_batch(organization=api.organization, items=[{"text": "a"}, {"text": "b"}])[0]


def paths(batch: Batch) -> list[str]:
    """Everything of a batch that has an ETag."""
    runs = Run.objects.filter(batch=batch).order_by("pk")
    return [f"/v1/batches/{batch.pk}", f"/v1/batches/{batch.pk}?embed=input", *(f"/v1/runs/{run.pk}" for run in runs)]


def again(api: Api, path: str, etag: str) -> Any:
    return api.get(path, **{"If-None-Match": etag})


def polling_headers(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name in {*HEADERS, "ETag", "Retry-After"}}


# --- 304 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(4), ids=["batch", "batch with input", "run 0", "run 1"])
def test_what_has_not_changed_is_304_without_a_body_and_with_the_same_headers(
    api: Api, batch: Batch, which: int
) -> None:
    path = paths(batch)[which]
    first = api.get(path)
    assert polling_headers(first) == {"ETag": first.headers["ETag"], "Retry-After": "1", **HEADERS}
    assert first.headers["ETag"].startswith('W/"')
    second = again(api, path, first.headers["ETag"])
    assert (second.status_code, second.content) == (304, b"")
    assert polling_headers(second) == polling_headers(first)
    assert {"Content-Length", "Content-Type"} & set(second.headers) == set()
    assert "X-Request-Id" in second.headers


def test_what_has_ended_gives_no_hint_to_come_again(api: Api, batch: Batch) -> None:
    end_batch(batch)
    for path in paths(batch):
        first = api.get(path)
        second = again(api, path, first.headers["ETag"])
        assert (first.status_code, second.status_code) == (200, 304)
        assert polling_headers(first) == polling_headers(second) == {"ETag": first.headers["ETag"], **HEADERS}


def test_every_address_has_an_etag_of_its_own(api: Api, batch: Batch) -> None:
    tags = [api.get(path).headers["ETag"] for path in paths(batch)]
    assert len(set(tags)) == 4
    plain, with_input = paths(batch)[:2]
    assert (again(api, plain, tags[1]).status_code, again(api, with_input, tags[0]).status_code) == (200, 200)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("*", 304),
        (" * ", 304),
        ('"other", {weak}', 304),
        ('W/"other",{weak} , "more"', 304),
        ("{strong}", 304),  # compared weakly: a proxy may have made it so
        ("", 200),
        ('"other"', 200),
        ('W/"other"', 200),
        ("{bare}", 200),  # no ETag without quotes
        ('{weak}x, "', 200),
        (",,,", 200),
    ],
)
def test_if_none_match_takes_lists_and_a_star(api: Api, batch: Batch, given: str, status: int) -> None:
    for path in paths(batch):
        weak = api.get(path).headers["ETag"]
        sent = given.format(weak=weak, strong=weak.removeprefix("W/"), bare=weak.removeprefix("W/").strip('"'))
        assert again(api, path, sent).status_code == status


def test_head_has_the_headers_of_get(api: Api, batch: Batch) -> None:
    for path in paths(batch):
        got = api.get(path)
        head = api.client.head(path, headers=api.headers())
        assert (head.status_code, head.content) == (200, b"")
        assert polling_headers(head) == polling_headers(got)
        known = api.client.head(path, headers=api.headers(**{"If-None-Match": got.headers["ETag"]}))
        assert known.status_code == 304


def test_whoever_may_not_see_it_learns_nothing_from_304(api: Api, batch: Batch) -> None:
    stranger = Api()
    for path, code in zip(paths(batch), ["BATCH_NOT_FOUND"] * 2 + ["RUN_NOT_FOUND"] * 2, strict=True):
        for given in ("*", api.get(path).headers["ETag"]):
            assert_error(again(stranger, path, given), 404, code)
            assert Client().get(path, headers={"If-None-Match": given}).status_code == 401


# --- Whatever changes -------------------------------------------------------------------------------------------------


class Reader:
    """A client that keeps every answer with its ETag, and finds out when a 304 is a lie."""

    def __init__(self, api: Api, batch: Batch) -> None:
        self.api, self.paths = api, paths(batch)
        self.kept: dict[str, tuple[str, Any]] = {}

    def look(self) -> list[str]:
        """The paths that are not 304. Asserts of the others that their body is the one that is kept."""
        changed = []
        for path in self.paths:
            fresh = self.api.get(path)
            etag, body = fresh.headers["ETag"], json_of(fresh)
            if path in self.kept:
                known = again(self.api, path, self.kept[path][0])
                if known.status_code == 304:
                    assert body == self.kept[path][1], path
                else:
                    assert (json_of(known), known.headers["ETag"]) == (body, etag)
                    changed.append(path)
            self.kept[path] = (etag, body)
        return changed


def test_every_move_of_a_run_changes_the_etag_of_all_that_shows_it_and_nothing_else_does(
    api: Api, batch: Batch
) -> None:
    plain, with_input, first, second = paths(batch)
    provider_id = Run.objects.all()[0].provider_id
    reader = Reader(api, batch)
    reader.look()
    assert reader.look() == []

    (run,) = lifecycle.claim_runs(provider_id=provider_id, limit=1)
    assert reader.look() == [plain, with_input, first]

    # The input changes, and nothing else that is shown: whoever sees no inputs is told nothing.
    lifecycle.name_assets(runs=[replace(run, input={"text": "runflow://assets/x"})], assets=[])
    assert reader.look() == [with_input, first]

    lifecycle.begin_runs(runs=[run])
    assert reader.look() == [plain, with_input, first]
    lifecycle.renew_leases(runs=[run])
    assert reader.look() == []

    lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.QUEUED, delay=0)])
    assert reader.look() == [plain, with_input, first]

    (run, other) = lifecycle.claim_runs(provider_id=provider_id, limit=2)
    lifecycle.begin_runs(runs=[run, other])
    assert reader.look() == [plain, with_input, first, second]
    lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.SUCCEEDED, output=OUTPUT)])
    assert reader.look() == [plain, with_input, first]

    cancellation.cancel(batch_ids=[batch.pk], reason="enough")
    reader.look()  # 200 although the request to stop is not shown: every column counts, also one that is new one day
    lifecycle.settle(settlements=[Settlement(other.id, other.attempt, RunStatus.CANCELED)])
    assert reader.look() == [plain, with_input, second]
    assert Batch.objects.get().status_code == "partial_succeeded"


def test_two_runs_that_change_places_change_the_batch(api: Api, batch: Batch) -> None:
    """The same number in each status, so the same counters."""
    reader = Reader(api, batch)
    (run,) = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=1)
    reader.look()
    lifecycle.settle(settlements=[Settlement(run.id, run.attempt, RunStatus.QUEUED, delay=60)])
    Run.objects.filter(pk=run.id).update(due_at=timezone.now() + timedelta(hours=1))
    (other,) = lifecycle.claim_runs(provider_id=Run.objects.all()[0].provider_id, limit=1)
    assert other.id != run.id
    assert reader.look() == reader.paths


def test_what_an_operator_mends_or_removes_changes_it(api: Api, batch: Batch) -> None:
    reader = Reader(api, batch)
    plain, with_input, first, _ = reader.paths
    end_batch(batch)
    Batch.objects.update(items_succeeded=1, items_failed=1, status_code="partial_succeeded")
    reader.look()
    repair.repair(batch_id=batch.pk)
    assert reader.look() == [plain, with_input]
    Batch.objects.update(dispatch_provider_link=None)
    assert reader.look() == [plain, with_input]
    Run.objects.filter(pk=first.rsplit("/")[-1]).update(created_by=api.caller.api_key)
    assert reader.look() == [first]


# --- Signed URLs ------------------------------------------------------------------------------------------------------


def row_of(path: str) -> Batch | Run:
    pk = path.partition("?")[0].rsplit("/")[-1]
    return Batch.objects.with_version().get(pk=pk) if "batches" in path else Run.objects.with_version().get(pk=pk)


def test_the_etag_of_what_has_ended_changes_before_its_urls_expire(api: Api, batch: Batch, settings: Settings) -> None:
    """Told 304, a client holds URLs that are good for half of their lifetime at least."""
    settings.ASSET_URL_LIFETIME = timedelta(seconds=100)
    end_batch(batch)
    for path in (paths(batch)[0], paths(batch)[2]):
        row = row_of(path)
        tags = [etag_of(row, now=1_800_000_000 + second) for second in range(200)]
        lasting = [len([tag for tag in tags if tag == each]) for each in dict.fromkeys(tags)]
        assert lasting == [50, 50, 50, 50]
        assert api.get(path).headers["ETag"] == etag_of(row, now=time.time())


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_lifetime_of_nothing_still_has_an_etag(api: Api, batch: Batch, settings: Settings, seconds: int) -> None:
    settings.ASSET_URL_LIFETIME = timedelta(seconds=seconds)
    end_batch(batch)
    assert api.get(paths(batch)[0]).headers["ETag"].startswith('W/"')


def test_what_is_at_work_holds_no_urls_and_does_not_change_with_time(batch: Batch) -> None:
    for path in paths(batch)[::2]:
        assert len({etag_of(row_of(path), now=1_800_000_000 + hour * 3600) for hour in range(24)}) == 1


@pytest.mark.parametrize("setting", ["SECRET_KEY", "PUBLIC_BASE_URL"])
def test_what_makes_urls_anew_changes_the_etag(batch: Batch, settings: Settings, setting: str) -> None:
    end_batch(batch)
    row = row_of(paths(batch)[0])
    before = etag_of(row, now=0)
    setattr(settings, setting, "https://other.example")
    assert etag_of(row, now=0) != before


# --- What it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [1, 100])
def test_a_304_costs_one_small_statement_beside_the_callers(api: Api, count_queries: CountQueries, items: int) -> None:
    batch, _ = make_batch(organization=api.organization, items=[{"text": "a"}] * items, metadata={"a": 1})
    end_batch(batch)
    for path in (paths(batch)[0], paths(batch)[2]):
        etag = api.get(path).headers["ETag"]
        with count_queries() as log:
            assert again(api, path, etag).status_code == 304
        caller, small = [query["sql"] for query in log.captured_queries]
        assert "accounts_apikey" in caller
        assert [column for column in ("output", "metadata") if f'."{column}"' in small] == []
        assert ("batches_batchitem" in small, small.count('."input"')) == (False, int("runs" in path))


def test_what_has_changed_costs_one_statement_more_than_without_a_question(
    api: Api, batch: Batch, count_queries: CountQueries
) -> None:
    for path in paths(batch):
        api.get(path)
        with count_queries() as log:
            assert again(api, path, '"old"').status_code == 200
        assert len(log.captured_queries) == 3


# --- When to ask next -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "seconds"),
    [(-5, 1), (0, 1), (1, 1), (10, 1), (19.9, 1), (20, 2), (60, 6), (299, 29), (300, 30), (3600, 30), (1e9, 30)],
)
def test_the_hint_grows_with_the_age_to_half_a_minute(age: float, seconds: int) -> None:
    assert retry_after(timedelta(seconds=age)) == seconds


def test_the_hint_is_of_the_age_of_what_is_asked_for(api: Api, batch: Batch) -> None:
    Batch.objects.update(created_at=timezone.now() - timedelta(seconds=125))
    Run.objects.update(created_at=timezone.now() - timedelta(hours=2))
    assert [api.get(path).headers["Retry-After"] for path in paths(batch)] == ["12", "12", "30", "30"]


def test_a_cancellation_s_answer_has_no_etag(api: Api) -> None:
    """It is of a POST."""
    batch, _ = make_batch(organization=api.organization, model=make_model())
    response = api.post(f"/v1/batches/{batch.pk}/cancellation", {})
    assert (response.status_code, "ETag" in response.headers) == (201, False)


def test_rows_without_a_version_are_a_mistake_that_shows(batch: Batch) -> None:
    with pytest.raises(AttributeError, match="version"):
        etag_of(batch)
