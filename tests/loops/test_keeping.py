"""The keeper and the dispatcher: tidying up, and taking back what was not confirmed."""

import structlog.testing

from tests.loops.world import World
from tests.store.support import new
from unhurried.dispatcher import IDLE_S, Dispatcher
from unhurried.keeper import KEYS_CHUNK, PAUSE_S, Keeper

DAY = 86_400


async def done(world: World, count: int) -> list[str]:
    ids = await world.accept(count)
    await world.send()
    world.upstream.end(world.upstream.batches[-1])
    await world.look()
    return ids


async def test_what_is_not_confirmed_is_available_again(world: World) -> None:
    told: list[int] = []
    dispatcher = Dispatcher(world.shop.store, lambda: told.append(1))
    await done(world, 2)
    assert await dispatcher.step(world.clock.now()) == IDLE_S
    assert len(await world.shop.pull(world.clock.now(), lease_s=12)) == 2
    assert await dispatcher.step(world.clock.now()) == 12
    world.clock.pass_s(12)
    await dispatcher.step(world.clock.now())
    assert len(await world.shop.pull(world.clock.now())) == 2
    assert len(told) == 3


async def test_old_keys_are_forgotten_a_chunk_at_a_time(world: World) -> None:
    keeper = Keeper(world.shop.store)
    await world.shop.take(*(new(idempotency_key=str(n)) for n in range(KEYS_CHUNK + 1)))
    assert await keeper.step(world.clock.now()) == PAUSE_S
    world.clock.pass_s(31 * DAY)
    assert await keeper.step(world.clock.now()) == 0
    assert await keeper.step(world.clock.now()) == PAUSE_S
    assert await world.shop.ask("select count(*) from idempotency_keys") == [(0,)]


async def test_the_keeper_counts_open_requests_anew(world: World) -> None:
    ids = await world.accept(3)
    await world.shop.store.cancel(ids[0], "test", world.clock.now())
    await Keeper(world.shop.store).step(world.clock.now())
    assert world.shop.store.open_requests() == 2


async def test_alarms_come_before_it_is_too_late(world: World) -> None:
    """Before the 24 hours of a batch are over, and before its results vanish."""
    await world.accept(1)
    await world.send()
    keeper = Keeper(world.shop.store)
    await world.look()
    with structlog.testing.capture_logs() as logs:
        await keeper.step(world.clock.now())
        world.clock.pass_s(23 * 3_600)
        await keeper.step(world.clock.now())
        world.upstream.end(world.upstream.batches[0])
        world.upstream.readings = [[], []]
        await world.look()
        world.clock.pass_s(26 * DAY)
        await keeper.step(world.clock.now())
    events = [entry["event"] for entry in logs if entry["event"].endswith("soon")]
    assert events == ["batch.expires_soon", "batch.results_vanish_soon"]
