"""The keeper: tidies up, and raises the alarm before something is lost by waiting."""

from typing import Final, Protocol

import structlog

from unhurried.clock import Ms, seconds_between
from unhurried.domain.states import BatchState
from unhurried.store.contract import KeeperStore, PollerStore

log = structlog.get_logger()

PAUSE_S: Final = 60.0
KEYS_CHUNK: Final = 500
EXPIRY_ALARM_S: Final = 2 * 3_600.0
VANISH_ALARM_S: Final = 26 * 86_400.0
"""Upstream keeps results for 29 days after the batch was created."""


class Everything(KeeperStore, PollerStore, Protocol):
    """What the keeper tidies, and what it warns of."""


class Keeper:
    def __init__(self, store: Everything) -> None:
        self._store = store

    async def step(self, now: Ms) -> float:
        """Forget old idempotency keys, a chunk at a time, and warn of batches that run out of time."""
        await self._warn(now)
        forgotten = await self._store.forget_keys(now, KEYS_CHUNK)
        await self._store.count_open_requests()
        return 0.0 if forgotten == KEYS_CHUNK else PAUSE_S

    async def _warn(self, now: Ms) -> None:
        for found in await self._store.open_batches():
            batch = found.batch
            running = batch.state is not BatchState.ENDED
            if running and found.expires_at is not None and seconds_between(now, found.expires_at) < EXPIRY_ALARM_S:
                log.warning("batch.expires_soon", batch=batch.id, upstream=batch.upstream_id, open=found.members_open)
            created_at = batch.upstream_created_at or batch.created_at
            if not running and seconds_between(created_at, now) > VANISH_ALARM_S:
                log.error("batch.results_vanish_soon", batch=batch.id, upstream=batch.upstream_id)
