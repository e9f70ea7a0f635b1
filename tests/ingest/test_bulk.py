"""Many requests in one call."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ingest.daemon import PARAMS, Daemon, envelope, eventually, running
from unhurried.domain.request import Accepted, KeyConflict, NewRequest
from unhurried.ingest import bulk
from unhurried.ingest.asgi import CLOSING, ClientGone, Message
from unhurried.store.errors import StoreBusy, StoreFull

NDJSON = {"content-type": "application/x-ndjson"}
HEAD = b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/x-ndjson\r\n"


async def _post(client: httpx2.AsyncClient, body: Any) -> httpx2.Response:
    return await client.post("/queue/requests", content=body, headers=NDJSON)


def _lines(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.content.splitlines()]


async def test_every_line_is_answered_in_order_and_a_summary_ends_it(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    answer = await _post(client, b"\n".join(envelope(custom_id=f"n-{n}") for n in range(600)))
    assert answer.status_code == 200
    *lines, last = _lines(answer)
    assert [line["line"] for line in lines] == list(range(1, 601))
    assert last == {"summary": {"accepted": 600, "duplicates": 0, "refused": 0}}
    view = await daemon.store.request(lines[432]["id"])
    assert view is not None and view.custom_id == "n-432"
    assert await daemon.count() == 600


@pytest.mark.parametrize("kind", ["application/jsonl", "application/x-jsonlines", "application/x-jsonl; charset=utf-8"])
async def test_other_names_of_the_format_are_known(client: httpx2.AsyncClient, kind: str) -> None:
    answer = await client.post("/queue/requests", content=envelope() + b"\r\n\r\n", headers={"content-type": kind})
    assert _lines(answer)[-1] == {"summary": {"accepted": 1, "duplicates": 0, "refused": 0}}


async def test_a_bad_line_in_the_middle_stops_nothing(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    bad = [b"{", b'{"params":{}}', b"\xff", b'{"params":{"x":"\\ud800"}}', envelope(custom_id="x" * 65)]
    answer = await _post(client, b"\n".join([envelope(), *bad, b"", envelope(), b"  "]))
    assert answer.status_code == 207
    *lines, last = _lines(answer)
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5, 6, 8]
    assert [line["error"]["code"] for line in lines[1:6]] == [
        "invalid_json", "invalid_params", "invalid_json", "invalid_json", "invalid_request",
    ]  # fmt: skip
    assert lines[1]["error"]["status"] == 400 and lines[5]["error"]["field"] == "custom_id"
    assert last == {"summary": {"accepted": 2, "duplicates": 0, "refused": 5}}
    assert await daemon.count() == 2


async def test_when_every_line_is_refused_the_status_says_so(client: httpx2.AsyncClient) -> None:
    assert (await _post(client, b"x\ny")).status_code == 422
    nothing = await _post(client, b"\n \n")
    assert (nothing.status_code, _lines(nothing)) == (
        200,
        [{"summary": {"accepted": 0, "duplicates": 0, "refused": 0}}],
    )


async def test_sending_an_upload_again_is_safe_with_keys(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    body = b"\n".join(envelope(idempotency_key=f"k-{n}") for n in range(300))
    first = _lines(await _post(client, body))
    other = envelope(idempotency_key="k-7", params=PARAMS | {"max_tokens": 65})
    again = await _post(client, body + b"\n" + other + b"\n" + envelope(idempotency_key="k-7"))
    *lines, last = _lines(again)
    assert again.status_code == 207
    assert [line["id"] for line in lines[:300]] == [line["id"] for line in first[:-1]]
    conflict = lines[300]["error"]
    assert (conflict["code"], conflict["id"]) == ("idempotency_conflict", first[7]["id"])
    assert last == {"summary": {"accepted": 0, "duplicates": 301, "refused": 1}}
    assert await daemon.count() == 300


async def test_the_key_header_is_refused_because_it_names_one_request(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/queue/requests", content=envelope(), headers=NDJSON | {"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["field"]) == (422, "idempotency_key")


async def test_a_line_over_the_limit_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield envelope() + b"\n"
        for _ in range(40):
            yield b" " * 100_000
        yield b"\n" + envelope()

    async with running(tmp_path, request_bytes_max=1_000_000) as daemon, daemon.client() as client:
        *lines, last = _lines(await _post(client, body()))
        assert lines[1]["error"]["code"] == "request_too_large"
        assert last == {"summary": {"accepted": 2, "duplicates": 0, "refused": 1}}


async def test_a_long_line_is_accepted_byte_for_byte(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    params = json.dumps(PARAMS | {"messages": [{"role": "user", "content": "y" * 3_000_000}]}).encode()
    answer = await _post(client, envelope() + b'\n{"params":' + params + b"}\n" + envelope())
    assert answer.status_code == 200
    assert await daemon.params(_lines(answer)[1]["id"]) == params


async def test_an_upload_cut_short_keeps_what_was_committed(daemon: Daemon) -> None:
    """Two chunks and a bit; the bit was never answered and is not there, and neither is its last, unfinished line."""
    async with daemon.connection() as (_, writer):
        writer.write(HEAD + b"content-length: 10000000\r\n\r\n")
        writer.write(b"".join(envelope() + b"\n" for _ in range(2 * bulk.CHUNK_LINES)) + envelope())
        await writer.drain()
        await eventually(lambda: daemon.store.open_requests() >= 2 * bulk.CHUNK_LINES, "two chunks were not stored")
    async with daemon.client() as client:
        await client.get("/healthz")
    assert await daemon.count() == 2 * bulk.CHUNK_LINES


async def test_a_slow_upload_is_stored_while_it_goes_on(daemon: Daemon) -> None:
    async with daemon.connection() as (reader, writer):
        body = envelope() + b"\n"
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % (2 * len(body)) + body)
        await eventually(
            lambda: daemon.store.open_requests() == 1, "the first line was not stored before the second came"
        )
        writer.write(body)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_only_writes_blocks_nobody(daemon: Daemon) -> None:
    """It reads nothing until all is sent; what it gets is more than any buffer between us holds."""
    line = envelope() + b"\n"
    lines = 20_000
    async with daemon.connection() as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % (lines * len(line)))
        for _ in range(20):
            writer.write(line * (lines // 20))
            await writer.drain()
        async with daemon.client() as client:
            assert (await client.get("/healthz")).status_code == 200
        await eventually(lambda: daemon.store.open_requests() == lines, "not all lines were stored")
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        answered = 0
        while b"summary" not in (answer := await reader.readline()):
            answered += answer.startswith(b'{"line"')
        assert answered == lines


async def test_when_the_queue_is_full_the_answer_says_behind_which_line_to_go_on(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    accept = daemon.store.accept

    async def fill_up(requests: Sequence[NewRequest]) -> Sequence[Accepted | KeyConflict]:
        answers = await accept(requests)
        daemon.open_requests[:] = [daemon.deps.settings.queue_requests_max]
        return answers

    daemon.store.accept = fill_up  # type: ignore[method-assign]
    answer = await _post(client, b"\n".join([b"bad", *[envelope()] * 600]))
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert answer.json()["lines_committed"] == bulk.CHUNK_LINES
    assert answer.json()["summary"] == {"accepted": bulk.CHUNK_LINES - 1, "duplicates": 0, "refused": 1}
    assert await daemon.count() == bulk.CHUNK_LINES - 1


async def test_a_full_disk_keeps_what_was_committed_and_says_so(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    accept = daemon.store.accept
    chunks = 0

    async def full_disk(requests: Sequence[NewRequest]) -> Sequence[Accepted | KeyConflict]:
        nonlocal chunks
        chunks += 1
        if chunks > 1:
            raise StoreFull("no space")
        return await accept(requests)

    daemon.store.accept = full_disk  # type: ignore[method-assign]
    answer = await _post(client, b"\n".join([envelope()] * 600))
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert answer.json()["lines_committed"] == bulk.CHUNK_LINES
    assert int(answer.headers["retry-after"]) >= 1
    assert await daemon.count() == bulk.CHUNK_LINES


async def test_a_busy_writer_makes_an_upload_wait_instead_of_refusing_it(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    accept = daemon.store.accept
    calls = 0

    async def busy_at_first(requests: Sequence[NewRequest]) -> Sequence[Accepted | KeyConflict]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise StoreBusy("too much waits", retry_after_s=0.001)
        return await accept(requests)

    daemon.store.accept = busy_at_first  # type: ignore[method-assign]
    assert (await _post(client, envelope())).status_code == 200
    assert calls == 3


async def test_a_drain_ends_an_upload_and_says_what_was_committed(daemon: Daemon) -> None:
    async with daemon.connection() as (reader, writer):
        writer.write(HEAD + b"content-length: 10000000\r\n\r\n" + envelope() + b"\n")
        await eventually(lambda: daemon.store.open_requests() == 1, "the line was not stored")
        daemon.draining.set()
        daemon.stop.set()
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after" in head
            assert json.loads(await reader.readuntil(b"}}"))["lines_committed"] == 1


LINE = st.one_of(
    st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([envelope(), b"", b" ", b"{}", b'{"params":{"model":"m","max_tokens":1,"messages":[0]}}\r']),
)


@given(st.lists(LINE, max_size=12), st.lists(st.integers(min_value=0, max_value=2_000), max_size=8))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_lines_in_any_pieces_are_answered_as_if_they_came_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int]
) -> None:
    body = b"\n".join(lines)
    places = sorted({cut % (len(body) + 1) for cut in cuts})
    pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def run() -> None:
        async with running(tmp_path_factory.mktemp("bulk")) as daemon, daemon.client() as client:
            *answers, _ = _lines(await _post(client, stream()))
            by_line = {answer["line"]: answer for answer in answers}
            for number, line in enumerate(lines, start=1):
                one = await client.post("/queue/requests", content=line, headers={"content-type": "application/json"})
                if number not in by_line:
                    assert not line.strip(b" \t\r\x0b\x0c")
                elif one.status_code == 201:
                    assert by_line[number]["state"] == "queued"
                else:
                    assert by_line[number]["error"] == one.json()

    asyncio.run(run())


async def test_an_upload_of_rubbish_is_stopped_and_keeps_what_was_committed(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "REFUSED_MAX", 1_000)
    enough = await _post(client, envelope() + b"\n" + b"x\n" * 1_000)
    assert enough.status_code == 207
    answer = await _post(client, envelope() + b"\n" + b"x\n" * 100_000)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "what follows line 1,250 was not looked at" in answer.json()["detail"]
    assert answer.json()["lines_committed"] == 1_250
    assert answer.json()["summary"] == {"accepted": 1, "duplicates": 0, "refused": 1_249}
    assert await daemon.count() == 2


async def test_the_answers_are_not_written_on_for_a_caller_that_has_gone() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    with tempfile.TemporaryFile() as spool:
        spool.write(b"x" * bulk.ANSWER_PIECE_BYTES * 10)
        with pytest.raises(ClientGone):
            await bulk._answer({"extensions": {CLOSING: lambda: len(sent) > 2}}, send, bulk.Tally(), spool)
    assert len(sent) == 3
