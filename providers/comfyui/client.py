"""ComfyUI's HTTP, without judgement: what is asked, and what came back."""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import httpx

from providers.base import AdapterConfigError, EndpointDown
from providers.comfyui.config import ComfyConfig
from runflow.lib import jsonlib

# Requests side by side. The server's own HTTP is one thread, so more would only wait there.
CONCURRENCY = 8
# A server on the operator's network answers a connection at once or not at all (seconds).
_CONNECT_SECONDS = 5.0
# For one output as a whole: 256 MiB at 5 MB/s take 54 (seconds).
_DOWNLOAD_SECONDS = 60.0
_CHUNK = 64 * 1024


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms, and connections are made every few seconds. SSL_CERT_FILE names others."""
    return httpx.create_ssl_context()


class TooLarge(Exception):
    """An output is longer than the limit."""


class DownloadFailed(Exception):
    """The server answers, but an output does not come. `str()` of it is written for operators."""


@dataclass(frozen=True, slots=True)
class File:
    """An output's bytes and their Content-Type, which may be empty."""

    body: bytes
    content_type: str


class ComfyClient:
    """One server. Its methods may be called by several threads at once.

    `submit` and `upload` answer with the response and raise httpx.HTTPError: what a failure means depends on whether anything
    was sent. All others raise EndpointDown.
    """

    def __init__(self, base_url: str, config: ComfyConfig) -> None:
        """Opens nothing. Raises AdapterConfigError when the URL cannot be used."""
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as fault:
            raise AdapterConfigError(f"Endpoint {base_url!r}: {fault}.") from fault
        if url.scheme not in ("http", "https") or not url.host:
            raise AdapterConfigError(f"Endpoint {base_url!r} is no http(s) URL.")
        self._base_url = base_url
        self._max_output_bytes = config.max_output_bytes
        self._http = httpx.Client(
            base_url=url,
            headers=config.headers,
            timeout=httpx.Timeout(config.timeout, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY),
            trust_env=False,  # the operator's own addresses: no proxy, no .netrc
            verify=_ssl_context(),
        )

    def close(self) -> None:
        self._http.close()

    def submit(self, request: dict[str, Any]) -> httpx.Response:
        return self._http.post("/prompt", content=jsonlib.dumps(request), headers={"Content-Type": "application/json"})

    def upload(self, name: str, body: bytes, *, subfolder: str) -> httpx.Response:
        return self._http.post("/upload/image", files={"image": (name, body)}, data={"subfolder": subfolder})

    def get_job(self, job_id: str) -> httpx.Response:
        """The jobs view of one prompt, at servers that have it. 404 may mean that there is no such job, or no such view."""
        return self._answer("GET", f"/api/jobs/{_quoted(job_id)}", allow=(200, 404))

    def get_history(self, job_id: str) -> dict[str, Any] | None:
        """A prompt's history entry; None while there is none."""
        history = self._json("GET", f"/history/{_quoted(job_id)}")
        entry = history.get(job_id)
        return entry if isinstance(entry, dict) else None

    def get_queue(self) -> Queue:
        body = self._json("GET", "/queue")
        pending = _ids(body.get("queue_pending"))
        return Queue(
            running=tuple(_ids(body.get("queue_running"))), next_up=tuple(pending[:1]), pending=frozenset(pending)
        )

    def get_remaining(self) -> int:
        """How many prompts the server has to do, the running one among them."""
        info = self._json("GET", "/prompt").get("exec_info")
        remaining = info.get("queue_remaining") if isinstance(info, dict) else None
        if not isinstance(remaining, int):
            raise EndpointDown(f"{self._base_url} answers, but not as ComfyUI does.")
        return remaining

    def cancel_job(self, job_id: str) -> bool:
        """Stop one prompt, pending or running. False: the server has no such call."""
        return self._answer("POST", f"/api/jobs/{_quoted(job_id)}/cancel", allow=(200, 404, 405)).status_code == 200

    def delete_pending(self, job_ids: Sequence[str]) -> None:
        self._answer("POST", "/queue", json={"delete": list(job_ids)})

    def interrupt(self, job_id: str) -> None:
        """Stop this prompt if it runs. Without an id the server would stop whatever runs."""
        self._answer("POST", "/interrupt", json={"prompt_id": job_id})

    def delete_history(self, job_ids: Sequence[str]) -> None:
        self._answer("POST", "/history", json={"delete": list(job_ids)})

    def download(self, item: dict[str, str]) -> File | None:
        """An output; None when the server does not have it (any more).

        Raises TooLarge, DownloadFailed, and EndpointDown when the server does not answer at all.
        """
        until = time.monotonic() + _DOWNLOAD_SECONDS
        try:
            with self._http.stream("GET", "/view", params=item) as response:
                if response.status_code in (400, 404):
                    return None
                if response.status_code != 200:
                    raise DownloadFailed(f"status {response.status_code}")
                body = bytearray()
                for chunk in response.iter_bytes(_CHUNK):
                    body += chunk
                    if len(body) > self._max_output_bytes:
                        raise TooLarge
                    if time.monotonic() > until:
                        raise DownloadFailed("it takes too long")
                return File(bytes(body), response.headers.get("content-type", ""))
        except (httpx.ConnectError, httpx.TimeoutException) as fault:
            raise self._down(fault) from fault
        except httpx.HTTPError as fault:
            raise DownloadFailed(type(fault).__name__) from fault

    def _json(self, method: str, path: str) -> dict[str, Any]:
        response = self._answer(method, path)
        body = json_of(response)
        if not isinstance(body, dict):
            raise EndpointDown(f"{self._base_url} answers {path.partition('/')[2].split('/')[0]}, but not in JSON.")
        return body

    def _answer(self, method: str, path: str, *, allow: Sequence[int] = (200,), json: Any = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=json)
        except httpx.HTTPError as fault:
            raise self._down(fault) from fault
        self._check(response, allow)
        return response

    def _check(self, response: httpx.Response, allow: Sequence[int]) -> None:
        if response.status_code not in allow:
            raise EndpointDown(f"{self._base_url} answers {response.status_code} to {response.request.url.path}.")

    def _down(self, fault: httpx.HTTPError) -> EndpointDown:
        return EndpointDown(f"{self._base_url}: {type(fault).__name__} ({fault}).")


@dataclass(frozen=True, slots=True)
class Queue:
    """The ids of the prompts that run (one, or none), that comes next (one, or none), and of all that wait."""

    running: tuple[str, ...]
    next_up: tuple[str, ...]
    pending: frozenset[str]

    def __contains__(self, job_id: str) -> bool:
        return job_id in self.running or job_id in self.pending


def _ids(items: Any) -> list[str]:
    """Of [[number, id, graph, ...], ...]. The server sends its heap: the first is the next, the others are in no order."""
    return [str(item[1]) for item in items or () if isinstance(item, list) and len(item) > 1]


def json_of(response: httpx.Response) -> Any:
    """The answer's JSON, or None. Python's own reader: the server may write NaN."""
    try:
        return response.json()
    except ValueError:
        return None


def _quoted(job_id: str) -> str:
    return quote(job_id, safe="")
