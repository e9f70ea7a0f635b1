"""After a restore: what was sent since the copy was made is found before anything is sent again.

Every batch that upstream made since then and that is not known here is read, once it has ended, until an id of ours
turns up or it is through: under whatever nonce it was sent, it names the requests that it carries. One that carries any
of ours is collected like a late twin. While one is not ended nobody knows whose it is, so everything waits. Each thing
seen is on disk before the next is looked at, so being killed costs one look.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import structlog

from unhurried.clock import Clock, after, rfc3339
from unhurried.domain.batch import Batch, custom_id, split_custom_id
from unhurried.domain.collecting import custom_id_of
from unhurried.domain.restoring import Restored, Seen, look, looks_like_ours, waits_for
from unhurried.domain.settling import CREATED_AT_SLACK_S, SettlePolicy, Sighting
from unhurried.failpoints import failpoint
from unhurried.loop import Bell
from unhurried.store.contract import SubmissionStore
from unhurried.upstream import Upstream, UpstreamTrouble

log = structlog.get_logger()

IDS_CHUNK: Final = 500
"""Ids that are looked up at once."""


class Search:
    def __init__(
        self,
        store: SubmissionStore,
        upstream: Upstream,
        clock: Clock,
        *,
        policy: SettlePolicy,
        take: Callable[[Batch, Sighting], Awaitable[bool]],
        released: Callable[[], None],
        poller: Bell,
    ) -> None:
        """``take``: what to do with a batch whose nonce is known here; ``released``: told when nothing is held back any
        more."""
        self._store = store
        self._upstream = upstream
        self._clock = clock
        self._policy = policy
        self._take = take
        self._released = released
        self._poller = poller

    async def step(self, restored: Restored) -> bool:
        """One look. Whether it has changed anything, so that another is worth it at once."""
        if not await self._store.anything_at_risk(restored.newest_request):
            await self._end("nothing that the copy knew is left to be sent")
            return True
        since = after(restored.since, -CREATED_AT_SLACK_S)
        listing = await self._upstream.list_since(since)
        failpoint("search.listed")
        if restored.first_date is None:
            log.warning("restored.searching", copy_of=rfc3339(restored.made_at), since=rfc3339(restored.since))
            await self._store.record_first_look(listing.date, self._clock.now())
            failpoint("search.begun")
        seen = look(restored, listing, await self._store.known_ids(since), self._policy, self._clock.now())
        unread = await self._read_all(seen.readable)
        collecting = await self._store.still_collecting()
        if seen.through and not collecting:
            await self._end("every batch that upstream made since is looked at")
            return True
        if len(unread) < len(seen.readable):
            return True
        await self._tell(restored, seen, unread, collecting)
        return False

    async def _end(self, why: str) -> None:
        if await self._store.end_search(why, self._clock.now()):
            failpoint("search.ended")
            log.warning("restored.over", why=why)
            self._released()

    async def _tell(self, restored: Restored, seen: Seen, unread: Sequence[Sighting], collecting: int) -> None:
        detail = waits_for(seen, unread, collecting)
        if detail != restored.detail:
            await self._store.record_wait(detail)
            log.warning("restored.waiting", detail=detail, held=restored.held)

    async def _read_all(self, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Those that could not be read now; they must not hold up the others."""
        unread = []
        for sighting in sightings:
            try:
                if not await self.read(sighting):
                    unread.append(sighting)
            except UpstreamTrouble as trouble:
                if not trouble.reachable:
                    raise
                log.warning("settlement.upstream_trouble", upstream=sighting.id, detail=trouble.detail)
                unread.append(sighting)
        return unread

    async def read(self, sighting: Sighting) -> bool:
        """Find out whose an ended batch is, and write it down. False when its results do not tell, for now."""
        line = await self._upstream.first_line(sighting.id)
        first = custom_id_of(line) if line is not None else None
        if first is None:
            log.warning("settlement.first_line_unreadable", upstream=sighting.id)
            return False
        nonce, _ = split_custom_id(first)
        failpoint("search.first_line")
        if (owner := await self._store.batch_by_nonce(nonce)) is not None:
            return await self._take(owner, sighting)
        if not looks_like_ours(first):
            await self._store.note_stranger(sighting.id, "its results show no nonce of ours", self._clock.now())
            failpoint("search.stranger")
            return True
        return await self._look_for_ours(sighting, nonce)

    async def _look_for_ours(self, sighting: Sighting, nonce: str) -> bool:
        """Read its ids until one is known here. None known is believed only when all of them were read."""
        ids: set[str] = set()
        chunk: list[str] = []
        async with aclosing(self._upstream.result_lines(sighting.id)) as groups:
            async for lines in groups:
                for found in map(custom_id_of, lines):
                    if found is not None and found not in ids:
                        ids.add(found)
                        chunk.append(found)
                if len(chunk) >= IDS_CHUNK:
                    if await self._found(sighting, nonce, chunk):
                        return True
                    chunk = []
        if await self._found(sighting, nonce, chunk):
            return True
        if len(ids) < sighting.total:
            log.warning("restored.cut_short", upstream=sighting.id, lines=len(ids), requests=sighting.total)
            return False
        unknown = sum(map(looks_like_ours, ids))
        why = "it looks like ours, and none of its requests is known here"
        await self._store.note_unknown(sighting, why, unknown, self._clock.now())
        failpoint("search.stranger")
        log.warning("restored.unknown_requests", upstream=sighting.id, requests=unknown)
        return True

    async def _found(self, sighting: Sighting, nonce: str, chunk: Sequence[str]) -> bool:
        of_it = [request_id for own, request_id in map(split_custom_id, chunk) if own == nonce]
        known = await self._store.first_known(of_it) if of_it else None
        if known is None:
            return False
        await self._store.record_found(sighting, nonce, known, self._clock.now())
        failpoint("search.found")
        log.warning("restored.found", upstream=sighting.id, requests=sighting.total, for_one=custom_id(nonce, known))
        self._poller.ring()
        return True
