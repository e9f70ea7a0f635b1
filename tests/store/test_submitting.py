"""Intents, and the outcomes of a create: accepted, refused in its variants, unknown."""

from pathlib import Path

import pytest

from tests.store.support import NOW, Shop, new, open_shop, sighting
from unhurried.clock import after
from unhurried.domain.batch import Batch, UpstreamId
from unhurried.domain.submitting import No, Refused


def no(kind: No, culprit: int | None = None, error: bytes = b"") -> Refused:
    return Refused(kind=kind, detail=f"400 {kind}", culprit=culprit, error=error)


async def refuse(shop: Shop, batch: Batch, refused: Refused) -> None:
    await shop.store.record_refused(batch.id, refused, None, NOW)
    await shop.check()
    await shop.release()
    await shop.check()


async def test_the_intent_is_recorded_once(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.form()
    assert await shop.store.next_formed() == batch
    assert await shop.store.formed_ahead() == 1
    assert await shop.store.record_submission(batch.id, NOW, NOW) is not None
    assert await shop.store.record_submission(batch.id, NOW, NOW) is None
    assert await shop.store.next_formed() is None
    assert await shop.store.sizes_in_doubt() == {1}
    assert await shop.store.waiting_upstream() == 1


async def test_the_most_urgent_formed_batch_goes_first(shop: Shop) -> None:
    await shop.take(new(), new(max_wait=60))
    batches = [await shop.form() for _ in range(2)]
    urgent = await shop.store.next_formed()
    assert urgent is not None and await shop.members(urgent) == [shop.ids[1]]
    assert {batch.id for batch in batches} > {urgent.id}


async def test_a_confirmed_batch_submits_its_members(shop: Shop) -> None:
    ids = await shop.some(2)
    batch = await shop.intend()
    assert await shop.states(ids) == ["assigned", "assigned"]
    await shop.store.pause_account("429", after(NOW, 5), "test", NOW)
    await shop.store.record_created(batch.id, UpstreamId("u1"), NOW, NOW)
    assert await shop.states(ids) == ["submitted", "submitted"]
    account = await shop.store.account()
    assert account is not None and (account.paused, account.refusals) == (False, 0)
    status = await shop.store.status()
    assert status.requests == {"default": {"submitted": 2}}


async def test_a_killed_submission_is_unknown_at_the_next_start(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "a.db")
    ids = await shop.some(2)
    batch = await shop.intend()
    await shop.close(clean=False)
    shop = await open_shop(tmp_path / "a.db", recover=False)
    try:
        assert "nothing is owned by nobody" in {complaint.invariant for complaint in await shop.store.complaints()}
        assert (await shop.store.recover(NOW))["batches_unknown"] == 1
        assert (await shop.store.recover(NOW))["batches_unknown"] == 0
        assert await shop.batch_state(batch) == "unknown"
        assert await shop.states(ids) == ["assigned", "assigned"]
        assert [doubt.batch.id for doubt in await shop.store.doubts()] == [batch.id]
        await shop.check()
    finally:
        await shop.close()


async def test_a_batch_that_is_too_large_halves_the_bytes_of_its_group(shop: Shop) -> None:
    ids = await shop.some(8)
    batch = await shop.intend()
    params = sum(len(new().params) for _ in range(8))
    await refuse(shop, batch, no(No.TOO_LARGE))
    assert await shop.states(ids) == ["queued"] * 8
    [group] = await shop.store.groups()
    assert group.bytes_cap == params // 2
    smaller = await shop.intend(bytes_max=group.bytes_cap)
    assert 1 <= smaller.requests <= 4
    await refuse(shop, smaller, no(No.TOO_LARGE))
    [group] = await shop.store.groups()
    assert group.bytes_cap is not None and group.bytes_cap < params // 2


async def test_one_that_is_too_large_by_itself_is_errored(shop: Shop) -> None:
    [request_id] = await shop.some(1)
    await refuse(shop, await shop.intend(), no(No.TOO_LARGE))
    assert await shop.state(request_id) == "errored"
    assert b"request_too_large" in (await shop.result(request_id)).body
    assert await shop.ask("select bytes_cap from groups") == [(None,)]


async def test_the_culprit_is_errored_and_the_rest_goes_back(shop: Shop) -> None:
    await shop.some(4, after(NOW, -9))
    batch = await shop.intend()
    ids = await shop.members(batch)
    await refuse(shop, batch, no(No.CULPRIT, 2, b'{"type":"invalid_request_error","message":"m"}'))
    assert await shop.states(ids) == ["queued", "queued", "errored", "queued"]
    body = (await shop.result(ids[2])).body
    assert body == b'{"type":"errored","error":{"type":"error","error":{"type":"invalid_request_error","message":"m"}}}'
    [group] = await shop.store.groups()
    assert (group.requests, group.requests_cap) == (3, None)
    assert group.oldest_at == after(NOW, -9)  # they have waited already, and a lost batch costs no attempt
    view = await shop.store.request(ids[0])
    assert view is not None and view.attempts == 0
    assert [handed.request_id for handed in await shop.pull()] == [ids[2]]


@pytest.mark.parametrize("size", [2, 3, 7, 8])
@pytest.mark.parametrize("bad", [0, 1])
async def test_an_unexplained_no_is_bisected_until_the_culprit_is_alone(shop: Shop, size: int, bad: int) -> None:
    """Every refused half is halved again; what upstream takes goes on."""
    ids = await shop.some(size)
    culprit = ids[-1] if bad else ids[0]
    creates = 0
    while groups := await shop.store.groups():
        group = groups[0]
        batch = await shop.intend(requests_max=group.requests_cap or 100)
        creates += 1
        if culprit in await shop.members(batch):
            await refuse(shop, batch, no(No.UNEXPLAINED))
        else:
            await shop.store.record_created(batch.id, UpstreamId(f"u{creates}"), NOW, NOW)
    assert await shop.state(culprit) == "errored"
    assert sorted(await shop.states(ids)) == ["errored", *["submitted"] * (size - 1)]
    assert creates <= 2 * size.bit_length() + 2


async def test_a_named_place_beyond_the_batch_is_unexplained(shop: Shop) -> None:
    ids = await shop.some(4)
    await refuse(shop, await shop.intend(), no(No.CULPRIT, 17))
    assert await shop.states(ids) == ["queued"] * 4
    assert [group.requests_cap for group in await shop.store.groups()] == [2]


@pytest.mark.parametrize("kind", [No.ACCOUNT, No.UNREACHABLE, No.CUT_SHORT])
async def test_other_refusals_bring_all_members_back(shop: Shop, kind: No) -> None:
    ids = await shop.some(3)
    batch = await shop.intend()
    await shop.store.record_refused(batch.id, no(kind), after(NOW, 60), NOW)
    account = await shop.store.account()
    assert account is not None and account.is_paused(NOW) and not account.is_paused(after(NOW, 60))
    await shop.release()
    assert await shop.states(ids) == ["queued"] * 3
    assert [(group.requests_cap, group.bytes_cap) for group in await shop.store.groups()] == [(None, None)]
    assert await shop.store.resume_account("test", NOW)
    assert not await shop.store.resume_account("test", NOW)


async def test_a_flagged_member_of_a_refused_batch_is_canceled(shop: Shop) -> None:
    await shop.some(3)
    batch = await shop.intend()
    ids = await shop.members(batch)
    await shop.store.cancel(ids[1], "test", NOW)
    await shop.store.cancel(ids[1], "test", NOW)
    assert await shop.ask("select cancels from batches") == [(1,)]
    await refuse(shop, batch, no(No.ACCOUNT))
    assert await shop.states(ids) == ["queued", "canceled", "queued"]
    assert (await shop.result(ids[1])).body == b'{"type":"canceled"}'


async def test_members_are_released_in_chunks(shop: Shop) -> None:
    ids = await shop.some(5)
    batch = await shop.intend()
    await shop.store.record_refused(batch.id, no(No.UNEXPLAINED), None, NOW)
    moved = []
    while n := await shop.store.release_members(2, NOW):
        moved.append(n)
        await shop.check()
    assert moved == [2, 2, 1]
    assert await shop.states(ids) == ["queued"] * 5


async def test_an_answer_that_comes_too_late_changes_nothing(shop: Shop) -> None:
    """Each is guarded by the state it expects."""
    await shop.some(1)
    batch = await shop.doubt()
    told = await shop.store.events(batch.id, 100)
    await shop.store.record_unknown(batch.id, "again", NOW)
    await shop.store.record_created(batch.id, UpstreamId("u1"), NOW, NOW)
    await shop.store.record_refused(batch.id, no(No.ACCOUNT), None, NOW)
    assert await shop.store.events(batch.id, 100) == told
    assert await shop.batch_state(batch) == "unknown"


async def test_a_start_lifts_a_pause_that_a_new_credential_may_have_healed(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "a.db")
    try:
        for reason, lifted in (("401 authentication_error", 1), ("429 rate_limit_error", 0)):
            await shop.store.pause_account(reason, None, "test", NOW)
            assert (await shop.store.recover(NOW))["pauses_lifted"] == lifted
    finally:
        await shop.close()


async def test_a_doubt_keeps_what_the_settlement_saw(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.doubt()
    await shop.store.record_look(batch.id, after(NOW, 1), absent=True, window_to=after(NOW, 900), now=after(NOW, 2))
    await shop.store.record_look(batch.id, after(NOW, 11), absent=True, window_to=after(NOW, 990), now=after(NOW, 12))
    [doubt] = await shop.store.doubts()
    assert (doubt.absent_date, doubt.absent_at, doubt.window_to) == (after(NOW, 1), after(NOW, 2), after(NOW, 900))
    await shop.store.record_look(batch.id, after(NOW, 21), absent=False, window_to=after(NOW, 999), now=after(NOW, 22))
    [doubt] = await shop.store.doubts()
    assert (doubt.absent_date, doubt.absent_at, doubt.window_to) == (None, None, after(NOW, 900))


async def test_an_adopted_batch_is_held_until_it_is_proved(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.doubt()
    await shop.store.adopt(batch.id, sighting(batch, "u1"), proved=False, now=NOW)
    assert (await shop.store.known_ids(NOW)).held == {"u1"}
    await shop.store.prove(batch.id, NOW)
    known = await shop.store.known_ids(NOW)
    assert (known.held, known.settled) == (set(), {"u1"})
    await shop.store.disown(batch.id, "no", stranger=True, now=NOW)
    assert await shop.batch_state(batch) == "in_progress"  # what is proved is not given back


@pytest.mark.parametrize("stranger", [True, False])
async def test_what_is_disowned_is_in_doubt_again(shop: Shop, stranger: bool) -> None:
    ids = await shop.some(2)
    batch = await shop.doubt()
    await shop.store.adopt(batch.id, sighting(batch, "u1"), proved=False, now=NOW)
    await shop.store.record_seen(batch.id, sighting(batch, "u1", canceling=True), NOW)
    assert await shop.batch_state(batch) == "in_progress"  # a stranger's may be canceled by its owner
    await shop.store.disown(batch.id, "another nonce", stranger=stranger, now=NOW)
    assert await shop.batch_state(batch) == "unknown"
    assert await shop.states(ids) == ["assigned", "assigned"]
    assert (await shop.store.known_ids(NOW)).settled == ({"u1"} if stranger else set())
    await shop.store.adopt(batch.id, sighting(batch, "u2"), proved=True, now=NOW)
    assert await shop.states(ids) == ["submitted", "submitted"]


async def test_an_abandoned_batch_gives_its_members_back(shop: Shop) -> None:
    ids = await shop.some(2)
    batch = await shop.doubt()
    await shop.store.abandon(batch.id, "missing", NOW)
    await shop.check()
    await shop.release()
    assert await shop.states(ids) == ["queued", "queued"]
    assert [doubt.batch.id for doubt in await shop.store.given_up(NOW)] == [batch.id]
    assert list(await shop.store.given_up(after(NOW, 1))) == []
    found = await shop.store.batch_by_nonce(batch.nonce)
    assert found is not None and found.id == batch.id
