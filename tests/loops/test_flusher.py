"""Forming batches when they are due, and looking again when the next one will be."""

import pytest

from tests.loops.world import World
from unhurried.domain.grouping import PAUSE_MAX_S


async def test_it_looks_again_when_the_oldest_has_lingered(world: World) -> None:
    assert await world.flusher.step(world.clock.now()) == PAUSE_MAX_S
    await world.accept(2)
    assert await world.flusher.step(world.clock.now()) == 10
    world.clock.pass_s(4)
    await world.accept(1)
    assert await world.flusher.step(world.clock.now()) == 6
    world.clock.pass_s(6)
    assert await world.flusher.step(world.clock.now()) == 0
    batch = await world.shop.store.next_formed()
    assert batch is not None and batch.requests == 3


async def test_it_looks_again_when_a_pause_is_over(world: World) -> None:
    await world.accept(1, not_before="2026-11-18T15:33:25.500Z")
    view = await world.shop.store.request(world.shop.ids[0])
    assert view is not None and view.not_before is not None
    world.clock.moment = type(view.not_before)(view.not_before - 5_500)
    assert await world.flusher.step(world.clock.now()) == 5.5
    world.clock.pass_s(5.5)
    assert await world.flusher.step(world.clock.now()) == 10


async def test_a_full_group_does_not_linger(world: World) -> None:
    await world.accept(230)
    while await world.flusher.step(world.clock.now()) == 0:
        pass
    assert await world.shop.ask("select requests, why from batches") == [(100, "full"), (100, "full")]


async def test_no_more_is_formed_than_is_soon_sent(world: World) -> None:
    """So that what comes later and is more urgent is not behind it."""
    for _ in range(5):
        await world.accept(1)
        await world.shop.store.ask_flush(None, None, "test", world.clock.now())
        await world.flusher.step(world.clock.now())
    assert await world.shop.store.formed_ahead() == 2


async def test_nothing_is_formed_while_the_account_rests(world: World) -> None:
    await world.accept(1)
    world.clock.pass_s(60)
    for until in (None, world.clock.now() + 5_000):
        await world.shop.store.pause_account("429", until, "test", world.clock.now())  # type: ignore[arg-type]
        assert await world.flusher.step(world.clock.now()) == (PAUSE_MAX_S if until is None else 5)
    assert await world.shop.store.formed_ahead() == 0


async def test_the_submission_is_told_of_each_batch(world: World) -> None:
    await world.accept(1)
    world.clock.pass_s(10)
    await world.flusher.step(world.clock.now())
    assert world.bells["submission"].event.is_set()


@pytest.mark.parametrize("turnaround_s", [5.0, 400.0])
async def test_the_turnaround_is_learned_from_batches_that_ended(world: World, turnaround_s: float) -> None:
    """A model that is slow is sent earlier before its deadline."""
    for _ in range(5):
        await world.accept(1)
        await world.send()
        world.clock.pass_s(turnaround_s)
        world.upstream.end(world.upstream.batches[-1])
        await world.look()
    history = await world.shop.store.turnarounds()
    assert list(history.values()) == [[turnaround_s] * 5]
    await world.accept(1, max_wait=410)
    pause_s = await world.flusher.step(world.clock.now())
    assert pause_s == (10 if turnaround_s == 5.0 else 0)
