"""URLs that customers name: one parser, and one spelling for each host. No settings, no DNS, no sockets.

The only parser of such URLs, so that a check and a connection cannot disagree about the host.
"""

import contextlib
import ipaddress
import re
import urllib.parse
from dataclasses import dataclass

import idna

from runflow.lib.addresses import Address

# RFC 3986 appendix B, for URLs that have an authority. Not urllib.parse.urlsplit, which quietly drops
# characters and whose checks differ between Python versions.
_URL = re.compile(
    r"(?P<scheme>[^:/?#]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?", re.DOTALL
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?")
# Underscores are no part of RFC 1123 names, but container networks use them.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))


class InvalidUrl(ValueError):
    """`str()` is written for the customer and repeats nothing of the URL."""


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A well-formed http(s) URL in the parts that a connection needs. Says nothing about where it leads."""

    text: str
    scheme: str
    host: str
    """ASCII: a lower-case name without a final dot, or an address in canonical spelling without brackets."""
    port: int
    path: str
    """ASCII, with the query."""

    @property
    def host_header(self) -> str:
        """RFC 9110 section 7.2: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


def parse_http_url(text: str, *, max_chars: int) -> HttpUrl:
    """Split a URL and bring its host into the canonical spelling.

    Raises:
        InvalidUrl: not an http(s) URL, malformed, too long, or with userinfo.
    """
    if len(text) > max_chars:
        raise InvalidUrl(f"The URL is longer than {max_chars} characters.")
    # Backslashes: some parsers take them for slashes, so `http://a\@b/` would have two hosts.
    if not text.isprintable() or "\\" in text or " " in text:
        raise InvalidUrl("The URL has a space, a backslash, or a character that cannot be printed.")
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidUrl("The URL must be absolute: http://… or https://…")
    scheme = match["scheme"].lower()
    if scheme not in {"http", "https"}:
        raise InvalidUrl("The URL must use http or https.")
    if "@" in match["authority"]:
        raise InvalidUrl("The URL must not contain a user name or a password.")
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None:
        raise InvalidUrl("The URL's host or port is not valid.")
    # "http://host:/" is valid and means the default (RFC 3986 section 3.2.3).
    port = int(authority["port"] or _default_port(scheme))
    if not 1 <= port <= 65535:
        raise InvalidUrl("The URL's port must be between 1 and 65535.")
    host = _canonical_host(authority["host"])
    path = urllib.parse.quote((match["path"] or "/") + (match["query"] or ""), safe=PRINTABLE_ASCII)
    return HttpUrl(text=text, scheme=scheme, host=host, port=port, path=path)


def literal_address(host: str) -> Address | None:
    """The address that a canonical host is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _canonical_host(host: str) -> str:
    """The one spelling that is checked, resolved, and sent as Host and SNI.

    Raises:
        InvalidUrl: neither a host name nor an address.
    """
    if host.startswith("["):
        # No zone identifiers: they name an interface of this machine (RFC 6874, withdrawn by RFC 9844).
        with contextlib.suppress(ValueError):
            if "%" not in host:
                return str(ipaddress.IPv6Address(host[1:-1]))
        raise InvalidUrl("The URL's host is not a valid IPv6 address.")
    if not host.isascii():
        # Before anything else is looked at: full-width digits and dots become ASCII here (UTS 46).
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as exc:
            raise InvalidUrl("The URL's host is not a valid name.") from exc
    host = host.lower().removesuffix(".")
    if _HOST_NAME.fullmatch(host) is None:
        raise InvalidUrl("The URL's host is missing or not a valid name.")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        return str(_parse_ipv4(host))
    return host


def _parse_ipv4(host: str) -> ipaddress.IPv4Address:
    """An IPv4 address in any spelling that inet_aton takes: 127.1, 0x7f.1, 0177.0.0.1, 2130706433.

    A host whose last label is a number is always an address and never a name (WHATWG URL, "ends in a
    number"), so what does not parse is refused rather than handed to a resolver that may think otherwise.

    Raises:
        InvalidUrl: not an address.
    """
    refusal = InvalidUrl("The URL's host is not a valid IPv4 address.")
    labels = host.split(".")
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        raise refusal
    try:
        *leading, last = (_parse_number(label) for label in labels)
    except ValueError as exc:
        raise refusal from exc
    # The last number fills all the bytes that the others leave.
    if any(number > 255 for number in leading) or last >= 256 ** (4 - len(leading)):
        raise refusal
    return ipaddress.IPv4Address(last + sum(number << (24 - 8 * i) for i, number in enumerate(leading)))


def _parse_number(label: str) -> int:
    """Decimal, octal with a leading 0, hexadecimal with 0x. Raises ValueError for an octal 8 or 9."""
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8 if label.startswith("0") else 10)
