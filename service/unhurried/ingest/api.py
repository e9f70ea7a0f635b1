"""The routes that an operator or a script uses, on FastAPI: typed queries and bodies, and the OpenAPI document.

The hot routes are answered before FastAPI sees them (``hot``); ``describe`` puts them into the same document.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from unhurried.clock import seconds_between
from unhurried.domain.batch import BatchId
from unhurried.domain.states import FINAL_REQUEST_STATES, RequestState
from unhurried.ingest import asgi, describe, views
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.store.contract import RequestFilter, RequestView

LOOKUP_IDS_MAX: Final = 1_000
LOOKUP_BYTES: Final = 32_000_000
ACCOUNT_PATH: Final = "/queue/account/resume"

Name = Annotated[str, Field(min_length=1, max_length=64)]
Id = Annotated[str, Path(max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ListQuery(_Strict):
    queue: Name | None = None
    state: RequestState | None = None
    batch: Name | None = Field(None, description="A batch id of ours.")
    custom_id: Name | None = None
    limit: int = Field(100, ge=1, le=1_000)
    cursor: str | None = Field(None, pattern=r"^[0-9]{1,18}$", description="From the page before.")


class BatchQuery(_Strict):
    open: bool = Field(False, description="Only those that are not finished.")
    limit: int = Field(100, ge=1, le=1_000)
    before: Name | None = Field(None, description="A batch id: only those made before it.")


class EventQuery(_Strict):
    entity: Name | None = Field(None, description="Id of a request or a batch.")
    limit: int = Field(100, ge=1, le=1_000)


class NoQuery(_Strict):
    pass


class FlushBody(_Strict):
    queue: Name | None = None
    model: str | None = Field(None, min_length=1, max_length=256)


class LookupBody(_Strict):
    ids: list[Annotated[str, Field(max_length=64)]] = Field(max_length=LOOKUP_IDS_MAX)


def _require_json(request: Request) -> None:
    if asgi.media_type(request.scope) != b"application/json":
        raise Problem("unsupported_media_type", "send application/json")
    asgi.require_plain(request.scope)


RAISED: Final = "unhurried.raised"
"""In the scope: the exception that a route ended with."""
JSON_ONLY: Final = [Depends(_require_json)]
Nothing = Annotated[NoQuery, Query()]


class _Upwards:
    """Hands what a route raises to ``front``, which knows what to tell the caller. Starlette would answer in text."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001  # raised again by ``front``
            scope[RAISED] = error


class Json(JSONResponse):
    """A shape of ``views``, encoded once, its spliced bytes untouched."""

    def render(self, content: Any) -> bytes:
        return views.encode(content)


def build_api(deps: IngestDeps) -> FastAPI:
    """The FastAPI application of the operator's routes; its ``openapi()`` describes every route."""
    api = FastAPI(
        title="unhurried",
        version=deps.daemon.version,
        description="The queue's own API on the daemon's Unix socket.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        default_response_class=Json,
    )
    _add_request_routes(api, deps)
    _add_operator_routes(api, deps)
    _add_process_routes(api, deps)
    api.add_exception_handler(RequestValidationError, _invalid)
    for status, code in _CODES.items():
        api.add_exception_handler(status, _refuser(code))
    api.add_middleware(_Upwards)
    api.openapi = describe.cached(api, deps.settings.wait_max_s)  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return api


def _add_request_routes(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.store

    @api.get("/queue/requests", responses=describe.answers(views.Requests))
    async def list_requests(query: Annotated[ListQuery, Query()]) -> Response:
        """Requests, newest first, without their results."""
        wanted = RequestFilter(
            queue=query.queue,
            state=query.state,
            batch=BatchId(query.batch) if query.batch is not None else None,
            custom_id=query.custom_id,
        )
        return Json(views.requests(await store.requests(wanted, query.cursor, query.limit)))

    @api.get("/queue/requests/{id}/attempts", responses=describe.answers(views.Attempts, problems=(404,)))
    async def list_attempts(id: Id, nothing: Nothing) -> Response:
        """Every batch that a request has been in, oldest first, and what came of it there."""
        found = await store.attempts_of(id)
        if found is None:
            raise Problem("not_found", f"there is no request {id!r}")
        return Json(views.attempts(found))

    @api.post("/queue/requests/{id}/cancel", responses=describe.answers(views.Request, 200, 202, problems=(404, 409)))
    async def cancel_request(id: Id, request: Request, nothing: Nothing) -> Response:
        """Cancel: 200 when it was queued, 202 when it is on its way and is only flagged."""
        before = await store.request(id)
        view = await store.cancel(id, _actor(request), deps.clock.now()) if before is not None else None
        if before is None or view is None:
            raise Problem("not_found", f"there is no request {id!r}")
        if view.state in FINAL_REQUEST_STATES and (before.state in FINAL_REQUEST_STATES or not _canceled(view)):
            raise Problem("already_finished", f"request {id} is {view.state} already", id=id)
        if _canceled(view):
            deps.waiters.results_stored([id], [view.deliver_to])
            deps.bells.dispatcher.ring()
            return Json(views.request(view, await store.result(id)))
        deps.bells.poller.ring()
        return Json(views.request(view), status_code=202)

    @api.post(
        "/queue/results/lookup",
        responses=describe.answers(views.FoundResults, problems=(400, 413, 415)),
        dependencies=JSON_ONLY,
    )
    async def look_up_results(body: Annotated[LookupBody, Body()], nothing: Nothing) -> Response:
        """The results of those among the ids that have finished, without a lease and without an ack."""
        ids = list(dict.fromkeys(body.ids))
        found = await store.results_of(ids, LOOKUP_BYTES)
        rest = ids[ids.index(found[-1].request_id) + 1 :] if found else []
        truncated = bool(rest) and bool(await store.results_of(rest, 1))
        return Json(views.FoundResults(results=views.results(found), truncated=truncated))


def _add_operator_routes(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.store

    @api.post(
        "/queue/flush", responses=describe.answers(views.Flushed, problems=(400, 413, 415)), dependencies=JSON_ONLY
    )
    async def flush(body: Annotated[FlushBody, Body()], nothing: Nothing) -> Response:
        """Send what waits now, of all groups or those of a queue or a model."""
        flushed = await store.ask_flush(body.queue, body.model, deps.clock.now())
        deps.bells.flusher.ring()
        return Json(views.Flushed(groups=flushed.groups, requests=flushed.requests))

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
        return Json(views.events(await store.events(query.entity, query.limit)))

    @api.get("/queue/status", responses=describe.answers(views.Status))
    async def show_status(nothing: Nothing) -> Response:
        """Counts, open batches, the account, and the figures of this process."""
        return Json(views.status(await store.status(), _daemon_status(deps)))

    @api.post(ACCOUNT_PATH, responses=describe.answers(views.Resumed))
    async def resume_account(request: Request, nothing: Nothing) -> Response:
        """Submit again after a pause of the account. ``resumed`` is false when it was not paused."""
        resumed = await store.resume_account(_actor(request), deps.clock.now())
        deps.bells.flusher.ring()
        deps.bells.submission.ring()
        return Json(views.Resumed(resumed))


def _add_process_routes(api: FastAPI, deps: IngestDeps) -> None:
    @api.get("/healthz", responses=describe.answers(views.Healthy, problems=(503,)))
    async def show_health() -> Response:
        """Whether this process works: the event loop answers, nothing is broken beyond repair, and nothing hangs."""
        if (broken := deps.unhealthy()) is not None:
            raise Problem("store_unusable", broken)
        if (hanging := deps.health.hanging()) and not deps.draining():  # a daemon that goes down has ended its loops
            raise Problem("stalled", f"no step was finished for minutes by: {', '.join(hanging)}")
        loops = deps.health.loops(deps.clock.now())
        return Json(views.Healthy(status="ok", loops=loops, stall=deps.health.stall()))

    @api.get("/readyz", responses=describe.answers(views.Ready, 200, 503))
    async def show_readiness() -> Response:
        """Whether new requests are accepted."""
        reason = "draining" if deps.draining() else deps.unready()
        return Json(views.Ready(ready=reason is None, reason=reason), status_code=200 if reason is None else 503)

    @api.get("/openapi.json", responses=describe.answers(None))
    async def show_description() -> Response:
        """This document."""
        return Response(describe.encoded(api), media_type="application/json")


def _canceled(view: RequestView) -> bool:
    return view.state is RequestState.CANCELED


def _actor(request: Request) -> str:
    uid = asgi.peer_uid(request.scope)
    return "http" if uid is None else f"uid:{uid}"


def _daemon_status(deps: IngestDeps) -> views.DaemonStatus:
    daemon, now = deps.daemon, deps.clock.now()
    return views.DaemonStatus(
        version=daemon.version,
        epoch=daemon.epoch,
        uptime_s=seconds_between(daemon.started_at, now),
        pid=daemon.pid,
        upstream=views.Upstream(base_url=daemon.base_url, simulator=daemon.simulator),
        memory=deps.health.memory(),
        stall=deps.health.stall(),
        loops=deps.health.loops(now),
    )


_Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body")) or None
    if first["type"] == "json_invalid":
        return _answer(Problem("invalid_json", f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}"))
    return _answer(Problem("invalid_request", f"{place or 'the body'}: {first['msg']}", field=place))


_CODES: Final = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
"""What Starlette and FastAPI refuse by themselves."""


def _refuser(code: str) -> _Handler:
    async def refused(request: Request, error: Exception) -> Response:
        return _answer(Problem(code, str(getattr(error, "detail", error))))

    return refused


def _answer(problem: Problem) -> Response:
    headers = {name.decode(): value.decode() for name, value in problem.headers()}
    return Response(problem.body(), problem.status, headers=headers)
