"""The simulator behind the real wire, without a socket and on a clock that is moved by hand.

The SDK and httpx2 run as in the daemon; below them a transport hands each request to the simulator's own ``App``.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast
from urllib.parse import parse_qsl

import httpx2
from pydantic import SecretStr

from unhurried.clock import Ms, after
from unhurried.settings import UpstreamSettings
from unhurried.simulator.app import App
from unhurried.simulator.batch import RESULTS_LIFETIME_S, Batch
from unhurried.simulator.clock import SimulatedClock
from unhurried.simulator.outcomes import ResultType
from unhurried.simulator.settings import Settings
from unhurried.simulator.wire import Disconnected, Exchange, Framing
from unhurried.simulator.world import World
from unhurried.upstream import Upstream
from unhurried.upstream.wire import Wire

TURNAROUND_S = 100.0


class HandTime(SimulatedClock):
    """Simulated time that stands still but for ``advance``."""

    def __init__(self, start: Ms) -> None:
        super().__init__(speed=0)
        self._start_s = start / 1000

    def now(self) -> float:
        return self._start_s + self._advanced_s


@dataclass(eq=False)
class _Call(Exchange):
    """An exchange whose bytes come from, and go to, an httpx2 request and its answer."""

    body: AsyncIterator[bytes] = field(kw_only=True)  # type: ignore[assignment]  # in place of the reader of that name
    error: Exception | None = None
    """What the body itself raised: our store's trouble, which upstream sees as a client that has gone."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    was_cut: bool = False
    framing: Framing = "length"

    async def read(self) -> bytes | None:
        try:
            piece = await anext(self.body)
        except StopAsyncIteration:
            self.complete = True
            return None
        except Exception as error:
            self.error = error
            raise Disconnected from error
        self.received_bytes += len(piece)
        return piece

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        await self.start(status, headers, "length")
        self.parts.append(body)
        await self.finish()

    async def start(self, status: int, headers: Mapping[str, str], framing: Framing = "chunked") -> None:
        self.status, self.framing = status, framing
        self.answer_headers.update(headers)

    async def send(self, data: bytes) -> None:
        self.parts.append(data)

    async def finish(self) -> None:
        self.answered = True

    def cut(self, *, reset: bool = False) -> None:
        self.was_cut = True


class _Answer(httpx2.AsyncByteStream):
    def __init__(self, call: _Call) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._call.parts:
            yield part
        if self._call.was_cut and self._call.framing != "close":
            raise httpx2.RemoteProtocolError("the connection was cut")


class _Transport(httpx2.AsyncBaseTransport):
    """Leads to whatever simulator stands there at the moment."""

    app: App

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        call = _Call(
            method=request.method,
            path=request.url.path,
            query=dict(parse_qsl(request.url.query.decode(), keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            connection=cast(Any, None),  # every method that would use it is ours
            keep_alive=True,
            body=aiter(cast(httpx2.AsyncByteStream, request.stream)),
        )
        await self.app.handle(call)
        if call.error is not None:
            raise call.error
        if call.status is None:
            raise httpx2.ReadError("the connection was cut before an answer")
        return httpx2.Response(call.status, headers=call.answer_headers, stream=_Answer(call))


_transport = _Transport()
_made: list[Upstream] = []


def upstream() -> Upstream:
    """The real one. Making it reads certificates, so there is one for all; it holds nothing between two calls."""
    if not _made:
        key = SecretStr("sk-test")
        settings = UpstreamSettings(base_url="http://simulator.test", simulator=True, api_key=key)
        wire = Wire(settings, on_answer=lambda *_: None)
        for client in (wire._reads, wire._creates):
            client._client._transport = _transport
            client._client._mounts.clear()  # no proxy of the surroundings
        _made.append(Upstream(wire))
    return _made[0]


class OtherSide:
    """The simulator, and what its ledger says about requests of ours."""

    def __init__(self, now: Ms, seed: int) -> None:
        self.world = World(Settings(seed=seed, speed=0, turnaround_s=TURNAROUND_S, answer_tokens=(5, 9)))
        self.time = self.world.clock = HandTime(now)
        _transport.app = self.app = App(self.world)
        self.deleted: set[str] = set()
        """Batches that somebody has deleted or will."""

    def now(self) -> Ms:
        return after(Ms(0), self.time.now())

    def fault(self, name: str, given: Mapping[str, Any]) -> None:
        self.world.faults.put(name, given)

    def stranger(self, size: int) -> None:
        self.world.add_stranger([f"stranger_{n:06d}" for n in range(size)], "claude-haiku-4-5")

    def batches(self) -> list[Batch]:
        """Those that our creates have made, in any state."""
        return self.world.ledger.batches()

    def is_gone(self, batch: Batch) -> bool:
        """Whether upstream may rightly say that it does not have it, or its results, any more."""
        return batch.deleted_at is not None or self.time.now() >= batch.created_at + RESULTS_LIFETIME_S

    def paid_for(self) -> dict[str, list[Batch]]:
        """Request id → the batches in which it has been, or will be, answered at our cost."""
        found: dict[str, list[Batch]] = {}
        for batch in self.batches():
            for item in batch.items:
                if batch.outcome(item).type is ResultType.SUCCEEDED:
                    found.setdefault(item.custom_id.partition("-")[2], []).append(batch)
        return found

    def said(self, request_id: str) -> set[str]:
        """The kinds of outcome that upstream has for a request, over all batches."""
        return {
            str(batch.outcome(item).type)
            for batch in self.batches()
            for item in batch.items
            if item.custom_id.partition("-")[2] == request_id
        }


def digest(params: Mapping[str, Any]) -> bytes:
    """Of params as ``tests.store.support.new`` writes them."""
    return sha256(json.dumps(dict(params)).encode()).digest()
