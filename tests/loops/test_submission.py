"""One POST for each batch: what comes of each answer, and of each kill."""

import pytest

from tests.loops.world import Killed, World
from unhurried.domain.submitting import Answer, ErrorAnswer, NoAnswer
from unhurried.store.errors import StoreFull
from unhurried.upstream import UpstreamTrouble


def says(status: int, message: str = "", retry_after_s: float | None = None) -> Answer:
    return ErrorAnswer(status=status, message=message, retry_after_s=retry_after_s)


async def test_what_lingers_is_sent_and_comes_back(world: World) -> None:
    ids = await world.accept(3)
    assert await world.flusher.step(world.clock.now()) == 10
    world.clock.pass_s(10)
    await world.flusher.step(world.clock.now())
    await world.submission.step(world.clock.now())
    assert await world.shop.states(ids) == ["submitted"] * 3
    world.upstream.end(world.upstream.batches[0])
    await world.look()
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert world.upstream.calls.count("create") == 1


async def test_upstream_is_asked_for_the_time_before_the_intent(world: World) -> None:
    """Unreachable: nothing was sent, nothing is in doubt, and the batch waits as it is."""
    await world.accept(2)
    world.upstream.date_trouble = UpstreamTrouble("connection refused", reachable=False)
    await world.send()
    assert world.upstream.calls.count("create") == 0
    account = await world.shop.store.account()
    assert account is not None and account.is_paused(world.clock.now())
    world.upstream.date_trouble = None
    world.clock.pass_s(2)
    await world.send()
    assert [len(batch.custom_ids) for batch in world.upstream.batches] == [2]


async def test_an_account_that_is_refused_rests_and_then_goes_on(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [lambda _: says(429, "slow down", 30.0)]
    await world.send()
    assert await world.shop.states(ids) == ["queued"] * 2
    await world.send()
    assert world.upstream.calls.count("create") == 1
    world.clock.pass_s(31)
    await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 2


async def test_a_culprit_does_not_hold_up_the_others(world: World) -> None:
    ids = await world.accept(5)
    world.upstream.answers = [lambda _: says(400, "requests.3.params.model: no such model")]
    await world.send()
    await world.send()
    assert await world.shop.states(ids) == ["submitted", "submitted", "submitted", "errored", "submitted"]


@pytest.mark.parametrize("size", [1, 5, 8])
async def test_an_unexplained_no_finds_the_one_that_upstream_minds(world: World, size: int) -> None:
    ids = await world.accept(size)
    bad = ids[size // 2]

    def picky(custom_ids: list[str]) -> Answer:
        return says(400, "bad") if any(id.endswith(bad) for id in custom_ids) else world.upstream.works(custom_ids)

    world.upstream.answers = [picky] * 40
    for _ in range(20):
        world.clock.pass_s(1)
        await world.send()
    assert await world.shop.state(bad) == "errored"
    assert sorted(await world.shop.states(ids)) == ["errored", *["submitted"] * (size - 1)]


async def test_a_batch_that_is_too_large_goes_in_smaller_ones(world: World) -> None:
    ids = await world.accept(8)

    def small(custom_ids: list[str]) -> Answer:
        return says(413) if len(custom_ids) > 3 else world.upstream.works(custom_ids)

    world.upstream.answers = [small] * 20
    for _ in range(5):
        await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 8
    assert max(len(batch.custom_ids) for batch in world.upstream.batches) <= 3


async def test_a_body_cut_short_on_the_way_is_sent_again(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [lambda _: says(400, "the body is not valid JSON")]
    await world.send()
    world.clock.pass_s(2)
    await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 2


@pytest.mark.parametrize("status", [408, 409, 500, 502, 529])
async def test_an_unclear_answer_is_settled_and_never_sent_again(world: World, status: int) -> None:
    ids = await world.accept(2)

    def unclear(custom_ids: list[str]) -> Answer:
        world.upstream.make(custom_ids)
        return says(status)

    world.upstream.answers = [unclear]
    await world.send()
    assert await world.shop.states(ids) == ["assigned"] * 2
    await world.send()
    await world.settled()
    assert await world.shop.states(ids) == ["submitted"] * 2
    assert len(world.upstream.ours()) == 1


async def test_a_kill_before_the_intent_costs_nothing(world: World) -> None:
    ids = await world.accept(2)
    await world.shop.store.ask_flush(None, None, "test", world.clock.now())
    await world.flusher.step(world.clock.now())
    await world.restart()
    await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 2
    assert len(world.upstream.ours()) == 1


async def test_a_kill_after_the_post_finds_the_batch_again(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.killed_after]
    await world.send()
    assert await world.shop.states(ids) == ["assigned"] * 2
    await world.look()
    assert await world.shop.states(ids) == ["submitted"] * 2
    await world.finished()
    assert len(world.upstream.ours()) == 1


async def test_ten_kills_in_succession_leave_one_batch(world: World) -> None:
    """Killed each time between the intent and the POST: proved absent each time, and sent once in the end."""
    ids = await world.accept(5)
    world.upstream.answers = [world.upstream.killed_before] * 10
    for _ in range(10):
        await world.send()
        assert await world.shop.states(ids) == ["assigned"] * 5
        await world.settled()
    await world.send()
    [batch] = world.upstream.ours()
    assert sorted(id[13:] for id in batch.custom_ids) == sorted(ids)
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 5
    assert world.upstream.calls.count("create") == 11


async def test_a_kill_during_the_settlement_loses_nothing_of_it(world: World) -> None:
    """What it has seen stands in the store: a restart after each look does not begin anew."""
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.lost]
    await world.send()
    for _ in range(5):
        world.clock.pass_s(20)
        world.upstream.stranger(50)
        await world.look()
        await world.restart()
    assert await world.shop.store.doubts() == []
    await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 2


async def test_equal_sizes_are_made_distinct(world: World) -> None:
    """While one of three is in doubt, no other of three is created."""
    await world.accept(3)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    await world.accept(3)
    await world.send()
    assert [len(batch.custom_ids) for batch in world.upstream.ours()] == [3, 2, 1]


async def test_a_batch_of_one_waits_while_one_of_one_is_in_doubt(world: World) -> None:
    """It holds up nothing else."""
    await world.accept(1)
    world.upstream.answers = [world.upstream.lost]
    await world.send()
    [waiting] = await world.accept(1)
    others = await world.accept(2, max_wait=100)
    await world.send()
    assert await world.shop.state(waiting) == "queued"
    assert await world.shop.states(others) == ["submitted"] * 2
    await world.settled()
    await world.send()
    assert await world.shop.state(waiting) == "submitted"


async def test_upstreams_queue_is_not_overfilled(world: World) -> None:
    world.submission._queue_limit = 3
    await world.accept(3)
    await world.send()
    await world.accept(2)
    await world.send()
    assert len(world.upstream.ours()) == 1
    world.upstream.end(world.upstream.batches[0])
    await world.look()
    await world.send()
    assert len(world.upstream.ours()) == 2


async def test_an_answer_is_recorded_as_soon_as_the_disk_has_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known now; after a restart it would be in doubt."""
    ids = await world.accept(2)
    write, refusals = world.shop.store.record_created, [1, 2, 3]

    async def full(*values: object) -> None:
        if refusals:
            refusals.pop()
            raise StoreFull("full")
        await write(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(world.shop.store, "record_created", full)
    await world.send()
    assert not refusals
    assert await world.shop.states(ids) == ["submitted"] * 2


async def test_a_batch_that_nobody_wants_any_more_is_not_sent(world: World) -> None:
    ids = await world.accept(2)
    await world.shop.store.ask_flush(None, None, "test", world.clock.now())
    await world.flusher.step(world.clock.now())
    for id in ids:
        await world.shop.store.cancel(id, "test", world.clock.now())
    await world.send()
    assert await world.shop.states(ids) == ["canceled"] * 2
    assert world.upstream.calls.count("create") == 0


async def test_a_half_formed_batch_is_completed_after_a_kill(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await world.accept(25)
    await world.shop.store.ask_flush(None, None, "test", world.clock.now())
    add, left = world.shop.store.add_members, [1, 2]

    async def dying(*values: object, **named: object) -> int:
        if not left:
            raise Killed
        left.pop()
        return await add(*values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(world.shop.store, "add_members", dying)
    with pytest.raises(Killed):
        await world.flusher.step(world.clock.now())
    await world.restart()
    await world.send()
    assert sorted(len(batch.custom_ids) for batch in world.upstream.ours()) == [5, 20]
    assert await world.shop.states(ids) == ["submitted"] * 25


async def test_no_byte_sent_means_members_back(world: World) -> None:
    ids = await world.accept(2)
    world.upstream.answers = [lambda _: NoAnswer(sent=False, detail="DNS")]
    await world.send()
    assert await world.shop.store.doubts() == []
    world.clock.pass_s(5)
    await world.send()
    assert await world.shop.states(ids) == ["submitted"] * 2
