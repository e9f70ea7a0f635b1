"""The dispatcher on a real store, with a clock that is moved by hand and receivers that do as they are told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tests.loops.world import HandClock
from tests.store.support import Shop, open_shop
from tests.store.test_sending import done
from unhurried.clock import Ms
from unhurried.delivery import Webhooks
from unhurried.dispatcher import Dispatcher, WebhookPolicy
from unhurried.domain.delivering import Delivered, Outcome, Parcel, SecretRef, Target
from unhurried.loop import Bell

OK = Delivered(status=200)


@dataclass
class Receiver:
    """At one host. Each attempt takes one of ``outcomes``; when these are used up, all goes well."""

    outcomes: list[Outcome] = field(default_factory=list)
    always: Outcome = OK
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    let_through: int = 0
    """Attempts that a closed gate does not hold."""
    got: list[Parcel] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    at_once: int = 0
    at_once_max: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def ids(self) -> list[str]:
        return [parcel.delivery_id for parcel in self.got]


class Receivers:
    """Stands for ``delivery.Webhooks``."""

    def __init__(self) -> None:
        self.at: dict[str, Receiver] = {"app.test": Receiver(), "other.test": Receiver()}
        self.held = 0

    async def send(self, target: Target, secrets: Sequence[SecretRef], parcel: Parcel, now: Ms) -> Outcome:
        receiver = self.at[target.host]
        receiver.got.append(parcel)
        receiver.paths.append(target.path)
        receiver.at_once += 1
        receiver.at_once_max = max(receiver.at_once_max, receiver.at_once)
        try:
            if receiver.let_through:
                receiver.let_through -= 1
            elif not receiver.gate.is_set():
                self.held += 1
                try:
                    await receiver.gate.wait()
                finally:
                    self.held -= 1
            return receiver.outcomes.pop(0) if receiver.outcomes else receiver.always
        finally:
            receiver.at_once -= 1


@dataclass
class Post:
    """What a test gets hold of."""

    shop: Shop
    clock: HandClock
    receivers: Receivers
    dispatcher: Dispatcher
    bell: Bell
    stop: asyncio.Event
    batches: int = 0

    @property
    def app(self) -> Receiver:
        return self.receivers.at["app.test"]

    @property
    def other(self) -> Receiver:
        return self.receivers.at["other.test"]

    async def put(self, name: str = "app", path: str = "/", concurrency: int | None = None) -> None:
        url = f"https://{name}.test{path}"
        await self.shop.store.put_webhook(f"webhook:{name}", url, ["env:A"], concurrency, "test", self.clock.now())

    async def results(self, count: int, name: str = "app") -> list[str]:
        """So many results for a webhook; their delivery ids."""
        self.batches += 1
        now = self.clock.now()
        return await done(self.shop, count, f"webhook:{name}", upstream_id=f"u{self.batches}", now=now)

    async def turn(self) -> float:
        """One step, and one more for each ring: until all couriers have ended, or are held by a receiver, and nobody
        has rung. Returns the pause that the last step asked for."""
        while True:
            self.bell.event.clear()
            pause_s = await self.dispatcher.step(self.clock.now())
            await self.until(lambda: self.bell.event.is_set() or self._is_quiet(), "couriers are at work")
            if not self.bell.event.is_set():
                return pause_s

    def _is_quiet(self) -> bool:
        return self.dispatcher._under_way.total() == self.receivers.held

    async def until(self, reached: Callable[[], bool], what: str) -> None:
        """The store's threads take their own time; at most ten seconds of it."""
        async with asyncio.timeout(10) as deadline:
            while not reached():  # noqa: ASYNC110  # the inside of the dispatcher has no event to wait for
                await asyncio.sleep(0.001)
        assert not deadline.expired(), what

    async def release(self, receiver: Receiver) -> None:
        receiver.gate.set()
        await self.until(lambda: not receiver.at_once, "attempts are under way")
        await self.turn()

    async def states(self, name: str = "app") -> Counter[str]:
        found = await self.shop.store.destination(f"webhook:{name}")
        assert found is not None
        return Counter(found.deliveries)


@asynccontextmanager
async def post_at(folder: Path, *, concurrency: int = 4, kill: bool = False) -> AsyncIterator[Post]:
    """``kill``: leave as a kill does, with whatever is under way."""
    clock, receivers, bell, stop = HandClock(), Receivers(), Bell(), asyncio.Event()
    shop = await open_shop(folder / "unhurried.db", clock.now())
    try:
        async with asyncio.TaskGroup() as group:
            couriers = _Couriers(group)
            dispatcher = Dispatcher(
                shop.store,
                cast("Webhooks", receivers),
                clock,
                policy=WebhookPolicy(concurrency=concurrency, jitter=lambda: 0.5),
                group=cast("asyncio.TaskGroup", couriers),
                stop=stop,
                bell=bell,
                tell=lambda: None,
            )
            yield Post(shop, clock, receivers, dispatcher, bell, stop)
            stop.set()
            if kill:
                couriers.cancel()
            for receiver in receivers.at.values():
                receiver.gate.set()
        if not kill:
            await shop.check()
    finally:
        await shop.close(clean=not kill)


class _Couriers:
    """A group of tasks that can be cut off."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []

    def create_task(self, work: "asyncio._CoroutineLike[None]", *, name: str) -> "asyncio.Task[None]":
        task = self._group.create_task(work, name=name)
        self._tasks.append(task)
        return task

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
