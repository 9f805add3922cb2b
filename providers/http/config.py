"""A provider's config as the adapter works with it (the format: docs/providers/http.md)."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import quote

from providers.base import OutputType, ProviderConfig
from providers.http.expressions import Expression
from providers.http.sections import Section
from runflow.lib.http_url import InvalidUrl, parse_http_url

MediaForm = Literal["url", "data_uri", "base64"]
OutputForm = Literal["auto", "url", "base64", "text", "json"]
State = Literal["queued", "running", "succeeded", "failed", "canceled"]

JOB_ID = "{job_id}"

# RFC 9110 section 5.6.2, and of section 5.5 the part that every server takes.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")
# What the HTTP client sets itself.
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection"})
# Headers that are credentials by definition: never stored.
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
_CALL = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S*)")
_MIME_TYPE = re.compile(r"[a-z]+/[a-z0-9.+_-]+")
_HOST_PATTERN = re.compile(r"\*|(?:\*\.)?[a-z0-9.:_-]+")

# Of status codes that say "not now": RFC 9110 for 408 and 5xx, RFC 8470 for 425, RFC 6585 for 429.
_RETRYABLE_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
# Seconds. A server on the same network answers in milliseconds, one across the world in less than one.
_CONNECT_TIMEOUT = 5.0
# Seconds for one request of an asynchronous provider, which answers at once; a synchronous one has the run's time.
_ASYNC_TIMEOUT = 30.0
_LONGEST_TIMEOUT = 24 * 3600.0
# Requests at once. A model server that answers when it is done seldom does more than a few; asking for states is cheap.
_SYNC_CONCURRENCY, _ASYNC_CONCURRENCY = 4, 64
# Seconds between two looks at one job, at least. For a server of one's own; hosted ones count requests, and want more.
_POLL_INTERVAL = 0.1
# Seconds before "no such job" is believed: some servers tell of a job a moment after they took it.
_LOST_AFTER = 10.0
_MIB = 1024 * 1024
_MAX_OUTPUT_BYTES = 256 * _MIB


@dataclass(frozen=True, slots=True)
class OutputRule:
    """Where outputs are in an answer. Without `select` the answer's body is the output."""

    select: Expression | None = None
    form: OutputForm = "auto"
    type: OutputType | None = None
    mime_type: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request about a job: method, and path with the job's id in it."""

    method: str
    path: str

    def path_for(self, job_id: str) -> str:
        # Some servers' ids are paths ("operations/17"), so slashes stay.
        return self.path.replace(JOB_ID, quote(job_id))


@dataclass(frozen=True, slots=True)
class AsyncConfig:
    """What only asynchronous providers have."""

    status: Call
    cancel: Call | None
    result: Call | None
    health: Call | None
    poll_interval: float
    lost_after: float
    job_id: Expression | None
    state: Expression
    # By the value's JSON text: 1, true and "1" are three states.
    states: dict[str, State]

    def state_of(self, value: Any) -> State | None:
        """None for a value that the config does not name."""
        return self.states.get(json.dumps(value))


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Times in seconds, sizes in bytes. Header names in lower case."""

    code: str
    # "" for an asynchronous provider: its endpoints have addresses.
    base_url: str
    headers: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    timeout: float
    connect_timeout: float
    concurrency: int
    media: MediaForm
    retryable_statuses: frozenset[int]
    idempotency_header: str | None
    output_hosts: tuple[str, ...]
    max_output_bytes: int
    error: Expression | None
    outputs: tuple[OutputRule, ...]
    seed: Expression | None
    calls: AsyncConfig | None


def read_config(provider: ProviderConfig) -> HttpConfig:
    """Check a provider's config and take secrets from the environment. Raises AdapterConfigError naming the place."""
    section = Section(provider.config, f"Provider {provider.code!r}: config")
    is_async = section.choice("mode", ("sync", "async"), "sync") == "async"
    base_url = "" if is_async else read_base_url(section.required_text("base_url"), section)
    headers, secrets = _read_headers(section.section("headers"))
    outcome = section.section("outcome")
    idempotency_header = section.text("idempotency_header")
    if idempotency_header is not None:
        _check_header_name(section, "idempotency_header", idempotency_header)
    config = HttpConfig(
        code=provider.code,
        base_url=base_url,
        headers=headers,
        secrets=secrets,
        timeout=section.number(
            "timeout", _ASYNC_TIMEOUT if is_async else provider.run_timeout, low=0.01, high=_LONGEST_TIMEOUT
        ),
        connect_timeout=section.number("connect_timeout", _CONNECT_TIMEOUT, low=0.01, high=_LONGEST_TIMEOUT),
        concurrency=section.integer(
            "concurrency", _ASYNC_CONCURRENCY if is_async else _SYNC_CONCURRENCY, low=1, high=256
        ),
        # Not "url" by default: a server inside would read an inside address for any customer who names one.
        media=section.choice("media", get_args(MediaForm), "data_uri"),
        retryable_statuses=_read_statuses(section),
        idempotency_header=idempotency_header.lower() if idempotency_header else None,
        output_hosts=_read_hosts(section),
        max_output_bytes=section.integer("max_output_bytes", _MAX_OUTPUT_BYTES, low=1, high=16 * 1024 * _MIB),
        error=outcome.expression("error"),
        outputs=_read_outputs(outcome),
        seed=outcome.expression("seed"),
        calls=_read_calls(section, outcome) if is_async else None,
    )
    outcome.end()
    section.end()
    return config


def read_base_url(text: str, section: Section) -> str:
    """The address that paths are put behind: canonical, without a final slash. Raises AdapterConfigError."""
    try:
        url = parse_http_url(text, max_chars=2048)
    except InvalidUrl as fault:
        section.refuse(f"is no address to put paths behind ({fault})", "base_url")
    if "?" in text or "#" in text:
        section.refuse("must have no query and no fragment", "base_url")
    return f"{url.scheme}://{url.host_header}{url.path}".rstrip("/")


def bad_header(name: str, value: object) -> str | None:
    """Why this cannot be a header of a request; None when it can. The value is not repeated."""
    if not _TOKEN.fullmatch(name) or name.lower() in _FRAMING:
        return "is not a header that can be set"
    if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
        return "must be a text of printable ASCII, without spaces around it"
    return None


def _check_header_name(section: Section, member: str, name: str) -> None:
    if (reason := bad_header(name, "x")) is not None:
        section.refuse(reason, member)


def _read_headers(section: Section) -> tuple[dict[str, str], tuple[str, ...]]:
    """Header values by lower-case name, and the secrets among them."""
    headers, secrets = {}, set()
    for name, value in section.take_all().items():
        if isinstance(value, dict):
            reference = Section(value, f"{section.path}.{name}")
            variable = reference.required_text("env")
            prefix = reference.text("prefix") or ""
            reference.end()
            # Secrets are often read from files, which end in a line break.
            secret = os.environ.get(variable, "").strip()
            if not secret:
                section.refuse(f"the environment variable {variable} is not set", name)
            secrets.add(secret)
            value = prefix + secret
        elif name.lower() in _CREDENTIALS:
            section.refuse("must be the name of an environment variable, {env: NAME}", name)
        if (reason := bad_header(name, value)) is not None:
            section.refuse(reason, name)
        if name.lower() in headers:
            section.refuse("is given twice", name)
        headers[name.lower()] = value
    # The longest first, in case one is a part of another.
    return headers, tuple(sorted(secrets, key=len, reverse=True))


def _read_statuses(section: Section) -> frozenset[int]:
    statuses = section.items("retryable_statuses", sorted(_RETRYABLE_STATUSES))
    if not all(type(status) is int and 300 <= status <= 599 for status in statuses):
        section.refuse("must be a list of status codes from 300 to 599", "retryable_statuses")
    return frozenset(statuses)


def _read_hosts(section: Section) -> tuple[str, ...]:
    hosts = section.texts("output_hosts")
    if not all(_HOST_PATTERN.fullmatch(host) for host in hosts):
        section.refuse('must be host names in lower case, "*.example.com", or "*"', "output_hosts")
    return tuple(hosts)


def _read_outputs(outcome: Section) -> tuple[OutputRule, ...]:
    value = outcome.take("outputs", [{}])
    if isinstance(value, str):
        value = [{"select": value}]
    if not isinstance(value, list) or not value:
        outcome.refuse("must be a JMESPath expression or a list of rules", "outputs")
    return tuple(_read_rule(Section(rule, f"{outcome.path}.outputs[{n}]")) for n, rule in enumerate(value))


def _read_rule(section: Section) -> OutputRule:
    rule = OutputRule(
        select=section.expression("select"),
        form=section.choice("as", get_args(OutputForm), "auto"),
        type=section.choice("type", get_args(OutputType), "file") if section.has("type") else None,
        mime_type=section.text("mime_type"),
    )
    if rule.mime_type is not None and not _MIME_TYPE.fullmatch(rule.mime_type):
        section.refuse("must be a media type in lower case, without parameters", "mime_type")
    if rule.select is None and rule.form != "auto":
        section.refuse("has no meaning without `select`: the answer's bytes are the output", "as")
    section.end()
    return rule


def _read_calls(section: Section, outcome: Section) -> AsyncConfig:
    status = _read_call(section, "status")
    if status is None:
        section.refuse("is missing", "status")
    state = outcome.expression("state")
    if state is None:
        outcome.refuse("is missing", "state")
    return AsyncConfig(
        status=status,
        cancel=_read_call(section, "cancel"),
        result=_read_call(section, "result"),
        health=_read_call(section, "health", names_job=False),
        poll_interval=section.number("poll_interval", _POLL_INTERVAL, low=0, high=_LONGEST_TIMEOUT),
        lost_after=section.number("lost_after", _LOST_AFTER, low=0, high=_LONGEST_TIMEOUT),
        job_id=outcome.expression("job_id"),
        state=state,
        states=_read_states(outcome.section("states")),
    )


def _read_call(section: Section, name: str, *, names_job: bool = True) -> Call | None:
    text = section.text(name)
    if text is None:
        return None
    match = _CALL.fullmatch(text)
    if match is None or (JOB_ID in text) is not names_job:
        where = f"with {JOB_ID} in the path" if names_job else "without a job"
        section.refuse(f"must be a method and a path like 'GET /jobs', {where}", name)
    return Call(match[1], match[2])


def _read_states(section: Section) -> dict[str, State]:
    states: dict[str, State] = {}
    for state in get_args(State):
        for value in section.items(state):
            if isinstance(value, (list, dict)):
                section.refuse("must be a list of texts, numbers, true, false or null", state)
            if states.setdefault(json.dumps(value), state) != state:
                section.refuse(f"{value!r} is given for another state already", state)
    if "succeeded" not in states.values():
        section.refuse("is missing: no job could ever end", "succeeded")
    section.end()
    return states
