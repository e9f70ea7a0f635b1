"""The lane for the common call: which calls it takes, and that those who share a commit share nothing else."""

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from tests.ingest.daemon import Daemon, envelope, eventually
from unhurried.domain.request import Accepted, KeyConflict, NewRequest
from unhurried.ingest import server
from unhurried.ingest.express import BODY_BYTES_MAX, head_of
from unhurried.store.errors import StoreBusy

KIND = (b"content-type", b"application/json")
SIZE = (b"content-length", b"100")


def _post(body: bytes, *more: bytes, version: bytes = b"1.1") -> bytes:
    head = b"POST /queue/requests HTTP/%s\r\nhost: u\r\ncontent-type: application/json\r\n" % version
    return head + b"".join(line + b"\r\n" for line in more) + b"content-length: %d\r\n\r\n%s" % (len(body), body)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), json.loads(await reader.readexactly(size))


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ([KIND, SIZE], True),
        ([(b"content-type", b"Application/JSON; charset=utf-8"), SIZE], True),
        ([KIND, SIZE, (b"idempotency-key", b"k")], True),
        ([KIND, (b"content-length", b"%d" % BODY_BYTES_MAX)], True),
        ([KIND, (b"content-length", b"%d" % (BODY_BYTES_MAX + 1))], False),
        ([KIND], False),
        ([SIZE], False),
        ([(b"content-type", b"application/x-ndjson"), SIZE], False),
        ([KIND, (b"transfer-encoding", b"chunked")], False),
        ([KIND, SIZE, (b"content-encoding", b"gzip")], False),
        ([KIND, SIZE, (b"expect", b"100-continue")], False),
        ([KIND, SIZE, (b"upgrade", b"h2c")], False),
        ([KIND, SIZE, (b"idempotency-key", b"k"), (b"idempotency-key", b"l")], False),
    ],
)
def test_only_the_common_call_takes_it(headers: list[tuple[bytes, bytes]], taken: bool) -> None:
    assert (head_of(headers) is not None) == taken


@pytest.fixture
def calls(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each call of the store brought. One with the custom_id ``bad`` breaks it, ``busy`` is busy."""
    seen: list[int] = []
    accept = daemon.store.accept

    async def counted(requests: Sequence[NewRequest]) -> Sequence[Accepted | KeyConflict]:
        seen.append(len(requests))
        await asyncio.sleep(0.05)
        names = {request.custom_id for request in requests}
        if "bad" in names:
            raise ValueError("no")
        if "busy" in names:
            raise StoreBusy("later")
        return await accept(requests)

    monkeypatch.setattr(daemon.store, "accept", counted)
    return seen


async def _all(daemon: Daemon, bodies: list[bytes]) -> list[tuple[int, dict[str, Any]]]:
    """Each on a connection of its own, at once."""

    async def one(body: bytes) -> tuple[int, dict[str, Any]]:
        async with daemon.connection() as (reader, writer):
            writer.write(_post(body))
            return await _answer(reader)

    return list(await asyncio.gather(*map(one, bodies)))


async def test_those_who_come_while_others_are_stored_are_stored_together(daemon: Daemon, calls: list[int]) -> None:
    answers = await _all(daemon, [envelope(custom_id=f"n-{number}") for number in range(20)])
    assert [status for status, _ in answers] == [201] * 20
    assert len({body["id"] for _, body in answers}) == 20
    assert sum(calls) == 20 and len(calls) <= 5
    for number, (_, body) in enumerate(answers):
        view = await daemon.store.request(body["id"])
        assert view is not None and view.custom_id == f"n-{number}"


@pytest.mark.usefixtures("calls")
async def test_one_that_cannot_be_stored_fails_alone(daemon: Daemon) -> None:
    answers = await _all(daemon, [envelope(custom_id=name) for name in ("a", "b", "bad", "c", "d")])
    assert [status for status, _ in answers] == [201, 201, 500, 201, 201]
    assert answers[2][1]["code"] == "internal_error"
    assert await daemon.count() == 4


@pytest.mark.usefixtures("calls")
async def test_all_are_told_to_come_back_when_the_store_is_busy(daemon: Daemon) -> None:
    answers = await _all(daemon, [envelope(custom_id="busy") for _ in range(3)])
    assert {(status, body["code"]) for status, body in answers} == {(503, "busy")}


async def test_two_with_one_key_in_one_commit_are_one_request(daemon: Daemon, calls: list[int]) -> None:
    answers = await _all(daemon, [envelope()] + [envelope(idempotency_key="k") for _ in range(6)])
    assert len(calls) < 7
    assert sorted(body["duplicate"] for _, body in answers[1:]) == [False] + [True] * 5
    assert len({body["id"] for _, body in answers[1:]}) == 1


async def test_who_hangs_up_before_the_answer_has_handed_in_all_the_same(daemon: Daemon, calls: list[int]) -> None:
    async with daemon.connection() as (_, writer):
        writer.write(_post(envelope()))
        await eventually(lambda: bool(calls), "it is being stored")
    await eventually(lambda: daemon.store.open_requests() == 1, "it is stored")


@pytest.mark.parametrize(("version", "more"), [(b"1.0", ()), (b"1.1", (b"connection: close",))])
async def test_a_connection_that_shall_not_stay_is_closed(
    daemon: Daemon, version: bytes, more: tuple[bytes, ...]
) -> None:
    async with asyncio.timeout(5), daemon.connection() as (reader, writer):
        writer.write(_post(envelope(), *more, version=version))
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 201 ") and b"\r\nconnection: close\r\n" in answer


async def test_one_way_follows_the_other_on_a_connection(daemon: Daemon) -> None:
    """Pipelined: a call of this lane, one that takes the way through ASGI, and one of this lane again."""
    async with daemon.connection() as (reader, writer):
        writer.write(_post(envelope(custom_id="1")) + b"GET /healthz HTTP/1.1\r\nhost: u\r\n\r\n" + _post(b"{"))
        answers = [await _answer(reader) for _ in range(3)]
    assert [status for status, _ in answers] == [201, 200, 400]


async def test_an_idle_connection_is_let_go(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(10), daemon.connection() as (reader, writer):
        writer.write(_post(envelope()))
        assert (await _answer(reader))[0] == 201
        monkeypatch.setattr(server, "SWEEP_TICKS", 1)
        monkeypatch.setattr(server, "KEEP_ALIVE_S", 0)
        assert await reader.read() == b""


async def test_a_caller_that_does_not_read_its_answers_is_not_read_for(
    daemon: Daemon, connections: list[server._Protocol]
) -> None:
    count = 5_000
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        caller.connect(str(daemon.path))
        sending = asyncio.create_task(loop.sock_sendall(caller, _post(b"{") * count))
        await eventually(lambda: bool(connections) and connections[0].flow.write_paused, "the answers find room")
        assert connections[0].flow.read_paused
        answers = b""
        async with asyncio.timeout(20):
            while answers.count(b"HTTP/1.1 400 ") < count:
                answers += await loop.sock_recv(caller, 1 << 20)
            await sending
