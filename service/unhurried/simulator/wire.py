"""HTTP/1.1 on one connection, with the freedom to misbehave.

ASGI servers hide the connection; a simulator must be able to cut it in mid-line, to reset it, to end an answer by
closing, and to answer while an upload is still running. So this is a small protocol on ``httptools`` directly.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, unquote

import httptools

BUFFERED_BYTES_MAX: Final = 1024 * 1024
"""Reading pauses while this much of a body waits to be taken."""
LINGER_S: Final = 1.0
"""How long an early answer's connection swallows the rest of the upload, so that the client can read the answer."""
HEADER_BYTES_MAX: Final = 64 * 1024

Framing = Literal["length", "chunked", "close"]
Handler = Callable[["Exchange"], Awaitable[None]]


class Disconnected(Exception):
    """The client is gone: its upload was cut short, or nobody is left to answer."""


@dataclass(eq=False)
class Exchange:
    """One HTTP request and the answer to it. Header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    connection: Connection
    keep_alive: bool
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has disconnected. Never set while reading is paused: TCP does not tell us then."""
    received_bytes: int = 0
    complete: bool = False
    """The whole body has arrived (it may still wait to be read)."""
    status: int | None = None
    """Of the answer, once it has begun."""
    answered: bool = False
    """The whole answer was handed to a connection that was still open."""

    _chunks: deque[bytes] = field(default_factory=deque)
    _buffered: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _framing: Framing = "length"

    async def read(self) -> bytes | None:
        """The next piece of the body, or None after the last. Raises ``Disconnected`` when it was cut short."""
        while not self._chunks:
            if self.complete:
                return None
            if self.gone.is_set():
                raise Disconnected
            self._arrived.clear()
            self.connection.continue_reading(self)
            await self._arrived.wait()
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._buffered < BUFFERED_BYTES_MAX // 2:
            self.connection.continue_reading(self)
        return chunk

    async def body(self, bytes_max: int = 64 * 1024 * 1024) -> bytes:
        """The whole body. Raises ``Disconnected`` when it was cut short, ``ValueError`` beyond ``bytes_max``."""
        parts: list[bytes] = []
        while (chunk := await self.read()) is not None:
            parts.append(chunk)
            if self.received_bytes > bytes_max:
                raise ValueError(f"the body is larger than {bytes_max} bytes")
        return b"".join(parts)

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer. A client that is gone is no error: ``answered`` tells."""
        self._begin(status, {**headers, "content-length": str(len(body))}, "length", body)
        await self.connection.drain()
        self._end()

    async def start(self, status: int, headers: Mapping[str, str], framing: Framing = "chunked") -> None:
        """Send the head of a streamed answer; ``close`` frames it by closing, so that truncation is silent."""
        extra = {"transfer-encoding": "chunked"} if framing == "chunked" else {}
        if framing == "close":
            self.keep_alive = False
        self._begin(status, {**headers, **extra}, framing, b"")
        await self.connection.drain()

    async def send(self, data: bytes) -> None:
        """Send a piece of a streamed answer, waiting for a slow reader. Raises ``Disconnected``."""
        if self.gone.is_set():
            raise Disconnected
        if not data:
            return  # an empty chunk would end the answer
        if self._framing == "chunked":
            self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.connection.write(data)
        await self.connection.drain()

    async def finish(self) -> None:
        """End a streamed answer properly."""
        if self._framing == "chunked":
            self.connection.write(b"0\r\n\r\n")
        await self.connection.drain()
        self._end()

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection here and now, without (the rest of) an answer; ``reset`` sends a TCP RST."""
        self.keep_alive = False
        self.connection.cut(reset=reset)

    def feed(self, data: bytes) -> None:
        """Called by the connection: a piece of the body has arrived."""
        self.received_bytes += len(data)
        if self.answered or self.status is not None:
            return  # the rest of an upload that was answered early
        self._chunks.append(data)
        self._buffered += len(data)
        self._arrived.set()
        if self._buffered > BUFFERED_BYTES_MAX:
            self.connection.pause_reading()

    def feed_end(self) -> None:
        """Called by the connection: the body is complete."""
        self.complete = True
        self._arrived.set()

    def lose(self) -> None:
        """Called by the connection: it is closed."""
        self.gone.set()
        self._arrived.set()

    def _begin(self, status: int, headers: Mapping[str, str], framing: Framing, body: bytes) -> None:
        self.status = status
        self._framing = framing
        if not self.complete:
            self.keep_alive = False
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers.items())]
        if not self.keep_alive:
            lines.append("connection: close")
        self.connection.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def _end(self) -> None:
        self.answered = not self.gone.is_set()


class Connection(asyncio.Protocol):
    """One client's connection; requests on it are answered one after the other."""

    def __init__(self, handle: Handler, connections: set[Connection]) -> None:
        """``connections`` is the server's set of open ones; this one enters and leaves it by itself."""
        self._handle = handle
        self._connections = connections
        self._exchanges: deque[Exchange] = deque()
        self._something: asyncio.Event = asyncio.Event()
        self._writable: asyncio.Event = asyncio.Event()
        self._writable.set()
        self._closed = False
        self._reading = True
        self._current: Exchange | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the one task that answers this connection's requests."""
        self._transport = cast(asyncio.Transport, transport)
        # Enough for one slice of result lines, so that making the next overlaps with sending this one.
        self._transport.set_write_buffer_limits(high=512 * 1024)
        self._parser = httptools.HttpRequestParser(self)
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="simulator.connection")

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is not HTTP is answered with a 400 and closed."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.cut()
        except httptools.HttpParserError:
            self.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still works for this client; the work itself goes on, as it would upstream."""
        self._closed = True
        self._connections.discard(self)
        for exchange in self._exchanges:
            exchange.lose()
        if self._current is not None:
            self._current.lose()
        self._writable.set()
        self._something.set()

    def pause_writing(self) -> None:
        """The peer reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._writable.set()

    # httptools

    def on_message_begin(self) -> None:
        """A new request begins."""
        self._url = b""
        self._headers = {}
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url
        self._count_header_bytes(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._count_header_bytes(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head is complete: the request can be worked on while its body arrives."""
        path, _, query = self._url.decode("latin-1").partition("?")
        exchange = Exchange(
            method=self._parser.get_method().decode("latin-1"),
            path=unquote(path),
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers=self._headers,
            connection=self,
            keep_alive=self._parser.should_keep_alive(),
        )
        self._incoming = exchange
        self._exchanges.append(exchange)
        self._something.set()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._incoming.feed(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._incoming.feed_end()

    # for the exchange

    def write(self, data: bytes) -> None:
        """Write, unless the client is gone."""
        if not self._closed:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was written."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """Let TCP hold the client back."""
        if self._reading and not self._closed:
            self._reading = False
            self._transport.pause_reading()

    def continue_reading(self, exchange: Exchange) -> None:
        """Take more of ``exchange``'s body, asking for it where the client waits to be asked."""
        if exchange.headers.get("expect", "").lower() == "100-continue" and not exchange.received_bytes:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._reading and not self._closed:
            self._reading = True
            self._transport.resume_reading()

    def cut(self, *, reset: bool = False) -> None:
        """Close after what was written, without the rest; ``reset`` makes it a TCP RST that overtakes it."""
        if self._closed:
            return
        sock = self._transport.get_extra_info("socket")
        if not reset:
            self._transport.close()
        else:
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def shut(self) -> None:
        """The server stops: drop the client and whatever works for it."""
        self._task.cancel()
        self._transport.abort()

    async def _serve(self) -> None:
        while (exchange := await self._next()) is not None:
            await self._handle(exchange)
            if not exchange.keep_alive:
                self._linger(exchange)
                return

    async def _next(self) -> Exchange | None:
        """The next request, or None once the client is gone; what arrived whole before it left is still done."""
        self._current = None
        while not self._exchanges:
            if self._closed:
                return None
            self._something.clear()
            await self._something.wait()
        self._current = self._exchanges.popleft()
        return self._current

    def _linger(self, exchange: Exchange) -> None:
        """Close, but swallow the rest of an upload first: an RST would destroy the answer on its way."""
        if self._closed or self._transport.is_closing():
            return
        if exchange.complete or not self._transport.can_write_eof():
            self._transport.close()
            return
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def _count_header_bytes(self, n: int) -> None:
        self._header_bytes += n
        if self._header_bytes > HEADER_BYTES_MAX:
            raise httptools.HttpParserError("headers too large")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Overloaded" if status == 529 else "Unknown"
