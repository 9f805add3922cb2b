"""What a drill came to, for somebody who has not read its code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.faults.checks import late_answers
from tests.faults.drill import Outcome

# Of what one check found.
_MOST_SHOWN = 5


def lines_of(outcome: Outcome) -> Iterator[str]:
    """The report, line by line."""
    evidence, counts = outcome.evidence, outcome.ledger.counts
    yield f"Fault drill, seed {outcome.seed}, {outcome.seconds / 60:.1f} minutes of faults"
    yield ""
    yield f"Broken on purpose: {len(outcome.faults)} times"
    for kind, targets in _faults(outcome).items():
        yield f"  {kind:<20} {sum(targets.values()):4}   " + ", ".join(f"{n} x {t}" for t, n in sorted(targets.items()))
    yield ""
    yield "Load"
    requests = counts["requests"]
    yield f"  requests {requests}, {requests / outcome.seconds:.0f}/s; " + _listed(counts, "answered ", "no answer ")
    batches = sum(each.subject == "batch" for each in evidence.accepted)
    yield (
        f"  accepted {batches} batches and {len(evidence.accepted) - batches} single runs; "
        + ", ".join(f"{counts[name]} {name}" for name in ("repeated after the answer", "cancellations", "replays"))
        + f"; {len(evidence.given_up)} requests given up"
    )
    yield ""
    yield f"What became of {len(evidence.runs)} runs, {outcome.drained_in:.1f} s after the last client"
    yield "  runs       " + _tally(run.status_code for run in evidence.runs)
    yield "  batches    " + _tally(batch.status_code for batch in evidence.batches)
    failures = [f"{run.failure_code}" for run in evidence.runs if run.failure_code]
    yield "  failures   " + (_tally(failures) or "none")
    again = [run.attempt for run in evidence.runs if run.attempt > 1]
    yield f"  attempts   {len(again)} runs needed more than one, at most {max(again, default=1)}"
    local, at_servers = (
        sum(n > 1 for n in Counter(each.run_id for each in record if each.event == "done").values())
        for record in (evidence.executions, evidence.jobs)
    )
    yield f"  done twice {local} local runs and {at_servers} at servers, where nobody could know of the first time"
    late, met = late_answers(evidence)
    yield f"  too late   {late} local runs had been given back when they were done, {met} of them were being done again"
    sent = [row.attempt_count for row in evidence.deliveries]
    yield (
        f"  callbacks  {len(sent)} for {len(evidence.receipts)} requests received; {sum(n > 1 for n in sent)} needed"
        f" more than one attempt, at most {max(sent, default=0)}"
    )
    if outcome.director.ended:
        yield "  ended by themselves, after the death of a child, and started again: " + _tally(
            outcome.director.ended.elements()
        )
    if outcome.director.orphans:
        yield f"  {outcome.director.orphans} processes whose main process was killed had to be killed too"
    yield ""
    yield "Longest recoveries, in seconds (in brackets: while something else that it needs was broken too)"
    for slowest in outcome.director.recoveries.longest():
        alone = f"{slowest.undisturbed:5.1f}" if slowest.undisturbed is not None else "    -"
        times = f"{alone}  ({slowest.longest:5.1f})  of {slowest.number:3}, allowed {slowest.kind.most:.0f}"
        yield f"  {slowest.kind.name:<66} {times}"
    yield ""
    yield "Checked"
    for result in outcome.results:
        yield f"  {'FAILED' if result.wrong else 'ok':<6}  {result.name}"
        yield from (f"            {text}" for text in result.wrong[:_MOST_SHOWN])
        if len(result.wrong) > _MOST_SHOWN:
            yield f"            and {len(result.wrong) - _MOST_SHOWN} more"
    yield ""
    yield "PASSED: nothing was lost, nothing was done double." if outcome.is_good else "FAILED"


def _faults(outcome: Outcome) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for fault in outcome.faults:
        found.setdefault(fault.kind, Counter())[f"{fault.target} {fault.mood}".strip()] += 1
    return dict(sorted(found.items()))


def _listed(counts: Counter[str], *prefixes: str) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items()) if what.startswith(prefixes)) or "all answered"


def _tally(values: Iterator[str] | list[str]) -> str:
    return ", ".join(f"{n} {value}" for value, n in Counter(values).most_common())
