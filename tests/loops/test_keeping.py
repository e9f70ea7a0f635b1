"""The dispatcher takes back what was not confirmed."""

import asyncio
from typing import cast

from tests.loops.world import World
from unhurried.delivery import Webhooks
from unhurried.dispatcher import IDLE_S, Dispatcher, WebhookPolicy


async def done(world: World, count: int) -> list[str]:
    ids = await world.accept(count)
    await world.send()
    world.upstream.end(world.upstream.batches[-1])
    await world.look()
    return ids


async def test_what_is_not_confirmed_is_available_again(world: World) -> None:
    told: list[int] = []
    dispatcher = Dispatcher(
        world.shop.store,
        cast("Webhooks", None),  # nothing here goes to one
        world.clock,
        policy=WebhookPolicy(),
        group=asyncio.TaskGroup(),
        stop=asyncio.Event(),
        bell=world.bells["dispatcher"],
        tell=lambda: told.append(1),
    )
    await done(world, 2)
    assert await dispatcher.step(world.clock.now()) == IDLE_S
    assert len(await world.shop.pull(world.clock.now(), lease_s=12)) == 2
    assert await dispatcher.step(world.clock.now()) == 12
    world.clock.pass_s(12)
    await dispatcher.step(world.clock.now())
    assert len(await world.shop.pull(world.clock.now())) == 2
    assert len(told) == 3
