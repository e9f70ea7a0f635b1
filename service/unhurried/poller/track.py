"""Asking upstream about everything that is open. Reading is safe to repeat, so a kill costs nothing but the look."""

from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from unhurried.clock import Clock, Ms, after, seconds_between
from unhurried.domain.collecting import nonce_of
from unhurried.domain.polling import RETRIEVE_MAX, PollPolicy, is_gone, pause_s
from unhurried.domain.settling import CREATED_AT_SLACK_S, Sighting
from unhurried.domain.states import BatchState
from unhurried.failpoints import failpoint
from unhurried.loop import Bell
from unhurried.store.contract import PollerStore, SubmissionStore
from unhurried.store.records import OpenBatch
from unhurried.upstream import ResultsNotFound, Upstream, UpstreamTrouble

log = structlog.get_logger()

TOO_MANY_REQUESTS: Final = 429


class TrackerStore(PollerStore, SubmissionStore, Protocol):
    """The tracker also proves adopted batches, and so settles what the submission could not."""


class Tracker:
    def __init__(
        self,
        store: TrackerStore,
        upstream: Upstream,
        clock: Clock,
        *,
        policy: PollPolicy,
        not_found_grace_s: float,
        collector: Bell,
        submission: Bell,
        settlement: Bell,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._clock = clock
        self._policy = policy
        self._not_found_grace_s = not_found_grace_s
        self._collector = collector
        self._submission = submission
        self._settlement = settlement

    async def step(self, now: Ms) -> float:
        """Look at every open batch once. Returns the pause, led by the youngest of them."""
        found_open = await self._store.open_batches()
        running = [found for found in found_open if found.batch.state is not BatchState.ENDED]
        if len(running) < len(found_open):
            self._collector.ring()  # a late twin is found ended: nobody else tells of it
        if not running:
            return self._policy.interval_max_s
        try:
            await self._look(running, now)
        except UpstreamTrouble as trouble:
            log.warning("poller.upstream_trouble", detail=trouble.detail, status=trouble.status)
            return max(trouble.retry_after_s or 0.0, self._policy.interval_max_s)
        ages = [seconds_between(found.batch.submit_started_at or now, now) for found in running]
        return pause_s(ages, self._policy)

    async def _look(self, running: Sequence[OpenBatch], now: Ms) -> None:
        """A few are retrieved one by one, many are seen in one listing; what it does not show is retrieved in turns."""
        if len(running) <= RETRIEVE_MAX:
            for found in running:
                await self._look_at(found, None)
            return
        oldest = min(found.batch.upstream_created_at or found.batch.created_at for found in running)
        listing = await self._upstream.list_since(after(oldest, -CREATED_AT_SLACK_S))
        by_id = {sighting.id: sighting for sighting in listing.sightings}
        missing = []
        for found in running:
            sighting = by_id.get(found.batch.upstream_id) if found.batch.upstream_id else None
            if sighting is None:
                missing.append(found)
            else:
                await self._look_at(found, sighting)
        turn = now % len(missing) if missing else 0
        for found in (missing[turn:] + missing[:turn])[:RETRIEVE_MAX]:
            await self._look_at(found, None)

    async def _look_at(self, found: OpenBatch, sighting: Sighting | None) -> None:
        """One batch. What upstream refuses to say or do about it must not hold up the others."""
        assert found.batch.upstream_id is not None
        try:
            await self._take(found, sighting or await self._upstream.retrieve(found.batch.upstream_id))
        except UpstreamTrouble as trouble:
            if trouble.status is None or trouble.status == TOO_MANY_REQUESTS:
                raise  # that is about all of them
            log.warning("poller.upstream_trouble", batch=found.batch.id, detail=trouble.detail, status=trouble.status)
            if found.not_found_at is not None and not isinstance(trouble, ResultsNotFound):
                await self._store.record_other_answer(found.batch.id)

    async def _take(self, found: OpenBatch, sighting: Sighting | None) -> None:
        failpoint("tracker.seen")
        if sighting is None:
            await self._not_found(found)
        elif sighting.ended:
            await self._ended(found, sighting)
        else:
            await self._running(found, sighting)

    async def _running(self, found: OpenBatch, sighting: Sighting) -> None:
        batch = found.batch
        news = found.expires_at is None or found.not_found_at is not None
        if news or (sighting.canceling and batch.proved and batch.state is BatchState.IN_PROGRESS):
            await self._store.record_seen(batch.id, sighting, self._clock.now())
        # An adopted batch may be a stranger's until its results prove it: never cancel on a guess.
        wanted = found.cancels >= found.members_open > 0 and batch.proved
        if wanted and batch.state is BatchState.IN_PROGRESS and not sighting.canceling:
            await self._upstream.cancel(sighting.id)
            failpoint("tracker.cancel_sent")
            await self._store.record_cancel_sent(batch.id, self._clock.now())
            log.info("batch.canceling", batch=batch.id, upstream=sighting.id)

    async def _ended(self, found: OpenBatch, sighting: Sighting) -> None:
        batch = found.batch
        if not sighting.results_readable:
            if sighting.archived:
                await self._store.record_gone(batch.id, "upstream no longer keeps its results", self._clock.now())
                failpoint("tracker.gone")
                self._submission.ring()
            return  # else: the results follow
        if not batch.proved and not await self._is_ours(found, sighting):
            return
        await self._store.record_ended(batch.id, sighting, self._clock.now())
        failpoint("tracker.ended")
        log.info("batch.ended", batch=batch.id, upstream=sighting.id, requests=sighting.total)
        self._collector.ring()
        self._submission.ring()

    async def _is_ours(self, found: OpenBatch, sighting: Sighting) -> bool:
        """Prove an adopted batch by the nonce in its first result line, or give it back."""
        batch = found.batch
        line = await self._upstream.first_line(sighting.id)
        nonce = nonce_of(line) if line is not None else None
        if nonce is None:
            log.warning("batch.first_line_unreadable", batch=batch.id, upstream=sighting.id)
            return False  # the next look tries again; the other batches must not wait for it
        now = self._clock.now()
        if nonce == batch.nonce:
            await self._store.prove(batch.id, now)
            failpoint("tracker.proved")
            return True
        owner = await self._store.batch_by_nonce(nonce)
        await self._store.disown(batch.id, "its results show another nonce", stranger=owner is None, now=now)
        failpoint("tracker.disowned")
        belongs_to = owner.id if owner else "a stranger"
        log.warning("batch.disowned", batch=batch.id, upstream=sighting.id, belongs_to=belongs_to)
        self._settlement.ring()
        return False

    async def _not_found(self, found: OpenBatch) -> None:
        """A 404 on a known id has been seen to heal within minutes. Only several in a row, over those, mean gone."""
        batch, now = found.batch, self._clock.now()
        await self._store.record_not_found(batch.id, now)
        failpoint("tracker.missed")
        if is_gone(found.not_found_at, found.not_found + 1, self._not_found_grace_s, now):
            await self._store.record_gone(batch.id, "upstream does not know it any more", now)
            failpoint("tracker.gone")
            log.error("batch.gone", batch=batch.id, upstream=batch.upstream_id)
            self._submission.ring()
