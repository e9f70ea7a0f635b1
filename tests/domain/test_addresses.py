"""Which addresses may be dialled: every forbidden range, under every disguise."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.domain.addresses import Network, is_allowed, refusal_of_address

FORBIDDEN_V4: list[Network] = [
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
]  # fmt: skip
FORBIDDEN_V6: list[Network] = [
    ip_network(text)
    for text in (
        "::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
        "3fff::/20", "4000::/2", "8000::/1", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "fd00:ec2::254/128",
    )
]  # fmt: skip
EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))

DISGUISES: dict[str, Callable[[int], int]] = {
    "IPv4-mapped": lambda v4: 0xFFFF << 32 | v4,
    "IPv4-compatible": lambda v4: v4,
    "NAT64": lambda v4: 0x64_FF9B << 96 | v4,
    "local NAT64": lambda v4: 0x64_FF9B_0001 << 80 | v4,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "Teredo server": lambda v4: 0x2001 << 112 | v4 << 64 | ~0x0808_0808 & 0xFFFF_FFFF,
    "Teredo client": lambda v4: 0x2001 << 112 | 0x0808_0808 << 64 | ~v4 & 0xFFFF_FFFF,
    "ISATAP": lambda v4: 0x2A00_1450 << 96 | 0x5EFE << 32 | v4,
    "ISATAP, universal": lambda v4: 0x2A00_1450 << 96 | 0x0200_5EFE << 32 | v4,
}


def in_any(networks: list[Network]) -> st.SearchStrategy[int]:
    """The number of an address in one of the networks, first and last ones often."""
    return st.sampled_from(networks).flatmap(in_one)


def in_one(network: Network) -> st.SearchStrategy[int]:
    return st.integers(int(network.network_address), int(network.broadcast_address))


forbidden_v4 = in_any(FORBIDDEN_V4)
forbidden_v6 = in_any(FORBIDDEN_V6)


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "no address of a host"),
        ("::", "no address of a host"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("fd12::1", "private"),
        ("100.127.0.1", "carrier"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("192.0.0.192", "metadata"),
        ("192.0.2.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "reserved"),
        ("5f00::1", "not a public address"),
        ("::ffff:127.0.0.1", "means 127.0.0.1, a loopback address"),
        ("::ffff:a9fe:a9fe", "means 169.254.169.254, an address of a cloud's metadata service"),
        ("::127.0.0.1", "not a public address"),
        ("64:ff9b::a9fe:a9fe", "means 169.254.169.254"),
        ("64:ff9b:1::8.8.8.8", "local NAT64"),
        ("2002:7f00:1::1", "reserved"),
        ("2001:0:808:808::", "reserved"),
        ("2a00:1450::5efe:10.0.0.1", "means 10.0.0.1"),
        ("fe80::1%2", "zone id"),
        ("2a00:1450::1%eth0", "zone id"),
        ("0177.0.0.1", "no IP address"),
        ("127.1", "no IP address"),
        ("2130706433", "no IP address"),
        ("0x7f000001", "no IP address"),
        ("example.com", "no IP address"),
        ("", "no IP address"),
    ],
)
def test_what_is_refused_and_why(ip: str, why: str) -> None:
    refusal = refusal_of_address(ip, ())
    assert refusal is not None
    assert ip in refusal
    assert why in refusal


@pytest.mark.parametrize(
    "ip",
    ["1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0", "198.17.255.255",
     "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808",
     "2a00:1450::5efe:8.8.8.8"],
)  # fmt: skip
def test_public_addresses_are_not_refused(ip: str) -> None:
    """Those of an IPv6-only network that reaches IPv4 through NAT64 among them."""
    assert refusal_of_address(ip, ()) is None


@pytest.mark.parametrize("disguise", DISGUISES)
@given(number=forbidden_v4)
def test_no_forbidden_ipv4_address_is_admitted_under_any_disguise(disguise: str, number: int) -> None:
    assert refusal_of_address(str(IPv4Address(number)), ()) is not None
    assert refusal_of_address(str(IPv6Address(DISGUISES[disguise](number))), ()) is not None


@given(forbidden_v6)
def test_no_forbidden_ipv6_address_is_admitted(number: int) -> None:
    assert refusal_of_address(str(IPv6Address(number)), ()) is not None


@given(st.ip_addresses())
def test_our_table_is_stricter_than_the_one_of_python(ip: IPv4Address | IPv6Address) -> None:
    """``is_global`` has holes, but what it calls private is so."""
    if refusal_of_address(str(ip), ()) is None and not str(ip).startswith("64:ff9b::"):
        assert (getattr(ip, "ipv4_mapped", None) or ip).is_global


@pytest.mark.parametrize("disguise", ["", *DISGUISES])
@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.169.254", "100.100.100.200", "168.63.129.16"]
)
def test_not_even_allowing_everything_admits_these(ip: str, disguise: str) -> None:
    """What no receiver can have, and what hands out credentials."""
    number = int(IPv4Address(ip))
    seen = str(IPv6Address(DISGUISES[disguise](number))) if disguise else ip
    assert refusal_of_address(seen, EVERYTHING) is not None


@pytest.mark.parametrize("ip", ["fd00:ec2::254", "fe80::1", "64:ff9b:1::808:808", "ff02::1", "::"])
def test_nor_do_these_of_ipv6(ip: str) -> None:
    assert refusal_of_address(ip, EVERYTHING) is not None


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("::1", "::1/128"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("64:ff9b::10.1.2.3", "10.0.0.0/8"),
        ("fd12::1", "fd12::/16"),
        ("192.0.2.1", "192.0.2.0/24"),
        ("169.254.169.254", "169.254.169.254/32"),
        ("169.254.20.10", "169.254.20.10/32"),
        ("fd00:ec2::254", "fd00:ec2::254/128"),
        ("64:ff9b:1::10.0.0.1", "64:ff9b:1::10.0.0.1/128"),
    ],
)
def test_an_allowed_network_admits(ip: str, network: str) -> None:
    assert refusal_of_address(ip, [ip_network("203.0.113.0/24"), ip_network(network)]) is None


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("169.254.169.254", "169.254.169.254/31"),
        ("169.254.20.10", "169.254.0.0/16"),
        ("fd00:ec2::254", "fd00::/8"),
        ("64:ff9b::10.0.0.1", "64:ff9b::/96"),
        ("64:ff9b::a9fe:a9fe", "::/0"),
        ("::ffff:10.0.0.1", "::ffff:0:0/96"),
        ("2002:a00:1::1", "2002::/16"),
        ("2002:a00:1::1", "10.0.0.0/8"),
        ("2a00:1450::5efe:10.0.0.1", "2a00:1450::/32"),
        ("11.0.0.1%1", "11.0.0.0/8"),
    ],
)
def test_an_allowed_network_admits_nothing_by_the_way(ip: str, network: str) -> None:
    """Only an address itself and what it means, each in a network that was named; the wrapping is not the content."""
    assert refusal_of_address(ip, [ip_network(network)]) is not None


def test_plain_http_goes_only_where_a_network_says_so() -> None:
    networks = [ip_network("10.0.0.0/8")]
    assert is_allowed("10.1.2.3", networks)
    assert is_allowed("::ffff:10.1.2.3", networks)
    assert not is_allowed("8.8.8.8", networks)
