"""The loops on a real store, with a clock that is moved by hand and a small upstream that does as it is told.

Fakes stand for what is outside only: time and the API.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tests.store.support import NOW, SUCCEEDED, Shop, open_shop
from unhurried.clock import Ms, after
from unhurried.domain.batch import UpstreamId
from unhurried.domain.grouping import Limits
from unhurried.domain.polling import PollPolicy
from unhurried.domain.settling import Listing, SettlePolicy, Sighting
from unhurried.domain.submitting import Answer, Created, NoAnswer, PausePolicy
from unhurried.flusher import Flusher
from unhurried.loop import Bell
from unhurried.poller import Collector, Tracker
from unhurried.submission import Settlement, Submission
from unhurried.upstream import ResultsNotFound, Upstream, UpstreamTrouble


class Killed(BaseException):
    """The process ends here, as by ``kill -9``: no loop may catch it."""


class HandClock:
    """Time passes only when a test says so, or when somebody waits."""

    def __init__(self) -> None:
        self.moment = NOW

    def now(self) -> Ms:
        return self.moment

    def pass_s(self, seconds: float) -> None:
        self.moment = after(self.moment, seconds)

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        if not wake.is_set():
            self.pass_s(seconds)


@dataclass
class Theirs:
    """A batch as upstream has it."""

    id: str
    custom_ids: list[str]
    created_at: Ms
    ended_at: Ms | None = None
    canceling: bool = False
    visible: bool = True
    """In listings and for a retrieve."""
    results: list[bytes] = field(default_factory=list)

    def sighting(self) -> Sighting:
        return Sighting(
            id=UpstreamId(self.id),
            total=len(self.custom_ids),
            created_at=self.created_at,
            expires_at=after(self.created_at, 86_400),
            ended_at=self.ended_at,
            ended=self.ended_at is not None,
            canceling=self.canceling,
            results_readable=self.ended_at is not None,
        )


def line(custom_id: str, result: bytes = SUCCEEDED) -> bytes:
    return b'{"custom_id":"%s","result":%s}' % (custom_id.encode(), result)


class FakeUpstream:
    """What the loops ask of upstream. Each create takes one of ``answers``; when these are used up, it works."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.batches: list[Theirs] = []
        self.answers: list[Callable[[list[str]], Answer]] = []
        self.calls: list[str] = []
        self.date_trouble: UpstreamTrouble | None = None
        self.readings: list[list[bytes] | Exception] = []
        """What the next readings of results bring instead of the results, one each."""

    def make(self, custom_ids: Sequence[str], **fields: object) -> Theirs:
        made = Theirs(f"u{len(self.batches) + 1}", list(custom_ids), self.clock.now(), **fields)  # type: ignore[arg-type]
        self.batches.append(made)
        return made

    def stranger(self, size: int, *, ended: bool = False) -> Theirs:
        made = self.make([f"stranger{n:05}-x" for n in range(size)])
        if ended:
            self.end(made)
        return made

    def end(self, batch: Theirs, results: list[bytes] | None = None) -> None:
        batch.ended_at = self.clock.now()
        batch.results = results if results is not None else [line(id) for id in batch.custom_ids]

    def ours(self) -> list[Theirs]:
        return [batch for batch in self.batches if not batch.custom_ids[0].startswith("stranger")]

    # how a create may go

    def works(self, custom_ids: list[str]) -> Answer:
        made = self.make(custom_ids)
        return Created(upstream_id=UpstreamId(made.id), created_at=made.created_at)

    def killed_before(self, custom_ids: list[str]) -> Answer:
        raise Killed

    def killed_after(self, custom_ids: list[str]) -> Answer:
        self.make(custom_ids)
        raise Killed

    def lost(self, custom_ids: list[str]) -> Answer:
        """It never arrived, and nobody said so."""
        return NoAnswer(sent=True, detail="timeout")

    def silent(self, custom_ids: list[str]) -> Answer:
        """It arrived, and the answer did not."""
        self.make(custom_ids)
        return NoAnswer(sent=True, detail="connection cut")

    # what the loops call

    async def date(self) -> Ms:
        self.calls.append("date")
        if self.date_trouble is not None:
            raise self.date_trouble
        return self.clock.now()

    async def create(
        self, *, anthropic_version: str, anthropic_beta: str, content: AsyncIterator[bytes], content_length: int
    ) -> Answer:
        self.calls.append("create")
        body = b"".join([page async for page in content])
        assert len(body) == content_length
        custom_ids = [request["custom_id"] for request in json.loads(body)["requests"]]
        return (self.answers.pop(0) if self.answers else self.works)(custom_ids)

    async def list_since(self, since: Ms | None) -> Listing:
        self.calls.append("list")
        seen = [batch.sighting() for batch in self.batches if batch.visible]
        return Listing(sightings=sorted(seen, key=lambda one: -one.created_at), date=self.clock.now())

    def _find(self, id: str) -> Theirs | None:
        return next((batch for batch in self.batches if batch.id == id and batch.visible), None)

    async def retrieve(self, id: UpstreamId) -> Sighting | None:
        self.calls.append("retrieve")
        found = self._find(id)
        return found.sighting() if found else None

    async def cancel(self, id: UpstreamId) -> None:
        self.calls.append(f"cancel {id}")
        found = self._find(id)
        assert found is not None
        found.canceling = True

    async def first_line(self, id: UpstreamId) -> bytes | None:
        self.calls.append("first_line")
        found = self._find(id)
        if found is None:
            raise ResultsNotFound("404", status=404, reachable=True)
        return found.results[0] if found.results else None

    async def result_lines(self, id: UpstreamId) -> AsyncIterator[list[bytes]]:
        self.calls.append("results")
        planned = self.readings.pop(0) if self.readings else None
        if isinstance(planned, Exception):
            raise planned
        found = self._find(id)
        if found is None:
            raise ResultsNotFound("404", status=404, reachable=True)
        for one in planned if planned is not None else found.results:
            if one == b"cut":
                raise UpstreamTrouble("cut in the middle", reachable=True)
            yield [one]


class World:
    """A daemon without its socket. ``restart`` is a kill and a new start."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "unhurried.db"
        self.clock = HandClock()
        self.upstream = FakeUpstream(self.clock)
        self.shop: Shop

    async def start(self) -> None:
        self.shop = await open_shop(self.path, self.clock.now())
        store, clock, upstream = self.shop.store, self.clock, cast("Upstream", self.upstream)
        self.bells = {
            name: Bell() for name in ("flusher", "submission", "settlement", "tracker", "collector", "dispatcher")
        }
        bells = self.bells
        poll = PollPolicy(interval_min_s=1.0, interval_max_s=10.0)
        limits = Limits(
            requests_max=100, bytes_max=10**6, linger_s=10.0, turnaround_default_s=60.0, deadline_margin_s=10.0
        )
        self.flusher = Flusher(store, clock, limits, 10, bells["submission"])
        self.submission = Submission(
            store,
            upstream,
            clock,
            pauses=PausePolicy(account_s=60.0, unreachable_s=1.0, longest_s=900.0),
            queue_limit=1_000,
            flusher=bells["flusher"],
            poller=bells["tracker"],
            settlement=bells["settlement"],
        )
        self.settlement = Settlement(
            store,
            upstream,
            clock,
            policy=SettlePolicy(grace_s=60.0, absent_s=900.0),
            sweep_s=3_600.0,
            submission=bells["submission"],
            poller=bells["tracker"],
        )
        self.tracker = Tracker(
            store,
            upstream,
            clock,
            policy=poll,
            not_found_grace_s=600.0,
            collector=bells["collector"],
            submission=bells["submission"],
            settlement=bells["settlement"],
        )
        self.collector = Collector(
            store,
            upstream,
            clock,
            policy=poll,
            chunk=2,
            not_found_grace_s=600.0,
            dispatcher=bells["dispatcher"],
            flusher=bells["flusher"],
            submission=bells["submission"],
        )

    async def stop(self) -> None:
        await self.shop.close(clean=False, now=self.clock.now())

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def accept(self, count: int, **fields: object) -> list[str]:
        return await self.shop.some(count, self.clock.now(), **fields)

    async def send(self) -> None:
        """Everything that waits, in batches, as far as upstream takes it. A kill is followed by a new start."""
        while await self.shop.store.wake_waiting(self.clock.now()) == self.clock.now():
            pass
        await self.shop.store.ask_flush(None, None, "test", self.clock.now())
        for _ in range(50):
            flushed = await self.flusher.step(self.clock.now())
            try:
                submitted = await self.submission.step(self.clock.now())
            except Killed:
                await self.restart()
                return
            if flushed and submitted:
                return

    async def pass_s(self, seconds: float, step_s: float = 20.0) -> None:
        """Let time pass, and every loop but the flusher and the submission have its turns."""
        end = after(self.clock.now(), seconds)
        while self.clock.now() < end:
            self.clock.pass_s(step_s)
            await self.look()

    async def look(self) -> None:
        """One turn of each loop that looks upstream."""
        await self.settlement.step(self.clock.now())
        await self.tracker.step(self.clock.now())
        while await self.collector.step(self.clock.now()) == 0:
            pass

    async def settled(self, *, fresh: bool = True) -> None:
        """Until nothing is in doubt. ``fresh``: others make batches meanwhile, which shows that the list is fresh."""
        for _ in range(100):
            if not await self.shop.store.doubts():
                return
            self.clock.pass_s(20)
            if fresh:
                self.upstream.stranger(977)
            await self.look()
        raise AssertionError("still in doubt")

    async def finished(self) -> None:
        """Everything upstream ends and is collected, round after round, until no request is open."""
        for _ in range(50):
            if not self.shop.store.open_requests():
                return
            for batch in self.upstream.ours():
                if batch.ended_at is None:
                    self.upstream.end(batch)
            await self.pass_s(60)
            await self.send()
        raise AssertionError("still open")


@asynccontextmanager
async def world_at(folder: Path) -> AsyncIterator[World]:
    world = World(folder)
    await world.start()
    try:
        yield world
        await world.shop.check()
    finally:
        await world.stop()
