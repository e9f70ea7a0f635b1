"""Routes about batches, the account, and the daemon as a whole."""

from typing import Annotated, Final

from fastapi import Body, FastAPI, Query, Request, Response
from pydantic import Field

from unhurried.clock import rfc3339, seconds_between
from unhurried.domain.batch import BatchId
from unhurried.ingest import describe, views
from unhurried.ingest.api.parts import JSON_ONLY, Id, Json, Name, Nothing, Strict, actor, moment
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem

ACCOUNT_PATH: Final = "/queue/account/resume"
RESTORED_PATH: Final = "/queue/restored/release"


class BatchQuery(Strict):
    open: bool = Field(False, description="Only those that are not finished.")
    limit: int = Field(100, ge=1, le=1_000)
    before: Name | None = Field(None, description="A batch id: only those made before it.")


class EventQuery(Strict):
    entity: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="Id of a request, batch or delivery, or name of a queue or destination."
    )
    since: str | None = Field(None, max_length=60, description="RFC 3339: what happened then or later.")
    limit: int = Field(100, ge=1, le=1_000)


class FlushBody(Strict):
    queue: Name | None = None
    model: str | None = Field(None, min_length=1, max_length=256)


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.store

    @api.post(
        "/queue/flush", responses=describe.answers(views.Flushed, problems=(400, 413, 415)), dependencies=JSON_ONLY
    )
    async def flush(body: Annotated[FlushBody, Body()], request: Request, nothing: Nothing) -> Response:
        """Send what waits now, of all groups or those of a queue or a model. A pause holds it back all the same."""
        flushed = await store.ask_flush(body.queue, body.model, actor(request), deps.clock.now())
        deps.bells.flusher.ring()
        return Json(views.flushed(flushed))

    @api.get("/queue/batches", responses=describe.answers(views.Batches))
    async def list_batches(query: Annotated[BatchQuery, Query()]) -> Response:
        """Batches, newest first."""
        return Json(views.batches(await store.batches(open_only=query.open, before=query.before, limit=query.limit)))

    @api.get("/queue/batches/{id}", responses=describe.answers(views.Batch, problems=(404,)))
    async def show_batch(id: Id, nothing: Nothing) -> Response:
        """One batch, with its attempts by state and its events."""
        view = await store.batch(BatchId(id))
        if view is None:
            raise Problem("not_found", f"there is no batch {id!r}")
        return Json(views.batch(view, single=True))

    @api.get("/queue/events", responses=describe.answers(views.Events))
    async def list_events(query: Annotated[EventQuery, Query()]) -> Response:
        """What happened, the last ones, oldest of them first."""
        return Json(views.events(await store.events(query.entity, query.limit, moment(query.since))))

    @api.get("/queue/status", responses=describe.answers(views.Status))
    async def show_status(nothing: Nothing) -> Response:
        """Counts, open batches, the account, and the figures of this process."""
        return Json(views.status(await store.status(), _daemon_status(deps)))

    @api.post(ACCOUNT_PATH, responses=describe.answers(views.Resumed))
    async def resume_account(request: Request, nothing: Nothing) -> Response:
        """Submit again after a pause of the account. ``resumed`` is false when it was not paused."""
        resumed = await store.resume_account(actor(request), deps.clock.now())
        deps.bells.flusher.ring()
        deps.bells.submission.ring()
        return Json(views.Resumed(resumed))

    @api.post(RESTORED_PATH, responses=describe.answers(views.Released))
    async def release_restored(request: Request, nothing: Nothing) -> Response:
        """Submit again after a restore, though the search for what was sent since the copy was made is not over.
        ``released`` is false when nothing was held back."""
        released = await store.release_restored(actor(request), deps.clock.now())
        deps.bells.flusher.ring()
        deps.bells.submission.ring()
        return Json(views.Released(released))


def _daemon_status(deps: IngestDeps) -> views.DaemonStatus:
    daemon, now, work, drain = deps.daemon, deps.clock.now(), deps.store.work, deps.drain
    return views.DaemonStatus(
        version=daemon.version,
        epoch=daemon.epoch,
        uptime_s=seconds_between(daemon.started_at, now),
        pid=daemon.pid,
        upstream=views.Upstream(base_url=daemon.base_url, simulator=daemon.simulator),
        draining=views.Draining(since=rfc3339(drain.since), actor=drain.actor) if drain.since is not None else None,
        memory=deps.health.memory(),
        stall=deps.health.stall(),
        loops=deps.health.loops(now),
        hanging=deps.health.hanging(),
        counts={"accepted": work.accepts["accepted"], "finished": work.finished, "delivered": work.delivered},
    )
