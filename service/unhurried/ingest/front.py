"""The one ASGI application: hot routes first, then FastAPI; every refusal leaves here as a problem."""

import re
from typing import Final

import structlog

from unhurried.ingest import asgi, hot, problems
from unhurried.ingest.api import RAISED, build_api
from unhurried.ingest.asgi import ClientGone, Message, Receive, Scope, Send
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.express import Express
from unhurried.ingest.hot import HotRoutes
from unhurried.ingest.problems import Problem

log = structlog.get_logger()

_ONE_REQUEST: Final = hot.REQUESTS + "/"
_UNSAFE_GETS: Final = frozenset({hot.RESULTS, hot.RESULTS + "/stream"})
"""A ``GET`` that hands out leases: no ``HEAD`` there."""
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


class Front:
    def __init__(self, deps: IngestDeps) -> None:
        self.memory = asgi.Memory(8 * (deps.settings.request_bytes_max + asgi.ENVELOPE_ROOM))
        self.hot = HotRoutes(deps, self.memory)
        self.express = Express(deps)
        self.api = build_api(deps)
        self._refused = deps.refused
        paths = self.api.openapi()[
            "paths"
        ]  # made now: it takes a few dozen milliseconds, which no caller should wait for
        self._paths = [_methods(template, operations) for template, operations in paths.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this is no HTTP: {scope['type']}")
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._route(scope, receive, noting_send)
        except ClientGone:
            return  # nobody is left to be answered; what was stored stays stored
        except Exception as error:
            problem = problems.of(error)
            self._refused(problem.code)
            if problem.status == 500:
                log.error("ingest.failed", method=scope["method"], path=scope["path"], exc_info=error)
            if started:
                raise  # an answer was cut in its middle: the server closes the connection
            await asgi.refuse(problem, scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == hot.REQUESTS and method == "POST":
            await self.hot.take(scope, receive, send)
        elif (
            path.startswith(_ONE_REQUEST) and method in ("GET", "HEAD") and "/" not in (id := path[len(_ONE_REQUEST) :])
        ):
            await self.hot.show(id, scope, receive, send)
        elif path == hot.RESULTS and method == "GET":
            await self.hot.pull(scope, receive, send)
        elif path == hot.ACK and method == "POST":
            await self.hot.ack(scope, receive, send)
        else:
            await self._route_slowly(scope, receive, send)

    async def _route_slowly(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        allowed = self._allowed(path)
        if not allowed:
            raise Problem("not_found", f"there is nothing at {path[:200]}; see /openapi.json")
        if method == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", _listed(allowed))]})
            await send({"type": "http.response.body", "body": b""})
            return
        if method not in allowed:
            allow = _listed(allowed).decode()
            raise Problem("method_not_allowed", f"{method} is not allowed at {path}; it takes {allow}", allow=allow)
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server leaves the body out
        if (
            method in _WITH_BODY
        ):  # within our bound, and refused as a problem: FastAPI's own limit answers in plain text
            body = await asgi.read_body(scope, receive, asgi.SMALL_BODY_MAX, self.memory)
            receive = _replayed(body, receive)
        await self.api(scope, receive, send)
        if (raised := scope.get(RAISED)) is not None:
            raise raised

    def _allowed(self, path: str) -> frozenset[str]:
        """The methods of a path, as the OpenAPI document says it; none when nothing is there."""
        for pattern, methods in self._paths:
            if pattern.fullmatch(path):
                return methods
        return frozenset()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that brings ``body`` first."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _methods(template: str, operations: dict[str, object]) -> tuple[re.Pattern[str], frozenset[str]]:
    methods = {name.upper() for name in operations} | {"OPTIONS"}
    if "GET" in methods and template not in _UNSAFE_GETS:
        methods.add("HEAD")
    return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))), frozenset(methods)


def _listed(methods: frozenset[str]) -> bytes:
    return ", ".join(sorted(methods)).encode()
