"""Routes about deliveries: one result handed over to one destination, and handed over again at an operator's word."""

from typing import Annotated, Final

import msgspec
from fastapi import Body, FastAPI, Query, Request, Response
from pydantic import Field

from unhurried.clock import Ms, rfc3339
from unhurried.domain.states import DeliveryState, RequestState
from unhurried.failpoints import failpoint
from unhurried.ingest import describe, problems
from unhurried.ingest.api.parts import JSON_ONLY, Id, Json, Nothing, Strict, actor, moment
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.ingest.views import Time
from unhurried.store import records
from unhurried.store.errors import NotRedeliverable
from unhurried.store.records import DeliveryFilter

AGAIN: Final = frozenset(DeliveryState) - {DeliveryState.SENDING}
"""What can be delivered again: what is under way cannot."""
OVER: Final = frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELED})

DestinationName = Annotated[str, Field(min_length=1, max_length=120)]
Moment = Annotated[str, Field(max_length=60)]


class Delivery(msgspec.Struct, kw_only=True):
    """One result and one destination. ``due_at``: while pending the next attempt, while sending the end of the lease.
    ``last_…``: the last attempt that failed."""

    id: str
    destination: str
    state: DeliveryState
    request_id: str
    request_state: RequestState
    custom_id: str | None
    queue: str
    attempts: int
    created_at: Time
    due_at: Time | None
    finished_at: Time | None
    confirmed_by: str | None
    last_failed_at: Time | None
    last_status: int | None
    last_error: str | None


class Deliveries(msgspec.Struct):
    """Newest first. A page may be short, even empty, and still have a cursor."""

    deliveries: list[Delivery]
    cursor: str | None


class Redelivery(msgspec.Struct):
    """How many were delivered again, or with ``dry_run`` would be."""

    deliveries: int
    dry_run: bool


SHAPES = (Delivery, Deliveries, Redelivery)


class DeliveryQuery(Strict):
    destination: DestinationName | None = None
    state: list[DeliveryState] = Field([], description="In one of these states; may come several times.")
    since: Moment | None = Field(None, description="RFC 3339: finished then or later; if not finished, made.")
    limit: int = Field(100, ge=1, le=1_000)
    cursor: str | None = Field(None, pattern=r"^[0-9]{1,18}$", description="From the page before.")


class RedeliverBody(Strict):
    destination: DestinationName
    states: set[DeliveryState] = Field({DeliveryState.DEAD}, min_length=1)
    since: Moment | None = Field(None, description="RFC 3339: finished then or later; if not finished, made.")
    dry_run: bool = Field(True, description="Only count them.")


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    _add_many(api, deps)  # first: a path is matched in the order of the routes, and `redeliver` is no id
    _add_looks(api, deps)
    _add_one(api, deps)


async def _require_destination(deps: IngestDeps, name: str) -> None:
    if await deps.destinations.destination(name) is None:
        raise Problem("not_found", f"there is no destination {name[:120]!r}")


def _tell(deps: IngestDeps, destination: str) -> None:
    deps.bells.dispatcher.ring()
    deps.waiters.wake(destination)


def _add_many(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.destinations

    @api.post(
        "/queue/deliveries/redeliver",
        responses=describe.answers(Redelivery, problems=(400, 404, 413, 415)),
        dependencies=JSON_ONLY,
    )
    async def redeliver_many(body: Annotated[RedeliverBody, Body()], request: Request, nothing: Nothing) -> Response:
        """Deliver again what has ended in these states at one destination, or only count it (`dry_run`)."""
        if not body.states <= AGAIN:
            raise Problem(
                "invalid_request", "what is being delivered just now cannot be delivered again", field="states"
            )
        await _require_destination(deps, body.destination)
        wanted = DeliveryFilter(destination=body.destination, states=frozenset(body.states), since=moment(body.since))
        found = 0
        cursor: tuple[int, int] | None = None
        while True:  # a step at a time, so that accepts go on between them
            step = await store.redeliver_many(wanted, cursor, actor(request), deps.clock.now(), dry_run=body.dry_run)
            found += step.deliveries
            if step.deliveries and not body.dry_run:
                failpoint("ingest.redelivered")
                _tell(deps, body.destination)
            if (cursor := step.cursor) is None:
                return Json(Redelivery(found, body.dry_run))
            if deps.stop.is_set():
                raise problems.draining(deliveries=found)


def _add_looks(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.destinations

    @api.get("/queue/deliveries", responses=describe.answers(Deliveries, problems=(404,)))
    async def list_deliveries(query: Annotated[DeliveryQuery, Query()]) -> Response:
        """Deliveries, newest first."""
        if query.destination is not None:
            await _require_destination(deps, query.destination)
        wanted = DeliveryFilter(destination=query.destination, states=frozenset(query.state), since=moment(query.since))
        page = await store.deliveries(wanted, query.cursor, query.limit)
        return Json(Deliveries([_shown(one) for one in page.deliveries], page.cursor))

    @api.get("/queue/deliveries/{id}", responses=describe.answers(Delivery, problems=(404,)))
    async def show_delivery(id: Id, nothing: Nothing) -> Response:
        """One delivery, and what went wrong with it last."""
        found = await store.delivery(id)
        if found is None:
            raise Problem("not_found", f"there is no delivery {id!r}")
        return Json(_shown(found))


def _add_one(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.destinations

    @api.post("/queue/deliveries/{id}/redeliver", responses=describe.answers(Delivery, 202, problems=(404, 409)))
    async def redeliver(id: Id, request: Request, nothing: Nothing) -> Response:
        """Deliver a result again, as a new delivery with an id of its own."""
        try:
            made = await store.redeliver(id, actor(request), deps.clock.now())
        except NotRedeliverable as error:
            raise Problem("not_redeliverable", f"{id} cannot be delivered again: {error}", id=id) from None
        if made is None:
            raise Problem("not_found", f"there is no delivery {id!r}")
        failpoint("ingest.redelivered")
        _tell(deps, made.destination)
        return Json(_shown(made), status_code=202)


def _shown(view: records.DeliveryView) -> Delivery:
    return Delivery(
        id=view.id,
        destination=view.destination,
        state=view.state,
        request_id=view.request_id,
        request_state=view.request_state,
        custom_id=view.custom_id,
        queue=view.queue,
        attempts=view.attempts,
        created_at=rfc3339(view.created_at),
        due_at=None if view.state in OVER else rfc3339(view.due_at),
        finished_at=_time(view.finished_at),
        confirmed_by=view.confirmed_by,
        last_failed_at=_time(view.last_at),
        last_status=view.last_status,
        last_error=view.last_error,
    )


def _time(moment: Ms | None) -> str | None:
    return None if moment is None else rfc3339(moment)
