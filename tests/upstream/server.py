"""A small HTTP server on loopback that does exactly what a test tells it to, wrong things too."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

DATE = "Sun, 22 Nov 2026 08:00:00 GMT"
DATE_MS = 1_795_334_400_000


@dataclass
class Call:
    """One HTTP request as it arrived, and the means to answer it."""

    method: str
    target: str
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytes = b""

    async def answer(self, status: int, body: bytes = b"", *, read_first: bool = True, **headers: str) -> None:
        """Read the body unless told otherwise, then answer; ``date_=""`` leaves a header out."""
        if read_first:
            await self.read()
        self.write_head(status, content_length=str(len(body)), **headers)
        self.writer.write(body)
        await self.writer.drain()

    async def answer_json(self, status: int, body: Any, **headers: Any) -> None:
        await self.answer(status, json.dumps(body).encode(), content_type="application/json", **headers)

    def write_head(self, status: int, **headers: str) -> None:
        """Only the head; ``content_length`` stands for ``content-length``."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in list(HTTPStatus) else 'Odd'}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in ({"date": DATE} | headers).items() if value]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def read(self) -> None:
        """The whole body."""
        self.body += await self.reader.readexactly(int(self.headers.get("content-length", 0)) - len(self.body))

    def reset(self) -> None:
        """Cut the connection with a RST."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Handler = Callable[[Call], Awaitable[None]]


@dataclass
class Server:
    """``handler`` is called for each request; ``calls`` keeps them all."""

    url: str
    handler: Handler
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection has been closed by the client (or by the handler)."""
    errors: list[Exception] = field(default_factory=list)

    @property
    def posts(self) -> list[Call]:
        return [call for call in self.calls if call.method == "POST"]

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            while head := await _head(reader):
                first, *lines = head.decode().split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                call = Call(method, target, headers, reader, writer)
                self.calls.append(call)
                await self.handler(call)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        except Exception as error:
            self.errors.append(error)
            raise
        finally:
            self.open_connections -= 1
            self.closed.set()
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n\r\n"))[:-4]
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def serving(
    handler: Handler, *, unix: Path | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """A server for as long as the ``with`` lasts."""
    server = Server("", handler)
    if unix is not None:
        listener = await asyncio.start_unix_server(server.converse, unix)
        server.url = f"unix:{unix}"
    else:
        listener = await asyncio.start_server(server.converse, "localhost", 0, ssl=tls, family=socket.AF_INET)
        server.url = f"http{'s' if tls else ''}://localhost:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
    assert not server.errors, server.errors


def one_by_one(*handlers: Handler) -> Handler:
    """The first handler answers the first call, and so on; one call more is an error."""
    left = list(handlers)

    async def handle(call: Call) -> None:
        await left.pop(0)(call)

    return handle


def answering(status: int, body: bytes | dict[str, Any] = b"", **headers: Any) -> Handler:
    """Always this answer."""

    async def handle(call: Call) -> None:
        await call.answer(status, body if isinstance(body, bytes) else json.dumps(body).encode(), **headers)

    return handle


def batch(id: str = "msgbatch_1", *, created: str = "2026-11-22T08:00:00.123456Z", **more: Any) -> dict[str, Any]:
    """A batch object as upstream shows it."""
    counts = {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    return {
        "id": id,
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": counts,
        "created_at": created,
        "expires_at": "2026-11-23T08:00:00.123456Z",
        "ended_at": None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": None,
        **more,
    }


def page(batches: Sequence[dict[str, Any]], *, more: bool = False) -> dict[str, Any]:
    """A page of the list."""
    ids = [batch["id"] for batch in batches] or [None]
    return {"data": list(batches), "has_more": more, "first_id": ids[0], "last_id": ids[-1]}


def error(type: str, message: str = "no", **details: str) -> dict[str, Any]:
    """An error body as upstream sends it."""
    inner: dict[str, Any] = {"type": type, "message": message} | ({"details": details} if details else {})
    return {"type": "error", "error": inner, "request_id": "req_1"}
