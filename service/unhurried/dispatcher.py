"""The dispatcher: delivers results. Pull destinations fetch for themselves; it takes back what they did not confirm."""

from collections.abc import Callable
from typing import Final

import structlog

from unhurried.clock import Ms, seconds_between
from unhurried.store.contract import DispatcherStore

log = structlog.get_logger()

IDLE_S: Final = 30.0


class Dispatcher:
    def __init__(self, store: DispatcherStore, tell: Callable[[], None]) -> None:
        """``tell`` wakes whoever waits for results; it is a hint."""
        self._store = store
        self._tell = tell

    async def step(self, now: Ms) -> float:
        """Make results whose lease has run out available again, and tell of what is new."""
        returned, next_at = await self._store.return_lapsed(now)
        if returned:
            log.info("deliveries.lease_over", deliveries=returned)
        self._tell()
        if next_at is None:
            return IDLE_S  # a pull rings
        return min(IDLE_S, max(seconds_between(now, next_at), 0.01))
