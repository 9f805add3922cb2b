"""Does the faults of a plan, each at its time, and looks what they do."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runflow.stack.keeper import wait_until
from tests.faults.breaking import Steps, steps_of
from tests.faults.evidence import Window
from tests.faults.house import House
from tests.faults.plan import Fault
from tests.faults.receiver import Callbacks
from tests.faults.recovery import Eyes, Recoveries

# Seconds. After the last fault everything that was accepted is to be over within this.
DRAIN_SECONDS = 120.0
_LOOK = 0.1
# Seconds after the death of a child in which a worker may end of it.
_CHILD_SECONDS = 15.0
OPEN = """
SELECT (SELECT count(*) FROM batches_run WHERE completed_at IS NULL)
     + (SELECT count(*) FROM callbacks_callbackdelivery WHERE completed_at IS NULL)
"""


@dataclass(slots=True)
class _Active:
    """A fault at work. `at`: when its next step is due, in seconds since the beginning; `since` the epoch's."""

    fault: Fault
    steps: Steps
    at: float
    since: float


@dataclass(slots=True)
class Director:
    house: House
    callbacks: Callbacks
    recoveries: Recoveries
    eyes: Eyes
    redis_url: str
    rng: random.Random
    say: Callable[[str], None]
    windows: list[Window] = field(default_factory=list)
    orphans: int = 0
    # What ended by itself and was started again, as a supervisor does; and what of it nothing explains.
    ended: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    def break_things(self, plan: Sequence[Fault], seconds: float) -> None:
        """Returns after so many seconds, once all faults are over. Raises what they and `held.check` raise."""
        begun = time.monotonic()
        todo, active = list(plan), list[_Active]()
        while (now := time.monotonic() - begun) < seconds or active:
            for fault in [each for each in todo if each.at <= now]:
                # On a busy machine a process may take longer to start again than the plan allows for.
                if fault.target not in [each.fault.target for each in active]:
                    todo.remove(fault)
                    self.say(f"{now:6.1f} s  {fault}")
                    active.append(_Active(fault, steps_of(self, fault), now, time.time()))
            active = [each for each in active if each.at > now or self._goes_on(each, now)]
            self.look([each.fault.target for each in active])

    def _goes_on(self, each: _Active, now: float) -> bool:
        """The next step of a fault. False: it is over."""
        pause = next(each.steps, None)
        if pause is None:
            fault = each.fault
            self.windows.append(Window(fault.target, fault.mood or fault.kind, each.since, time.time()))
            return False
        each.at = now + pause
        return True

    def look(self, at_fault: Sequence[str] = ()) -> None:
        """Once around: what has recovered, what has ended though nobody killed it. Raises what `held.check` does."""
        self.house.held.check()
        self.recoveries.look(at_fault)
        self.orphans += self.house.end_orphans()
        for name in set(self.house.dead()) - set(at_fault):
            self._start_again(name)
        time.sleep(_LOOK)

    def _start_again(self, name: str) -> None:
        """As a supervisor would. A worker ends by itself if a child of it dies while it starts, and at nothing else."""
        self.ended[name] += 1
        latest = time.time() - _CHILD_SECONDS
        hit = [
            each for each in self.windows if each.target == name and each.mood == "kill a child" and each.end > latest
        ]
        if not hit:
            self.unexplained.append(f"{name} ended by itself{self.house.children[name].tail(lines=30)}")
        self.house.start(name)

    def drain(self) -> float:
        """Wait until nothing is open any more. Returns the seconds it took, at most DRAIN_SECONDS."""
        begun = time.monotonic()

        def is_over() -> bool:
            self.look()
            answer = self.eyes.ask(OPEN)
            return answer is not None and answer[0][0] == 0 and not self.recoveries.open

        wait_until(is_over, DRAIN_SECONDS)
        return time.monotonic() - begun
