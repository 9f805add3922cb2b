"""What must hold when a drill is over. Each check is a function of the evidence; what it yields is wrong."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from batches.events import BATCH_EVENTS, RUN_EVENTS
from batches.models import BATCH_TERMINAL, REACHED_FROM, TERMINAL, BatchStatus, RunStatus
from tests.faults.evidence import Evidence, Execution, Move, RunRow
from tests.faults.functions import REFUSED

Check = Callable[[Evidence], Iterator[str]]
CHECKS: dict[str, Check] = {}
# Seconds that a fault of a server may be seen before it begins (clocks) and after it ends (a request that hung times out).
SLACK_BEFORE, SLACK_AFTER = 0.5, 3.0

_EVENTS: dict[tuple[str, str], str] = {("batch", str(status)): event for status, event in BATCH_EVENTS.items()}
_EVENTS |= {("run", str(status)): event for status, event in RUN_EVENTS.items()}


def check(name: str) -> Callable[[Check], Check]:
    """`name` says what holds."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


@check("every accepted batch and run is there, with all its inputs in order")
def accepted_is_there(evidence: Evidence) -> Iterator[str]:
    runs = {run.id: run for run in evidence.runs}
    of_batch = defaultdict(list)
    for run in evidence.runs:
        if run.batch_id is not None:
            of_batch[run.batch_id].append(run)
    for each in evidence.accepted:
        found = of_batch[each.id] if each.subject == "batch" else [runs[each.id]] if each.id in runs else []
        inputs = tuple(run.input for run in sorted(found, key=lambda run: run.position or 0))
        if inputs != each.inputs:
            yield f"{each.subject} {each.id}: {len(each.inputs)} inputs were accepted, and {len(inputs)} or others are there"


@check("every batch and every run is terminal")
def all_terminal(evidence: Evidence) -> Iterator[str]:
    for batch in evidence.batches:
        if batch.status_code not in BATCH_TERMINAL:
            yield f"batch {batch.id} is {batch.status_code}"
    for run in evidence.runs:
        if run.status_code not in TERMINAL:
            yield f"run {run.id} is {run.status_code}, attempt {run.attempt}"


@check("every run and batch became terminal exactly once, and nothing left a terminal status")
def terminal_once(evidence: Evidence) -> Iterator[str]:
    ends: Counter[tuple[str, str]] = Counter()
    last: dict[tuple[str, str], Move] = {}
    for move in evidence.moves:
        terminal = TERMINAL if move.subject == "run" else BATCH_TERMINAL
        ends[move.subject, move.subject_id] += move.became in terminal
        last[move.subject, move.subject_id] = move
        if move.was in terminal:
            yield f"{move.subject} {move.subject_id} went from {move.was} to {move.became} at {move.at}"
    for subject, rows in (("run", evidence.runs), ("batch", evidence.batches)):
        for row in rows:
            key = subject, row.id
            if ends[key] != 1:
                yield f"{subject} {row.id} became terminal {ends[key]} times"
            elif last[key].became != row.status_code:
                yield f"{subject} {row.id} is {row.status_code}, and its last move was to {last[key].became}"


@check("runs moved as the state machine allows, one attempt after the other")
def legal_moves(evidence: Evidence) -> Iterator[str]:
    attempts: Counter[str] = Counter()
    for move in evidence.moves:
        if move.subject != "run":
            continue
        if move.was != move.became and RunStatus(move.was) not in REACHED_FROM[RunStatus(move.became)]:
            yield f"run {move.subject_id} went from {move.was} to {move.became}"
        if move.attempt != attempts[move.subject_id]:
            yield f"run {move.subject_id} was at attempt {move.attempt}, not {attempts[move.subject_id]}"
        attempts[move.subject_id] += move.became == RunStatus.DISPATCHING
    for run in evidence.runs:
        if run.attempt != attempts[run.id]:
            yield f"run {run.id} counts {run.attempt} attempts, and {attempts[run.id]} were made"


@check("counters and status of every batch are those of its runs")
def counters_equal_rows(evidence: Evidence) -> Iterator[str]:
    tally: dict[str | None, Counter[str]] = defaultdict(Counter)
    for run in evidence.runs:
        tally[run.batch_id][run.status_code] += 1
    for batch in evidence.batches:
        told = (batch.succeeded, batch.failed, batch.cancelled)
        rows = tally[batch.id]
        real = tuple(rows[status] for status in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELED))
        if told != real or sum(real) != batch.total or batch.status_code != _status_of(*real):
            yield f"batch {batch.id} is {batch.status_code}, {told} of {batch.total}, and its runs are {dict(rows)}"


@check("every Idempotency-Key made one thing, and nothing else is there")
def one_thing_for_each_key(evidence: Evidence) -> Iterator[str]:
    made: dict[tuple[str, str], str] = {}
    for record in evidence.records:
        if record.status == 201:
            made[record.organization, record.key] = str(json.loads(record.body)["id"])
    for key, count in Counter((each.organization, each.key) for each in evidence.accepted).items():
        if count != 1:
            yield f"key {key[1]} is in the ledger {count} times"
    told = {}
    for each in evidence.accepted:
        told[each.id] = each
        if made.get((each.organization, each.key)) != each.id:
            yield f"key {each.key} gave {each.subject} {each.id}, and {made.get((each.organization, each.key))} is kept"
    unknown = {made[key] for key in evidence.given_up if key in made}
    single = [run.id for run in evidence.runs if run.batch_id is None]
    for subject, ids in (("batch", [batch.id for batch in evidence.batches]), ("run", single)):
        for id in ids:
            if id not in told and id not in unknown:
                yield f"{subject} {id} is there, and nobody was told of it"


@check("local runs end as their input says, unless somebody canceled them")
def local_runs_end_well(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        if not run.is_local or _is_canceled_by_somebody(run):
            continue
        expected = ("failed", "EXECUTION_FAILED") if run.input.startswith(REFUSED) else ("succeeded", None)
        if (run.status_code, run.failure_code) != expected:
            yield f"run {run.id}, input {run.input!r}: {run.status_code} {run.failure_code} {run.failure_message}"


@check("runs at servers fail only while their server misbehaves")
def server_runs_fail_for_a_reason(evidence: Evidence) -> Iterator[str]:
    claims: dict[str, Move] = {}
    ends: dict[str, Move] = {}
    for move in evidence.moves:
        if move.became == RunStatus.DISPATCHING:
            claims[move.subject_id] = move
        ends[move.subject_id] = move
    for run in evidence.runs:
        if run.is_local or run.status_code != RunStatus.FAILED:
            continue
        begin = claims[run.id].at.timestamp() if run.id in claims else 0.0
        if not _was_at_fault(evidence, ("model",), begin, ends[run.id].at.timestamp()):
            yield f"run {run.id}: {run.status_code} {run.failure_code} {run.failure_message}, and no server was at fault"


@check("nothing is canceled that nobody wanted canceled")
def canceled_by_somebody(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        asked = {run.id, run.batch_id} & evidence.cancelled
        if (run.status_code == RunStatus.CANCELED or run.is_cancel_asked) and not asked:
            yield f"run {run.id} is {run.status_code}, and nobody asked for it"


@check("what succeeded has its output, with the right content")
def outputs_are_there(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        if run.status_code != RunStatus.SUCCEEDED:
            continue
        outputs = run.output["outputs"] if run.output else []
        bodies = [evidence.files.get(each["asset_id"]) for each in outputs]
        good = bodies == [run.input.encode()] if run.is_local else bool(bodies) and all(bodies)
        if not good:
            yield f"run {run.id}, input {run.input!r}: {len(outputs)} outputs, first {(bodies or [None])[0]!r:.80}"


@check("what succeeded had been done before, by the attempt that counts; and what was refused, refused")
def ends_were_reached(evidence: Evidence) -> Iterator[str]:
    reached: dict[tuple[str, int, str], float] = {}
    for each in [*evidence.executions, *evidence.jobs]:
        reached.setdefault((each.run_id, each.attempt, each.event), each.at)
    local = {run.id for run in evidence.runs if run.is_local}
    events = {str(RunStatus.SUCCEEDED): "done", str(RunStatus.FAILED): "refused"}
    for move in evidence.moves:
        if move.subject != "run" or move.became not in events:
            continue
        if move.became == RunStatus.FAILED and move.subject_id not in local:
            continue  # that has many reasons
        event = events[move.became]
        at = reached.get((move.subject_id, move.attempt or 0, event))
        if at is None or at > move.at.timestamp():
            yield f"run {move.subject_id} {move.became} in attempt {move.attempt} at {move.at}, which was not {event} then"


@check("no attempt of a local run was executed twice")
def attempts_execute_once(evidence: Evidence) -> Iterator[str]:
    for (run_id, attempt), count in Counter(
        (each.run_id, each.attempt) for each in evidence.executions if each.event == "begun"
    ).items():
        if count != 1:
            yield f"run {run_id} attempt {attempt} began {count} times"


@check("local runs were done again only after their lease was lost")
def local_done_again_for_a_reason(evidence: Evidence) -> Iterator[str]:
    given_back = _given_back(evidence)
    begun = {(each.run_id, each.attempt): each.at for each in evidence.executions if each.event == "begun"}
    for (run_id, attempt), at in begun.items():
        if attempt > 1 and at < given_back.get((run_id, attempt - 1), float("inf")) - SLACK_BEFORE:
            yield f"run {run_id} attempt {attempt} began before attempt {attempt - 1} was given back"


@check("local runs were given back only where a worker or the database was hit")
def local_given_back_for_a_reason(evidence: Evidence) -> Iterator[str]:
    local = {run.id for run in evidence.runs if run.is_local}
    claimed = _claimed(evidence)
    for move in evidence.moves:
        if move.attempt is None or move.became != RunStatus.QUEUED or move.subject_id not in local:
            continue
        begin, end = claimed[move.subject_id, move.attempt], move.at.timestamp()
        if not _was_at_fault(evidence, ("worker", "postgres"), begin, end):
            yield f"run {move.subject_id} lost attempt {move.attempt} at {move.at}, and nobody was hit"


@check("a server's job was done again only where nobody could know that it had been done")
def jobs_done_again_for_a_reason(evidence: Evidence) -> Iterator[str]:
    given_back = _given_back(evidence)
    claimed = _claimed(evidence)
    done: dict[str, list[Execution]] = defaultdict(list)
    begun: dict[tuple[str, int], float] = {}
    for job in sorted(evidence.jobs, key=lambda job: job.at):
        if job.event == "done":
            done[job.run_id].append(job)
        else:
            begun.setdefault((job.run_id, job.attempt), job.at)
    for run_id, jobs in done.items():
        for earlier, later in pairwise(jobs):
            attempt = run_id, earlier.attempt
            back, sent = given_back.get(attempt, later.at), begun.get(attempt, 0.0)
            if back < sent and _was_at_fault(evidence, ("io",), claimed[attempt], sent):
                continue  # the driver stood still between claim and submission, and nobody saw the job at the server
            if not _was_at_fault(evidence, (earlier.server,), claimed[attempt], back):
                yield (
                    f"run {run_id} was done at {earlier.server} (attempt {earlier.attempt}) and again at {later.server}"
                    f" (attempt {later.attempt}), and {earlier.server} had no fault in between"
                )


@check("one automatic callback for each batch and run that wants one, and none else")
def one_callback(evidence: Evidence) -> Iterator[str]:
    made = Counter((row.subject_type, row.subject_id) for row in evidence.deliveries if row.is_automatic)
    wanted = {("batch", row.id) for row in evidence.batches if row.wants_callback}
    wanted |= {("run", row.id) for row in evidence.runs if row.wants_callback}
    for subject in wanted | set(made):
        if made[subject] != (subject in wanted):
            yield f"{subject[0]} {subject[1]} has {made[subject]} callbacks, and wants {int(subject in wanted)}"
    for each in evidence.accepted:
        if each.wants_callback and (each.subject, each.id) not in wanted:
            yield f"{each.subject} {each.id} was accepted with a callback, which is not there"


@check("every callback was taken, and each time with the same body, genuinely signed, telling of the end")
def callbacks_arrived(evidence: Evidence) -> Iterator[str]:
    statuses = {("batch", row.id): row.status_code for row in evidence.batches}
    statuses |= {("run", row.id): row.status_code for row in evidence.runs}
    receipts = defaultdict(list)
    for receipt in evidence.receipts:
        receipts[receipt.webhook_id].append(receipt)
        if not receipt.is_genuine:
            yield f"callback {receipt.webhook_id} came with a wrong signature"
    for row in evidence.deliveries:
        seen = receipts.pop(row.id, [])
        if row.status_code != "delivered" or not any(200 <= receipt.answered < 300 for receipt in seen):
            yield f"callback {row.id} of {row.subject_type} {row.subject_id} is {row.status_code}, seen {len(seen)} times"
        if any(receipt.body != bytes(row.payload) for receipt in seen):
            yield f"callback {row.id} was sent with another body"
        if len(seen) > row.attempt_count:
            yield f"callback {row.id} was sent {len(seen)} times in {row.attempt_count} attempts"
        body = json.loads(bytes(row.payload))
        status = statuses[row.subject_type, row.subject_id]
        event = _EVENTS.get((row.subject_type, status))
        if (body["status"], body["event"], body[f"{row.subject_type}_id"]) != (status, event, row.subject_id):
            yield f"callback {row.id} tells {body['event']} {body['status']} of a {row.subject_type} that is {status}"
    for webhook_id in receipts:
        yield f"a callback {webhook_id} came that is no row"


@check("clients got only the answers that the contract has")
def clients_are_content(evidence: Evidence) -> Iterator[str]:
    yield from evidence.complaints


@check("verify_batches finds nothing")
def audit_is_clean(evidence: Evidence) -> Iterator[str]:
    yield from evidence.findings


@check("what was hit went on in time")
def recovered_in_time(evidence: Evidence) -> Iterator[str]:
    yield from evidence.slow


@check("no process ended that was not killed")
def nothing_ended_by_itself(evidence: Evidence) -> Iterator[str]:
    yield from evidence.ended


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found; nothing is good."""

    name: str
    wrong: list[str]


def check_all(evidence: Evidence) -> list[Result]:
    """Every check, in the order of this file."""
    return [Result(name, list(function(evidence))) for name, function in CHECKS.items()]


def late_answers(evidence: Evidence) -> tuple[int, int]:
    """How often a local run was done in an attempt that had been given back; and of these, while the next was under way."""
    claimed, ended = _claimed(evidence), _given_back(evidence)
    late = met = 0
    for each in evidence.executions:
        this, following = (each.run_id, each.attempt), (each.run_id, each.attempt + 1)
        if each.event == "done" and each.at > ended.get(this, float("inf")):
            late += 1
            met += claimed.get(following, float("inf")) < each.at < ended.get(following, 0.0)
    return late, met


def _status_of(succeeded: int, failed: int, canceled: int) -> BatchStatus:
    """contract.md section 3.4."""
    if succeeded:
        return BatchStatus.PARTIAL_SUCCEEDED if failed or canceled else BatchStatus.SUCCEEDED
    return BatchStatus.FAILED if failed else BatchStatus.CANCELED


def _is_canceled_by_somebody(run: RunRow) -> bool:
    return run.status_code == RunStatus.CANCELED and run.is_cancel_asked


def _claimed(evidence: Evidence) -> dict[tuple[str, int], float]:
    """When an attempt began."""
    return {
        (move.subject_id, move.attempt + 1): move.at.timestamp()
        for move in evidence.moves
        if move.attempt is not None and move.became == RunStatus.DISPATCHING
    }


def _given_back(evidence: Evidence) -> dict[tuple[str, int], float]:
    """When an attempt ended, in whichever way."""
    return {
        (move.subject_id, move.attempt): move.at.timestamp()
        for move in evidence.moves
        if move.attempt is not None and move.became in (RunStatus.QUEUED, *TERMINAL)
    }


def _was_at_fault(evidence: Evidence, targets: tuple[str, ...], begin: float, end: float) -> bool:
    """Whether a fault of a target whose name begins so touches a time."""
    return any(
        window.target.startswith(targets) and window.begin - SLACK_BEFORE <= end and window.end + SLACK_AFTER >= begin
        for window in evidence.windows
    )
