"""The fake server: routes, faults, and counts of what it saw."""

from __future__ import annotations

import json
import mimetypes
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from tests.providers.fake_comfyui import jobs
from tests.providers.fake_comfyui.faults import Fault
from tests.providers.fake_comfyui.files import FOLDERS, Files
from tests.providers.fake_comfyui.http import Effect, HttpServer, Request, Response
from tests.providers.fake_comfyui.life import Controls, Item, Life
from tests.providers.fake_comfyui.nodes import NODE_TYPES, object_info
from tests.providers.fake_comfyui.requests import multipart, route_of
from tests.providers.fake_comfyui.validation import validate

JSON = "application/json; charset=utf-8"
TROUBLE = Response(500, b"500 Internal Server Error\n\nServer got itself in trouble", "text/plain; charset=utf-8")
NOT_FOUND = Response(404, b"404: Not Found", "text/plain; charset=utf-8")
VERSIONS = {"A": "0.3.64", "B": "0.33.0"}


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode(), JSON)


class FakeComfyUI:
    """Starts with `start` or as a context manager; may crash and start again on its port."""

    def __init__(self, *, generation: str = "B", seconds_per_prompt: float = 0.02, port: int = 0) -> None:
        self.generation = generation
        self.files = Files()
        self.controls = Controls(seconds_per_prompt=seconds_per_prompt)
        self.latency = 0.0  # seconds added to every answer
        self.faults: list[Fault] = []
        # What it saw, over all its lives.
        self.requests: Counter[str] = Counter()  # "GET /history/{id}"
        self.submits: Counter[str] = Counter()  # prompt_id, whatever came of it
        self.received: deque[dict[str, Any]] = deque(maxlen=100)  # the bodies of the newest submits
        self.headers: dict[str, str] = {}  # of the newest request
        self.uploads: Counter[str] = Counter()  # the path that was given back
        self.views: Counter[str] = Counter()
        self.interrupts: list[str | None] = []  # None: without an id, so whatever runs
        self.queue_deletes: list[str] = []
        self.history_deletes: list[str] = []
        self._hooks: dict[str, Callable[[], None]] = {}
        self._life: Life | None = None
        self._http = HttpServer(self._handle, on_crash=self._end_life, port=port)

    # --- What a test does to it --------------------------------------------------------------------------------

    def __enter__(self) -> FakeComfyUI:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.port}"

    @property
    def executed(self) -> Counter[str]:
        """How often each prompt was started."""
        return self.controls.executed

    @property
    def is_up(self) -> bool:
        return self._life is not None

    @property
    def life(self) -> Life:
        assert self._life is not None, "the fake is down"
        return self._life

    @property
    def running_id(self) -> str | None:
        item = self.life.running
        return item[1] if item else None

    def start(self) -> None:
        """Come up: with the files of before except temp, and nothing else."""
        self.files.empty("temp")
        self._life = Life(controls=self.controls, disk=self.files, version=self.files.version, on_crash=self.crash)
        self._http.start()

    def crash(self) -> None:
        """Be gone at once: connections reset, new ones refused, queue and history lost."""
        self._http.stop()
        self._end_life()

    def restart(self) -> None:
        self.crash()
        self.start()

    def close(self) -> None:
        self._http.close()
        life = self._life
        self._end_life()
        if life is not None:
            life.join()

    def hold(self, node_id: str | None = None) -> None:
        """Let no node begin, or none with this id. What is submitted queues up."""
        self.controls.held_node = node_id
        self.controls.is_held = True

    def release(self) -> None:
        self.controls.is_held = False
        with self.life.changed:
            self.life.changed.notify_all()

    def limit_bodies(self, size: int) -> None:
        """Answer 413 to longer bodies. Without this the limit is the real one's, 100 MiB."""
        self._http.max_body_bytes = size

    def become_zombie(self) -> None:
        """Answer everything and run nothing more, until it is started again."""
        self.life.is_zombie = True

    def fail(self, class_type: str, message: str, exception_type: str = "RuntimeError") -> None:
        """Let the nodes of this class raise from now on."""
        self.controls.failing[class_type] = (exception_type, message)

    def inject(
        self,
        route: str,
        *,
        status: int = 200,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        effect: Effect = "answer",
        is_handled: bool = False,
        times: int | None = 1,
    ) -> None:
        """The next `times` requests of a route ("POST /prompt", "* *") meet this instead of their answer.

        With `is_handled` the request does its work first. `times=None` is until `clear_faults`.
        """
        response = Response(status, body, "text/plain", headers or {}, effect)
        self.faults.append(Fault(route, response, is_handled, times))

    def before(self, route: str, work: Callable[[], None]) -> None:
        """Do this when the next request of a route has come, before it is answered. It may wait for the worker."""
        self._hooks[route] = work

    def clear_faults(self) -> None:
        self.faults.clear()

    def _end_life(self) -> None:
        if self._life is not None:
            self._life.end()
            self._life = None

    # --- HTTP --------------------------------------------------------------------------------------------------

    def _handle(self, request: Request) -> Response:
        path = request.path
        if path.startswith("/api/") and not path.startswith("/api/jobs"):
            path = path.removeprefix("/api")
        name, route = route_of(request.method, path)
        self.requests[route] += 1
        if hook := self._hooks.pop(route, None):
            hook()
        self.headers = request.headers
        fault = next((each for each in self.faults if each.takes(route)), None)
        if fault is not None:
            if fault.is_handled:
                self._answer(request, path, name)
            return replace(fault.response, delay=self.latency)
        response = self._answer(request, path, name)
        return replace(response, delay=self.latency) if self.latency else response

    def _answer(self, request: Request, path: str, name: str) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return Response(403)
        handler = getattr(self, f"_{request.method.lower()}_{name}", None)
        if handler is None or (path.startswith("/api/jobs") and self.generation == "A"):
            # Anything may be a static file, which can only be read.
            return NOT_FOUND if request.method == "GET" else Response(405, b"405: Method Not Allowed", "text/plain")
        if request.method == "POST" and name not in ("upload_image", "job_cancel"):
            try:
                body = json.loads(request.body) if request.body or name != "interrupt" else {}
                response: Response = handler(body)
            except (ValueError, TypeError, AttributeError, KeyError):
                return TROUBLE
            return response
        answer: Response = handler(request, path)
        return answer

    # --- Submit ------------------------------------------------------------------------------------------------

    def _post_prompt(self, body: Any) -> Response:
        life = self.life
        number = float(body["number"]) if "number" in body else None
        if "prompt" not in body:
            error = {
                "type": "no_prompt",
                "message": "No prompt provided",
                "details": "No prompt provided",
                "extra_info": {},
            }
            return _json({"error": error, "node_errors": {}}, 400)
        prompt_id = self._prompt_id(body)
        if prompt_id is None:
            error = {
                "type": "invalid_prompt_id",
                "message": "prompt_id must be a valid UUID in canonical form",
                "details": "",
                "extra_info": {},
            }
            return _json({"error": error, "node_errors": {}}, 400)
        self.submits[prompt_id] += 1
        self.received.append(body)
        graph = body["prompt"]
        if not isinstance(graph, dict) or not all(isinstance(node, dict) for node in graph.values()):
            return TROUBLE
        verdict = validate(graph, generation=self.generation, has_input=self.files.has_input)
        if verdict.error is not None:
            return _json({"error": verdict.error, "node_errors": verdict.node_errors}, 400)
        extra = body.get("extra_data", {})
        if extra is None and "client_id" not in body and self.generation == "A":
            life.is_zombie = True
        extra = dict(extra or {})
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        if self.generation == "B":
            extra["create_time"] = int(time.time() * 1000)
        if number is None:
            number = life.take_number(front=bool(body.get("front")))
        life.put((number, prompt_id, graph, extra, verdict.outputs))
        response = _json({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})
        # The event loop dies of an id that cannot be hashed, with the answer already written.
        return replace(response, effect="last words") if isinstance(body.get("client_id"), dict) else response

    def _prompt_id(self, body: dict[str, Any]) -> str | None:
        if self.generation == "A":
            return str(body["prompt_id"]) if "prompt_id" in body else str(uuid.uuid4())
        given = body.get("prompt_id")
        if given is None:
            return str(uuid.uuid4())
        try:
            return given if isinstance(given, str) and str(uuid.UUID(given)) == given else None
        except ValueError:
            return None

    def _post_upload_image(self, request: Request, _path: str) -> Response:
        fields = multipart(request)
        if "image" not in fields:
            return Response(400)
        name, body = fields["image"]
        subfolder = fields.get("subfolder", ("", b""))[1].decode()
        overwrite = fields.get("overwrite", ("", b""))[1] in (b"true", b"1")
        given = self.files.upload(subfolder, name, body, overwrite=overwrite)
        self.uploads[f"{subfolder}/{given}" if subfolder else given] += 1
        return _json({"name": given, "subfolder": subfolder, "type": "input"})

    # --- Looking -----------------------------------------------------------------------------------------------

    def _get_prompt(self, _request: Request, _path: str) -> Response:
        return _json({"exec_info": {"queue_remaining": self.life.remaining}})

    def _get_queue(self, _request: Request, _path: str) -> Response:
        with self.life.changed:
            running, pending = self.life.running, list(self.life.heap)
        return _json({"queue_running": [list(running)] if running else [], "queue_pending": [list(i) for i in pending]})

    def _get_history(self, request: Request, path: str) -> Response:
        with self.life.changed:
            if path == "/history":
                records = list(self.life.history.values())
                start = int(request.query.get("offset", 0))
                limit = int(request.query.get("max_items", len(records)))
                records = records[start : start + limit]
            else:
                record = self.life.history.get(path.rpartition("/")[2])
                records = [record] if record else []
        return _json({record.item[1]: record.entry() for record in records})

    def _get_jobs(self, request: Request, _path: str) -> Response:
        return _json(*jobs.list_jobs(self.life, request.query))

    def _get_job(self, _request: Request, path: str) -> Response:
        job = jobs.find_job(self.life, path.rpartition("/")[2])
        return _json(job) if job else _json({"error": "Job not found"}, 404)

    def _get_view(self, request: Request, _path: str) -> Response:
        filename, subfolder = request.query.get("filename", ""), request.query.get("subfolder", "")
        folder = request.query.get("type", "output")
        if folder not in FOLDERS or ".." in filename or ".." in subfolder.split("/") or filename.startswith("/"):
            return Response(400)
        self.views[f"{subfolder}/{filename}" if subfolder else filename] += 1
        body = self.files.read(folder, subfolder, filename)
        if body is None:
            return Response(404)
        return Response(200, body, mimetypes.guess_type(filename)[0] or "application/octet-stream")

    def _get_system_stats(self, _request: Request, _path: str) -> Response:
        system = {
            "os": "posix",
            "comfyui_version": VERSIONS[self.generation],
            "argv": ["/srv/comfyui/main.py", "--cpu"],
        }
        return _json({"system": system, "devices": [{"name": "cpu", "type": "cpu", "index": None}]})

    def _get_object_info(self, _request: Request, path: str) -> Response:
        names = list(NODE_TYPES) if path == "/object_info" else [path.rpartition("/")[2]]
        return _json({name: object_info(name) for name in names if name in NODE_TYPES})

    # --- Stopping and cleaning ---------------------------------------------------------------------------------

    def _post_queue(self, body: Any) -> Response:
        if body.get("clear"):
            self.life.delete([item[1] for item in self.life.heap])
        if "delete" in body:
            self.queue_deletes += body["delete"]
            self.life.delete(body["delete"])
        return Response(200)

    def _post_interrupt(self, body: Any) -> Response:
        prompt_id = body.get("prompt_id")
        self.interrupts.append(prompt_id)
        self.life.interrupt(prompt_id)
        return Response(200)

    def _post_history(self, body: Any) -> Response:
        with self.life.changed:
            if body.get("clear"):
                self.life.history.clear()
            for prompt_id in body.get("delete", []):
                self.history_deletes.append(prompt_id)
                self.life.history.pop(prompt_id, None)
        return Response(200)

    def _post_job_cancel(self, _request: Request, path: str) -> Response:
        prompt_id = path.split("/")[3]
        with self.life.changed:
            running: Item | None = self.life.running
            if running and running[1] == prompt_id:
                self.interrupts.append(prompt_id)
                self.life.interrupt(prompt_id)
                return _json({"cancelled": True})
            if prompt_id in self.life.pending:
                self.queue_deletes.append(prompt_id)
                self.life.delete([prompt_id])
                return _json({"cancelled": True})
        return _json({"cancelled": False})

    def _post_free(self, body: Any) -> Response:
        if body.get("free_memory"):
            self.life.cache.clear()
        return Response(200)
