"""Which addresses a webhook may be sent to: a table of our own, asked about the very address to be dialled.

``ipaddress.is_global`` is no such check: it says yes to ``64:ff9b::a9fe:a9fe``, which is 169.254.169.254 behind a NAT64
gateway, and its answers change between releases of Python. Here IPv6 is refused unless it is known to be public, an
address that carries another inside is judged by both, and what a network of the operator admits is said in one place.
Ranges: https://www.iana.org/assignments/iana-ipv4-special-registry and …-ipv6-special-registry, read 2026-11.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


_NEVER: Final = (
    ("no address of a host", _networks("0.0.0.0/8", "::/128")),
    ("a multicast address", _networks("224.0.0.0/4", "ff00::/8")),
    ("a reserved address", _networks("240.0.0.0/4")),
)
"""No receiver can live there (0.0.0.0 would reach this machine): not even an allowed network admits them."""

_BY_NAME: Final = (
    (
        "an address of a cloud's metadata service",
        _networks(
            "169.254.169.254/32",  # AWS, Azure, Google and most others
            "169.254.170.2/32",  # AWS ECS: the task's credentials
            "169.254.170.23/32",  # AWS EKS Pod Identity
            "fd00:ec2::254/128",  # AWS
            "fd00:ec2::23/128",  # AWS EKS Pod Identity
            "fd20:ce::254/128",  # Google
            "100.100.100.200/32",  # Alibaba
            "192.0.0.192/32",  # Oracle
            "168.63.129.16/32",  # Azure's host agent: a public range, and yet this machine's own
        ),
    ),
    ("a link-local address", _networks("169.254.0.0/16", "fe80::/10")),
    # Where in it the IPv4 address stands, only the gateway knows: RFC 8215, section 3.
    ("an address behind a local NAT64 gateway", _networks("64:ff9b:1::/48")),
)
"""Admitted only by a network that is this one address: here credentials are handed out to whoever asks, and nobody
should let that happen by allowing a wide range."""

_PRIVATE: Final = (
    ("a loopback address", _networks("127.0.0.0/8", "::1/128")),
    ("a private address", _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
    ("an address shared by a carrier's customers", _networks("100.64.0.0/10")),
    (
        "a reserved address",
        _networks(
            "192.0.0.0/24",  # IETF protocol assignments
            "192.0.2.0/24",  # documentation, as are these two
            "198.51.100.0/24",
            "203.0.113.0/24",
            "192.88.99.0/24",  # 6to4 relays
            "198.18.0.0/15",  # benchmarks
            "2001::/23",  # IETF protocol assignments, Teredo among them
            "2001:db8::/32",  # documentation, as is the next
            "3fff::/20",
            "2002::/16",  # 6to4
        ),
    ),
)
_PUBLIC_V6: Final = _networks(
    "2000::/3",  # all that IANA has assigned as global unicast
    "64:ff9b::/96",  # public IPv4 hosts seen through NAT64: how an IPv6-only network reaches them
)

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = 0x5EFE
_LOW_32: Final = 0xFFFF_FFFF


def refusal_of_address(ip: str, allowed: Sequence[Network]) -> str | None:
    """Why nothing may be sent to ``ip``, in words that name it; ``None`` when it may be dialled.

    ``ip`` is canonical, as ``getaddrinfo`` gives it; zone ids and every other spelling are refused. An address is
    public, or one of ``allowed`` contains it. One that carries IPv4 addresses inside (NAT64, 6to4, Teredo, …) needs
    that for itself and for each of them: allowing 10.0.0.0/8 admits ``64:ff9b::10.0.0.1``, allowing ``64:ff9b::/96``
    does not. An IPv4-mapped address is the IPv4 address, and only that. ``allowed`` never admits what ``_NEVER`` lists,
    and what ``_BY_NAME`` lists only by a network of that single address.
    """
    if "%" in ip:
        return f"{ip} has a zone id"
    try:
        address = ip_address(ip)
    except ValueError:
        return f"{ip!r} is no IP address"
    if isinstance(address, IPv6Address) and address in _MAPPED:
        address = _v4(int(address))
    for meaning in (address, *_embedded(address)):
        if (reason := _refusal(meaning, allowed)) is not None:
            return f"{ip} is {reason}" if str(meaning) == ip else f"{ip} means {meaning}, {reason}"
    return None


def is_allowed(ip: str, allowed: Sequence[Network]) -> bool:
    """Whether a network of ``allowed`` contains the address, which may be dialled: plain ``http`` goes only there."""
    address = ip_address(ip)
    if isinstance(address, IPv6Address) and address in _MAPPED:
        address = _v4(int(address))
    return any(address in network for network in allowed)


def _refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    if (reason := _kind(_NEVER, address)) is not None:
        return reason
    containing = [network for network in allowed if address in network]
    if (reason := _kind(_BY_NAME, address)) is not None:
        return None if any(network.num_addresses == 1 for network in containing) else reason
    if containing:
        return None
    if (reason := _kind(_PRIVATE, address)) is not None:
        return reason
    if isinstance(address, IPv6Address) and not any(address in network for network in _PUBLIC_V6):
        return "not a public address"
    return None


def _kind(table: Sequence[tuple[str, tuple[Network, ...]]], address: Address) -> str | None:
    return next((kind for kind, networks in table if any(address in network for network in networks)), None)


def _embedded(address: Address) -> Iterator[IPv4Address]:
    """Every IPv4 address that a router, a gateway or this machine may read out of an IPv6 address."""
    if not isinstance(address, IPv6Address):
        return
    bits = int(address)
    if address in _NAT64 or (address in _COMPATIBLE and bits > 1):  # `::` and `::1` are addresses of their own
        yield _v4(bits)
    elif address in _6TO4:
        yield _v4(bits >> 80)
    elif address in _TEREDO:
        yield _v4(bits >> 64)  # the server
        yield _v4(~bits)  # the client, its bits inverted
    if bits >> 32 & 0xFCFF_FFFF == _ISATAP:  # the universal and group bits may be set or not: RFC 5214, section 6.1
        yield _v4(bits)


def _v4(bits: int) -> IPv4Address:
    return IPv4Address(bits & _LOW_32)
