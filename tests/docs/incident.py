"""A database after a bad night, for docs/operations.md: each of its questions has its answer in here.

python -m tests.docs.incident FILE     makes one to try the page on
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tests.store.support import EXPIRED, INVALID, SUCCEEDED, URL, Shop, line, new, open_shop, sighting
from unhurried.clock import Ms, SystemClock, after
from unhurried.domain.delivering import Gone, TryAgain
from unhurried.store.sqlite import StoreConfig

HOUR = 3_600.0
WANTED = "page-7"
"""The custom_id that a caller asks about."""


@dataclass(frozen=True)
class Night:
    """What the page's answers should name."""

    unknown: str
    expiring: str
    collected: str
    asked: str
    """Id of the request with ``WANTED``."""


async def bad_night(path: Path, now: Ms, base_url: str = URL) -> Night:
    """Make the database at ``path``, as a kill leaves it at ``now``."""
    shop = await open_shop(path, after(now, -48 * HOUR), StoreConfig(readers=1), recover=False)
    try:
        await shop.store.bind_account(base_url, after(now, -48 * HOUR))
        collected = await _nightly(shop, after(now, -30 * HOUR))
        expiring, asked = await _content(shop, after(now, -22.5 * HOUR))
        await _orders(shop, after(now, -5 * HOUR), now)
        unknown = await _reports(shop, after(now, -0.4 * HOUR))
        await _classification(shop, after(now, -0.2 * HOUR))
        reason = "401 authentication_error: invalid x-api-key"
        await shop.store.pause_account(reason, after(now, 600), "submission", after(now, -60))
    finally:
        await shop.close(clean=False, now=now)
    return Night(unknown=unknown, expiring=expiring, collected=collected, asked=asked)


async def _nightly(shop: Shop, then: Ms) -> str:
    """Ended: some succeeded, some were refused one by one, some expired for the last time; nobody has fetched them."""
    await shop.some(20, then, queue="nightly", attempts_max=1, max_wait=20 * HOUR)
    batch = await shop.end("msgbatch_nightly", then)
    ids = await shop.members(batch)
    lines = [line(batch, id, INVALID if n < 5 else EXPIRED if n < 8 else SUCCEEDED) for n, id in enumerate(ids)]
    await shop.store.store_results(batch.id, lines, after(then, 6 * HOUR))
    while not await shop.store.finish_collecting(batch.id, 100, after(then, 6 * HOUR)):
        pass
    return batch.id


async def _content(shop: Shop, then: Ms) -> tuple[str, str]:
    """Upstream for almost a day."""
    await shop.some(29, then, queue="content", max_wait=40 * HOUR)
    [asked] = await shop.some(1, then, queue="content", custom_id=WANTED, max_wait=40 * HOUR)
    batch = await shop.submit("msgbatch_content", then)
    await shop.store.record_seen(batch.id, sighting(batch, "msgbatch_content", now=then), then)
    return batch.id, asked


async def _orders(shop: Shop, then: Ms, now: Ms) -> None:
    """Answered, and their receivers are in trouble: one is down, another wants no more."""
    store = shop.store
    for name, url in (("webhook:orders", "https://orders.example/hook"), ("webhook:old", "https://old.example/hook")):
        await store.put_webhook(name, url, ["env:WEBHOOK_SECRET"], None, "uid:1000", then)
        count = 6 if name == "webhook:orders" else 2
        await shop.take(*(replace(new(then, queue="orders"), deliver_to=name) for _ in range(count)))
    batch = await shop.end("msgbatch_orders", then)
    lines = [line(batch, id) for id in await shop.members(batch)]
    await store.store_results(batch.id, lines, after(then, HOUR))
    await store.finish_collecting(batch.id, 100, after(then, HOUR))
    moment = after(then, HOUR + 1)
    down = TryAgain(detail="https://orders.example: connection refused")
    for found in await store.open_webhooks():
        outcome = down if found.name == "webhook:orders" else Gone(detail="the receiver answered 410 Gone")
        for claimed in await store.claim({found.id: 6}, 600, moment):
            await store.record_outcome(
                claimed, outcome, next_lease_s=None, jitter=0.5, disable_after_s=432_000, now=moment
            )
    await shop.ask("update deliveries set attempts = 9, due_at = ? where seq = 21", moment)  # it has had all but one
    [found] = await store.open_webhooks()
    [last] = [one for one in await store.claim({found.id: 6}, 600, after(now, -60)) if one.seq == 21]
    await store.record_outcome(last, down, next_lease_s=None, jitter=0.5, disable_after_s=432_000, now=after(now, -60))


async def _reports(shop: Shop, then: Ms) -> str:
    """The create was cut off after its last byte."""
    await shop.some(40, then, queue="reports")
    return (await shop.doubt(after(then, 1))).id


async def _classification(shop: Shop, then: Ms) -> None:
    """Somebody paused the queue, and went to bed."""
    await shop.some(25, then, queue="classification")
    await shop.store.pause_queue("classification", "budget: ask Mira", "uid:1001", then)


if __name__ == "__main__":
    print(asyncio.run(bad_night(Path(sys.argv[1]), SystemClock().now())))
