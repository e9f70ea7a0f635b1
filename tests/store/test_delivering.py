"""Handing results out under a lease, and having them confirmed."""

from pathlib import Path

from tests.store.support import NOW, Shop, line, new, open_shop
from unhurried.clock import after
from unhurried.domain.states import RequestState


async def done(shop: Shop, count: int, upstream_id: str = "u1") -> list[str]:
    """So many requests with an outcome, oldest first."""
    await shop.some(count)
    batch = await shop.end(upstream_id)
    ids = await shop.members(batch)
    await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    return ids


async def test_a_result_is_leased_and_confirmed(shop: Shop) -> None:
    [request_id] = await done(shop, 1)
    [handed] = await shop.pull()
    assert (handed.delivery_id, handed.request_id, handed.attempt) == (f"{request_id}.1", request_id, 1)
    assert handed.state is RequestState.SUCCEEDED
    assert list(await shop.pull()) == []
    acked = await shop.store.ack([f"{request_id}.1", f"{request_id}.2", "nonsense", ""], "ack", NOW)
    assert (acked.confirmed, acked.already) == ([f"{request_id}.1"], [])
    assert list(acked.unknown) == [f"{request_id}.2", "nonsense", ""]
    assert (await shop.store.ack([f"{request_id}.1"], "ack", NOW)).already == [f"{request_id}.1"]
    assert await shop.store.return_lapsed(after(NOW, 9_999)) == (0, None)


async def test_a_lease_that_runs_out_makes_the_result_available_again(shop: Shop) -> None:
    [request_id] = await done(shop, 1)
    await shop.pull(lease_s=60)
    assert await shop.store.return_lapsed(after(NOW, 59)) == (0, after(NOW, 60))
    assert list(await shop.pull(after(NOW, 59))) == []
    assert await shop.store.return_lapsed(after(NOW, 60)) == (1, None)
    [handed] = await shop.pull(after(NOW, 60))
    assert (handed.delivery_id, handed.attempt) == (f"{request_id}.1", 2)


async def test_an_ack_is_valid_after_the_lease_too(shop: Shop) -> None:
    [request_id] = await done(shop, 1)
    await shop.pull()
    await shop.store.return_lapsed(after(NOW, 60))
    assert (await shop.store.ack([f"{request_id}.1"], "ack", after(NOW, 61))).confirmed
    assert list(await shop.pull(after(NOW, 61))) == []


async def test_an_ack_named_twice_in_one_call_counts_once(shop: Shop) -> None:
    [request_id] = await done(shop, 1)
    acked = await shop.store.ack([f"{request_id}.1"] * 2, "ack", NOW)
    assert (len(acked.confirmed), len(acked.already)) == (1, 1)


async def test_results_come_oldest_first_within_limits(shop: Shop) -> None:
    ids = await done(shop, 5)
    assert [handed.request_id for handed in await shop.pull(limit=2)] == ids[:2]
    size = len((await shop.result(ids[2])).body)
    handed = await shop.store.pull("pull:default", limit=9, bytes_max=2 * size, lease_s=1, now=NOW)
    assert [one.request_id for one in handed] == ids[2:4]
    handed = await shop.store.pull("pull:default", limit=9, bytes_max=1, lease_s=1, now=NOW)
    assert [one.request_id for one in handed] == ids[4:]  # at least one


async def test_destinations_do_not_see_each_others_results(shop: Shop) -> None:
    await shop.take(new(deliver_to="pull:mine"))
    batch = await shop.end()
    await shop.store.store_results(batch.id, [line(batch, shop.ids[0])], NOW)
    assert list(await shop.pull()) == []
    assert list(await shop.store.pull("pull:nobody", limit=1, bytes_max=1, lease_s=1, now=NOW)) == []
    [handed] = await shop.store.pull("pull:mine", limit=1, bytes_max=1, lease_s=1, now=NOW)
    assert handed.request_id == shop.ids[0]


async def test_what_an_older_daemon_handed_out_is_available_at_once(tmp_path: Path) -> None:
    """By epoch: no clock takes part."""
    shop = await open_shop(tmp_path / "a.db")
    ids = await done(shop, 2)
    await shop.pull(lease_s=10**6, limit=1)
    await shop.close(clean=False)
    shop = await open_shop(tmp_path / "a.db", recover=False)
    try:
        assert [one.request_id for one in await shop.pull()] == ids[1:]
        assert (await shop.store.recover(NOW))["deliveries_pending"] == 1
        [handed] = await shop.pull()
        assert (handed.request_id, handed.attempt) == (ids[0], 2)
        await shop.check()
    finally:
        await shop.close()


async def test_a_cancel_in_the_queue_is_delivered_too(shop: Shop) -> None:
    [request_id] = await shop.some(1)
    view = await shop.store.cancel(request_id, "test", NOW)
    assert view is not None and view.state is RequestState.CANCELED
    [handed] = await shop.pull()
    assert (handed.request_id, handed.body) == (request_id, b'{"type":"canceled"}')
    assert await shop.store.cancel("no such id", "test", NOW) is None
