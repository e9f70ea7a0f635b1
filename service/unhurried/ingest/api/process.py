"""Routes for whoever watches the process: health, readiness, the OpenAPI document."""

from typing import Annotated

from fastapi import FastAPI, Header, Response

from unhurried.ingest import describe, views
from unhurried.ingest.api.parts import Json
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    @api.get("/healthz", responses=describe.answers(views.Healthy, problems=(503,)))
    async def show_health() -> Response:
        """Whether this process works: the event loop answers, nothing is broken beyond repair, and nothing hangs."""
        if (broken := deps.unhealthy()) is not None:
            raise Problem("store_unusable", broken)
        going_down = deps.draining() and not deps.drain.on()  # then it has ended its loops
        if (hanging := deps.health.hanging()) and not going_down:
            raise Problem("stalled", f"no step was finished for minutes by: {', '.join(hanging)}")
        loops = deps.health.loops(deps.clock.now())
        return Json(views.Healthy(status="ok", loops=loops, stall=deps.health.stall()))

    @api.get("/readyz", responses=describe.answers(views.Ready, 200, 503))
    async def show_readiness() -> Response:
        """Whether new requests are accepted."""
        reason = "draining" if deps.draining() else deps.unready()
        return Json(views.Ready(ready=reason is None, reason=reason), status_code=200 if reason is None else 503)

    @api.get("/metrics", responses=describe.plain("text/plain", "application/openmetrics-text", problems=(503,)))
    async def show_metrics(accept: Annotated[str, Header()] = "") -> Response:
        """Figures for Prometheus; as OpenMetrics where `Accept` says so."""
        body, media_type = await deps.metrics(accept)
        return Response(body, headers={"content-type": media_type})

    @api.get("/openapi.json", responses=describe.answers(None))
    async def show_description() -> Response:
        """This document."""
        return Response(describe.encoded(api), media_type="application/json")
