"""The few helpers that the plain ASGI routes share: reading a body within bounds, answering, reading a query."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from unhurried.ingest import problems
from unhurried.ingest.problems import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
NDJSON: Final = (b"content-type", b"application/x-ndjson")

PEER: Final = "unhurried.peer"
"""Extension of the scope: ``{"pid", "uid", "gid"}`` of the process at the other end of the socket."""
CLOSING: Final = "unhurried.closing"
"""Extension of the scope: a function that says whether the connection has ended, or is about to."""
BODY_READ: Final = "unhurried.body_read"
"""Set in the scope once nothing of the body is left to be received."""
ENVELOPE_ROOM: Final = 65_536
"""What an envelope may add to its params."""
SMALL_BODY_MAX: Final = 1_000_000
"""Largest body of a call that carries no request: ids, at most."""
LINGER_S: Final = 3.0
LINGER_BYTES: Final = 1_000_000_000
"""How long, and for how much, an early answer goes on reading what the caller still sends. A client that sends first
and reads afterwards would otherwise see a broken pipe and not the answer."""


END: Final[Message] = {"type": "http.response.body", "body": b""}
"""The last message of an answer whose body has been sent."""


class ClientGone(Exception):
    """The caller hung up; there is nobody to answer."""


class Memory:
    """A bound on the bytes of large bodies that are in memory at once, over all connections."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max

    def take(self, size: int) -> None:
        """Raises ``Problem`` (busy) when that much is not there."""
        if size > self._left:
            raise Problem("busy", "too many large bodies are being received", retry_after_s=1.0)
        self._left -= size

    def give(self, size: int) -> None:
        self._left += size


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that (lower case) name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def media_type(scope: Scope) -> bytes:
    """The media type of the body in lower case, without parameters; empty when the caller names none."""
    return media_type_of(header(scope, b"content-type") or b"")


def media_type_of(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def require_plain(scope: Scope) -> None:
    """Raises ``Problem`` for a compressed body."""
    encoding = header(scope, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise Problem("unsupported_media_type", "send the body without a Content-Encoding")


def content_length(scope: Scope) -> int | None:
    given = header(scope, b"content-length")
    return int(given) if given is not None and given.isdigit() else None


def peer_uid(scope: Scope) -> int | None:
    peer = scope.get("extensions", {}).get(PEER)
    return peer["uid"] if peer else None


async def read_body(scope: Scope, receive: Receive, bytes_max: int, memory: Memory) -> bytes:
    """The whole body. Raises ``Problem`` as soon as it is known to be too large, ``ClientGone`` when cut short."""
    if (declared := content_length(scope)) is not None and declared > bytes_max:
        raise problems.too_large(bytes_max)
    message = await receive()
    if not message.get("more_body", False) and message["type"] == "http.request":
        scope[BODY_READ] = True
        if len(message.get("body", b"")) > bytes_max:
            raise problems.too_large(bytes_max)
        return bytes(message.get("body", b""))
    parts: list[bytes] = []
    size = taken = 0
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            scope[BODY_READ] = not message.get("more_body", False)
            if size > bytes_max:
                raise problems.too_large(bytes_max)
            memory.take(len(part))
            taken += len(part)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await receive()
    finally:
        memory.give(taken)


async def answer(send: Send, status: int, body: bytes, headers: Headers = (JSON,)) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def hand_over(scope: Scope, send: Send, body: bytes, headers: Headers = (JSON,)) -> bool:
    """Answer 200 but for the last message, ``END``, and say whether all of it has left this process: what was handed
    over then is the caller's."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": True})  # returns when all is written
    return not closing(scope)


def closing(scope: Scope) -> bool:
    """Whether the caller has gone: what is sent from here on does not arrive."""
    is_closing = scope.get("extensions", {}).get(CLOSING)
    return is_closing is not None and is_closing()


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a problem. When much of the body is still on its way, the connection ends after it, but the rest of the
    upload is swallowed first, within bounds. (The server itself swallows a small rest, and the connection stays.)"""
    body = problem.body()
    expects = header(scope, b"expect") is not None  # such a caller waits for our consent before it sends its body
    if not (expects or _much_to_come(scope)):
        await answer(send, problem.status, body, problem.headers())
        return
    headers = [*problem.headers(), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if not expects:
        await _swallow(receive)
    await send({"type": "http.response.body", "body": b""})


def _much_to_come(scope: Scope) -> bool:
    if scope.get(BODY_READ):
        return False
    if (declared := content_length(scope)) is not None:
        return declared > SMALL_BODY_MAX
    return header(scope, b"transfer-encoding") is not None


async def _swallow(receive: Receive) -> None:
    swallowed = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while swallowed < LINGER_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                swallowed += len(message.get("body", b""))
    except TimeoutError:
        return  # it has had its time; closing is all that is left


async def hung_up(receive: Receive) -> None:
    """Return when the caller has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def query(scope: Scope, allowed: frozenset[str]) -> Mapping[str, str]:
    """The query parameters. Raises ``Problem`` for one that is not known, or that comes twice."""
    text = scope.get("query_string", b"")
    if not text:
        return {}
    found: dict[str, str] = {}
    for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True):
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise Problem(
                "invalid_request", f"there is no parameter {name[:80]!r} here; known: {known}", field=name[:80]
            )
        if name in found:
            raise Problem("invalid_request", f"the parameter {name} comes twice", field=name)
        found[name] = value
    return found


def number(given: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    """A number in a query. Raises ``Problem`` when it is none, or out of bounds."""
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise Problem("invalid_request", f"{name} must be a number from {low:g} to {high:g}", field=name)
    return value


def whole(given: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number in a query. Raises ``Problem`` when it is none, or out of bounds."""
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise Problem("invalid_request", f"{name} must be a whole number from {low} to {high}", field=name)
    return int(text)


def flag(given: Mapping[str, str], name: str) -> bool:
    """``true`` or ``false`` in a query; false when it is not there."""
    text = given.get(name, "false")
    if text not in ("true", "false"):
        raise Problem("invalid_request", f"{name} must be true or false", field=name)
    return text == "true"
