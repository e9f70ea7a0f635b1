"""The keeper: tidying up a little each step, and alarms that are told once."""

from typing import Any

import pytest
import structlog.testing

from tests.loops.world import World
from tests.store.support import new
from unhurried.domain.alarms import AlarmName
from unhurried.keeper import KEYS_CHUNK, PAUSE_S, ROUND_S, Keeper, Limits
from unhurried.settings import KeeperSettings
from unhurried.store.sqlite.connection import in_thread, open_reader

DAY = 86_400


def keeper_of(world: World, limits: Limits | None = None, **settings: Any) -> Keeper:
    quiet = {"disk_free_alarm_bytes": 0}  # whatever the machine of the tests has
    return Keeper(world.shop.store, KeeperSettings.model_validate(quiet | settings), limits or Limits())


async def tidied(world: World, keeper: Keeper) -> int:
    """Steps until there is nothing more to do just now; how many there were."""
    steps = 1
    while await keeper.step(world.clock.now()) == 0:
        steps += 1
        assert steps < 500
    return steps


async def done(world: World, count: int, *, ack: bool = True, **fields: object) -> list[str]:
    """Requests whose results have come and, if so wanted, were confirmed."""
    ids = await world.accept(count, **fields)
    await world.send()
    world.upstream.end(world.upstream.batches[-1])
    await world.look()
    if ack:
        await world.shop.store.ack([f"{id}.1" for id in ids], "ack", world.clock.now())
    return ids


async def on(world: World) -> list[str]:
    return [str(alarm.name) for alarm in await world.shop.store.alarms()]


async def test_old_keys_are_forgotten_a_chunk_at_a_time(world: World) -> None:
    keeper = keeper_of(world)
    await world.shop.take(*(new(idempotency_key=str(n)) for n in range(KEYS_CHUNK + 1)))
    await tidied(world, keeper)
    world.clock.pass_s(31 * DAY)
    assert await keeper.step(world.clock.now()) == 0
    await tidied(world, keeper)
    assert await world.shop.ask("select count(*) from idempotency_keys") == [(0,)]


async def test_a_round_goes_through_everything_in_short_steps_and_then_rests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unhurried.keeper.OUTCOMES_CHUNK", 4)
    await done(world, 20)
    await done(world, 1)
    keeper = keeper_of(world, retention_days=1)
    assert await tidied(world, keeper) < 10
    world.clock.pass_s(40 * DAY)
    with structlog.testing.capture_logs() as logs:
        assert await tidied(world, keeper) > 5
    assert await world.shop.ask("select count(*) from requests") == [(1,)]
    assert await world.shop.ask("select count(*) from batches") == [(1,)]
    [told] = [entry for entry in logs if entry["event"] == "keeper.deleted"]
    assert (told["requests"], told["batches"]) == (20, 1)
    await done(world, 1)
    world.clock.pass_s(ROUND_S / 2)
    assert await tidied(world, keeper) == 1


async def test_a_keeper_that_is_replaced_in_mid_round_begins_it_anew(world: World) -> None:
    await done(world, 6)
    await done(world, 1)
    world.clock.pass_s(40 * DAY)
    for _ in range(12):  # each dies after its first step
        await keeper_of(world).step(world.clock.now())
        await world.restart()
        await world.shop.check()
    await tidied(world, keeper_of(world))
    assert await world.shop.ask("select count(*) from requests") == [(1,)]


async def test_retention_is_that_of_the_queue(world: World) -> None:
    await world.shop.store.change_queue("short", {"retention_days": 1.0}, "test", world.clock.now())
    await done(world, 2, queue="short")
    kept = await done(world, 2)
    world.clock.pass_s(2 * DAY)
    await tidied(world, keeper_of(world))
    assert sorted(row[0] for row in await world.shop.ask("select id from requests")) == sorted(kept)


async def test_alarms_come_before_it_is_too_late(world: World) -> None:
    """Before the 24 hours of a batch are over, and before its results vanish: told once, and once when they end."""
    await world.accept(1)
    await world.send()
    await world.look()
    keeper = keeper_of(world)
    with structlog.testing.capture_logs() as logs:
        await keeper.step(world.clock.now())
        world.clock.pass_s(23 * 3_600)
        for _ in range(3):
            await keeper.step(world.clock.now())
            world.clock.pass_s(PAUSE_S)
        assert await on(world) == ["batch.expires_soon"]
        world.upstream.end(world.upstream.batches[0])
        world.upstream.readings = [[], []]
        await world.look()
        await keeper.step(world.clock.now())
        assert await on(world) == []
        world.clock.pass_s(26 * DAY)
        await keeper.step(world.clock.now())
    [since] = [entry["since"] for entry in logs if entry["event"] == "alarm.over"]
    assert since.endswith("Z")  # a time, as everywhere
    [batch] = await world.shop.store.batches(open_only=False, before=None, limit=9)
    about = [event.what for event in await world.shop.store.events(batch.id, 99) if event.actor == "keeper"]
    assert about == ["alarm.batch.expires_soon", "alarm_over.batch.expires_soon", "alarm.batch.results_vanish_soon"]
    assert {event.entity for event in await world.shop.store.events(batch.id, 99)} == {"batch"}
    events = [entry["event"] for entry in logs if entry["event"].endswith(("soon", "over"))]
    assert events == ["batch.expires_soon", "alarm.over", "batch.results_vanish_soon"]
    await world.look()


async def test_an_alarm_that_is_on_is_not_told_again_after_a_restart(world: World) -> None:
    await done(world, 2, ack=False)
    world.clock.pass_s(2 * DAY)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await keeper_of(world).step(world.clock.now())
            await world.restart()
        assert await on(world) == ["destination.results_unread"]
        await world.shop.store.ack([f"{id}.1" for id in await everything(world)], "ack", world.clock.now())
        await keeper_of(world).step(world.clock.now())
    assert [entry["event"] for entry in logs] == ["destination.results_unread", "alarm.over"]
    [status] = [await world.shop.store.status()]
    assert list(status.alarms) == []


async def everything(world: World) -> list[str]:
    return [row[0] for row in await world.shop.ask("select id from requests")]


async def test_alarms_of_queues_accounts_and_the_disk(world: World) -> None:
    now = world.clock.now()
    await world.shop.store.change_queue("labels", {"open_requests_max": 10}, "test", now)
    await world.accept(8, queue="labels")
    for _ in range(4):
        await world.shop.store.pause_account("401: the key", None, "test", world.clock.now())
        world.clock.pass_s(900)
    keeper = keeper_of(world, Limits(open_requests_max=9), disk_free_alarm_bytes=10**18, database_alarm_bytes=1_000)
    await keeper.step(world.clock.now())
    told = {(str(alarm.name), alarm.entity_id) for alarm in await world.shop.store.alarms()}
    assert told == {
        ("account.paused_long", "http://upstream.test"),
        ("queue.nearly_full", "labels"),
        ("queue.nearly_full", "*"),
        ("disk.low", ""),
        ("database.large", ""),
    }
    assert [alarm.name for alarm in (await world.shop.store.status()).alarms] == sorted(name for name, _ in told)


async def test_a_reader_that_pins_the_log_is_an_alarm_until_it_ends(world: World) -> None:
    keeper = keeper_of(world, Limits(log_bytes_max=100_000))
    await world.accept(1)
    reader = await open_reader(world.shop.path)
    try:
        await in_thread(reader, lambda db: db.execute("begin").fetchall())
        await in_thread(reader, lambda db: db.execute("select count(*) from requests").fetchall())
        for _ in range(20):
            await world.shop.take(*(new(params={"system": "x" * 20_000}) for _ in range(2)))
        await keeper.step(world.clock.now())
        assert await on(world) == [AlarmName.LOG_LARGE]
    finally:
        await reader.close()
    world.clock.pass_s(PAUSE_S)
    await keeper.step(world.clock.now())  # empties it
    world.clock.pass_s(PAUSE_S)
    await keeper.step(world.clock.now())
    assert await on(world) == []


async def test_much_free_space_is_given_back_in_portions(world: World) -> None:
    ids = await world.shop.take(*(new(params={"system": "x" * 100_000}) for _ in range(40)))
    for id in ids:
        await world.shop.store.cancel(id, "test", world.clock.now())
    await world.shop.store.ack([f"{id}.1" for id in ids], "ack", world.clock.now())
    await done(world, 1)
    world.clock.pass_s(40 * DAY)
    assert await tidied(world, keeper_of(world, vacuum_bytes=1_000_000)) >= 5
    assert await world.shop.store.free_bytes() <= 1_000_000
