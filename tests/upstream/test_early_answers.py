"""Answers that come while the body is still being sent. A CDN says 413 after a few bytes and hangs up; when that is
lost, a batch that was refused counts as unknown and is sent again as large as before."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import pytest

from tests.upstream.bodies import Pages, create
from tests.upstream.conftest import Connected
from tests.upstream.server import Call
from unhurried.domain.submitting import ErrorAnswer
from unhurried.upstream import patient

HTML = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
PAGES = 60


async def _close_at_once(call: Call) -> None:
    call.writer.close()


async def _close_after_a_while(call: Call) -> None:
    """A lingering close, too short for the rest of the body."""
    if call.writer.can_write_eof():
        call.writer.write_eof()
    await asyncio.sleep(0.2)
    call.writer.close()


async def _read_to_the_end(call: Call) -> None:
    left = PAGES * 1_000_000
    while left and (piece := await call.reader.read(1_000_000)):
        left -= len(piece)
    call.writer.close()


@pytest.mark.parametrize("wait_s", [0, 0.1])
@pytest.mark.parametrize("then", [_close_at_once, _close_after_a_while, _read_to_the_end])
@pytest.mark.parametrize("over", ["tcp", "tls", "unix"])
async def test_a_413_during_the_upload_is_a_413(
    connected: Connected,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    over: str,
    then: Callable[[Call], Awaitable[None]],
    wait_s: float,
) -> None:
    async def handle(call: Call) -> None:
        await asyncio.sleep(wait_s)  # 0.1: the upload stands still, the kernel's buffers are full
        await call.answer(413, HTML, read_first=False, content_type="text/html", connection="close")
        await then(call)

    tls = None
    if over == "tls":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    unix = tmp_path / "up.sock" if over == "unix" else None
    async with connected(handle, tls=tls, unix=unix) as (upstream, server):
        assert await create(upstream, pages := Pages([b"x" * 1_000_000] * PAGES)) == ErrorAnswer(status=413)
    assert pages.closed
    assert len(server.posts) == 1
    if then is _close_at_once:
        assert pages.taken < PAGES


async def test_the_part_of_httpx2_that_patience_relies_on_is_there() -> None:
    """``install`` puts its backend where httpx2 2.16 keeps its own. If this fails, look for the new place."""
    client = httpx2.AsyncClient(mounts={"https://": httpx2.AsyncHTTPTransport(proxy="http://127.0.0.1:1")})
    patient.install(client)
    for transport in (client._transport, *client._mounts.values()):
        assert isinstance(transport, httpx2.AsyncHTTPTransport)
        assert isinstance(transport._pool._network_backend, patient._Backend)
    await client.aclose()
