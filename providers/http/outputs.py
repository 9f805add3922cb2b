"""From an answer to artifacts: outputs as URLs, data URIs, base64, texts, JSON, or the answer's own bytes."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from providers.base import Artifact, OutputType, Rejected, Unavailable
from providers.http.client import Answer, HostRefused, HttpClient, NoAnswer, TooLarge
from providers.http.config import HttpConfig, OutputForm, OutputRule
from providers.http.files import make_artifact
from providers.http.outcomes import Ended
from runflow.lib import jsonlib
from runflow.lib.http_url import InvalidUrl

logger = logging.getLogger(__name__)

# More is a mistake in an expression: a run has a handful.
MAX_OUTPUTS = 100
# Seconds before the second and the third try of a download: the work is done, and doing it again costs more than waiting.
DOWNLOAD_PAUSES = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class _Found:
    """One output as the answer names it; `form` says what `text` is."""

    text: str
    form: OutputForm
    type: OutputType | None = None
    mime_type: str | None = None
    width: int | None = None
    height: int | None = None


def collect_outputs(answer: Answer, *, config: HttpConfig, client: HttpClient) -> tuple[Artifact, ...]:
    """The outputs that the config's rules find in an answer; files at other addresses are downloaded.

    Raises Ended:
    no output at all, or one that is not in the form said   Rejected EXECUTION_FAILED
    a download that fails                                   Unavailable OUTPUT_FETCH_FAILED
    an address that is not allowed, too many bytes          Rejected OUTPUT_FETCH_FAILED
    """
    artifacts: list[Artifact] = []
    bytes_left = config.max_output_bytes
    for rule in config.outputs:
        for found in _found_by(rule, answer):
            if len(artifacts) == MAX_OUTPUTS:
                raise Ended(_broken(f"The provider's answer has more than {MAX_OUTPUTS} outputs."))
            body, mime_type = _read(found, client=client, max_bytes=bytes_left)
            bytes_left -= len(body)
            if bytes_left < 0:
                raise Ended(too_large())
            artifacts.append(
                make_artifact(
                    body, found.mime_type or mime_type, type=found.type, width=found.width, height=found.height
                )
            )
        if rule.select is None and answer.content:
            artifacts.append(make_artifact(answer.content, rule.mime_type or answer.mime_type, type=rule.type))
    if not artifacts:
        raise Ended(_broken("The provider's answer has no outputs."))
    return tuple(artifacts)


def seed_of(answer: Answer, config: HttpConfig) -> int | None:
    """The seed that the config's `seed` finds, if that is a whole number."""
    found = config.seed.search(answer.view) if config.seed is not None else None
    return found if type(found) is int else None


def too_large() -> Rejected:
    return Rejected("OUTPUT_FETCH_FAILED", "The provider's outputs are larger than is allowed.", "collect")


def _broken(message: str) -> Rejected:
    return Rejected("EXECUTION_FAILED", message, "collect")


def _found_by(rule: OutputRule, answer: Answer) -> Iterator[_Found]:
    """What a rule's expression finds, one after the other. Nulls are no outputs."""
    value = rule.select.search(answer.view) if rule.select is not None else None
    if rule.form == "json" and value is not None:
        # As a whole, whatever it is.
        yield _Found(jsonlib.dumps(value).decode(), rule.form, rule.type, rule.mime_type)
        return
    for each in value if isinstance(value, list) else [value]:
        if each is not None:
            yield _one(each, rule)


def _one(value: Any, rule: OutputRule) -> _Found:
    """A text, or an object as an expression can make it: {value, mime_type?, width?, height?}."""
    members = value if isinstance(value, dict) else {"value": value}
    text, mime_type = members.get("value"), members.get("mime_type")
    if not isinstance(text, str):
        raise Ended(_broken("An output in the provider's answer is not a text."))
    return _Found(
        text,
        rule.form,
        rule.type,
        rule.mime_type or (mime_type.lower() if isinstance(mime_type, str) else None),
        _pixels(members.get("width")),
        _pixels(members.get("height")),
    )


def _pixels(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 2**31 else None


def _read(found: _Found, *, client: HttpClient, max_bytes: int) -> tuple[bytes, str]:
    """An output's bytes, and what they are said to be."""
    text, form = found.text, found.form
    if form == "text":
        return text.encode("utf-8", "replace"), "text/plain"
    if form == "json":
        return text.encode(), "application/json"
    if text[:5].lower() == "data:":
        return _decode_data_uri(text)
    # A reference without a scheme is a URL only where the rule says so: "/9j/…" is how a JPEG begins in base64.
    if form == "url" or (form == "auto" and text.lower().startswith(("http://", "https://"))):
        answer = _download(text, client=client, max_bytes=max_bytes)
        return answer.content, answer.mime_type
    return _decode_base64("".join(text.split())), ""


def _decode_base64(text: str) -> bytes:
    try:
        body = base64.b64decode(text, validate=True)
    except ValueError:
        body = b""
    if not body:
        raise Ended(_broken("An output in the provider's answer is not base64."))
    return body


def _decode_data_uri(text: str) -> tuple[bytes, str]:
    """RFC 2397: data:[<mediatype>][;base64],<data>"""
    header, comma, data = text[5:].partition(",")
    if not comma:
        raise Ended(_broken("An output in the provider's answer is a data: URI without data."))
    mime_type, *parameters = (part.strip().lower() for part in header.split(";"))
    body = unquote_to_bytes(data)
    if "base64" in parameters:
        body = _decode_base64(body.decode("ascii", "replace"))
    return body, mime_type or "text/plain"


def _download(reference: str, *, client: HttpClient, max_bytes: int) -> Answer:
    for pause in (*DOWNLOAD_PAUSES, None):
        answer = _try_download(reference, client=client, max_bytes=max_bytes)
        if answer is not None and answer.is_success and answer.content:
            return answer
        is_worth_another = answer is None or answer.status in (408, 425, 429) or answer.status >= 500
        if pause is None or not is_worth_another:
            break
        time.sleep(pause)
    # Also for a 404: the file is gone, and another attempt makes another one.
    raise Ended(Unavailable("OUTPUT_FETCH_FAILED", "An output could not be downloaded.", "collect"))


def _try_download(reference: str, *, client: HttpClient, max_bytes: int) -> Answer | None:
    """None when no answer came. Raises Ended for what another try would not change."""
    try:
        return client.download(reference, max_bytes=max_bytes)
    except NoAnswer:
        return None
    except TooLarge:
        raise Ended(too_large()) from None
    except (HostRefused, InvalidUrl) as fault:
        logger.error("An output cannot be downloaded: %s", fault)
        raise Ended(Rejected("OUTPUT_FETCH_FAILED", "An output's address is not allowed.", "collect")) from fault
