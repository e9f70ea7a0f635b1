"""HTTP on a Unix socket: take a request, store it, then answer.

``binding``    the socket: its mode, a stale one, a live one
``server``     uvicorn on that socket; who is at its other end; bounds on a connection
``front``      the one ASGI application: which route takes a call, and how a refusal leaves
``hot``        the routes that carry the load, plain ASGI: one request in, look at it, pull, ack
``bulk``       many requests in one call, one a line; ``lines`` cuts the stream
``api``        the operator's routes, on FastAPI; ``describe`` makes the OpenAPI document of all
``views``      what the store says, as JSON
``waiters``    callers that wait for a result
``problems``   what a caller is told when something is wrong
``asgi``       the few helpers that plain ASGI routes share
``deps``       what this room is handed by ``app``
"""

from unhurried.ingest.binding import SocketInUse, SocketUnusable, bind
from unhurried.ingest.deps import Bells, Daemon, IngestDeps
from unhurried.ingest.front import Front
from unhurried.ingest.server import Server
from unhurried.ingest.waiters import Waiters

__all__ = [
    "Bells",
    "Daemon",
    "Front",
    "IngestDeps",
    "Server",
    "SocketInUse",
    "SocketUnusable",
    "Waiters",
    "bind",
    "build_app",
]


def build_app(deps: IngestDeps) -> Front:
    """The ASGI application that ``Server`` serves."""
    return Front(deps)
