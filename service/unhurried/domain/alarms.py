"""What an operator should know before something is lost, or stands still, by waiting.

An alarm is on for as long as its condition holds. Whether one has just begun or ended is the store's to say, which
remembers those that were on: so each is told once when it begins and once when it ends, whatever restarts lie between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from unhurried.clock import Ms, rfc3339, seconds_between


class AlarmName(StrEnum):
    BATCH_EXPIRES_SOON = "batch.expires_soon"
    """Upstream's 24 hours are nearly over; what it has not processed by then expires."""
    RESULTS_VANISH_SOON = "batch.results_vanish_soon"
    """A batch has ended long ago and its results are not all stored; upstream keeps them for 29 days."""
    RESULTS_UNREAD = "destination.results_unread"
    """Nobody fetches, or confirms, the results of a destination."""
    DESTINATION_FAILING = "destination.failing"
    """A webhook's breaker is open, or it was paused with results waiting."""
    DEAD_DELIVERIES = "destination.dead_deliveries"
    """Deliveries that used up their attempts; they can be delivered again."""
    QUEUE_NEARLY_FULL = "queue.nearly_full"
    ACCOUNT_PAUSED = "account.paused_long"
    RESTORED = "database.restored"
    """A copy was restored, and nothing is submitted until what was sent since is found."""
    DISK_LOW = "disk.low"
    DATABASE_LARGE = "database.large"
    LOG_LARGE = "database.log_large"
    """The write-ahead log cannot be emptied: somebody reads, in a transaction that does not end."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """``entity_id``: of the batch, queue, destination or account it is about; empty for the daemon as a whole. The
    detail says nothing that changes by itself, such as an age."""

    name: AlarmName
    entity_id: str = ""
    since: Ms
    detail: str


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    expiry_s: float
    vanish_s: float
    unread_s: float
    account_paused_s: float
    queue_share: float
    open_requests_max: int
    disk_free_bytes: int
    database_bytes: int
    log_bytes: int


@dataclass(frozen=True, kw_only=True)
class BatchReading:
    id: str
    open: int
    ended: bool
    created_at: Ms
    expires_at: Ms | None


@dataclass(frozen=True, kw_only=True)
class QueueReading:
    name: str
    open: int
    open_requests_max: int | None


@dataclass(frozen=True, kw_only=True)
class DestinationReading:
    name: str
    waiting: int
    oldest_at: Ms | None
    dead: int
    failing_since: Ms | None
    breaker_open: bool
    paused_at: Ms | None
    pause_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the keeper has looked at."""

    batches: Sequence[BatchReading]
    queues: Sequence[QueueReading]
    destinations: Sequence[DestinationReading]
    account: str
    account_paused_at: Ms | None
    account_pause_reason: str | None
    restored_to: Ms | None = None
    """While nothing is submitted because a copy was restored: the last moment that it knows."""
    disk_free_bytes: int
    database_bytes: int
    log_bytes: int


def alarms(reading: Reading, at: Thresholds, now: Ms) -> list[Alarm]:
    """Those whose condition holds now."""
    return [
        *_of_batches(reading.batches, at, now),
        *_of_queues(reading.queues, at, now),
        *_of_destinations(reading.destinations, at, now),
        *_of_the_daemon(reading, at, now),
    ]


def _of_batches(batches: Sequence[BatchReading], at: Thresholds, now: Ms) -> Iterator[Alarm]:
    for batch in batches:
        if not batch.ended and batch.expires_at is not None and seconds_between(now, batch.expires_at) < at.expiry_s:
            detail = f"upstream gives it up at {rfc3339(batch.expires_at)}; what has expired is sent again"
            yield Alarm(name=AlarmName.BATCH_EXPIRES_SOON, entity_id=batch.id, since=now, detail=detail)
        if batch.ended and seconds_between(batch.created_at, now) > at.vanish_s:
            detail = f"upstream made it at {rfc3339(batch.created_at)} and keeps results for 29 days"
            yield Alarm(name=AlarmName.RESULTS_VANISH_SOON, entity_id=batch.id, since=now, detail=detail)


def _of_queues(queues: Sequence[QueueReading], at: Thresholds, now: Ms) -> Iterator[Alarm]:
    everything = QueueReading(
        name="*", open=sum(queue.open for queue in queues), open_requests_max=at.open_requests_max
    )
    for queue in (*queues, everything):
        limit = queue.open_requests_max
        if limit is not None and queue.open >= at.queue_share * limit:
            detail = f"more than {at.queue_share:.0%} of the {limit:,} requests that may be open"
            yield Alarm(name=AlarmName.QUEUE_NEARLY_FULL, entity_id=queue.name, since=now, detail=detail)


def _of_destinations(destinations: Sequence[DestinationReading], at: Thresholds, now: Ms) -> Iterator[Alarm]:
    for to in destinations:
        if to.oldest_at is not None and to.waiting and seconds_between(to.oldest_at, now) > at.unread_s:
            detail = f"the oldest result waits to be fetched since {rfc3339(to.oldest_at)}"
            yield Alarm(name=AlarmName.RESULTS_UNREAD, entity_id=to.name, since=now, detail=detail)
        if to.waiting and to.paused_at is not None:
            detail = f"paused since {rfc3339(to.paused_at)}: {to.pause_reason or 'no reason given'}"
            yield Alarm(name=AlarmName.DESTINATION_FAILING, entity_id=to.name, since=now, detail=detail)
        elif to.breaker_open and to.failing_since is not None:
            detail = f"every attempt has failed since {rfc3339(to.failing_since)}"
            yield Alarm(name=AlarmName.DESTINATION_FAILING, entity_id=to.name, since=now, detail=detail)
        if to.dead:
            detail = f"{to.dead:,} results were given up; deliver them again once the receiver works"
            yield Alarm(name=AlarmName.DEAD_DELIVERIES, entity_id=to.name, since=now, detail=detail)


def _of_the_daemon(reading: Reading, at: Thresholds, now: Ms) -> Iterator[Alarm]:
    if reading.restored_to is not None:
        detail = f"nothing is submitted: the database knows nothing after {rfc3339(reading.restored_to)}"
        yield Alarm(name=AlarmName.RESTORED, since=now, detail=detail)
    paused_at = reading.account_paused_at
    if paused_at is not None and seconds_between(paused_at, now) > at.account_paused_s:
        detail = f"nothing is submitted since {rfc3339(paused_at)}: {reading.account_pause_reason or 'no reason given'}"
        yield Alarm(name=AlarmName.ACCOUNT_PAUSED, entity_id=reading.account, since=now, detail=detail)
    if reading.disk_free_bytes < at.disk_free_bytes:
        detail = f"less than {at.disk_free_bytes:,} bytes are free on the disk of the database"
        yield Alarm(name=AlarmName.DISK_LOW, since=now, detail=detail)
    if reading.database_bytes > at.database_bytes:
        detail = f"the database has more than {at.database_bytes:,} bytes"
        yield Alarm(name=AlarmName.DATABASE_LARGE, since=now, detail=detail)
    if reading.log_bytes > at.log_bytes:
        detail = f"more than {at.log_bytes:,} bytes; is a sqlite3 shell open in a transaction?"
        yield Alarm(name=AlarmName.LOG_LARGE, since=now, detail=detail)
