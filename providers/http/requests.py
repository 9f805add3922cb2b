"""From a job to a request: the rendered template is the request, its media inputs in the form that the provider takes."""

from __future__ import annotations

import base64
from typing import Any

from providers.base import FetchError, Job, Rejected, Unavailable
from providers.http.client import FilePart, Request
from providers.http.config import JOB_ID, HttpConfig, bad_header
from providers.http.files import UNTYPED, extension_of
from providers.http.outcomes import Ended
from runflow.lib import jsonlib
from runflow.lib.json_pointer import copy_json, get_at, parse_pointer, put_at

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_MEMBERS = ("method", "path", "headers", "query", "json", "form")


def build_request(job: Job, config: HttpConfig) -> Request:
    """The request that a job's body describes, media inputs fetched.

    Raises Ended: TEMPLATE_INVALID for a body that is no request, INPUT_FETCH_FAILED for a media input that cannot be had.
    """
    body = copy_json(job.body)
    if not isinstance(body, dict) or not isinstance(body.get("path"), str):
        raise _bad("is no request: it has no path")
    for name in body:
        if name not in _MEMBERS:
            raise _bad(f"has an unknown member, {name!r}")
    if "json" in body and "form" in body:
        raise _bad("has both a json and a form")
    if config.calls is not None:
        body = _with_job_id(body, job, is_needed=config.calls.job_id is None)
    body = _with_media(body, job, config)
    method, path = body.get("method", "POST"), body["path"]
    if method not in _METHODS:
        raise _bad(f"has no method of {', '.join(_METHODS)}")
    if not path.startswith("/"):
        raise _bad('has a path that does not start with "/"')
    headers = _headers(body)
    if config.idempotency_header is not None:
        # The run's, not the attempt's: another attempt is the same work, and the provider can see that.
        headers[config.idempotency_header] = job.run_id
    content: bytes | None = None
    parts: tuple[FilePart, ...] = ()
    if "json" in body:
        headers.setdefault("content-type", "application/json")
        content = jsonlib.dumps(body["json"])
    elif "form" in body:
        if "content-type" in headers:
            raise _bad("gives a form a content type; the form has its own")
        parts = tuple(_fields(body["form"], "form"))
    query = tuple((name, value.decode()) for name, (_, value, _) in _fields(body.get("query", {}), "query"))
    return Request(method, path, query, headers, content, parts)


def _bad(reason: str) -> Ended:
    return Ended(Rejected("TEMPLATE_INVALID", f"The model's template {reason}.", "dispatch"))


def _headers(body: dict[str, Any]) -> dict[str, str]:
    headers = body.get("headers", {})
    if not isinstance(headers, dict):
        raise _bad("has headers that are no object")
    for name, value in headers.items():
        if (reason := bad_header(name, value)) is not None:
            raise _bad(f"has a header {name!r} that {reason}")
    return {name.lower(): value for name, value in headers.items()}


# --- The job's id -----------------------------------------------------------------------------------------------------


def _with_job_id(body: dict[str, Any], job: Job, *, is_needed: bool) -> dict[str, Any]:
    """Put our job id where the template says `{job_id}`: anywhere in the path, or as a whole text elsewhere."""
    is_placed = JOB_ID in body["path"]

    def placed(value: Any) -> Any:
        nonlocal is_placed
        if isinstance(value, dict):
            return {name: placed(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [placed(inner) for inner in value]
        if value == JOB_ID:
            is_placed = True
            return job.job_id
        return value

    path = body["path"].replace(JOB_ID, job.job_id)
    body = {**placed(body), "path": path}
    if is_needed and not is_placed:
        raise _bad(f"places no {JOB_ID}, and the provider's config takes no job_id from the answer")
    return body


# --- Media ------------------------------------------------------------------------------------------------------------


class _File:
    """A media input in a form: a part with the bytes."""

    def __init__(self, body: bytes, mime_type: str) -> None:
        self.body = body
        self.mime_type = mime_type


def _with_media(body: dict[str, Any], job: Job, config: HttpConfig) -> dict[str, Any]:
    """Turn the media inputs, in place, into what the provider takes. One that is given twice is fetched once."""
    made: dict[tuple[str, bool], Any] = {}

    def made_of(value: Any, *, is_file: bool) -> Any:
        # Anything but a text is a template's own way to say "none": null, "".
        if not isinstance(value, str) or not value:
            return value
        key = (value, is_file)
        if key not in made:
            made[key] = _sent_as(value, job, config, is_file=is_file)
        return made[key]

    for pointer in job.media:
        tokens = parse_pointer(pointer)
        try:
            value = get_at(body, tokens)
        except LookupError as fault:
            raise _bad(f"has no place for a media input: {fault.args[0]}") from fault
        is_file = tokens[:1] == ("form",)
        if isinstance(value, list):
            value = [made_of(each, is_file=is_file) for each in value]
        else:
            value = made_of(value, is_file=is_file)
        put_at(body, tokens, value)
    return body


def _sent_as(url: str, job: Job, config: HttpConfig, *, is_file: bool) -> Any:
    if not is_file and config.media == "url" and url.lower().startswith(("http://", "https://")):
        return url
    try:
        media = job.fetch(url)
    except FetchError as fault:
        failed = Unavailable if fault.is_retryable else Rejected
        raise Ended(failed("INPUT_FETCH_FAILED", str(fault), "preprocess")) from fault
    mime_type = media.mime_type or UNTYPED
    if is_file:
        return _File(media.body, mime_type)
    text = base64.b64encode(media.body).decode()
    return text if config.media == "base64" else f"data:{mime_type};base64,{text}"


# --- Forms and queries ------------------------------------------------------------------------------------------------


def _fields(value: Any, where: str) -> list[FilePart]:
    """An object's members as fields: lists repeat the name, null leaves it out, objects are JSON texts."""
    if not isinstance(value, dict):
        raise _bad(f"has a {where} that is no object")
    return [
        (name, _field(each, name))
        for name, values in value.items()
        for each in (values if isinstance(values, list) else [values])
        if each is not None
    ]


def _field(value: Any, name: str) -> tuple[str | None, bytes, str | None]:
    if isinstance(value, _File):
        return f"{name.strip('[]')}.{extension_of(value.mime_type)}", value.body, value.mime_type
    return None, value.encode("utf-8", "replace") if isinstance(value, str) else jsonlib.dumps(value), None
