"""When a group is sent, and how much of it. A group is what may share a batch: one queue, model, API version, set of
betas and deadline class.

Model, because cost, limits and speed are per model; deadline class, because no result of a batch can be read before
its last request has ended, so what is urgent must not wait for a giant.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import quantiles

from unhurried.clock import Ms, after, seconds_between


class Why(StrEnum):
    """What made a group due, in the order in which the reasons are looked at."""

    FULL = "full"
    FLUSH = "flush"
    SPLIT = "split"
    """Part of a group that upstream refused as a whole: its halves travel at once, to find the culprit."""
    DEADLINE = "deadline"
    LINGER = "linger"


@dataclass(frozen=True, kw_only=True)
class Group:
    """The requests of one group that wait to be sent. Bytes are those of their members in a body."""

    id: int
    model: str
    requests: int
    bytes: int
    oldest_at: Ms
    nearest_deadline: Ms
    flush_asked_at: Ms | None = None
    requests_cap: int | None = None
    bytes_cap: int | None = None
    """Halved each time upstream calls a batch of this group too large."""
    linger_s: float | None = None
    """This and the next two: what its queue says of itself; None: the daemon's limits hold."""
    batch_requests_max: int | None = None
    batch_bytes_max: int | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The daemon's own, which hold where a queue says nothing."""

    requests_max: int
    bytes_max: int
    linger_s: float
    turnaround_default_s: float
    deadline_margin_s: float


@dataclass(frozen=True, kw_only=True)
class Order:
    """Form a batch of this group now, of at most this many requests and bytes."""

    group: Group
    requests_max: int
    bytes_max: int
    why: Why


@dataclass(frozen=True, kw_only=True)
class Plan:
    order: Order | None
    look_again_s: float
    """Seconds until something becomes due by time alone, at most ``PAUSE_MAX_S``."""


PAUSE_MAX_S = 30.0
SAMPLES_MIN = 5


def plan(
    groups: Sequence[Group], limits: Limits, history: dict[str, Sequence[float]], now: Ms, *, flush: bool = False
) -> Plan:
    """Choose the group to send next, the one with the nearest deadline among those that are due.

    ``history`` has the turnarounds, in seconds, of the last batches of each model. Groups without requests are skipped.
    ``flush``: whatever waits is due (the daemon is being drained).
    """
    waiting = [group for group in groups if group.requests > 0]
    due = [(group, why) for group in waiting if (why := _why(group, limits, history, now, flush)) is not None]
    if due:
        group, why = min(due, key=lambda pair: (pair[0].nearest_deadline, pair[0].oldest_at, pair[0].id))
        return Plan(order=_order(group, limits, why), look_again_s=0.0)
    pauses = [seconds_between(now, _due_at(group, limits, history)) for group in waiting]
    return Plan(order=None, look_again_s=min([PAUSE_MAX_S, *(max(pause, 0.001) for pause in pauses)]))


def deadline_class(wait_s: float, bounds_s: Iterable[float]) -> int:
    """The number of the class of a request due in ``wait_s`` seconds: 0 for the most urgent."""
    return sum(wait_s > bound for bound in bounds_s)


def expected_turnaround_s(samples: Sequence[float], default_s: float) -> float:
    """Nine of ten batches of this model were back within this time; the setting until there are enough to tell."""
    if len(samples) < SAMPLES_MIN:
        return default_s
    return quantiles(samples, n=10, method="inclusive")[-1]


def _why(group: Group, limits: Limits, history: dict[str, Sequence[float]], now: Ms, flush: bool) -> Why | None:
    order = _order(group, limits, Why.FULL)
    if group.requests >= order.requests_max or group.bytes >= order.bytes_max:
        return Why.FULL if group.requests_cap is None else Why.SPLIT
    if flush or (group.flush_asked_at is not None and group.oldest_at <= group.flush_asked_at):
        return Why.FLUSH
    if group.requests_cap is not None:
        return Why.SPLIT
    if _send_by(group, limits, history) <= now:
        return Why.DEADLINE
    if _lingers_until(group, limits) <= now:
        return Why.LINGER
    return None


def _due_at(group: Group, limits: Limits, history: dict[str, Sequence[float]]) -> Ms:
    return min(_lingers_until(group, limits), _send_by(group, limits, history))


def _lingers_until(group: Group, limits: Limits) -> Ms:
    return after(group.oldest_at, limits.linger_s if group.linger_s is None else group.linger_s)


def _send_by(group: Group, limits: Limits, history: dict[str, Sequence[float]]) -> Ms:
    """The last moment at which the nearest deadline can still be met."""
    expected_s = expected_turnaround_s(history.get(group.model, ()), limits.turnaround_default_s)
    return after(group.nearest_deadline, -(expected_s + limits.deadline_margin_s))


def _order(group: Group, limits: Limits, why: Why) -> Order:
    requests_max = group.batch_requests_max or limits.requests_max
    requests_max = min(requests_max, group.requests_cap or requests_max)
    bytes_max = group.batch_bytes_max or limits.bytes_max
    bytes_max = min(bytes_max, group.bytes_cap or bytes_max)
    return Order(group=group, requests_max=requests_max, bytes_max=bytes_max, why=why)
