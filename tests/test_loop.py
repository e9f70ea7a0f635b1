"""The one driver that repeats a step."""

import asyncio

import pytest

from unhurried.clock import Ms
from unhurried.loop import Bell, TryLater, repeat


class WaitingClock:
    """Its moment is the number of steps so far; what it is asked to wait for is written down."""

    def __init__(self, stop: asyncio.Event, rounds: int) -> None:
        self.stop = stop
        self.left = rounds
        self.waits: list[float] = []
        self.rung: list[bool] = []

    def now(self) -> Ms:
        return Ms(len(self.waits))

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        self.waits.append(seconds)
        self.rung.append(wake.is_set())
        self.left -= 1
        if not self.left:
            self.stop.set()


async def test_a_step_is_repeated_with_the_pause_it_asks_for() -> None:
    stop, bell = asyncio.Event(), Bell()
    clock = WaitingClock(stop, 3)
    moments: list[Ms] = []
    finished: list[Ms] = []

    async def step(now: Ms) -> float:
        moments.append(now)
        return float(now) + 1

    await repeat(step, clock=clock, bell=bell, stop=stop, finished=finished.append)
    assert moments == finished == [0, 1, 2]
    assert clock.waits == [1, 2, 3]


async def test_a_ring_during_the_step_is_kept() -> None:
    stop, bell = asyncio.Event(), Bell()
    clock = WaitingClock(stop, 2)

    async def step(now: Ms) -> float:
        if now == 0:
            bell.ring()
        return 5

    bell.ring()
    await repeat(step, clock=clock, bell=bell, stop=stop)
    assert clock.rung == [True, False]


async def test_a_loop_waits_for_what_it_cannot_have_now() -> None:
    """A full disk ends no loop; nothing was done, and it is tried again."""
    stop, bell = asyncio.Event(), Bell()
    clock = WaitingClock(stop, 2)

    class Full(TryLater):
        retry_after_s = 30.0

    async def step(now: Ms) -> float:
        if now == 0:
            raise Full("no space")
        return 1

    await repeat(step, clock=clock, bell=bell, stop=stop)
    assert clock.waits == [30, 1]


async def test_a_bug_ends_the_loop() -> None:
    stop, bell = asyncio.Event(), Bell()

    async def step(now: Ms) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await repeat(step, clock=WaitingClock(stop, 1), bell=bell, stop=stop)


async def test_a_stop_is_heard_after_the_step_that_runs() -> None:
    stop, bell = asyncio.Event(), Bell()
    clock = WaitingClock(stop, 99)
    steps = 0

    async def step(now: Ms) -> float:
        nonlocal steps
        steps += 1
        stop.set()
        return 1

    await repeat(step, clock=clock, bell=bell, stop=stop)
    await repeat(step, clock=clock, bell=bell, stop=stop)
    assert (steps, clock.waits) == (1, [])


async def test_a_thousand_rings_are_one_step() -> None:
    """With a rest, a bell that never falls silent does not make a loop spin."""
    stop, bell = asyncio.Event(), Bell()
    clock = WaitingClock(stop, 4)

    async def step(now: Ms) -> float:
        bell.ring()
        return 1.0

    await repeat(step, clock=clock, bell=bell, stop=stop, rest_s=0.25)
    assert clock.waits == [0.25, 0.75, 0.25, 0.75]
