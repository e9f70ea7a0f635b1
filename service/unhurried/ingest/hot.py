"""The routes that carry the load, as plain ASGI: FastAPI would cost more per request than storing it does.

One request comes in, or is looked at; results are pulled and confirmed. ``bulk`` takes many requests in one call;
most single ones are taken by ``express`` before they become ASGI.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Final

import msgspec
import structlog

from unhurried.clock import Ms, after
from unhurried.domain.request import PULL_NAME, QUEUE_NAME, Accepted
from unhurried.domain.states import FINAL_REQUEST_STATES
from unhurried.failpoints import failpoint
from unhurried.ingest import asgi, bulk, express, problems, views
from unhurried.ingest.asgi import ENVELOPE_ROOM, JSON, NDJSON, ClientGone, Receive, Scope, Send
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.loop import TryLater
from unhurried.store.errors import StoreBusy, StoreFull
from unhurried.store.records import Handed, RequestView

log = structlog.get_logger()

REQUESTS: Final = "/queue/requests"
RESULTS: Final = "/queue/results"
ACK: Final = "/queue/results/ack"

LARGE_BODY: Final = 1_000_000
"""From this size on a body is checked in a thread, so that the loop can turn between the parts of the check."""
PULL_BYTES: Final = 32_000_000
LEASE_MAX_S: Final = 86_400.0
ACK_IDS_MAX: Final = 10_000
ID_CHARS: Final = 36

_BULK_TYPES: Final = frozenset(
    {b"application/x-ndjson", b"application/jsonl", b"application/x-jsonlines", b"application/x-jsonl"}
)
_SHOW_QUERY: Final = frozenset({"wait", "ack"})
_PULL_QUERY: Final = frozenset({"destination", "queue", "limit", "wait", "lease"})
_NO_QUERY: Final[frozenset[str]] = frozenset()


class Confirmation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an ack."""

    delivery_ids: Annotated[list[Annotated[str, msgspec.Meta(max_length=100)]], msgspec.Meta(max_length=ACK_IDS_MAX)]


_confirmations: Final = msgspec.json.Decoder(Confirmation)


class HotRoutes:
    def __init__(self, deps: IngestDeps, memory: asgi.Memory) -> None:
        self._deps = deps
        self._store = deps.store
        self._bytes_max = deps.settings.request_bytes_max + ENVELOPE_ROOM
        self._memory = memory
        self._bulk = bulk.Bulk(deps, memory)

    async def take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /queue/requests``."""
        kind = asgi.media_type(scope)
        asgi.require_plain(scope)
        asgi.query(scope, _NO_QUERY)
        if self._deps.draining():
            raise problems.draining()
        if kind == b"application/json":
            await self._take_one(scope, receive, send)
        elif kind in _BULK_TYPES:
            await self._bulk.take(scope, receive, send)
        else:
            shown = kind[:80].decode("latin-1")
            raise Problem(
                "unsupported_media_type",
                f"send application/json (one request) or application/x-ndjson (one a line), not {shown!r}",
            )

    async def _take_one(self, scope: Scope, receive: Receive, send: Send) -> None:
        deps = self._deps
        body = await asgi.read_body(scope, receive, self._bytes_max, self._memory)
        given = body, asgi.peer_uid(scope), asgi.header(scope, b"idempotency-key")
        if len(body) < LARGE_BODY:
            request = express.checked(deps, *given)
        else:
            request = await asyncio.to_thread(express.checked, deps, *given)
        express.require_room(deps)
        failpoint("ingest.checked")
        [outcome] = await self._store.accept([request])
        failpoint("ingest.accepted")
        if not isinstance(outcome, Accepted):
            raise problems.from_conflict(outcome)
        if not outcome.duplicate:
            deps.bells.flusher.ring()
        status, headers, shown = express.answer_to(outcome)
        await asgi.answer(send, status, shown, headers)

    async def show(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET`` and ``HEAD /queue/requests/{id}``."""
        given = asgi.query(scope, _SHOW_QUERY)
        wait_s = asgi.number(given, "wait", 0.0, 0.0, self._deps.settings.wait_max_s)
        ack = asgi.flag(given, "ack")
        if scope["method"] == "HEAD":
            wait_s, ack = 0.0, False
        if not wait_s and not ack:
            view = await self._view(request_id)
            handed = await self._store.result(request_id) if view.state in FINAL_REQUEST_STATES else None
            await asgi.answer(send, 200, views.encode(views.request(view, handed)))
            return
        async with _watched(receive) as gone:
            view, handed = await self._wait(request_id, wait_s, gone)
            if gone.done():
                raise ClientGone
            arrived = await asgi.hand_over(scope, send, views.encode(views.request(view, handed)))
            failpoint("results.handed_over")
            if ack and arrived and handed is not None and handed.delivery_id is not None:
                await self._confirm(handed.delivery_id)
            await send(asgi.END)

    async def _wait(
        self, request_id: str, wait_s: float, gone: asyncio.Task[None]
    ) -> tuple[RequestView, Handed | None]:
        until = asyncio.get_running_loop().time() + wait_s
        with self._deps.waiters.request(request_id) as outcome:
            view = await self._view(request_id)
            if view.state not in FINAL_REQUEST_STATES:
                await self._deps.waiters.wait(outcome, gone, until)
                view = await self._view(request_id)
            return view, await self._store.result(request_id) if view.state in FINAL_REQUEST_STATES else None

    async def _confirm(self, delivery_id: str) -> None:
        try:
            await self._store.ack([delivery_id], "wait", self._deps.clock.now())
        except (StoreBusy, StoreFull) as error:  # the answer is out: all this costs is a second delivery
            log.warning("ingest.not_confirmed", delivery_id=delivery_id, reason=str(error))

    async def _view(self, request_id: str) -> RequestView:
        view = await self._store.request(request_id) if len(request_id) == ID_CHARS else None
        if view is None:
            raise Problem("not_found", f"there is no request {request_id[:80]!r}")
        return view

    async def pull(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /queue/results``."""
        settings = self._deps.settings
        given = asgi.query(scope, _PULL_QUERY)
        destination = _destination(given)
        limit = asgi.whole(given, "limit", 100, 1, 1_000)
        wait_s = asgi.number(given, "wait", 0.0, 0.0, settings.wait_max_s)
        lease_s = asgi.number(given, "lease", settings.lease_s, 1.0, LEASE_MAX_S)
        until = asyncio.get_running_loop().time() + wait_s
        waiters = self._deps.waiters
        async with _watched(receive) as gone:
            with waiters.line(destination) as place:
                while True:
                    place.rearm()
                    now = self._deps.clock.now()
                    handed = await self._store.pull(
                        destination, limit=limit, bytes_max=PULL_BYTES, lease_s=lease_s, now=now
                    )
                    if handed:
                        failpoint("results.pulled")
                        waiters.wake(destination)  # there may be more, for the next in line
                        self._deps.bells.dispatcher.ring()
                    if handed or not await waiters.wait(place.woken, gone, until):
                        break
            shown = views.results(handed)
            if b"ndjson" in (asgi.header(scope, b"accept") or b""):
                body, kind = b"".join(views.encode(one) + b"\n" for one in shown), NDJSON
            else:
                body, kind = views.encode(views.Results(shown)), JSON
            if not await asgi.hand_over(scope, send, body, (kind,)):
                await self._give_back(destination, handed, after(now, lease_s))
            failpoint("results.handed_over")
            await send(asgi.END)

    async def _give_back(self, destination: str, handed: Sequence[Handed], lease_until: Ms) -> None:
        """The caller has gone. After a lease they may be in another's hands."""
        now = self._deps.clock.now()
        if not handed or now >= lease_until:
            return
        with suppress(TryLater):  # then they come back at the end of their lease
            await self._store.give_back([str(one.delivery_id) for one in handed], now)
            self._deps.waiters.wake(destination)

    async def ack(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /queue/results/ack``."""
        if asgi.media_type(scope) != b"application/json":
            raise Problem("unsupported_media_type", "send application/json")
        asgi.require_plain(scope)
        asgi.query(scope, _NO_QUERY)
        body = await asgi.read_body(scope, receive, asgi.SMALL_BODY_MAX, self._memory)
        try:
            confirmation = _confirmations.decode(body)
        except msgspec.ValidationError as error:
            raise Problem("invalid_request", str(error), field="delivery_ids") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem("invalid_json", f"the body is not valid JSON: {error}") from None
        failpoint("results.confirming")
        acked = await self._store.ack(confirmation.delivery_ids, "ack", self._deps.clock.now())
        failpoint("results.confirmed")
        self._deps.waiters.windows.confirmed(confirmation.delivery_ids)
        await asgi.answer(send, 200, views.encode(views.acked(acked)))


@asynccontextmanager
async def _watched(receive: Receive) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that ends when the caller hangs up: nothing else tells a waiting handler."""
    gone = asyncio.create_task(asgi.hung_up(receive), name="ingest.hung_up")
    try:
        yield gone
    finally:
        gone.cancel()


def _destination(given: Mapping[str, str]) -> str:
    if "destination" in given and "queue" in given:
        raise Problem("invalid_request", "give a destination or a queue, not both", field="queue")
    queue = given.get("queue")
    if queue is not None and not QUEUE_NAME.fullmatch(queue):
        raise Problem("invalid_request", f"queue {queue[:80]!r} must match {QUEUE_NAME.pattern}", field="queue")
    destination = given.get("destination", f"pull:{queue or 'default'}")
    if not PULL_NAME.fullmatch(destination):
        raise Problem(
            "invalid_request", f"destination {destination[:80]!r} is not of the form pull:NAME", field="destination"
        )
    return destination
