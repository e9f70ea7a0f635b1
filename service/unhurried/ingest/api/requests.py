"""Routes about requests and their results, but for the hot ones."""

from typing import Annotated, Final

from fastapi import Body, FastAPI, Query, Request, Response
from pydantic import Field

from unhurried.domain.batch import BatchId
from unhurried.domain.states import FINAL_REQUEST_STATES, RequestState
from unhurried.failpoints import failpoint
from unhurried.ingest import describe, views
from unhurried.ingest.api.parts import JSON_ONLY, Id, Json, Name, Nothing, Strict, actor
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.store.records import RequestFilter, RequestView

LOOKUP_IDS_MAX: Final = 1_000
LOOKUP_BYTES: Final = 32_000_000


class ListQuery(Strict):
    queue: Name | None = None
    state: RequestState | None = None
    batch: Name | None = Field(None, description="A batch id of ours.")
    custom_id: Name | None = None
    limit: int = Field(100, ge=1, le=1_000)
    cursor: str | None = Field(None, pattern=r"^[0-9]{1,18}$", description="From the page before.")


class LookupBody(Strict):
    ids: list[Annotated[str, Field(max_length=64)]] = Field(max_length=LOOKUP_IDS_MAX)


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
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
        view = await store.cancel(id, actor(request), deps.clock.now()) if before is not None else None
        failpoint("ingest.canceled")
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


def _canceled(view: RequestView) -> bool:
    return view.state is RequestState.CANCELED
