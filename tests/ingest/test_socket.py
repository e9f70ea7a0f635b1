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
