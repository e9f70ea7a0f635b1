"""What a store is asked with and what it tells: plain records, without a database behind them. Times are ``Ms``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from unhurried.clock import Ms
from unhurried.counting import Histogram
from unhurried.domain.alarms import Alarm
from unhurried.domain.batch import Batch, BatchId, UpstreamId
from unhurried.domain.delivering import Breaker, Parcel
from unhurried.domain.states import AttemptState, BatchState, DeliveryState, RequestState


@dataclass(frozen=True, kw_only=True)
class RequestView:
    """A request as its caller sees it. Times are ``Ms``; the result itself is apart.

    ``batch`` is the one it travels in, or the one that brought its outcome.
    """

    id: str
    state: RequestState
    queue: str
    model: str
    custom_id: str | None
    priority: int
    accepted_at: Ms
    deadline_at: Ms
    not_before: Ms | None
    waits_until: Ms | None
    finished_at: Ms | None
    cancel_requested_at: Ms | None
    erased_at: Ms | None
    attempts: int
    attempts_max: int
    generation: int
    params_bytes: int
    deliver_to: str
    delivery: DeliveryState | None
    batch: BatchId | None
    upstream_batch: UpstreamId | None
    metadata: bytes | None


@dataclass(frozen=True, kw_only=True)
class AttemptView:
    """A request in one batch. ``custom_id`` is its name upstream; ``won``: its result is the outcome."""

    batch: BatchId
    upstream_batch: UpstreamId | None
    custom_id: str
    state: AttemptState
    won: bool
    ended_at: Ms | None
    error_type: str | None
    stop_reason: str | None
    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class RequestFilter:
    queue: str | None = None
    state: RequestState | None = None
    batch: BatchId | None = None
    custom_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class RequestPage:
    """Newest first. ``cursor`` continues behind the last row looked at; None at the end. A page can be short, even
    empty, and still have a cursor: a look-up stops after a bounded number of rows."""

    requests: Sequence[RequestView]
    cursor: str | None


@dataclass(frozen=True, kw_only=True)
class Handed:
    """A result with its delivery. ``body`` is upstream's ``result`` object byte for byte."""

    delivery_id: str | None
    request_id: str
    custom_id: str | None
    queue: str
    state: RequestState
    stored_at: Ms
    attempt: int
    metadata: bytes | None
    body: bytes
    seq: int = 0
    """The place of the delivery among all: a cursor for whoever reads on. 0 where there is none."""


@dataclass(frozen=True, kw_only=True)
class Acked:
    """``confirmed`` were delivered by this call, ``already`` before it; ``unknown`` are no deliveries."""

    confirmed: Sequence[str]
    already: Sequence[str]
    unknown: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Flushed:
    """``held``: how many of the requests a pause keeps from being sent, by what is paused, in words."""

    groups: int
    requests: int
    held: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """A batch as an operator sees it. ``requests_by_state``: its attempts by state, only for a single batch."""

    id: BatchId
    state: BatchState
    upstream_id: UpstreamId | None
    queue: str
    model: str
    requests: int
    members_open: int
    body_bytes: int
    why: str
    nonce: str
    created_at: Ms
    submit_started_at: Ms | None
    upstream_created_at: Ms | None
    upstream_expires_at: Ms | None
    upstream_ended_at: Ms | None
    finished_at: Ms | None
    adopted: bool
    late: bool
    detail: str | None
    attempts_by_state: dict[str, int] = field(default_factory=dict)
    events: Sequence["Event"] = ()


@dataclass(frozen=True, kw_only=True)
class Event:
    seq: int
    at: Ms
    actor: str
    entity: str
    entity_id: str
    what: str
    old_state: str | None
    new_state: str | None
    detail: str | None


@dataclass(frozen=True, kw_only=True)
class Account:
    """Where upstream work is paid. ``paused_until`` None while ``paused``: until an operator resumes. ``paused_at``, in
    a ``Status`` only: since when, however often the pause was renewed."""

    base_url: str
    workspace: str | None
    paused: bool
    paused_at: Ms | None = None
    paused_until: Ms | None
    pause_reason: str | None
    refusals: int
    swept_at: Ms | None
    restored: bool = False
    """The database is a copy that was restored, and what was sent since it was made is still being looked for."""

    def is_held(self, now: Ms) -> bool:
        """Whether nothing may be submitted now, for whatever reason."""
        return self.restored or self.is_paused(now)

    def is_paused(self, now: Ms) -> bool:
        """Whether upstream is to be left alone. A pause whose time is over stays on record until upstream says yes."""
        return self.paused and (self.paused_until is None or self.paused_until > now)


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """How a queue stands. Of what waits to be sent: its size, since when the oldest waits, the nearest deadline.
    ``oldest_open_at``: since when the oldest without an outcome is there, at the latest: of what has been sent, the
    first member of each open batch counts."""

    name: str
    waiting_bytes: int
    oldest_queued_at: Ms | None
    oldest_open_at: Ms | None
    nearest_deadline: Ms | None
    paused_at: Ms | None
    pause_reason: str | None


@dataclass(frozen=True, kw_only=True)
class OpenBatches:
    """Those in one state. ``oldest_at``: when the POST of the oldest began, or, before that, when it was begun."""

    batches: int
    oldest_at: Ms | None


@dataclass(frozen=True, kw_only=True)
class DestinationStatus:
    """How a destination stands. ``deliveries`` counts by state; ``oldest_at``: since when the oldest that is not handed
    over waits. ``failures`` in a row ``failing_since``; ``open_until``: the breaker, no attempt before."""

    name: str
    kind: str
    deliveries: dict[str, int]
    oldest_at: Ms | None
    paused_at: Ms | None
    pause_reason: str | None
    failures: int
    failing_since: Ms | None
    open_until: Ms | None


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The database on its disk. ``free_bytes`` are within the database file: used again before it grows."""

    database_bytes: int
    free_bytes: int
    wal_bytes: int
    disk_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True, kw_only=True)
class RestoredStatus:
    """The database was restored from a copy that knows nothing after ``made_at``, and the search for what was sent
    since is not over. ``found_at``: the first start on it; ``held``: nothing is submitted; ``detail``: what it waits
    for; ``found``: batches that were found upstream; ``unknown_requests``: requests in them, or in others, that were
    accepted after the copy was made."""

    made_at: Ms
    found_at: Ms | None
    held: bool
    detail: str | None
    found: int
    unknown_requests: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """Numbers that live in the store, so they survive a restart. ``requests`` counts by queue and visible state,
    ``batches`` tells of the unfinished ones by state."""

    requests: dict[str, dict[str, int]]
    open_batches: Sequence[BatchView]
    waiting_bytes: int
    oldest_queued_at: Ms | None
    nearest_deadline: Ms | None
    deliveries_pending: int
    oldest_delivery_at: Ms | None
    account: Account | None
    restored: RestoredStatus | None = None
    paused_queues: Sequence[str]
    queues: Sequence[QueueStatus]
    batches: dict[str, OpenBatches]
    destinations: Sequence[DestinationStatus]
    storage: Storage = field(compare=False)
    """The disk is not ours alone: it tells something else each time."""
    alarms: Sequence[Alarm]


COMMIT_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


GROUP_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(kw_only=True)
class Work:
    """What the store has done since it was opened: plain numbers that it adds to, for whoever wants to show them.

    ``accepts`` by ``accepted``, ``duplicate``, ``conflict``; ``finished``: requests that got their outcome from
    upstream; ``delivered``: results whose delivery was confirmed; ``commits``: seconds of each transaction, the
    fsync and the way to the writing thread included; ``groups``: writes that shared it.
    """

    accepts: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    delivered: int = 0
    commits: Histogram = field(default_factory=lambda: Histogram(COMMIT_BOUNDS_S))
    groups: Histogram = field(default_factory=lambda: Histogram(GROUP_BOUNDS))


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where results go. ``url``, ``secrets`` (references, never a secret) and ``concurrency`` (None: the daemon's
    default) are those of a webhook; ``deliveries`` counts by state, ``next_due_at`` is of those that are pending,
    0 where one is due at once."""

    id: int
    name: str
    kind: str
    url: str | None
    secrets: Sequence[str]
    concurrency: int | None
    created_at: Ms
    paused_at: Ms | None
    pause_reason: str | None
    breaker: Breaker
    deliveries: dict[str, int]
    next_due_at: Ms | None


@dataclass(frozen=True, kw_only=True)
class DeliveryView:
    """The handing over of one result to one destination. ``due_at``: while pending the next attempt, while sending the
    end of the lease. ``last_…``: the last attempt that failed, and what the receiver said."""

    id: str
    destination: str
    request_id: str
    custom_id: str | None
    queue: str
    request_state: RequestState
    state: DeliveryState
    attempts: int
    created_at: Ms
    due_at: Ms
    finished_at: Ms | None
    confirmed_by: str | None
    last_at: Ms | None
    last_status: int | None
    last_error: str | None


@dataclass(frozen=True, kw_only=True)
class DeliveryFilter:
    """``since``: finished then or later; of those that are not finished, made then or later."""

    destination: str | None = None
    states: frozenset[DeliveryState] = frozenset()
    since: Ms | None = None


@dataclass(frozen=True, kw_only=True)
class DeliveryPage:
    """Newest first; ``cursor`` as in ``RequestPage``."""

    deliveries: Sequence[DeliveryView]
    cursor: str | None


@dataclass(frozen=True, kw_only=True)
class Redelivered:
    """One step of delivering many again: how many it found (and made, unless it only looked), and where the next step
    goes on; None at the end."""

    deliveries: int
    cursor: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A delivery that this boot is to attempt now, and where to: as its destination stood when it was claimed."""

    seq: int
    destination_id: int
    destination: str
    url: str
    secrets: Sequence[str]
    parcel: Parcel


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One broken invariant: its name, what it says in words, and some of the ids that break it."""

    invariant: str
    says: str
    count: int
    examples: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class OpenBatch:
    """What the poller needs to know of a batch that exists upstream."""

    batch: Batch
    members_open: int
    accounted: int
    """Members that have their line already."""
    cancels: int
    not_found_at: Ms | None
    """The first of ``not_found`` answers in a row that were 404."""
    not_found: int
    expected_lines: int | None
    failures: int
    next_try_at: Ms
    expires_at: Ms | None


@dataclass(frozen=True, kw_only=True)
class StoredResults:
    """What one chunk of result lines changed. ``finished``: requests that have their outcome now; ``again``: went back
    into the queue; ``skipped``: were stored before; ``foreign``: custom_ids that belong to no member of this batch."""

    finished: int = 0
    again: int = 0
    skipped: int = 0
    foreign: frozenset[str] = frozenset()
    waste: int = 0
    accounted: int = 0
    """Members that had no line before and have one now."""
    states: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Of these members, how their attempts ended. For the metrics, as what follows."""
    tokens: tuple[int, int, int, int, int] = field(default=(0, 0, 0, 0, 0), compare=False)
    """That upstream billed for them: input, output, cache writes for 5 minutes and for an hour, cache reads."""


@dataclass(frozen=True, kw_only=True)
class RetryFilter:
    """Which outcomes an operator wants to have another try. ``since``: those that came then or later."""

    states: frozenset[RequestState]
    queue: str | None = None
    model: str | None = None
    error_type: str | None = None
    since: Ms | None = None


@dataclass(frozen=True, kw_only=True)
class RetryCandidate:
    id: str
    queue: str
    model: str
    state: RequestState
    error_type: str | None


@dataclass(frozen=True, kw_only=True)
class Page:
    """How far a walk has come. ``more``: it can go on at once."""

    position: int
    more: bool
    deleted: int = 0
