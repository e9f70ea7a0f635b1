"""Results as they come, as server-sent events: a pull that does not end, on one connection.

The leases are those of a pull. What is different: no more than ``window`` results are out at once, so a slow reader is
never ahead of what it has confirmed; and when the connection ends, what it was handed and did not confirm goes back at
once. A caller that does not read is never read for: there is one small page of results in memory for each stream, and
the next one is fetched when this one is with the kernel.

An idle stream stands in the line of those that pull, where one look-up serves all of them, and costs no query.
"""

import asyncio
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from fastapi import Response

from unhurried.clock import after
from unhurried.failpoints import failpoint
from unhurried.ingest import asgi, views
from unhurried.ingest.asgi import ClientGone, Send
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.windows import Window
from unhurried.loop import TryLater
from unhurried.store.records import Handed

log = structlog.get_logger()

MEDIA_TYPE: Final = "text/event-stream"
PAGE_RESULTS: Final = 100
PAGE_BYTES: Final = 256_000
"""In memory for a stream at once, but for a single result that is larger."""
PING_S: Final = 15.0
LOOK_S: Final = 5.0
"""How long a full window waits for a hint before it asks the store what was confirmed."""
RECONNECT_MS: Final = 2_000

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_HEAD: Final = b"retry: %d\n\n" % RECONNECT_MS
_PING: Final = b": ping\n\n"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a caller asked for. ``idle_s``: end when nothing came for so long; ``None``: never."""

    destination: str
    window: int
    lease_s: float
    after_seq: int
    idle_s: float | None


class EventStream(Response):
    """The answer that FastAPI is given; it runs once, for as long as both sides want it."""

    media_type = MEDIA_TYPE

    def __init__(self, deps: IngestDeps, wish: Wish, status_code: int = 200) -> None:
        self._deps = deps
        self._wish = wish
        super().__init__(status_code=status_code, headers={"cache-control": "no-store"})
        del self.headers["content-length"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.create_task(asgi.hung_up(receive), name="ingest.hung_up")
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _Stream(self._deps, self._wish, gone, send).run()
        finally:
            gone.cancel()


class _Stream:
    def __init__(self, deps: IngestDeps, wish: Wish, gone: "asyncio.Task[None]", send: Send) -> None:
        self._deps = deps
        self._store = deps.store
        self._waiters = deps.waiters
        self._wish = wish
        self._gone = gone
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._ping_at = math.inf
        self._idle_at = math.inf
        self._idled = False

    async def run(self) -> None:
        """Hand over results until the caller leaves, has been idle for long enough, or the server ends."""
        await self._write(_HEAD)
        self._rest_begins()
        with self._waiters.windows.open(self._wish.window) as window:
            try:
                while not self._over():
                    await self._turn(window)
            finally:
                await self._give_back(window)
        if not self._gone.done():
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _over(self) -> bool:
        return self._gone.done() or self._waiters.closed or self._idled

    async def _turn(self, window: Window) -> None:
        """Hand over one page, or wait until something can be handed over."""
        if not await self._make_room(window):
            return
        for handed in await self._next_page(window):
            if self._over():
                return
            await self._write(_event(handed))
            failpoint("stream.handed_over")
            self._rest_begins()

    async def _make_room(self, window: Window) -> bool:
        """Whether there is any. While there is none, wait for a confirmation or for the end of a lease."""
        window.rearm()
        unconfirmed = window.unconfirmed(self._deps.clock.now())
        if window.room > 0:
            return True
        ends_at = window.next_lease_end()
        left_s = LOOK_S if ends_at is None else (ends_at - self._deps.clock.now()) / 1000
        if not await self._wait(window.changed, min(max(left_s, 0.01), LOOK_S)) and not self._over():
            out = await self._store.still_out(unconfirmed)
            window.drop([id for id in unconfirmed if id not in out])
        return False

    async def _next_page(self, window: Window) -> Sequence[Handed]:
        """Stand in line until there is something; nothing when it is over."""
        wish = self._wish
        with self._waiters.line(wish.destination) as place:
            while not self._over():
                place.rearm()
                now = self._deps.clock.now()
                try:
                    handed = await self._store.pull(
                        wish.destination,
                        limit=min(window.room, PAGE_RESULTS),
                        bytes_max=PAGE_BYTES,
                        lease_s=wish.lease_s,
                        after_seq=wish.after_seq,
                        now=now,
                    )
                except TryLater as later:  # the disk is full: the answer has begun, all it can do is wait
                    await self._wait(self._loop.create_future(), later.retry_after_s)
                    continue
                if handed:
                    window.hand((str(one.delivery_id) for one in handed), after(now, wish.lease_s))
                    self._waiters.wake(wish.destination)  # there may be more, for the next in line
                    self._deps.bells.dispatcher.ring()  # it has a lease to watch
                    return handed
                if wish.after_seq:  # what it skips may be for one behind it, who passes it on in turn
                    self._waiters.wake(wish.destination, behind=place)
                await self._wait(place.woken, math.inf)
        return ()

    async def _wait(self, future: "asyncio.Future[None]", seconds: float) -> bool:
        """Whether ``future`` came within so many seconds. Pings while nothing does; returns early when it is over."""
        end = self._loop.time() + seconds
        while not future.done() and not self._over():
            now = self._loop.time()
            if now >= end:
                break
            if now >= self._idle_at:
                self._idled = True
            elif now >= self._ping_at:
                await self._write(_PING)
            else:
                left = min(end, self._ping_at, self._idle_at) - now
                await asyncio.wait({future, self._gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return future.done()

    async def _write(self, data: bytes) -> None:
        """Returns when all of it is with the kernel. A caller that reads nothing for a whole lease is let go: what it
        was handed is another's by then."""
        try:
            async with asyncio.timeout(self._wish.lease_s):
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            log.warning("stream.not_read", destination=self._wish.destination, after_s=self._wish.lease_s)
            raise ClientGone from None
        self._ping_at = self._loop.time() + PING_S

    def _rest_begins(self) -> None:
        if self._wish.idle_s is not None:
            self._idle_at = self._loop.time() + self._wish.idle_s

    async def _give_back(self, window: Window) -> None:
        now = self._deps.clock.now()
        if not (unconfirmed := window.unconfirmed(now)):
            return
        with suppress(TryLater):  # then they come back at the end of their leases
            await self._store.give_back(unconfirmed, now)
            self._waiters.wake(self._wish.destination)


def _event(handed: Handed) -> bytes:
    """The result as a pull shows it. Its JSON may have line ends between its tokens, which a field cannot."""
    shown = views.encode(views.result(handed))
    data = b"\ndata: ".join(_LINE_END.split(shown))
    return b"id: %d\nevent: result\ndata: %s\n\n" % (handed.seq, data)
