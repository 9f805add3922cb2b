"""The load: clients that send batches and runs, and repeat a request under its key until it is answered."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.functions import REFUSED

# A client lets so many of its batches be open, then it only looks after them; one that sends slow runs, so many.
MOST_OPEN, MOST_SLOW = 4, 2
# Seconds that an answer may take, and that a request is repeated for once the faults are over.
TIMEOUT, LONGEST_REPEATING = 5.0, 90.0
SIZES = {1: 2, 8: 4, 30: 2, 100: 1}  # at most: weight


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that was answered 201, and so has to be done."""

    subject: str  # "batch" or "run"
    id: str
    key: str
    organization: str
    inputs: tuple[str, ...]
    wants_callback: bool
    is_local: bool


@dataclass(slots=True)
class Ledger:
    """What the clients know. Everything is added under the lock."""

    accepted: list[Accepted] = field(default_factory=list)
    given_up: list[tuple[str, str]] = field(default_factory=list)  # organization, key: not known whether it was done
    cancelled: set[str] = field(default_factory=set)  # batches and runs that somebody asked to cancel
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def complain(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)


@dataclass(frozen=True, slots=True)
class Customer:
    """An organization, its key, and where its callbacks go."""

    organization: str
    key: str
    callback_url: str


class _GivenUp(Exception):
    """The client does not wait for this answer any longer."""


class Client(threading.Thread):
    """One of them. Behaves by its own random numbers; ends when `is_over` is set and its last request is answered."""

    def __init__(
        self,
        number: int,
        *,
        seed: int,
        base_url: str,
        customer: Customer,
        models: dict[str, str],
        ledger: Ledger,
        is_over: threading.Event,
        is_slow: bool = False,
    ) -> None:
        """`models` are the paths of the local, the slow, and the one at servers. `is_slow`: it sends slow runs only."""
        super().__init__(name=f"client-{number}", daemon=True)
        self._rng = random.Random(f"{seed}-{number}")
        self._customer = customer
        self._models = models
        self._ledger = ledger
        self._is_over = is_over
        self._is_slow = is_slow
        self._numbers = itertools.count(number * 100_000)
        self._keys = (f"drill-{seed}-{number}-{n}" for n in itertools.count())
        self._base_url = base_url
        self._open: list[str] = []
        self._ended: dict[str, dict[str, Any]] = {}
        self._answered: list[tuple[str, dict[str, Any], str, bytes]] = []

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._customer.key}"}
        actions: dict[Callable[[], None], int] = {
            self._create: 10,
            self._create_with_a_twin: 2,
            self._create_run: 2,
            self._look: 5,
            self._repeat: 2,
            self._cancel: 1,
            self._replay: 2,
        }
        if self._is_slow:
            actions = {self._create: 1}
        most_open = MOST_SLOW if self._is_slow else MOST_OPEN
        with httpx.Client(base_url=self._base_url, headers=headers, timeout=TIMEOUT, trust_env=False) as self._http:
            while not self._is_over.is_set():
                action = self._rng.choices(list(actions), list(actions.values()))[0]
                if len(self._open) >= most_open:
                    action = self._look
                try:
                    action()
                except _GivenUp:
                    pass
                except Exception as fault:  # noqa: BLE001  # told, and so seen: the drill fails
                    self._ledger.complain(f"{self.name}: {type(fault).__name__}: {fault}")
                self._is_over.wait(self._rng.uniform(0.05, 0.4))

    # --- What it does ---

    def _create(self) -> None:
        path, body, is_local = self._batch()
        key = next(self._keys)
        answer = self._post(path, body, key, may_give_up=True)
        self._accept("batch", path, body, key, answer, is_local)

    def _create_with_a_twin(self) -> None:
        """The same request twice at once: an impatient client, or one behind a proxy that repeats."""
        path, body, is_local = self._batch()
        key = next(self._keys)
        answers: list[httpx.Response] = []
        twin = threading.Thread(target=lambda: answers.append(self._post(path, body, key)), daemon=True)
        twin.start()
        answers.append(self._post(path, body, key))
        twin.join(LONGEST_REPEATING)
        if len({answer.content for answer in answers}) != 1 or len(answers) != 2:
            self._ledger.complain(f"key {key}: twins were answered differently: {[a.text[:200] for a in answers]}")
        self._accept("batch", path, body, key, answers[0], is_local)

    def _create_run(self) -> None:
        path, body, is_local = self._batch()
        path, item = path.replace("/batches", "/runs"), body["input"][0]
        client_ref = item.pop("client_ref")  # of a run it stands beside the input
        body = {**body, "input": item, "client_ref": client_ref}
        key = next(self._keys)
        answer = self._post(path, body, key, may_give_up=True)
        self._accept("run", path, body, key, answer, is_local)

    def _look(self) -> None:
        """At one of its batches, open or ended: what has ended stays as it is."""
        known = self._open + list(self._ended)
        if not known:
            return
        batch_id = self._rng.choice(self._open or known)
        body = self._get(f"/v1/batches/{batch_id}")
        if body is None:
            return
        told = [body[name] for name in ("items_succeeded", "items_failed", "items_cancelled")]
        is_terminal = body["completed_at"] is not None
        if sum(told) > body["items_total"] or is_terminal != (sum(told) == body["items_total"]):
            self._ledger.complain(f"batch {batch_id}: {body['status_code']} with {told} of {body['items_total']}")
        if not is_terminal:
            return
        shown = {name: body[name] for name in ("status_code", "cost", "started_at", "completed_at")} | {"told": told}
        shown["items"] = [item["status_code"] for item in body["items"]]
        if self._ended.setdefault(batch_id, shown) != shown:
            self._ledger.complain(f"batch {batch_id} changed after its end: {self._ended[batch_id]} -> {shown}")
        if batch_id in self._open:
            self._open.remove(batch_id)

    def _repeat(self) -> None:
        """A request that was answered already gets the same answer again."""
        if not self._answered:
            return
        path, body, key, content = self._rng.choice(self._answered)
        answer = self._post(path, body, key)
        self._ledger.count("repeated after the answer")
        if answer.content != content or answer.headers.get("Idempotent-Replayed") != "true":
            self._ledger.complain(f"key {key}: another answer the second time: {answer.text[:200]}")

    def _cancel(self) -> None:
        if not self._open:
            return
        batch_id = self._rng.choice(self._open)
        with self._ledger.lock:  # before it is sent: it may be done although no answer comes
            self._ledger.cancelled.add(batch_id)
        self._post(f"/v1/batches/{batch_id}/cancellation", {"reason": "drill"}, next(self._keys), expected=(200, 201))
        self._ledger.count("cancellations")

    def _replay(self) -> None:
        if not self._ended:
            return
        batch_id = self._rng.choice(list(self._ended))
        with self._ledger.lock:
            old = next(each for each in self._ledger.accepted if each.id == batch_id)
        path, body, key = f"/v1/batches/{batch_id}/replays", {"only": "all"}, next(self._keys)
        answer = self._post(path, body, key)
        self._ledger.count("replays")
        self._add("batch", path, body, key, answer, old.inputs, old.wants_callback, old.is_local)

    # --- Sending ---

    def _batch(self) -> tuple[str, dict[str, Any], bool]:
        kind = "slow" if self._is_slow else self._rng.choices(["local", "servers"], [10, 7])[0]
        is_local = kind != "servers"
        most = self._rng.choices(list(SIZES), list(SIZES.values()))[0]
        numbers = [next(self._numbers) for _ in range(self._rng.randint(1 + most // 2, most))]
        if self._is_slow:
            del numbers[1:]
        items: list[dict[str, Any]]
        if is_local:
            prefix = self._rng.choices(["", REFUSED], [9, 1])[0]
            items = [{"text": f"{prefix if n % 3 else ''}{n}", "client_ref": str(n)} for n in numbers]
        else:
            items = [{"color": n, "client_ref": str(n)} for n in numbers]
        body: dict[str, Any] = {"input": items, "metadata": {"client": self.name}}
        if self._rng.random() < 0.7:
            body["callback_url"] = self._customer.callback_url
        return f"/v1/models/{self._models[kind]}/batches", body, is_local

    def _accept(
        self, subject: str, path: str, body: dict[str, Any], key: str, answer: httpx.Response, is_local: bool
    ) -> None:
        given = body["input"] if subject == "batch" else [body["input"]]
        inputs = tuple(str(item.get("text", item.get("color"))) for item in given)
        self._add(subject, path, body, key, answer, inputs, "callback_url" in body, is_local)

    def _add(
        self,
        subject: str,
        path: str,
        body: dict[str, Any],
        key: str,
        answer: httpx.Response,
        inputs: tuple[str, ...],
        wants_callback: bool,
        is_local: bool,
    ) -> None:
        id = str(answer.json()["id"])
        organization = self._customer.organization
        with self._ledger.lock:
            self._ledger.accepted.append(Accepted(subject, id, key, organization, inputs, wants_callback, is_local))
        if subject == "batch":
            self._open.append(id)
        self._answered.append((path, body, key, answer.content))

    def _post(
        self,
        path: str,
        body: dict[str, Any],
        key: str,
        *,
        expected: tuple[int, ...] = (201,),
        may_give_up: bool = False,
    ) -> httpx.Response:
        """Send it until it is answered as expected. Raises _GivenUp."""
        begun = time.monotonic()
        for number in itertools.count(1):
            self._ledger.count("requests")
            try:
                answer = self._http.post(path, json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError as fault:
                self._ledger.count(f"no answer ({type(fault).__name__})")
            else:
                if answer.status_code in expected:
                    return answer
                self._note_refusal("POST", path, answer)
            if may_give_up and number >= 2 and self._rng.random() < 0.05:
                with self._ledger.lock:
                    self._ledger.given_up.append((self._customer.organization, key))
                raise _GivenUp
            if time.monotonic() - begun > LONGEST_REPEATING:
                raise TimeoutError(f"no answer to POST {path} with key {key} for {LONGEST_REPEATING:.0f} s")
            # A well-behaved client; but a drill has no time for the 5 s that a 503 asks for.
            time.sleep(self._rng.uniform(0.1, 0.6))
        raise AssertionError

    def _get(self, path: str) -> dict[str, Any] | None:
        """None: no answer, or 503."""
        self._ledger.count("requests")
        try:
            answer = self._http.get(path)
        except httpx.TransportError as fault:
            self._ledger.count(f"no answer ({type(fault).__name__})")
            return None
        if answer.status_code != 200:
            self._note_refusal("GET", path, answer)
            return None
        return dict(answer.json())

    def _note_refusal(self, method: str, path: str, answer: httpx.Response) -> None:
        """503 and 409 "in flight" ask for another try, with the words of the contract; anything else is a fault of ours."""
        self._ledger.count(f"answered {answer.status_code}")
        try:
            body = answer.json()
        except json.JSONDecodeError:
            body = {}
        in_flight = answer.status_code == 409 and (body.get("errors") or [{}])[0].get("type") == "idempotency_in_flight"
        unavailable = answer.status_code == 503 and body.get("code") == "SERVICE_UNAVAILABLE"
        if not (in_flight or unavailable) or "Retry-After" not in answer.headers:
            self._ledger.complain(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
