"""The log of a run is read off its row: complete, in order, and what was shown once stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from batches import engine, lifecycle, retry
from batches.cancellation import cancel
from batches.lifecycle import ClaimedRun
from batches.logs import log_of
from batches.models import TERMINAL, Run, RunStatus
from providers.base import Finished, Outcome, Rejected, Unavailable
from tests.conftest import Api
from tests.contract.checks import SCHEMAS, assert_error, assert_matches, json_of
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db

AWAY = Unavailable("PROVIDER_UNAVAILABLE", "The provider does not answer.", "dispatch")
LOST = "Attempt 1 failed: PROVIDER_LOST: The worker that held this run disappeared. It is tried again."
WORKS = "The provider works on it."


@pytest.fixture
def run(api: Api) -> Run:
    make_batch(organization=api.organization)
    return Run.objects.get()


def claim() -> ClaimedRun:
    Run.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    [claimed] = lifecycle.claim_runs(provider_id=Run.objects.get().provider_id, limit=10)
    return claimed


def settle(claimed: ClaimedRun, outcome: Outcome) -> lifecycle.Settled:
    settlement = retry.judge(
        outcome,
        run_id=claimed.id,
        attempt=claimed.attempt,
        max_attempts=claimed.max_attempts,
        delays=settings.RUN_RETRY_DELAYS,
        jitter=0.0,
        output={"outputs": []},
    )
    return lifecycle.settle(settlements=[settlement])


def attempt(outcome: Outcome) -> ClaimedRun:
    claimed = claim()
    lifecycle.begin_runs(runs=[claimed])
    settle(claimed, outcome)
    return claimed


def read(api: Api, run: Run, query: str = "") -> list[dict[str, Any]]:
    """The entries as a customer reads them."""
    response = api.get(f"/v1/runs/{run.pk}/logs{query}")
    assert response.status_code == 200, response.content
    body = json_of(response)
    assert_matches("RunLogPage", body)
    items: list[dict[str, Any]] = body["items"]
    return items


def told(api: Api, run: Run) -> list[tuple[str, str]]:
    return [(each["level_code"], each["message"]) for each in read(api, run)]


# --- What is told -----------------------------------------------------------------------------------------------------


def test_a_run_that_waits_was_accepted(api: Api, run: Run) -> None:
    [entry] = read(api, run)
    assert set(SCHEMAS["$defs"]["RunLog"]["properties"]) == set(entry)
    assert entry.pop("id")
    assert entry == {
        "run_id": str(run.pk),
        "level_code": "info",
        "message": "The run was accepted.",
        "timestamp": run.created_at.isoformat(),
        "meta": {"source_code": "api"},
        "run": None,
    }


@pytest.mark.django_db(transaction=True)
def test_a_run_that_succeeds_is_told_in_four_lines(api: Api, run: Run) -> None:
    engine.execute(provider_id=run.provider_id)
    run.refresh_from_db()
    assert told(api, run) == [
        ("info", "The run was accepted."),
        ("info", "Attempt 1 of 5 began."),
        ("info", WORKS),
        ("info", "It succeeded."),
    ]
    assert read(api, run)[-1]["meta"] == {"duration_ms": run.duration_ms}
    assert run.past_attempts is None


def test_an_attempt_that_fails_for_a_passing_reason_is_remembered_with_its_times(api: Api, run: Run) -> None:
    claimed = claim()
    lifecycle.begin_runs(runs=[claimed])
    run.refresh_from_db()
    dispatched_at, started_at = run.dispatched_at, run.started_at
    settle(claimed, AWAY)
    entries = read(api, run)
    assert [(each["level_code"], each["message"]) for each in entries[1:]] == [
        ("info", "Attempt 1 of 5 began."),
        ("info", WORKS),
        ("warning", "Attempt 1 failed: PROVIDER_UNAVAILABLE: The provider does not answer. It is tried again."),
    ]
    assert [datetime.fromisoformat(each["timestamp"]) for each in entries[1:3]] == [dispatched_at, started_at]
    run.refresh_from_db()
    assert entries[3]["meta"] == {
        "attempt": 1,
        "failure_code": "PROVIDER_UNAVAILABLE",
        "failure_stage_code": "dispatch",
        "next_attempt_at": run.due_at.isoformat(),
    }
    # The run itself has not failed.
    assert (run.status_code, run.failure_code, run.failure_message) == ("queued", None, None)


def test_a_lost_worker_is_told(api: Api, run: Run) -> None:
    claim()
    Run.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    lifecycle.return_expired()
    assert told(api, run)[1:] == [("info", "Attempt 1 of 5 began."), ("warning", LOST)]


def test_a_run_that_failed_says_why(api: Api, run: Run) -> None:
    attempt(Rejected("EXECUTION_FAILED", "The picture is damaged.", "execute"))
    last = read(api, run)[-1]
    assert (last["level_code"], last["message"]) == ("error", "It failed: EXECUTION_FAILED: The picture is damaged.")
    assert last["meta"] == {"failure_code": "EXECUTION_FAILED", "failure_stage_code": "execute"}


def test_every_attempt_is_told_until_none_is_left(api: Api, run: Run) -> None:
    for _ in range(5):
        attempt(AWAY)
    lines = told(api, run)
    assert [line for line in lines if line[0] == "warning"] == [
        ("warning", f"Attempt {n} failed: PROVIDER_UNAVAILABLE: The provider does not answer. It is tried again.")
        for n in range(1, 5)
    ]
    assert lines[-1][0] == "error"
    assert lines[-1][1].startswith("It failed: ATTEMPTS_EXHAUSTED: No success in 5 attempts; the last one: ")
    assert len(lines) == 1 + 5 * 2 + 4 + 1
    run.refresh_from_db()
    assert [each["attempt"] for each in run.past_attempts or []] == [1, 2, 3, 4]


def test_cancelling_is_told_with_its_reason(api: Api, run: Run) -> None:
    cancel(run_ids=[run.pk], reason="Wrong pictures.")
    entries = read(api, run)
    assert [each["message"] for each in entries[1:]] == ["Somebody asked to cancel it.", "It was canceled."]
    assert entries[1]["meta"] == {"reason": "Wrong pictures."}


def test_an_attempt_that_would_be_given_back_ends_canceled_once_somebody_asked(api: Api, run: Run) -> None:
    claimed = claim()
    cancel(run_ids=[run.pk])
    settle(claimed, AWAY)
    assert [line for _, line in told(api, run)[1:]] == [
        "Attempt 1 of 5 began.",
        "Somebody asked to cancel it.",
        "It was canceled.",
    ]
    run.refresh_from_db()
    assert (run.status_code, run.failure_code, run.past_attempts) == ("canceled", None, None)


def test_a_late_answer_of_an_attempt_that_is_over_adds_nothing(api: Api, run: Run) -> None:
    late = attempt(AWAY)
    claim()
    before = told(api, run)
    assert settle(late, AWAY).run_ids == frozenset()
    assert told(api, run) == before


# --- What it is worth -------------------------------------------------------------------------------------------------


def test_what_was_shown_stays_and_what_is_new_comes_behind(api: Api, run: Run) -> None:
    shown: list[dict[str, Any]] = []

    def look() -> None:
        nonlocal shown
        entries = read(api, run)
        assert entries[: len(shown)] == shown
        assert len(entries) >= len(shown)
        shown = entries

    look()
    for _ in range(2):
        claimed = claim()
        look()
        lifecycle.begin_runs(runs=[claimed])
        look()
        settle(claimed, AWAY)
        look()
    claimed = claim()
    look()
    cancel(run_ids=[run.pk])
    look()
    settle(claimed, Finished(()))
    look()
    assert len(shown) == 1 + 2 * 3 + 1 + 1 + 1
    assert len({each["id"] for each in shown}) == len(shown)
    assert [each["timestamp"] for each in shown] == sorted(each["timestamp"] for each in shown)


def test_a_log_is_walked_in_pages_and_back(api: Api, run: Run) -> None:
    for _ in range(2):
        attempt(AWAY)
    every = read(api, run)
    path = f"/v1/runs/{run.pk}/logs?limit=3"
    pages, cursor = [], ""
    while True:
        body = api.get(f"{path}&pq={cursor}").json()
        pages.append(body)
        if body["next"] is None:
            break
        cursor = body["next"]
    assert [len(page["items"]) for page in pages] == [3, 3, 1]
    assert [item for page in pages for item in page["items"]] == every
    assert (pages[0]["first"], pages[0]["previous"]) == (None, None)
    assert api.get(f"{path}&pq={pages[2]['first']}").json()["items"] == every[:3]
    back = api.get(f"{path}&pq={pages[2]['previous']}&from_prev=true").json()
    assert back["items"] == every[3:6]
    assert api.get(f"{path}&pq={back['previous']}&from_prev=true").json()["items"] == every[:3]
    for query in ("?pq=nonsense", "?pq=bA", "?limit=0", "?pq=bFg"):
        status = api.get(f"/v1/runs/{run.pk}/logs{query}").status_code
        assert status == (200 if query == "?pq=bA" else 400), query  # "bA" is the start of the list


@pytest.mark.parametrize("query", ["from_prev=o", "from_prev=", "limit=0", "pq=o"])
def test_a_page_of_a_log_that_nobody_can_mean_is_400(api: Api, run: Run, query: str) -> None:
    assert_error(api.get(f"/v1/runs/{run.pk}/logs?{query}"), 400, "BAD_REQUEST")


def test_an_entry_that_comes_while_somebody_walks_is_seen_once(api: Api, run: Run) -> None:
    attempt(AWAY)
    first = api.get(f"/v1/runs/{run.pk}/logs?limit=4").json()
    assert first["next"] is None
    middle = api.get(f"/v1/runs/{run.pk}/logs?limit=2").json()
    attempt(AWAY)
    rest = api.get(f"/v1/runs/{run.pk}/logs?pq={middle['next']}").json()["items"]
    assert middle["items"] + rest == read(api, run)


@pytest.mark.parametrize("attempts", [0, 4])
def test_a_log_costs_two_statements(api: Api, run: Run, count_queries: Callable[..., Any], attempts: int) -> None:
    for _ in range(attempts):
        attempt(AWAY)
    read(api, run)
    with count_queries() as log:
        read(api, run)
    assert len(log) == 2


@pytest.mark.parametrize("outcome", [AWAY, Finished(())], ids=["given back", "succeeded"])
def test_giving_back_costs_the_statements_of_an_end(
    api: Api, count_queries: Callable[..., Any], outcome: Outcome
) -> None:
    counts = []
    for size in (1, 50):
        model = make_model()
        make_batch(organization=api.organization, model=model, items=[{"text": "a"}] * size)
        provider_id = Run.objects.filter(model=model)[0].provider_id
        claimed = lifecycle.claim_runs(provider_id=provider_id, limit=100)
        settlements = [
            retry.judge(
                outcome,
                run_id=each.id,
                attempt=1,
                max_attempts=5,
                delays=settings.RUN_RETRY_DELAYS,
                jitter=0.0,
                output={"outputs": []},
            )
            for each in claimed
        ]
        with count_queries() as log:
            lifecycle.settle(settlements=settlements)
        counts.append(len([query for query in log.captured_queries if "SAVEPOINT" not in query["sql"]]))
    # Two for the runs; two more for the batches of those that ended.
    assert counts == ([2, 2] if outcome is AWAY else [4, 4])


def test_the_log_goes_with_its_run(api: Api, run: Run) -> None:
    attempt(AWAY)
    Run.objects.all().delete()
    assert_error(api.get(f"/v1/runs/{run.pk}/logs"), 404, "RUN_NOT_FOUND")


@pytest.mark.parametrize("run_id", ["x", "any", "00000000-0000-0000-0000-000000000000"])
def test_there_is_no_log_of_what_is_no_run(api: Api, run_id: str) -> None:
    assert_error(api.get(f"/v1/runs/{run_id}/logs"), 404, "RUN_NOT_FOUND")


def test_rows_of_before_have_a_log(run: Run) -> None:
    """An attempt whose start was never written down."""
    claim()
    Run.objects.update(dispatched_at=None)
    run.refresh_from_db()
    assert [entry.message for entry in log_of(run)] == ["The run was accepted."]


# --- Statuses ---------------------------------------------------------------------------------------------------------


def test_every_status_is_listed_with_what_it_means(api: Api, count_queries: Callable[..., Any]) -> None:
    with count_queries() as log:
        response = api.get("/v1/runs/statuses")
    assert response.status_code == 200
    assert len([query for query in log.captured_queries if "batches_" in query["sql"]]) == 0
    statuses = json_of(response)
    assert [each["status_code"] for each in statuses] == SCHEMAS["$defs"]["RunStatusCode"]["enum"] == RunStatus.values
    assert {each["status_code"] for each in statuses if each["is_terminal"]} == set(TERMINAL)
    assert all(each["description"] and list(each) == ["status_code", "description", "is_terminal"] for each in statuses)
