"""Handing jobs to a server: media first, then the graph, then what came of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

import httpx

from providers.base import EndpointDown, FetchError, Job, Media, Rejected, Submitted, Unavailable, Unknown
from providers.comfyui.answers import PartlyAccepted, is_lost_upload, read_submission, refuse_transport
from providers.comfyui.client import ComfyClient, json_of
from providers.comfyui.graphs import InvalidGraph, build_graph, check_graph, find_sources
from providers.comfyui.uploads import UPLOADS, Upload, name_of

logger = logging.getLogger(__name__)

# One name for all: it only decides who hears of the prompt on a websocket. A text, or the server dies of it.
_CLIENT_ID = "runflow"
_UNREACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_UNREACHABLE = Unavailable("PROVIDER_UNAVAILABLE", "The provider cannot be reached.", "dispatch")


class _Ended(Exception):
    """The job ended before the server was asked to run it."""

    def __init__(self, outcome: Rejected | Unavailable) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class Submitter:
    """Hands one set of jobs to one server. `submit` may be called by several threads at once."""

    def __init__(self, client: ComfyClient, *, base_url: str, upload_subfolder: str) -> None:
        self._client = client
        self._base_url = base_url
        self._upload_subfolder = upload_subfolder
        # Set once the server has kept one of the set waiting in vain: the others would wait as long, one after the other.
        self._is_silent = threading.Event()

    def submit(self, job: Job) -> Submitted:
        """Fetch and upload the job's media, submit its graph. Never raises for anything the job contains."""
        try:
            media = self._fetch(job)
            uploads = {source: Upload(self._base_url, name_of(each)) for source, each in media.items()}
            answer, is_lost = self._attempt(job, uploads, media)
            if is_lost and isinstance(answer, Rejected):
                # Nothing was queued, so that the same id can be used again.
                answer, is_lost = self._attempt(job, uploads, media)
        except _Ended as ended:
            return ended.outcome
        if not isinstance(answer, PartlyAccepted):
            return answer
        self._withdraw(answer)
        if is_lost:
            # Not sent again under this id: the history has one entry for both.
            return Unavailable("PROVIDER_UNAVAILABLE", "The provider lost an input. It will be sent again.", "dispatch")
        return answer.rejected

    def _fetch(self, job: Job) -> dict[str, Media]:
        """The job's media by their sources. Raises _Ended, also for a body that is no graph."""
        if self._is_silent.is_set():
            raise _Ended(_UNREACHABLE)
        try:
            check_graph(job.body)
            return {source: job.fetch(source) for source in find_sources(job)}
        except InvalidGraph as fault:
            raise _Ended(Rejected("TEMPLATE_INVALID", str(fault), "dispatch")) from fault
        except FetchError as fault:
            failed = Unavailable if fault.is_retryable else Rejected
            raise _Ended(failed("INPUT_FETCH_FAILED", str(fault), "preprocess")) from fault
        except Exception as fault:
            # Of this server, not of the input: a store that is away. The bounded number of attempts ends it.
            logger.exception("The media of a job could not be read", extra={"run_id": job.run_id})
            raise _Ended(Unavailable("INPUT_FETCH_FAILED", "An input could not be read.", "preprocess")) from fault

    def _attempt(
        self, job: Job, uploads: Mapping[str, Upload], media: Mapping[str, Media]
    ) -> tuple[Submitted | PartlyAccepted, bool]:
        """Upload what the server does not have, and submit. The answer, and whether it tells of a lost upload.

        Raises _Ended.
        """
        paths = {source: self._place(upload, media[source]) for source, upload in uploads.items()}
        graph = build_graph(job, paths)
        request = {
            "prompt": graph,
            "prompt_id": job.job_id,
            "client_id": _CLIENT_ID,
            "extra_data": {"runflow": {"run_id": job.run_id, "attempt": job.attempt}},
            # No `number`: two prompts with the same one can stop the server's worker for good.
        }
        if self._is_silent.is_set():
            raise _Ended(_UNREACHABLE)
        try:
            response = self._client.submit(request)
        except _UNREACHED:
            self._is_silent.set()
            return _UNREACHABLE, False
        except httpx.HTTPError as fault:
            if isinstance(fault, httpx.TimeoutException):
                self._is_silent.set()
            return Unknown(f"No answer came to the submission ({type(fault).__name__})."), False
        is_lost = is_lost_upload(response, paths.values())
        if is_lost:
            for upload in uploads.values():
                UPLOADS.forget(upload)
        return read_submission(response, nodes_total=len(graph)), is_lost

    def _withdraw(self, answer: PartlyAccepted) -> None:
        """Stop the part that the server took. If it finishes first, nobody asks for it."""
        try:
            cancel_portably(self._client, [answer.job_id])
        except EndpointDown as fault:
            logger.warning("A part of a graph goes on running: %s", fault)

    def _place(self, upload: Upload, media: Media) -> str:
        """The media's path at the server, as loader nodes want it. Raises _Ended."""
        return UPLOADS.path_of(upload, lambda: self._upload(upload.name, media))

    def _upload(self, name: str, media: Media) -> str:
        try:
            response = self._client.upload(name, media.body, subfolder=self._upload_subfolder)
        except httpx.HTTPError as fault:
            logger.warning("An upload to %s failed: %s", self._base_url, type(fault).__name__)
            if isinstance(fault, (httpx.TimeoutException, httpx.ConnectError)):
                self._is_silent.set()
            raise _Ended(_UNREACHABLE) from fault
        body = json_of(response)
        if response.status_code == 200 and isinstance(body, dict) and isinstance(body.get("name"), str):
            # The name may be another than ours: "name (1).png" when the server has a different file under ours.
            return f"{body['subfolder']}/{body['name']}" if body.get("subfolder") else str(body["name"])
        if refusal := refuse_transport(response, stage="preprocess"):
            raise _Ended(refusal)
        if 400 <= response.status_code < 500:
            raise _Ended(Rejected("PROVIDER_REJECTED", "The provider refused an input file.", "preprocess"))
        raise _Ended(Unavailable("PROVIDER_UNAVAILABLE", "The provider did not take an input file.", "preprocess"))


def cancel_portably(client: ComfyClient, job_ids: list[str]) -> None:
    """Stop these prompts and no others, at servers of any version. Raises EndpointDown.

    First out of the queue: what is still there afterwards runs, and only that is interrupted. Never without an id, and never an
    id that does not run: servers before 0.3.57 know no ids and stop whatever runs.
    """
    client.delete_pending(job_ids)
    running = client.get_queue().running
    for job_id in job_ids:
        if job_id in running:
            client.interrupt(job_id)
