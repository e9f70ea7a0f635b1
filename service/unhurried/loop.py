"""The one driver that repeats a step. A loop is a step function and this; it holds nothing between two steps."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from unhurried.clock import Clock, Ms

log = structlog.get_logger()

Step = Callable[[Ms], Awaitable[float]]
"""One round of a loop: read, decide, record the intent, act, record the outcome. Returns the pause in seconds."""


class TryLater(Exception):
    """What a step needs is not to be had just now (a full disk), and nothing was done. The loop waits, it lives on."""

    retry_after_s: float = 1.0


class Bell:
    """A wake-up call for a loop. A hint, never a message: it may be lost or doubled, the store is the truth."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def ring(self) -> None:
        self.event.set()


async def repeat(
    step: Step,
    *,
    clock: Clock,
    bell: Bell,
    stop: asyncio.Event,
    rest_s: float = 0.0,
    finished: Callable[[Ms], None] = lambda _: None,
) -> None:
    """Run ``step`` until ``stop`` is set, pausing for as long as it asks, or until the bell rings.

    ``rest_s``: after a step that asks for a pause, no ring is heard for so long: a thousand rings are one step.
    ``finished`` is told the moment at which each step ended (health asks for it). An exception of the step other than
    ``TryLater`` is a bug or an unusable disk: it is not caught, so that it ends the process, not a loop nobody misses.
    """
    while not stop.is_set():
        bell.event.clear()  # before the step: a ring that arrives while it runs is kept
        try:
            pause_s = await step(clock.now())
        except TryLater as busy:
            pause_s = busy.retry_after_s
            log.warning("loop.try_later", detail=str(busy), again_in_s=pause_s)
        finished(clock.now())
        if rest_s and pause_s > rest_s:
            await clock.wait(stop, rest_s)
            pause_s -= rest_s
        if not stop.is_set():  # whoever sets ``stop`` rings the bell afterwards
            await clock.wait(bell.event, pause_s)
