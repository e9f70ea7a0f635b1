"""The room, with receivers that do as they are told."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.delivery.means import Mailer
from unhurried.delivery import Webhooks
from unhurried.settings import DeliverySettings


@pytest.fixture
async def mailer(tmp_path: Path) -> AsyncIterator[Callable[..., Mailer]]:
    """``mailer(…settings)``: webhooks that may go to loopback, unless told otherwise."""
    made: list[Webhooks] = []

    def make(*, environ: dict[str, str] | None = None, **settings: Any) -> Mailer:
        values = {"allowed_networks": ["127.0.0.0/8"], **settings}
        webhooks = Webhooks(
            DeliverySettings.model_validate(values),
            own_socket=tmp_path / "unhurried.sock",
            database=tmp_path / "unhurried.db",
            environ=environ or {},
        )
        made.append(webhooks)
        return Mailer(webhooks)

    yield make
    for webhooks in made:
        await webhooks.aclose()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names that resolve to the addresses given here, or to nothing; all others resolve as ever."""
    known: dict[str, list[str]] = {}
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host not in known:
            return ask(host, port, *more, **named)
        if not known[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        rows = [ask(address, port, *more, **named) for address in list(known[host])]
        return [row for each in rows for row in each]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for ``hook.example`` and ``localhost`` in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hook.example"
    alternatives = "subjectAltName=DNS:hook.example,DNS:localhost,IP:127.0.0.1"
    extra = ["-addext", alternatives, "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(["openssl", *command.split(), *extra], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """For a server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context
