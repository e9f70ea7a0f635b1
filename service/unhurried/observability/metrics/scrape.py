"""One scrape: everything is looked at once, and then told."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from unhurried.clock import Clock, Ms
from unhurried.observability.health import Health
from unhurried.observability.meters import Meters
from unhurried.store.contract import WatchedStore
from unhurried.store.records import Status


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one scrape tells of. ``status_s``: how long the store took."""

    now: Ms
    status: Status
    status_s: float
    store: WatchedStore
    meters: Meters
    health: Health
    build: Mapping[str, str]


class Metrics:
    def __init__(
        self, store: WatchedStore, meters: Meters, health: Health, clock: Clock, build: Mapping[str, str]
    ) -> None:
        """``build``: what this program is, as labels."""
        self._store = store
        self._meters = meters
        self._health = health
        self._clock = clock
        self._build = build

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The answer to a scrape and its media type: OpenMetrics where ``accept`` asks for it, else Prometheus text."""
        time = asyncio.get_running_loop().time
        began = time()
        status = await self._store.status()
        seen = Seen(
            now=self._clock.now(),
            status=status,
            status_s=time() - began,
            store=self._store,
            meters=self._meters,
            health=self._health,
            build=self._build,
        )
        return await asyncio.to_thread(_expose, seen, accept)


def _expose(seen: Seen, accept: str) -> tuple[bytes, str]:
    from unhurried.observability.metrics import exposing  # noqa: PLC0415  # imports the metrics library

    return exposing.expose(seen, accept)
