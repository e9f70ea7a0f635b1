"""Routes about queues: their settings, and pausing one."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import Body, FastAPI, Path, Request, Response
from pydantic import Field

from unhurried.clock import rfc3339
from unhurried.domain import queue as domain
from unhurried.domain.queue import REASON_CHARS_MAX
from unhurried.ingest import describe
from unhurried.ingest.api.parts import JSON_ONLY, Json, Nothing, Strict, actor
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.ingest.views import Time

PATH: Final = "/queue/queues/{name}"
NAMED_MAX: Final = 10

QueueName = Annotated[str, Path(max_length=64)]


class QueueSettings(msgspec.Struct, kw_only=True):
    """Null: what the daemon's own settings say, or, of effective ones, none and for ever."""

    linger_s: float | None
    batch_requests_max: int | None
    batch_bytes_max: int | None
    deadline_s: float | None
    attempts_max: int | None
    priority: int | None
    deliver_to: str | None
    anthropic_version: str | None
    anthropic_beta: str | None
    open_requests_max: int | None
    retention_days: float | None
    unread_days: float | None


class Queue(msgspec.Struct, kw_only=True):
    """``settings`` are its own, ``effective`` what holds. ``requests`` counts by state; `submitted` counts as
    `assigned` here."""

    name: str
    created_at: Time
    paused: bool
    paused_at: Time | None
    pause_reason: str | None
    requests: dict[str, int]
    settings: QueueSettings
    effective: QueueSettings


class Queues(msgspec.Struct):
    """By name."""

    queues: list[Queue]


class QueueResumed(msgspec.Struct):
    """``resumed`` is false when it was not paused."""

    resumed: bool


SHAPES = (Queue, Queues, QueueResumed)


class SettingsBody(Strict):
    """What is left out stays as it is; null hands a setting back to the daemon. Checked by ``domain.queue``, which
    knows what each may be."""

    linger_s: float | None = Field(None, ge=0, description="Longest wait of its oldest request, in seconds.")
    batch_requests_max: int | None = Field(None, ge=1, description="Most requests in a batch.")
    batch_bytes_max: int | None = Field(None, ge=1, description="Largest body of a batch.")
    deadline_s: float | None = Field(None, gt=0, description="Deadline of a request that names none, in seconds.")
    attempts_max: int | None = Field(None, ge=1, description="Attempts a new request has.")
    priority: int | None = Field(None, description="Of a request that names none.")
    deliver_to: str | None = Field(None, description="Destination of a request that names none.")
    anthropic_version: str | None = Field(None, description="Of a request that names none.")
    anthropic_beta: str | list[str] | None = Field(None, description="Of a request that names none.")
    open_requests_max: int | None = Field(None, ge=0, description="Open requests at which new ones are refused.")
    retention_days: float | None = Field(None, ge=0, description="A request is kept for so long after its delivery.")
    unread_days: float | None = Field(None, ge=0, description="An undelivered result is kept for so long.")


class PauseQueueBody(Strict):
    reason: str = Field("paused by an operator", min_length=1, max_length=REASON_CHARS_MAX)


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    store, book = deps.steering, deps.queues

    @api.get("/queue/queues", responses=describe.answers(Queues))
    async def list_queues(nothing: Nothing) -> Response:
        """Every queue, by name, with its settings."""
        return Json(Queues([_shown(one, deps) for one in await store.queues()]))

    @api.get(PATH, responses=describe.answers(Queue, problems=(404,)))
    async def show_queue(name: QueueName, nothing: Nothing) -> Response:
        """One queue."""
        found = await store.queue(name)
        if found is None:
            raise await _nowhere(deps, name)
        return Json(_shown(found, deps))

    @api.patch(PATH, responses=describe.answers(Queue, problems=(400, 413, 415)), dependencies=JSON_ONLY)
    async def change_queue(
        name: QueueName, body: Annotated[SettingsBody, Body()], request: Request, nothing: Nothing
    ) -> Response:
        """Change settings of a queue; it may be one that has no request yet. They hold for requests accepted from now
        on, and for what waits to be sent."""
        changes = domain.check_changes(body.model_dump(exclude_unset=True), deps.defaults.webhooks)
        async with book.changing():
            changed = await store.change_queue(domain.check_name(name), changes, actor(request), deps.clock.now())
        deps.bells.flusher.ring()
        return Json(_shown(changed, deps))

    @api.post(PATH + "/pause", responses=describe.answers(Queue, problems=(400, 404, 413, 415)), dependencies=JSON_ONLY)
    async def pause_queue(
        name: QueueName, body: Annotated[PauseQueueBody, Body()], request: Request, nothing: Nothing
    ) -> Response:
        """Form no batch of this queue until it is resumed. It goes on accepting; what is in a batch goes its way."""
        async with book.changing():
            paused = await store.pause_queue(domain.check_name(name), body.reason, actor(request), deps.clock.now())
        if paused is None:
            raise await _nowhere(deps, name)
        return Json(_shown(paused, deps))

    @api.post(PATH + "/resume", responses=describe.answers(QueueResumed, problems=(404,)))
    async def resume_queue(name: QueueName, request: Request, nothing: Nothing) -> Response:
        """End a pause."""
        resumed = await store.resume_queue(name, actor(request), deps.clock.now())
        if resumed is None:
            raise await _nowhere(deps, name)
        deps.bells.flusher.ring()
        return Json(QueueResumed(resumed))


async def _nowhere(deps: IngestDeps, name: str) -> Problem:
    """Names those that there are: it is a typing mistake more often than not."""
    names = [one.name for one in await deps.steering.queues()]
    shown = ", ".join(names[:NAMED_MAX]) + (f" and {len(names) - NAMED_MAX:,} more" if len(names) > NAMED_MAX else "")
    there = f"there are: {shown}" if names else "there are none yet"
    return Problem("not_found", f"there is no queue {name[:80]!r} ({there})")


def _shown(queue: domain.Queue, deps: IngestDeps) -> Queue:
    return Queue(
        name=queue.name,
        created_at=rfc3339(queue.created_at),
        paused=queue.paused_at is not None,
        paused_at=rfc3339(queue.paused_at) if queue.paused_at is not None else None,
        pause_reason=queue.pause_reason,
        requests=dict(queue.requests),
        settings=_settings(queue.settings),
        effective=_settings(domain.effective(queue.name, queue.settings, deps.queue_settings)),
    )


def _settings(settings: domain.QueueSettings) -> Any:
    return msgspec.convert(settings, QueueSettings, from_attributes=True)
