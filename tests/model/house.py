"""A daemon without its socket: the real store in a file and every loop, each step of which is run by hand.

It can be killed at any failpoint: the rest of the process is gone at once, and the next one starts on a copy of the
files as they are at that moment, write-ahead log included.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

from tests.loops.post import Receivers
from tests.loops.world import Killed
from tests.store.support import URL, Shop
from unhurried import failpoints
from unhurried.clock import Clock
from unhurried.delivery import Webhooks
from unhurried.dispatcher import Dispatcher, WebhookPolicy
from unhurried.domain.grouping import Limits
from unhurried.domain.polling import PollPolicy
from unhurried.domain.settling import SettlePolicy
from unhurried.domain.submitting import PausePolicy
from unhurried.flusher import Flusher
from unhurried.keeper import Keeper
from unhurried.keeper import Limits as KeeperLimits
from unhurried.loop import Bell, Step, TryLater
from unhurried.poller import Collector, Tracker
from unhurried.settings import KeeperSettings
from unhurried.store import StoreUnusable
from unhurried.store.sqlite import StoreConfig, open_store
from unhurried.store.sqlite.connection import in_thread
from unhurried.submission import Settlement, Submission
from unhurried.upstream import Upstream

GRACE_S, ABSENT_S, NOT_FOUND_GRACE_S = 60.0, 900.0, 600.0
SWEEP_S = 600.0
RETENTION_DAYS = 2.0
FILES = ("", "-wal")
NOWHERE = ""


def _killed(name: str, path: str) -> None:
    raise Killed(name)


@contextlib.contextmanager
def killing(hit: str) -> Iterator[None]:
    """Within, the process dies at ``hit``: ``NAME@K``, the K-th time that a failpoint (``*``: any) is reached."""
    if not hit:
        yield
        return
    with mock.patch.dict(cast(dict[str, Any], failpoints.ACTIONS), {"kill": _killed}):
        failpoints.arm(hit.replace("@", "=kill@"))
        try:
            yield
        finally:
            failpoints.arm(None)


class _Tasks:
    """Stands for the task group of the app: what runs in it can be waited for, and dies with the process."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def create_task(self, work: Coroutine[Any, Any, None], *, name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        return task

    async def join(self) -> None:
        """Until none is left. What kills one of them is raised."""
        while self.tasks:
            done, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
            self.tasks -= done
            for task in done:
                task.result()

    async def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()


class House:
    def __init__(self, folder: Path, clock: Clock, upstream: Upstream) -> None:
        self._folder = folder
        self._images = 0
        self._clock = clock
        self._upstream = upstream
        self.path = folder / "0" / "a.db"
        self.receivers = Receivers()
        self.steps: dict[str, Step] = {}
        self._shop: Shop | None = None
        self._group = _Tasks()

    @property
    def shop(self) -> Shop:
        assert self._shop is not None
        return self._shop

    async def start(self, hit: str = NOWHERE) -> None:
        """Open and recover. ``hit``: killed there on the way, and started once more."""
        with killing(hit):
            try:
                await self._start()
            except (Killed, StoreUnusable):
                if not hit:
                    raise
                await self._abandon()
                await self._start()

    async def _start(self) -> None:
        now = self._clock.now()
        self._shop = None
        store = await open_store(self.path, StoreConfig(readers=2), now)
        self._shop = Shop(store, self.path, asyncio.create_task(store.run()))
        await self._shop.watch_states()
        await store.bind_account(URL, now)
        failpoints.failpoint("start.bound")
        await store.recover(now)
        failpoints.failpoint("start.recovered")
        self._build()

    async def restart(self, hit: str = NOWHERE) -> None:
        """Everything finishes, in order; and a new start."""
        await self._group.join()
        await self.shop.close(clean=True, now=self._clock.now())
        self._shop = None
        await self.start(hit)

    async def kill(self, hit: str = NOWHERE) -> None:
        await self._abandon()
        await self.start(hit)

    async def run(self, work: Awaitable[Any], hit: str = NOWHERE) -> bool:
        """Do this, and wait for what it has begun. False: killed on the way, and started again."""
        with killing(hit):
            try:
                await work
                await self._group.join()
            except (Killed, StoreUnusable, TryLater):
                if not hit:
                    raise
            else:
                if not self.shop.writer.done():
                    return True
        await self.kill()
        return False

    async def step(self, name: str) -> float:
        """One step of a loop. Nothing to be had just now is not the end of it."""
        return await self.steps[name](self._clock.now())

    async def finished(self) -> None:
        """Until no courier is on its way."""
        await self._group.join()

    async def _abandon(self) -> None:
        """Nothing runs any more. The files are copied as they are: closing the connections would tidy up."""
        await self._group.cancel()
        self._images += 1
        image = self._folder / str(self._images) / self.path.name
        image.parent.mkdir()
        if self._shop is None:  # killed before the store was open: it has closed what it had
            _copy(self.path, image)
        else:
            # In the thread that writes, so between two transactions: what the writer was at has run to its end or was
            # rolled back, and nothing of what was rolled back is in the files.
            await in_thread(self._shop.store._writer_db, lambda _: _copy(self.path, image))
            self._shop.writer.cancel()
            await asyncio.gather(self._shop.writer, return_exceptions=True)
            await self._shop.store.close(clean=False, now=self._clock.now())
        shutil.rmtree(self.path.parent)
        self.path = image

    async def close(self) -> None:
        await self._group.cancel()
        if self._shop is not None:
            await self._shop.close(clean=False, now=self._clock.now())

    def _build(self) -> None:
        store, clock, upstream = self.shop.store, self._clock, self._upstream
        poll = PollPolicy(interval_min_s=1.0, interval_max_s=10.0)
        limits = Limits(
            requests_max=4, bytes_max=10**6, linger_s=10.0, turnaround_default_s=60.0, deadline_margin_s=10.0
        )
        nobody = Bell()
        self._group = _Tasks()
        dispatcher = Dispatcher(
            store,
            cast("Webhooks", self.receivers),
            clock,
            policy=WebhookPolicy(concurrency=2, jitter=lambda: 0.5),
            group=cast("asyncio.TaskGroup", self._group),
            stop=asyncio.Event(),
            bell=nobody,
            tell=lambda: None,
        )
        submission = Submission(
            store,
            upstream,
            clock,
            pauses=PausePolicy(account_s=60.0, unreachable_s=1.0, longest_s=900.0),
            queue_limit=20,
            flusher=nobody,
            poller=nobody,
            settlement=nobody,
        )
        settlement = Settlement(
            store,
            upstream,
            clock,
            policy=SettlePolicy(grace_s=GRACE_S, absent_s=ABSENT_S),
            sweep_s=SWEEP_S,
            submission=nobody,
            poller=nobody,
        )
        tracker = Tracker(
            store,
            upstream,
            clock,
            policy=poll,
            not_found_grace_s=NOT_FOUND_GRACE_S,
            collector=nobody,
            submission=nobody,
            settlement=nobody,
        )
        collector = Collector(
            store,
            upstream,
            clock,
            policy=poll,
            chunk=2,
            not_found_grace_s=NOT_FOUND_GRACE_S,
            dispatcher=nobody,
            flusher=nobody,
            submission=nobody,
        )
        keeper = Keeper(store, KeeperSettings(retention_days=RETENTION_DAYS, vacuum_bytes=0), KeeperLimits())
        self.steps = {
            "flusher": Flusher(store, clock, limits, 2, nobody).step,
            "submission": submission.step,
            "settlement": settlement.step,
            "tracker": tracker.step,
            "collector": collector.step,
            "dispatcher": dispatcher.step,
            "keeper": keeper.step,
        }


LOOPS: tuple[str, ...] = ("flusher", "submission", "settlement", "tracker", "collector", "dispatcher", "keeper")


def _copy(path: Path, image: Path) -> None:
    for end in FILES:
        source = path.with_name(path.name + end)
        if source.exists():
            shutil.copyfile(source, image.with_name(image.name + end))


async def all_at_once(*works: Coroutine[Any, Any, Any]) -> None:
    """As tasks of one process: when one of them is killed, so are the others."""
    tasks = [asyncio.create_task(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
