"""One POST for each batch, never two.

Killed before the intent is on disk, the batch is still formed and simply submitted later. Killed after it, nobody
knows whether the POST was made or what came of it: the batch is unknown at the next start, and ``settle`` finds out.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Final, assert_never

import structlog

from unhurried.clock import Clock, Ms, rfc3339, seconds_between
from unhurried.domain.batch import Batch
from unhurried.domain.submitting import (
    Created,
    ErrorAnswer,
    No,
    NoAnswer,
    Outcome,
    PausePolicy,
    Refused,
    Unknown,
    may_submit,
    outcome_of,
    pause_until,
)
from unhurried.failpoints import failpoint
from unhurried.loop import Bell, TryLater
from unhurried.store.contract import SubmissionStore
from unhurried.store.records import Account
from unhurried.upstream import Upstream, UpstreamTrouble

log = structlog.get_logger()

BYTES_PAGE: Final = 1_048_576
RELEASE_CHUNK: Final = 1_000
IDLE_S: Final = 30.0
DOUBT_WAIT_S: Final = 1.0
CUT_SHORT_MAX: Final = 2
"""After so many in a row of one group, a body 'cut short on the way' is taken for one that upstream cannot read."""


class Submission:
    def __init__(  # noqa: PLR0913  # what it needs is handed in, by name
        self,
        store: SubmissionStore,
        upstream: Upstream,
        clock: Clock,
        *,
        pauses: PausePolicy,
        queue_limit: int,
        flusher: Bell,
        poller: Bell,
        settlement: Bell,
        workspace: Callable[[], str | None] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
        ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``workspace``: whose batches upstream makes, once it has said so; ``stopping``: begin no new create;
        ``ended`` is told how each create ended: ``created``, ``unknown``, or the kind of a refusal."""
        self._store = store
        self._upstream = upstream
        self._clock = clock
        self._pauses = pauses
        self._queue_limit = queue_limit
        self._flusher = flusher
        self._poller = poller
        self._settlement = settlement
        self._workspace = workspace
        self._stopping = stopping
        self._ended = ended

    async def step(self, now: Ms) -> float:
        """Submit at most one batch. Returns the seconds until it is worth looking again."""
        if await self._store.release_members(RELEASE_CHUNK, now):
            failpoint("submission.released")
            self._flusher.ring()
            return 0.0
        account = await self._store.account()
        if account is None or account.is_held(now):
            until = None if account is None or account.restored else account.paused_until
            return IDLE_S if until is None else min(IDLE_S, seconds_between(now, until))
        batch = await self._store.next_formed()
        if batch is None:
            return IDLE_S
        if batch.requests in await self._store.sizes_in_doubt():
            return await self._make_distinct(batch, now)
        if not may_submit(batch.requests, await self._store.waiting_upstream(), self._queue_limit):
            return IDLE_S  # the poller rings when a batch ends
        return await self._submit(batch, account)

    async def _make_distinct(self, batch: Batch, now: Ms) -> float:
        """A batch in doubt is recognised by its size: until it is settled, no other may have as many requests."""
        smaller = await self._store.drop_last_member(batch.id, now)
        failpoint("submission.distinct")
        return DOUBT_WAIT_S if smaller is None else 0.0

    async def _submit(self, batch: Batch, account: Account) -> float:
        try:
            window_from = await self._upstream.date()
        except UpstreamTrouble as trouble:
            await self._rest(_as_refusal(trouble), account)
            return 0.0
        workspace = self._workspace()
        if workspace is not None and workspace != account.workspace:
            await self._store.record_workspace(workspace)  # before anything is sent to the wrong one
        failpoint("submission.dated")
        if self._stopping():
            return IDLE_S  # an upload may outlast the grace, and would then have to be settled
        intended = await self._store.record_submission(batch.id, window_from, self._clock.now())
        if intended is None:
            return 0.0
        self._flusher.ring()
        failpoint("submission.intended")
        log.info("batch.submitting", batch=intended.id, requests=intended.requests, bytes=intended.body_bytes)
        answer = await self._upstream.create(
            anthropic_version=intended.anthropic_version,
            anthropic_beta=intended.anthropic_beta,
            content=self._store.body(intended, bytes_page=BYTES_PAGE),
            content_length=intended.body_bytes,
        )
        failpoint("submission.answered")
        await self._insist(intended, outcome_of(answer), account)
        failpoint("submission.recorded")
        return 0.0

    async def _insist(self, batch: Batch, outcome: Outcome, account: Account) -> None:
        """Record an answer, however long the disk is full: it is known now, and in doubt after a restart."""
        while True:
            try:
                await self._record(batch, outcome, account)
            except TryLater as busy:
                log.error("batch.answer_not_recorded", batch=batch.id, detail=str(busy), outcome=str(outcome))
                await self._clock.wait(asyncio.Event(), busy.retry_after_s)
            else:
                return

    async def _record(self, batch: Batch, outcome: Outcome, account: Account) -> None:
        now = self._clock.now()
        match outcome:
            case Created():
                await self._store.record_created(batch.id, outcome.upstream_id, outcome.created_at, now)
                self._ended("created")
                log.info("batch.submitted", batch=batch.id, upstream=outcome.upstream_id, requests=batch.requests)
                self._poller.ring()
            case Refused():
                if outcome.kind is No.CUT_SHORT and batch.cut_short >= CUT_SHORT_MAX:
                    outcome = dataclasses.replace(outcome, kind=No.UNEXPLAINED)
                until = pause_until(outcome, account.refusals, self._pauses, now)
                await self._store.record_refused(batch.id, outcome, until, now)
                self._ended(outcome.kind.value)
                log.warning("batch.refused", batch=batch.id, kind=outcome.kind.value, detail=outcome.detail)
            case Unknown():
                await self._store.record_unknown(batch.id, outcome.detail, now)
                self._ended("unknown")
                log.warning("batch.unknown", batch=batch.id, requests=batch.requests, detail=outcome.detail)
                self._settlement.ring()
            case _:
                assert_never(outcome)

    async def _rest(self, refused: Refused, account: Account) -> None:
        """Upstream could not even be asked for the time: nothing was sent, and nothing is for a while."""
        now = self._clock.now()
        until = pause_until(refused, account.refusals, self._pauses, now)
        await self._store.pause_account(refused.detail, until, "submission", now)
        log.warning("account.paused", detail=refused.detail, until=rfc3339(until) if until is not None else None)


def _as_refusal(trouble: UpstreamTrouble) -> Refused:
    """What a failed read says about creates, put into the words of a refused create."""
    if trouble.status is None:
        outcome = outcome_of(NoAnswer(sent=False, detail=trouble.detail))
    else:
        outcome = outcome_of(
            ErrorAnswer(status=trouble.status, message=trouble.detail, retry_after_s=trouble.retry_after_s)
        )
    if isinstance(outcome, Refused) and outcome.kind in (No.ACCOUNT, No.UNREACHABLE):
        return dataclasses.replace(outcome, detail=f"{trouble.status or ''} {trouble.detail}".strip())
    return Refused(kind=No.UNREACHABLE, detail=trouble.detail)
