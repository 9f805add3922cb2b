"""What is broken, when, and for how long. Everything follows from the seed, so that a drill can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass

# Seconds between two faults, of calm at the beginning, and of things that can be at once.
GAP = (0.5, 2.0)
CALM = 3.0
MOST_AT_ONCE = 4

# Of a kind: the targets, and the range of seconds it lasts. Stops are longer than the leases of 3 s, so that who comes back
# is late; "stop until late" watches for the best moment, and lasts at most so long.
KINDS: dict[str, tuple[tuple[str, ...], tuple[float, float]]] = {
    "kill": (("web", "worker1", "worker2", "io1", "io2", "beat"), (0.3, 3.0)),
    "kill main process": (("web", "worker1", "worker2"), (0.3, 2.0)),
    "kill a child": (("web", "worker1", "worker2"), (0.0, 0.0)),
    "stop": (("worker1", "worker2", "io1", "io2"), (3.5, 6.5)),
    "stop until late": (("worker1", "worker2"), (9.0, 11.0)),
    "stop briefly": (("web", "beat", "valkey", "model1", "model2"), (1.0, 4.0)),
    "flush": (("valkey",), (0.0, 0.0)),
    "flush for a while": (("valkey",), (2.5, 3.5)),
    "restart": (("valkey", "postgres"), (0.0, 2.0)),
    "cut connections": (("postgres",), (0.0, 0.0)),
    "lose jobs": (("model1", "model2"), (0.5, 5.0)),
    "refuse": (("model1", "model2"), (1.0, 4.0)),
    "hang": (("model1", "model2"), (2.0, 5.0)),
    "break": (("model1", "model2"), (1.0, 3.0)),
    "lie": (("model1", "model2"), (1.0, 3.0)),
    "fail": (("receiver",), (1.0, 4.0)),
}
# What a kind may look like, one of them at a time.
MOODS: dict[str, tuple[str, ...]] = {
    "refuse": ("503", "429", "400"),
    "hang": ("hold", "hang", "hang on submit"),
    "break": ("reset", "lost answer", "500 though taken", "forget"),
    "lie": ("garbage", "no files", "unknown jobs", "twice", "wrong id", "empty"),
    "fail": ("500", "302", "hang", "reset", "silent"),
}
# A plan begins with this, and spares for so many seconds what it needs: the late worker is to meet the next attempt.
LATE, SPARED_SECONDS = "stop until late", 8.0
SPARED = ("worker1", "worker2", "beat", "valkey", "postgres")
# What a killed process needs until it works again, in seconds: its next fault does not come before.
_RESTART = 4.0


@dataclass(frozen=True, slots=True)
class Fault:
    """At second `at`, for `seconds`."""

    at: float
    kind: str
    target: str
    mood: str
    seconds: float

    def __str__(self) -> str:
        name = f"{self.kind}: {self.mood}" if self.mood else self.kind
        return f"{self.target} {name}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


def make_plan(*, seed: int, seconds: float) -> list[Fault]:
    """The faults of a drill that lasts so long, in order of time.

    Dealt from a shuffled deck of all kinds with all targets, so that each comes before any comes twice. A fault whose target
    has not got over its last one waits in the deck.
    """
    rng = random.Random(seed)
    at, deck, plan = CALM, _fresh_deck(rng), list[Fault]()
    deck.insert(0, deck.pop(next(n for n, (kind, _) in enumerate(deck) if kind == LATE)))
    busy, spared_until = dict[str, float](), 0.0
    moods: dict[str, list[str]] = {kind: [] for kind in MOODS}
    while True:
        at += rng.uniform(*GAP)
        if at >= seconds:
            return plan
        if len(deck) < 3:
            deck += _fresh_deck(rng)
        if sum(until > at for until in busy.values()) >= MOST_AT_ONCE:
            continue
        spared = SPARED if at < spared_until else ()
        place = next(
            (n for n, (_, target) in enumerate(deck) if busy.get(target, 0.0) <= at and target not in spared), None
        )
        if place is None:
            continue
        kind, target = deck.pop(place)
        mood = ""
        if kind in MOODS:
            if not moods[kind]:
                moods[kind] = rng.sample(MOODS[kind], len(MOODS[kind]))
            mood = moods[kind].pop()
        lasts = round(rng.uniform(*KINDS[kind][1]), 1)
        plan.append(Fault(round(at, 1), kind, target, mood, lasts))
        busy[target] = at + lasts + _RESTART
        if kind == LATE:
            spared_until = at + SPARED_SECONDS


def _fresh_deck(rng: random.Random) -> list[tuple[str, str]]:
    """All kinds with all their targets; first each kind with one target, so that a short drill has seen all kinds too."""
    cards = [
        (turn, rng.random(), kind, target)
        for kind, (targets, _) in KINDS.items()
        for turn, target in enumerate(rng.sample(targets, len(targets)))
    ]
    return [(kind, target) for _, _, kind, target in sorted(cards)]
