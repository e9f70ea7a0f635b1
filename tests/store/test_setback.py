"""A clock that was set back: what is to happen by itself does not wait for as much longer."""

import json
from pathlib import Path

import pytest

from tests.store.support import EXPIRED, NOW, line, open_shop, shop_at
from unhurried.clock import Ms, after

DAY = 86_400.0


@pytest.mark.parametrize("restarted", [False, True])
async def test_pauses_and_leases_are_moved_with_the_clock(tmp_path: Path, restarted: bool) -> None:
    """A lease, the pause before a second attempt and one before results are read again, begun on a clock that was a
    day ahead. What the caller asked for stays where it was in the calendar."""
    ahead = after(NOW, DAY)
    path = tmp_path / "unhurried.db"
    shop = await open_shop(path, ahead)
    [asked] = await shop.some(1, ahead, not_before=json.loads('"2027-01-01T00:00:00Z"'))
    [retried, done] = await shop.some(2, ahead)
    batch = await shop.end(now=ahead)
    await shop.store.store_results(batch.id, [line(batch, retried, EXPIRED), line(batch, done)], ahead)
    await shop.store.record_read_failure(batch.id, "broken", after(ahead, 60), ahead)
    await shop.store.pull("pull:default", limit=5, bytes_max=10**6, lease_s=60, now=ahead)
    await shop.store.record_alive(ahead)
    not_before = await shop.ask("select waits_until from requests where id = ?", asked)
    if restarted:
        await shop.close(clean=False)
        shop = await open_shop(path, NOW)
    else:
        await shop.store.record_alive(NOW)
    try:
        soon = after(NOW, 3_600)
        assert (await shop.ask("select waits_until from requests where id = ?", asked)) == not_before
        [(waits,)] = await shop.ask("select waits_until from requests where id = ?", retried)
        assert NOW <= waits <= soon
        [(next_try,)] = await shop.ask("select next_try_at from batches")
        assert NOW <= next_try <= soon
        [(leased,)] = await shop.ask("select due_at from deliveries")
        assert leased <= soon
    finally:
        await shop.close()


async def test_a_clock_that_is_put_right_by_a_moment_moves_nothing(tmp_path: Path) -> None:
    async with shop_at(tmp_path) as shop:
        [id] = await shop.some(1)
        batch = await shop.end()
        await shop.store.store_results(batch.id, [line(batch, id)], NOW)
        await shop.store.pull("pull:default", limit=5, bytes_max=10**6, lease_s=60, now=NOW)
        await shop.store.record_alive(NOW)
        before = await shop.ask("select due_at from deliveries")
        await shop.store.record_alive(Ms(NOW - 1_000))
        assert await shop.ask("select due_at from deliveries") == before
