"""Creating, claiming, recording, giving back, purging: what moves, what does not, and the races."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.utils import timezone

from callbacks import lifecycle
from callbacks.lifecycle import Attempt, ClaimedDelivery, Draft
from callbacks.models import CallbackAttempt, CallbackDelivery, CallbackSecret, SubjectType
from callbacks.services import create_secret
from runflow.lib.ids import uuid7
from tests.conftest import Rung
from tests.factories import make_delivery, make_organization
from tests.threads import InThread, lock_waiters, row_by_row, stalled_at, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def drafts(number: int, *, url: str = "https://shop.example/done") -> list[Draft]:
    organization_id = make_organization().pk
    return [Draft(SubjectType.BATCH, uuid7(), organization_id, url, b"{}", "r") for _ in range(number)]


def make_due() -> None:
    CallbackDelivery.objects.filter(next_attempt_at__isnull=False).update(
        next_attempt_at=timezone.now() - timedelta(seconds=1)
    )


def expire_leases() -> None:
    CallbackDelivery.objects.filter(lease_expires_at__isnull=False).update(
        lease_expires_at=timezone.now() - timedelta(seconds=1)
    )


def answered(claimed: ClaimedDelivery, status: int | None, **more: Any) -> Attempt:
    return Attempt(
        delivery_id=claimed.id,
        attempt=claimed.attempt,
        max_attempts=claimed.max_attempts,
        started_at=timezone.now(),
        status=status,
        **more,
    )


def state(delivery_id: UUID) -> tuple[str, int, bool, bool]:
    row = CallbackDelivery.objects.get(pk=delivery_id)
    return row.status_code, row.attempt_count, row.next_attempt_at is not None, row.lease_expires_at is not None


# --- Creating ---------------------------------------------------------------------------------------------------------


def test_a_new_delivery_is_due_at_once_and_one_doorbell_rings_for_all(rung: Rung) -> None:
    created = lifecycle.create_deliveries(drafts=drafts(3), is_automatic=True)
    assert len(created) == 3
    rows = CallbackDelivery.objects.values_list("status_code", "attempt_count", "max_attempts", "is_automatic", "host")
    assert list(rows) == [("pending", 0, 10, True, "shop.example")] * 3
    assert CallbackDelivery.objects.filter(next_attempt_at__lte=timezone.now()).count() == 3
    assert rung.calls == [("callbacks.deliver", ())]


def test_no_drafts_cost_no_statement_and_ring_nothing(rung: Rung, count_queries: Callable[..., Any]) -> None:
    with count_queries() as log:
        assert lifecycle.create_deliveries(drafts=[], is_automatic=True) == {}
    assert len(log.captured_queries) == 0
    assert rung.calls == []


def test_a_transaction_that_rolls_back_leaves_no_delivery_and_rings_nothing(rung: Rung) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        lifecycle.create_deliveries(drafts=drafts(1), is_automatic=True)
        raise ZeroDivisionError
    assert CallbackDelivery.objects.count() == 0
    assert rung.calls == []


def test_a_subject_has_one_automatic_delivery_even_when_the_first_is_over() -> None:
    (draft,) = drafts(1)
    assert len(lifecycle.create_deliveries(drafts=[draft], is_automatic=True)) == 1
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    lifecycle.record(attempts=[answered(claimed, 200)])
    assert lifecycle.create_deliveries(drafts=[draft], is_automatic=True) == {}
    assert CallbackDelivery.objects.count() == 1


def test_a_subject_has_one_delivery_in_flight_and_another_after_it_is_over(rung: Rung) -> None:
    (draft,) = drafts(1)
    lifecycle.create_deliveries(drafts=[draft], is_automatic=True)
    rung.calls.clear()
    assert lifecycle.create_deliveries(drafts=[draft], is_automatic=False) == {}
    assert rung.calls == []
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    assert lifecycle.create_deliveries(drafts=[draft], is_automatic=False) == {}, "it is being sent"
    lifecycle.record(attempts=[answered(claimed, 200)])
    assert list(lifecycle.create_deliveries(drafts=[draft], is_automatic=False)) == [draft.subject_id]


def test_a_batch_and_a_run_of_the_same_id_are_two_subjects() -> None:
    (draft,) = drafts(1)
    run = replace(draft, subject_type=SubjectType.RUN)
    lifecycle.create_deliveries(drafts=[draft], is_automatic=True)
    assert len(lifecycle.create_deliveries(drafts=[run], is_automatic=True)) == 1


def test_of_two_redeliveries_at_once_one_is_made() -> None:
    (draft,) = drafts(1)
    with transaction.atomic():
        assert len(lifecycle.create_deliveries(drafts=[draft], is_automatic=False)) == 1
        other = InThread(lambda: lifecycle.create_deliveries(drafts=[draft], is_automatic=False)).start()
        wait_until(lambda: lock_waiters() == 1, what="the other to wait for the unique index")
    assert other.result == {}
    assert CallbackDelivery.objects.count() == 1


# --- Claiming ---------------------------------------------------------------------------------------------------------


def test_a_claim_counts_the_attempt_and_takes_a_lease() -> None:
    delivery = make_delivery(payload=b'{"a":"\xc3\xa4"}')
    assert lifecycle.claim_deliveries(limit=10) == [
        ClaimedDelivery(
            id=delivery.pk,
            attempt=1,
            max_attempts=10,
            organization_id=delivery.organization_id,
            callback_url="https://shop.example/done",
            payload=b'{"a":"\xc3\xa4"}',
            request_id="the-request",
        )
    ]
    assert state(delivery.pk) == ("pending", 1, True, True)
    assert lifecycle.claim_deliveries(limit=10) == []


def test_what_is_due_later_is_not_claimed() -> None:
    delivery = make_delivery()
    CallbackDelivery.objects.update(next_attempt_at=timezone.now() + timedelta(seconds=60))
    assert lifecycle.claim_deliveries(limit=10) == []
    assert not lifecycle.has_due()
    assert state(delivery.pk) == ("pending", 0, True, False)


def test_only_a_few_are_sent_to_one_host_at_a_time_and_hosts_take_turns(settings: Any) -> None:
    settings.CALLBACK_HOST_CONCURRENCY = 4
    lifecycle.create_deliveries(drafts=drafts(20, url="https://dead.example/x"), is_automatic=True)
    lifecycle.create_deliveries(drafts=drafts(2, url="https://DEAD.example:8443/y"), is_automatic=True)
    lifecycle.create_deliveries(drafts=drafts(3, url="https://alive.example/x"), is_automatic=True)
    lifecycle.create_deliveries(drafts=drafts(1, url="https://other.example/x"), is_automatic=True)

    def hosts(claimed: list[ClaimedDelivery]) -> dict[str, int]:
        rows = CallbackDelivery.objects.filter(pk__in=[each.id for each in claimed]).values_list("host", flat=True)
        return dict(Counter(rows))

    assert hosts(lifecycle.claim_deliveries(limit=3)) == {"dead.example": 1, "alive.example": 1, "other.example": 1}
    rest = lifecycle.claim_deliveries(limit=100)
    assert hosts(rest) == {"dead.example": 3, "alive.example": 2}
    assert lifecycle.claim_deliveries(limit=100) == [], "four are being sent to the dead one"
    to_dead = next(each for each in rest if "dead" in each.callback_url)
    lifecycle.record(attempts=[answered(to_dead, None, error="No answer.")])
    assert hosts(lifecycle.claim_deliveries(limit=100)) == {"dead.example": 1}


def test_two_workers_that_claim_at_once_share_the_places_of_a_host(settings: Any) -> None:
    settings.CALLBACK_HOST_CONCURRENCY = 4
    lifecycle.create_deliveries(drafts=drafts(10), is_automatic=True)
    with transaction.atomic():
        first = lifecycle.claim_deliveries(limit=3)
        other = InThread(lambda: lifecycle.claim_deliveries(limit=3)).start()
        wait_until(lambda: lock_waiters() == 1, what="the other claim to wait for its turn")
    assert len(first) == 3
    assert len(other.result) == 1
    assert {each.id for each in first}.isdisjoint(each.id for each in other.result)


def test_a_claim_costs_the_same_statements_for_one_delivery_and_for_a_hundred(
    count_queries: Callable[..., Any],
) -> None:
    for number in range(25):
        lifecycle.create_deliveries(drafts=drafts(4, url=f"https://{number}.example/"), is_automatic=True)
    with count_queries() as one:
        assert len(lifecycle.claim_deliveries(limit=1)) == 1
    with count_queries() as many:
        assert len(lifecycle.claim_deliveries(limit=100)) == 99
    assert len(one.captured_queries) == len(many.captured_queries) == 4  # BEGIN, turn, claim, COMMIT


def test_the_oldest_of_a_host_goes_first() -> None:
    created = list(lifecycle.create_deliveries(drafts=drafts(3), is_automatic=True).values())
    for age, pk in enumerate(created):
        CallbackDelivery.objects.filter(pk=pk).update(next_attempt_at=timezone.now() - timedelta(seconds=age))
    claims = [[each.id for each in lifecycle.claim_deliveries(limit=1)] for _ in range(3)]
    assert claims == [[pk] for pk in reversed(created)]


def test_the_turn_of_a_claim_is_given_up_with_its_transaction() -> None:
    make_delivery()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        lifecycle.claim_deliveries(limit=1)
        raise ZeroDivisionError
    with InThread(lambda: lifecycle.claim_deliveries(limit=1)) as other:
        assert len(other.result) == 1


def test_a_claim_skips_what_somebody_holds() -> None:
    held, free = make_delivery(), make_delivery()
    with transaction.atomic():
        CallbackDelivery.objects.select_for_update().get(pk=held.pk)
        with InThread(lambda: lifecycle.claim_deliveries(limit=2)) as other:
            assert [each.id for each in other.result] == [free.pk]


def test_what_ends_while_a_claim_is_at_work_is_not_claimed() -> None:
    """The guard: the conditions in the claim's `taken`, which are looked at again when the row is locked."""
    first, second = make_delivery(), make_delivery()

    def claim_slowly() -> list[ClaimedDelivery]:
        row_by_row()
        return lifecycle.claim_deliveries(limit=2)

    with stalled_at("callbacks_callbackdelivery", first.pk) as let_go, InThread(claim_slowly) as other:
        wait_until(lambda: lock_waiters() == 1, what="the claim to take the first")
        CallbackDelivery.objects.filter(pk=second.pk).update(
            status_code="delivered", next_attempt_at=None, completed_at=timezone.now()
        )
        let_go()
    assert [each.id for each in other.result] == [first.pk]


# --- Recording --------------------------------------------------------------------------------------------------------


def test_a_delivered_one_is_over_and_its_attempt_is_in_the_log() -> None:
    delivery = make_delivery()
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    attempt = answered(claimed, 200, body="thanks", time_ms=12)
    assert lifecycle.record(attempts=[attempt]) == {delivery.pk: "delivered"}
    assert state(delivery.pk) == ("delivered", 1, False, False)
    row = CallbackDelivery.objects.get()
    assert row.completed_at is not None
    assert (row.failure_reason_code, row.failure_detail) == (None, None)
    log = CallbackAttempt.objects.values_list(
        "delivery_id",
        "attempt_number",
        "status_code",
        "response_body",
        "response_time_ms",
        "error_message",
        "created_at",
    )
    assert list(log) == [(delivery.pk, 1, 200, "thanks", 12, None, attempt.started_at)]


def test_a_failed_attempt_makes_it_due_later(settings: Any) -> None:
    settings.CALLBACK_RETRY_DELAYS = (100.0, 1000.0)
    delivery = make_delivery()
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    before = timezone.now()
    assert lifecycle.record(attempts=[answered(claimed, 500)]) == {delivery.pk: "pending"}
    assert state(delivery.pk) == ("pending", 1, True, False)
    due = CallbackDelivery.objects.get().next_attempt_at
    assert due is not None
    assert timedelta(seconds=100) <= due - before <= timedelta(seconds=121)
    assert lifecycle.claim_deliveries(limit=1) == []


@pytest.mark.parametrize(
    ("answer", "reason", "detail"),
    [
        ({"status": 410}, "gone", "The last answer had status 410."),
        ({"status": 503}, "attempts_exhausted", "The last answer had status 503."),
        ({"status": None, "error": "No answer."}, "attempts_exhausted", "No answer."),
    ],
)
def test_a_delivery_that_fails_says_why(answer: dict[str, Any], reason: str, detail: str, settings: Any) -> None:
    settings.CALLBACK_RETRY_DELAYS = ()
    make_delivery()
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    lifecycle.record(attempts=[answered(claimed, **answer)])
    row = CallbackDelivery.objects.get()
    assert (row.status_code, row.failure_reason_code, row.failure_detail) == ("failed", reason, detail)


def test_an_attempt_that_is_no_longer_the_current_one_writes_nothing() -> None:
    delivery = make_delivery()
    (late,) = lifecycle.claim_deliveries(limit=1)
    expire_leases()
    assert lifecycle.return_expired() == 1
    make_due()
    (current,) = lifecycle.claim_deliveries(limit=1)
    assert lifecycle.record(attempts=[answered(late, 200)]) == {}, "the fence"
    assert state(delivery.pk) == ("pending", 2, True, True)
    assert lifecycle.record(attempts=[answered(current, 200)]) == {delivery.pk: "delivered"}
    assert lifecycle.record(attempts=[answered(current, 500)]) == {}, "it is over"
    assert list(CallbackAttempt.objects.values_list("attempt_number", "status_code")) == [(1, None), (2, 200)]


def test_two_who_record_the_same_attempt_at_once_make_one_line() -> None:
    delivery = make_delivery()
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    with transaction.atomic():
        lifecycle.record(attempts=[answered(claimed, 200)])
        other = InThread(lambda: lifecycle.record(attempts=[answered(claimed, 500)])).start()
        wait_until(lambda: lock_waiters() == 1, what="the other to wait for the row")
    assert other.result == {}
    assert state(delivery.pk) == ("delivered", 1, False, False)
    assert CallbackAttempt.objects.count() == 1


def test_recording_costs_the_same_statements_for_one_and_for_a_hundred(count_queries: Callable[..., Any]) -> None:
    for number in range(26):
        lifecycle.create_deliveries(drafts=drafts(4, url=f"https://{number}.example/"), is_automatic=True)
    first, *rest = lifecycle.claim_deliveries(limit=101)
    with count_queries() as one:
        lifecycle.record(attempts=[answered(first, 200)])
    with count_queries() as many:
        lifecycle.record(attempts=[answered(each, 500) for each in rest])
    assert len(one.captured_queries) == len(many.captured_queries) == 4  # BEGIN, lock, record, COMMIT
    assert CallbackAttempt.objects.count() == 101


# --- Giving back ------------------------------------------------------------------------------------------------------


def test_a_delivery_whose_worker_died_is_sent_again_and_the_log_says_that_nobody_knows() -> None:
    delivery = make_delivery()
    lifecycle.claim_deliveries(limit=1)
    assert lifecycle.return_expired() == 0, "its lease still runs"
    expire_leases()
    assert lifecycle.return_expired() == 1
    assert lifecycle.return_expired() == 0
    assert state(delivery.pk) == ("pending", 1, True, False)
    (line,) = CallbackAttempt.objects.all()
    assert (line.attempt_number, line.status_code, line.response_body, line.response_time_ms) == (1, None, None, None)
    assert line.error_message == "The worker that sent this disappeared; whether it arrived is not known."
    make_due()
    assert lifecycle.has_due()
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    assert claimed.attempt == 2


def test_one_whose_last_attempt_was_lost_fails(settings: Any) -> None:
    settings.CALLBACK_RETRY_DELAYS = ()
    delivery = make_delivery()
    lifecycle.claim_deliveries(limit=1)
    expire_leases()
    lifecycle.return_expired()
    assert state(delivery.pk) == ("failed", 1, False, False)
    assert CallbackDelivery.objects.get().failure_reason_code == "attempts_exhausted"


def test_a_sweep_does_not_wait_for_one_that_is_being_recorded() -> None:
    make_delivery()
    make_delivery()
    first, _ = lifecycle.claim_deliveries(limit=2)
    expire_leases()
    with transaction.atomic():
        lifecycle.record(attempts=[answered(first, 200)])
        with InThread(lifecycle.return_expired) as other:
            assert other.result == 1
    assert sorted(CallbackDelivery.objects.values_list("status_code", flat=True)) == ["delivered", "pending"]


def test_of_two_sweeps_at_once_one_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    make_delivery()
    lifecycle.claim_deliveries(limit=1)
    expire_leases()
    others: list[int] = []

    def meanwhile(**given: Any) -> dict[UUID, str]:
        monkeypatch.undo()
        with InThread(lifecycle.return_expired) as other:
            others.append(other.result)
        return lifecycle.record(**given)

    monkeypatch.setattr(lifecycle, "record", meanwhile)
    assert lifecycle.return_expired() == 1
    assert others == [0]
    assert CallbackAttempt.objects.count() == 1


# --- Purging ----------------------------------------------------------------------------------------------------------


def test_what_ended_long_ago_is_deleted_with_its_attempts_and_nothing_else(settings: Any) -> None:
    settings.CALLBACK_RETENTION = timedelta(days=30)
    old, fresh, pending = make_delivery(), make_delivery(), make_delivery()
    for claimed in lifecycle.claim_deliveries(limit=3):
        if claimed.id != pending.pk:
            lifecycle.record(attempts=[answered(claimed, 200)])
    CallbackDelivery.objects.filter(pk=old.pk).update(completed_at=timezone.now() - timedelta(days=31))
    CallbackDelivery.objects.filter(pk=fresh.pk).update(completed_at=timezone.now() - timedelta(days=29))
    CallbackDelivery.objects.filter(pk=pending.pk).update(created_at=timezone.now() - timedelta(days=90))
    assert lifecycle.count_old() == 1
    assert lifecycle.purge_old() == 1
    assert set(CallbackDelivery.objects.values_list("pk", flat=True)) == {fresh.pk, pending.pk}
    assert set(CallbackAttempt.objects.values_list("delivery_id", flat=True)) == {fresh.pk}
    assert lifecycle.count_old() == lifecycle.purge_old() == 0


def test_of_two_purges_at_once_the_second_waits_for_nobody(settings: Any) -> None:
    settings.CALLBACK_RETENTION = timedelta(0)
    make_delivery()
    (claimed,) = lifecycle.claim_deliveries(limit=1)
    lifecycle.record(attempts=[answered(claimed, 200)])
    with transaction.atomic():
        assert lifecycle.purge_old() == 1
        with InThread(lifecycle.purge_old) as other:
            assert other.result == 0


def test_the_use_of_a_secret_is_written_at_most_once_a_minute() -> None:
    organization = make_organization()
    secret, _ = create_secret(organization=organization, label="shop")

    def use() -> Any:
        make_delivery(organization=organization)
        (claimed,) = lifecycle.claim_deliveries(limit=1)
        lifecycle.record(attempts=[answered(claimed, 200, secret_id=secret.pk)])
        return CallbackSecret.objects.get().last_used_at

    first = use()
    assert first is not None
    assert use() == first
    CallbackSecret.objects.update(last_used_at=first - timedelta(seconds=61))
    assert use() > first
