"""Finding out what became of a create: adopting, giving back, giving up, and late twins."""

from tests.loops.world import World
from tests.store.support import SUCCEEDED
from unhurried.upstream import UpstreamTrouble


async def test_an_adopted_stranger_is_given_back_and_the_real_one_found(world: World) -> None:
    """A stranger's batch of our size appeared first; its first line shows another nonce."""
    ids = await world.accept(3)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    real = world.upstream.batches[0]
    real.visible = False  # the list lags
    world.clock.pass_s(1)
    stranger = world.upstream.stranger(3)
    await world.look()
    [found] = await world.shop.store.open_batches()
    assert (found.batch.upstream_id, found.batch.proved) == (stranger.id, False)
    real.visible = True
    world.upstream.end(stranger, [b'{"custom_id":"stranger00000-x","result":{"type":"succeeded","s3cret":1}}'] * 3)
    await world.look()
    await world.look()
    [found] = await world.shop.store.open_batches()
    assert found.batch.upstream_id == real.id
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert len(world.upstream.ours()) == 1
    assert await world.shop.ask("select count(*) from results where cast(body as text) like '%s3cret%'") == [(0,)]


async def test_a_strangers_batch_that_its_owner_cancels_is_given_back_too(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.lost]
    await world.send()
    stranger = world.upstream.stranger(2)
    await world.look()
    stranger.canceling = True
    await world.look()
    world.upstream.end(stranger)
    await world.look()
    await world.settled()
    await world.send()
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 2
    assert len(world.upstream.ours()) == 1


async def test_an_adopted_batch_is_never_canceled_on_a_guess(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.lost]
    await world.send()
    world.upstream.stranger(2)
    for id in ids:
        await world.shop.store.cancel(id, "test", world.clock.now())
    await world.pass_s(100)
    assert not [call for call in world.upstream.calls if call.startswith("cancel")]


async def test_two_in_doubt_of_one_size_never_lose_the_real_one(world: World) -> None:
    """The first adopted a stranger, so that a second of its size was created, whose answer was lost as well."""
    first = await world.accept(3)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    real = world.upstream.batches[0]
    real.visible = False
    world.clock.pass_s(1)
    stranger = world.upstream.stranger(3)
    await world.look()
    second = await world.accept(3)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    world.clock.pass_s(20)
    await world.look()
    real.visible = True
    for _ in range(3):
        world.clock.pass_s(20)
        await world.look()
    world.upstream.end(stranger)
    for _ in range(3):
        world.clock.pass_s(20)
        await world.look()
    await world.finished()
    assert await world.shop.states(first + second) == ["succeeded"] * 6
    custom_ids = [id for batch in world.upstream.ours() for id in batch.custom_ids]
    assert sorted(id[13:] for id in custom_ids) == sorted(first + second)  # each was paid once


async def test_several_that_can_be_it_wait_for_their_nonces(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    strangers = [world.upstream.stranger(2) for _ in range(2)]
    await world.pass_s(2_000, 100)
    assert await world.shop.states(ids) == ["assigned"] * 2
    world.upstream.end(strangers[0])
    await world.pass_s(40)
    assert len(await world.shop.store.doubts()) == 1
    world.upstream.end(world.upstream.ours()[0])
    await world.pass_s(40)
    assert await world.shop.states(ids) == ["succeeded"] * 2


async def test_without_proof_it_takes_longer_to_give_up(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.lost]
    await world.send()
    await world.pass_s(860)
    assert await world.shop.states(ids) == ["assigned"] * 2
    await world.pass_s(100)
    await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 2


async def test_a_late_twin_is_harvested_and_counted(world: World) -> None:
    """The list lied for longer than the settlement lasted: the first outcome wins, the other is waste."""
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    twin = world.upstream.batches[0]
    twin.visible = False
    await world.settled()
    await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 2
    world.upstream.end(twin)
    twin.visible = True
    await world.pass_s(7_300, 600)
    assert await world.shop.states(ids) == ["succeeded"] * 2
    await world.finished()
    for batch in world.upstream.ours():
        if batch.ended_at is None:
            world.upstream.end(batch)
    await world.pass_s(120)
    assert await world.shop.ask("select late, state from batches where late") == [(1, "collected")]
    assert await world.shop.ask("select won, count(*) from attempts where state = 'succeeded' group by 1") == [
        (0, 2),
        (1, 2),
    ]


async def test_a_start_sweeps_once_for_late_twins(world: World) -> None:
    await world.accept(2)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    twin = world.upstream.batches[0]
    twin.visible = False
    await world.settled()
    await world.look()
    twin.visible = True
    world.upstream.end(twin)
    await world.look()
    assert await world.shop.ask("select count(*) from batches where late") == [(0,)]
    await world.restart()
    await world.look()
    assert await world.shop.ask("select count(*) from batches where late") == [(1,)]


async def test_trouble_while_listing_proves_nothing(world: World) -> None:
    await world.accept(2)
    world.upstream.answers = [world.upstream.lost]
    await world.send()

    async def trouble(_: object) -> None:
        raise UpstreamTrouble("503", status=503, retry_after_s=40.0, reachable=True)

    world.upstream.list_since = trouble  # type: ignore[method-assign, assignment]
    assert await world.settlement.step(world.clock.now()) == 40
    world.clock.pass_s(9_999)
    await world.settlement.step(world.clock.now())
    [doubt] = await world.shop.store.doubts()
    assert doubt.absent_at is None


async def test_an_unreadable_stranger_does_not_hold_up_the_others(world: World) -> None:
    one = await world.accept(2)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    odd = world.upstream.stranger(2)
    world.upstream.end(odd, [b"???"] * 2)
    world.upstream.end(world.upstream.ours()[0])
    await world.pass_s(60)
    assert await world.shop.states(one) == ["succeeded"] * 2
    assert (await world.shop.result(one[0])).body == SUCCEEDED
