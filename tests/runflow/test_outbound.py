"""The guard on customers' URLs: every spelling of an inside address, and real HTTP and TLS on loopback."""

import gzip
import ipaddress
import os
import pickle
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from runflow import __version__
from runflow.lib import outbound
from runflow.lib.addresses import Address, Network, is_allowed_address
from runflow.lib.http_url import parse_http_url
from runflow.lib.outbound import (
    AddressRefused,
    Answer,
    Fetched,
    OutboundError,
    check_url,
    fetch,
    host_of,
    post,
)
from tests.threads import wait_until

# Authority and server in one, for files.example.com, valid from 2020 to 2120. Made for these tests only.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBhDCCASqgAwIBAgIBATAKBggqhkjOPQQDAjAXMRUwEwYDVQQDDAxydW5mbG93
IHRlc3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBcxFTATBgNV
BAMMDHJ1bmZsb3cgdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDXLcde2
SoHJDKJWzXEHRhpjiH/jr/DIpaFA89PP0EIevgogIocM3NGB6OwilYLeVkL0wAG1
NvWmBwMjaJ3+pqijZTBjMA8GA1UdEwEB/wQFMAMBAf8wHAYDVR0RBBUwE4IRZmls
ZXMuZXhhbXBsZS5jb20wEwYDVR0lBAwwCgYIKwYBBQUHAwEwHQYDVR0OBBYEFM7q
ZOKUaYBbyuurAH1RT/dpYVVQMAoGCCqGSM49BAMCA0gAMEUCID19lq6YIMjceWUu
tOvvqXnDXZd1RkXldfJrEpM2VHdkAiEArVZ6y629y5F5gupBhwOel64x3bdm8FEj
0xbLdzq7Rzg=
-----END CERTIFICATE-----
"""
PRIVATE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCBbfq4lsNHyx+4HR
6SWTxXKzNUPxzIq0UDLAKNIjofOhRANCAAQ1y3HXtkqByQyiVs1xB0YaY4h/46/w
yKWhQPPTz9BCHr4KICKHDNzRgejsIpWC3lZC9MABtTb1pgcDI2id/qao
-----END PRIVATE KEY-----
"""

LOOPBACK = "127.0.0.0/8"


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


@pytest.fixture(autouse=True)
def _nothing_opened(settings: Settings) -> None:
    """Start from the default, whatever the environment of the test run says."""
    settings.OUTBOUND_ALLOW = ()


# --- Addresses ----------------------------------------------------------------------------------------------

REFUSED_ADDRESSES = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible
    "::808:808",
    "::ffff:127.0.0.1",  # mapped
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:224.0.0.1",
    "::ffff:0:8.8.8.8",  # IPv4-translated
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::a00:1",
    "64:ff9b:1::7f00:1",  # local NAT64
    "64:ff9b:1::808:808",
    "100::1",  # discard
    "2001::7f00:1",  # Teredo
    "2001:0:808:808::f7f7:f7f7",
    "2001:2::1",  # benchmarks
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4
    "2002:a9fe:a9fe::1",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",  # never given out
    "5f00::1",  # SRv6
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",  # site-local
    "ff02::1",
]

PERMITTED_ADDRESSES = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "168.63.129.17",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001:830::200e",
]


@pytest.mark.parametrize("text", REFUSED_ADDRESSES)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert not is_allowed_address(ipaddress.ip_address(text), ())


@pytest.mark.parametrize("text", PERMITTED_ADDRESSES)
def test_a_public_address_is_permitted(text: str) -> None:
    assert is_allowed_address(ipaddress.ip_address(text), ())


@pytest.mark.parametrize(
    ("text", "network", "is_allowed"),
    [
        ("127.0.0.1", "127.0.0.0/8", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3/32", True),
        ("10.1.2.4", "10.1.2.3/32", False),
        ("10.1.2.3", "127.0.0.0/8", False),
        ("8.8.8.8", "127.0.0.0/8", True),
        ("::1", "::1/128", True),
        ("::1", "127.0.0.0/8", False),
        ("::1", "0.0.0.0/0", False),
        ("fd00::1", "fd00::/8", True),
        ("fe80::1%eth0", "fe80::/10", True),
        # By the inner address
        ("::ffff:10.0.0.1", "10.0.0.0/8", True),
        ("::ffff:10.0.0.1", "127.0.0.0/8", False),
        ("::a00:1", "10.0.0.0/8", True),
        ("64:ff9b::a00:1", "10.0.0.0/8", True),
        ("2002:a00:1::1", "10.0.0.0/8", True),
        # Teredo: the server is 10.0.0.1, the client (stored inverted) 10.0.0.2 or 8.8.8.8.
        ("2001:0:a00:1::f5ff:fffd", "10.0.0.0/8", True),
        ("2001:0:a00:1::f7f7:f7f7", "10.0.0.0/8", False),
        ("64:ff9b:1::a00:1", "10.0.0.0/8", False),
        # By the outer address
        ("::ffff:10.0.0.1", "::ffff:0:0/96", True),
        ("64:ff9b::a00:1", "64:ff9b::/96", True),
        ("64:ff9b:1::a00:1", "64:ff9b:1::/48", True),
        ("2002:a00:1::1", "2002::/16", True),
    ],
)
def test_the_allow_list_opens_the_networks_it_names_and_no_others(text: str, network: str, is_allowed: bool) -> None:
    assert is_allowed_address(ipaddress.ip_address(text), networks(network)) is is_allowed


@given(st.ip_addresses())
def test_no_address_is_permitted_that_the_standard_library_calls_private_or_multicast(ip: Address) -> None:
    inner = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    if is_allowed_address(ip, ()):
        assert (inner or ip).is_global
        assert not ip.is_multicast


# --- The literal check --------------------------------------------------------------------------------------

REFUSED_URLS = [
    # Not an http(s) URL
    "",
    "example.com",
    "//example.com/",
    "http:example.com",
    "http:/example.com",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript://example.com/%0aalert(1)",
    "unix://var/run/docker.sock",
    # No host, or none that is valid
    "http://",
    "http:///path",
    "http://:80/",
    "http://?x",
    "http://.",
    "http://..",
    "http://.example.com/",
    "http://a..b/",
    "http://example.com../",
    f"http://{'a' * 64}.example.com/",
    f"http://{'a.' * 127}example.com/",
    "http://exa$mple.com/",
    "http://127%2e0.0.1/",
    "http://%6cocalhost/",
    "http://[::1/",
    "http://::1/",
    "http://[]/",
    "http://[example.com]/",
    "http://[v1.fe80]/",
    "http://[8.8.8.8]/",
    "http://[2606:4700:4700::1111]x/",
    "http://\u0378.example.com/",
    "http://xn--\u00fc.example.com/",
    # Userinfo
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1@example.com/",
    # Ports
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:99999999/",
    "http://example.com:-1/",
    "http://example.com:+80/",
    "http://example.com:http/",
    "http://example.com:\u0668\u0660/",
    "http://example.com:80:80/",
    # Characters
    " http://example.com/",
    "http://example.com/ ",
    "http://example.com/a b",
    "http://exam ple.com/",
    "http://example.com/\r\nX: y",
    "http://example.com/\t",
    "http://example.com/\x00",
    "http://example.com/\x7f",
    "http://example.com/\u2028",
    "http://example.com/\u00a0",
    "http://example.com/\ud800",
    "\x00http://example.com/",
    "http://example.com\\@127.0.0.1/",
    "http:\\\\example.com\\",
    "http://example.com/a\\b",
    # Length
    "http://example.com/".ljust(2049, "a"),
    # localhost
    "http://localhost",
    "http://localhost/",
    "http://localhost:8000/",
    "http://localhost./",
    "http://LocalHost/",
    "http://a.localhost/",
    "http://a.b.localhost./",
    "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
    # Addresses in all their spellings
    "http://127.0.0.1/",
    "https://127.0.0.1:8443/x?y#z",
    "http://127.0.0.1./",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://2130706433./",
    "http://0177.0.0.1/",
    "http://0177.1/",
    "http://017700000001/",
    "http://0x7f.1/",
    "http://0x7F.0.0.1/",
    "http://0X7f000001/",
    "http://0x7f.0.0x0.01/",
    "http://0/",
    "http://0x/",
    "http://0x.0x.0/",
    "http://0300.0250.1.1/",
    "http://3232235777/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://10.0.0.1/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/",
    "http://127\u30020\u30020\u30021/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
    "http://[::]/",
    "http://[::1]/",
    "http://[::1]:8000/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[2606:4700:4700::1111%25eth0]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[5f00::1]/",
    "http://[100::1]/",
    # Numbers that are no address: never a name for a resolver
    "http://256.0.0.1/",
    "http://1.2.3.4.5/",
    "http://127.0.0.08/",
    "http://4294967296/",
    "http://8.8.65536/",
    "http://300.1/",
    "http://example.127/",
    "http://example.0x7f/",
]

PERMITTED_URLS = [
    "http://example.com",
    "https://example.com/",
    "HTTPS://EXAMPLE.COM/",
    "https://example.com./",
    "https://example.com:/",
    "https://example.com:1/",
    "https://example.com:65535/hook",
    "https://example.com/a/b%20c?d=e&f=http://127.0.0.1/#g",
    "https://example.com/user@host",
    "https://example.com?user@host",
    "https://example.com/\u00fc?\u00fc",
    "https://b\u00fccher.example.com/",
    "https://xn--bcher-kva.example.com/",
    "https://receiver/hook",
    "https://my_service.internal/",
    "https://localhost.example.com/",
    "https://notlocalhost/",
    "https://127.0.0.1.example.com/",
    "https://1e3.example.com/",
    "https://0xg/",
    "https://8.8.8.8/",
    "https://134744072/",
    "https://0x8.8.2056/",
    "https://[2606:4700:4700::1111]/",
    "https://[2606:4700:4700::1111]:8443/",
    "https://[::ffff:8.8.8.8]/",
    "https://[64:ff9b::8.8.8.8]/",
    "http://example.com/".ljust(2048, "a"),
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_names_the_inside_or_is_malformed_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        check_url(url)
    assert not caught.value.is_retryable


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "http or https"),
        ("http://user:password@example.com/", "user name"),
        ("http://example.com:65536/", "port"),
        ("http://example.com/".ljust(2049, "a"), "2048"),
        ("http://10.0.0.1/", "not allowed"),
    ],
)
def test_a_refusal_says_what_is_wrong_without_repeating_the_url(url: str, reason: str) -> None:
    with pytest.raises(AddressRefused, match=reason) as caught:
        check_url(url)
    assert "example" not in str(caught.value)
    assert is_without_inside_details(caught.value)


@pytest.mark.parametrize("url", PERMITTED_URLS)
def test_an_ordinary_url_passes_the_literal_check(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "network"),
    [
        ("http://127.0.0.1:8000/", "127.0.0.0/8"),
        ("http://127.1/", "127.0.0.0/8"),
        ("http://2130706433/", "127.0.0.1/32"),
        ("http://localhost/", "127.0.0.0/8"),
        ("http://localhost/", "::1/128"),
        ("http://a.localhost./", "127.0.0.1/32"),
        ("http://[::1]/", "::1/128"),
        ("http://[::ffff:127.0.0.1]/", "127.0.0.0/8"),
        ("http://[64:ff9b::10.0.0.1]/", "10.0.0.0/8"),
        ("http://10.20.30.40/", "10.0.0.0/8"),
        ("http://[fd00::1]/", "fd00::/8"),
    ],
)
def test_the_setting_opens_a_url_in_its_networks(url: str, network: str, settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = networks(network)
    check_url(url)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://localhost/", "http://10.1.0.1/", "http://[::1]/", "http://u@10.0.0.1/"],
)
def test_the_setting_opens_nothing_beside_its_networks(url: str, settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = networks("10.0.0.0/16", "fd00::/8")
    with pytest.raises(AddressRefused):
        check_url(url)


def test_the_literal_check_asks_no_resolver(resolver: "Resolver") -> None:
    check_url("https://example.com/")
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/a", "example.com"),
        ("HTTP://EXAMPLE.com.:8080/b?c", "example.com"),
        ("https://b\u00fccher.example.com/", "xn--bcher-kva.example.com"),
        ("https://[2606:4700:4700:0::1111]:8443/", "2606:4700:4700::1111"),
        ("https://134744072/", "8.8.8.8"),
        # Not open, or no longer: grouped all the same
        ("http://127.1:9000/", "127.0.0.1"),
        ("http://localhost./", "localhost"),
        ("http://[FD00:0::1]/", "fd00::1"),
        # No URL at all
        ("", "invalid"),
        ("http://", "invalid"),
        ("http://user@example.com/", "invalid"),
        ("http://256.0.0.1/", "invalid"),
        ("http://example.com:65536/", "invalid"),
        ("http://example.com/".ljust(2049, "a"), "invalid"),
    ],
)
def test_what_leads_to_one_server_has_one_host(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize("url", PERMITTED_URLS)
def test_the_host_is_the_one_that_is_connected_to(url: str) -> None:
    assert host_of(url) == parse_http_url(url, max_chars=2048).host


@given(st.text() | st.builds("http://{}/".format, st.text()) | st.builds("http://[{}]/".format, st.text()))
def test_any_text_has_a_host_of_at_most_255_lower_case_characters(text: str) -> None:
    host = host_of(text)
    assert host == host.lower()
    assert 1 <= len(host) <= 255


# --- A resolver and servers ---------------------------------------------------------------------------------


class Resolver:
    """Stands for DNS: answers[name] is a list of answers, the last of which is repeated."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    stub = Resolver()
    stub.answers["files.example.com"] = [["127.0.0.1"]]
    monkeypatch.setattr(outbound, "_resolve", stub)
    return stub


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = cast("Server", self.server)
        server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        server.routes[self.path.partition("?")[0]](self)

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not into the test's output."""


Route = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    """A server on a free port of 127.0.0.1 that remembers its connections and requests."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), Handler)
        self.connections = 0
        self.server_names: list[str | None] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[bytes] = []
        self.routes: dict[str, Route] = {}
        self.stopping = threading.Event()

    @property
    def port(self) -> int:
        return self.server_port

    def url(self, path: str = "/", host: str = "files.example.com", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def get_request(self) -> tuple[socket.socket, Any]:
        request = super().get_request()
        self.connections += 1
        return request

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up early are what some tests are about."""


def serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(settings: Settings, resolver: Resolver) -> Iterator[Server]:
    """Plain HTTP, with loopback opened and files.example.com pointing to it."""
    settings.OUTBOUND_ALLOW = networks(LOOPBACK)
    yield from serve(Server())


@pytest.fixture
def tls_server(settings: Settings, resolver: Resolver, tmp_path: Path) -> Iterator[Server]:
    """HTTPS with a certificate for files.example.com that nobody trusts yet."""
    settings.OUTBOUND_ALLOW = networks(LOOPBACK)
    server = Server()
    pem = tmp_path / "server.pem"
    pem.write_text(PRIVATE_KEY + CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda _sock, name, _context: server.server_names.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    yield from serve(server)


@pytest.fixture
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client trusts the test certificate's authority, with the checks of chain and name as they are."""
    context = ssl.create_default_context(cadata=CERTIFICATE)
    monkeypatch.setattr(outbound, "_ssl_context", lambda: context)


def answering(status: int, body: bytes = b"", **headers: str) -> Route:
    return lambda handler: handler.answer(status, body, **headers)


def redirecting(location: str, status: int = 302) -> Route:
    return answering(status, Location=location)


def is_without_inside_details(error: OutboundError) -> bool:
    return not any(detail in str(error) for detail in ("127.", "10.", "169.", "::", "Errno", "refused"))


# What holds for every request is tested by both ways to make one.


def by_fetch(url: str, total_timeout: float = 30.0) -> bytes:
    return fetch(url, max_bytes=1_000_000, total_timeout=total_timeout).body


def by_post(url: str, total_timeout: float = 30.0) -> bytes:
    return post(url, body=b"{}", headers={}, total_timeout=total_timeout, max_answer_bytes=1_000_000).body


Send = Callable[..., bytes]
both = pytest.mark.parametrize("send", [by_fetch, by_post], ids=["fetch", "post"])


# --- The guard at the connection ----------------------------------------------------------------------------

# The host of a URL, and the addresses of its name. The server listens at 127.0.0.1.
INSIDE_HOSTS = [
    # IPv4, and its other spellings
    ("127.0.0.1", None),
    ("127.0.0.1.", None),
    ("0.0.0.0", None),
    ("10.0.0.1", None),
    ("100.64.0.1", None),
    ("169.254.169.254", None),
    ("192.168.1.1", None),
    ("224.0.0.1", None),
    ("2130706433", None),  # decimal
    ("0177.0.0.1", None),  # octal
    ("017700000001", None),
    ("0x7f000001", None),
    ("127.1", None),
    ("\uff11\uff12\uff17.1", None),
    # IPv6, and IPv4 within it
    ("[::]", None),
    ("[::1]", None),
    ("[fd00::1]", None),
    ("[fe80::1]", None),
    ("[::127.0.0.1]", None),
    ("[::ffff:127.0.0.1]", None),  # mapped
    ("[64:ff9b::127.0.0.1]", None),  # NAT64
    ("[64:ff9b:1::127.0.0.1]", None),
    ("[2002:7f00:1::]", None),  # 6to4
    ("[2001:0:7f00:1::]", None),  # Teredo
    # localhost, whatever the resolver says
    ("localhost", ["127.0.0.1"]),
    ("localhost.", ["127.0.0.1"]),
    ("LOCALHOST", ["127.0.0.1"]),
    ("a.localhost", ["8.8.8.8"]),
    # Names
    ("files.example.com", ["127.0.0.1"]),
    ("files.example.com.", ["127.0.0.1"]),
    ("files.example.com", ["::1"]),
    ("files.example.com", ["fe80::1%eth0"]),
    ("files.example.com", ["::ffff:127.0.0.1"]),
    ("files.example.com", ["64:ff9b::7f00:1"]),
    ("files.example.com", ["2002:7f00:1::"]),
    # Several addresses, one of them inside
    ("files.example.com", ["8.8.8.8", "127.0.0.1"]),
    ("files.example.com", ["127.0.0.1", "8.8.8.8"]),
    ("files.example.com", ["8.8.8.8", "10.0.0.1", "2606:4700:4700::1111"]),
    ("files.example.com", ["2606:4700:4700::1111", "::ffff:10.0.0.1"]),
]


@both
@pytest.mark.parametrize(("host", "addresses"), INSIDE_HOSTS)
def test_nothing_inside_is_connected_to(
    server: Server, resolver: Resolver, settings: Settings, host: str, addresses: list[str] | None, send: Send
) -> None:
    settings.OUTBOUND_ALLOW = ()
    if addresses is not None:
        resolver.answers[host.lower().removesuffix(".")] = [addresses]
    with pytest.raises(AddressRefused) as caught:
        send(server.url(host=host), total_timeout=2)
    assert not caught.value.is_retryable
    assert is_without_inside_details(caught.value)
    assert resolver.asked == ([] if addresses is None or "localhost" in host.lower() else ["files.example.com"])
    assert server.connections == 0


@both
@pytest.mark.parametrize(
    "url",
    [
        "http://user@127.0.0.1:{port}/",
        "http://user:password@127.0.0.1:{port}/",
        "http://@127.0.0.1:{port}/",
        "http://files.example.com@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}@files.example.com/",
        "http://127.0.0.1:{port}\\@files.example.com/",
        "http://files.example.com:0/",
        "http://files.example.com:65536/",
        "http://files.example.com:0{port}0/",
        "http://files.example.com:+{port}/",
        "http://files.example.com:-1/",
        "http://files.example.com:http/",
        "http://files.example.com:{port}:{port}/",
        "ftp://files.example.com:{port}/",
        "//files.example.com:{port}/",
        "http://[::1%25lo]:{port}/",
    ],
)
def test_userinfo_odd_ports_and_other_schemes_are_refused_where_the_address_itself_is_open(
    server: Server, resolver: Resolver, url: str, send: Send
) -> None:
    with pytest.raises(AddressRefused):
        send(url.format(port=server.port), total_timeout=2)
    assert resolver.asked == []
    assert server.connections == 0


@both
@pytest.mark.parametrize(
    ("networks_open", "is_open"),
    [
        ([], False),
        (["10.0.0.0/8", "127.0.0.2/32", "::1/128"], False),
        (["127.0.0.1/32"], True),
        (["10.0.0.0/8", "127.0.0.0/8"], True),
        (["0.0.0.0/0"], True),
    ],
)
@pytest.mark.parametrize("host", ["files.example.com", "127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
def test_the_setting_opens_its_networks_to_connections_and_no_others(
    server: Server,
    resolver: Resolver,
    settings: Settings,
    networks_open: list[str],
    is_open: bool,
    host: str,
    send: Send,
) -> None:
    settings.OUTBOUND_ALLOW = networks(*networks_open)
    resolver.answers["localhost"] = [["127.0.0.1"]]
    server.routes["/"] = answering(200, b"abc")
    if is_open:
        assert send(server.url(host=host)) == b"abc"
    else:
        with pytest.raises(AddressRefused):
            send(server.url(host=host))
    assert server.connections == (1 if is_open else 0)


@pytest.fixture
def inside(server: Server) -> Iterator[Server]:
    """A second server at the first one's port, whose address stays closed."""
    yield from serve(Server("127.0.0.2", server.port))


@both
def test_a_name_that_changes_its_answer_is_asked_once_and_connected_where_it_was_checked(
    server: Server, inside: Server, resolver: Resolver, settings: Settings, send: Send
) -> None:
    settings.OUTBOUND_ALLOW = networks("127.0.0.1/32")
    resolver.answers["files.example.com"] = [["127.0.0.1"], ["127.0.0.2"]]
    server.routes["/"] = answering(200, b"abc")
    assert send(server.url()) == b"abc"
    assert resolver.asked == ["files.example.com"]
    assert (server.connections, inside.connections) == (1, 0)


@both
def test_a_name_that_pointed_inside_when_it_was_asked_is_refused_whatever_it_says_next(
    server: Server, inside: Server, resolver: Resolver, settings: Settings, send: Send
) -> None:
    settings.OUTBOUND_ALLOW = networks("127.0.0.1/32")
    resolver.answers["files.example.com"] = [["127.0.0.2"], ["127.0.0.1"]]
    with pytest.raises(AddressRefused):
        send(server.url())
    assert resolver.asked == ["files.example.com"]
    assert (server.connections, inside.connections) == (0, 0)


@both
@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0177.0.0.1", "0x7f.0.0.1", "2130706433", "[::ffff:127.0.0.1]"])
def test_an_opened_address_is_called_without_a_resolver(
    server: Server, resolver: Resolver, host: str, send: Send
) -> None:
    server.routes["/"] = answering(200, b"abc")
    assert send(server.url(host=host)) == b"abc"
    assert resolver.asked == []


@both
def test_the_next_address_is_tried_when_one_does_not_answer(
    server: Server, resolver: Resolver, settings: Settings, send: Send
) -> None:
    # The server listens on 127.0.0.1 only, so ::1 refuses, or is unreachable on a machine without IPv6.
    settings.OUTBOUND_ALLOW = networks(LOOPBACK, "::1/128")
    resolver.answers["files.example.com"] = [["::1", "127.0.0.1"]]
    server.routes["/"] = answering(200, b"abc")
    assert send(server.url()) == b"abc"


@both
def test_a_connection_that_nobody_accepts_is_a_retryable_error(
    resolver: Resolver, settings: Settings, send: Send
) -> None:
    settings.OUTBOUND_ALLOW = networks(LOOPBACK)
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    with pytest.raises(OutboundError) as caught:
        send(f"http://files.example.com:{port}/")
    assert caught.value.is_retryable
    assert is_without_inside_details(caught.value)


@both
def test_proxies_from_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch, send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        server.routes["/"] = answering(200, b"abc")
        assert send(server.url()) == b"abc"
        with pytest.raises(BlockingIOError):
            proxy.accept()


@both
def test_the_request_keeps_the_name_and_asks_for_an_unencoded_body(server: Server, send: Send) -> None:
    server.routes["/a"] = answering(200)
    send(server.url("/a?b=c%20d#e"))
    [(path, headers)] = server.requests
    assert path == "/a?b=c%20d"
    assert headers["host"] == f"files.example.com:{server.port}"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("runflow-batch/")


@both
def test_characters_outside_ascii_are_escaped_in_the_request(server: Server, send: Send) -> None:
    server.routes["/%C3%BC"] = answering(200)
    send(server.url("/\u00fc?\u00fc"))
    assert server.requests[0][0] == "/%C3%BC?%C3%BC"


# --- Fetching -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "mime_type"),
    [
        ({"Content_Type": "Image/PNG; charset=binary"}, "image/png"),
        ({"Content_Type": "text/plain ;x"}, "text/plain"),
        ({}, ""),
    ],
)
def test_a_file_is_fetched_with_its_mime_type(server: Server, content_type: dict[str, str], mime_type: str) -> None:
    server.routes["/a"] = answering(200, b"abc", **content_type)
    url = server.url("/a")
    assert fetch(url, max_bytes=3) == Fetched(body=b"abc", mime_type=mime_type, url=url)


@pytest.mark.parametrize(
    ("url", "host_header"),
    [
        ("http://example.com/", "example.com"),
        ("http://example.com:80/", "example.com"),
        ("http://example.com:443/", "example.com:443"),
        ("https://EXAMPLE.com.:443/", "example.com"),
        ("https://example.com:80/", "example.com:80"),
        ("https://b\u00fccher.example/", "xn--bcher-kva.example"),
        ("http://[2606:4700:4700:0::1111]:8080/", "[2606:4700:4700::1111]:8080"),
        ("http://134744072/", "8.8.8.8"),
    ],
)
def test_the_host_header_has_the_canonical_name_and_only_an_unusual_port(url: str, host_header: str) -> None:
    assert parse_http_url(url, max_chars=100).host_header == host_header


# --- Names that do not resolve ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "is_retryable"),
    [(socket.EAI_NONAME, False), (socket.EAI_FAIL, False), (socket.EAI_AGAIN, True)],
)
@both
def test_only_a_temporary_resolver_failure_is_retryable(
    monkeypatch: pytest.MonkeyPatch, number: int, is_retryable: bool, send: Send
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(number, "inside detail")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OutboundError) as caught:
        send("http://files.example.com/")
    assert caught.value.is_retryable is is_retryable
    assert "inside" not in str(caught.value)


@both
def test_a_name_without_any_address_is_an_error(resolver: Resolver, send: Send) -> None:
    resolver.answers["files.example.com"] = [[]]
    with pytest.raises(OutboundError, match="resolved") as caught:
        send("http://files.example.com/")
    assert not caught.value.is_retryable


def test_the_resolver_seam_gives_each_address_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = socket.SOCK_STREAM
    answers = [
        (socket.AF_INET6, stream, 6, "", ("fe80::1%eth0", 80, 0, 2)),
        (socket.AF_INET, stream, 6, "", ("8.8.8.8", 80)),
        (socket.AF_INET, stream, 6, "", ("8.8.8.8", 80)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: answers)
    assert outbound._resolve("example.com", 80) == ["fe80::1%eth0", "8.8.8.8"]


# --- Redirects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_the_final_url_returned(server: Server, status: int) -> None:
    server.routes["/a"] = redirecting("b/../c?d", status)
    server.routes["/c"] = answering(200, b"abc")
    assert fetch(server.url("/a"), max_bytes=3).url == server.url("/c?d")


def test_a_redirect_to_another_name_is_resolved_and_sent_there(server: Server, resolver: Resolver) -> None:
    resolver.answers["other.example.com"] = [["127.0.0.1"]]
    server.routes["/a"] = redirecting(server.url("/b", host="other.example.com"))
    server.routes["/b"] = answering(200, b"abc")
    assert fetch(server.url("/a"), max_bytes=3).body == b"abc"
    assert resolver.asked == ["files.example.com", "other.example.com"]
    assert server.requests[1][1]["host"] == f"other.example.com:{server.port}"


def test_raw_characters_in_a_location_are_escaped(server: Server) -> None:
    # send_header writes latin-1, so these are the two bytes of a "ü" in UTF-8.
    server.routes["/a"] = redirecting("/b c\u00c3\u00bc")
    server.routes["/b%20c%C3%BC"] = answering(200, b"abc")
    assert fetch(server.url("/a"), max_bytes=3).body == b"abc"


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "//10.0.0.1/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://inside.example.com/",
        "http://user:password@files.example.com/",
        "ftp://files.example.com/",
        "file:///etc/passwd",
        "http://[::1",
        "http://files.example.com:99999/",
    ],
)
def test_a_redirect_to_a_forbidden_place_is_refused(server: Server, resolver: Resolver, location: str) -> None:
    resolver.answers["inside.example.com"] = [["10.0.0.1"]]
    server.routes["/a"] = redirecting(location)
    with pytest.raises(AddressRefused) as caught:
        fetch(server.url("/a"), max_bytes=1)
    assert len(server.requests) == 1
    assert is_without_inside_details(caught.value)


def test_a_redirect_to_a_name_that_turned_inside_is_refused(server: Server, resolver: Resolver) -> None:
    resolver.answers["files.example.com"] = [["127.0.0.1"], ["10.0.0.1"]]
    server.routes["/a"] = redirecting("/b")
    with pytest.raises(AddressRefused):
        fetch(server.url("/a"), max_bytes=1)


def test_five_redirects_are_followed(server: Server) -> None:
    for i in range(5):
        server.routes[f"/{i}"] = redirecting(f"/{i + 1}")
    server.routes["/5"] = answering(200, b"abc")
    assert fetch(server.url("/0"), max_bytes=3).body == b"abc"


def test_a_redirect_loop_ends_after_five(server: Server) -> None:
    server.routes["/a"] = redirecting("/a")
    with pytest.raises(OutboundError) as caught:
        fetch(server.url("/a"), max_bytes=1)
    assert not caught.value.is_retryable
    assert len(server.requests) == 6


def test_a_redirect_without_a_location_is_an_error(server: Server) -> None:
    server.routes["/a"] = answering(302)
    with pytest.raises(OutboundError):
        fetch(server.url("/a"), max_bytes=1)


# --- Statuses and sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "is_retryable"),
    [
        (304, False),
        (400, False),
        (404, False),
        (410, False),
        (408, True),
        (425, True),
        (429, True),
        (500, True),
        (503, True),
    ],
)
def test_a_status_outside_2xx_is_an_error(server: Server, status: int, is_retryable: bool) -> None:
    server.routes["/"] = answering(status)
    with pytest.raises(OutboundError, match=str(status)) as caught:
        fetch(server.url(), max_bytes=1)
    assert caught.value.is_retryable is is_retryable


def test_a_body_whose_header_says_too_large_is_not_read(server: Server) -> None:
    def send_header_only(handler: Handler) -> None:
        handler.answer(200, Content_Length="1000000")
        server.stopping.wait(5)

    server.routes["/"] = send_header_only
    started = time.monotonic()
    with pytest.raises(OutboundError, match="larger than 999999 bytes") as caught:
        fetch(server.url(), max_bytes=999_999, total_timeout=5)
    assert time.monotonic() - started < 4
    assert not caught.value.is_retryable


def test_a_chunked_body_is_left_where_it_becomes_too_large(server: Server) -> None:
    def send_forever(handler: Handler) -> None:
        handler.answer(200, Transfer_Encoding="chunked")
        while not server.stopping.is_set():
            handler.wfile.write(b"400\r\n" + b"a" * 1024 + b"\r\n")

    server.routes["/"] = send_forever
    with pytest.raises(OutboundError, match="larger than 100000 bytes"):
        fetch(server.url(), max_bytes=100_000, total_timeout=5)


def test_a_body_that_ends_with_the_connection_is_counted_too(server: Server) -> None:
    def send_without_length(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\nabcd")

    server.routes["/"] = send_without_length
    assert fetch(server.url(), max_bytes=4).body == b"abcd"
    with pytest.raises(OutboundError, match="larger than 3 bytes"):
        fetch(server.url(), max_bytes=3)


def test_a_compressed_body_is_not_accepted(server: Server) -> None:
    server.routes["/"] = answering(200, b"abc", Content_Encoding="gzip")
    with pytest.raises(OutboundError, match="compressed"):
        fetch(server.url(), max_bytes=100)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
@both
def test_an_answer_that_breaks_http_or_breaks_off_is_a_retryable_error(server: Server, raw: bytes, send: Send) -> None:
    def send_raw(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(raw)

    server.routes["/"] = send_raw
    with pytest.raises(OutboundError) as caught:
        send(server.url())
    assert caught.value.is_retryable


@both
def test_a_connection_that_is_reset_is_a_retryable_error(server: Server, send: Send) -> None:
    def reset(handler: Handler) -> None:
        # Closed without lingering: the kernel drops what is unsent and sends RST.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        os.close(handler.connection.detach())

    server.routes["/"] = reset
    with pytest.raises(OutboundError) as caught:
        send(server.url())
    assert caught.value.is_retryable
    assert isinstance(caught.value.__cause__, ConnectionResetError)


# --- Posting ------------------------------------------------------------------------------------------------

# What callbacks keep of an answer.
ANSWER_BYTES = 8 * 1024


def post_json(url: str, *, headers: dict[str, str] | None = None, total_timeout: float = 5.0) -> Answer:
    return post(url, body=b"{}", headers=headers or {}, total_timeout=total_timeout, max_answer_bytes=ANSWER_BYTES)


def test_a_post_arrives_byte_for_byte(resolver: Resolver, settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = networks(LOOPBACK)
    body = '{"text": "\u00fc\u2028\\n"}'.encode() + bytes(range(256))
    received = bytearray()

    def take(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while not received.endswith(body):
                received.extend(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nfine")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=take, args=(listener,))
        thread.start()
        answer = post(
            f"http://files.example.com:{port}/hook?a=b",
            body=body,
            headers={"Content-Type": "application/json", "webhook-id": "m-1", "Runflow-Request-Id": ""},
            total_timeout=5,
            max_answer_bytes=ANSWER_BYTES,
        )
        thread.join()
    assert answer == Answer(status=202, body=b"fine", retry_after=None)
    assert bytes(received) == (
        b"POST /hook?a=b HTTP/1.1\r\n"
        b"Host: files.example.com:%d\r\n"
        b"User-Agent: runflow-batch/%b\r\n"
        b"Connection: close\r\n"
        b"Accept: */*\r\n"
        b"Accept-Encoding: identity\r\n"
        b"Content-Type: application/json\r\n"
        b"webhook-id: m-1\r\n"
        b"Runflow-Request-Id: \r\n"
        b"Content-Length: %d\r\n"
        b"\r\n%b"
    ) % (port, __version__.encode(), len(body), body)


@pytest.mark.parametrize("status", [200, 204, 299, 304, 400, 404, 408, 410, 429, 500, 503, 599])
def test_every_status_is_an_answer(server: Server, status: int) -> None:
    body = b"" if status in {204, 304} else b"abc"
    server.routes["/"] = answering(status, body)
    assert post_json(server.url()) == Answer(status=status, body=body, retry_after=None)
    assert (len(server.requests), server.bodies) == (1, [b"{}"])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/b", "http://other.example.com:{port}/b", "http://127.0.0.1:{port}/b"])
def test_a_redirect_is_an_answer_and_is_not_followed(
    server: Server, resolver: Resolver, status: int, location: str
) -> None:
    resolver.answers["other.example.com"] = [["127.0.0.1"]]
    server.routes["/a"] = redirecting(location.format(port=server.port), status)
    server.routes["/b"] = answering(200, b"abc")
    assert post_json(server.url("/a")) == Answer(status=status, body=b"", retry_after=None)
    assert [path for path, _ in server.requests] == ["/a"]
    assert resolver.asked == ["files.example.com"]
    assert server.connections == 1


def test_a_compressed_answer_is_kept_as_it_came(server: Server) -> None:
    compressed = gzip.compress(b"a" * 100_000)
    server.routes["/"] = answering(200, compressed, Content_Encoding="gzip")
    assert post_json(server.url()).body == compressed


@pytest.mark.parametrize("length", [ANSWER_BYTES - 1, ANSWER_BYTES, ANSWER_BYTES + 1])
def test_an_answer_is_kept_up_to_its_limit(server: Server, length: int) -> None:
    server.routes["/"] = answering(500, b"a" * length)
    assert post_json(server.url()).body == b"a" * min(length, ANSWER_BYTES)


def test_an_answer_that_never_ends_is_left_at_its_limit_and_hung_up_on(server: Server) -> None:
    hung_up = threading.Event()

    def send_forever(handler: Handler) -> None:
        handler.answer(200, Transfer_Encoding="chunked")
        try:
            while not server.stopping.is_set():
                handler.wfile.write(b"400\r\n" + b"a" * 1024 + b"\r\n")
        except ConnectionError:
            hung_up.set()

    server.routes["/"] = send_forever
    assert post_json(server.url()) == Answer(status=200, body=b"a" * ANSWER_BYTES, retry_after=None)
    wait_until(hung_up.is_set, what="the server to notice that nobody reads")


def test_what_is_beyond_the_limit_is_not_waited_for(server: Server) -> None:
    def stall(handler: Handler) -> None:
        handler.answer(200, b"a" * ANSWER_BYTES, Content_Length="1000000")
        server.stopping.wait(5)

    server.routes["/"] = stall
    started = time.monotonic()
    assert post_json(server.url()).body == b"a" * ANSWER_BYTES
    assert time.monotonic() - started < 4


def test_a_body_that_stalls_before_the_limit_is_no_answer(server: Server) -> None:
    def stall(handler: Handler) -> None:
        handler.answer(200, b"a" * 100, Content_Length="101")
        server.stopping.wait(5)

    server.routes["/"] = stall
    started = time.monotonic()
    with pytest.raises(OutboundError, match="in time") as caught:
        post_json(server.url(), total_timeout=0.2)
    assert time.monotonic() - started < 2
    assert caught.value.is_retryable


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("0120", 120.0),
        ("-5", 0.0),
        ("9" * 5000, float("inf")),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
        ("", None),
        ("soon", None),
        ("1.5", None),
        ("+5", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("5 s", None),
        ("5, 6", None),
        ("\u00b2", None),
        ("Sun, 31 Feb 2100 00:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 +0100", None),
        ("2100-01-01T00:00:00Z", None),
    ],
)
def test_a_pause_that_the_server_asks_for_is_told_in_seconds(
    server: Server, header: str, seconds: float | None
) -> None:
    server.routes["/"] = answering(503, Retry_After=header)
    assert post_json(server.url()) == Answer(status=503, body=b"", retry_after=seconds)


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"])
def test_a_pause_until_a_date_is_told_in_seconds_from_now(server: Server, form: str) -> None:
    moment = int(time.time()) + 120
    server.routes["/"] = answering(503, Retry_After=time.strftime(form, time.gmtime(moment)))
    pause = post_json(server.url()).retry_after
    assert pause is not None
    assert moment - time.time() <= pause <= 120


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Ours", "a\r\nX-Theirs: b"),
        ("X-Ours", "a\nb"),
        ("X-Ours", "a\rb"),
        ("X-Ours", "a\x00b"),
        ("X-Ours", "a\r\n\r\nPOST / HTTP/1.1"),
        ("X-Ours\r\nX-Theirs", "b"),
        ("X-Ours\n", "b"),
        ("X-Ours\x00", "b"),
        ("X Ours", "b"),
        ("", "b"),
    ],
)
def test_a_header_that_http_does_not_allow_is_the_caller_s_mistake(server: Server, name: str, value: str) -> None:
    server.routes["/"] = answering(200)
    with pytest.raises(httpcore.LocalProtocolError):
        post_json(server.url(), headers={name: value})
    assert server.requests == []


def test_a_header_outside_ascii_is_the_caller_s_mistake(server: Server) -> None:
    with pytest.raises(UnicodeEncodeError):
        post_json(server.url(), headers={"X-Ours": "\u00fc"})
    assert server.connections == 0


# --- The deadline -------------------------------------------------------------------------------------------


def drip_body(handler: Handler) -> None:
    handler.answer(200, Content_Length="1000")
    drip(handler)


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drip(handler)


def drip_interim_answers(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def drip(handler: Handler, piece: bytes = b"a") -> None:
    for _ in range(250):
        if cast("Server", handler.server).stopping.wait(0.02):
            return
        handler.wfile.write(piece)


@both
@pytest.mark.parametrize("route", [drip_body, drip_headers, drip_interim_answers])
def test_a_server_that_drips_does_not_pass_the_total_deadline(server: Server, route: Route, send: Send) -> None:
    server.routes["/"] = route
    started = time.monotonic()
    with pytest.raises(OutboundError, match="in time") as caught:
        send(server.url(), total_timeout=0.2)
    assert time.monotonic() - started < 2
    assert caught.value.is_retryable


@both
@pytest.mark.parametrize("host", ["files.example.com", "127.0.0.1"])
def test_nothing_is_connected_once_the_deadline_has_passed(server: Server, host: str, send: Send) -> None:
    with pytest.raises(OutboundError, match="in time"):
        send(server.url(host=host), total_timeout=0)
    assert server.connections == 0


@both
@pytest.mark.parametrize(("total_timeout", "at_most"), [(15.0, 5.0), (1.0, 1.0)])
def test_each_connection_attempt_has_five_seconds_within_the_deadline(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver, total_timeout: float, at_most: float, send: Send
) -> None:
    attempts: list[tuple[tuple[str, int], float]] = []

    def time_out(address: tuple[str, int], timeout: float) -> socket.socket:
        attempts.append((address, timeout))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", time_out)
    resolver.answers["files.example.com"] = [["2606:4700:4700::1111", "8.8.8.8"]]
    with pytest.raises(OutboundError, match="in time") as caught:
        send("https://files.example.com/", total_timeout=total_timeout)
    assert caught.value.is_retryable
    assert [address for address, _ in attempts] == [("2606:4700:4700::1111", 443), ("8.8.8.8", 443)]
    assert all(at_most / 2 < timeout <= at_most for _, timeout in attempts)


def test_the_deadline_is_for_all_redirects_together(server: Server) -> None:
    def redirect_slowly(handler: Handler) -> None:
        server.stopping.wait(0.15)
        handler.answer(302, Location="/")

    server.routes["/"] = redirect_slowly
    with pytest.raises(OutboundError, match="in time"):
        fetch(server.url(), max_bytes=1, total_timeout=0.4)
    assert len(server.requests) < 6


@both
def test_a_tls_handshake_that_hangs_ends_at_the_deadline(resolver: Resolver, settings: Settings, send: Send) -> None:
    settings.OUTBOUND_ALLOW = networks(LOOPBACK)
    # Connections are made by the kernel's backlog; nobody accepts them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(OutboundError, match="in time"):
            send(f"https://files.example.com:{silent.getsockname()[1]}/", total_timeout=0.2)
        assert time.monotonic() - started < 2


@both
def test_a_resolver_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch, send: Send) -> None:
    released = threading.Event()

    def hang(_host: str, _port: int) -> list[str]:
        released.wait(5)
        return []

    monkeypatch.setattr(outbound, "_resolve", hang)
    started = time.monotonic()
    with pytest.raises(OutboundError, match="in time") as caught:
        send("http://files.example.com/", total_timeout=0.1)
    assert time.monotonic() - started < 2
    assert caught.value.is_retryable
    released.set()


# --- TLS ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.usefixtures("_trusted")
def test_a_certificate_for_the_name_is_accepted_although_the_connection_goes_to_an_address(
    tls_server: Server, send: Send
) -> None:
    tls_server.routes["/"] = answering(200, b"abc")
    assert send(tls_server.url(scheme="https")) == b"abc"
    assert tls_server.server_names == ["files.example.com"]


@both
def test_a_self_signed_certificate_is_an_error(tls_server: Server, send: Send) -> None:
    with pytest.raises(OutboundError, match="certificate") as caught:
        send(tls_server.url(scheme="https"))
    assert not caught.value.is_retryable
    assert tls_server.requests == []


@both
@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("host", ["other.example.com", "127.0.0.1"])
def test_a_certificate_for_another_name_is_an_error(
    tls_server: Server, resolver: Resolver, host: str, send: Send
) -> None:
    resolver.answers["other.example.com"] = [["127.0.0.1"]]
    with pytest.raises(OutboundError, match="certificate"):
        send(tls_server.url(host=host, scheme="https"))
    assert tls_server.requests == []


@pytest.mark.usefixtures("_trusted")
def test_a_redirect_from_https_to_http_is_followed_and_checked(tls_server: Server, resolver: Resolver) -> None:
    resolver.answers["inside.example.com"] = [["10.0.0.1"]]
    tls_server.routes["/"] = redirecting("http://inside.example.com/")
    with pytest.raises(AddressRefused):
        fetch(tls_server.url(scheme="https"), max_bytes=1)
    assert resolver.asked == ["files.example.com", "inside.example.com"]


@both
def test_plain_http_on_a_tls_port_and_the_reverse_are_errors(server: Server, tls_server: Server, send: Send) -> None:
    for url in (server.url(scheme="https"), tls_server.url(scheme="http")):
        with pytest.raises(OutboundError) as caught:
            send(url, total_timeout=5)
        assert caught.value.is_retryable


# --- Errors -------------------------------------------------------------------------------------------------


def test_errors_survive_pickling_as_they_cross_process_borders() -> None:
    error = pickle.loads(pickle.dumps(OutboundError("later", is_retryable=True)))  # noqa: S301 -- our own bytes
    assert (str(error), error.is_retryable) == ("later", True)
    assert isinstance(pickle.loads(pickle.dumps(AddressRefused("no"))), AddressRefused)  # noqa: S301
