"""Draining: nothing new is accepted, nothing lingers any more, and everything that is here goes its way to the end.

It is in memory only, so a restart accepts again: whoever drains is there and watches, and a supervisor that starts a
daemon after a crash must not find one that refuses everything for a reason nobody remembers. That it began and that it
ended is on record as an event.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unhurried.clock import Clock, Ms, rfc3339
from unhurried.loop import Bell
from unhurried.store.contract import IngestStore, SteeringStore
from unhurried.store.records import Status


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a drained daemon would not have any more; ``to_pull`` is left for its callers to fetch. ``held_by``: what
    stands in the way, in words."""

    queued: int
    sent: int
    open_batches: int
    to_push: int
    to_pull: int
    held_by: list[str]

    @property
    def empty(self) -> bool:
        return not (self.queued or self.sent or self.open_batches or self.to_push)


class Draining:
    def __init__(
        self,
        store: IngestStore,
        steering: SteeringStore,
        clock: Clock,
        *,
        flusher: Bell,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        """``stop`` ends the daemon as a signal would."""
        self.since: Ms | None = None
        self.actor = ""
        """Who began it."""
        self.stop = stop
        self._store = store
        self._steering = steering
        self._clock = clock
        self._flusher = flusher

    def on(self) -> bool:
        return self.since is not None

    async def begin(self, actor: str) -> None:
        if self.since is None:
            now = self._clock.now()
            await self._steering.note_drain(True, actor, now)
            self.since, self.actor = now, actor
        self._flusher.ring()

    async def end(self, actor: str) -> bool:
        """Accept again. False when nothing was being drained."""
        if self.since is None:
            return False
        await self._steering.note_drain(False, actor, self._clock.now())
        self.since = None
        return True

    async def left(self) -> Left:
        return left(await self._store.status())


def left(status: Status) -> Left:
    """What there is to be done yet, by the numbers of the store."""

    def requests(*states: str) -> int:
        return sum(counts.get(state, 0) for counts in status.requests.values() for state in states)

    def waiting(kind: str) -> int:
        return sum(_waiting(to.deliveries) for to in status.destinations if to.kind == kind)

    return Left(
        queued=requests("queued"),
        sent=requests("assigned", "submitted"),
        open_batches=sum(found.batches for found in status.batches.values()),
        to_push=waiting("webhook"),
        to_pull=waiting("pull"),
        held_by=_held_by(status),
    )


def _held_by(status: Status) -> list[str]:
    said = []
    if status.restored is not None and status.restored.held:
        said.append(f"the database was restored: {status.restored.detail or 'what was sent since is looked for'}")
    if status.account is not None and status.account.paused:
        until = status.account.paused_until
        said.append(
            f"the account is paused until {rfc3339(until) if until is not None else '`unhurried resume`'}:"
            f" {status.account.pause_reason or 'no reason given'}"
        )
    said += [
        f"queue {queue.name} is paused: {queue.pause_reason or 'no reason given'}"
        for queue in status.queues
        if queue.paused_at is not None and status.requests.get(queue.name, {}).get("queued")
    ]
    said += [
        f"destination {to.name} is paused: {to.pause_reason or 'no reason given'}"
        for to in status.destinations
        if to.paused_at is not None and _waiting(to.deliveries)
    ]
    return said


def _waiting(deliveries: Mapping[str, int]) -> int:
    return deliveries.get("pending", 0) + deliveries.get("sending", 0)
