"""HTTP to one server of the operator's: time and size limits on every answer, and no answer told apart from a bad one."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urljoin

import httpx

from providers.http.config import HttpConfig
from providers.http.words import Words
from runflow.lib.http_url import PRINTABLE_ASCII, HttpUrl, InvalidUrl, parse_http_url

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
# Seconds. Servers close idle connections after five or more; a request that meets the closing one gets no answer.
_KEEP_ALIVE = 2.0
# Signed storage URLs are longer than anything a person types.
_MAX_URL_CHARS = 8192

FilePart = tuple[str, tuple[str | None, bytes, str | None]]


class NoAnswer(Exception):
    """No whole answer came. `str()` is written for the customer.

    `is_sent`: the server may have got the request; False: it cannot have.
    """

    def __init__(self, message: str, *, is_sent: bool, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.is_sent = is_sent
        self.code = "PROVIDER_TIMEOUT" if is_timeout else "PROVIDER_UNAVAILABLE"


class TooLarge(Exception):
    """An answer has more bytes than `max_bytes`."""


class Unsendable(ValueError):
    """A request that HTTP has no form for."""


class HostRefused(Exception):
    """An output's address is on a host that the config does not name. `str()` is written for operators."""


@dataclass(frozen=True, slots=True)
class Request:
    """`path` goes behind the base URL. Header names in lower case."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    parts: tuple[FilePart, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is the parsed JSON, or the text of a text type, else None. Header names in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes
    mime_type: str
    body: Any
    # False: it calls itself JSON and is not.
    is_readable: bool = True

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def view(self) -> dict[str, Any]:
        """What the config's expressions see."""
        return {"status": self.status, "headers": self.headers, "body": self.body}


class HttpClient:
    """Safe for threads. Close it, or use it as a context manager."""

    def __init__(self, config: HttpConfig, *, base_url: str) -> None:
        """`base_url` as `read_base_url` gives it."""
        self._config = config
        self._base_url = base_url
        self._base = parse_http_url(base_url, max_chars=_MAX_URL_CHARS)
        self.words = Words(secrets=config.secrets, host=self._base.host)
        self._client = httpx.Client(
            verify=_tls_context(),
            # No proxy and no .netrc: what is sent where is for the config to say.
            trust_env=False,
            follow_redirects=False,
            # No cookies: one customer's session must not go into another's request.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # Identity, so that no small compressed body becomes a large one (RFC 9110 section 12.5.3).
            headers={"User-Agent": "runflow-batch", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(config.timeout, connect=config.connect_timeout),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=config.concurrency, keepalive_expiry=_KEEP_ALIVE
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def send(self, request: Request) -> Answer:
        """Send a request, with the config's headers on top of its own, and read the whole answer.

        Raises Unsendable, NoAnswer, TooLarge. A redirect is an answer: following it would turn a POST into a GET, or
        send it twice.
        """
        try:
            url = httpx.URL(self._base_url + request.path)
            prepared = self._client.build_request(
                request.method,
                # Not as `params`, which would replace a query that stands in the path.
                url.copy_merge_params(list(request.query)) if request.query else url,
                headers={**request.headers, **self._config.headers},
                content=request.content,
                files=request.parts or None,
            )
        except (httpx.InvalidURL, ValueError) as fault:
            raise Unsendable(str(fault)) from fault
        return self._exchange(prepared, self._config.max_output_bytes)

    def download(self, reference: str, *, max_bytes: int) -> Answer:
        """GET an output: a URL, or a reference against the base URL. Follows redirects, each checked like the first.

        The config's headers, and with them its secrets, go to the provider's own origin only. Raises HostRefused,
        InvalidUrl, NoAnswer, TooLarge.
        """
        text = _join(f"{self._base_url}/", reference)
        for _ in range(1 + _MAX_REDIRECTS):
            target = parse_http_url(text, max_chars=_MAX_URL_CHARS)
            if not self._may_download_from(target.host):
                raise HostRefused(f"{target.host} is neither the provider's own host nor among its output_hosts")
            # Built from the checked parts, so that what is checked is what is connected to.
            origin = f"{target.scheme}://{target.host_header}"
            headers = self._config.headers if _origin(target) == _origin(self._base) else {}
            answer = self._exchange(self._client.build_request("GET", origin + target.path, headers=headers), max_bytes)
            if answer.status not in _REDIRECT_STATUSES or "location" not in answer.headers:
                return answer
            text = _join(target.text, answer.headers["location"])
        return answer

    def _may_download_from(self, host: str) -> bool:
        return host == self._base.host or any(
            allowed in ("*", host) or (allowed.startswith("*.") and host.endswith(allowed[1:]))
            for allowed in self._config.output_hosts
        )

    def _exchange(self, request: httpx.Request, max_bytes: int) -> Answer:
        until = time.monotonic() + self._config.timeout
        content = bytearray()
        try:
            response = self._client.send(request, stream=True)
            try:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > max_bytes:
                        raise TooLarge
                    # The client's own limit is for a silence, and starts again with each byte.
                    if time.monotonic() > until:
                        raise self._timed_out()
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout) as fault:
            raise NoAnswer("The provider cannot be reached.", is_sent=False) from fault
        except httpx.TimeoutException as fault:
            raise self._timed_out() from fault
        except httpx.RequestError as fault:
            raise NoAnswer("The connection to the provider broke.", is_sent=True) from fault
        return _answer(response, bytes(content))

    def _timed_out(self) -> NoAnswer:
        return NoAnswer(
            f"The provider did not answer within {self._config.timeout:g} seconds.", is_sent=True, is_timeout=True
        )


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Reading the authorities takes longer than many a request. SSL_CERT_FILE and SSL_CERT_DIR name an operator's own."""
    return httpx.create_ssl_context()


def _origin(url: HttpUrl) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port


def _join(base: str, reference: str) -> str:
    """Raises InvalidUrl."""
    try:
        # Servers send raw spaces and UTF-8, which browsers escape.
        return urljoin(base, quote(reference, safe=PRINTABLE_ASCII))
    except ValueError as fault:  # a lone surrogate, or half an IPv6 address
        raise InvalidUrl("The URL is not valid.") from fault


def _answer(response: httpx.Response, content: bytes) -> Answer:
    headers = dict(response.headers.items())
    mime_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    body, is_readable = None, True
    if mime_type == "application/json" or mime_type.endswith("+json"):
        try:
            # Not strictly: Python's model servers write NaN, which is no JSON. Where it goes on from here it is null.
            body = json.loads(content) if content else None
        except (ValueError, RecursionError):
            is_readable = False
    elif mime_type.startswith("text/"):
        body = content.decode("utf-8", "replace")
    return Answer(response.status_code, headers, content, mime_type, body, is_readable)
