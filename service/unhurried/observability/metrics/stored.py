"""What lives in the store: right from the first scrape after a restart."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from unhurried.clock import Ms, seconds_between
from unhurried.domain.alarms import AlarmName
from unhurried.domain.states import DeliveryState, RequestState
from unhurried.observability.metrics.families import folded, gauge
from unhurried.observability.metrics.scrape import Seen
from unhurried.store.records import Account, DestinationStatus, OpenBatches, QueueStatus, Storage


def families(seen: Seen) -> Iterator[Metric]:
    status, now = seen.status, seen.now
    yield from _queues(status.requests, status.queues, now)
    yield from _batches(status.batches, now)
    yield from _destinations(status.destinations, now)
    yield from _account(status.account, now)
    yield from _storage(status.storage)
    on = Counter(alarm.name for alarm in status.alarms)
    yield gauge(
        "alarms", "Alarms of the daemon that are on", ("alarm",), (((name.value,), on[name]) for name in AlarmName)
    )


def _queues(requests: Mapping[str, Mapping[str, int]], queues: Sequence[QueueStatus], now: Ms) -> Iterator[Metric]:
    told = folded([*requests, *(queue.name for queue in queues)])
    states = [(told[queue], counts, state.value) for queue, counts in requests.items() for state in RequestState]
    yield gauge(
        "requests",
        "Requests by queue and state, without those that retention has deleted",
        ("queue", "state"),
        (((queue, state), counts.get(state, 0)) for queue, counts, state in states),
    )
    yield gauge(
        "queue_waiting_bytes",
        "Params of the requests that wait to be sent",
        ("queue",),
        (((told[queue.name],), queue.waiting_bytes) for queue in queues),
    )
    yield gauge(
        "queue_oldest_queued_age_seconds",
        "How long the oldest request that may be sent has waited for it",
        ("queue",),
        (((told[queue.name],), _age_s(queue.oldest_queued_at, now)) for queue in queues),
        max,
    )
    yield gauge(
        "queue_oldest_open_age_seconds",
        "How long the oldest request without an outcome has been here",
        ("queue",),
        (((told[queue.name],), _age_s(queue.oldest_open_at, now)) for queue in queues),
        max,
    )
    yield gauge(
        "queue_overdue_seconds",
        "By how much the nearest deadline of what waits to be sent is past",
        ("queue",),
        (((told[queue.name],), _age_s(queue.nearest_deadline, now)) for queue in queues),
        max,
    )
    yield gauge(
        "queue_paused",
        "Whether an operator has paused the queue",
        ("queue",),
        (((told[queue.name],), queue.paused_at is not None) for queue in queues),
        max,
    )


def _batches(batches: Mapping[str, OpenBatches], now: Ms) -> Iterator[Metric]:
    yield gauge(
        "batches",
        "Batches that are not finished, by state",
        ("state",),
        (((state,), found.batches) for state, found in batches.items()),
    )
    yield gauge(
        "batch_oldest_age_seconds",
        "Since the POST of the oldest batch in that state, or, before it, since it was begun",
        ("state",),
        (((state,), _age_s(found.oldest_at, now)) for state, found in batches.items()),
    )


def _destinations(destinations: Sequence[DestinationStatus], now: Ms) -> Iterator[Metric]:
    told = folded(to.name for to in destinations)
    webhooks = [to for to in destinations if to.kind != "pull"]
    yield gauge(
        "deliveries",
        "Deliveries by destination and state, without those that retention has deleted",
        ("destination", "state"),
        (
            ((told[to.name], state.value), to.deliveries.get(state.value, 0))
            for to in destinations
            for state in DeliveryState
        ),
    )
    yield gauge(
        "delivery_oldest_age_seconds",
        "How long the oldest result that is not handed over has waited",
        ("destination",),
        (((told[to.name],), _age_s(to.oldest_at, now)) for to in destinations),
        max,
    )
    yield gauge(
        "destination_paused",
        "Whether nothing is sent to the webhook until it is resumed",
        ("destination",),
        (((told[to.name],), to.paused_at is not None) for to in webhooks),
        max,
    )
    yield gauge(
        "destination_breaker_open",
        "Whether the webhook is left alone for a while because it failed",
        ("destination",),
        (((told[to.name],), to.open_until is not None and to.open_until > now) for to in webhooks),
        max,
    )
    yield gauge(
        "destination_failing_seconds",
        "Since the first failure of the webhook without a success after it",
        ("destination",),
        (((told[to.name],), _age_s(to.failing_since, now)) for to in webhooks),
        max,
    )


def _account(account: Account | None, now: Ms) -> Iterator[Metric]:
    paused = account is not None and account.is_paused(now)
    yield gauge("account_paused", "Whether nothing is submitted, upstream having refused", (), [((), paused)])
    yield gauge(
        "account_refusals",
        "Refusals of the account in a row",
        (),
        [((), account.refusals if account is not None else 0)],
    )


def _storage(storage: Storage) -> Iterator[Metric]:
    for name, says, number in (
        ("database_bytes", "Size of the database without its log", storage.database_bytes),
        ("database_free_bytes", "Part of it that is used again before it grows", storage.free_bytes),
        ("database_wal_bytes", "Size of the write-ahead log", storage.wal_bytes),
        ("disk_bytes", "Size of the disk that the database is on", storage.disk_bytes),
        ("disk_free_bytes", "Part of it that the daemon may still fill", storage.disk_free_bytes),
    ):
        yield gauge(name, says, (), [((), number)])


def _age_s(moment: Ms | None, now: Ms) -> float:
    """Seconds since then; 0 where there is nothing, or not yet, so that an alert on an age needs no special case."""
    return 0.0 if moment is None else max(0.0, seconds_between(moment, now))
