"""Tracking what is open, and reading results until every member is accounted for."""

import pytest

from tests.loops.world import World, line
from tests.store.support import CANCELED, EXPIRED
from unhurried.domain.polling import RETRIEVE_MAX
from unhurried.upstream import UpstreamTrouble


async def test_not_found_means_not_yet_for_some_minutes(world: World) -> None:
    ids = await world.accept(2)
    await world.send()
    batch = world.upstream.batches[0]
    batch.visible = False
    await world.pass_s(580)
    assert await world.shop.states(ids) == ["submitted"] * 2
    batch.visible = True
    await world.pass_s(20)
    [found] = await world.shop.store.open_batches()
    assert found.not_found_at is None
    batch.visible = False
    await world.pass_s(580)
    assert await world.shop.states(ids) == ["submitted"] * 2
    await world.pass_s(60)
    await world.send()
    assert await world.shop.states(ids) == ["errored"] * 2
    assert b"batch_gone" in (await world.shop.result(ids[0])).body


async def test_one_look_after_a_long_sleep_makes_nothing_gone(world: World) -> None:
    """Two 404s ten minutes apart, with nothing between: the laptop slept."""
    ids = await world.accept(2)
    await world.send()
    world.upstream.batches[0].visible = False
    await world.look()
    world.clock.pass_s(9_999)
    await world.look()
    assert await world.shop.states(ids) == ["submitted"] * 2


@pytest.mark.parametrize("count", [1, RETRIEVE_MAX, RETRIEVE_MAX + 1, 9])
async def test_the_number_of_calls_does_not_grow_with_the_open_batches(world: World, count: int) -> None:
    for size in range(1, count + 1):
        await world.accept(size)
        await world.send()
    world.upstream.calls.clear()
    await world.tracker.step(world.clock.now())
    assert world.upstream.calls == (["retrieve"] * count if count <= RETRIEVE_MAX else ["list"])


async def test_trouble_with_one_batch_does_not_hold_up_the_others(world: World) -> None:
    for size in (1, 2):
        await world.accept(size)
        await world.send()
    retrieve = world.upstream.retrieve

    async def picky(id: object) -> object:
        if id == "u1":
            raise UpstreamTrouble("500", status=500, reachable=True)
        return await retrieve(id)  # type: ignore[arg-type]

    world.upstream.retrieve = picky  # type: ignore[method-assign, assignment]
    for batch in world.upstream.batches:
        world.upstream.end(batch)
    await world.look()
    assert await world.shop.states(world.shop.ids) == ["submitted", "succeeded", "succeeded"]


async def test_results_that_end_early_are_read_again(world: World) -> None:
    """At a line end: nothing but the count tells."""
    ids = await world.accept(5)
    await world.send()
    batch = world.upstream.batches[0]
    world.upstream.end(batch)
    world.upstream.readings = [batch.results[:3], [*batch.results[2:4], b"cut"], [batch.results[0]]]
    await world.look()
    assert sorted(await world.shop.states(ids)) == ["submitted"] * 2 + ["succeeded"] * 3
    assert await world.shop.batch_state((await world.shop.store.open_batches())[0].batch) == "ended"
    await world.pass_s(200)
    assert await world.shop.states(ids) == ["succeeded"] * 5
    assert world.upstream.calls.count("results") == 4
    assert await world.shop.store.open_batches() == []


async def test_a_torn_line_is_read_again(world: World) -> None:
    ids = await world.accept(3)
    await world.send()
    batch = world.upstream.batches[0]
    world.upstream.end(batch)
    world.upstream.readings = [[batch.results[0], batch.results[1][:-9]]]
    await world.look()
    await world.pass_s(60)
    assert await world.shop.states(ids) == ["succeeded"] * 3


async def test_shuffled_and_doubled_lines_do_no_harm(world: World) -> None:
    ids = await world.accept(4)
    await world.send()
    batch = world.upstream.batches[0]
    world.upstream.end(batch)
    batch.results = [*batch.results[::-1], *batch.results]
    await world.look()
    assert await world.shop.states(ids) == ["succeeded"] * 4


async def test_a_doubled_line_does_not_stand_for_a_missing_one(world: World) -> None:
    """As many lines as members, but one twice: one is still to come."""
    ids = await world.accept(3)
    await world.send()
    batch = world.upstream.batches[0]
    world.upstream.end(batch)
    first, second, _ = batch.results
    world.upstream.readings = [[first, second, second]]
    await world.look()
    assert sorted(await world.shop.states(ids)) == ["submitted", "succeeded", "succeeded"]
    await world.pass_s(60)
    assert await world.shop.states(ids) == ["succeeded"] * 3


async def test_a_member_without_a_line_is_errored_when_the_count_is_reached(world: World) -> None:
    ids = await world.accept(3)
    await world.send()
    batch = world.upstream.batches[0]
    world.upstream.end(batch)
    batch.results[1] = line("abcdefghjkmn-01980000-0000-7000-8000-000000000001")
    await world.look()
    assert sorted(await world.shop.states(ids)) == ["errored", "succeeded", "succeeded"]


async def test_what_expired_is_sent_again(world: World) -> None:
    [request_id] = await world.accept(1)
    for n in range(3):
        await world.send()
        assert len(world.upstream.batches) == n + 1
        batch = world.upstream.batches[-1]
        world.upstream.end(batch, [line(batch.custom_ids[0], EXPIRED)])
        await world.look()
        world.clock.pass_s(200)
    assert await world.shop.state(request_id) == "expired"


async def test_a_batch_is_canceled_only_when_all_its_members_are(world: World) -> None:
    ids = await world.accept(2)
    await world.send()
    await world.shop.store.cancel(ids[0], "test", world.clock.now())
    await world.look()
    assert "cancel u1" not in world.upstream.calls
    await world.shop.store.cancel(ids[1], "test", world.clock.now())
    await world.look()
    await world.look()
    assert world.upstream.calls.count("cancel u1") == 1
    batch = world.upstream.batches[0]
    world.upstream.end(batch, [line(batch.custom_ids[0], CANCELED), line(batch.custom_ids[1])])
    await world.look()
    assert sorted(await world.shop.states(ids)) == ["canceled", "succeeded"]


async def test_a_kill_in_the_middle_of_the_results_ends_the_same(world: World) -> None:
    ids = await world.accept(6)
    await world.send()
    batch = world.upstream.batches[0]
    world.upstream.end(batch)
    for lines in (0, 1, 3, 5):
        world.upstream.readings = [[*batch.results[:lines], b"cut"]]
        await world.look()
        await world.restart()
        world.clock.pass_s(1_000)
    await world.look()
    assert await world.shop.states(ids) == ["succeeded"] * 6
    assert await world.shop.ask("select count(*) from deliveries") == [(6,)]
