"""Which addresses the server may connect to when a customer names them: rules without sockets, settings or DNS."""

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# All of IPv4 that is no ordinary public host: the IANA special-purpose registry (RFC 6890), and more.
_REFUSED_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network (RFC 1122); Linux takes 0.0.0.0 for itself
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); one cloud's metadata service is in it
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # Azure's host agent: a public number that answers only inside that cloud
        "169.254.0.0/16",  # link-local (RFC 3927), most clouds' metadata services
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890); another cloud's metadata service
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays, withdrawn (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112), and the broadcast address
    )
)
# IANA gives out public IPv6 addresses from this network only (RFC 4291 section 2.4). Outside it lie ::/8 with
# the unspecified, the loopback and the IPv4-compatible addresses, 64:ff9b:1::/48 (local NAT64, RFC 8215),
# 100::/64 (discard, RFC 6666), 5f00::/16 (SRv6, RFC 9602), fc00::/7 (ULA), fe80::/10, fec0::/10 and ff00::/8.
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments (RFC 2928): Teredo, benchmarks, ORCHID; no web server among them
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4, withdrawn (RFC 7526)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_allowed_address(ip: Address, allow: Iterable[Network]) -> bool:
    """Whether a connection to `ip` may be made: it is public, or `allow` has it.

    `ipaddress`' own `is_global` is no guard: on Python 3.11 it is true for the NAT64 and 6to4 forms of
    127.0.0.1, and for multicast.

    Forms that carry an IPv4 address: the mapped (RFC 4291) and the NAT64 form (RFC 6052) are as good as that
    address, since that is where a connection goes. IPv4-compatible, 6to4 and Teredo addresses are refused
    whatever they carry: those mechanisms are withdrawn, and no web server is behind one. `allow` opens each
    of these by the outer or by the inner address. Local NAT64 (RFC 8215) is opened by its own prefix only, as
    nothing says where in the address the IPv4 part is.
    """
    allow = tuple(allow)
    embedded = _embedded_ipv4(ip)
    if _is_within(ip, allow) or (embedded and all(_is_within(inner, allow) for inner in embedded)):
        return True
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip in _NAT64):
        return all(_is_public(inner) for inner in embedded)
    return _is_public(ip)


def _is_within(ip: Address, networks: Iterable[Network]) -> bool:
    return any(ip in network for network in networks)


def _is_public(ip: Address) -> bool:
    if isinstance(ip, ipaddress.IPv4Address):
        return not _is_within(ip, _REFUSED_IPV4)
    return ip in _PUBLIC_IPV6 and not _is_within(ip, _REFUSED_IPV6)


def _embedded_ipv4(ip: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address stands for. Teredo (RFC 4380) has two: server and client."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ()
    if ip.ipv4_mapped is not None:
        return (ip.ipv4_mapped,)
    if ip.sixtofour is not None:
        return (ip.sixtofour,)
    if ip.teredo is not None:
        return ip.teredo
    # :: and ::1 lie in the compatible network (RFC 4291 section 2.5.5.1) but stand for themselves.
    if ip in _NAT64 or (ip in _IPV4_COMPATIBLE and int(ip) > 1):
        return (ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF),)
    return ()
