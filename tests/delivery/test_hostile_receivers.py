"""Receivers that mean harm: each costs one attempt a bounded time and a bounded number of bytes."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.delivery.means import PARCEL, Mailer, saying, silent, without_end
from tests.upstream.server import Call, Handler, serving
from unhurried.delivery.bounded import ANSWER_BYTES_MAX
from unhurried.domain.delivering import Delivered, TryAgain

Make = Callable[..., Mailer]
OK = b"HTTP/1.1 200 OK\r\n"
TOO_MUCH = f"more than {ANSWER_BYTES_MAX:,} bytes"


async def drip(call: Call) -> None:
    """A slow loris: headers that never end, byte by byte, as slowly as the client reads."""
    call.writer.write(OK + b"x: ")
    while True:
        call.writer.write(b"a")
        await call.writer.drain()
        await asyncio.sleep(0.01)  # its pace, not a wait of the test's


async def cut(call: Call) -> None:
    await call.read()
    call.reset()


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        pytest.param(silent, "no answer within 0.3 s", id="silent"),
        pytest.param(drip, "no answer within 0.3 s", id="slow loris"),
        pytest.param(saying(OK[:-9], then_close=False), "no answer within 0.3 s", id="half a status line"),
    ],
)
async def test_a_receiver_that_does_not_answer_in_time(mailer: Make, handler: Handler, says: str) -> None:
    async with serving(handler) as server:
        outcome = await mailer(timeout_s=0.3).send(server.url)
        assert outcome == TryAgain(detail=f"{server.url}: {says}")
        await asyncio.wait_for(server.closed.wait(), 10)
        assert server.open_connections == 0


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        pytest.param(saying(b"SSH-2.0-OpenSSH_9.2\r\n"), "RemoteProtocolError", id="not HTTP"),
        pytest.param(saying(b"\x16\x03\x01\x02\x00" * 50), "RemoteProtocolError", id="TLS"),
        pytest.param(saying(b"HTTP/1.1 99999 ?\r\n\r\n"), "RemoteProtocolError", id="no such status"),
        pytest.param(saying(OK + b"no colon\r\n\r\n"), "RemoteProtocolError", id="a header without a colon"),
        pytest.param(saying(OK + b"content-length: -5\r\n\r\n"), "RemoteProtocolError", id="a negative length"),
        pytest.param(
            saying(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n"), "RemoteProtocol", id="two lengths"
        ),
        pytest.param(saying(OK + b"x: a\r\n"), "RemoteProtocolError", id="cut in the headers"),
        pytest.param(cut, "ReadError", id="reset"),
        pytest.param(without_end(OK, b"x: y\r\n"), TOO_MUCH, id="headers without end"),
        pytest.param(without_end(OK + b"x: ", b"y" * 1_000), TOO_MUCH, id="a header without end"),
        pytest.param(without_end(b"", b"y" * 1_000), TOO_MUCH, id="a status line without end"),
        pytest.param(without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), TOO_MUCH, id="interim answers without end"),
    ],
)
async def test_a_receiver_that_does_not_speak_http(mailer: Make, handler: Handler, says: str) -> None:
    async with serving(handler) as server:
        outcome = await mailer().send(server.url)
        assert isinstance(outcome, TryAgain)
        assert says in outcome.detail
        assert (outcome.status, outcome.throttled) == (None, False)
        await asyncio.wait_for(server.closed.wait(), 10)
        assert (len(server.calls), server.open_connections) == (1, 0)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(without_end(OK + b"\r\n", b"x" * 1_000), id="until it closes"),
        pytest.param(without_end(OK + b"content-length: 999999999999\r\n\r\n", b"x" * 1_000), id="a huge length"),
        pytest.param(without_end(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), id="tiny chunks"),
        pytest.param(saying(OK + b"content-length: 9\r\n\r\nx"), id="cut short"),
        pytest.param(saying(OK + b"transfer-encoding: chunked\r\n\r\nnonsense\r\n"), id="broken chunks"),
        pytest.param(saying(OK + b"content-length: 9\r\n\r\nx", then_close=False), id="stalled"),
        pytest.param(saying(OK + b"content-length: 0\r\n\r\nHTTP/1.1 500 No\r\n\r\n"), id="a second answer"),
    ],
)
async def test_once_the_status_has_come_the_rest_does_not_matter(mailer: Make, handler: Handler) -> None:
    """And its connection, which cannot be used again, is closed."""
    async with serving(handler) as server:
        mail = mailer()
        assert await mail.send(server.url) == Delivered(status=200)
        await mail.send(server.url)
        await mail.webhooks.aclose()
        assert server.connections == 2


async def test_a_compressed_bomb_stays_compressed(mailer: Make) -> None:
    bomb = gzip.compress(b"\0" * 30_000_000)
    head = OK + f"content-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n".encode()
    async with serving(saying(head + bomb, then_close=False)) as server:
        assert await mailer().send(server.url) == Delivered(status=200)


async def test_tls_has_the_same_limit(mailer: Make, certificate: Path, tls: ssl.SSLContext) -> None:
    async with serving(without_end(OK, b"x: y\r\n"), tls=tls) as server:
        outcome = await mailer(ca_file=str(certificate)).send(server.url)
        assert isinstance(outcome, TryAgain)
        assert TOO_MUCH in outcome.detail


async def test_what_is_read_is_counted_to_the_byte(mailer: Make) -> None:
    """An answer of the full size leaves its connection fit to be used again, one of a byte more does not."""
    for spare, connections in ((0, 1), (1, 2)):
        length = ANSWER_BYTES_MAX + spare - len(OK + b"content-length: 65000\r\n\r\n")
        answer = OK + f"content-length: {length}\r\n\r\n".encode() + b"x" * length
        assert len(answer) == ANSWER_BYTES_MAX + spare
        async with serving(saying(answer, then_close=False)) as server:
            mail = mailer()
            for _ in range(2):
                assert await mail.send(server.url) == Delivered(status=200)
            assert server.connections == connections


async def test_a_receiver_that_does_not_read(mailer: Make) -> None:
    """More than the buffers on the way can hold."""

    async def deaf(call: Call) -> None:
        await asyncio.Event().wait()

    async with serving(deaf) as server:
        parcel = replace(PARCEL, result=b'"' + b"x" * 20_000_000 + b'"')
        outcome = await mailer(timeout_s=0.3, result_bytes_max=30_000_000).send(server.url, parcel=parcel)
        assert outcome == TryAgain(detail=f"{server.url}: no answer within 0.3 s")


async def test_a_receiver_that_answers_and_hangs_up_before_it_has_read(mailer: Make) -> None:
    """Whether its answer can still be read is up to the network; that it is an outcome is up to us."""
    async with serving(saying_early) as server:
        parcel = replace(PARCEL, result=b'"' + b"x" * 900_000 + b'"')
        assert isinstance(await mailer().send(server.url, parcel=parcel), TryAgain)


async def saying_early(call: Call) -> None:
    await call.answer(413, read_first=False)
    call.reset()
