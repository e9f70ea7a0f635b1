"""Creates without an answer: what may have been sent, and that it was sent once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from tests.upstream.bodies import BODY, Pages, create
from tests.upstream.conftest import Connected
from tests.upstream.server import Call, Handler, answering, batch
from unhurried.domain.submitting import Created, ErrorAnswer, NoAnswer
from unhurried.settings import UpstreamSettings
from unhurried.upstream import connect


async def _cut_before_the_body(call: Call) -> None:
    call.writer.close()


async def _cut_inside_the_body(call: Call) -> None:
    await call.reader.readexactly(5)
    call.reset()


async def _cut_after_the_body(call: Call) -> None:
    await call.read()
    call.writer.close()


async def _reset_after_the_body(call: Call) -> None:
    await call.read()
    call.reset()


async def _cut_inside_the_head(call: Call) -> None:
    await call.read()
    call.writer.write(b"HTTP/1.1 200 OK\r\nconte")
    call.writer.close()


async def _cut_inside_a_yes(call: Call) -> None:
    await call.read()
    call.write_head(200, content_length="500")
    call.writer.write(b'{"id":"msgbatch_1"')
    call.writer.close()


async def _cut_inside_a_bad_request(call: Call) -> None:
    """What the 400 is about stands in the body; without it nobody may be blamed."""
    await call.read()
    call.write_head(400, content_length="500")
    call.writer.close()


async def _not_http(call: Call) -> None:
    await call.read()
    call.writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    call.writer.close()


@pytest.mark.parametrize(
    "handler",
    [
        _cut_before_the_body,
        _cut_inside_the_body,
        _cut_after_the_body,
        _reset_after_the_body,
        _cut_inside_the_head,
        _cut_inside_a_yes,
        _cut_inside_a_bad_request,
        _not_http,
    ],
)
async def test_a_connection_that_breaks_may_have_created_a_batch(connected: Connected, handler: Handler) -> None:
    async with connected(handler) as (upstream, server):
        answer = await create(upstream, pages := Pages(BODY))
    assert isinstance(answer, NoAnswer)
    assert answer.sent
    assert len(server.posts) == 1
    assert pages.closed


async def test_a_413_whose_body_is_cut_is_still_a_413(connected: Connected) -> None:
    async def handle(call: Call) -> None:
        await call.read()
        call.write_head(413, content_length="500")
        call.writer.close()

    async with connected(handle) as (upstream, _):
        assert await create(upstream) == ErrorAnswer(status=413)


async def test_an_answer_that_does_not_come_in_time_may_have_created_a_batch(connected: Connected) -> None:
    never = asyncio.Event()

    async def handle(call: Call) -> None:
        await call.read()
        await never.wait()

    async with connected(handle, answer_timeout_s=0.2) as (upstream, server):
        answer = await create(upstream)
        never.set()
    assert answer == NoAnswer(sent=True, detail="POST /v1/messages/batches: ReadTimeout")
    assert len(server.posts) == 1


async def test_a_server_that_stops_reading_may_have_created_a_batch(connected: Connected) -> None:
    never = asyncio.Event()

    async def handle(call: Call) -> None:
        await never.wait()

    async with connected(handle, write_timeout_s=0.2) as (upstream, _):
        answer = await create(upstream, pages := Pages([b"x" * 1_000_000] * 40))
        never.set()
    assert answer == NoAnswer(sent=True, detail="POST /v1/messages/batches: WriteTimeout")
    assert pages.taken < 40
    assert pages.closed


async def test_nothing_was_sent_where_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        answer, pages = await _create_at(url)
    assert answer == NoAnswer(
        sent=False,
        detail="POST /v1/messages/batches: ConnectError: [Errno 111] Connect call failed ('127.0.0.1', "
        f"{url.rpartition(':')[2]})",
    )
    assert pages.taken == 0


async def test_nothing_was_sent_to_a_host_that_does_not_exist() -> None:
    answer, pages = await _create_at("http://no-such-host.invalid")
    assert isinstance(answer, NoAnswer)
    assert not answer.sent
    assert pages.taken == 0


async def test_nothing_was_sent_to_a_socket_that_does_not_exist(tmp_path: Path) -> None:
    answer, _ = await _create_at(f"unix:{tmp_path}/none.sock")
    assert isinstance(answer, NoAnswer)
    assert not answer.sent
    assert "No such file" in answer.detail


async def test_nothing_was_sent_when_the_connection_is_not_made_in_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        full: list[socket.socket] = []
        for _ in range(3):  # the backlog is full: the kernel drops what comes now
            full.append(filler := socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        answer, pages = await _create_at(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.2)
        for filler in full:
            filler.close()
    assert answer == NoAnswer(sent=False, detail="POST /v1/messages/batches: ConnectTimeout")
    assert pages.taken == 0


async def test_nothing_was_sent_when_tls_fails() -> None:
    """The server speaks something else."""

    async def converse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    answer, pages = await _create_at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()
    assert isinstance(answer, NoAnswer)
    assert not answer.sent
    assert pages.taken == 0


async def test_nothing_was_sent_to_a_server_whose_certificate_is_not_trusted(
    connected: Connected, certificate: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with connected(answering(200, batch()), tls=tls) as (upstream, server):
        answer = await create(upstream)
    assert isinstance(answer, NoAnswer)
    assert not answer.sent
    assert server.posts == []


async def _create_at(url: str, **settings: float) -> tuple[object, Pages]:
    values = {"base_url": url, "api_key": "key-for-tests", **settings}
    upstream = await connect(UpstreamSettings.model_validate(values), lambda *_: None)
    try:
        return await create(upstream, pages := Pages(BODY)), pages
    finally:
        await upstream.aclose()


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_failure_of_the_body_itself_is_raised_as_it_is(connected: Connected, at: int) -> None:
    """The store's failure is a local one; as a broken connection it would be settled upstream instead of seen."""

    class StoreIsBroken(Exception):
        pass

    async with connected(answering(200, batch())) as (upstream, server):
        with pytest.raises(StoreIsBroken):
            await create(upstream, pages := Pages(BODY, StoreIsBroken(), error_at=at))
        await asyncio.wait_for(server.closed.wait(), 5)
    assert server.calls[0].body == b""  # it never got as far as the end of the body
    assert pages.closed


@pytest.mark.parametrize("change", [-1, 1])
async def test_a_body_of_another_length_than_promised_is_no_answer(connected: Connected, change: int) -> None:
    async with connected(answering(200, batch())) as (upstream, server):
        answer = await upstream.create(
            anthropic_version="2023-06-01",
            anthropic_beta="",
            content=aiter(Pages(BODY)),
            content_length=Pages(BODY).length + change,
        )
        await asyncio.wait_for(server.closed.wait(), 5)
    assert isinstance(answer, NoAnswer)
    assert answer.sent
    assert len(server.posts) == 1


async def _hold_before_the_answer(call: Call) -> None:
    await call.read()
    await call.reader.read()  # until the client leaves
    call.writer.close()


async def _hold_inside_the_body(call: Call) -> None:
    await call.reader.readexactly(1)
    await asyncio.sleep(0.3)
    call.writer.close()


@pytest.mark.parametrize("handler", [_hold_before_the_answer, _hold_inside_the_body])
async def test_a_cancelled_create_lets_go_of_everything(connected: Connected, handler: Handler) -> None:
    arrived = asyncio.Event()

    async def handle(call: Call) -> None:
        arrived.set()
        await handler(call)

    async with connected(handle) as (upstream, server):
        pages = Pages([b"x" * 1_000_000] * (1 if handler is _hold_before_the_answer else 40))
        task = asyncio.create_task(create(upstream, pages))
        await asyncio.wait_for(arrived.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pages.closed
        await asyncio.wait_for(server.closed.wait(), 5)
    assert len(server.posts) == 1


async def test_a_create_can_be_cancelled_at_each_of_its_awaits(connected: Connected) -> None:
    """However far it came: it ends cancelled or with its answer, and the body is closed."""
    async with connected(answering(200, batch())) as (upstream, _):
        for steps in range(60):
            task = asyncio.create_task(create(upstream, pages := Pages(BODY)))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert isinstance(await task, Created)
            assert pages.closed or pages.taken == 0
        assert isinstance(await create(upstream), Created)
