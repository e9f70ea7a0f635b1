"""HTTP on a Unix socket: take a request, store it, then answer.

``binding``    the socket: its mode, a stale one, a live one
``server``     uvicorn on that socket; who is at its other end; bounds on a connection
``front``      the one ASGI application: which route takes a call, and how a refusal leaves
``express``    the common call, one small request in: answered by the protocol itself, without ASGI
``hot``        the routes that carry the load, plain ASGI: one request in, look at it, pull, ack
``bulk``       many requests in one call, one a line; ``lines`` cuts the stream
``api``        the operator's routes, on FastAPI; ``describe`` makes the OpenAPI document of all
``views``      what the store says, as JSON
``queuebook``  the settings of the queues, in memory; ``draining``: whether anything new is accepted
``waiters``    callers that wait for a result
``problems``   what a caller is told when something is wrong
``asgi``       the few helpers that plain ASGI routes share
``deps``       what this room is handed by ``app``
"""

from unhurried.ingest.binding import SocketInUse, SocketUnusable, bind
from unhurried.ingest.deps import Bells, Daemon, IngestDeps
from unhurried.ingest.draining import Draining
from unhurried.ingest.front import Front
from unhurried.ingest.queuebook import QueueBook
from unhurried.ingest.server import Server
from unhurried.ingest.waiters import Waiters

__all__ = [
    "Bells",
    "Daemon",
    "Draining",
    "Front",
    "IngestDeps",
    "QueueBook",
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
