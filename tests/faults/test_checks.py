"""The drill can fail: each check notices what was doctored, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.faults.checks import CHECKS, check_all, late_answers
from tests.faults.clients import Accepted
from tests.faults.evidence import BatchRow, DeliveryRow, Evidence, Execution, Move, RecordRow, RunRow, Window
from tests.faults.receiver import Receipt

ORGANIZATION = "shop"
PAYLOAD = json.dumps({"event": "batch.succeeded", "batch_id": "b", "status": "succeeded"}).encode()


def at(second: float) -> datetime:
    return datetime.fromtimestamp(1_000_000 + second, tz=UTC)


def run(id: str, batch_id: str | None, position: int | None, **more: Any) -> RunRow:
    values: dict[str, Any] = {
        "status_code": "succeeded",
        "attempt": 1,
        "input": id,
        "is_local": True,
        "output": {"outputs": [{"asset_id": f"asset-{id}"}]},
        "failure_code": None,
        "failure_message": None,
        "wants_callback": False,
        "is_cancel_asked": False,
    }
    return RunRow(id=id, batch_id=batch_id, organization=ORGANIZATION, position=position, **values | more)


def moves_of(id: str, *statuses: str, begin: float = 0.0) -> list[Move]:
    """One move each second."""
    attempt, was, moves = 0, "queued", []
    for second, became in enumerate(statuses):
        moves.append(Move("run", id, attempt, was, became, at(begin + second)))
        attempt += became == "dispatching"
        was = became
    return moves


def healthy() -> Evidence:
    """A batch of two local runs, the second of which needed two attempts, and a single run at a server."""
    return Evidence(
        accepted=[
            Accepted("batch", "b", "key-1", ORGANIZATION, ("r1", "r2"), wants_callback=True, is_local=True),
            Accepted("run", "r3", "key-2", ORGANIZATION, ("r3",), wants_callback=False, is_local=False),
        ],
        batches=[BatchRow("b", ORGANIZATION, "succeeded", 2, 2, 0, 0, wants_callback=True, is_cancel_asked=False)],
        runs=[run("r1", "b", 0), run("r2", "b", 1, attempt=2), run("r3", None, None, is_local=False)],
        moves=[
            Move("batch", "b", None, "queued", "running", at(0)),
            *moves_of("r1", "dispatching", "running", "succeeded"),
            *moves_of("r2", "dispatching", "running", "queued", "dispatching", "running", "succeeded"),
            *moves_of("r3", "dispatching", "running", "succeeded"),
            Move("batch", "b", None, "running", "succeeded", at(6)),
        ],
        deliveries=[DeliveryRow("d", "batch", "b", "delivered", 2, is_automatic=True, payload=PAYLOAD)],
        records=[
            RecordRow(ORGANIZATION, "key-1", 201, b'{"id": "b"}'),
            RecordRow(ORGANIZATION, "key-2", 201, b'{"id": "r3"}'),
        ],
        executions=[
            Execution("begun", "r1", 1, at(1).timestamp()),
            Execution("begun", "r2", 1, at(1).timestamp()),
            Execution("begun", "r2", 2, at(4).timestamp()),
            Execution("done", "r1", 1, at(1.5).timestamp()),
            Execution("done", "r2", 2, at(4.5).timestamp()),
        ],
        jobs=[Execution("done", "r3", 1, at(1.5).timestamp(), "model1", "p1")],
        receipts=[Receipt("d", PAYLOAD, is_genuine=True, answered=status) for status in (500, 204)],
        windows=[Window("worker1", "kill", at(1).timestamp(), at(2).timestamp())],
        files={"asset-r1": b"r1", "asset-r2": b"r2", "asset-r3": b"png"},
    )


def test_a_drill_in_which_all_went_well_passes() -> None:
    assert [result for result in check_all(healthy()) if result.wrong] == []


def edit(name: str, place: int, **changes: Any) -> Callable[[Evidence], None]:
    """Change one row."""

    def doctor(evidence: Evidence) -> None:
        rows = getattr(evidence, name)
        rows[place] = replace(rows[place], **changes)

    return doctor


def add(name: str, row: Any) -> Callable[[Evidence], None]:
    return lambda evidence: getattr(evidence, name).append(row)


def drop(name: str, place: int) -> Callable[[Evidence], None]:
    return lambda evidence: getattr(evidence, name).pop(place)


def both(*doctors: Callable[[Evidence], None]) -> Callable[[Evidence], None]:
    def doctor(evidence: Evidence) -> None:
        for each in doctors:
            each(evidence)

    return doctor


def put_file(asset_id: str, body: bytes | None) -> Callable[[Evidence], None]:
    return lambda evidence: evidence.files.update({asset_id: body})


def does_again(*, fault_at: str = "", begun: float = 1.2) -> Callable[[Evidence], None]:
    """The run at a server is done, given back at second 2, and done again; while this target is at fault, if any."""

    def doctor(evidence: Evidence) -> None:
        evidence.runs[2] = replace(evidence.runs[2], attempt=2)
        evidence.moves[10:13] = moves_of(
            "r3", "dispatching", "running", "queued", "dispatching", "running", "succeeded"
        )
        evidence.jobs.append(Execution("begun", "r3", 1, at(begun).timestamp(), "model1", "p1"))
        evidence.jobs[0] = replace(evidence.jobs[0], at=at(begun + 0.3).timestamp())
        evidence.jobs.append(Execution("done", "r3", 2, at(4.5).timestamp(), "model2", "p2"))
        if fault_at:
            evidence.windows.append(Window(fault_at, "hang", at(1).timestamp(), at(2).timestamp()))

    return doctor


def test_a_job_may_be_done_again_when_its_server_was_at_fault() -> None:
    evidence = healthy()
    does_again(fault_at="model1")(evidence)
    assert [result for result in check_all(evidence) if result.wrong] == []


def test_a_job_may_be_done_again_when_its_driver_stood_still_and_sent_it_after_it_had_been_given_back() -> None:
    evidence = healthy()
    does_again(fault_at="io1", begun=2.1)(evidence)
    assert [result for result in check_all(evidence) if result.wrong] == []


def test_a_request_that_was_given_up_may_have_been_done_or_not() -> None:
    evidence = healthy()
    evidence.given_up = [(ORGANIZATION, "key-2"), (ORGANIZATION, "key-3")]
    evidence.accepted.pop(1)
    assert [result for result in check_all(evidence) if result.wrong] == []


def test_who_is_late_is_counted_and_who_met_the_next_attempt() -> None:
    evidence = healthy()
    assert late_answers(evidence) == (0, 0)
    evidence.executions.append(Execution("done", "r2", 1, at(2.5).timestamp()))  # nobody was at it again yet
    assert late_answers(evidence) == (1, 0)
    evidence.executions[-1] = replace(evidence.executions[-1], at=at(4.3).timestamp())
    assert late_answers(evidence) == (1, 1)
    evidence.executions[-1] = replace(evidence.executions[-1], at=at(5.5).timestamp())  # somebody had done it again
    assert late_answers(evidence) == (1, 0)
    assert [result for result in check_all(evidence) if result.wrong] == []


def refuse() -> Callable[[Evidence], None]:
    """The first run of the batch is refused, as its input says."""

    def doctor(evidence: Evidence) -> None:
        refused: dict[str, Any] = {"status_code": "failed", "failure_code": "EXECUTION_FAILED"}
        evidence.accepted[0] = replace(evidence.accepted[0], inputs=("no 1", "r2"), wants_callback=False)
        evidence.runs[0] = replace(evidence.runs[0], input="no 1", output=None, **refused)
        evidence.batches[0] = replace(
            evidence.batches[0], status_code="partial_succeeded", succeeded=1, failed=1, wants_callback=False
        )
        evidence.moves[3] = replace(evidence.moves[3], became="failed")
        evidence.moves[-1] = replace(evidence.moves[-1], became="partial_succeeded")
        evidence.deliveries, evidence.receipts = [], []
        evidence.executions.append(Execution("refused", "r1", 1, at(1.5).timestamp()))

    return doctor


def test_a_run_that_was_refused_as_its_input_says_passes() -> None:
    evidence = healthy()
    refuse()(evidence)
    assert [result for result in check_all(evidence) if result.wrong] == []


FAILED = {"status_code": "failed", "failure_code": "ATTEMPTS_EXHAUSTED", "failure_message": "No."}
IS_THERE = "every accepted batch and run is there, with all its inputs in order"
TERMINAL = "every batch and every run is terminal"
ENDS_ONCE = "every run and batch became terminal exactly once, and nothing left a terminal status"
MOVES = "runs moved as the state machine allows, one attempt after the other"
COUNTERS = "counters and status of every batch are those of its runs"
KEYS = "every Idempotency-Key made one thing, and nothing else is there"
LOCAL_ENDS = "local runs end as their input says, unless somebody canceled them"
SERVERS_FAIL = "runs at servers fail only while their server misbehaves"
CANCELED = "nothing is canceled that nobody wanted canceled"
OUTPUTS = "what succeeded has its output, with the right content"
DONE = "what succeeded had been done before, by the attempt that counts; and what was refused, refused"
ATTEMPTS = "no attempt of a local run was executed twice"
GIVEN_BACK = "local runs were given back only where a worker or the database was hit"
LOCAL_AGAIN = "local runs were done again only after their lease was lost"
AGAIN = "a server's job was done again only where nobody could know that it had been done"
ONE_CALLBACK = "one automatic callback for each batch and run that wants one, and none else"
CALLBACKS = "every callback was taken, and each time with the same body, genuinely signed, telling of the end"
ANSWERS = "clients got only the answers that the contract has"
AUDIT = "verify_batches finds nothing"
IN_TIME = "what was hit went on in time"
ALIVE = "no process ended that was not killed"


@pytest.mark.parametrize(
    ("doctor", "noticed"),
    [
        (edit("runs", 1, input="other"), {IS_THERE, OUTPUTS}),
        (edit("runs", 0, position=7), {IS_THERE}),
        (edit("runs", 2, status_code="running"), {TERMINAL, ENDS_ONCE}),
        (edit("batches", 0, status_code="running"), {TERMINAL, ENDS_ONCE, COUNTERS, CALLBACKS}),
        (add("moves", Move("run", "r1", 1, "succeeded", "succeeded", at(9))), {ENDS_ONCE}),
        (add("moves", Move("batch", "b", None, "succeeded", "failed", at(9))), {ENDS_ONCE}),
        (drop("moves", 3), {ENDS_ONCE}),
        (edit("moves", 3, was="queued"), {MOVES}),
        (edit("moves", 8, attempt=1), {MOVES}),
        (edit("runs", 1, attempt=3), {MOVES}),
        (edit("batches", 0, succeeded=1), {COUNTERS}),
        (edit("batches", 0, total=3), {COUNTERS}),
        (add("accepted", Accepted("run", "r3", "key-2", ORGANIZATION, ("r3",), False, False)), {KEYS}),
        (edit("records", 0, body=b'{"id": "another"}'), {KEYS}),
        (drop("accepted", 1), {KEYS}),
        (edit("runs", 0, **FAILED), {LOCAL_ENDS, COUNTERS, ENDS_ONCE}),
        (both(refuse(), drop("executions", 5)), {DONE}),
        (both(refuse(), edit("executions", 5, at=at(2.5).timestamp())), {DONE}),
        (both(edit("runs", 2, **FAILED), edit("moves", 12, became="failed")), {SERVERS_FAIL}),
        (edit("runs", 2, is_cancel_asked=True), {CANCELED}),
        (put_file("asset-r3", None), {OUTPUTS}),
        (put_file("asset-r1", b"r2"), {OUTPUTS}),
        (edit("runs", 0, output=None), {OUTPUTS}),
        (add("executions", Execution("begun", "r1", 1, at(2).timestamp())), {ATTEMPTS}),
        (drop("executions", 3), {DONE}),
        (edit("executions", 4, attempt=1), {DONE}),
        (edit("executions", 4, at=at(5.5).timestamp()), {DONE}),
        (drop("jobs", 0), {DONE}),
        (edit("executions", 2, at=at(1).timestamp()), {LOCAL_AGAIN}),
        (edit("windows", 0, target="io1"), {GIVEN_BACK}),
        (edit("windows", 0, begin=at(9).timestamp(), end=at(10).timestamp()), {GIVEN_BACK}),
        (does_again(), {AGAIN}),
        (does_again(fault_at="model2"), {AGAIN}),
        (does_again(fault_at="worker1"), {AGAIN}),
        (does_again(fault_at="io1"), {AGAIN}),
        (does_again(begun=2.1), {AGAIN}),
        (add("deliveries", DeliveryRow("e", "batch", "b", "delivered", 1, True, PAYLOAD)), {ONE_CALLBACK, CALLBACKS}),
        (both(drop("deliveries", 0), drop("receipts", 1), drop("receipts", 0)), {ONE_CALLBACK}),
        (edit("deliveries", 0, status_code="failed"), {CALLBACKS}),
        (drop("receipts", 1), {CALLBACKS}),
        (edit("receipts", 0, body=PAYLOAD + b" "), {CALLBACKS}),
        (edit("receipts", 1, is_genuine=False), {CALLBACKS}),
        (edit("deliveries", 0, attempt_count=1), {CALLBACKS}),
        (add("receipts", Receipt("x", PAYLOAD, is_genuine=True, answered=204)), {CALLBACKS}),
        (add("complaints", "500"), {ANSWERS}),
        (add("findings", "batch_cost"), {AUDIT}),
        (add("slow", "16 s"), {IN_TIME}),
        (add("ended", "beat"), {ALIVE}),
    ],
)  # fmt: skip
def test_what_was_doctored_is_noticed(doctor: Callable[[Evidence], None], noticed: set[str]) -> None:
    evidence = healthy()
    doctor(evidence)
    assert {result.name for result in check_all(evidence) if result.wrong} == noticed


def test_every_check_has_been_seen_to_fail() -> None:
    marks: Any = test_what_was_doctored_is_noticed.pytestmark  # type: ignore[attr-defined]
    assert {name for _, noticed in marks[0].args[1] for name in noticed} == set(CHECKS)
