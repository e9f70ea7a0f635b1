"""Routes to drain the daemon before it is stopped, moved or replaced."""

from typing import Annotated

import msgspec
from fastapi import Body, FastAPI, Request, Response
from pydantic import Field

from unhurried.clock import rfc3339
from unhurried.ingest import describe
from unhurried.ingest.api.parts import JSON_ONLY, Json, Nothing, Strict, actor
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.draining import Left
from unhurried.ingest.problems import Problem
from unhurried.ingest.views import Time


class Drain(msgspec.Struct, kw_only=True):
    """``empty``: no request is open, no batch, and nothing waits to be pushed. What is ``to_pull`` is its callers' to
    fetch. ``held_by``: what stands in the way."""

    draining: bool
    since: Time | None
    empty: bool
    queued: int
    sent: int
    open_batches: int
    to_push: int
    to_pull: int
    held_by: list[str]
    stopping: bool = False


class Accepting(msgspec.Struct):
    """``was_draining`` is false when there was nothing to end."""

    was_draining: bool


SHAPES = (Drain, Accepting)


class DrainBody(Strict):
    stop: bool = Field(False, description="Then stop the daemon, if it is empty; else 409, and it goes on draining.")


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    drain = deps.drain

    @api.post("/queue/drain", responses=describe.answers(Drain, problems=(400, 409, 413, 415)), dependencies=JSON_ONLY)
    async def begin_drain(body: Annotated[DrainBody, Body()], request: Request, nothing: Nothing) -> Response:
        """Accept nothing new and let everything go its way, without lingering. May be repeated."""
        await drain.begin(actor(request))
        left = await drain.left()
        if body.stop:
            if not left.empty:
                raise Problem("not_drained", f"there is work left: {_told(left)}")
            drain.stop()
        return Json(_shown(deps, left, stopping=body.stop))

    @api.get("/queue/drain", responses=describe.answers(Drain))
    async def show_drain(nothing: Nothing) -> Response:
        """What there is to be done yet, whether the daemon is being drained or not."""
        return Json(_shown(deps, await drain.left()))

    @api.post("/queue/undrain", responses=describe.answers(Accepting))
    async def end_drain(request: Request, nothing: Nothing) -> Response:
        """Accept again. What was formed meanwhile is sent; nothing is taken back."""
        return Json(Accepting(await drain.end(actor(request))))


def _told(left: Left) -> str:
    said = f"{left.queued:,} queued, {left.sent:,} sent, {left.open_batches:,} open batches, {left.to_push:,} to push"
    return "; ".join([said, *left.held_by])


def _shown(deps: IngestDeps, left: Left, *, stopping: bool = False) -> Drain:
    since = deps.drain.since
    return Drain(
        draining=since is not None,
        since=rfc3339(since) if since is not None else None,
        empty=left.empty,
        queued=left.queued,
        sent=left.sent,
        open_batches=left.open_batches,
        to_push=left.to_push,
        to_pull=left.to_pull,
        held_by=left.held_by,
        stopping=stopping,
    )
