"""Reading results and storing them.

The stream has no place to resume from, so a broken one is read again from the start, and what is stored is skipped:
a kill at any line costs a second reading and nothing else. A member without a line is errored only when upstream's own
count says that there is nothing more to come.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Final

import structlog

from unhurried.clock import Clock, Ms, after, seconds_between
from unhurried.domain.collecting import BadLine
from unhurried.domain.polling import PollPolicy, is_gone, retry_pause_s
from unhurried.domain.states import BatchState
from unhurried.failpoints import failpoint
from unhurried.loop import Bell
from unhurried.store.contract import PollerStore
from unhurried.store.records import OpenBatch, StoredResults
from unhurried.upstream import ResultsNotFound, Upstream, UpstreamTrouble

log = structlog.get_logger()

IDLE_S: Final = 30.0
CHUNK_BYTES_MAX: Final = 4_000_000
WINDOW_BYTES: Final = 8_000_000
WINDOW_S: Final = 1.0
"""So much, or for so long, is gathered and sorted before it is stored."""


class Collector:
    def __init__(  # noqa: PLR0913  # what it needs is handed in, by name
        self,
        store: PollerStore,
        upstream: Upstream,
        clock: Clock,
        *,
        policy: PollPolicy,
        chunk: int,
        not_found_grace_s: float,
        dispatcher: Bell,
        flusher: Bell,
        submission: Bell,
        stored: Callable[[str, StoredResults], None] = lambda *_: None,
    ) -> None:
        """``stored`` is told of each chunk of results: the model of its batch, and what it changed."""
        self._store = store
        self._upstream = upstream
        self._clock = clock
        self._policy = policy
        self._chunk = chunk
        self._not_found_grace_s = not_found_grace_s
        self._dispatcher = dispatcher
        self._flusher = flusher
        self._submission = submission
        self._stored = stored

    async def step(self, now: Ms) -> float:
        """Read the results of at most one batch, the smallest that is due: it is back soonest."""
        ended = [found for found in await self._store.open_batches() if found.batch.state is BatchState.ENDED]
        due = [found for found in ended if found.next_try_at <= now]
        if due:
            await self._store.require_room_for_results()
            await self._collect(min(due, key=lambda found: found.members_open))
            return 0.0
        return min([IDLE_S, *(seconds_between(now, found.next_try_at) for found in ended)])

    async def _collect(self, found: OpenBatch) -> None:
        batch = found.batch
        try:
            accounted = await self._read(found)
        except ResultsNotFound as trouble:
            await self._not_found(found, trouble)
        except (UpstreamTrouble, BadLine) as trouble:
            if found.not_found_at is not None:
                await self._store.record_other_answer(batch.id)
            await self._again(found, str(trouble), getattr(trouble, "retry_after_s", None))
        else:
            expected = found.expected_lines or batch.requests
            if accounted < expected:
                await self._again(found, f"the results ended after {accounted} of {expected} lines", None)
                return
            failpoint("collector.read")
            while not await self._store.finish_collecting(batch.id, self._chunk, self._clock.now()):
                pass
            failpoint("collector.finished")
            log.info("batch.collected", batch=batch.id, upstream=batch.upstream_id, requests=batch.requests)
            self._dispatcher.ring()
            self._flusher.ring()

    async def _read(self, found: OpenBatch) -> int:
        """Store every line. Returns how many custom_ids are accounted for: of members, now or before, or foreign."""
        batch = found.batch
        assert batch.upstream_id is not None
        members, foreign = found.accounted, set[str]()
        async with aclosing(self._upstream.result_lines(batch.upstream_id)) as pages:
            async for chunk in self._chunks(pages):
                stored = await self._store.store_results(batch.id, chunk, self._clock.now())
                failpoint("collector.stored")
                self._stored(batch.model, stored)
                members += stored.accounted
                foreign |= stored.foreign
                if stored.finished:
                    self._dispatcher.ring()
                if stored.again:
                    self._flusher.ring()
        if foreign and batch.found:
            await self._store.record_unknown_requests(batch.id, len(foreign), self._clock.now())
            log.warning("restored.unknown_requests", batch=batch.id, requests=len(foreign))
        elif foreign:
            log.error("batch.foreign_lines", batch=batch.id, lines=len(foreign))
        return members + len(foreign)

    async def _chunks(self, pages: AsyncIterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
        """Lines in commits of bounded length and size, whatever the network hands over at once.

        Upstream's order is any; the rows of the requests lie in the order of their ids. Lines are therefore sorted in
        windows (a line begins with its custom_id): 250 of 100,000 lines in no order touch 480 pages, each of them
        written twice, sorted 200. What arrived before the stream broke is handed out before that is told.
        """
        window: list[bytes] = []
        size, since = 0, self._clock.now()
        trouble: UpstreamTrouble | None = None
        try:
            async for page in pages:
                window += page
                size += sum(map(len, page))
                if size >= WINDOW_BYTES or seconds_between(since, self._clock.now()) >= WINDOW_S:
                    for chunk in _cut(window, self._chunk):
                        yield chunk
                    window, size, since = [], 0, self._clock.now()
        except UpstreamTrouble as error:
            trouble = error
        for chunk in _cut(window, self._chunk):
            yield chunk
        if trouble is not None:
            raise trouble

    async def _not_found(self, found: OpenBatch, trouble: ResultsNotFound) -> None:
        """Results can be missing for minutes after the end. They are gone when the batch itself says so."""
        batch, now = found.batch, self._clock.now()
        await self._store.record_not_found(batch.id, now)
        failpoint("tracker.missed")
        if is_gone(found.not_found_at, found.not_found + 1, self._not_found_grace_s, now):
            assert batch.upstream_id is not None
            sighting = await self._upstream.retrieve(batch.upstream_id)
            if sighting is None or sighting.archived:
                await self._store.record_gone(batch.id, "upstream has no results for it any more", now)
                failpoint("tracker.gone")
                log.error("batch.gone", batch=batch.id, upstream=batch.upstream_id)
                self._submission.ring()
                return
        await self._again(found, str(trouble), trouble.retry_after_s)

    async def _again(self, found: OpenBatch, detail: str, retry_after_s: float | None) -> None:
        now = self._clock.now()
        pause_s = retry_after_s or retry_pause_s(found.failures, self._policy)
        await self._store.record_read_failure(found.batch.id, detail, after(now, pause_s), now)
        failpoint("collector.failed")
        log.warning("batch.read_failed", batch=found.batch.id, detail=detail, again_in_s=round(pause_s, 3))


def _cut(window: list[bytes], lines_max: int) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for line in sorted(window):
        chunk.append(line)
        size += len(line)
        if len(chunk) >= lines_max or size >= CHUNK_BYTES_MAX:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
