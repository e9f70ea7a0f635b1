"""Routes to send requests again that came to no good end, and to erase one."""

from collections import Counter
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Body, FastAPI, Request, Response
from pydantic import Field

from unhurried.domain.request import WAIT_MAX_S
from unhurried.domain.states import RequestState
from unhurried.failpoints import failpoint
from unhurried.ingest import describe, problems, views
from unhurried.ingest.api.parts import JSON_ONLY, Id, Json, Name, Nothing, Strict, actor, moment
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.store.errors import NotNow
from unhurried.store.records import RetryCandidate, RetryFilter

PAGES_A_CALL: Final = 20
RETRIED_A_CALL: Final = 2_000
CHUNK: Final = 250

Ended = Literal["errored", "expired", "canceled"]


class RetryGroup(msgspec.Struct, kw_only=True):
    queue: str
    model: str
    state: RequestState
    error_type: str | None
    requests: int


class Retried(msgspec.Struct, kw_only=True):
    """``found`` are the requests that the filter names, ``retried`` those that were queued again: none in a dry run,
    and not those of which upstream still owes an answer. ``cursor``: there is more; null at the end."""

    dry_run: bool
    found: int
    retried: int
    groups: list[RetryGroup]
    cursor: str | None


class Erased(msgspec.Struct, kw_only=True):
    """``overwritten`` is false when somebody was reading the database: the bytes are still in its write-ahead log, and
    go as soon as nobody reads."""

    request: views.Request
    overwritten: bool


SHAPES = (Retried, Erased)


class RetryBody(Strict):
    max_wait: float | None = Field(
        None, gt=0, le=WAIT_MAX_S, description="Seconds until it is due. Default: as its queue says."
    )


class RetryManyBody(RetryBody):
    queue: Name | None = None
    model: str | None = Field(None, min_length=1, max_length=256)
    states: list[Ended] = Field(
        ["errored", "expired"], min_length=1, max_length=3, description="What was canceled is found when it is named."
    )
    error_type: str | None = Field(None, min_length=1, max_length=100, description="Such as `overloaded_error`.")
    since: str | None = Field(None, max_length=60, description="RFC 3339: outcomes that came then or later.")
    dry_run: bool = Field(True, description="Only count them.")
    cursor: str | None = Field(None, pattern=r"^[0-9]{1,18}$", description="From the answer before.")


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    _add_retries(api, deps)
    _add_erase(api, deps)


def _add_retries(api: FastAPI, deps: IngestDeps) -> None:
    steering = deps.steering

    @api.post(
        "/queue/requests/retry", responses=describe.answers(Retried, problems=(400, 413, 415)), dependencies=JSON_ONLY
    )
    async def retry_requests(body: Annotated[RetryManyBody, Body()], request: Request, nothing: Nothing) -> Response:
        """Queue again what came to no good end: a bounded part of it each call, newest first. Cut short, it may be
        begun anew: what was queued again is not found again."""
        if not body.dry_run:
            _require_room(deps)
        wanted = RetryFilter(
            states=frozenset(RequestState(state) for state in body.states),
            queue=body.queue,
            model=body.model,
            error_type=body.error_type,
            since=moment(body.since),
        )
        position = int(body.cursor) if body.cursor is not None else None
        groups: Counter[tuple[str, str, RequestState, str | None]] = Counter()
        retried = 0
        for _ in range(PAGES_A_CALL):
            found, position = await steering.retry_candidates(wanted, position)
            groups.update((one.queue, one.model, one.state, one.error_type) for one in found)
            if not body.dry_run:
                retried += await _retry(deps, found, body.max_wait, actor(request))
            if position is None or retried >= RETRIED_A_CALL:
                break
        return Json(
            Retried(
                dry_run=body.dry_run,
                found=groups.total(),
                retried=retried,
                groups=[
                    RetryGroup(queue=queue, model=model, state=state, error_type=error_type, requests=n)
                    for (queue, model, state, error_type), n in groups.most_common()
                ],
                cursor=str(position) if position is not None else None,
            )
        )

    @api.post(
        "/queue/requests/{id}/retry",
        responses=describe.answers(views.Request, problems=(400, 404, 409, 413, 415)),
        dependencies=JSON_ONLY,
    )
    async def retry_request(id: Id, body: Annotated[RetryBody, Body()], request: Request, nothing: Nothing) -> Response:
        """Queue a request again that was errored, expired or canceled, as a new generation."""
        _require_room(deps)
        await _require(deps, id)
        try:
            await steering.retry(
                id,
                wait_s=body.max_wait,
                default_s=deps.defaults.deadline_s,
                actor=actor(request),
                now=deps.clock.now(),
            )
        except NotNow as reason:
            raise Problem("cannot_retry", f"request {id} cannot be sent again: {reason}", id=id) from None
        failpoint("ingest.retried")
        deps.bells.flusher.ring()
        return Json(views.request(await _require(deps, id)))


def _add_erase(api: FastAPI, deps: IngestDeps) -> None:
    @api.post("/queue/requests/{id}/erase", responses=describe.answers(Erased, problems=(404, 409)))
    async def erase_request(id: Id, request: Request, nothing: Nothing) -> Response:
        """Take out params, result, metadata, custom_id and idempotency key. That there was a request stays, with its
        times and its state. One that is queued is canceled."""
        await _require(deps, id)
        try:
            overwritten = await deps.steering.erase(id, actor(request), deps.clock.now())
        except NotNow as reason:
            raise Problem("cannot_erase", f"request {id} cannot be erased: {reason}", id=id) from None
        failpoint("ingest.erased")
        view = await _require(deps, id)
        deps.waiters.results_stored([id], [])
        return Json(Erased(request=views.request(view), overwritten=overwritten))


async def _retry(deps: IngestDeps, found: Any, max_wait: float | None, who: str) -> int:
    retried = 0
    for first in range(0, len(found), CHUNK):
        some: list[RetryCandidate] = found[first : first + CHUNK]
        retried += await deps.steering.retry_many(
            some, wait_s=max_wait, default_s=deps.defaults.deadline_s, actor=who, now=deps.clock.now()
        )
        failpoint("ingest.retried")
        deps.bells.flusher.ring()
    return retried


def _require_room(deps: IngestDeps) -> None:
    if deps.draining():
        raise problems.draining()


async def _require(deps: IngestDeps, id: str) -> Any:
    view = await deps.store.request(id)
    if view is None:
        raise Problem("not_found", f"there is no request {id!r}")
    return view
