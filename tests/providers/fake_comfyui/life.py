"""One life of the fake: what a real server holds in memory and loses when it dies. Queue, worker, cache, history."""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.providers.fake_comfyui.nodes import HOME, NODE_TYPES, Disk, NodeError, Ui

# As the real one's.
MOST_HISTORY = 10_001
# Enough to show the trap; the real one keeps what the last prompts used.
MOST_CACHED = 256

# (number, prompt_id, graph, extra_data, output node ids), as in `/queue` and `/history`.
Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str]]


@dataclass(slots=True)
class Record:
    """A finished prompt."""

    item: Item
    outputs: dict[str, Ui]
    messages: list[list[Any]]

    @property
    def is_success(self) -> bool:
        return bool(self.messages[-1][0] == "execution_success")

    def entry(self) -> dict[str, Any]:
        """As in `/history`."""
        return {
            "prompt": list(self.item),
            "outputs": self.outputs,
            "status": {
                "status_str": "success" if self.is_success else "error",
                "completed": self.is_success,
                "messages": self.messages,
            },
            "meta": {
                node_id: {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
                for node_id in self.outputs
            },
        }


class _Interrupted(Exception):
    """Somebody asked the running prompt to stop."""


class _Over(Exception):
    """The server died under the running prompt."""


class Controls:
    """How the worker is told to behave. Outlives a life."""

    def __init__(self, *, seconds_per_prompt: float) -> None:
        self.seconds_per_prompt = seconds_per_prompt
        self.held_node: str | None = None
        self.is_held = False
        self.crash_at_node: str | None = None
        # Class name -> what it raises.
        self.failing: dict[str, tuple[str, str]] = {}
        # Each of these answers 200 and does nothing, as some do right after a submit.
        self.interrupts_to_lose = 0
        self.executed: Counter[str] = Counter()


class Life:
    """Prompts are worked off one at a time by a thread that starts with the life."""

    def __init__(self, *, controls: Controls, disk: Disk, version: Callable[[str], str], on_crash: Callable[[], None]):
        self._controls = controls
        self._disk = disk
        self._version = version
        self._on_crash = on_crash
        self.changed = threading.Condition()
        self._over = threading.Event()
        self.is_zombie = False
        self.heap: list[Item] = []
        self.pending: dict[str, list[Item]] = {}
        self.running: Item | None = None
        self.history: OrderedDict[str, Record] = OrderedDict()
        self._next_number = 0
        self._interrupt = False
        # Signature of a node and all it needs -> what it made.
        self.cache: OrderedDict[str, tuple[tuple[Any, ...], Ui | None]] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="fake-comfyui-worker", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Die in the middle of whatever runs."""
        self._over.set()
        with self.changed:
            self.changed.notify_all()

    def join(self) -> None:
        self._thread.join()

    # --- The queue ---------------------------------------------------------------------------------------------

    def take_number(self, *, front: bool) -> int:
        number = self._next_number
        self._next_number += 1
        return -number if front else number

    def put(self, item: Item) -> None:
        """Queue a prompt. Raises TypeError, having queued it, for a second one with the same number and id."""
        with self.changed:
            self.pending.setdefault(item[1], []).append(item)
            heapq.heappush(self.heap, item)
            self.changed.notify_all()

    def delete(self, prompt_ids: list[Any]) -> None:
        """Take prompts out of the queue, one queued copy for each time that an id is named. They leave no trace."""
        wanted = Counter(prompt_ids)
        with self.changed:
            kept = []
            for item in self.heap:
                if wanted[item[1]] > 0:
                    wanted[item[1]] -= 1
                    self._drop_pending(item)
                else:
                    kept.append(item)
            heapq.heapify(kept)
            self.heap[:] = kept

    def interrupt(self, prompt_id: str | None) -> None:
        """Flag the running prompt if it is this one; None is whatever runs."""
        with self.changed:
            if self.running is None or prompt_id not in (None, self.running[1]):
                return
            if self._controls.interrupts_to_lose:
                self._controls.interrupts_to_lose -= 1
            else:
                self._interrupt = True

    @property
    def remaining(self) -> int:
        return len(self.heap) + (self.running is not None)

    def _drop_pending(self, item: Item) -> None:
        copies = self.pending[item[1]]
        copies.remove(item)
        if not copies:
            del self.pending[item[1]]

    # --- The worker --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self._over.is_set() and (not self.heap or self.is_zombie):
                    self.changed.wait()
                if self._over.is_set():
                    return
                try:
                    item = heapq.heappop(self.heap)
                except TypeError:  # equal numbers and ids: Python compares the graphs, and the thread dies of it
                    self.is_zombie = True
                    return
                self._drop_pending(item)
                self.running = item
                self._interrupt = False
                self.changed.notify_all()
            try:
                record = self._run(item)
            except _Over:
                return
            with self.changed:
                self.running = None
                self.history.pop(item[1], None)
                self.history[item[1]] = record
                if len(self.history) > MOST_HISTORY:
                    self.history.popitem(last=False)
                self.changed.notify_all()

    def _run(self, item: Item) -> Record:
        _, prompt_id, graph, _, targets = item
        self._controls.executed[prompt_id] += 1
        messages: list[list[Any]] = []

        def tell(event: str, **details: Any) -> None:
            messages.append([event, {"prompt_id": prompt_id, **details, "timestamp": int(time.time() * 1000)}])

        tell("execution_start")
        order = _in_order(graph, targets)
        signatures: dict[str, str] = {}
        for node_id in order:
            signatures[node_id] = self._signature(graph[node_id], signatures)
        cached = [node_id for node_id in order if signatures[node_id] in self.cache]
        tell("execution_cached", nodes=cached)
        results: dict[str, tuple[Any, ...]] = {}
        outputs: dict[str, Ui] = {}
        seconds = self._controls.seconds_per_prompt / max(1, len(order) - len(cached))
        for node_id in order:
            signature = signatures[node_id]
            try:
                if signature not in self.cache:
                    self._pause_at(node_id, seconds)
                    self.cache[signature] = self._run_node(graph[node_id], results)
                    if len(self.cache) > MOST_CACHED:
                        self.cache.popitem(last=False)
            except _Interrupted:
                place = {"node_id": node_id, "node_type": graph[node_id]["class_type"], "executed": list(results)}
                tell("execution_interrupted", **place)
                return Record(item, outputs, messages)
            except NodeError as error:
                tell("execution_error", **_failure(graph, node_id, results, error))
                return Record(item, outputs, messages)
            self.cache.move_to_end(signature)
            results[node_id], ui = self.cache[signature]
            if ui is not None:
                outputs[node_id] = ui
        tell("execution_success")
        return Record(item, outputs, messages)

    def _pause_at(self, node_id: str, seconds: float) -> None:
        """The node's time. An interrupt is seen before it, not within: that of the last node is seen by nobody."""
        if self._controls.crash_at_node == node_id:
            self._controls.crash_at_node = None
            self._on_crash()
        with self.changed:
            if self._interrupt:
                raise _Interrupted
            while not self._over.is_set() and (self.is_zombie or self._is_held_at(node_id)):
                self.changed.wait()
        # No wait at all without seconds: ten thousand of them would take a second.
        if self._over.is_set() or (seconds and self._over.wait(seconds)):
            raise _Over

    def _is_held_at(self, node_id: str) -> bool:
        return self._controls.is_held and self._controls.held_node in (None, node_id)

    def _run_node(self, node: dict[str, Any], results: dict[str, tuple[Any, ...]]) -> tuple[tuple[Any, ...], Ui | None]:
        if failure := self._controls.failing.get(node["class_type"]):
            raise NodeError(*failure)
        values = {
            name: results[value[0]][value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        return NODE_TYPES[node["class_type"]].run(self._disk, values)

    def _signature(self, node: dict[str, Any], known: dict[str, str]) -> str:
        """The node with everything it needs, as text. Links are by content, so that node ids do not matter."""
        inputs: dict[str, Any] = {
            name: [known[value[0]], value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        version = self._version(inputs["image"]) if node["class_type"] == "LoadImage" else ""
        return json.dumps([node["class_type"], inputs, version], sort_keys=True)


def _in_order(graph: dict[str, Any], targets: list[str]) -> list[str]:
    """The nodes that the targets need, each after those it needs itself."""
    order: dict[str, None] = {}

    def visit(node_id: str) -> None:
        if node_id not in order:
            for value in graph[node_id]["inputs"].values():
                if isinstance(value, list):
                    visit(str(value[0]))
            order[node_id] = None

    for target in targets:
        visit(target)
    return list(order)


def _failure(graph: dict[str, Any], node_id: str, results: dict[str, Any], error: NodeError) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "node_type": graph[node_id]["class_type"],
        "executed": list(results),
        "exception_message": str(error),
        "exception_type": error.exception_type,
        "traceback": [f'  File "{HOME}/execution.py", line {line}, in execute\n' for line in (496, 315, 289)],
        "current_inputs": {
            name: ["tensor([[[[0., 0., 0.]]]])" if isinstance(value, list) else value]
            for name, value in graph[node_id]["inputs"].items()
        },
        "current_outputs": list(graph),
    }
