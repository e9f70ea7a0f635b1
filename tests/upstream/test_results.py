"""Result lines: whole, cut, framed in every way, and let go of early."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable

import pytest

from tests.upstream.conftest import Connected
from tests.upstream.server import Call, answering, error
from unhurried.domain.batch import UpstreamId
from unhurried.upstream import ResultsNotFound, Upstream, UpstreamTrouble
from unhurried.upstream import lines as line_rules

ID = UpstreamId("msgbatch_1")
LINES = [b'{"custom_id":"n-%d","result":{"type":"expired"}}' % n for n in range(5)]
WHOLE = b"\n".join(LINES) + b"\n"


async def _read(upstream: Upstream, **options: int) -> list[bytes]:
    async with contextlib.aclosing(upstream.result_lines(ID, **options)) as groups:
        return [line async for group in groups for line in group]


async def _by_length(call: Call, body: bytes, *, cut: bool) -> None:
    call.write_head(200, content_length=str(len(body) + 100 * cut))
    call.writer.write(body)


async def _chunked(call: Call, body: bytes, *, cut: bool) -> None:
    call.write_head(200, transfer_encoding="chunked")
    call.writer.write(b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
    call.writer.write(b"" if cut else b"0\r\n\r\n")


async def _by_close(call: Call, body: bytes, *, cut: bool) -> None:
    call.write_head(200, connection="close")
    call.writer.write(body)


Framing = Callable[..., Awaitable[None]]


def _sending(framing: Framing, body: bytes, *, cut: bool = False) -> Callable[[Call], Awaitable[None]]:
    async def handle(call: Call) -> None:
        await framing(call, body, cut=cut)
        await call.writer.drain()
        call.writer.close()

    return handle


@pytest.mark.parametrize("framing", [_by_length, _chunked, _by_close])
@pytest.mark.parametrize("bytes_chunk", [1, 60, 262_144])
async def test_every_line_comes_once_and_in_order(connected: Connected, framing: Framing, bytes_chunk: int) -> None:
    async with connected(_sending(framing, WHOLE)) as (upstream, server):
        assert await _read(upstream, bytes_chunk=bytes_chunk) == LINES
    assert server.calls[0].target == "/v1/messages/batches/msgbatch_1/results"


@pytest.mark.parametrize("framing", [_by_length, _chunked])
@pytest.mark.parametrize("cut_at", [len(WHOLE) // 2, len(LINES[0]) + 1, 0])
async def test_a_stream_that_breaks_is_trouble(connected: Connected, framing: Framing, cut_at: int) -> None:
    async with connected(_sending(framing, WHOLE[:cut_at], cut=True)) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="RemoteProtocolError") as raised:
            await _read(upstream)
    assert (raised.value.reachable, raised.value.status) == (True, None)


async def test_the_lines_before_a_break_have_been_handed_over(connected: Connected) -> None:
    """As many groups as there were; what is less than a group may be lost with the break: it is read again anyway."""
    async with connected(_sending(_by_length, WHOLE[:-10], cut=True)) as (upstream, _):
        groups = upstream.result_lines(ID, bytes_chunk=1)
        assert await anext(groups) == LINES[:-1]
        with pytest.raises(UpstreamTrouble):
            await anext(groups)


async def test_a_stream_framed_by_closing_cannot_show_that_it_was_cut(connected: Connected) -> None:
    """In mid-line the piece comes as a line of its own, at a line's end nothing tells: the caller counts."""
    async with connected(_sending(_by_close, WHOLE[:-10])) as (upstream, _):
        assert await _read(upstream) == [*LINES[:-1], LINES[-1][:-9]]
    async with connected(_sending(_by_close, WHOLE[: len(LINES[0]) + 1])) as (upstream, _):
        assert await _read(upstream) == LINES[:1]


async def test_blank_lines_are_dropped_and_a_last_line_needs_no_newline(connected: Connected) -> None:
    body = b"\n\n" + LINES[0] + b"\n \t\r\n\n" + LINES[1]
    async with connected(_sending(_by_length, body)) as (upstream, _):
        assert await _read(upstream) == LINES[:2]


async def test_lines_that_come_twice_come_twice(connected: Connected) -> None:
    async with connected(_sending(_by_length, WHOLE + WHOLE)) as (upstream, _):
        assert await _read(upstream) == LINES + LINES


async def test_an_empty_file_has_no_lines(connected: Connected) -> None:
    async with connected(answering(200)) as (upstream, _):
        assert await _read(upstream) == []
        assert await upstream.first_line(ID) is None


async def test_compressed_results_are_read_as_what_they_were(connected: Connected) -> None:
    async with connected(answering(200, gzip.compress(WHOLE), content_encoding="gzip")) as (upstream, _):
        assert await _read(upstream) == LINES


async def test_broken_compression_is_trouble(connected: Connected) -> None:
    async with connected(answering(200, WHOLE, content_encoding="gzip")) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="DecodingError"):
            await _read(upstream)


async def test_results_that_stall_are_trouble(connected: Connected) -> None:
    never = asyncio.Event()

    async def handle(call: Call) -> None:
        call.write_head(200, content_length="1000")
        call.writer.write(LINES[0])
        await never.wait()

    async with connected(handle, read_timeout_s=0.2) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="ReadTimeout"):
            await _read(upstream)
        never.set()


@pytest.mark.parametrize("status", [404, 410])
async def test_missing_results_have_an_exception_of_their_own(connected: Connected, status: int) -> None:
    async with connected(answering(status, error("not_found_error"))) as (upstream, _):
        with pytest.raises(ResultsNotFound) as raised:
            await _read(upstream)
        with pytest.raises(ResultsNotFound):
            await upstream.first_line(ID)
    assert raised.value.status == status


async def test_other_answers_to_results_are_trouble_once(connected: Connected) -> None:
    async with connected(answering(503, retry_after="9")) as (upstream, server):
        with pytest.raises(UpstreamTrouble) as raised:
            await _read(upstream)
    assert not isinstance(raised.value, ResultsNotFound)
    assert (raised.value.status, raised.value.retry_after_s) == (503, 9.0)
    assert len(server.calls) == 1


async def test_a_line_without_end_is_trouble(connected: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_rules, "LINE_BYTES_MAX", 10_000)
    async with connected(_sending(_by_length, b"x" * 20_000)) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="more than 10000 bytes"):
            await _read(upstream, bytes_chunk=1)


async def _endless(call: Call) -> None:
    call.write_head(200, connection="close")
    while not call.writer.is_closing():
        call.writer.write(WHOLE * 100)
        await call.writer.drain()


async def test_the_first_line_is_read_without_the_rest(connected: Connected) -> None:
    async with connected(_endless) as (upstream, server):
        assert await upstream.first_line(ID) == LINES[0]
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_leaving_early_lets_go_of_the_connection(connected: Connected) -> None:
    async with connected(_endless) as (upstream, server):
        async with contextlib.aclosing(upstream.result_lines(ID)) as groups:
            async for _ in groups:
                break
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_cancelled_reader_lets_go_of_the_connection(connected: Connected) -> None:
    arrived = asyncio.Event()

    async def handle(call: Call) -> None:
        arrived.set()
        await _endless(call)

    async with connected(handle) as (upstream, server):
        task = asyncio.create_task(_read(upstream))
        await asyncio.wait_for(arrived.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.closed.wait(), 5)
