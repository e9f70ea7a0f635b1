import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.ingest.daemon import Daemon, running
from unhurried.ingest import server


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with running(tmp_path) as daemon:
        yield daemon


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[httpx2.AsyncClient]:
    async with daemon.client() as client:
        yield client


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[server._Protocol]:
    """The server's side of those made from here on."""
    made: list[server._Protocol] = []
    really = server._Protocol.connection_made

    def connection_made(self: server._Protocol, transport: asyncio.Transport) -> None:
        really(self, transport)
        made.append(self)

    monkeypatch.setattr(server._Protocol, "connection_made", connection_made)
    return made
