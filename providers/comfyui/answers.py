"""What a server's answer to a submission means. Pure functions."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from providers.base import Accepted, Rejected, Stage, Submitted, Unavailable, Unknown
from providers.comfyui.client import json_of
from providers.comfyui.wording import describe_refusal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PartlyAccepted:
    """The server has left out outputs that are invalid and runs the rest, which nobody ordered."""

    job_id: str
    rejected: Rejected


def read_submission(response: httpx.Response, *, nodes_total: int) -> Submitted | PartlyAccepted:
    """The answer to `POST /prompt`.

    200                           Accepted, or PartlyAccepted when it has node errors; Unknown when it makes no sense
    400, 413, other 4xx           Rejected: the graph will not become valid, or smaller
    408, 429, 503                 Unavailable, not before Retry-After
    3xx, 401, 403, 404, 405, 407  Unavailable: the operator's mistake, not the customer's
    500 and the rest              Unknown: a server that answers 500 may have queued the prompt
    """
    status, body = response.status_code, json_of(response)
    if status == 200:
        return _read_acceptance(body, nodes_total=nodes_total)
    if (refusal := refuse_transport(response, stage="dispatch")) is not None:
        return refusal
    if not 400 <= status < 500:
        return Unknown(f"The server answered {status} to a submission.")
    return Rejected("PROVIDER_REJECTED", describe_refusal(body), "dispatch")


def refuse_transport(response: httpx.Response, *, stage: Stage) -> Rejected | Unavailable | None:
    """The outcome of an answer that says nothing about the graph; None for others."""
    status = response.status_code
    if status == 413:
        return Rejected("PROVIDER_REJECTED", "The provider refused the request as too large.", stage)
    if status in (408, 429, 503):
        retry_after = retry_after_of(response.headers)
        return Unavailable("PROVIDER_UNAVAILABLE", "The provider takes no work at the moment.", stage, retry_after)
    if 300 <= status < 400 or status in (401, 403, 404, 405, 407):
        logger.error("%s answers %s: base_url or headers are wrong", response.request.url, status)
        return Unavailable("PROVIDER_UNAVAILABLE", "The provider is not set up correctly.", stage)
    return None


def _read_acceptance(body: Any, *, nodes_total: int) -> Submitted | PartlyAccepted:
    if not isinstance(body, Mapping) or "prompt_id" not in body:
        return Unknown("The server answered 200 to a submission, but not as ComfyUI does.")
    # Servers before 0.3.45 do not take our id, and make one.
    given_id = str(body["prompt_id"])
    if body.get("node_errors"):
        return PartlyAccepted(given_id, Rejected("PROVIDER_REJECTED", describe_refusal(body), "dispatch"))
    return Accepted(given_id, nodes_total)


def is_lost_upload(response: httpx.Response, paths: Collection[str]) -> bool:
    """Whether the server refuses the graph because it lacks one of these files, which it had."""
    body = json_of(response)
    node_errors = body.get("node_errors") if isinstance(body, Mapping) else None
    if not isinstance(node_errors, Mapping):
        return False
    details = [
        str(error.get("details"))
        for node in node_errors.values()
        if isinstance(node, Mapping)
        for error in node.get("errors") or ()
        if isinstance(error, Mapping) and error.get("type") == "custom_validation_failed"
    ]
    return any(path in text for path in paths for text in details)


def retry_after_of(headers: httpx.Headers) -> float | None:
    """Retry-After in seconds from now (RFC 9110 section 10.2.3): a number, or an HTTP-date. None: absent or neither."""
    text = headers.get("retry-after", "").strip()
    # float and not int, which refuses more than 4300 digits.
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
