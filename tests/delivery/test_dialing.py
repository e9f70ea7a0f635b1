"""Where a connection goes: to the address that was checked, under the name that was asked for."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.delivery.means import PARCEL, Mailer, silent
from tests.upstream.server import answering, serving
from unhurried.clock import Ms
from unhurried.delivery.names import LOOKUPS_MAX, Names
from unhurried.domain.delivering import Delivered, Misconfigured, Target, TryAgain
from unhurried.settings import DeliverySettings

Make = Callable[..., Mailer]
NOW = Ms(1_795_334_400_000)


def port(url: str) -> str:
    return url.rpartition(":")[2]


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to connect, none of which is made."""
    tried: list[Any] = []

    async def refuse(_loop: Any, _socket: Any, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError(111, "not in this test")

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", refuse)
    return tried


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("localhost", id="a name for loopback"),
        pytest.param("127.1", id="short form"),
        pytest.param("2130706433", id="decimal"),
        pytest.param("0x7f000001", id="hexadecimal"),
        pytest.param("0177.0.0.1", id="octal"),
        pytest.param("0x7f.1", id="mixed"),
        pytest.param("0", id="zero"),
        pytest.param("0.0.0.0", id="any"),
        pytest.param("10.0.0.1", id="private 10/8"),
        pytest.param("172.16.0.1", id="private 172.16/12"),
        pytest.param("192.168.1.1", id="private 192.168/16"),
        pytest.param("100.64.0.1", id="shared"),
        pytest.param("169.254.169.254", id="metadata"),
        pytest.param("2852039166", id="metadata, decimal"),
        pytest.param("224.0.0.1", id="multicast"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("::1", id="IPv6 loopback"),
        pytest.param("::", id="IPv6 any"),
        pytest.param("::ffff:127.0.0.1", id="IPv4-mapped"),
        pytest.param("::ffff:7f00:1", id="IPv4-mapped, hexadecimal"),
        pytest.param("::127.0.0.1", id="IPv4-compatible"),
        pytest.param("64:ff9b::a9fe:a9fe", id="NAT64 of metadata"),
        pytest.param("64:ff9b:1::a00:1", id="local NAT64"),
        pytest.param("2002:7f00:1::1", id="6to4 of loopback"),
        pytest.param("2001:0:7f00:1::", id="Teredo of loopback"),
        pytest.param("fd00:ec2::254", id="IPv6 metadata"),
        pytest.param("fc00::1", id="unique local"),
        pytest.param("fe80::1", id="link-local"),
        pytest.param("fe80::1%1", id="link-local with a zone"),
        pytest.param("ff02::1", id="IPv6 multicast"),
    ],
)
@pytest.mark.parametrize("kind", ["https", "http"])
async def test_a_forbidden_address_is_refused_when_it_is_dialled(
    mailer: Make, no_connections: list[Any], host: str, kind: Any
) -> None:
    """However it got past the parser: a name can stand for any of these by then."""
    target = Target(kind, host, 443, "/", "", "")
    outcome = await mailer(allowed_networks=[]).webhooks.send(target, [], PARCEL, NOW)
    assert isinstance(outcome, Misconfigured), outcome
    assert outcome.detail.startswith(f"{host} cannot be sent to: ")
    assert outcome.detail.endswith("(see UNHURRIED_DELIVERY__ALLOWED_NETWORKS)")
    assert no_connections == []


async def test_a_public_address_is_dialled_over_tls_and_only_so(mailer: Make, no_connections: list[Any]) -> None:
    assert isinstance(await mailer().send("https://8.8.8.8/"), TryAgain)
    assert no_connections == [("8.8.8.8", 443)]
    outcome = await mailer().send("http://8.8.8.8/")
    assert isinstance(outcome, Misconfigured)
    assert "plain http goes only there" in outcome.detail
    assert no_connections == [("8.8.8.8", 443)]


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.com", ""])
def test_a_network_that_is_none_is_an_error_of_the_settings(text: str) -> None:
    """Not an entry that silently admits nothing, or more than was meant."""
    with pytest.raises(ValidationError):
        DeliverySettings.model_validate({"allowed_networks": [text]})


async def test_only_addresses_that_passed_are_dialled(
    mailer: Make, names: dict[str, list[str]], no_connections: list[Any]
) -> None:
    names["hook.example"] = ["10.0.0.1", "8.8.8.8", "169.254.169.254", "64:ff9b::a00:1", "1.1.1.1"]
    assert isinstance(await mailer().send("https://hook.example:8443/"), TryAgain)
    assert no_connections == [("8.8.8.8", 8443), ("1.1.1.1", 8443)]


async def test_a_name_with_none_of_these_is_refused_with_every_reason(
    mailer: Make, names: dict[str, list[str]]
) -> None:
    names["hook.example"] = ["10.0.0.1", "169.254.169.254"]
    assert await mailer().send("https://hook.example/") == Misconfigured(
        detail="hook.example cannot be sent to: 10.0.0.1 is a private address; 169.254.169.254 is an address of a"
        " cloud's metadata service (see UNHURRIED_DELIVERY__ALLOWED_NETWORKS)"
    )


async def test_a_name_is_resolved_once_and_what_it_says_later_does_not_matter(
    mailer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the check sees one address, and the connection would see another."""
    async with serving(answering(200)) as inside, serving(answering(200)) as outside:
        asked = []
        ask = socket.getaddrinfo

        def rebinding(host: Any, *more: Any, **named: Any) -> Any:
            if host != "hook.example":
                return ask(host, *more, **named)
            asked.append(host)
            return ask("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *more, **named)

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        url = f"http://hook.example:{port(outside.url)}/"
        assert await mailer(allowed_networks=["127.0.0.1/32"]).send(url) == Delivered(status=200)
        assert asked == ["hook.example"]
        assert outside.calls[0].headers["host"] == url[7:-1]
        assert inside.connections == 0


async def test_the_next_address_is_tried_where_one_is_down(mailer: Make, names: dict[str, list[str]]) -> None:
    async with serving(answering(200)) as server:
        names["hook.example"] = ["127.0.0.9", "127.0.0.1"]
        assert await mailer().send(f"http://hook.example:{port(server.url)}/") == Delivered(status=200)


async def test_a_name_that_does_not_resolve_is_an_ordinary_failure(mailer: Make, names: dict[str, list[str]]) -> None:
    names["hook.example"] = []
    outcome = await mailer().send("https://hook.example/path?token=1")
    assert outcome == TryAgain(detail="https://hook.example: OSError: [Errno -2] Name or service not known")


async def test_tls_is_for_the_name_and_so_is_the_host(
    mailer: Make, names: dict[str, list[str]], certificate: Path, tls: ssl.SSLContext
) -> None:
    asked: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with serving(answering(200), tls=tls) as server:
        names["hook.example"] = ["127.0.0.1"]
        url = f"https://hook.example:{port(server.url)}/"
        assert await mailer(ca_file=str(certificate)).send(url) == Delivered(status=200)
    assert asked == ["hook.example"]
    assert server.calls[0].headers["host"] == f"hook.example:{port(server.url)}"


async def test_a_certificate_for_an_address_is_good_for_it(
    mailer: Make, certificate: Path, tls: ssl.SSLContext
) -> None:
    async with serving(answering(200), tls=tls) as server:
        url = f"https://127.0.0.1:{port(server.url)}/"
        assert await mailer(ca_file=str(certificate)).send(url) == Delivered(status=200)


@pytest.mark.parametrize(
    ("name", "trusted", "says"),
    [("other.example", True, "not valid for 'other.example'"), ("hook.example", False, "certificate verify failed")],
)
async def test_a_certificate_that_is_not_good_is_a_failed_attempt(
    mailer: Make,
    names: dict[str, list[str]],
    certificate: Path,
    tls: ssl.SSLContext,
    name: str,
    trusted: bool,
    says: str,
) -> None:
    async with serving(answering(200), tls=tls) as server:
        names[name] = ["127.0.0.1"]
        mail = mailer(**({"ca_file": str(certificate)} if trusted else {}))
        outcome = await mail.send(f"https://{name}:{port(server.url)}/")
        assert isinstance(outcome, TryAgain)
        assert says in outcome.detail
        assert server.calls == []


async def test_a_receiver_that_never_finishes_the_handshake(mailer: Make) -> None:
    async with serving(silent) as server:
        outcome = await mailer(connect_timeout_s=0.3).send(f"https://localhost:{port(server.url)}/")
        assert isinstance(outcome, TryAgain)
        assert "ConnectTimeout" in outcome.detail


async def test_certificates_that_cannot_be_read_send_nothing(mailer: Make, tmp_path: Path) -> None:
    assert await mailer(ca_file=str(tmp_path / "nowhere.pem")).send("https://localhost/") == Misconfigured(
        detail="UNHURRIED_DELIVERY__CA_FILE cannot be used: No such file or directory"
    )


# Look-ups.


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A resolver that answers only when its event is set; it counts who asks."""

    class Stuck:
        go_on = threading.Event()
        asked: list[str]

    stuck = Stuck()
    stuck.go_on, stuck.asked = threading.Event(), []

    def wait(host: str, *_: Any, **__: Any) -> Any:
        stuck.asked.append(host)
        assert stuck.go_on.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield stuck
    stuck.go_on.set()


async def test_a_resolver_that_hangs_costs_the_time_for_a_connection(mailer: Make, stuck: Any) -> None:
    outcome = await mailer(connect_timeout_s=0.2).send("https://hook.example/")
    assert outcome == TryAgain(detail="https://hook.example: ConnectTimeout: looking up hook.example takes too long")


async def test_one_name_is_looked_up_once_at_a_time(stuck: Any) -> None:
    names = Names()
    waiting = [asyncio.ensure_future(names.addresses("hook.example")) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # whoever leaves takes nothing from the others
    stuck.go_on.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(each, OSError) for each in found[1:])
    assert stuck.asked == ["hook.example"]
    with pytest.raises(OSError, match="Temporary failure"):
        await names.addresses("hook.example")
    assert stuck.asked == ["hook.example"] * 2


async def test_hanging_look_ups_are_limited(stuck: Any) -> None:
    names = Names()
    waiting = [asyncio.ensure_future(names.addresses(f"{n}.example")) for n in range(LOOKUPS_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="other host names"):
        await names.addresses("one.too.many")
    assert await names.addresses("192.0.2.1") == ["192.0.2.1"]
    stuck.go_on.set()
    assert all(isinstance(each, OSError) for each in await asyncio.gather(*waiting, return_exceptions=True))


async def test_without_a_thread_to_spare_it_is_an_ordinary_failure(
    mailer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    outcome = await mailer().send("http://hook.example/")
    assert isinstance(outcome, TryAgain)
    assert "can't start new thread" in outcome.detail


async def test_a_name_that_python_cannot_encode_is_an_ordinary_failure() -> None:
    with pytest.raises(OSError, match="no host name"):
        await Names().addresses("a" * 64 + ".example")
