"""Forming a batch in small commits, and the body that is read back from it."""

import json
from pathlib import Path

import pytest

from tests.store.support import NOW, Shop, line, new, open_shop, sighting
from unhurried.clock import after
from unhurried.domain.batch import BODY_HEAD, BODY_TAIL, Batch, BatchId, body_bytes, custom_id, new_nonce
from unhurried.domain.grouping import Order, Why
from unhurried.domain.states import BatchState
from unhurried.store.sqlite import forming


async def body(shop: Shop, batch: Batch, bytes_page: int = 1_000_000) -> list[bytes]:
    return [page async for page in shop.store.body(batch, bytes_page=bytes_page)]


async def test_members_are_taken_by_priority_then_age(shop: Shop) -> None:
    low = await shop.some(2, priority=-1)
    high = await shop.some(2, after(NOW, 5), priority=5)
    old = await shop.some(1, after(NOW, -5))
    plain = await shop.some(1)
    batch = await shop.form(requests_max=4)
    assert set(await shop.members(batch)) == {*high, *old, *plain}
    assert await shop.states(low) == ["queued", "queued"]
    [group] = await shop.store.groups()
    assert (group.requests, group.oldest_at) == (2, NOW)


async def test_the_oldest_of_a_group_is_found_behind_every_priority(shop: Shop) -> None:
    for priority, age_s in ((9, 1), (0, 50), (-9, 20)):
        await shop.some(1, after(NOW, -age_s), priority=priority)
    [group] = await shop.store.groups()
    assert group.oldest_at == after(NOW, -50)


async def test_a_batch_grows_in_chunks_and_is_whole_in_the_end(shop: Shop) -> None:
    await shop.some(10)
    batch_id = await begin(shop)
    added = []
    while n := await shop.store.add_members(batch_id, requests_max=8, bytes_max=10**9, chunk=3, now=NOW):
        added.append(n)
        await shop.check()
    assert added == [3, 3, 2]
    batch = await shop.store.complete_batch(batch_id, NOW)
    assert batch is not None and (batch.requests, batch.state) == (8, BatchState.FORMING)
    assert await shop.store.add_members(batch_id, requests_max=9, bytes_max=10**9, chunk=3, now=NOW) == 0
    assert await shop.store.complete_batch(batch_id, NOW) is None


async def test_a_batch_keeps_its_limit_of_bytes(shop: Shop) -> None:
    await shop.some(10)
    size = len(new().params)
    limit = body_bytes(4, 4 * size)
    assert (await shop.form(bytes_max=limit)).requests == 4
    assert (await shop.form(bytes_max=limit - 1)).requests == 3
    assert (await shop.form(bytes_max=limit, chunk=1)).requests == 3


async def test_one_that_is_larger_than_any_batch_goes_alone(shop: Shop) -> None:
    await shop.take(new(params={"system": "x" * 5_000}), new())
    assert (await shop.form(bytes_max=1_000)).requests == 1
    assert (await shop.form(bytes_max=1_000)).requests == 1


async def test_a_batch_of_nothing_is_dissolved(shop: Shop) -> None:
    [request_id] = await shop.some(1)
    batch_id = await begin(shop)
    await shop.store.cancel(request_id, "test", NOW)
    assert await shop.store.add_members(batch_id, requests_max=9, bytes_max=10**9, chunk=9, now=NOW) == 0
    assert await shop.store.complete_batch(batch_id, NOW) is None
    view = await shop.store.batch(batch_id)
    assert view is not None and view.state is BatchState.DISSOLVED


async def test_a_half_formed_batch_is_found_after_a_kill(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "a.db")
    await shop.some(5)
    batch_id = await begin(shop)
    await shop.store.add_members(batch_id, requests_max=9, bytes_max=10**9, chunk=2, now=NOW)
    await shop.close(clean=False)
    shop = await open_shop(tmp_path / "a.db")
    try:
        assert list(await shop.store.unfinished()) == [batch_id]
        batch = await shop.store.complete_batch(batch_id, NOW)
        assert batch is not None and batch.requests == 2
        assert list(await shop.store.unfinished()) == []
        await shop.check()
    finally:
        await shop.close()


async def test_a_digest_over_other_members_does_not_seal(shop: Shop) -> None:
    """Between taking the digest and writing it, a member may come or go."""
    await shop.some(3)
    batch_id = await begin(shop)
    await shop.store.add_members(batch_id, requests_max=9, bytes_max=10**9, chunk=9, now=NOW)
    assert await shop.write(lambda tx: forming.complete_batch(tx, batch_id, b"stale", 2, NOW)) is None
    assert await shop.store.complete_batch(batch_id, NOW) is not None


@pytest.mark.parametrize("bytes_page", [1, 100, 130, 260, 1_000, 4_096, 10**9])
async def test_the_body_has_the_length_that_was_promised(shop: Shop, bytes_page: int) -> None:
    """For any size of page: valid JSON, members in their order, the callers' bytes."""
    requests = [new(params={"system": "é" * (i * 7 % 90)}) for i in range(23)]
    await shop.take(*requests)
    batch = await shop.form()
    pages = await body(shop, batch, bytes_page)
    whole = b"".join(pages)
    assert len(whole) == batch.body_bytes
    members = json.loads(whole)["requests"]
    assert [member["custom_id"] for member in members] == [
        custom_id(batch.nonce, id) for id in await shop.members(batch)
    ]
    for request in requests:
        assert (
            b'{"custom_id":"%s","params":%s}' % (custom_id(batch.nonce, request.id).encode(), request.params) in whole
        )
    assert (pages[0], pages[-1]) == (BODY_HEAD, BODY_TAIL)
    assert len(pages) == 25 if bytes_page == 1 else len(pages) <= 25


async def test_no_reader_is_held_while_a_page_is_on_its_way(shop: Shop) -> None:
    """There is one reading connection here, and it is free between two pages."""
    await shop.some(5)
    batch = await shop.form()
    async for _ in shop.store.body(batch, bytes_page=1):
        assert await shop.store.batch(batch.id) is not None


async def test_the_last_member_is_dropped_to_tell_two_sizes_apart(shop: Shop) -> None:
    await shop.some(3)
    batch = await shop.form()
    last = (await shop.members(batch))[-1]
    smaller = await shop.store.drop_last_member(batch.id, NOW)
    assert smaller is not None and smaller.requests == 2
    assert await shop.state(last) == "queued"
    assert len(b"".join(await body(shop, smaller))) == smaller.body_bytes
    await shop.check()
    assert await shop.store.drop_last_member(batch.id, NOW) is not None
    assert await shop.store.drop_last_member(batch.id, NOW) is None  # none is left to drop
    assert await shop.batch_state(batch) == "forming"


async def test_a_dropped_member_that_was_to_be_canceled_is_canceled(shop: Shop) -> None:
    """And counts no more among those that want their batch canceled: the others still want their results."""
    await shop.some(2)
    batch = await shop.form()
    first, last = await shop.members(batch)
    await shop.store.cancel(last, "test", NOW)
    smaller = await shop.store.drop_last_member(batch.id, NOW)
    assert smaller is not None and smaller.requests == 1
    assert await shop.states([first, last]) == ["assigned", "canceled"]
    assert await shop.ask("select cancels from batches") == [(0,)]


async def test_a_dropped_member_that_a_late_twin_has_answered_keeps_its_outcome(shop: Shop) -> None:
    await shop.some(2)
    twin = await late_twin(shop)
    batch = await shop.form()
    _, last = await shop.members(batch)
    await shop.store.store_results(twin.id, [line(twin, last)], NOW)
    await shop.check()
    smaller = await shop.store.drop_last_member(batch.id, NOW)
    assert smaller is not None and smaller.requests == 1
    assert await shop.state(last) == "succeeded"


async def late_twin(shop: Shop) -> Batch:
    """All that waits, in a batch that was given up and then turned up ended; the requests wait again."""
    twin = await shop.doubt()
    await shop.store.abandon(twin.id, "missing", NOW)
    await shop.release()
    await shop.store.harvest_twin(twin.id, sighting(twin, "late", ended=True), NOW)
    return twin


async def begin(shop: Shop) -> BatchId:
    [group] = await shop.store.groups()
    order = Order(group=group, requests_max=9, bytes_max=10**9, why=Why.LINGER)
    return await shop.store.begin_batch(order, new_nonce(), NOW)
