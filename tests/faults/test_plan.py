"""The plan of a drill follows from its seed."""

from __future__ import annotations

from itertools import pairwise

from tests.faults.plan import CALM, KINDS, LATE, MOODS, SPARED, SPARED_SECONDS, make_plan


def test_one_seed_is_one_plan_and_another_seed_another() -> None:
    assert make_plan(seed=1, seconds=300) == make_plan(seed=1, seconds=300)
    assert make_plan(seed=1, seconds=300) != make_plan(seed=2, seconds=300)


def test_a_long_plan_breaks_everything_that_can_be_broken_in_every_way() -> None:
    plan = make_plan(seed=1, seconds=600)
    assert {(fault.kind, fault.target) for fault in plan} == {
        (kind, target) for kind, (targets, _) in KINDS.items() for target in targets
    }
    assert {(fault.kind, fault.mood) for fault in plan if fault.mood} == {
        (kind, mood) for kind, moods in MOODS.items() for mood in moods
    }


def test_faults_come_in_order_after_a_calm_and_never_two_at_once_to_one_target() -> None:
    plan = make_plan(seed=3, seconds=600)
    assert plan[0].at >= CALM
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    for target in {fault.target for fault in plan}:
        mine = [fault for fault in plan if fault.target == target]
        assert all(later.at > earlier.at + earlier.seconds for earlier, later in pairwise(mine))


def test_a_plan_begins_with_a_late_worker_and_spares_what_that_one_needs() -> None:
    for seed in range(100):
        first, *others = make_plan(seed=seed, seconds=60)
        assert first.kind == LATE
        assert not [each for each in others if each.at < first.at + SPARED_SECONDS - 0.1 and each.target in SPARED]
