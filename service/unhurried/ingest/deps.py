"""What this room is handed by ``app``."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableSet, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from unhurried.clock import Clock, Ms
from unhurried.domain.delivering import Misconfigured, Outcome, SecretRef, Target
from unhurried.domain.queue import QueueSettings
from unhurried.domain.request import Defaults
from unhurried.ingest.draining import Draining
from unhurried.ingest.queuebook import QueueBook
from unhurried.ingest.waiters import Waiters
from unhurried.loop import Bell
from unhurried.settings import IngestSettings
from unhurried.store.contract import DestinationStore, IngestStore, SteeringStore


class Health(Protocol):
    """The figures of this process, kept in memory (``observability.health.Health``)."""

    def loops(self, now: Ms) -> Mapping[str, float]:
        """Seconds since each loop last finished a step, by name."""
        ...

    def hanging(self) -> Sequence[str]:
        """The loops that never wait for the network and have not finished a step for minutes, by name."""
        ...

    def memory(self) -> Mapping[str, int]:
        """Bytes: ``rss_bytes``, ``rss_ready_bytes``, ``rss_peak_bytes``."""
        ...

    def stall(self) -> Mapping[str, float]:
        """Milliseconds by which the event loop was late: ``p99_ms``, ``max_ms``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bells:
    """Whom to wake when a call gives a loop something to do."""

    flusher: Bell
    submission: Bell
    poller: Bell
    dispatcher: Bell


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """Which daemon this is. ``base_url`` is its upstream; ``simulator`` says that the upstream is a fake."""

    version: str
    epoch: int
    pid: int
    started_at: Ms
    base_url: str
    simulator: bool


Metrics = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Given an ``Accept``, the answer to a scrape and its media type."""


def _nothing_wrong() -> str | None:
    return None


async def _no_metrics(_accept: str) -> tuple[bytes, str]:
    return b"", "text/plain; charset=utf-8"


async def _no_webhooks(_target: Target, _secrets: Sequence[SecretRef]) -> Outcome:
    return Misconfigured(detail="this daemon sends no webhooks")


def _uncounted(_code: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class IngestDeps:
    store: IngestStore
    destinations: DestinationStore
    steering: SteeringStore
    queues: QueueBook
    drain: Draining
    clock: Clock
    settings: IngestSettings
    defaults: Defaults
    queue_settings: QueueSettings
    """The daemon's own, for a queue that says nothing."""
    bells: Bells
    waiters: Waiters
    health: Health
    daemon: Daemon
    stop: asyncio.Event
    """Set when the server is to end: long-polls answer, uploads in bulk end with what they have committed."""
    draining: Callable[[], bool]
    """Whether new work is refused. True before ``stop`` is set; reading goes on."""
    open_requests: Callable[[], int]
    """How many requests have no outcome yet. Asked with every accept: it must not touch the disk."""
    unready: Callable[[], str | None] = _nothing_wrong
    """Why the daemon is not ready, or None."""
    unhealthy: Callable[[], str | None] = _nothing_wrong
    """What is broken beyond repair (the writer is gone), or None."""
    webhooks: MutableSet[str] = field(default_factory=set)
    """Names of the webhooks, the very set that ``defaults`` and its like look into: one that is added can be named in
    ``deliver_to`` from then on."""
    test_webhook: Callable[[Target, Sequence[SecretRef]], Awaitable[Outcome]] = _no_webhooks
    """Sends one test event, at once. Raises nothing that a receiver can cause."""
    spool_dir: str | None = None
    """Where answers to large uploads may be kept for a moment; None: the system's temporary folder."""
    metrics: Metrics = _no_metrics
    refused: Callable[[str], None] = _uncounted
    """Told the code of every refusal: of a call, or of one line of an upload in bulk."""
