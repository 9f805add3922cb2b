"""A fake ComfyUI server that writes down what it does, and misbehaves as lines on its standard input say.

    python -m tests.faults.model_server --port 8188 --generation B --seconds 0.03 --record FILE

A line names a mood; `well` ends it. What it has done stands in FILE, one JSON object a line, whatever becomes of the process.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from tests.faults.functions import append
from tests.providers.fake_comfyui import FakeComfyUI
from tests.providers.fake_comfyui.http import Request, Response
from tests.providers.fake_comfyui.life import Item, Life, Record

_BUSY = json.dumps({"error": {"type": "busy", "message": "no", "details": ""}, "node_errors": {}}).encode()
_UNKNOWN_JOB = json.dumps({"error": "Job not found"}).encode()


class _RecordingLife(Life):
    """Writes down which prompts began and which succeeded."""

    note: Callable[[str, Item], None]

    def _run(self, item: Item) -> Record:
        self.note("begun", item)
        record = super()._run(item)
        if record.is_success:
            self.note("done", item)
        return record


class DrillServer(FakeComfyUI):
    """The fake with moods, and a record that outlives it."""

    def __init__(self, *, record: str, name: str, **options: Any) -> None:
        super().__init__(**options)
        self._record = record
        self._name = name
        self.mood = "well"
        self.moods: dict[str, Callable[[], None]] = {
            "well": lambda: None,
            # takes no work, or says that it cannot ever
            "503": lambda: self.inject("POST /prompt", status=503, times=None),
            "429": lambda: self.inject("POST /prompt", status=429, headers={"Retry-After": "1"}, times=None),
            "400": lambda: self.inject("POST /prompt", status=400, body=_BUSY, times=None),
            # hangs
            "hold": self.hold,
            "hang": lambda: self.inject("* *", effect="hang", times=None),
            "hang on submit": lambda: self.inject("POST /prompt", effect="hang", times=None),
            # connections break: before the work, and after it
            "reset": lambda: self.inject("* *", effect="reset", times=None),
            "lost answer": lambda: self.inject("POST /prompt", effect="reset", is_handled=True, times=None),
            "500 though taken": lambda: self.inject("POST /prompt", status=500, is_handled=True, times=None),
            # lies
            "garbage": lambda: self.inject("* *", body=b"<html>Welcome</html>", times=None),
            "no files": lambda: self.inject("GET /view", status=404, times=None),
            "unknown jobs": self._deny_jobs,
            "twice": lambda: None,
            "wrong id": lambda: None,
            "empty": lambda: None,
            # loses jobs, and goes on
            "forget": self._forget,
        }

    def start(self) -> None:
        self.files.empty("temp")
        life = _RecordingLife(controls=self.controls, disk=self.files, version=self.files.version, on_crash=self.crash)
        life.note = self._note
        self._life = life
        self._http.start()

    def be(self, mood: str) -> None:
        """Change the mood. What a request hangs on hangs until its client gives up."""
        self.clear_faults()
        self.release()
        self.mood = mood
        self.moods[mood]()

    def _note(self, event: str, item: Item) -> None:
        told = item[3].get("runflow", {})
        append(
            self._record,
            event=event,
            server=self._name,
            prompt_id=item[1],
            run_id=told.get("run_id"),
            attempt=told.get("attempt"),
        )

    def _deny_jobs(self) -> None:
        self.inject("GET /api/jobs/{id}", status=404, body=_UNKNOWN_JOB, times=None)
        self.inject("GET /history/{id}", body=b"{}", times=None)
        self.inject("GET /queue", body=b'{"queue_running": [], "queue_pending": []}', times=None)

    def _forget(self) -> None:
        with self.life.changed:
            waiting = [item[1] for item in self.life.heap]
            self.life.history.clear()
        self.life.delete(waiting)

    def _post_prompt(self, body: Any) -> Response:
        response = super()._post_prompt(body)
        if response.status == 200 and self.mood == "twice":
            return super()._post_prompt(body)
        if response.status == 200 and self.mood == "wrong id":
            return replace(response, body=json.dumps({**json.loads(response.body), "prompt_id": str(uuid4())}).encode())
        return response

    def _get_job(self, request: Request, path: str) -> Response:
        return self._emptied(super()._get_job(request, path))

    def _get_history(self, request: Request, path: str) -> Response:
        return self._emptied(super()._get_history(request, path))

    def _emptied(self, response: Response) -> Response:
        if self.mood != "empty":
            return response
        body = json.loads(response.body)
        for entry in [body, *body.values()]:
            if isinstance(entry, dict) and "outputs" in entry:
                entry["outputs"] = {}
        return replace(response, body=json.dumps(body).encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.model_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--generation", choices=["A", "B"], required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--record", required=True)
    options = parser.parse_args()
    server = DrillServer(
        record=options.record,
        name=options.name,
        generation=options.generation,
        seconds_per_prompt=options.seconds,
        port=options.port,
    )
    with server:
        for line in sys.stdin:
            server.be(line.strip())
        threading.Event().wait()  # whoever told it is gone; the keeper will come


if __name__ == "__main__":
    main()
