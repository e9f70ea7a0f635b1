"""Delivering again at an operator's word: a new delivery takes the place of the old one."""

from collections.abc import Collection

import pytest

from tests.store.support import NOW, Shop
from tests.store.test_sending import APP, DAY, OK, OTHER, add, claim, counts, done, record, view
from unhurried.clock import Ms, after
from unhurried.domain.delivering import TryAgain
from unhurried.domain.states import DeliveryState
from unhurried.store.errors import NotRedeliverable
from unhurried.store.records import DeliveryFilter
from unhurried.store.sqlite import destinations

DEAD, PENDING, DELIVERED, CANCELED = (
    DeliveryState.DEAD, DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.CANCELED
)  # fmt: skip


async def kill(shop: Shop, count: int, upstream_id: str = "u1", name: str = APP, now: Ms = NOW) -> list[str]:
    """So many deliveries that have had all their attempts."""
    ids = await done(shop, count, name, upstream_id=upstream_id, now=now)
    await shop.ask("update deliveries set attempts = 9 where state = 'pending'")
    while claimed := await claim(shop, 100, name, now=now):
        for one in claimed:
            await record(shop, one, TryAgain(detail="500", status=500), now)
            await shop.store.pause_destination(name, "to close the breaker", "test", now)
            await shop.store.resume_destination(name, "test", now)
    return ids


async def again(
    shop: Shop, states: Collection[DeliveryState], name: str = APP, since: Ms | None = None, *, dry_run: bool = False
) -> int:
    wanted = DeliveryFilter(destination=name, states=frozenset(states), since=since)
    cursor: tuple[int, int] | None = None
    found = 0
    while True:
        step = await shop.store.redeliver_many(wanted, cursor, "test", NOW, dry_run=dry_run)
        found += step.deliveries
        if (cursor := step.cursor) is None:
            return found


async def test_a_dead_delivery_gets_a_successor_with_all_its_attempts(shop: Shop) -> None:
    await add(shop)
    [dead] = await kill(shop, 1)
    assert await counts(shop) == {"dead": 1}
    made = await shop.store.redeliver(dead, "uid:7", after(NOW, 5))
    assert made is not None
    assert (made.id, made.state, made.attempts, made.due_at) == (dead[:-1] + "2", PENDING, 0, after(NOW, 5))
    assert (await view(shop, dead)).state is CANCELED
    [event] = await shop.store.events(made.id, 10)
    assert (event.actor, event.what, event.detail) == ("uid:7", "delivery.again", f"in place of {dead}, which was dead")
    [claimed] = await claim(shop, 5, now=after(NOW, 5))
    assert (claimed.parcel.delivery_id, claimed.parcel.attempt) == (made.id, 1)
    await record(shop, claimed, OK)
    assert await counts(shop) == {"canceled": 1, "delivered": 1}


async def test_a_delivered_one_stays_delivered_and_is_delivered_again(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    [claimed] = await claim(shop)
    await record(shop, claimed, OK)
    made = await shop.store.redeliver(delivery, "test", NOW)
    assert made is not None and made.state is PENDING
    assert (await view(shop, delivery)).state is DELIVERED
    assert await counts(shop) == {"delivered": 1, "pending": 1}


async def test_a_pending_one_need_not_wait_for_its_next_attempt(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    [claimed] = await claim(shop)
    await record(shop, claimed, TryAgain(detail="500", status=500, retry_after_s=DAY))
    assert await claim(shop, now=after(NOW, 3_600)) == []
    assert await again(shop, [PENDING]) == 1
    [claimed] = await claim(shop)
    assert claimed.parcel.delivery_id == delivery[:-1] + "2"


async def test_what_is_under_way_or_was_replaced_is_refused_with_the_reason(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    [claimed] = await claim(shop)
    with pytest.raises(NotRedeliverable, match="being delivered just now"):
        await shop.store.redeliver(delivery, "test", NOW)
    await record(shop, claimed, OK)
    assert await shop.store.redeliver(delivery, "test", NOW) is not None
    with pytest.raises(NotRedeliverable, match=rf"{delivery[:-1]}2 took its place"):
        await shop.store.redeliver(delivery, "test", NOW)
    assert await shop.store.redeliver("no such.1", "test", NOW) is None
    assert await shop.store.redeliver("nonsense", "test", NOW) is None


async def test_a_result_that_was_taken_out_cannot_be_delivered_again(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    [claimed] = await claim(shop)
    await record(shop, claimed, OK)
    kept = await shop.ask("select * from results")
    await shop.ask("delete from results")
    with pytest.raises(NotRedeliverable, match="no result any more"):
        await shop.store.redeliver(delivery, "test", NOW)
    assert await again(shop, [DELIVERED]) == 0
    await shop.ask(f"insert into results values ({', '.join('?' * len(kept[0]))})", *kept[0])  # for the last check


async def test_many_are_delivered_again_by_destination_state_and_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "REDELIVER_CHUNK", 2)
    monkeypatch.setattr(destinations, "WINDOW_ROWS", 3)
    await add(shop)
    await add(shop, OTHER)
    old = await kill(shop, 3)
    await kill(shop, 2, "u2", OTHER)
    late = await kill(shop, 4, "u3", now=after(NOW, DAY))
    assert await again(shop, [DEAD], dry_run=True) == 7
    assert await counts(shop) == {"dead": 7}
    assert await again(shop, [DEAD], since=after(NOW, DAY)) == 4
    assert await again(shop, [DEAD], since=after(NOW, DAY)) == 0  # a walk that is repeated finds nothing twice
    assert await counts(shop) == {"dead": 3, "canceled": 4, "pending": 4}
    assert await counts(shop, OTHER) == {"dead": 2}
    assert {one.parcel.delivery_id for one in await claim(shop, 9)} == {id[:-1] + "2" for id in late}
    assert await again(shop, [DEAD, DELIVERED, PENDING]) == 3
    assert {(await view(shop, id)).state for id in old} == {CANCELED}


async def test_of_a_result_that_was_delivered_twice_only_the_newest_is_found(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    for _ in range(2):
        [claimed] = await claim(shop)
        await record(shop, claimed, OK)
        await again(shop, [DELIVERED])
    assert await counts(shop) == {"delivered": 2, "pending": 1}
    assert await again(shop, [DELIVERED], dry_run=True) == 0  # its newest one is pending
    assert await again(shop, [PENDING]) == 1
    assert (await view(shop, delivery[:-1] + "4")).state is PENDING


async def test_a_walk_does_not_meet_what_it_has_made(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is found makes another at the end, in a state that was asked for."""
    monkeypatch.setattr(destinations, "REDELIVER_CHUNK", 1)
    await add(shop)
    await done(shop, 3)
    assert await again(shop, [PENDING]) == 3
    assert await counts(shop) == {"pending": 3, "canceled": 3}


async def test_pulled_results_can_be_had_again_too(shop: Shop) -> None:
    [delivery] = await done(shop, 1, "pull:mine")
    await shop.store.ack([delivery], "ack", NOW)
    assert await again(shop, [DELIVERED], "pull:mine") == 1
    [handed] = await shop.store.pull("pull:mine", limit=1, bytes_max=1, lease_s=1, now=NOW)
    assert handed.delivery_id == delivery[:-1] + "2"


async def test_deliveries_are_listed_newest_first_in_pages_and_can_be_narrowed_down(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "WINDOW_ROWS", 4)
    await add(shop)
    await add(shop, OTHER)
    dead = await kill(shop, 3)
    others = await done(shop, 5, OTHER, upstream_id="u2", now=after(NOW, DAY))

    async def listed(limit: int = 2, **filter: object) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await shop.store.deliveries(DeliveryFilter(**filter), cursor, limit)  # type: ignore[arg-type]
            found += [one.id for one in page.deliveries]
            if (cursor := page.cursor) is None:
                return found

    assert await listed() == [*others[::-1], *dead[::-1]]
    assert await listed(destination=APP) == dead[::-1]
    assert await listed(states=frozenset({DEAD})) == dead[::-1]
    assert await listed(since=after(NOW, DAY)) == others[::-1]
    assert await listed(destination=OTHER, states=frozenset({DEAD})) == []


async def test_a_delivery_is_shown_with_its_request(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    shown = await view(shop, delivery)
    assert (shown.destination, shown.queue, shown.request_id) == (APP, "default", delivery[:-2])
    assert (shown.request_state, shown.state, shown.attempts) == ("succeeded", PENDING, 0)
    assert await shop.store.delivery(delivery[:-1] + "2") is None


async def test_what_was_erased_is_not_delivered_again(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    [claimed] = await claim(shop)
    await record(shop, claimed, OK)
    await shop.store.erase(claimed.parcel.request_id, "test", NOW)
    with pytest.raises(NotRedeliverable, match="no result any more"):
        await shop.store.redeliver(delivery, "test", NOW)
    assert await again(shop, [DELIVERED, CANCELED]) == 0


async def test_an_ack_ends_a_delivery_that_had_been_given_up(shop: Shop) -> None:
    await add(shop)
    [dead] = await kill(shop, 1)
    acked = await shop.store.ack([dead], "ack", NOW)
    assert list(acked.confirmed) == [dead]
    assert await counts(shop) == {"delivered": 1}
