"""The process: how it starts, where it listens, how it stops, and what it does with odd HTTP."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

from tests.simulator.process import START_S, Running, Simulator, requests, spawn, start

HEAD = "host: x\r\nx-api-key: k\r\nanthropic-version: 2026-10-21\r\ncontent-type: application/json\r\n"
BODY = b'{"requests":[{"custom_id":"a","params":{}}]}'


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A short path: a socket's has at most 107 characters, which pytest's own folders exceed."""
    with tempfile.TemporaryDirectory(prefix="sim") as folder:
        yield Path(folder) / "s"


async def _exchange(url: str, *pieces: bytes) -> bytes:
    """What comes back for ``pieces``, sent one by one, until the other side closes or is silent for a while."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return received


async def test_a_socket_is_private_and_serves_the_sdk(socket_path: Path) -> None:
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(socket_path))
    left_over.close()
    running = start("--socket", str(socket_path), "--turnaround", "0", "--api-key", "secret")
    try:
        assert running.url == f"http+unix://{socket_path}"
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o660
        transport = httpx2.AsyncHTTPTransport(uds=str(socket_path))
        async with AsyncAnthropic(
            api_key="secret",
            base_url="http://localhost",
            http_client=DefaultAsyncHttpxClient(transport=transport),
            max_retries=0,
        ) as claude:
            batch = await claude.messages.batches.create(requests=requests(3))
            assert len([result async for result in await claude.messages.batches.results(batch.id)]) == 3
        second = spawn(["--socket", str(socket_path)])
        assert await asyncio.to_thread(second.wait, START_S) == 1
        assert second.stdout is not None
        second.stdout.close()
    finally:
        code = running.stop(signal.SIGINT)
    assert code == 0
    assert not socket_path.exists()


async def test_a_signal_stops_it_at_once_whoever_is_held_or_connected() -> None:
    running = start("--port", "0", "--fault", "slow_list:seconds=60", "--turnaround", "claude-haiku-4-5=1h")
    try:
        async with httpx2.AsyncClient(base_url=running.url) as http:
            simulator = Simulator(running.url, http)
            await simulator.hold("create_received")
            async with AsyncAnthropic(api_key="k", base_url=running.url, max_retries=0) as claude:
                calls = [
                    asyncio.create_task(claude.messages.batches.create(requests=requests(1))),
                    asyncio.ensure_future(claude.messages.batches.list()),
                ]
                await simulator.held("create_received")
                assert await asyncio.to_thread(running.stop) == 0
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(outcome, Exception) for outcome in outcomes)
    finally:
        running.stop()


@pytest.mark.parametrize(
    "arguments", [["--fault", "nonsense"], ["--fault", "create_500:tims=2"], ["--turnaround", "soon"]]
)
def test_a_wrong_option_is_told_and_nothing_starts(arguments: list[str]) -> None:
    process = spawn(["--port", "0", *arguments])

    assert process.wait(START_S) == 2
    assert process.stdout is not None
    process.stdout.close()


async def test_a_chunked_upload_is_taken(simulator: Simulator) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(BODY[n : n + 10]), BODY[n : n + 10]) for n in range(0, len(BODY), 10))
    head = f"POST /v1/messages/batches HTTP/1.1\r\n{HEAD}transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    answer = await _exchange(simulator.url, head.encode(), chunks, b"0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_client_that_waits_for_100_continue_gets_it(running: Running) -> None:
    parts = urlsplit(running.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST /v1/messages/batches HTTP/1.1\r\n{HEAD}content-length: {len(BODY)}\r\n"
        "expect: 100-continue\r\nconnection: close\r\n\r\n"
    )
    writer.write(head.encode())

    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()


async def test_calls_sent_ahead_are_answered_in_their_order(simulator: Simulator) -> None:
    calls = "".join(
        f"GET {path} HTTP/1.1\r\n{HEAD}{'connection: close' if path == '/v1/models/none' else 'accept: */*'}\r\n\r\n"
        for path in ("/v1/models", "/v1/messages/batches", "/v1/models/none")
    )
    answer = await _exchange(simulator.url, calls.encode())

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


async def test_what_is_not_http_is_refused(simulator: Simulator) -> None:
    assert (await _exchange(simulator.url, b"\x16\x03\x01 this is TLS\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_a_create_whose_client_left_after_its_last_byte_counts(simulator: Simulator) -> None:
    parts = urlsplit(simulator.url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"POST /v1/messages/batches HTTP/1.1\r\n{HEAD}content-length: {len(BODY)}\r\n\r\n".encode() + BODY)
    writer.close()
    await writer.wait_closed()

    ledger = await simulator.until("/ledger", lambda ledger: ledger["totals"]["batches"])
    assert ledger["creates"][0]["complete"]
