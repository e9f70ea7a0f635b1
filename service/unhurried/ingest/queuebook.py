"""What the queues say of themselves, in memory: every request asks for it, and only the daemon changes it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from unhurried.domain.queue import defaults
from unhurried.domain.request import Defaults
from unhurried.ingest.problems import Problem, queue_full
from unhurried.store.contract import SteeringStore


class QueueBook:
    """Load it before the first request, and after each change: ``changing`` does."""

    def __init__(self, store: SteeringStore, daemon: Defaults, open_requests: Callable[[int], int]) -> None:
        """``daemon``: what holds where a queue says nothing. ``open_requests`` tells how many requests of a queue, by
        its id, have no outcome yet, without asking the disk."""
        self.defaults: dict[str, Defaults] = {}
        """Of the queues that differ from the daemon: what a request gets there where its caller says nothing."""
        self._store = store
        self._daemon = daemon
        self._open_requests = open_requests
        self._limits: dict[str, tuple[int, int]] = {}
        self._changes = asyncio.Lock()

    async def load(self) -> None:
        of_queue, limits = {}, {}
        for queue in await self._store.queues():
            if (own := defaults(queue.settings, self._daemon)) != self._daemon:
                of_queue[queue.name] = own
            if queue.settings.open_requests_max is not None:
                limits[queue.name] = (queue.id, queue.settings.open_requests_max)
        # Replaced, never changed: large envelopes are checked in threads, which look into it meanwhile.
        self.defaults = of_queue
        self._limits = limits

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Around a change on disk. One at a time, so that an older look never replaces a newer one."""
        async with self._changes:
            try:
                yield
            finally:
                await self.load()

    @property
    def limited(self) -> bool:
        """Whether any queue has a limit of its own."""
        return bool(self._limits)

    def refusal(self, name: str, already: int = 0) -> Problem | None:
        """Why this queue takes no other request now: its own limit is reached. ``already``: of the same call."""
        if (limit := self._limits.get(name)) is None:
            return None
        open_now = self._open_requests(limit[0]) + already
        return queue_full(open_now, limit[1], queue=name) if open_now >= limit[1] else None

    def room(self, names: Iterable[str]) -> tuple[int, Problem | None]:
        """How many of these requests, in their order, find room in their queues, and why the next one does not."""
        seen: dict[str, int] = {}
        for place, name in enumerate(names):
            if (problem := self.refusal(name, seen.get(name, 0))) is not None:
                return place, problem
            seen[name] = seen.get(name, 0) + 1
        return sum(seen.values()), None
