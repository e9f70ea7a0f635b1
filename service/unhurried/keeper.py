"""The keeper: deletes what is old, keeps the file in order, and raises the alarm before something is lost by waiting.

A step is short: it does at most one chunk of each work, between the writes of others, and asks to be run again at once
when there is more. How far a round of deleting has come is kept in memory only: a new start begins the round anew,
which costs a walk over small rows.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from unhurried.clock import Ms, after, rfc3339
from unhurried.domain.alarms import (
    BatchReading,
    DestinationReading,
    QueueReading,
    Reading,
    Thresholds,
    alarms,
)
from unhurried.domain.retention import DAY_S
from unhurried.domain.states import BatchState
from unhurried.failpoints import failpoint
from unhurried.settings import KeeperSettings
from unhurried.store.contract import KeeperStore
from unhurried.store.records import OpenBatch, Page, Status

log = structlog.get_logger()

PAUSE_S: Final = 60.0
ROUND_S: Final = 900.0
"""From the end of one round of deleting to the beginning of the next."""
KEYS_CHUNK: Final = 500
OUTCOMES_CHUNK: Final = 2_000
"""Rows that are looked at; of those that are to go, the store takes a smaller chunk."""
BATCHES_CHUNK: Final = 50
EVENTS_CHUNK: Final = 500
VACUUM_PAGES: Final = 100
OPEN: Final = ("queued", "assigned", "submitted")


@dataclass
class _Walk:
    """One table, looked through from its oldest row on, a chunk a step."""

    step: Callable[[int, Ms], Awaitable[Page]]
    position: int = 0
    resting: bool = False

    async def go_on(self, now: Ms) -> int:
        """One chunk. Returns how many rows went; ``resting`` is set at the end of the round."""
        page = await self.step(self.position, now)
        self.resting = not page.more
        self.position = page.position if page.more else 0
        return page.deleted


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of other rooms, which the alarms compare with."""

    open_requests_max: int = 5_000_000
    log_bytes_max: int = 64_000_000
    database_alarm_bytes: int | None = None
    """From its quota, if it has one: before new requests are refused."""


class Keeper:
    def __init__(self, store: KeeperStore, settings: KeeperSettings, limits: Limits) -> None:
        self._store = store
        self._settings = settings
        self._thresholds = _thresholds(settings, limits)
        self._walks = {
            "requests": _Walk(self._forget_outcomes),
            "batches": _Walk(self._forget_batches),
            "events": _Walk(self._forget_events),
        }
        self._next_round_at = Ms(0)
        self._looked_at = Ms(0)
        self._deleted: dict[str, int] = {}

    async def step(self, now: Ms) -> float:
        """Look, if it is time, and tidy a little. Returns 0 when there is more to tidy."""
        if not self._looked_at <= now < after(self._looked_at, PAUSE_S):
            await self._look(now)
            self._looked_at = now
        more = await self._forget_keys(now)
        more |= await self._go_round(now)
        more |= await self._vacuum()
        return 0.0 if more else PAUSE_S

    # Alarms

    async def _look(self, now: Ms) -> None:
        """Tell once of each alarm that begins, and once of each that ends."""
        await self._store.record_alive(now)
        await self._store.empty_log(only_owed=True)
        reading = await self._read()
        if reading.log_bytes > self._thresholds.log_bytes:
            await self._store.empty_log()
        begun, ended = await self._store.record_alarms(alarms(reading, self._thresholds, now), now)
        failpoint("keeper.looked")
        for alarm in begun:
            log.warning(str(alarm.name), about=alarm.entity_id or None, detail=alarm.detail)
        for alarm in ended:
            log.info("alarm.over", alarm=str(alarm.name), about=alarm.entity_id or None, since=rfc3339(alarm.since))

    async def _read(self) -> Reading:
        status = await self._store.status()
        limits = {queue.name: queue.settings.open_requests_max for queue in await self._store.queues()}
        return Reading(
            batches=[_batch(found) for found in await self._store.open_batches()],
            queues=[
                QueueReading(
                    name=name, open=sum(counts.get(state, 0) for state in OPEN), open_requests_max=limits.get(name)
                )
                for name, counts in status.requests.items()
            ],
            destinations=_destinations(status),
            account=status.account.base_url if status.account is not None else "",
            account_paused_at=await self._store.paused_since(),
            account_pause_reason=status.account.pause_reason if status.account is not None else None,
            restored_to=status.restored.made_at if status.restored is not None and status.restored.held else None,
            disk_free_bytes=status.storage.disk_free_bytes,
            database_bytes=status.storage.database_bytes,
            log_bytes=status.storage.wal_bytes,
        )

    # Tidying

    async def _forget_keys(self, now: Ms) -> bool:
        return await self._store.forget_keys(now, KEYS_CHUNK) == KEYS_CHUNK

    async def _go_round(self, now: Ms) -> bool:
        """One chunk of the walk that is not through yet; between two rounds nothing."""
        if now < self._next_round_at <= after(now, ROUND_S):
            return False
        for name, walk in self._walks.items():
            if walk.resting:
                continue
            if deleted := await walk.go_on(now):
                failpoint("keeper.deleted")
                self._deleted[name] = self._deleted.get(name, 0) + deleted
            return True
        await self._store.trim(EVENTS_CHUNK, now)
        if self._deleted:
            log.info("keeper.deleted", **self._deleted)
        self._deleted = {}
        self._next_round_at = after(now, ROUND_S)
        for walk in self._walks.values():
            walk.resting = False
        return False

    async def _forget_outcomes(self, position: int, now: Ms) -> Page:
        unread_days = self._settings.unread_days
        return await self._store.forget_outcomes(
            position,
            OUTCOMES_CHUNK,
            retention_s=self._settings.retention_days * DAY_S,
            unread_s=None if unread_days is None else unread_days * DAY_S,
            now=now,
        )

    async def _forget_batches(self, position: int, now: Ms) -> Page:
        return await self._store.forget_batches(position, BATCHES_CHUNK, now)

    async def _forget_events(self, position: int, now: Ms) -> Page:
        return await self._store.forget_events(position, EVENTS_CHUNK, days=self._settings.events_days, now=now)

    async def _vacuum(self) -> bool:
        """Give space back to the disk once there is much of it; what is left is used again by what comes."""
        free = await self._store.free_bytes()
        if free <= self._settings.vacuum_bytes:
            return False
        await self._store.vacuum(VACUUM_PAGES)
        failpoint("keeper.vacuumed")
        return True


def _thresholds(settings: KeeperSettings, limits: Limits) -> Thresholds:
    return Thresholds(
        expiry_s=settings.expiry_alarm_s,
        vanish_s=settings.vanish_alarm_days * DAY_S,
        unread_s=settings.unread_alarm_s,
        account_paused_s=settings.paused_alarm_s,
        queue_share=settings.queue_alarm_share,
        open_requests_max=limits.open_requests_max,
        disk_free_bytes=settings.disk_free_alarm_bytes,
        database_bytes=min(settings.database_alarm_bytes, limits.database_alarm_bytes or settings.database_alarm_bytes),
        log_bytes=2 * limits.log_bytes_max,
    )


def _batch(found: OpenBatch) -> BatchReading:
    batch = found.batch
    return BatchReading(
        id=batch.id,
        open=found.members_open,
        ended=batch.state is BatchState.ENDED,
        created_at=batch.upstream_created_at or batch.created_at,
        expires_at=found.expires_at,
    )


def _destinations(status: Status) -> list[DestinationReading]:
    return [
        DestinationReading(
            name=to.name,
            waiting=to.deliveries.get("pending", 0) + to.deliveries.get("sending", 0),
            oldest_at=to.oldest_at,
            dead=to.deliveries.get("dead", 0),
            failing_since=to.failing_since,
            breaker_open=to.open_until is not None,
            paused_at=to.paused_at,
            pause_reason=to.pause_reason,
        )
        for to in status.destinations
    ]
