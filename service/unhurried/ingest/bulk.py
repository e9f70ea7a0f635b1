"""Many requests in one call: one JSON envelope a line, stored in chunks while the rest still comes in.

The answers follow when the body has ended, because a client that only writes must not block a server that only writes.
Until then they are spooled, so that memory stays bounded whatever the number of lines. One chunk is read and checked
while the one before is stored, and not more, so that a fast client is held back by the socket.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final

import msgspec
from uuid_utils import uuid7

from unhurried.domain.request import Accepted, KeyConflict, NewRequest, Refusal, accept
from unhurried.failpoints import failpoint
from unhurried.ingest import asgi, problems
from unhurried.ingest.asgi import NDJSON, ClientGone, Message, Receive, Scope, Send
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.lines import Line, Lines, TooLong
from unhurried.ingest.problems import Problem
from unhurried.store.errors import StoreBusy, StoreFull

CHUNK_LINES: Final = 250
CHUNK_BYTES: Final = 1_000_000
BREATHER_BYTES: Final = 128_000
"""After checking that much, others have their turn."""
LARGE_LINE: Final = 1_000_000
"""From this size on a line is checked in a thread, so that the loop can turn between the parts of the check."""
LINGER_S: Final = 0.2
"""A chunk that is not full is stored all the same when nothing more comes for so long."""
SPOOL_MEMORY_BYTES: Final = 1_000_000
ANSWER_PIECE_BYTES: Final = 262_144
BUSY_PAUSE_MAX_S: Final = 0.25
REFUSED_MAX: Final = 10_000
"""With more refused lines an upload is stopped: each costs a hundred bytes of answer for every two it may have."""


@dataclass
class Tally:
    """What has become of the lines so far. ``lines``: the number of the last line that was dealt with."""

    lines: int = 0
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0

    def summary(self) -> dict[str, int]:
        return {"accepted": self.accepted, "duplicates": self.duplicates, "refused": self.refused}

    def status(self) -> int:
        if not self.refused:
            return 200
        return 207 if self.accepted or self.duplicates else 422


Checked = NewRequest | Problem


class Bulk:
    """The route. ``memory`` bounds what unfinished long lines may hold, over all connections."""

    def __init__(self, deps: IngestDeps, memory: asgi.Memory) -> None:
        self._deps = deps
        self._memory = memory

    async def take(self, scope: Scope, receive: Receive, send: Send) -> None:
        if asgi.header(scope, b"idempotency-key") is not None:
            detail = "the Idempotency-Key header stands for one request; give each line its idempotency_key"
            raise Problem("invalid_request", detail, field="idempotency_key")
        directory = self._deps.spool_dir
        with tempfile.SpooledTemporaryFile(SPOOL_MEMORY_BYTES, dir=directory) as spool:
            upload = Upload(self._deps, scope, self._memory, spool)
            try:
                await upload.run(receive)
            finally:
                upload.close()
            failpoint("bulk.whole")
            await _answer(scope, send, upload.tally, spool)


class Upload:
    """One call under way."""

    def __init__(self, deps: IngestDeps, scope: Scope, memory: asgi.Memory, spool: IO[bytes]) -> None:
        self.tally = Tally()
        self._deps = deps
        self._scope = scope
        self._uid = asgi.peer_uid(scope)
        self._memory = memory
        self._held = 0
        self._spool = spool
        self._lines = Lines(deps.settings.request_bytes_max + asgi.ENVELOPE_ROOM)
        self._chunk: list[Line] = []
        self._read = 0  # number of the last line that went into a chunk; `tally.lines` follows when that is stored
        self._chunk_bytes = 0
        self._storing: asyncio.Task[None] | None = None
        self._receiving: asyncio.Task[Message] | None = None
        self._stopping = asyncio.create_task(deps.stop.wait(), name="ingest.bulk_stop")

    async def run(self, receive: Receive) -> None:
        """Store the whole body. Raises ``ClientGone`` when it is cut short: what was stored by then stays."""
        more = True
        while more:
            message = await self._next(receive)
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            self._scope[asgi.BODY_READ] = not more
            await self._add(self._lines.feed(message.get("body", b"")))
            self._account_for_held_bytes()
        await self._add(self._lines.end())
        await self._flush()
        await self._stored()

    def close(self) -> None:
        """However it ended."""
        self._memory.give(self._held)
        self._stopping.cancel()
        for task in (self._receiving, self._storing):
            if task is not None:
                task.cancel()  # what is with the writer already will be stored

    async def _next(self, receive: Receive) -> Message:
        """The next message of the body. A chunk is not kept waiting for it, nor is the end of the server."""
        if self._receiving is None:
            self._receiving = asyncio.create_task(receive(), name="ingest.bulk_receive")
        while True:
            await asyncio.wait(
                {self._receiving, self._stopping},
                timeout=LINGER_S if self._chunk else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._receiving.done():
                message = self._receiving.result()
                self._receiving = None
                return message
            await self._flush()
            if self._stopping.done():
                await self._stored()
                raise self._with_tally(problems.draining())

    async def _add(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._chunk.append(line)
            self._chunk_bytes += len(line) if isinstance(line, bytes) else 0
            if len(self._chunk) >= CHUNK_LINES or self._chunk_bytes >= CHUNK_BYTES:
                await self._flush()

    def _account_for_held_bytes(self) -> None:
        held = self._lines.held
        try:
            self._memory.give(self._held)
            self._held = 0
            self._memory.take(held)
            self._held = held
        except Problem as problem:
            raise self._with_tally(problem) from None

    async def _flush(self) -> None:
        """Check the chunk and begin to store it. Raises ``Problem`` when nothing more can be taken."""
        if not self._chunk:
            return
        lines, self._chunk, self._chunk_bytes = self._chunk, [], 0
        checked: list[tuple[int, Checked]] = []
        number, unbroken = self._read, 0
        for line in lines:
            number += 1
            if (outcome := await self._check(line)) is not None:
                checked.append((number, outcome))
            unbroken += len(line) if isinstance(line, bytes) else 0
            if unbroken > BREATHER_BYTES:
                await asyncio.sleep(0)
                unbroken = 0
        await self._stored()
        self._read = number
        self._storing = asyncio.create_task(self._store(checked, number), name="ingest.bulk_store")
        await asyncio.sleep(0)  # a body of empty lines, or of bad ones, would never let go

    async def _stored(self) -> None:
        """The chunk before is stored. Raises ``Problem`` when it could not be, and nothing more can be taken."""
        if self._storing is not None:
            await self._storing
            self._storing = None

    async def _check(self, line: Line) -> Checked | None:
        """None for an empty line."""
        if isinstance(line, TooLong):
            return problems.too_large(self._deps.settings.request_bytes_max + asgi.ENVELOPE_ROOM)
        if not line or line.isspace():
            return None
        try:
            return self._accept(line) if len(line) < LARGE_LINE else await asyncio.to_thread(self._accept, line)
        except Refusal as refusal:
            return problems.from_refusal(refusal)

    def _accept(self, line: bytes) -> NewRequest:
        deps = self._deps
        return accept(
            line,
            id=str(uuid7()),
            now=deps.clock.now(),
            defaults=deps.defaults,
            queues=deps.queues.defaults,
            peer_uid=self._uid,
        )

    def _refuse_new_work(self, count: int) -> None:
        if self._deps.draining():
            raise self._with_tally(problems.draining())
        limit = self._deps.settings.queue_requests_max
        if (already := self._deps.open_requests()) + count > limit:
            raise self._with_tally(problems.queue_full(already, limit))

    async def _store(self, checked: Sequence[tuple[int, Checked]], last_line: int) -> None:
        if (fitting := self._fitting(checked)) is not None:
            before, full = fitting
            await self._store_all(checked[:before], checked[before][0] - 1)
            raise self._with_tally(full)
        await self._store_all(checked, last_line)

    def _fitting(self, checked: Sequence[tuple[int, Checked]]) -> tuple[int, Problem] | None:
        """None when every request finds room in its queue; else the place of the first that does not, and why."""
        if not self._deps.queues.limited:
            return None
        places = [place for place, (_, one) in enumerate(checked) if not isinstance(one, Problem)]
        fit, full = self._deps.queues.room(one.queue for _, one in checked if not isinstance(one, Problem))
        return None if full is None else (places[fit], full)

    async def _store_all(self, checked: Sequence[tuple[int, Checked]], last_line: int) -> None:
        requests = [one for _, one in checked if not isinstance(one, Problem)]
        try:
            outcomes = iter(await self._accepted(requests) if requests else ())
            failpoint("bulk.stored")
            answers = []
            for line, one in checked:
                if isinstance(one, Problem):
                    self._deps.refused(one.code)
                outcome = one if isinstance(one, Problem) else next(outcomes)
                if isinstance(outcome, KeyConflict):
                    outcome = problems.from_conflict(outcome)
                answers.append(self._count(line, outcome))
            self.tally.lines = last_line
            self._write(b"".join(answers))
        except StoreFull as full:
            raise self._with_tally(problems.from_full(full)) from None
        if requests:
            self._deps.bells.flusher.ring()
        if self.tally.refused > REFUSED_MAX:
            detail = f"{self.tally.refused:,} lines were refused; what follows line {last_line:,} was not looked at"
            raise self._with_tally(Problem("invalid_request", detail))

    def _write(self, answers: bytes) -> None:
        try:
            self._spool.write(answers)
        except OSError as error:
            raise StoreFull(f"no space for the answers: {error}") from error

    async def _accepted(self, requests: Sequence[NewRequest]) -> Sequence[Accepted | KeyConflict]:
        """Store them, however long the writer is busy. Raises ``Problem`` or ``StoreFull``."""
        self._refuse_new_work(len(requests))
        while True:
            try:
                return await self._deps.store.accept(requests)
            except StoreBusy as busy:
                if self._deps.stop.is_set():
                    raise self._with_tally(problems.draining()) from None
                await self._deps.clock.wait(self._deps.stop, min(busy.retry_after_s, BUSY_PAUSE_MAX_S))

    def _count(self, line: int, outcome: Accepted | Problem) -> bytes:
        """The answer to a line, as it is counted."""
        if isinstance(outcome, Problem):
            self.tally.refused += 1
            return msgspec.json.encode({"line": line, "error": outcome.members()}) + b"\n"
        if outcome.duplicate:
            self.tally.duplicates += 1
        else:
            self.tally.accepted += 1
        duplicate = b"true" if outcome.duplicate else b"false"
        return b'{"line":%d,"id":"%s","state":%s,"duplicate":%s}\n' % (
            line, outcome.id.encode(), outcome.state_json, duplicate,
        )  # fmt: skip

    def _with_tally(self, problem: Problem) -> Problem:
        """So that the client knows behind which line to go on."""
        problem.extra |= {"lines_committed": self.tally.lines, "summary": self.tally.summary()}
        return problem


async def _answer(scope: Scope, send: Send, tally: Tally, spool: IO[bytes]) -> None:
    last = msgspec.json.encode({"summary": tally.summary()}) + b"\n"
    length = spool.tell() + len(last)
    headers = [NDJSON, (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": tally.status(), "headers": headers})
    spool.seek(0)
    while piece := spool.read(ANSWER_PIECE_BYTES):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)  # a caller that reads as fast as we write, or that has gone, would never let go
        if asgi.closing(scope):
            raise ClientGone
    await send({"type": "http.response.body", "body": last})
