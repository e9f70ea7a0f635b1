"""The dispatcher: delivers results. Pull destinations fetch for themselves, and it takes back what they did not
confirm; to webhooks it carries the results itself.

A step claims what is due, for each destination as many as may be under way there, and starts a courier for each. A
courier sends, records what came of it, and takes the next one in the same transaction. So a receiver that is slow or
dead holds its own couriers and nobody else's. Killed anywhere, what was claimed is pending again at the next start.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from unhurried.clock import Clock, Ms, seconds_between
from unhurried.counting import Histogram
from unhurried.delivery import Webhooks
from unhurried.domain.delivering import (
    Delivered,
    Gone,
    Misconfigured,
    Outcome,
    TryAgain,
    allowance,
    parse_secret_ref,
    parse_target,
)
from unhurried.domain.request import Refusal
from unhurried.failpoints import failpoint
from unhurried.loop import Bell, TryLater
from unhurried.store.contract import DispatcherStore
from unhurried.store.records import Claimed, Destination

log = structlog.get_logger()

IDLE_S: Final = 30.0
ROUNDS_MAX: Final = 50
"""After so many deliveries a courier ends: a concurrency that was lowered is kept to before long."""
CLAIMS_MAX: Final = 20
"""After so many claims a step ends: the lapsed leases want a look too."""
OUTCOMES: Final[Mapping[type[Outcome], str]] = {
    Delivered: "delivered",
    TryAgain: "failed",
    Gone: "gone",
    Misconfigured: "misconfigured",
}
"""What became of an attempt, in a word."""
ATTEMPT_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)


@dataclass(frozen=True, kw_only=True)
class WebhookPolicy:
    """``concurrency``: attempts under way at once for a destination that says nothing else; ``disable_after_s``: of
    failing throughout, a destination is paused; ``lease_s``: longer than any attempt, so that one which is claimed and
    never recorded, which would be a bug, is tried again."""

    concurrency: int = 8
    disable_after_s: float = 432_000.0
    lease_s: float = 600.0
    jitter: Callable[[], float] = random.random
    """A number from 0 up to 1, which spreads the retries."""


class Dispatcher:
    def __init__(
        self,
        store: DispatcherStore,
        webhooks: Webhooks,
        clock: Clock,
        *,
        policy: WebhookPolicy,
        group: asyncio.TaskGroup,
        stop: asyncio.Event,
        bell: Bell,
        tell: Callable[[], None],
    ) -> None:
        """Couriers run in ``group`` and ring ``bell`` when they end. ``tell`` wakes whoever waits for results; it is a
        hint."""
        self._store = store
        self._clock = clock
        self._webhooks = webhooks
        self._policy = policy
        self._group = group
        self._stop = stop
        self._bell = bell
        self._tell = tell
        self._under_way: Counter[int] = Counter()
        """Couriers by destination. Gone with the process, as they are."""
        self.attempts: Counter[tuple[str, str]] = Counter()
        """Since the start, by the name of the destination and a word of ``OUTCOMES``: for whoever shows them."""
        self.attempt_seconds: dict[str, Histogram] = defaultdict(lambda: Histogram(ATTEMPT_BOUNDS_S))
        """How long they took, by the name of the destination."""

    async def step(self, now: Ms) -> float:
        """Make results whose lease has run out available again, tell of what is new, and send couriers."""
        returned, lapse_at = await self._store.return_lapsed(now)
        if returned:
            log.info("deliveries.lease_over", deliveries=returned)
        self._tell()
        send_at = await self._send(now)
        moments = [moment for moment in (lapse_at, send_at) if moment is not None]
        return min([IDLE_S, *(max(seconds_between(now, moment), 0.01) for moment in moments)])  # a pull rings

    async def _send(self, now: Ms) -> Ms | None:
        """Start couriers for what is due. Returns when the next delivery may become due; a courier that ends rings."""
        for _ in range(CLAIMS_MAX):
            wanted, later = self._wanted(await self._store.open_webhooks(), now)
            if not wanted or self._stop.is_set():
                return later
            claimed = await self._store.claim(wanted, self._policy.lease_s, now)
            if not claimed:
                return later  # paused, or confirmed by its caller, since it was looked at
            failpoint("dispatcher.claimed")
            for one in claimed:
                self._under_way[one.destination_id] += 1
                self._group.create_task(self._courier(one), name="courier")
        return now

    def _wanted(self, destinations: Iterable[Destination], now: Ms) -> tuple[dict[int, int], Ms | None]:
        """How many more may be under way for each destination where something is due, and when to look at the rest."""
        wanted: dict[int, int] = {}
        later: list[Ms] = []
        for destination in destinations:
            due_at = max(destination.next_due_at or now, destination.breaker.open_until or now)
            if due_at > now:
                later.append(due_at)
            elif (free := self._free(destination, now)) > 0:
                wanted[destination.id] = free
        return wanted, min(later, default=None)

    def _free(self, destination: Destination, now: Ms) -> int:
        concurrency = destination.concurrency or self._policy.concurrency
        return allowance(destination.breaker, now, concurrency) - self._under_way[destination.id]

    async def _courier(self, first: Claimed) -> None:
        """Deliver ``first``, and then what else is due there for as long as all goes well."""
        claimed: Claimed | None = first
        rounds = 0
        try:
            while claimed is not None:
                rounds += 1
                began = time.monotonic()
                outcome = await self._attempt(claimed)
                failpoint("dispatcher.sent")
                self.attempt_seconds[claimed.destination].add(time.monotonic() - began)
                self.attempts[claimed.destination, OUTCOMES[type(outcome)]] += 1
                claimed = await self._record(claimed, outcome, go_on=rounds < ROUNDS_MAX and not self._stop.is_set())
                failpoint("dispatcher.recorded")
                if rounds == 1 and claimed is not None:
                    self._bell.ring()  # a destination that was tried by one courier works again: others may join it
        finally:
            self._under_way[first.destination_id] -= 1
            self._bell.ring()

    async def _attempt(self, claimed: Claimed) -> Outcome:
        try:
            target = parse_target(claimed.url)
            secrets = [parse_secret_ref(text) for text in claimed.secrets]
        except Refusal as refusal:  # checked when it was added: the database was changed by hand
            return Misconfigured(detail=str(refusal))
        return await self._webhooks.send(target, secrets, claimed.parcel, self._clock.now())

    async def _record(self, claimed: Claimed, outcome: Outcome, *, go_on: bool) -> Claimed | None:
        """Write down what came of it, however long the disk stays full: until then this courier takes nothing new."""
        while True:
            try:
                return await self._store.record_outcome(
                    claimed,
                    outcome,
                    next_lease_s=self._policy.lease_s if go_on else None,
                    jitter=self._policy.jitter(),
                    disable_after_s=self._policy.disable_after_s,
                    now=self._clock.now(),
                )
            except TryLater as later:
                log.warning("delivery.not_recorded", delivery=claimed.parcel.delivery_id, detail=str(later))
                await self._clock.wait(self._stop, later.retry_after_s)
                if self._stop.is_set():
                    return None  # it stays claimed by this boot, and the next one tries it again
