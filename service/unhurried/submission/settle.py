"""Finding out what became of a create whose answer never came, and harvesting twins that turn up late.

Everything it has seen stands in the store, so being killed costs at most one look. A stranger's result line is read
for its nonce; nothing else of it is kept.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, assert_never

import structlog

from unhurried.clock import Clock, Ms, after, seconds_between
from unhurried.domain.batch import Batch
from unhurried.domain.collecting import nonce_of
from unhurried.domain.settling import (
    CREATED_AT_SLACK_S,
    Abandon,
    Adopt,
    Doubt,
    Listing,
    ReadNonces,
    SettlePolicy,
    Sighting,
    Verdict,
    Wait,
    look_alikes,
    settle,
)
from unhurried.domain.states import BatchState
from unhurried.failpoints import failpoint
from unhurried.loop import Bell
from unhurried.store.contract import SubmissionStore
from unhurried.submission.search import Search
from unhurried.upstream import Upstream, UpstreamTrouble

log = structlog.get_logger()

IDLE_S: Final = 60.0
TROUBLE_S: Final = 5.0
LOOKS_PER_GRACE: Final = 4
RESULTS_KEPT_S: Final = 29 * 86_400.0
"""Upstream keeps results for 29 days after a batch was created; later a twin cannot be told from a stranger."""


class Settlement:
    def __init__(  # noqa: PLR0913  # what it needs is handed in, by name
        self,
        store: SubmissionStore,
        upstream: Upstream,
        clock: Clock,
        *,
        policy: SettlePolicy,
        sweep_s: float,
        submission: Bell,
        poller: Bell,
        flusher: Bell | None = None,
        settled: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``settled`` is told how a doubt ended, ``adopted`` or ``abandoned``, and of each ``late_twin`` and
        ``second_copy``."""
        self._store = store
        self._upstream = upstream
        self._clock = clock
        self._policy = policy
        self._sweep_s = sweep_s
        self._submission = submission
        self._poller = poller
        self._flusher = flusher or Bell()
        self._settled = settled
        self._search = Search(
            store, upstream, clock, policy=policy, take=self._take, released=self._released, poller=poller
        )

    async def step(self, now: Ms) -> float:
        """Look at every batch in doubt once; when there is none, sweep for late twins now and then. After a restore the
        search comes first: a doubt of the copy could be taken for what was sent after it."""
        restored = await self._store.restored()
        try:
            if restored is not None and await self._search.step(restored):
                return 0.0
            if restored is not None and restored.held:
                return self._pause_s
            doubts = await self._store.doubts()
            if not doubts and restored is None:
                return await self._sweep_when_due(now)
            await self._look(doubts)
        except UpstreamTrouble as trouble:
            log.warning("settlement.upstream_trouble", detail=trouble.detail)
            return max(trouble.retry_after_s or 0.0, min(TROUBLE_S, self._pause_s))
        return self._pause_s

    @property
    def _pause_s(self) -> float:
        return max(self._policy.grace_s / LOOKS_PER_GRACE, 0.05)

    def _released(self) -> None:
        self._flusher.ring()
        self._submission.ring()

    async def _look(self, doubts: Sequence[Doubt]) -> None:
        if not doubts:
            return
        since = after(min(doubt.window_from for doubt in doubts), -CREATED_AT_SLACK_S)
        listing = await self._upstream.list_since(since)
        failpoint("settlement.listed")
        for doubt in doubts:
            # Read anew each time: settling one doubt changes what is known for the next.
            known = await self._store.known_ids(since)
            verdict = settle(doubt, listing, known, self._policy, self._clock.now())
            await self._look_was(doubt, listing, verdict)
            failpoint("settlement.looked")
            match verdict:
                case Adopt():
                    await self._adopt(doubt.batch, verdict.sighting, proved=False)
                case ReadNonces():
                    await self._read_nonces(verdict.sightings)
                case Wait():
                    pass
                case Abandon():
                    await self._store.abandon(doubt.batch.id, verdict.reason, self._clock.now())
                    failpoint("settlement.abandoned")
                    self._settled("abandoned")
                    log.warning("batch.abandoned", batch=doubt.batch.id, reason=verdict.reason)
                    self._submission.ring()
                case _:
                    assert_never(verdict)

    async def _look_was(self, doubt: Doubt, listing: Listing, verdict: Verdict) -> None:
        """Write down what this look has shown, if it is news. Nothing made much after the first look can be ours."""
        absent = isinstance(verdict, Wait) and verdict.absent
        if doubt.window_to is None or absent != (doubt.absent_at is not None):
            window_to = after(listing.date, self._policy.absent_s)
            now = self._clock.now()
            await self._store.record_look(doubt.batch.id, listing.date, absent=absent, window_to=window_to, now=now)

    async def _adopt(self, batch: Batch, sighting: Sighting, *, proved: bool) -> None:
        await self._store.adopt(batch.id, sighting, proved=proved, now=self._clock.now())
        failpoint("settlement.adopted")
        self._settled("adopted")
        log.info("batch.adopted", batch=batch.id, upstream=sighting.id, proved=proved)
        self._poller.ring()
        self._submission.ring()

    async def _read_nonces(self, sightings: Sequence[Sighting]) -> None:
        """One that cannot be read now must not hold up the others: the next look tries it again."""
        for sighting in sightings:
            try:
                await self._read_nonce(sighting)
            except UpstreamTrouble as trouble:
                if not trouble.reachable:
                    raise
                log.warning("settlement.upstream_trouble", upstream=sighting.id, detail=trouble.detail)

    async def _read_nonce(self, sighting: Sighting) -> None:
        """Ended, so its first result line tells whose it is: one in doubt, one given up, or a stranger's."""
        line = await self._upstream.first_line(sighting.id)
        nonce = nonce_of(line) if line is not None else None
        if nonce is None:
            log.warning("settlement.first_line_unreadable", upstream=sighting.id)
            return  # the next look tries again; the other batches must not wait for it
        failpoint("settlement.nonce_read")
        owner = await self._store.batch_by_nonce(nonce)
        if owner is not None:
            await self._take(owner, sighting)
        elif await self._store.restored() is not None:
            await self._search.read(sighting)  # it may be ours under a nonce that the copy does not know
        else:
            await self._store.note_stranger(sighting.id, "its results show no nonce of ours", self._clock.now())
            failpoint("settlement.stranger")

    async def _take(self, owner: Batch, sighting: Sighting) -> bool:
        """Upstream's batch shows the nonce of this one of ours. False when that is left to a later look."""
        now = self._clock.now()
        if owner.state is BatchState.UNKNOWN:
            await self._adopt(owner, sighting, proved=True)
        elif owner.state is BatchState.ABANDONED:
            await self._store.harvest_twin(owner.id, sighting, now)
            failpoint("settlement.harvested")
            self._settled("late_twin")
            log.warning("batch.late_twin", batch=owner.id, upstream=sighting.id, requests=sighting.total)
            self._poller.ring()
        elif owner.upstream_id is not None and not owner.proved:  # it had adopted another's
            await self._store.disown(owner.id, f"it is {sighting.id}", stranger=False, now=now)
            failpoint("settlement.disowned")
            await self._adopt(owner, sighting, proved=True)
        elif owner.upstream_id is not None and owner.upstream_id != sighting.id:
            await self._store.note_stranger(sighting.id, f"a second copy of {owner.id}, paid in vain", now)
            failpoint("settlement.stranger")
            self._settled("second_copy")
            log.error("batch.second_copy", batch=owner.id, upstream=sighting.id, requests=sighting.total)
        else:
            return False  # its create is being answered just now: the answer, or the next look, settles it
        return True

    async def _sweep_when_due(self, now: Ms) -> float:
        account = await self._store.account()
        if account is None:
            return IDLE_S
        if account.swept_at is not None and seconds_between(account.swept_at, now) < self._sweep_s:
            return min(IDLE_S, self._sweep_s)
        given_up = await self._store.given_up(after(now, -RESULTS_KEPT_S))
        if given_up:
            await self._sweep(given_up)
        failpoint("settlement.swept")
        await self._store.record_sweep(self._clock.now())
        return 0.0

    async def _sweep(self, given_up: Sequence[Doubt]) -> None:
        """Look-alikes of batches that were given up: whatever has ended among them tells whose it is."""
        since = after(min(doubt.window_from for doubt in given_up), -CREATED_AT_SLACK_S)
        listing = await self._upstream.list_since(since)
        for doubt in given_up:
            known = await self._store.known_ids(since)
            # However late it was made: being late is what makes it a twin.
            twins = look_alikes(dataclasses.replace(doubt, window_to=None), listing, known)
            await self._read_nonces([twin for twin in twins if twin.results_readable and twin.id not in known.held])
