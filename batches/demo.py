"""The demo: a client of the public API that shows each thing it does, and stops at the first that is not as promised.

It knows nothing of the server but its address and a key, so that what it shows is what any client gets.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import httpx
from django.conf import settings
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batches.models import BATCH_TERMINAL, RunStatus
from callbacks.receiver import Receiver
from runflow.lib.commands import progress_of

IMAGES = settings.BASE_DIR / "demo" / "images"
TARGET = settings.VAR_DIR / "demo"
SUFFIXES = (".jpg", ".png")

RESIZE = "/v1/models/runflow/smart-resize/batches"
SHEET = "/v1/models/runflow/contact-sheet/batches"
WATERMARK = "/v1/models/runflow/watermark/batches"
WANTED = {"aspect_ratio": "4:5", "resolution": "1K"}
# Four faults, of which a server that stops at the first would tell one.
BAD_ITEM = {"client_ref": "bad", "image_url": "bag.png", "resolution": "8K", "colour": "red"}

SECRETS = "/v1/callback-secrets"
LABEL = "demo"
JSON = {"Content-Type": "application/json"}

DEADLINE = 120.0  # seconds, for one batch
CALLBACK_DEADLINE = 30.0  # seconds after everything else: it has usually come long before
POLL_INTERVAL = 0.1
ANSWER_TIMEOUT = 30.0  # seconds, for one request


class DemoError(Exception):
    """The server is not there, or did not do as promised. `str()` says what and what to do, for a person."""


class Demo:
    """One pass, in the order of its steps. Everything it learns on the way is kept for `show_how_to_go_on`."""

    def __init__(self, *, console: Console, base_url: str, key: str, key_shown: str) -> None:
        self.console = console
        self.base_url = base_url.rstrip("/")
        self.key, self.key_shown = key, key_shown
        # Without the environment: a proxy set there would be asked for 127.0.0.1.
        self.http = httpx.Client(timeout=ANSWER_TIMEOUT, trust_env=False)
        self.batch_id = ""
        self.sheet_url = ""

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def run(self) -> None:
        """Do all of it. Raises DemoError at the first thing that is not as promised."""
        started = time.monotonic()
        images = sorted(path for path in IMAGES.glob("*") if path.suffix in SUFFIXES)
        if not images:
            raise DemoError(f"There are no pictures in {_shown(IMAGES)}.")
        self.console.print(
            f"\n[bold]Runflow demo[/]: {len(images)} product pictures become 4:5 tiles, in one batch, over HTTP."
        )
        self._say(
            f"[dim]Server {escape(self.base_url)}, organization demo, API key {self.key_shown} (good for a day)[/]"
        )

        self._step("A secret to sign callbacks with, and a receiver that checks them")
        with self._receiver() as receiver:
            self._run(images, receiver)
            took = time.monotonic() - started
            callback = self._callback_line(receiver)
        self.console.print(f"\n[green]Everything as promised[/], in {took:.1f} s.")
        self.console.print(callback, soft_wrap=True)

    def _run(self, images: Sequence[Path], receiver: Receiver) -> None:
        self._step(f"{len(images)} pictures to 4:5, in one request")
        items = [{"client_ref": path.name, "image_url": _data_uri(path), **WANTED} for path in images]
        body = json.dumps({"input": items, "callback_url": receiver.url})
        idempotency_key = f"demo-{uuid4()}"
        first = self._post(RESIZE, body, idempotency_key)
        batch = self._wait(self._created(first))
        self.batch_id = batch["id"]

        self._step("The same request again, as after a lost answer")
        self._check_replay(first, self._post(RESIZE, body, idempotency_key))

        self._step("A request with a bad item")
        self._check_refusal(self._post(RESIZE, json.dumps({"input": [BAD_ITEM]})))

        self._step("What became of the pictures")
        done = self._items(self.batch_id)
        self._show_items(batch, done)
        _check_items(done)
        self._say(f"[dim]{batch['duration_ms'] / 1000:.1f} s from the first one's start to the last one's end[/]")

        self._step("The outputs as inputs: a contact sheet")
        outputs = [item["output"]["outputs"][0] for item in done]
        sheet = self._make_sheet(outputs, captions=[path.stem for path in images])
        self._save(outputs, sheet, images)

    def show_how_to_go_on(self) -> None:
        """Commands for another terminal, to be copied as they stand: with the key itself."""
        asset_id = httpx.URL(self.sheet_url).path.rsplit("/", 1)[-1]
        body = json.dumps({"input": [{"image_url": f"runflow://assets/{asset_id}", "text": "Hello"}]})
        curl = f"curl -s -H 'Authorization: Bearer {self.key}'"
        lines = (
            "",
            "Go on by hand, in another terminal. Read the batch:",
            "",
            f"  {curl} \\",
            f"    '{self.base_url}/v1/batches/{self.batch_id}' | python3 -m json.tool",
            "",
            "Write on the contact sheet, in a new batch:",
            "",
            f"  {curl} \\",
            f"    -H 'Content-Type: application/json' -d '{body}' \\",
            f"    '{self.base_url}{WATERMARK}' | python3 -m json.tool",
            "",
            f"See it in the admin, {self.base_url}/admin/, with an account from:",
            "",
            "  .venv/bin/python manage.py createsuperuser",
        )
        for line in lines:
            self.console.print(line, markup=False, soft_wrap=True)

    # --- Steps ---

    @contextmanager
    def _receiver(self) -> Iterator[Receiver]:
        """A receiver on this machine with a secret made for it, which is deleted afterwards."""
        for left in self._body(self._call("GET", f"{SECRETS}?limit=500"), 200)["items"]:
            if left["label"] == LABEL and left["disabled_at"] is None:  # of a demo that was interrupted
                self._delete_secret(left["id"])
        secret = self._body(self._post(SECRETS, json.dumps({"label": LABEL})), 201)
        self._say(f"201, {escape(secret['key_prefix'])}… (shown once, kept encrypted)")
        # Without this one the organisation's other secrets would make Runflow-Signature.
        self._body(self._call("PATCH", f"{SECRETS}/{secret['id']}", content=b'{"is_current": true}', headers=JSON), 200)
        try:
            with Receiver(secret=secret["plain_secret"]) as receiver:
                self._say(f"Receiver {receiver.url}")
                yield receiver
        finally:
            self._delete_secret(secret["id"])

    def _delete_secret(self, secret_id: str) -> None:
        response = self._call("DELETE", f"{SECRETS}/{secret_id}")
        if response.status_code != 204:
            self._body(response, 204)  # says what came instead

    def _callback_line(self, receiver: Receiver) -> str:
        """Wait for the batch's callback, and say in one line what came. Raises DemoError unless it is one and is genuine."""
        deadline = time.monotonic() + CALLBACK_DEADLINE
        while not receiver.received:
            if time.monotonic() > deadline:
                raise DemoError(
                    f"No callback came within {CALLBACK_DEADLINE:g} s. Does a worker take the queue `callbacks`? "
                    f"What became of it: GET /v1/batches/{self.batch_id}/callback"
                )
            time.sleep(POLL_INTERVAL)
        received = receiver.received[0]
        body = json.loads(received.body)
        if not received.is_genuine or len(receiver.received) != 1 or body["batch_id"] != self.batch_id:
            raise DemoError(f"{len(receiver.received)} callbacks came, not one that is genuine: {received}")
        late = received.received_at - datetime.fromisoformat(body["completed_at"]).timestamp()
        signature = escape(received.headers["webhook-signature"])
        return (
            f"Callback {escape(body['event'])} received {max(late, 0) * 1000:.0f} ms after the end, "
            f"signature verified: {signature}"
        )

    def _created(self, response: httpx.Response) -> dict[str, Any]:
        batch = self._body(response, 201)
        self._say(f"201 in {_milliseconds(response)}, batch {batch['id']}, {batch['status_code']}")
        return batch

    def _wait(self, created: dict[str, Any]) -> dict[str, Any]:
        """Poll a batch until it is terminal."""
        path, total = f"/v1/batches/{created['id']}", created["items_total"]
        deadline = time.monotonic() + DEADLINE
        with progress_of(self.console, total) as show:
            while True:
                batch = self._body(self._call("GET", path), 200)
                done = batch["items_succeeded"] + batch["items_failed"] + batch["items_cancelled"]
                show(done, batch["status_code"])
                if batch["status_code"] in BATCH_TERMINAL:
                    return batch
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"Batch {batch['id']} is still {batch['status_code']} after {DEADLINE:g} s, {done} of {total} "
                        "items done. Is a worker running? celery -A runflow worker -Q dispatch,drive,callbacks,maintenance"
                    )
                time.sleep(POLL_INTERVAL)

    def _check_replay(self, first: httpx.Response, again: httpx.Response) -> None:
        batch = self._body(again, 201)
        replayed = again.headers.get("Idempotent-Replayed")
        self._say(
            f"201 in {_milliseconds(again)}, batch {batch['id']}",
            f"Idempotent-Replayed: {escape(str(replayed))}",
        )
        if replayed != "true" or again.content != first.content:
            raise DemoError("The second request was not answered with the first one's answer.")
        self._say("[dim]The same Idempotency-Key and body: the first answer, byte for byte, and no second batch.[/]")

    def _check_refusal(self, response: httpx.Response) -> None:
        body = self._body(response, 422)
        faults = body["errors"] or []
        self._say(f"422 {escape(body['code'])}: {len(faults)} faults, all in one answer")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for _ in range(4):
            table.add_column(overflow="fold")
        for fault in faults:
            where = ".".join(str(part) for part in fault["loc"])
            table.add_row("  ", escape(where), f"[yellow]{escape(fault['type'])}[/]", escape(fault["msg"]))
        self.console.print(table)
        if body["code"] != "VALIDATION_ERROR" or len(faults) < 2:
            raise DemoError("The bad item was not refused with all of its faults.")

    def _items(self, batch_id: str) -> list[dict[str, Any]]:
        # The most a batch can have, so there is one page.
        items: list[dict[str, Any]] = self._body(self._call("GET", f"/v1/batches/{batch_id}/items?limit=100"), 200)[
            "items"
        ]
        return items

    def _show_items(self, batch: dict[str, Any], items: Sequence[dict[str, Any]]) -> None:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_footer=True, footer_style="bold")
        table.add_column("#", justify="right")
        table.add_column("client_ref", "total")
        table.add_column("status", f"{batch['items_succeeded']} of {batch['items_total']}")
        table.add_column("size")
        table.add_column("cost", f"${batch['cost'] or '0.00'}", justify="right")
        table.add_column("ms of work", justify="right")
        for item in items:
            output = item["output"] or {}
            picture = (output.get("outputs") or [{}])[0]
            work = (output.get("timing") or {}).get("execute")
            colour = "green" if item["status_code"] == RunStatus.SUCCEEDED else "red"
            table.add_row(
                str(item["sequence_index"]),
                escape(str(item["client_ref"])),
                f"[{colour}]{escape(item['status_code'])}[/]",
                f"{picture.get('width', '-')} x {picture.get('height', '-')}",
                f"${item['cost'] or '0.00'}",
                "-" if work is None else f"{work * 1000:.0f}",
            )
        self.console.print(table)

    def _make_sheet(self, outputs: Sequence[dict[str, Any]], *, captions: Sequence[str]) -> dict[str, Any]:
        item = {"image_urls": [output["url"] for output in outputs], "captions": captions, "columns": 4}
        batch = self._wait(self._created(self._post(SHEET, json.dumps({"input": [item]}))))
        items = self._items(batch["id"])
        _check_items(items)
        sheet: dict[str, Any] = items[0]["output"]["outputs"][0]
        self.sheet_url = sheet["url"]
        return sheet

    def _save(self, outputs: Sequence[dict[str, Any]], sheet: dict[str, Any], images: Sequence[Path]) -> None:
        """Download everything by its signed URL, which needs no key, in place of what an earlier demo left."""
        TARGET.mkdir(parents=True, exist_ok=True)
        for pattern in ("[0-9][0-9]-*-4x5.*", "contact-sheet.*"):
            for earlier in TARGET.glob(pattern):
                earlier.unlink()
        for index, (output, image) in enumerate(zip(outputs, images, strict=True)):
            self._download(output, TARGET / f"{index:02}-{image.stem}-4x5{_extension(output)}")
        sheet_path = TARGET / f"contact-sheet{_extension(sheet)}"
        self._download(sheet, sheet_path)
        self._say(
            f"Downloaded by signed URL: {len(outputs)} pictures, in {_shown(TARGET)}/, and",
            f"[bold]{escape(_shown(sheet_path))}[/] ({sheet['width']} x {sheet['height']})",
        )

    def _download(self, output: dict[str, Any], path: Path) -> None:
        response = self._send("GET", output["url"])
        if response.status_code != 200:
            raise DemoError(f"The file of an output answered {response.status_code}: {output['url']}")
        path.write_bytes(response.content)

    # --- HTTP ---

    def _post(self, path: str, body: str, idempotency_key: str | None = None) -> httpx.Response:
        self._say(f"[cyan]POST {path}[/]")
        headers = dict(JSON)
        if idempotency_key is not None:
            self._say(f"Idempotency-Key: {idempotency_key}")
            headers["Idempotency-Key"] = idempotency_key
        return self._call("POST", path, content=body, headers=headers)

    def _call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        return self._send(method, self.base_url + path, headers=headers, **more)

    def _send(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            return self.http.request(method, url, **more)
        except httpx.TimeoutException as error:
            raise DemoError(f"{method} {url} did not answer within {ANSWER_TIMEOUT:.0f} s.") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            hint = "`make up` starts a server."
            if not url.startswith(self.base_url):
                hint = "The server signs URLs with its PUBLIC_BASE_URL: that must be an address it answers at."
            raise DemoError(f"{url} cannot be reached ({error}). {hint}") from error

    def _body(self, response: httpx.Response, status: int) -> dict[str, Any]:
        """The JSON of an answer that must have this status."""
        request = f"{response.request.method} {response.request.url.path}"
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise DemoError(
                f"{request} answered {response.status_code} and no JSON object. Is it this server that runs at {self.base_url}?"
            )
        if response.status_code == status:
            return body
        code = body.get("code")
        if code == "MODEL_NOT_FOUND":
            raise DemoError(
                f"{request}: this model is not in the server's catalogue. "
                "`manage.py import_models catalogue/shop.yaml --apply` puts it there."
            )
        if code == "UNAUTHORIZED":
            raise DemoError(
                f"{request}: the server does not know the key that was just made. "
                "Does this command use the same DATABASE_URL as the server?"
            )
        faults = "".join(f"\n  {fault['loc']}: {fault['msg']}" for fault in body.get("errors") or [])
        found = response.headers.get("X-Request-Id", "-")
        raise DemoError(
            f"{request} answered {response.status_code} {code} instead of {status}: {body.get('message')}{faults}\n"
            f"Request id {found}, to be found in the log of the server."
        )

    # --- Words ---

    def _step(self, title: str) -> None:
        self.console.print(f"\n[bold]{title}[/]")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(f"  {line}", soft_wrap=True)


def _check_items(items: Sequence[dict[str, Any]]) -> None:
    failed = [item for item in items if item["status_code"] != RunStatus.SUCCEEDED]
    if failed:
        reasons = "".join(
            f"\n  {item['client_ref'] or item['sequence_index']}: {item['status_code']}"
            + (f", {item['error']['code']}: {item['error']['message']}" if item["error"] else "")
            for item in failed
        )
        raise DemoError(f"{len(failed)} of {len(items)} items did not succeed:{reasons}")


def _data_uri(path: Path) -> str:
    mime_type, _ = mimetypes.guess_type(path.name)
    return f"data:{mime_type};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _extension(output: dict[str, Any]) -> str:
    return mimetypes.guess_extension(output["mime_type"]) or ".bin"


def _milliseconds(response: httpx.Response) -> str:
    return f"{response.elapsed.total_seconds() * 1000:.0f} ms"


def _shown(path: Path) -> str:
    """A path as short as it can be typed where we are."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
