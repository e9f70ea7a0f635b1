"""A connection on which an answer that comes before the upload has ended is not lost.

A CDN answers 413 after the first bytes of a body and closes. On asyncio's own transports the next write then fails and
takes the socket with it, the unread answer included (measured with httpx2 2.16: a 413 became a ``ReadError``), so a
batch that was plainly refused would count as unknown, be settled for minutes, and be sent again as large as before.
Here writing and reading use a socket that outlives a failed write.
"""

import asyncio
import contextlib
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio
import anyio.abc
import httpcore2
import httpx2

_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""The peer has said its last word. Not ``POLLIN``: under TLS a session ticket is readable too."""


def install(client: httpx2.AsyncClient) -> None:
    """Make every new connection of ``client`` a patient one, through a proxy and under TLS too."""
    # httpx2 has no public way to hand its transport a network backend; a test watches over this one.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        if isinstance(transport, httpx2.AsyncHTTPTransport):
            transport._pool._network_backend = _Backend()  # noqa: SLF001


def warm_up() -> None:
    """Let anyio import, in this thread, what it imports at its first use: it would hold the event loop up for 80 ms."""
    anyio.run(_connect_nowhere)


async def _connect_nowhere() -> None:
    with contextlib.suppress(OSError):
        await (await anyio.connect_unix("")).aclose()


class _Backend(httpcore2.AnyIOBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _patient(await super().connect_tcp(host, port, timeout, local_address, socket_options))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _patient(await super().connect_unix_socket(path, timeout, socket_options))


class _Stream(httpcore2.AsyncNetworkStream):
    """What httpcore2 writes to. Tells it, after the fact, that the peer takes no more."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, socket: "_Socket") -> None:
        self._stream = stream
        self._socket = socket

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)
        if self._socket.taken_no_more:
            raise httpcore2.WriteError  # it then stops writing and reads the answer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._socket)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Socket(anyio.abc.ByteStream):
    """anyio's stream, its transport left idle, with reading and writing on a descriptor of our own."""

    def __init__(self, inner: anyio.abc.SocketStream) -> None:
        raw = inner.extra_attributes[anyio.abc.SocketAttribute.raw_socket]()
        self._inner = inner
        self._socket = socket.socket(fileno=os.dup(raw.fileno()))
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, _HUNG_UP)
        self.taken_no_more = False

    async def send(self, item: bytes) -> None:
        await asyncio.sleep(0)  # a peer that is as fast as we are would never let the other tasks run (measured: 80 ms)
        # Silent about a failure: anyio's TLS, in between, would refuse to read once a write has failed.
        if self.taken_no_more or self._poll.poll(0):
            self.taken_no_more = True
            return
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, item)
        except OSError:
            self.taken_no_more = True

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        self._socket.close()
        await self._inner.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._inner.extra_attributes


def _patient(stream: httpcore2.AsyncNetworkStream) -> httpcore2.AsyncNetworkStream:
    inner = _Socket(stream._stream)  # type: ignore[attr-defined]  # noqa: SLF001
    stream._stream = inner  # type: ignore[attr-defined]  # noqa: SLF001
    return _Stream(stream, inner)
