"""The socket: who may open it, what may stand in its place, what a connection may cost."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.ingest.daemon import Daemon, envelope, eventually, running
from unhurried import ingest
from unhurried.ingest import server


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_its_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    old = os.umask(0o077)
    try:
        with ingest.bind(tmp_path / "new" / "s", mode):
            assert stat.S_IMODE((tmp_path / "new" / "s").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(os.fspath(tmp_path / "s"))
    with ingest.bind(tmp_path / "s", 0o660) as new:
        new.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(tmp_path / "s"))


def test_a_socket_that_somebody_listens_at_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(os.fspath(tmp_path / "s"))
        other.listen()
        with pytest.raises(ingest.SocketInUse, match="is the daemon running already"):
            ingest.bind(tmp_path / "s", 0o660)
        client.connect(os.fspath(tmp_path / "s"))


def test_a_file_in_its_place_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ingest.SocketUnusable, match="no socket"):
        ingest.bind(tmp_path / "s", 0o660)
    assert (tmp_path / "s").read_text() == "precious"


def test_a_path_too_long_for_linux_is_refused_with_the_numbers(tmp_path: Path) -> None:
    fits = tmp_path / ("x" * (107 - len(os.fsencode(tmp_path)) - 1))
    ingest.bind(fits, 0o660).close()
    with pytest.raises(ingest.SocketUnusable, match="108 bytes, Linux allows 107"):
        ingest.bind(fits.with_name(fits.name + "x"), 0o660)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ingest.SocketUnusable, match="cannot be made"):
        ingest.bind(tmp_path / "file" / "s", 0o660)


async def test_the_socket_is_gone_after_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        assert daemon.path.is_socket()
    assert not daemon.path.exists()


async def test_a_successors_socket_is_left_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        daemon.path.unlink()
        successor = ingest.bind(daemon.path, 0o660)
    assert daemon.path.is_socket()
    successor.close()


async def test_what_is_no_http_is_told_so(daemon: Daemon) -> None:
    async with daemon.connection() as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in answer


async def test_headers_without_an_end_are_refused(daemon: Daemon) -> None:
    async with daemon.connection() as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(20):
            writer.write(b"x-filler: " + b"y" * 20_000 + b"\r\n")
        answer = await reader.read(100)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_who_dawdles_over_the_headers_is_let_go(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who waits for an answer is not, however long it takes."""
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.0)
    monkeypatch.setattr(server, "SWEEP_TICKS", 1)
    async with daemon.connection() as (reader, writer), daemon.connection() as (_, patient):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost")
        patient.write(b"GET /queue/results?wait=60 HTTP/1.1\r\nhost: u\r\n\r\n")
        await eventually(lambda: bool(daemon.deps.waiters._lines), "nobody pulls")
        assert await reader.read() == b""
        assert daemon.deps.waiters._lines


async def test_many_slow_connections_do_not_slow_the_others(daemon: Daemon) -> None:
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        ended = asyncio.Event()

        async def dawdle() -> None:
            async with daemon.connection() as (_, writer):
                writer.write(b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/json\r\n"
                             b"content-length: 1000\r\n\r\n{")  # fmt: skip
                await ended.wait()

        for _ in range(300):
            tasks.create_task(dawdle())
        async with daemon.client() as client:
            for _ in range(20):
                answer = await client.post(
                    "/queue/requests", content=envelope(), headers={"content-type": "application/json"}
                )
                assert answer.status_code == 201
        ended.set()


async def test_beyond_the_limit_a_connection_is_told_to_come_back(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_connections_max", lambda: 2)
    async with daemon.connection(), daemon.connection(), daemon.connection() as (reader, _):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer


async def test_an_accept_under_way_when_the_server_ends_is_answered(daemon: Daemon) -> None:
    async with daemon.client() as client:
        posting = [
            asyncio.create_task(
                client.post("/queue/requests", content=envelope(), headers={"content-type": "application/json"})
            )
            for _ in range(20)
        ]
        await eventually(lambda: daemon.store.open_requests() > 0, "nothing was accepted")
        daemon.stop.set()
        answered = [task.result() for task in (await asyncio.wait(posting))[0] if task.exception() is None]
    assert sum(answer.status_code == 201 for answer in answered) == await daemon.count()


async def test_an_upload_that_never_ends_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with asyncio.timeout(15), running(tmp_path) as daemon:
        reader, writer = await asyncio.open_unix_connection(os.fspath(daemon.path))
        writer.write(b"POST /queue/requests HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
        await writer.drain()
        daemon.stop.set()
        assert await reader.read() == b""
        writer.close()


LONG_POLL = b"GET /queue/results?wait=60 HTTP/1.1\r\nhost: u\r\n\r\n"
SHORT = b"GET /queue/results HTTP/1.1\r\nhost: u\r\n\r\n"
UPLOAD = b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: %s\r\ncontent-length: 100\r\n\r\n{"
CHUNKED = (
    b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n"
)


async def test_calls_that_pile_up_behind_one_that_waits_end_the_connection(daemon: Daemon) -> None:
    async with asyncio.timeout(10), daemon.connection() as (reader, writer):
        writer.write(LONG_POLL + SHORT * (server.PIPELINED_MAX + 1))
        assert await reader.read() == b""
    await eventually(lambda: not daemon.deps.waiters._lines, "it is still waited for")


async def test_calls_in_line_are_answered_one_after_the_other(daemon: Daemon) -> None:
    async with asyncio.timeout(10), daemon.connection() as (reader, writer):
        writer.write(SHORT * (server.PIPELINED_MAX + 1))
        for _ in range(server.PIPELINED_MAX + 1):
            assert (await reader.readuntil(b'{"results":[]}')).startswith(b"HTTP/1.1 200 ")


def reads_nothing(connection: server._Protocol) -> bool:
    return connection.flow.read_paused


async def test_nothing_is_read_while_calls_stand_in_line(daemon: Daemon, connections: list[server._Protocol]) -> None:
    async with asyncio.timeout(10), daemon.connection() as (reader, writer):
        writer.write(LONG_POLL + SHORT)
        await eventually(lambda: bool(daemon.deps.waiters._lines), "nobody pulls")
        [connection] = connections
        assert reads_nothing(connection)
        daemon.deps.waiters.close()
        await reader.readuntil(b'{"results":[]}')
        await reader.readuntil(b'{"results":[]}')
        assert not reads_nothing(connection)
        writer.write(SHORT)
        await reader.readuntil(b'{"results":[]}')


async def test_what_comes_behind_a_call_that_ends_the_connection_is_not_stored(daemon: Daemon) -> None:
    head = (
        b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s"
    )
    good = envelope()
    async with asyncio.timeout(10), daemon.connection() as (reader, writer):
        writer.write(head % (b"connection: close\r\n", 1, b"{") + head % (b"", len(good), good))
        answers = await reader.read()
    assert answers.count(b"HTTP/1.1") == 1
    async with daemon.client() as client:
        await client.get("/healthz")
    assert await daemon.count() == 0


async def test_trailers_change_nothing(daemon: Daemon) -> None:
    body = envelope()
    async with daemon.connection() as (reader, writer):
        writer.write(CHUNKED % (len(body), body) + b"content-encoding: gzip\r\nidempotency-key: k\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
    assert await daemon._one("select count(*) from idempotency_keys") == 0


@pytest.mark.parametrize("piece", [b"x: y\r\n" * 1_000, b"z" * 6_000], ids=["many", "one that is long"])
async def test_trailers_without_an_end_are_refused(daemon: Daemon, piece: bytes) -> None:
    async with asyncio.timeout(10), daemon.connection() as (reader, writer):
        writer.write(CHUNKED % (2, b"{}") + b"x: ")
        for _ in range(60):
            writer.write(piece)
        answer = await reader.read(100)
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.fixture
def sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SWEEP_TICKS", 1)
    monkeypatch.setattr(server, "TICK_S", 0.01)


async def _swept(daemon: Daemon) -> None:
    """Returns when the others have been looked at twice: who says nothing is let go at the next look."""
    for _ in range(2):
        async with daemon.connection() as (reader, _):
            assert await reader.read() == b""


@pytest.mark.usefixtures("sweeping")
async def test_a_long_poll_that_was_begun_before_the_last_answer_is_not_idle(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = envelope()
    async with asyncio.timeout(20), daemon.connection() as (reader, writer):
        writer.write(
            b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body) + LONG_POLL[:30]
        )
        await reader.readuntil(b"false}")
        writer.write(LONG_POLL[30:])
        await eventually(lambda: bool(daemon.deps.waiters._lines), "nobody pulls")
        monkeypatch.setattr(server, "HEADER_TIMEOUT_S", -1.0)
        monkeypatch.setattr(server, "KEEP_ALIVE_S", -1.0)
        await _swept(daemon)
        assert daemon.deps.waiters._lines
        daemon.deps.waiters.close()
        assert (await reader.readuntil(b'{"results":[]}')).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("sweeping")
@pytest.mark.parametrize("kind", [b"application/json", b"application/x-ndjson"])
async def test_a_body_that_does_not_come_ends_its_connection(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    monkeypatch.setattr(server, "BODY_TIMEOUT_S", -1.0)
    async with asyncio.timeout(10), daemon.connection() as (reader, writer):
        writer.write(UPLOAD % kind)
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408 ") and b"\r\nconnection: close\r\n" in answer


@pytest.mark.usefixtures("sweeping")
async def test_a_body_that_we_do_not_read_may_stand_still(
    daemon: Daemon, connections: list[server._Protocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_TIMEOUT_S", 0.0)
    async with asyncio.timeout(10), daemon.connection() as (_, writer):
        writer.write(LONG_POLL + UPLOAD % b"application/json")
        await eventually(lambda: bool(daemon.deps.waiters._lines), "nobody pulls")
        monkeypatch.setattr(server, "HEADER_TIMEOUT_S", -1.0)
        await _swept(daemon)
        assert connections[0]._body_since is not None and not connections[0].transport.is_closing()
