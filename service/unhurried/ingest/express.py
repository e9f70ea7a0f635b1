"""The express lane: one small request in, without ASGI.

What ASGI costs (a task, a scope, a dozen awaits) is more than storing a request does. So the common call is answered
by the protocol itself: a ``POST /queue/requests`` with one envelope of a known, small size. It is checked as soon as
it is complete, stored together with those that came while the last ones were being stored, and answered from their
commit. Everything unusual (other types, chunked or large bodies, ``Expect``) takes the way through ``front``.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog
from uuid_utils import uuid7

from unhurried.domain.request import Accepted, KeyConflict, NewRequest, Refusal, accept, check_key
from unhurried.failpoints import failpoint
from unhurried.ingest import problems
from unhurried.ingest.asgi import JSON, Headers, media_type_of
from unhurried.ingest.deps import IngestDeps
from unhurried.store.errors import StoreBusy

log = structlog.get_logger()

TARGET: Final = b"/queue/requests"
BODY_BYTES_MAX: Final = 65_536
GROUP_MAX: Final = 512
GROUP_BYTES_MAX: Final = 16_000_000
"""In one call of the store, which is one transaction."""
WAITING_BYTES_MAX: Final = 64_000_000
"""Beyond it callers are told to come later: a thousand of the largest."""


class Call(Protocol):
    """One call under way on a connection."""

    peer_uid: int | None

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Write the answer, unless the caller has hung up."""
        ...


class Head(NamedTuple):
    """What the headers of a call in this lane say."""

    idempotency_key: bytes | None


def head_of(headers: Headers) -> Head | None:
    """None unless the body is one JSON envelope, of a small size that is known beforehand."""
    kind = size = key = None
    for name, value in headers:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            size = value  # the parser has refused a second one
        elif name == b"idempotency-key":
            if key is not None:
                return None
            key = value
        elif name in _UNUSUAL:
            return None
    if kind is None or size is None or not size.isdigit() or int(size) > BODY_BYTES_MAX:
        return None
    if kind != b"application/json" and media_type_of(kind) != b"application/json":
        return None
    return Head(key)


_UNUSUAL: Final = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})


class _Waiting(NamedTuple):
    call: Call
    request: NewRequest


class Express:
    def __init__(self, deps: IngestDeps) -> None:
        self._deps = deps
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._storing: asyncio.Task[None] | None = None

    def take(self, call: Call, body: bytes, idempotency_key: bytes | None) -> None:
        """Check the envelope; ``call`` is answered at once when it is refused, else when it is on disk."""
        try:
            self._require_room()
            request = checked(self._deps, body, call.peer_uid, idempotency_key)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller is told, as in ``front``
            _refuse(self._deps, call, error)
            return
        failpoint("ingest.checked")
        self._waiting.append(_Waiting(call, request))
        self._waiting_bytes += len(request.params)
        if self._storing is None:
            self._storing = asyncio.get_running_loop().create_task(self._store_all(), name="ingest.express")

    def _require_room(self) -> None:
        """Raises ``Problem`` or ``StoreBusy``."""
        require_room(self._deps, len(self._waiting))
        if self._waiting_bytes > WAITING_BYTES_MAX:
            raise StoreBusy(f"{len(self._waiting)} requests are waiting already")

    async def _store_all(self) -> None:
        """Store what waits, and what comes meanwhile, until nothing does."""
        try:
            while self._waiting:
                await self._store(self._next_group())
        finally:
            self._storing = None

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and len(group) < GROUP_MAX and size < GROUP_BYTES_MAX:
            group.append(self._waiting.popleft())
            size += len(group[-1].request.params)
        self._waiting_bytes -= size
        return group

    async def _store(self, group: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._deps.store.accept([one.request for one in group])
        except Exception as error:  # noqa: BLE001  # as above
            if isinstance(error, StoreBusy) or len(group) == 1:
                for one in group:
                    _refuse(self._deps, one.call, error)
            else:  # one that cannot be stored must not sink the others
                for one in group:
                    await self._store([one])
            return
        failpoint("ingest.accepted")
        if any(isinstance(outcome, Accepted) and not outcome.duplicate for outcome in outcomes):
            self._deps.bells.flusher.ring()
        for one, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, KeyConflict):
                _refuse(self._deps, one.call, problems.from_conflict(outcome))
            else:
                one.call.answer(*answer_to(outcome))


def require_room(deps: IngestDeps, waiting: int = 0) -> None:
    """Raises ``Problem`` while no new work is taken. ``waiting``: requests that the store has not been told of."""
    if deps.draining():
        raise problems.draining()
    if (count := deps.open_requests() + waiting) >= deps.settings.queue_requests_max:
        raise problems.queue_full(count, deps.settings.queue_requests_max)


def checked(deps: IngestDeps, body: bytes, peer_uid: int | None, idempotency_key: bytes | None) -> NewRequest:
    """The request in an envelope, with the key of the header if there is one. Raises ``Refusal``, or ``Problem`` when
    its queue is full."""
    request = accept(
        body,
        id=str(uuid7()),
        now=deps.clock.now(),
        defaults=deps.defaults,
        queues=deps.queues.defaults,
        peer_uid=peer_uid,
    )
    if (full := deps.queues.refusal(request.queue)) is not None:
        raise full
    return request if idempotency_key is None else _with_key(request, idempotency_key)


def answer_to(outcome: Accepted) -> tuple[int, Headers, bytes]:
    """Status, headers and body."""
    id = outcome.id.encode()
    status, duplicate = (200, b"true") if outcome.duplicate else (201, b"false")
    body = b'{"id":"%s","state":%s,"duplicate":%s}' % (id, outcome.state_json, duplicate)
    return status, (JSON, (b"location", b"/queue/requests/" + id)), body


def _refuse(deps: IngestDeps, call: Call, error: Exception) -> None:
    problem = problems.of(error)
    deps.refused(problem.code)
    if problem.status == 500:
        log.error("ingest.failed", method="POST", path=TARGET.decode(), exc_info=error)
    call.answer(problem.status, problem.headers(), problem.body())


def _with_key(request: NewRequest, given: bytes) -> NewRequest:
    """The request with the key of its header. Raises ``Refusal`` when the body names another one."""
    try:
        key = given.decode()
    except UnicodeDecodeError:
        raise Refusal("invalid_request", "the Idempotency-Key header is not UTF-8", "idempotency_key") from None
    check_key(key)
    if request.idempotency_key not in (None, key):
        raise Refusal("invalid_request", "the header names another idempotency key than the body", "idempotency_key")
    return msgspec.structs.replace(request, idempotency_key=key)
