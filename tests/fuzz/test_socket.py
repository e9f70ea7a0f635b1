"""Garbage on the socket: a running daemon is sent damaged requests, and stays a daemon.

After each of them it answers a good one. What it has acknowledged is stored, and what is stored was handed in.
``UNHURRIED_TEST_FUZZ_SECONDS`` makes it long, with a seed of its own that is printed; else it is short and always the
same.
"""

import asyncio
import json
import os
import random
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.daemon import Daemon, envelope, running

SECONDS = float(os.environ.get("UNHURRIED_TEST_FUZZ_SECONDS", "0"))
ROUNDS = 150
ANSWER_S = 0.05
"""How long answers are waited for once they have stopped coming: a request that was cut has none."""
MEMORY_BYTES_MAX = 64_000_000
"""By which the process may grow: thousands of connections, each with some garbage, are let go again."""
CHUNK = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")
ACCEPTED = re.compile(rb'"id":"([0-9a-f-]{36})"')


def _post(body: bytes, *more: bytes, kind: bytes = b"application/json") -> bytes:
    head = b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: %s\r\n" % kind
    return head + b"".join(line + b"\r\n" for line in more) + b"content-length: %d\r\n\r\n%s" % (len(body), body)


def _chunked(body: bytes, size: int) -> bytes:
    head = b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/x-ndjson\r\n"
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _get(target: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\nhost: u\r\n\r\n" % target


def requests(random: random.Random) -> list[Callable[[], bytes]]:
    """Good ones, of every way through the server."""
    number = random.randrange(1_000_000)
    one = envelope(custom_id=f"n-{number}")
    lines = b"\n".join(envelope(custom_id=f"n-{number}-{n}") for n in range(random.randrange(1, 5)))
    return [
        lambda: _post(one),
        lambda: _post(one, b"idempotency-key: k%d" % random.randrange(5)),
        lambda: _post(envelope(metadata={"x": "y" * random.randrange(20_000)})),
        lambda: _post(lines, kind=b"application/x-ndjson"),
        lambda: _chunked(lines, random.randrange(1, 400)),
        lambda: _post(one, b"expect: 100-continue"),
        lambda: _post(b'{"delivery_ids":["a.1"]}').replace(b"/queue/requests", b"/queue/results/ack"),
        lambda: _get(b"/queue/results?limit=%d&wait=0" % random.randrange(3)),
        lambda: _get(b"/queue/requests/01980000-0000-7000-8000-000000000001"),
        lambda: _get(b"/queue/queues?limit=5"),
        lambda: _get(b"/healthz"),
    ]


TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n", b" ", b":", b"\xff", b"\x80", b"HTTP/1.1", b"HTTP/2",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"content-length: 5\r\n", b"content-length: -1\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n", b"transfer-encoding:\tchunked\r\n",
    b"upgrade: h2c\r\nconnection: upgrade\r\n", b"connection: close\r\n", b"expect: x\r\n", b"0\r\n\r\n",
    b"fffffffff\r\n",
    b"content-encoding: gzip\r\n", b"idempotency-key: \xff\r\n", b"?wait=nan", b"%00", b"{", b"}", b'"', b"\\ud800",
    b"[" * 3_000,
    b"GET / HTTP/1.1\r\n\r\n", b"x: " + b"y" * 9_000 + b"\r\n",
)  # fmt: skip


def damage(random: random.Random, data: bytes) -> bytes:
    """As a broken client, or one of bad will, would send it."""
    found = bytearray(data)
    for _ in range(random.choice([0, 1, 1, 1, 2, 4])):
        place = random.randrange(len(found) + 1)
        match random.randrange(6):
            case 0:
                del found[place:]
            case 1 if found:
                found[place % len(found)] ^= 1 << random.randrange(8)
            case 2:
                found[place:place] = random.choice(TOKENS)
            case 3:
                del found[place : place + random.randrange(1, 30)]
            case 4:
                found[place:place] = found[place : place + random.randrange(60)]
            case _:
                end = found.find(b"\r\n", place % (len(found) + 1))  # between two lines of the head
                if end >= 0:
                    found[end + 2 : end + 2] = random.choice(TOKENS)
    return bytes(found)


async def _answers(reader: asyncio.StreamReader) -> bytes:
    """All that comes, until the daemon closes or falls silent."""
    found = b""
    while True:
        try:
            async with asyncio.timeout(ANSWER_S):
                part = await reader.read(1 << 20)
        except TimeoutError:
            return found
        except ConnectionError:
            return found
        if not part:
            return found
        found += part


async def _attack(daemon: Daemon, random: random.Random, data: bytes) -> bytes:
    """Send this on one connection, in pieces. Returns what was answered."""
    async with daemon.connection() as (reader, writer):
        answering = asyncio.create_task(_answers(reader))
        try:
            while data:
                cut = random.choice([len(data), len(data), random.randrange(1, len(data) + 1)])
                writer.write(data[:cut])
                await writer.drain()
                data = data[cut:]
                await asyncio.sleep(0)
            if not random.randrange(4):
                writer.write_eof()
        except (ConnectionError, RuntimeError):
            pass  # it has closed on us, as it may
        if not random.randrange(6):
            writer.transport.abort()
        return await answering


def _some(random: random.Random) -> bytes:
    """A few requests for one connection, some of them damaged."""
    return b"".join(damage(random, random.choice(requests(random))()) for _ in range(random.choice([1, 1, 2, 5])))


async def _is_well(daemon: Daemon, number: int) -> str:
    """It answers a good request. Returns its id."""
    async with asyncio.timeout(20), daemon.connection() as (reader, writer):
        writer.write(_post(envelope(custom_id=f"good-{number}")))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201 "), head
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer: dict[str, Any] = json.loads(await reader.readexactly(size))
    return str(answer["id"])


async def _stored(daemon: Daemon) -> dict[str, bytes]:
    rows = await daemon.store._read(
        lambda db: db.execute(
            "select r.id, b.params from requests r left join bodies b on b.request_seq = r.seq"
        ).fetchall()
    )
    return dict(rows)


@pytest.mark.timeout(max(240, 3 * SECONDS))
async def test_garbage_on_the_socket_kills_nothing_and_stores_nothing_that_was_not_handed_in(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32) if SECONDS else 7
    print(f"seed {seed}")  # shown when it fails
    dice = random.Random(seed)
    until = time.monotonic() + SECONDS
    acknowledged: set[str] = set()
    sent = [envelope()]
    rounds = 0
    async with running(tmp_path) as daemon:
        before = 0
        while rounds < ROUNDS or time.monotonic() < until:
            rounds += 1
            attacks = [_some(dice) for _ in range(3)]
            answered = await asyncio.gather(*(_attack(daemon, dice, data) for data in attacks))
            sent += attacks
            for answer in answered:
                assert b" 500 " not in answer, answer
                acknowledged |= {id.decode() for id in ACCEPTED.findall(answer)}
            acknowledged.add(await _is_well(daemon, rounds))
            if rounds == ROUNDS // 3:
                before = _memory_bytes()
        stored = await _stored(daemon)
        # Who was cut off before its answer may have handed in all the same; nobody was told of what is not there.
        unknown = "01980000-0000-7000-8000-000000000001"
        assert acknowledged - {unknown} <= stored.keys()
        everything = b"\n".join(sent)
        everything += b"\n" + CHUNK.sub(b"", everything)
        for params in set(stored.values()):
            assert json.loads(params)["messages"] and params in everything
        assert list(await daemon.store.complaints()) == []
        assert _memory_bytes() - before < MEMORY_BYTES_MAX
        assert daemon.store.open_requests() == len(stored)
    print(f"{rounds} rounds, {len(stored)} stored, {len(acknowledged)} acknowledged")


def _memory_bytes() -> int:
    """The most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
