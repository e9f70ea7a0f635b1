"""The routes that an operator or a script uses, on FastAPI: typed queries and bodies, and the OpenAPI document.

One module for each thing that routes are about; its ``add_routes`` adds them. The hot routes are answered before
FastAPI sees them (``ingest.hot``); ``describe`` puts them into the same document.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from unhurried.ingest import describe, views
from unhurried.ingest.api import again, batches, deliveries, destinations, draining, process, queues, requests, stream
from unhurried.ingest.api.parts import Json
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.settings import said

RAISED: Final = "unhurried.raised"
"""In the scope: the exception that a route ended with."""


class _Upwards:
    """Hands what a route raises to ``front``, which knows what to tell the caller. Starlette would answer in text."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001  # raised again by ``front``
            scope[RAISED] = error


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
    for room in (again, requests, stream, batches, queues, draining, destinations, deliveries, process):
        room.add_routes(api, deps)
    api.add_exception_handler(RequestValidationError, _invalid)
    for status, code in _CODES.items():
        api.add_exception_handler(status, _refuser(code))
    api.add_middleware(_Upwards)
    rooms = (again, queues, draining, destinations, deliveries)
    shapes = (*views.SHAPES, *(shape for room in rooms for shape in room.SHAPES))
    api.openapi = describe.cached(api, shapes, deps.settings.wait_max_s)  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return api


_Handler = Callable[[Request, Exception], Awaitable[Response]]
"""These raise: ``front`` answers every refusal, and counts it."""


async def _invalid(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body")) or None
    if first["type"] == "json_invalid":
        raise Problem("invalid_json", f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}")
    if first["type"] == "extra_forbidden":
        raise Problem("invalid_request", _unknown(request, first["loc"]), field=place)
    raise Problem("invalid_request", f"{place or 'the body'}: {said(first)}", field=place)


def _unknown(request: Request, loc: Sequence[int | str]) -> str:
    """Names what there is instead: the route's own models know it."""
    dependant = request.scope["route"].dependant
    params = dependant.body_params if loc[0] == "body" else dependant.query_params
    names = [name for param in params for name in getattr(param.field_info.annotation, "model_fields", ())]
    there = f"there are {', '.join(names)}" if names else "there are none"
    return f"{str(loc[-1])[:80]!r} is not known here; {there}"


_CODES: Final = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
"""What Starlette and FastAPI refuse by themselves."""


def _refuser(code: str) -> _Handler:
    async def refused(request: Request, error: Exception) -> NoReturn:
        raise Problem(code, str(getattr(error, "detail", error)))

    return refused
