"""Doing harm: one generator for each kind of fault. It yields the seconds to wait before it goes on, and ends with all well."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Protocol

import redis

from runflow.stack.session import StackError
from tests.faults.house import IO_WORKERS, START_SECONDS, WORKERS, House
from tests.faults.plan import Fault
from tests.faults.receiver import Callbacks
from tests.faults.recovery import Eyes, Recoveries

Steps = Iterator[float]
# Seconds between two looks whether a process works again.
_LOOK = 0.2
# Seconds that a stop waits for a good moment, and one that needs it; looking so often.
_PATIENCE, _LONG_PATIENCE, _GLANCE = 5.0, 10.0, 0.05
# Whether another attempt at one of these runs is under way, or none will be.
NEXT_RUNS = """
SELECT bool_or(run.attempt > held.attempt AND run.status_code = 'running') OR bool_and(run.completed_at IS NOT NULL)
  FROM batches_run AS run
  JOIN unnest(%s::uuid[], %s::int[]) AS held (id, attempt) ON run.id = held.id
"""
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Drill(Protocol):
    """What faults are done to."""

    house: House
    callbacks: Callbacks
    recoveries: Recoveries
    eyes: Eyes
    redis_url: str
    rng: random.Random


def steps_of(drill: Drill, fault: Fault) -> Steps:
    """The generator of a fault."""
    return STEPS[fault.kind](drill, fault)


def kill(drill: Drill, fault: Fault) -> Steps:
    _watch_held(drill, fault)
    drill.house.kill(fault.target)
    yield from _start_again(drill, fault)


def kill_main(drill: Drill, fault: Fault) -> Steps:
    _watch_held(drill, fault)
    drill.house.kill_main(fault.target)
    yield from _start_again(drill, fault)


def kill_child(drill: Drill, fault: Fault) -> Steps:
    _watch_held(drill, fault)
    drill.house.kill_child(fault.target, drill.rng.randrange(8))
    yield _LOOK


def stop(drill: Drill, fault: Fault) -> Steps:
    begun = time.monotonic()
    # In the middle of what takes long: then somebody else may be at it when this one comes back.
    while fault.target in WORKERS and not drill.house.slow_work(fault.target):
        if time.monotonic() - begun > _PATIENCE:
            break
        yield _GLANCE
    _watch_held(drill, fault)
    drill.house.stop(fault.target)
    yield fault.seconds
    drill.house.go_on(fault.target)
    if fault.target == "beat":
        _watch(drill, "beat", fault)


def stop_until_late(drill: Drill, fault: Fault) -> Steps:
    """It goes on when somebody else is at what it holds: its answer comes while that one works."""
    begun = time.monotonic()
    while not (held := drill.house.slow_work(fault.target)) and time.monotonic() - begun < _LONG_PATIENCE:
        yield _GLANCE
    _watch_held(drill, fault)
    drill.house.stop(fault.target)
    begun = time.monotonic()
    while time.monotonic() - begun < fault.seconds:
        yield _LOOK
        answer = drill.eyes.ask(NEXT_RUNS, [run_id for run_id, _ in held], [attempt for _, attempt in held])
        if answer and answer[0][0]:
            break
    drill.house.go_on(fault.target)


def flush(drill: Drill, fault: Fault) -> Steps:
    until = time.monotonic() + fault.seconds
    with redis.Redis.from_url(drill.redis_url, socket_timeout=2) as client:
        while True:
            client.flushall()
            if time.monotonic() >= until:
                break
            yield 0.02
    _watch(drill, "broker", fault)


def restart(drill: Drill, fault: Fault) -> Steps:
    drill.house.kill_server(fault.target)
    yield fault.seconds
    drill.house.restart_server(fault.target)
    _watch(drill, "database" if fault.target == "postgres" else "broker", fault)
    if fault.target == "postgres":
        _watch_held(drill, fault)


def cut_connections(drill: Drill, fault: Fault) -> Steps:
    _watch_held(drill, fault)
    drill.eyes.ask(CUT)
    _watch(drill, "database", fault)
    yield _LOOK


def lose_jobs(drill: Drill, fault: Fault) -> Steps:
    drill.house.kill(fault.target)
    yield fault.seconds
    drill.house.start(fault.target)
    yield 1.0


def misbehave(drill: Drill, fault: Fault) -> Steps:
    drill.house.tell(fault.target, fault.mood)
    yield fault.seconds
    drill.house.tell(fault.target, "well")


def refuse_callbacks(drill: Drill, fault: Fault) -> Steps:
    drill.callbacks.mood = fault.mood
    yield fault.seconds
    drill.callbacks.mood = "well"
    _watch(drill, "receiver", fault)


STEPS = {
    "kill": kill,
    "kill main process": kill_main,
    "kill a child": kill_child,
    "stop": stop,
    "stop briefly": stop,
    "stop until late": stop_until_late,
    "flush": flush,
    "flush for a while": flush,
    "restart": restart,
    "cut connections": cut_connections,
    "lose jobs": lose_jobs,
    "refuse": misbehave,
    "hang": misbehave,
    "break": misbehave,
    "lie": misbehave,
    "fail": refuse_callbacks,
}


def _watch(drill: Drill, name: str, fault: Fault) -> None:
    drill.recoveries.watch(name, fault=fault.kind, target=fault.target)


def _watch_held(drill: Drill, fault: Fault) -> None:
    """What the target may hold a lease on: who holds one no row tells, so all that is held."""
    names: tuple[str, ...] = ()
    if fault.target in WORKERS:
        names = ("runs",)
    elif fault.target in IO_WORKERS:
        names = ("drivers", "deliveries")
    elif fault.target == "postgres":
        names = ("runs", "drivers", "deliveries")
    for name in names:
        _watch(drill, name, fault)


def _start_again(drill: Drill, fault: Fault) -> Steps:
    yield fault.seconds
    drill.house.start(fault.target)
    begun = time.monotonic()
    while not drill.house.is_ready(fault.target):
        if fault.target in drill.house.dead():
            # Children of a web process that was killed alone may hold its port for seconds.
            drill.house.start(fault.target)
        if time.monotonic() - begun > START_SECONDS:
            raise StackError(f"{fault.target} does not start again{drill.house.children[fault.target].tail()}")
        yield _LOOK
    if fault.target == "beat":
        _watch(drill, "beat", fault)
