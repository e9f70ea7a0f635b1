"""The HTTP server: uvicorn with httptools on a socket that we bound, without its signal handlers and its access log.

It leans on two classes of uvicorn (pinned below 1) for what ASGI leaves out: who is at the other end of the socket,
and bounds on what a connection may cost.
"""

import asyncio
import os
import resource
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from unhurried.clock import Clock
from unhurried.ingest.asgi import CLOSING, PEER, Headers
from unhurried.ingest.express import TARGET, Express, Head, head_of
from unhurried.ingest.front import Front

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

HEADER_BYTES_MAX: Final = 65_536
"""At about this size of request line and headers the connection is ended; and of what a body has besides its bytes."""
HEADER_TIMEOUT_S: Final = 30.0
"""How long a connection may say nothing before its first request, or take to finish headers it has begun."""
BODY_TIMEOUT_S: Final = 60.0
"""How long a body that was announced may stand still."""
KEEP_ALIVE_S: Final = 75
PIPELINED_MAX: Final = 64
"""Calls that stand in line behind one that is not answered; with more the connection is ended."""
CONNECTIONS_MAX: Final = 16_384
FILES_RESERVED: Final = 256
"""File descriptors kept for everything else: the database, upstream, spools."""
BACKLOG: Final = 2_048
JOINED_BYTES_MAX: Final = 65_536
READ_BYTES: Final = 65_536
TICK_S: Final = 1.0
SWEEP_TICKS: Final = 5

_PEERCRED: Final = struct.Struct("3i")


class Server:
    """Serves ``front`` on ``listener`` (from ``binding.bind``) until ``stop`` is set."""

    def __init__(
        self,
        front: Front,
        listener: socket.socket,
        *,
        clock: Clock,
        stop: asyncio.Event,
        grace_s: float = 10.0,
        at_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.ready = asyncio.Event()
        """Set when connections are accepted."""
        self._listener = listener
        self._path = Path(listener.getsockname())
        self._inode = os.lstat(self._path).st_ino
        config = uvicorn.Config(
            front,
            http=partial(_Protocol, front.express),  # type: ignore[arg-type]  # it is called, and nothing else
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,  # no cache stands between a caller and a Unix socket
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
        )
        self._uvicorn = _Uvicorn(config, clock=clock, stop=stop, ready=self.ready, grace_s=grace_s, at_stop=at_stop)

    async def serve(self) -> None:
        """Accept connections until ``stop``, then finish what is under way, for at most ``grace_s``.

        A long-poll ends at once; an upload of one request that is still coming in is cut off after the grace.
        """
        _raise_file_limit()
        try:
            await self._uvicorn.serve(sockets=[self._listener])
        finally:
            self._listener.close()
            with suppress(FileNotFoundError):
                if os.lstat(self._path).st_ino == self._inode:  # not one that a successor has made
                    self._path.unlink()


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, stopped by an event instead of by signals."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        clock: Clock,
        stop: asyncio.Event,
        ready: asyncio.Event,
        grace_s: float,
        at_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._clock = clock
        self._stop = stop
        self._ready = ready
        self._grace_s = grace_s
        self._at_stop = at_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the app's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        ticks = 0
        while not self._stop.is_set():
            await self.on_tick(0)
            ticks += 1
            if ticks % SWEEP_TICKS == 0:
                self._sweep()
            await self._clock.wait(self._stop, TICK_S)

    def _sweep(self) -> None:
        """End connections that do not get on with a call, or that have been idle: they hold a file descriptor each."""
        now = monotonic()
        for connection in list(self.server_state.connections):
            if not isinstance(connection, _Protocol) or connection.transport.is_closing():
                continue
            if connection.dawdles(now) or connection.is_idle(now):
                connection.transport.close()
            elif connection.stands_still(now):
                connection.end_body(408, "The body did not come")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._at_stop()
        cutting = asyncio.get_running_loop().call_later(self._grace_s, self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Protocol(HttpToolsProtocol):
    """One connection: knows its peer, refuses headers that never end, and answers the calls of the express lane."""

    def __init__(self, express: Express, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._express = express
        self._exchange: _Exchange | None = None  # a call of the express lane whose body is coming in
        self._running: RequestResponseCycle | None = None  # or the last that ran; ``cycle`` is the newest
        self.peer_uid: int | None = None
        self._extensions: dict[str, Any] = {}
        self._headers_since: float | None = monotonic()
        self._body_since: float | None = None  # while one is coming in: when something last came
        self._body_grew = False
        self._barren_bytes = 0  # that came and were no bytes of a body
        self._idle_since: float | None = None

    def dawdles(self, now: float) -> bool:
        return self._headers_since is not None and now - self._headers_since > HEADER_TIMEOUT_S

    def is_idle(self, now: float) -> bool:
        return (
            self._idle_since is not None
            and now - self._idle_since > KEEP_ALIVE_S
            and self._headers_since is None
            and self._is_free()
        )

    def stands_still(self, now: float) -> bool:
        """Whether a body does not go on. While we do not read, that is not the caller's fault: its time begins anew."""
        if self._body_since is None:
            return False
        if self.flow.read_paused:
            self._body_since = now
        return now - self._body_since > BODY_TIMEOUT_S

    def end_body(self, status: int, title: str) -> None:
        """Refuse a call whose body is coming in, and the connection with it."""
        if self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(status, "invalid_request", title)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        # A send then returns when everything is with the kernel: "written" is true, and large answers do not pile up.
        transport.set_write_buffer_limits(high=0)
        # asyncio reads into a new buffer each time. One of its usual 256 KB is mapped and unmapped by the system, which
        # was measured as 15 us a request; if a transport ever ignores this, that is all it costs.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        if (peer := _peer(transport)) is not None:
            self._extensions[PEER] = peer
            self.peer_uid = peer["uid"]
        self._extensions[CLOSING] = transport.is_closing
        if len(self.connections) > _connections_max():
            self._refuse(503, "busy", "Too many connections", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's, which tells only the newest call: the one that runs may have others behind it."""
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._body_since is not None:
            self._body_since = monotonic()
            if self._body_grew:
                self._body_grew = False
                self._barren_bytes = 0
                return
        elif self._headers_since is None:
            return
        if self.transport.is_closing():
            return
        self._barren_bytes += len(data)
        if self._barren_bytes > HEADER_BYTES_MAX:
            if self._body_since is None:
                self._refuse(431, "invalid_request", "The headers are too large")
            else:
                self.end_body(431, "The trailers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._headers_since = monotonic()
        self._barren_bytes = 0

    def on_headers_complete(self) -> None:
        self._body_since, self._headers_since = self._headers_since, None
        self._idle_since = None
        if (
            self.url == TARGET
            and self.parser.get_method() == b"POST"
            and self._is_free()
            and (head := head_of(self.headers)) is not None
        ):
            self._exchange = _Exchange(self, head)
            self.cycle = self._exchange  # type: ignore[assignment]  # it stands in for uvicorn's
            return
        super().on_headers_complete()
        self.headers = _DROPPED  # type: ignore[assignment]  # trailers go there
        if self.scope["method"] != "HEAD":  # its answer is all head
            # The cycle has not run yet: its task starts with the next turn of the loop, or later.
            self.cycle.transport = _Joining(self.transport, self.cycle)  # type: ignore[assignment]
        if len(self.pipeline) > PIPELINED_MAX:
            self.pipeline.clear()
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._body_grew = True
        if self._exchange is not None:
            self._exchange.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_since = None
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
        else:
            exchange.more_body = False
            self._express.take(exchange, bytes(exchange.body), exchange.idempotency_key)

    def _is_free(self) -> bool:
        """Whether no earlier call on this connection waits for its answer."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def on_response_complete(self) -> None:
        """As uvicorn's, but without a timer for each answer: ``_sweep`` ends idle connections."""
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = monotonic()
        self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_request", "This is no HTTP request")

    def _refuse(self, status: int, code: str, title: str, headers: bytes = b"") -> None:
        body = b'{"type":"about:blank","title":"%s","status":%d,"detail":"%s","code":"%s"}' % (
            title.encode(), status, title.encode(), code.encode(),
        )  # fmt: skip
        head = b"HTTP/1.1 %d \r\ncontent-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n"
        self.transport.write(head % (status, len(body)) + headers + b"\r\n" + body)
        self.transport.close()


_DROPPED: Final[deque[tuple[bytes, bytes]]] = deque(maxlen=0)
"""Keeps nothing of what is put into it."""


class _Flow(FlowControl):
    """Nothing is read while calls stand in line on the connection, or while its caller does not read our answers."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if self.read_paused and not self.write_paused and not self._pipeline:
            super().resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.resume_reading()


class _Exchange:
    """A call in the express lane. To uvicorn it is a cycle: it says when it is complete, and whether the connection
    stays."""

    __slots__ = (
        "_protocol", "body", "disconnected", "idempotency_key", "keep_alive", "message_event", "more_body", "peer_uid",
        "response_complete",
    )  # fmt: skip
    response_started = False  # an answer is written as a whole

    def __init__(self, protocol: _Protocol, head: Head) -> None:
        self._protocol = protocol
        self.peer_uid: int | None = protocol.peer_uid
        self.idempotency_key = head.idempotency_key
        self.keep_alive = protocol.parser.get_http_version() != "1.0" and protocol.parser.should_keep_alive()
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.message_event = _NOBODY_WAITS

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        transport = self._protocol.transport
        self.response_complete = True
        if transport.is_closing():
            return
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        lines.append(body)
        transport.write(b"".join(lines))
        if not self.keep_alive:
            transport.close()
        self._protocol.on_response_complete()


class _NobodyWaits:
    """Stands where a cycle has the event that wakes its task."""

    def set(self) -> None:
        pass


_NOBODY_WAITS: Final = _NobodyWaits()


class _Joining:
    """Writes the head of an answer together with the first piece of its body: one system call instead of two."""

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle: RequestResponseCycle | None = cycle  # until its head was written
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._cycle is not None and self._cycle.response_started:
            self._head = data
            self._cycle = None
        elif self._head is not None:
            if len(data) <= JOINED_BYTES_MAX:
                self._transport.write(self._head + data)
            else:
                self._transport.write(self._head)
                self._transport.write(data)
            self._head = None
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._head is not None:
            self._transport.write(self._head)
            self._head = None
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def _peer(transport: asyncio.Transport) -> dict[str, int] | None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return {"pid": pid, "uid": uid, "gid": gid}


def _raise_file_limit() -> None:
    """As many files as the system lets us open without asking: the usual soft limit of 1,024 is a few long-polls."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_RESERVED
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _connections_max() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else max(16, min(CONNECTIONS_MAX, soft - FILES_RESERVED))
