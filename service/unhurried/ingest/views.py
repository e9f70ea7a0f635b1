"""What the store says, as JSON. Each shape here is also the shape in ``/openapi.json``.

Times become RFC 3339; ``metadata`` and ``result`` are spliced in as the bytes they are.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Raw, UnsetType

from unhurried.clock import Ms, rfc3339
from unhurried.domain.alarms import AlarmName
from unhurried.domain.states import AttemptState, BatchState, DeliveryState, RequestState
from unhurried.store import records

Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
RawObject = Annotated[Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


class AcceptedRequest(msgspec.Struct):
    """``duplicate``: the same idempotency key had brought it before; ``state`` is null if that one was finished and has
    been deleted since."""

    id: str
    state: RequestState | None
    duplicate: bool


class Request(msgspec.Struct, kw_only=True):
    """A request as its caller sees it. ``result`` is there once it has finished.

    ``batch`` is the one it travels in, or the one that brought its outcome.
    """

    id: str
    state: RequestState
    queue: str
    model: str
    custom_id: str | None
    priority: int
    accepted_at: Time
    deadline_at: Time
    not_before: Time | None
    waits_until: Time | None
    finished_at: Time | None
    cancel_requested_at: Time | None
    erased_at: Time | None
    attempts: int
    attempts_max: int
    generation: int
    params_bytes: int
    deliver_to: str
    delivery: DeliveryState | None
    batch: str | None
    upstream_batch: str | None
    metadata: RawObject | None
    result: RawObject | UnsetType = UNSET


class Attempt(msgspec.Struct, kw_only=True):
    """A request in one batch. ``custom_id`` is its name upstream; ``won``: its result is the outcome."""

    batch: str
    upstream_batch: str | None
    custom_id: str
    state: AttemptState
    won: bool
    ended_at: Time | None
    error_type: str | None
    stop_reason: str | None
    input_tokens: int | None
    output_tokens: int | None


class Attempts(msgspec.Struct):
    """Oldest first."""

    attempts: list[Attempt]


class Requests(msgspec.Struct):
    """Newest first. A page may be short, even empty, and still have a cursor."""

    requests: list[Request]
    cursor: str | None


class Result(msgspec.Struct, kw_only=True):
    """A result with its delivery. ``result`` is upstream's object byte for byte."""

    delivery_id: str | None
    request_id: str
    custom_id: str | None
    queue: str
    state: RequestState
    attempt: int
    stored_at: Time
    metadata: RawObject | None
    result: RawObject


class Results(msgspec.Struct):
    results: list[Result]


class FoundResults(msgspec.Struct):
    """``truncated``: there are more among the ids; ask again for those that are missing."""

    results: list[Result]
    truncated: bool


class Acked(msgspec.Struct):
    """``confirmed`` by this call, ``already`` before it; ``unknown`` are no deliveries."""

    confirmed: Sequence[str]
    already: Sequence[str]
    unknown: Sequence[str]


class Held(msgspec.Struct, kw_only=True):
    """``by`` says in words what is paused."""

    by: str
    requests: int


class Flushed(msgspec.Struct, kw_only=True):
    """``requests`` are all that no longer linger, ``held`` those of them that a pause keeps from being sent."""

    groups: int
    requests: int
    held: list[Held]


class Resumed(msgspec.Struct):
    resumed: bool


class Released(msgspec.Struct):
    released: bool


class Event(msgspec.Struct, kw_only=True):
    seq: int
    at: Time
    actor: str
    entity: str
    entity_id: str
    what: str
    old_state: str | None
    new_state: str | None
    detail: str | None


class Events(msgspec.Struct):
    events: list[Event]


class Batch(msgspec.Struct, kw_only=True):
    """A batch as an operator sees it. The last two only where one batch was asked for."""

    id: str
    state: BatchState
    upstream_id: str | None
    queue: str
    model: str
    requests: int
    members_open: int
    body_bytes: int
    why: str
    nonce: str
    created_at: Time
    submit_started_at: Time | None
    upstream_created_at: Time | None
    upstream_expires_at: Time | None
    upstream_ended_at: Time | None
    finished_at: Time | None
    adopted: bool
    late: bool
    detail: str | None
    attempts_by_state: dict[str, int] | UnsetType = UNSET
    events: list[Event] | UnsetType = UNSET


class Batches(msgspec.Struct):
    batches: list[Batch]


class Account(msgspec.Struct, kw_only=True):
    """``paused_at``: since when, however often the pause was renewed."""

    base_url: str
    workspace: str | None
    paused: bool
    paused_at: Time | None
    paused_until: Time | None
    pause_reason: str | None
    refusals: int
    swept_at: Time | None


class Restored(msgspec.Struct, kw_only=True):
    """The database is a copy that was restored, and knows nothing after ``made_at``. What was sent since is looked for
    upstream; while ``held`` nothing is submitted. ``detail``: what the search waits for; ``found``: batches found so
    far; ``unknown_requests``: requests in them, or in others, that were accepted after the copy was made."""

    made_at: Time
    found_at: Time | None
    held: bool
    detail: str | None
    found: int
    unknown_requests: int


class Upstream(msgspec.Struct, kw_only=True):
    base_url: str
    simulator: bool


class Draining(msgspec.Struct, kw_only=True):
    since: Time
    actor: str


class DaemonStatus(msgspec.Struct, kw_only=True):
    """This process. ``draining``: since when nothing new is accepted, and at whose word; null when it is. ``loops``:
    seconds since each last finished a step, ``hanging`` those that should have by now. ``counts``: what it
    ``accepted``, ``finished`` and ``delivered`` since its start."""

    version: str
    epoch: int
    uptime_s: float
    pid: int
    upstream: Upstream
    draining: Draining | None
    memory: Mapping[str, int]
    stall: Mapping[str, float]
    loops: Mapping[str, float]
    hanging: Sequence[str]
    counts: Mapping[str, int]


class QueueStatus(msgspec.Struct, kw_only=True):
    """How a queue stands: what waits to be sent, and since when the oldest without an outcome is there."""

    name: str
    waiting_bytes: int
    oldest_queued_at: Time | None
    oldest_open_at: Time | None
    nearest_deadline: Time | None
    paused_at: Time | None
    pause_reason: str | None


class OpenBatches(msgspec.Struct, kw_only=True):
    """Those in one state."""

    batches: int
    oldest_at: Time | None


class DestinationStatus(msgspec.Struct, kw_only=True):
    """How a destination stands. ``deliveries`` counts by state; ``oldest_at``: since when the oldest that is not handed
    over waits; ``open_until``: the breaker, no attempt before."""

    name: str
    kind: str
    deliveries: dict[str, int]
    oldest_at: Time | None
    paused_at: Time | None
    pause_reason: str | None
    failures: int
    failing_since: Time | None
    open_until: Time | None


class Storage(msgspec.Struct, kw_only=True):
    """``free_bytes`` are within the database file."""

    database_bytes: int
    free_bytes: int
    wal_bytes: int
    disk_bytes: int
    disk_free_bytes: int


class Alarm(msgspec.Struct, kw_only=True):
    """What an operator should know before something is lost, or stands still. ``entity_id``: of the batch, queue,
    destination or account it is about; empty for the daemon as a whole."""

    name: AlarmName
    entity_id: str
    since: Time
    detail: str


class Status(msgspec.Struct, kw_only=True):
    """``requests`` counts by queue and state, ``batches`` tells of the unfinished ones by state."""

    requests: dict[str, dict[str, int]]
    open_batches: list[Batch]
    waiting_bytes: int
    oldest_queued_at: Time | None
    nearest_deadline: Time | None
    deliveries_pending: int
    oldest_delivery_at: Time | None
    account: Account | None
    restored: Restored | None
    paused_queues: Sequence[str]
    queues: list[QueueStatus]
    batches: dict[str, OpenBatches]
    destinations: list[DestinationStatus]
    storage: Storage
    alarms: list[Alarm]
    daemon: DaemonStatus


class Healthy(msgspec.Struct, kw_only=True):
    """``loops``: seconds since each last finished a step."""

    status: str
    loops: Mapping[str, float]
    stall: Mapping[str, float]


class Ready(msgspec.Struct):
    ready: bool
    reason: str | None


SHAPES = (
    AcceptedRequest, Request, Attempts, Requests, Results, FoundResults, Acked, Flushed, Resumed, Events, Batch,
    Batches, Status, Healthy, Ready,
)  # fmt: skip

encode = msgspec.json.Encoder().encode


def request(view: records.RequestView, handed: records.Handed | None = None) -> Request:
    return Request(
        id=view.id,
        state=view.state,
        queue=view.queue,
        model=view.model,
        custom_id=view.custom_id,
        priority=view.priority,
        accepted_at=rfc3339(view.accepted_at),
        deadline_at=rfc3339(view.deadline_at),
        not_before=_time(view.not_before),
        waits_until=_time(view.waits_until),
        finished_at=_time(view.finished_at),
        cancel_requested_at=_time(view.cancel_requested_at),
        erased_at=_time(view.erased_at),
        attempts=view.attempts,
        attempts_max=view.attempts_max,
        generation=view.generation,
        params_bytes=view.params_bytes,
        deliver_to=view.deliver_to,
        delivery=view.delivery,
        batch=view.batch,
        upstream_batch=view.upstream_batch,
        metadata=_raw(view.metadata),
        result=UNSET if handed is None else Raw(handed.body),
    )


def attempts(found: Sequence[records.AttemptView]) -> Attempts:
    return Attempts(
        attempts=[
            Attempt(
                batch=one.batch,
                upstream_batch=one.upstream_batch,
                custom_id=one.custom_id,
                state=one.state,
                won=one.won,
                ended_at=_time(one.ended_at),
                error_type=one.error_type,
                stop_reason=one.stop_reason,
                input_tokens=one.input_tokens,
                output_tokens=one.output_tokens,
            )
            for one in found
        ]
    )


def requests(page: records.RequestPage) -> Requests:
    return Requests(requests=[request(view) for view in page.requests], cursor=page.cursor)


def result(handed: records.Handed) -> Result:
    return Result(
        delivery_id=handed.delivery_id,
        request_id=handed.request_id,
        custom_id=handed.custom_id,
        queue=handed.queue,
        state=handed.state,
        attempt=handed.attempt,
        stored_at=rfc3339(handed.stored_at),
        metadata=_raw(handed.metadata),
        result=Raw(handed.body),
    )


def results(handed: Sequence[records.Handed]) -> list[Result]:
    return [result(one) for one in handed]


def acked(acked: records.Acked) -> Acked:
    return Acked(confirmed=acked.confirmed, already=acked.already, unknown=acked.unknown)


def flushed(found: records.Flushed) -> Flushed:
    held = [Held(by=by, requests=requests) for by, requests in found.held.items()]
    return Flushed(groups=found.groups, requests=found.requests, held=held)


def event(event: records.Event) -> Event:
    return Event(
        seq=event.seq,
        at=rfc3339(event.at),
        actor=event.actor,
        entity=event.entity,
        entity_id=event.entity_id,
        what=event.what,
        old_state=event.old_state,
        new_state=event.new_state,
        detail=event.detail,
    )


def events(found: Sequence[records.Event]) -> Events:
    return Events(events=[event(one) for one in found])


def batch(view: records.BatchView, *, single: bool = False) -> Batch:
    return Batch(
        id=view.id,
        state=view.state,
        upstream_id=view.upstream_id,
        queue=view.queue,
        model=view.model,
        requests=view.requests,
        members_open=view.members_open,
        body_bytes=view.body_bytes,
        why=view.why,
        nonce=view.nonce,
        created_at=rfc3339(view.created_at),
        submit_started_at=_time(view.submit_started_at),
        upstream_created_at=_time(view.upstream_created_at),
        upstream_expires_at=_time(view.upstream_expires_at),
        upstream_ended_at=_time(view.upstream_ended_at),
        finished_at=_time(view.finished_at),
        adopted=view.adopted,
        late=view.late,
        detail=view.detail,
        attempts_by_state=view.attempts_by_state if single else UNSET,
        events=[event(one) for one in view.events] if single else UNSET,
    )


def batches(views: Sequence[records.BatchView]) -> Batches:
    return Batches(batches=[batch(view) for view in views])


def status(status: records.Status, daemon: DaemonStatus) -> Status:
    return Status(
        requests=status.requests,
        open_batches=[batch(view) for view in status.open_batches],
        waiting_bytes=status.waiting_bytes,
        oldest_queued_at=_time(status.oldest_queued_at),
        nearest_deadline=_time(status.nearest_deadline),
        deliveries_pending=status.deliveries_pending,
        oldest_delivery_at=_time(status.oldest_delivery_at),
        account=_account(status.account) if status.account is not None else None,
        restored=_restored(status.restored) if status.restored is not None else None,
        paused_queues=status.paused_queues,
        queues=[_queue(one) for one in status.queues],
        batches={
            state: OpenBatches(batches=found.batches, oldest_at=_time(found.oldest_at))
            for state, found in status.batches.items()
        },
        destinations=[_destination(one) for one in status.destinations],
        storage=msgspec.convert(status.storage, Storage, from_attributes=True),
        alarms=[
            Alarm(name=alarm.name, entity_id=alarm.entity_id, since=rfc3339(alarm.since), detail=alarm.detail)
            for alarm in status.alarms
        ],
        daemon=daemon,
    )


def _queue(queue: records.QueueStatus) -> QueueStatus:
    return QueueStatus(
        name=queue.name,
        waiting_bytes=queue.waiting_bytes,
        oldest_queued_at=_time(queue.oldest_queued_at),
        oldest_open_at=_time(queue.oldest_open_at),
        nearest_deadline=_time(queue.nearest_deadline),
        paused_at=_time(queue.paused_at),
        pause_reason=queue.pause_reason,
    )


def _destination(destination: records.DestinationStatus) -> DestinationStatus:
    return DestinationStatus(
        name=destination.name,
        kind=destination.kind,
        deliveries=destination.deliveries,
        oldest_at=_time(destination.oldest_at),
        paused_at=_time(destination.paused_at),
        pause_reason=destination.pause_reason,
        failures=destination.failures,
        failing_since=_time(destination.failing_since),
        open_until=_time(destination.open_until),
    )


def _account(account: records.Account) -> Account:
    return Account(
        base_url=account.base_url,
        workspace=account.workspace,
        paused=account.paused,
        paused_at=_time(account.paused_at),
        paused_until=_time(account.paused_until),
        pause_reason=account.pause_reason,
        refusals=account.refusals,
        swept_at=_time(account.swept_at),
    )


def _restored(restored: records.RestoredStatus) -> Restored:
    return Restored(
        made_at=rfc3339(restored.made_at),
        found_at=_time(restored.found_at),
        held=restored.held,
        detail=restored.detail,
        found=restored.found,
        unknown_requests=restored.unknown_requests,
    )


def _time(moment: Ms | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _raw(json: bytes | None) -> Raw | None:
    return None if json is None else Raw(json)
