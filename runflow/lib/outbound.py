"""The one module that opens connections whose address a customer can influence (input URLs, callbacks).

A customer may name any URL, and the workers sit inside the operator's network. Without a guard,
`http://10.0.0.5/`, the cloud's metadata service or the database's port are one request away (server-side
request forgery, SSRF).

The guard that counts is in `_GuardedBackend.connect_tcp`: the name is resolved once, every address is
checked, and the connection goes to a checked address, so a name that changes its answer between the check and
the connection ("DNS rebinding") gains nothing. `check_url` is the early, literal check without DNS, for the
moment a request is created; passing it promises nothing about the connection made later.

Which addresses are refused is in `addresses`. `settings.OUTBOUND_ALLOW`, a tuple of networks, opens those that an operator
needs. An operator's own NAT64 prefix (RFC 6052 section 2.2) looks like any public network and cannot be recognised here.
"""

import contextlib
import functools
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpcore
from django.conf import settings
from django.utils.http import parse_http_date_safe

from runflow import __version__
from runflow.lib.addresses import Address, Network, is_allowed_address
from runflow.lib.http_url import PRINTABLE_ASCII, HttpUrl, InvalidUrl, literal_address, parse_http_url

# The contract's limit for URLs in a request (characters).
_MAX_URL_CHARS = 2048
# Servers redirect to signed storage URLs that are longer than anything a customer types (characters).
_MAX_REDIRECT_URL_CHARS = 8192
_MAX_REDIRECTS = 5
# For each TCP connection attempt and for the TLS handshake, within the total deadline (seconds).
_CONNECT_SECONDS = 5.0

_USER_AGENT = f"runflow-batch/{__version__}"
# Identity, so that no small compressed body can become a large one (RFC 9110 section 12.5.3).
_ANY_UNENCODED = ((b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"))

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_RETRYABLE_STATUSES = frozenset({408, 425, 429})
# Not "there is no such name", but "no answer just now".
_TEMPORARY_RESOLVER_ERRORS = frozenset({socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM})


class OutboundError(Exception):
    """A request to a customer's URL failed; the message may be shown to the customer.

    Messages name no resolved address and no detail of the inside; the chained exception (`__cause__`) may.
    """

    def __init__(self, message: str, *, is_retryable: bool = False) -> None:
        """`is_retryable`: the same request may succeed later."""
        super().__init__(message)
        self.is_retryable = is_retryable


class AddressRefused(OutboundError):
    """The guard refused the URL or an address behind it; trying again does not help."""

    def __init__(self, message: str = "The URL's address is not allowed.") -> None:
        super().__init__(message, is_retryable=False)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A downloaded file."""

    body: bytes
    mime_type: str
    """From Content-Type: lower-case, without parameters, "" if the server gave none. A claim, not a fact."""
    url: str
    """Where the body came from, after redirects."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said to a POST, whatever its status."""

    status: int
    body: bytes
    """Its beginning, as it was sent: a compressed body stays compressed."""
    retry_after: float | None
    """Seconds, 0 or more. None: it did not ask for a pause."""


def check_url(url: str) -> None:
    """Refuse a URL whose text alone shows that it must not be called. No DNS, so it is fast and cannot hang.

    Names other than localhost pass; what they resolve to is checked when the connection is made.
    With OUTBOUND_ALLOW open for 127.0.0.1 or ::1, `localhost` passes here; the connection then needs every
    address that the machine gives `localhost` to be open.

    Raises:
        AddressRefused: not an http(s) URL, malformed, with userinfo, or the host is a forbidden address.
    """
    _checked_url(url, max_chars=_MAX_URL_CHARS)


def host_of(url: str) -> str:
    """The host of a URL in its one spelling, at most 255 characters, to group URLs by.

    Says nothing about whether the URL may be called, and never raises: what is no http(s) URL has the host "invalid", a name
    that nobody can have (RFC 6761 section 6.4).
    """
    try:
        return parse_http_url(url, max_chars=_MAX_URL_CHARS).host
    except InvalidUrl:
        return "invalid"


def fetch(url: str, *, max_bytes: int, total_timeout: float = 30.0) -> Fetched:
    """GET a customer's URL, with the guard on every connection.

    Follows up to 5 redirects, each checked like the first URL. Uses no proxy from the environment, as the
    proxy would make the connection and the check would be void. TLS certificates are verified against the
    URL's name.

    Args:
        url: http or https, at most 2048 characters.
        max_bytes: limit of the body. Bodies come unencoded, so no more than this is read either.
        total_timeout: seconds for everything: name lookups, redirects, and the body to its last byte.

    Raises:
        AddressRefused: the URL, a redirect, or an address behind a name is not allowed.
        OutboundError: anything else that leaves no body. Retryable: timeouts, connection failures, temporary
            DNS failures, 408, 425, 429 and 5xx.
    """
    deadline = _Deadline(total_timeout)
    target = _checked_url(url, max_chars=_MAX_URL_CHARS)
    for _ in range(1 + _MAX_REDIRECTS):
        with _exchange("GET", target, deadline, headers=_ANY_UNENCODED) as response:
            if response.status not in _REDIRECT_STATUSES:
                return _read(response, target.text, max_bytes=max_bytes)
            location = _header(response, b"location")
        if not location:
            raise OutboundError("The URL answered with a redirect that names no address.")
        # Servers send raw spaces and UTF-8, which browsers escape. A relative reference is fine
        # (RFC 9110 section 10.2.2).
        reference = urllib.parse.quote(location, safe=PRINTABLE_ASCII)
        target = _checked_url(_join(target.text, reference), max_chars=_MAX_REDIRECT_URL_CHARS)
    raise OutboundError(f"The URL redirects more than {_MAX_REDIRECTS} times.")


def post(url: str, *, body: bytes, headers: Mapping[str, str], total_timeout: float, max_answer_bytes: int) -> Answer:
    """POST to a customer's URL, with the guard on the connection. Every status is an answer, and no redirect is followed.

    Proxies and TLS are as with `fetch`.

    Args:
        url: http or https, at most 2048 characters.
        headers: ours, in ASCII, beside Host, User-Agent, Connection, Accept, Accept-Encoding and Content-Length. A name or
            value that HTTP does not allow is httpcore.LocalProtocolError: a mistake of the caller, and nothing is sent.
        total_timeout: seconds for everything: the name lookup, and the answer to its last byte.
        max_answer_bytes: reading stops here, and the rest of a longer answer is not waited for.

    Raises:
        AddressRefused: the URL or an address behind its name is not allowed.
        OutboundError: no whole answer. Retryable: timeouts, connection failures, temporary DNS failures.
    """
    deadline = _Deadline(total_timeout)
    target = _checked_url(url, max_chars=_MAX_URL_CHARS)
    given = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    answer = bytearray()
    with _exchange("POST", target, deadline, headers=[*_ANY_UNENCODED, *given], content=body) as response:
        for chunk in response.iter_stream():
            answer += chunk
            if len(answer) >= max_answer_bytes:
                break
    return Answer(
        status=response.status,
        body=bytes(answer[:max_answer_bytes]),
        retry_after=_seconds(_header(response, b"retry-after").decode("latin-1")),
    )


# --- The literal check --------------------------------------------------------------------------------------


def _allowed_networks() -> tuple[Network, ...]:
    """OUTBOUND_ALLOW, read at each call: settings may not be ready when this module is imported."""
    return tuple(getattr(settings, "OUTBOUND_ALLOW", ()))


def _checked_url(url: str, *, max_chars: int) -> HttpUrl:
    """Parse a URL and do the literal check.

    Raises:
        AddressRefused: see `check_url`.
    """
    try:
        parsed = parse_http_url(url, max_chars=max_chars)
    except InvalidUrl as exc:
        raise AddressRefused(str(exc)) from exc
    _check_host(parsed.host)
    return parsed


def _check_host(host: str) -> None:
    """The literal check of a canonical host.

    Raises:
        AddressRefused: a forbidden address, or a localhost name while loopback is not open.
    """
    allow = _allowed_networks()
    if host == "localhost" or host.endswith(".localhost"):
        # RFC 6761 section 6.3: these names are loopback, whatever a resolver says.
        loopback = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
        if not any(is_allowed_address(ip, allow) for ip in loopback):
            raise AddressRefused
    elif (ip := literal_address(host)) is not None and not is_allowed_address(ip, allow):
        raise AddressRefused


def _join(base: str, reference: str) -> str:
    try:
        return urllib.parse.urljoin(base, reference)
    except ValueError as exc:
        raise AddressRefused("The URL redirects to an address that is not valid.") from exc


# --- Connections --------------------------------------------------------------------------------------------


class _Deadline:
    """A point in time that a whole exchange must not pass, however often a single step makes progress."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self, at_most: float = float("inf")) -> float:
        """Seconds left, more than 0 (a socket timeout of 0 would mean "do not block").

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("total deadline passed")
        return min(left, at_most)


def _resolve(host: str, port: int) -> list[str]:
    """Every address of a name, as text, in the system's order of preference (RFC 6724). Tests replace this.

    Raises:
        socket.gaierror: the name has no address, or the resolver does not answer.
    """
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))


def _resolve_within(host: str, port: int, deadline: _Deadline) -> list[str]:
    """`_resolve` under the deadline.

    getaddrinfo takes no timeout, so it runs in a thread that can be left behind.

    Raises:
        OutboundError: the name cannot be resolved.
        TimeoutError: no answer in time.
    """
    answer: Future[list[str]] = Future()

    def resolve() -> None:
        try:
            answer.set_result(_resolve(host, port))
        except BaseException as exc:  # noqa: BLE001 -- raised again in the thread that waits
            answer.set_exception(exc)

    # A daemon: a lookup that hangs must not hold up the end of the process, as an executor's thread would.
    threading.Thread(target=resolve, name="outbound-resolve", daemon=True).start()
    try:
        return answer.result(timeout=deadline.remaining())
    except socket.gaierror as exc:
        is_temporary = exc.errno in _TEMPORARY_RESOLVER_ERRORS
        raise OutboundError("The URL's host name could not be resolved.", is_retryable=is_temporary) from exc


def _checked_addresses(host: str, port: int, deadline: _Deadline) -> Sequence[Address]:
    """The addresses a connection to `host` may go to; at least one.

    One forbidden address refuses the whole name: which of them answers is chance, and a name that points
    inside is never an honest one.

    Raises:
        AddressRefused: at least one address is forbidden.
        OutboundError: the name cannot be resolved.
        TimeoutError: no answer in time.
    """
    literal = literal_address(host)
    addresses = (
        [literal]
        if literal is not None
        else [ipaddress.ip_address(text) for text in _resolve_within(host, port, deadline)]
    )
    allow = _allowed_networks()
    if not all(is_allowed_address(ip, allow) for ip in addresses):
        raise AddressRefused
    if not addresses:
        raise OutboundError("The URL's host name could not be resolved.")
    return addresses


class _Stream(httpcore.NetworkStream):
    """A socket whose operations all end at the deadline; httpcore's own timeouts begin anew at each read."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._sock.settimeout(self._deadline.remaining())
        return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        unsent = memoryview(buffer)
        try:
            # Not sendall, which over TLS starts its timeout anew with each piece.
            while unsent:
                self._sock.settimeout(self._deadline.remaining())
                unsent = unsent[self._sock.send(unsent) :]
        except TimeoutError:
            raise
        except OSError as exc:
            # httpcore goes on to read after this one: a server may answer (413) before it has read all.
            raise httpcore.WriteError(str(exc)) from exc

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Raises OSError (ssl.SSLError included); the connection is closed then."""
        try:
            # A handshake's timeout is for all of it.
            self._sock.settimeout(self._deadline.remaining(_CONNECT_SECONDS))
            encrypted = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
            return _Stream(encrypted, self._deadline)
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        """Nothing: httpcore asks for the negotiated protocol, and only HTTP/1.1 is offered."""
        return None


class _GuardedBackend(httpcore.NetworkBackend):
    """Opens connections to checked addresses only; Host and SNI come from the URL and keep its name."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first checked address that answers.

        Raises:
            AddressRefused, OutboundError, TimeoutError: see `_checked_addresses`.
            OSError: no address answered.
        """
        failure = OSError("no address to connect to")
        for address in _checked_addresses(host, port, self._deadline):
            seconds = self._deadline.remaining(_CONNECT_SECONDS)
            try:
                # Given an address in canonical spelling, this asks no resolver.
                sock = socket.create_connection((str(address), port), seconds)
            except OSError as exc:
                failure = exc
                continue
            # Headers and body are two writes; without this the second waits for the first one's receipt.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Stream(sock, self._deadline)
        raise failure


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """Verifies chain and name. Cached, because loading the authorities takes tens of milliseconds."""
    return httpcore.default_ssl_context()


@contextlib.contextmanager
def _exchange(
    method: str,
    target: HttpUrl,
    deadline: _Deadline,
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    content: bytes | None = None,
) -> Iterator[httpcore.Response]:
    """One request on one connection of its own; follows no redirect and reads no body.

    The connection is closed on leaving, and with it whatever has not been read.

    Raises:
        OutboundError: also for errors while the body is read inside the `with`.
    """
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    own_headers = [
        (b"Host", target.host_header.encode("ascii")),
        (b"User-Agent", _USER_AGENT.encode("ascii")),
        (b"Connection", b"close"),
    ]
    try:
        with (
            httpcore.HTTPConnection(
                url.origin,
                ssl_context=_ssl_context() if target.scheme == "https" else None,
                network_backend=_GuardedBackend(deadline),
            ) as connection,
            connection.stream(method, url, headers=[*own_headers, *headers], content=content) as response,
        ):
            yield response
    except TimeoutError as exc:
        raise OutboundError("The URL did not answer in time.", is_retryable=True) from exc
    except ssl.SSLCertVerificationError as exc:
        raise OutboundError("The URL's TLS certificate could not be verified.") from exc
    except (OSError, httpcore.NetworkError, httpcore.RemoteProtocolError) as exc:
        raise OutboundError("The connection to the URL failed.", is_retryable=True) from exc


def _read(response: httpcore.Response, url: str, *, max_bytes: int) -> Fetched:
    """Check the status and read the body.

    Raises:
        OutboundError: the status is not 2xx, the body is encoded or too large. See `_exchange` for the rest.
    """
    if not 200 <= response.status < 300:
        raise OutboundError(
            f"The URL answered with status {response.status}.",
            is_retryable=response.status in _RETRYABLE_STATUSES or response.status >= 500,
        )
    if _header(response, b"content-encoding").lower() not in {b"", b"identity"}:
        raise OutboundError("The URL answered with a compressed body, which is not accepted.")
    too_large = OutboundError(f"The file at the URL is larger than {max_bytes} bytes.")
    # h11 has made sure that a Content-Length is a number. Before the body, so that nothing is read in vain.
    if int(_header(response, b"content-length") or b"0") > max_bytes:
        raise too_large
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    mime_type = _header(response, b"content-type").partition(b";")[0].strip().lower()
    return Fetched(body=bytes(body), mime_type=mime_type.decode("latin-1"), url=url)


def _header(response: httpcore.Response, name: bytes) -> bytes:
    """The first value of a header, b"" if there is none. `name` in lower case."""
    return next((value for key, value in response.headers if key.lower() == name), b"")


def _seconds(retry_after: str) -> float | None:
    """Retry-After in seconds from now (RFC 9110 section 10.2.3): a number, or an HTTP-date, as 0 if that is past."""
    # float and not int, which refuses more than 4300 digits.
    if re.fullmatch(r"-?[0-9]+", retry_after):
        return max(0.0, float(retry_after))
    moment = parse_http_date_safe(retry_after)
    return None if moment is None else max(0.0, moment - time.time())
