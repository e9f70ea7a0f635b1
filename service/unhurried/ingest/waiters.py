"""Callers that wait for a result: wake-ups are hints, the store is the truth.

A waiting caller costs no query of its own. One look-up asks the store for all that wait (or for those that a hint
named), and whoever has an outcome now is woken with it. Of the callers that pull from one destination only the first
in line is woken; when it got something, it wakes the next, so that a thousand idle pullers cost one query.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from unhurried.clock import Clock, Ms, after
from unhurried.ingest.windows import Windows
from unhurried.loop import Bell, repeat
from unhurried.store.contract import IngestStore
from unhurried.store.records import Handed

INTERVAL_S: Final = 5.0
"""How long a lost hint can delay an answer."""
LOOKUP_IDS: Final = 1_000
LOOKUP_BYTES: Final = 8_000_000
REST_S_PER_ID: Final = 50e-6
"""Rest after a look-up, for each id in it: with thousands of waiters, hints that come at once share a look-up."""

Gone = asyncio.Task[None]
"""Ends when the caller has hung up."""


class Place:
    """A place in the line of those that pull from one destination."""

    def __init__(self) -> None:
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def rearm(self) -> None:
        """Before a look at the store: a wake-up from here on is kept for after it."""
        if self.woken.done():
            self.woken = asyncio.get_running_loop().create_future()


class Waiters:
    """Create one, hand it to ``build_app``, run ``watch`` beside the server, call ``results_stored`` from whoever
    stores outcomes. Bounded by the number of connections."""

    def __init__(self, store: IngestStore, clock: Clock, *, interval_s: float = INTERVAL_S) -> None:
        self.bell = Bell()
        self.windows = Windows()
        """Of the streams of results."""
        self._store = store
        self._clock = clock
        self._interval_s = interval_s
        self._requests: dict[str, list[asyncio.Future[Handed | None]]] = {}
        self._lines: dict[str, deque[Place]] = {}
        self._hinted: set[str] = set()
        self._look_at_all = False
        self._all_seen_at = Ms(0)
        self._closed = False

    def results_stored(
        self, request_ids: Collection[str] | None = None, destinations: Collection[str] | None = None
    ) -> None:
        """Hint that these requests have an outcome, and these destinations something to pull; ``None``: not known
        which, so everyone is looked up. Cheap when nobody waits; never raises; may be lost or doubled."""
        if request_ids is None:
            self._look_at_all = self._look_at_all or bool(self._requests)
        elif self._requests:
            self._hinted.update(id for id in request_ids if id in self._requests)
        for destination in list(self._lines) if destinations is None else destinations:
            self.wake(destination)
        if self._hinted or self._look_at_all:
            self.bell.ring()

    @property
    def closed(self) -> bool:
        """Whether the server ends, and nobody is to wait any more."""
        return self._closed

    def wake(self, destination: str, behind: Place | None = None) -> None:
        """Wake the first in line who is not awake yet; of those behind a place, if one is given."""
        line = self._lines.get(destination, deque())
        for place in islice(line, 0 if behind is None else line.index(behind) + 1, None):
            if not place.woken.done():
                place.woken.set_result(None)
                return

    @contextmanager
    def request(self, request_id: str) -> Iterator["asyncio.Future[Handed | None]"]:
        """Wait for the outcome of a request. Enter *before* looking whether it has one, so that no hint falls between.
        The future brings the outcome, or None when the server ends."""
        future: asyncio.Future[Handed | None] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result(None)
        waiting = self._requests.setdefault(request_id, [])
        waiting.append(future)
        try:
            yield future
        finally:
            waiting.remove(future)
            if not waiting and self._requests.get(request_id) is waiting:
                del self._requests[request_id]

    @contextmanager
    def line(self, destination: str) -> Iterator[Place]:
        """Stand in line for a destination, while pulling and between two pulls."""
        place = Place()
        line = self._lines.setdefault(destination, deque())
        line.append(place)
        try:
            yield place
        finally:
            line.remove(place)
            if not line:
                del self._lines[destination]
            elif place.woken.done():  # left without having looked: the wake-up is the next one's
                self.wake(destination)

    async def wait(
        self, future: "asyncio.Future[Handed | None] | asyncio.Future[None]", gone: Gone, until: float
    ) -> bool:
        """Whether ``future`` came before the caller hung up and before ``until`` on the loop's clock."""
        if self._closed:
            return False
        left_s = until - asyncio.get_running_loop().time()
        if left_s > 0 and not future.done():
            await asyncio.wait({future, gone}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        return future.done() and not gone.done() and not self._closed

    async def watch(self, stop: asyncio.Event, finished: Callable[[Ms], None] = lambda _: None) -> None:
        """Answer hints, and look at everyone every few seconds, until ``stop``; then let everyone go. ``finished`` is
        told of each step."""
        try:
            await repeat(self.step, clock=self._clock, bell=self.bell, stop=stop, finished=finished)
        finally:
            self.close()

    def close(self) -> None:
        """Let everyone go, now and from now on: the server ends."""
        self._closed = True
        self.bell.ring()
        self.windows.wake()
        for futures in self._requests.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)
        for line in self._lines.values():
            for place in line:
                if not place.woken.done():
                    place.woken.set_result(None)

    async def step(self, now: Ms) -> float:
        """Look up those whom a hint named, or all when it named none or the interval is over."""
        due = not self._all_seen_at <= now < after(self._all_seen_at, self._interval_s)
        everyone = due or self._look_at_all
        ids = list(self._requests) if everyone else list(self._hinted)
        self._hinted.clear()
        if everyone:
            self._look_at_all = False
            self._all_seen_at = now
        if due:
            for destination in list(self._lines):
                self.wake(destination)
        for first in range(0, len(ids), LOOKUP_IDS):
            await self._look_up(ids[first : first + LOOKUP_IDS])
        if ids:
            await asyncio.sleep(len(ids) * REST_S_PER_ID)
        return self._interval_s

    async def _look_up(self, ids: list[str]) -> None:
        while ids:
            found = await self._store.results_of(ids, LOOKUP_BYTES)
            for handed in found:
                for future in self._requests.get(handed.request_id, ()):
                    if not future.done():
                        future.set_result(handed)
            # The answer keeps the order asked and may end early by size: what follows its last one may not be seen yet.
            ids = ids[ids.index(found[-1].request_id) + 1 :] if found else []
