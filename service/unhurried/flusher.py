"""The flusher: groups what waits into batches, by model and deadline. Its one effect is a formed batch in the store.

A large batch is formed in small commits, so that accepting goes on beside it. Killed half way, it is found as it is at
the next start and completed with what it has: its members lose nothing by it.
"""

from collections.abc import Callable

import structlog

from unhurried.clock import Clock, Ms, seconds_between
from unhurried.domain import grouping
from unhurried.domain.batch import BatchId, new_nonce
from unhurried.domain.grouping import PAUSE_MAX_S, Group, Limits, Order
from unhurried.failpoints import failpoint
from unhurried.loop import Bell
from unhurried.store.contract import FlusherStore

log = structlog.get_logger()

AHEAD_MAX = 2
"""Formed batches that may wait for their turn: enough that the next one is ready when an upload ends."""


class Flusher:
    def __init__(
        self,
        store: FlusherStore,
        clock: Clock,
        limits: Limits,
        chunk: int,
        submission: Bell,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        """``draining``: whether nothing shall linger any more."""
        self._store = store
        self._clock = clock
        self._limits = limits
        self._chunk = chunk
        self._submission = submission
        self._draining = draining

    async def step(self, now: Ms) -> float:
        """Form at most one batch. Returns the seconds until it is worth looking again."""
        next_wait = await self._store.wake_waiting(now)
        for batch_id in await self._store.unfinished():
            await self._complete(batch_id)
        account = await self._store.account()
        if account is not None and account.is_held(now):
            until = None if account.restored else account.paused_until
            return PAUSE_MAX_S if until is None else min(PAUSE_MAX_S, seconds_between(now, until))
        if await self._store.formed_ahead() >= AHEAD_MAX:
            return PAUSE_MAX_S  # the submission rings when it takes one
        groups, history = await self._groups(), await self._store.turnarounds()
        plan = grouping.plan(groups, self._limits, history, now, flush=self._draining())
        if plan.order is not None:
            await self._form(plan.order)
            return 0.0
        if next_wait is None:
            return plan.look_again_s
        return min(plan.look_again_s, max(seconds_between(now, next_wait), 0.0))

    async def _groups(self) -> list[Group]:
        """A batch of one could not be told from one of one that is in doubt, nor made smaller: it waits for company."""
        groups = await self._store.groups()
        one_in_doubt = 1 in await self._store.sizes_in_doubt()
        return [group for group in groups if not (one_in_doubt and group.requests == 1)]

    async def _form(self, order: Order) -> None:
        batch_id = await self._store.begin_batch(order, new_nonce(), self._clock.now())
        failpoint("flusher.begun")
        added = 1
        while added:
            added = await self._store.add_members(
                batch_id,
                requests_max=order.requests_max,
                bytes_max=order.bytes_max,
                chunk=self._chunk,
                now=self._clock.now(),
            )
            failpoint("flusher.added")
        await self._complete(batch_id)

    async def _complete(self, batch_id: BatchId) -> None:
        batch = await self._store.complete_batch(batch_id, self._clock.now())
        if batch is not None:
            failpoint("flusher.formed")
            log.info(
                "batch.formed", batch=batch.id, queue=batch.queue, model=batch.model, requests=batch.requests,
                bytes=batch.body_bytes,
            )  # fmt: skip
            self._submission.ring()
