"""A copy is put back: what was sent after it was made is found before anything is sent again."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.loops.world import Theirs, World, line
from tests.store.support import EXPIRED, SUCCEEDED
from unhurried.clock import after
from unhurried.domain.batch import UpstreamId, custom_id, new_nonce
from unhurried.store.records import RestoredStatus
from unhurried.store.sqlite.backup import back_up
from unhurried.store.sqlite.swap import put_in_place
from unhurried.upstream import UpstreamTrouble


def copy(world: World) -> Path:
    made = world.path.with_name("copy.db")
    back_up(world.path, made, world.clock.now(), force=True)
    return made


async def put_back(world: World, made: Path) -> None:
    """A kill, the restore, a new start."""
    await world.stop()
    world.clock.pass_s(1)
    put_in_place(made, world.path, world.clock.now())
    await world.start()


async def told(world: World) -> RestoredStatus | None:
    return (await world.shop.store.status()).restored


def times_sent(world: World) -> Counter[str]:
    """How often each request of ours was created upstream, under whatever nonce."""
    return Counter(id[13:] for batch in world.upstream.ours() for id in batch.custom_ids)


async def over(world: World) -> None:
    """Time passes until nothing is held back."""
    for _ in range(60):
        if await told(world) is None:
            return
        await world.pass_s(20)
    raise AssertionError(await told(world))


async def test_what_was_sent_and_has_ended_is_collected_and_not_sent_again(world: World) -> None:
    ids = await world.accept(5)
    made = copy(world)
    world.clock.pass_s(30)
    await world.send()
    world.upstream.end(world.upstream.ours()[0])
    await world.pass_s(40)
    assert await world.shop.states(ids) == ["succeeded"] * 5
    await put_back(world, made)
    assert await world.shop.states(ids) == ["queued"] * 5
    await world.send()
    assert await world.shop.states(ids) == ["queued"] * 5  # held back
    await over(world)
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 5
    assert set(times_sent(world).values()) == {1}
    assert await world.shop.ask("select why, found, late, requests, state from batches") == [
        ("restore", 1, 1, 5, "collected")
    ]
    assert {name for (name,) in await world.shop.ask("select what from events where entity = 'daemon'")} == {
        "daemon.restored",
        "daemon.restored_over",
    }


async def test_one_that_has_not_ended_is_waited_for(world: World) -> None:
    ids = await world.accept(3)
    made = copy(world)
    world.clock.pass_s(30)
    await world.send()
    await put_back(world, made)
    await world.pass_s(4_000, 100)
    status = await told(world)
    assert status is not None and status.held and "u1 not ended yet" in (status.detail or "")
    await world.send()
    assert len(world.upstream.ours()) == 1
    world.upstream.end(world.upstream.ours()[0])
    await over(world)
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert set(times_sent(world).values()) == {1}


async def test_strangers_do_not_end_up_here_and_new_ones_hold_nothing_up(world: World) -> None:
    ids = await world.accept(3)
    made = copy(world)
    world.clock.pass_s(30)
    strangers = [world.upstream.stranger(3), world.upstream.stranger(7, ended=True)]
    secret = b'{"type":"succeeded","s3cret":1}'
    strangers[1].results = [line(id, secret) for id in strangers[1].custom_ids]
    await put_back(world, made)
    await world.pass_s(160)
    for _ in range(10):
        await world.pass_s(60)
        world.upstream.stranger(1)  # made after the start: nothing of ours can be in it
    assert await told(world) is not None
    world.upstream.end(strangers[0])
    await over(world)
    await world.send()
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert set(times_sent(world).values()) == {1}
    assert await world.shop.ask("select count(*) from results where cast(body as text) like '%s3cret%'") == [(0,)]


async def test_a_list_that_lags_is_not_believed_at_once(world: World) -> None:
    """Sent just before the kill, and not in the list at the first look."""
    ids = await world.accept(3)
    made = copy(world)
    await world.send()
    [sent] = world.upstream.ours()
    world.upstream.end(sent)
    sent.visible = False
    await put_back(world, made)
    await world.look()
    world.clock.pass_s(30)
    sent.visible = True
    await over(world)
    await world.send()
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert set(times_sent(world).values()) == {1}


async def test_without_a_proof_that_the_list_is_fresh_it_takes_longer(world: World) -> None:
    await world.accept(1)
    await put_back(world, copy(world))
    await world.pass_s(860)
    assert await told(world) is not None
    await world.pass_s(80)
    assert await told(world) is None


async def test_with_such_a_proof_a_grace_is_enough(world: World) -> None:
    await world.accept(1)
    await put_back(world, copy(world))
    await world.look()
    world.clock.pass_s(121)
    world.upstream.stranger(1)
    await world.look()
    assert await told(world) is None


async def test_a_batch_that_was_forming_is_taken_apart_and_found_with_other_members(world: World) -> None:
    """It had one member when the copy was made, was sent with three, under the same nonce."""
    store = world.shop.store
    ids = await world.accept(1)
    await store.ask_flush(None, None, "test", world.clock.now())
    await world.flusher.step(world.clock.now())
    [(nonce,)] = await world.shop.ask("select nonce from batches where state = 'forming'")
    ids += await world.accept(1)
    made = copy(world)
    lost = await world.accept(1)
    sent = world.upstream.make([custom_id(nonce, id) for id in (*ids, *lost)])
    world.upstream.end(sent)
    await put_back(world, made)
    assert await world.shop.ask("select state from batches") == [("dissolved",)]
    await over(world)
    await world.send()
    assert await world.shop.states(ids) == ["succeeded"] * 2
    assert set(times_sent(world).values()) == {1}
    assert await world.shop.ask("select nonce = ?, requests, unknown_requests from batches where found", nonce) == [
        (1, 2, 1)
    ]
    assert await world.shop.store.request(lost[0]) is None
    [(detail,)] = await world.shop.ask("select detail from events where what = 'batch.unknown_requests'")
    assert detail.startswith("1 of its requests were accepted after the copy")


async def test_a_create_that_was_under_way_is_settled_by_its_nonce(world: World) -> None:
    """The copy calls it ``submitting``: another of the same size, sent later under an unknown nonce, is not it."""
    first = await world.accept(3)
    copies: list[Path] = []

    def copied_in_it(custom_ids: list[str]) -> object:
        copies.append(copy(world))
        return world.upstream.works(custom_ids)

    second = await world.accept(3, queue="other")
    world.upstream.answers = [copied_in_it]  # type: ignore[list-item]
    await world.send()
    world.clock.pass_s(20)
    assert len(world.upstream.ours()) == 2
    await put_back(world, copies[0])
    await world.pass_s(100)
    for batch in world.upstream.ours():
        world.upstream.end(batch)
    await over(world)
    await world.settled()
    await world.send()
    await world.finished()
    assert await world.shop.states(first + second) == ["succeeded"] * 6
    assert set(times_sent(world).values()) == {1}


async def test_a_create_that_never_arrived_lets_its_members_go_after_the_search(world: World) -> None:
    """They were given up and sent under another nonce after the copy was made."""
    ids = await world.accept(3)
    copies: list[Path] = []

    def lost(custom_ids: list[str]) -> object:
        copies.append(copy(world))
        return world.upstream.lost(custom_ids)

    world.upstream.answers = [lost]  # type: ignore[list-item]
    await world.send()
    await world.settled()
    await world.send()
    [sent] = world.upstream.ours()
    await put_back(world, copies[0])
    await world.pass_s(60)
    assert await world.shop.ask("select state from batches") == [("unknown",)]  # not settled by number meanwhile
    for batch in world.upstream.batches:  # strangers among them
        world.upstream.end(batch)
    assert sent.ended_at is not None
    await over(world)
    await world.settled()
    await world.send()
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert set(times_sent(world).values()) == {1}


async def test_a_candidate_that_the_copy_had_adopted_wrongly_is_still_looked_at_for_ours(world: World) -> None:
    """Adopted by size before the copy was made; its first line shows a nonce that the copy does not know."""
    ids = await world.accept(2)
    world.upstream.answers = [world.upstream.lost]
    await world.send()
    other = await world.accept(2, queue="other")
    world.clock.pass_s(1)
    nonce = new_nonce()
    wrong = world.upstream.make([custom_id(nonce, id) for id in other])
    await world.look()
    [adopted] = [found for found in await world.shop.store.open_batches() if not found.batch.proved]
    assert adopted.batch.upstream_id == wrong.id
    made = copy(world)
    await put_back(world, made)
    await world.look()
    world.upstream.end(wrong)
    await over(world)
    await world.settled()
    await world.send()
    await world.finished()
    assert await world.shop.states(ids + other) == ["succeeded"] * 4
    assert set(times_sent(world).values()) == {1}


async def test_what_expired_and_was_sent_again_is_not_sent_a_third_time(world: World) -> None:
    ids = await world.accept(2)
    await world.send()
    made = copy(world)
    first = world.upstream.ours()[0]
    world.upstream.end(first, [line(first.custom_ids[0]), line(first.custom_ids[1], EXPIRED)])
    await world.pass_s(120)
    await world.send()
    assert len(world.upstream.ours()) == 2
    world.upstream.end(world.upstream.ours()[1])
    await put_back(world, made)
    await over(world)
    await world.send()
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 2
    assert sorted(times_sent(world).values()) == [1, 2]


async def test_results_that_were_half_stored_are_stored_to_their_end(world: World) -> None:
    ids = await world.accept(6)
    await world.send()
    [sent] = world.upstream.ours()
    lines = [line(id) for id in sent.custom_ids]
    world.upstream.end(sent)
    world.upstream.readings = [[*lines[:3], b"cut"]]
    await world.tracker.step(world.clock.now())
    await world.collector.step(world.clock.now())
    assert sorted(await world.shop.states(ids)) == ["submitted"] * 3 + ["succeeded"] * 3
    made = copy(world)
    await world.finished()
    await put_back(world, made)
    await over(world)
    await world.finished()
    assert await world.shop.states(ids) == ["succeeded"] * 6
    assert len(world.upstream.ours()) == 1


async def test_a_batch_of_unknown_requests_only_is_counted_and_not_stored(world: World) -> None:
    [known] = await world.accept(1)
    made = copy(world)
    later = await world.accept(4, queue="later")
    await world.shop.store.ask_flush("later", None, "test", world.clock.now())
    await world.flusher.step(world.clock.now())
    await world.submission.step(world.clock.now())
    [sent] = world.upstream.ours()
    world.upstream.end(sent)
    await put_back(world, made)
    await world.look()
    status = await told(world)
    assert status is not None and status.unknown_requests == 4 and status.found == 0
    await over(world)
    [(detail,)] = await world.shop.ask("select detail from events where what = 'daemon.restored_over'")
    assert "4 requests are unknown here" in detail
    assert [await world.shop.store.request(id) for id in later] == [None] * 4
    await world.send()
    await world.finished()
    assert await world.shop.states([known]) == ["succeeded"]


async def test_no_request_is_believed_absent_from_results_that_were_cut_short(world: World) -> None:
    """Ours is the last line, and the stream ends before it, at a line's end."""
    ids = await world.accept(1)
    made = copy(world)
    nonce = new_nonce()
    later = await world.accept(3, queue="later")
    sent = world.upstream.make([custom_id(nonce, id) for id in (*later, *ids)])
    world.upstream.end(sent)
    lines = [line(id) for id in sent.custom_ids]
    await put_back(world, made)
    world.upstream.readings = [lines[:3]]
    await world.look()
    status = await told(world)
    assert status is not None and "cannot be read now" in (status.detail or "")
    await over(world)
    await world.send()
    assert await world.shop.states(ids) == ["succeeded"]
    assert times_sent(world)[ids[0]] == 1


async def test_results_that_are_no_longer_kept_wait_for_an_operator(world: World) -> None:
    ids = await world.accept(1)
    made = copy(world)
    await world.send()
    [sent] = world.upstream.ours()
    world.upstream.end(sent)

    def archived(of: Theirs = sent) -> object:
        return dataclasses.replace(Theirs.sighting(of), results_readable=False, archived=True)

    sent.sighting = archived  # type: ignore[method-assign, assignment]
    await put_back(world, made)
    await world.pass_s(3_000, 100)
    status = await told(world)
    assert status is not None and status.held and "no longer kept" in (status.detail or "")
    assert await world.shop.store.release_restored("uid:7", world.clock.now())
    assert not await world.shop.store.release_restored("uid:7", world.clock.now())
    await world.send()
    assert await world.shop.states(ids) == ["submitted"]
    assert await world.shop.ask("select actor from events where what = 'daemon.released'") == [("uid:7",)]
    world.upstream.batches.remove(sent)
    await world.finished()


async def test_after_an_operators_word_the_search_goes_on_and_what_it_finds_is_waste_or_wins(world: World) -> None:
    ids = await world.accept(4)
    made = copy(world)
    await world.send()
    [sent] = world.upstream.ours()
    await put_back(world, made)
    await world.look()
    await world.shop.store.release_restored("uid:7", world.clock.now())
    await world.send()
    assert set(times_sent(world).values()) == {2}  # that is what the operator was told
    world.upstream.end(sent)
    await world.pass_s(1_000)
    assert await world.shop.states(ids) == ["succeeded"] * 4
    await world.finished()
    world.upstream.end(world.upstream.ours()[1])
    await world.pass_s(200)
    assert await told(world) is None
    rows = await world.shop.ask("select won, count(*) from attempts where state = 'succeeded' group by 1")
    assert rows == [(0, 4), (1, 4)]


async def test_nothing_is_waited_for_when_nothing_could_be_sent_twice(world: World) -> None:
    ids = await world.accept(2)
    await world.send()
    await world.finished()
    made = copy(world)
    world.upstream.stranger(5)  # in progress, for a day perhaps
    await put_back(world, made)
    new = await world.accept(1)
    await world.look()
    assert await told(world) is None
    await world.send()
    assert await world.shop.states(ids + new) == ["succeeded"] * 2 + ["submitted"]
    await world.finished()


async def test_new_requests_are_accepted_and_wait(world: World) -> None:
    await world.accept(1)
    await put_back(world, copy(world))
    new = await world.accept(1)
    await world.send()
    assert await world.shop.states(new) == ["queued"]
    flushed = await world.shop.store.ask_flush(None, None, "test", world.clock.now())
    assert [says for says in flushed.held if "restored" in says]
    await over(world)
    await world.send()
    assert await world.shop.states(new) == ["submitted"]
    await world.finished()


async def test_trouble_upstream_ends_nothing(world: World) -> None:
    await world.accept(1)
    await put_back(world, copy(world))

    async def trouble(_: object) -> None:
        raise UpstreamTrouble("503", status=503, retry_after_s=40.0, reachable=True)

    working, world.upstream.list_since = world.upstream.list_since, trouble  # type: ignore[method-assign, assignment]
    for _ in range(100):
        world.clock.pass_s(100)
        assert await world.settlement.step(world.clock.now()) == 40
    assert await told(world) is not None
    world.upstream.list_since = working  # type: ignore[method-assign]
    await over(world)


async def test_a_raw_file_of_an_older_state_is_noticed_by_what_the_lock_remembers(world: World) -> None:
    """Somebody has copied the file while the daemon was down, and puts it back later."""
    ids = await world.accept(3)
    await world.stop()
    older = world.path.read_bytes()
    await world.start()
    await world.send()
    world.upstream.end(world.upstream.ours()[0])
    await world.pass_s(40)
    await world.stop()
    world.path.write_bytes(older)
    await world.start()
    status = await told(world)
    assert status is not None and status.held
    assert await world.shop.ask("select why from copies") == [("older",)]
    await over(world)
    await world.send()
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert set(times_sent(world).values()) == {1}
    await world.restart()
    assert await told(world) is None
    assert await world.shop.ask("select epoch from boots order by 1") == [(1,), (3,), (4,)]


async def test_a_copy_of_a_copy_is_searched_from_the_older_one_on(world: World) -> None:
    ids = await world.accept(2)
    first = copy(world)
    await world.send()
    [sent] = world.upstream.ours()
    await put_back(world, first)
    await world.look()
    second = copy(world)  # in the midst of the search
    world.clock.pass_s(5_000)
    await put_back(world, second)
    await world.look()
    status = await told(world)
    assert status is not None and status.held
    world.upstream.end(sent)
    await over(world)
    assert await world.shop.states(ids) == ["succeeded"] * 2
    assert set(times_sent(world).values()) == {1}


@pytest.mark.parametrize("apart_s", [-80_000.0, 80_000.0])
async def test_clocks_that_are_hours_apart_hide_nothing(world: World, apart_s: float) -> None:
    """Upstream's clock is not ours."""
    theirs = world.upstream

    class Skewed:
        def now(self) -> object:
            return after(world.clock.now(), apart_s)

    theirs.clock = Skewed()  # type: ignore[assignment]
    ids = await world.accept(3)
    made = copy(world)
    world.clock.pass_s(100)
    await world.send()
    theirs.end(theirs.ours()[0])
    await put_back(world, made)
    await over(world)
    await world.send()
    assert await world.shop.states(ids) == ["succeeded"] * 3
    assert set(times_sent(world).values()) == {1}


async def test_a_large_stranger_of_our_kind_is_read_in_pieces(world: World) -> None:
    """Another daemon's batch in the same workspace: it looks like ours and none of it is."""
    [known] = await world.accept(1)
    made = copy(world)
    theirs = new_nonce()
    ids = [f"0198f0c2-5b1e-7c3a-9d5e-{n:012x}" for n in range(1_300)]
    other = world.upstream.make([custom_id(theirs, id) for id in ids])
    world.upstream.end(other)
    await put_back(world, made)
    asked: list[int] = []
    store = world.shop.store
    looked_up = store.first_known

    async def counted(request_ids: Iterable[str]) -> str | None:
        asked.append(len(list(request_ids)))
        return await looked_up(list(request_ids))

    store.first_known = counted  # type: ignore[method-assign]
    await world.look()
    assert sum(asked) == 1_300 and max(asked) <= 500
    await over(world)
    world.upstream.batches.remove(other)
    await world.send()
    await world.finished()
    assert await world.shop.states([known]) == ["succeeded"]
    assert (await world.shop.result(known)).body == SUCCEEDED
    assert await world.shop.store.batch_by_nonce(theirs) is None
    assert UpstreamId(other.id) in (await world.shop.store.known_ids(after(world.clock.now(), -10_000))).settled
