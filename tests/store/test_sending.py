"""Deliveries to webhooks: claimed, attempted, recorded; and what a destination learns from it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.store.support import NOW, SUCCEEDED, Shop, line, new, open_shop
from unhurried.clock import Ms, after
from unhurried.domain.delivering import SCHEDULE_S, Breaker, Delivered, Gone, Misconfigured, Outcome, TryAgain
from unhurried.domain.states import DeliveryState
from unhurried.store.records import Claimed, DeliveryView, Destination
from unhurried.store.sqlite import sending

APP, OTHER = "webhook:app", "webhook:other"
SECRET = "env:APP_SECRET"
OK = Delivered(status=204)
DOWN = TryAgain(detail="the receiver answered 500", status=500)
DAY = 86_400.0
MIDDLE = 0.5
"""The jitter that leaves a pause as the schedule has it."""


async def add(shop: Shop, name: str = APP, url: str = "https://app.test/hook", concurrency: int | None = None) -> bool:
    return await shop.store.put_webhook(name, url, [SECRET], concurrency, "test", NOW)


async def done(
    shop: Shop, count: int, to: str = APP, *, upstream_id: str = "u1", now: Ms = NOW, result: bytes = SUCCEEDED
) -> list[str]:
    """So many results that wait to be sent; their delivery ids."""
    await shop.take(*(new(now, deliver_to=to) for _ in range(count)))
    batch = await shop.end(upstream_id, now)
    ids = await shop.members(batch)
    await shop.store.store_results(batch.id, [line(batch, id, result) for id in ids], now)
    await shop.store.finish_collecting(batch.id, 100, now)
    return [f"{id}.1" for id in ids]


async def here(shop: Shop, name: str = APP) -> Destination:
    found = await shop.store.destination(name)
    assert found is not None
    return found


async def claim(shop: Shop, limit: int = 1, name: str = APP, *, now: Ms = NOW) -> list[Claimed]:
    return list(await shop.store.claim({(await here(shop, name)).id: limit}, 600, now))


async def record(
    shop: Shop,
    claimed: Claimed,
    outcome: Outcome,
    now: Ms = NOW,
    *,
    go_on: bool = False,
    disable_after_s: float = 5 * DAY,
) -> Claimed | None:
    return await shop.store.record_outcome(
        claimed,
        outcome,
        next_lease_s=600 if go_on else None,
        jitter=MIDDLE,
        disable_after_s=disable_after_s,
        now=now,
    )


async def view(shop: Shop, delivery_id: str) -> DeliveryView:
    found = await shop.store.delivery(delivery_id)
    assert found is not None
    return found


async def counts(shop: Shop, name: str = APP) -> Mapping[str, int]:
    return (await here(shop, name)).deliveries


async def test_what_is_due_is_claimed_with_where_it_goes(shop: Shop) -> None:
    await add(shop)
    [first, *_] = await done(shop, 3)
    [claimed] = await claim(shop)
    assert (claimed.destination, claimed.url, claimed.secrets) == (APP, "https://app.test/hook", (SECRET,))
    assert (claimed.parcel.delivery_id, claimed.parcel.attempt, claimed.parcel.result) == (first, 1, SUCCEEDED)
    assert await counts(shop) == {"pending": 2, "sending": 1}
    assert len(await claim(shop, 5)) == 2
    assert await claim(shop, 5) == []


async def test_what_arrived_is_delivered_and_the_next_one_is_claimed_with_it(shop: Shop) -> None:
    await add(shop)
    first, second = await done(shop, 2)
    [claimed] = await claim(shop)
    following = await record(shop, claimed, OK, go_on=True)
    assert following is not None and following.parcel.delivery_id == second
    assert await record(shop, following, OK, go_on=True) is None
    assert await counts(shop) == {"delivered": 2}
    shown = await view(shop, first)
    assert (shown.state, shown.confirmed_by, shown.finished_at) == (DeliveryState.DELIVERED, "webhook", NOW)
    assert shop.store.work.delivered == 2


async def forgive(shop: Shop, now: Ms) -> None:
    """A pause that ends takes all that the breaker has learned with it."""
    assert await shop.store.pause_destination(APP, "why", "test", now)
    assert await shop.store.resume_destination(APP, "test", now)


async def test_a_resume_of_one_that_fails_is_one_attempt_and_forgets_nothing(shop: Shop) -> None:
    await add(shop)
    await done(shop, 8)
    for claimed in await claim(shop, 5):
        await record(shop, claimed, DOWN)
    before = (await here(shop)).breaker
    assert (before.failures, before.failing_since, before.open_until) == (5, NOW, after(NOW, 30))
    now = after(NOW, 1)
    assert await claim(shop, 3, now=now) == []
    assert await shop.store.resume_destination(APP, "test", now) is True
    assert (await here(shop)).breaker == replace(before, open_until=now)
    assert await shop.store.resume_destination(APP, "test", now) is False  # it may be tried already
    [probe] = await claim(shop, 3, now=now)
    await record(shop, probe, DOWN, now)
    worse = (await here(shop)).breaker
    assert (worse.failures, worse.failing_since, worse.open_until) == (6, NOW, after(now, 60))
    [event] = [one for one in await shop.store.events(APP, 9) if one.what == "destination.resumed"]
    assert event.detail == "one attempt now, after 5 that failed"
    assert await shop.store.pause_destination(APP, "why", "test", now)
    assert await shop.store.resume_destination(APP, "test", now) is True
    assert (await here(shop)).breaker == Breaker()


async def test_an_attempt_that_failed_is_repeated_by_the_schedule_until_it_is_dead(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    now = NOW
    for pause_s in SCHEDULE_S:
        await forgive(shop, now)  # this is about the schedule, not about the breaker
        [claimed] = await claim(shop, now=now)
        assert await record(shop, claimed, DOWN, now, go_on=True) is None
        shown = await view(shop, delivery)
        assert (shown.state, shown.due_at) == (DeliveryState.PENDING, after(now, pause_s))
        assert (shown.last_at, shown.last_status, shown.last_error) == (now, 500, "the receiver answered 500")
        assert await claim(shop, now=after(now, pause_s - 0.001)) == []
        now = after(now, pause_s)
        await shop.check()
    await forgive(shop, now)
    [last] = await claim(shop, now=now)
    assert last.parcel.attempt == len(SCHEDULE_S) + 1 == 10
    await record(shop, last, DOWN, now)
    shown = await view(shop, delivery)
    assert (shown.state, shown.attempts, shown.finished_at) == (DeliveryState.DEAD, 10, now)
    assert await counts(shop) == {"dead": 1}
    [event] = await shop.store.events(delivery, 10)
    assert (event.what, event.detail) == ("delivery.dead", "the last of 10 attempts failed: the receiver answered 500")


async def test_a_retry_after_is_kept_to(shop: Shop) -> None:
    """By the delivery, and, where the answer was a throttling one, by the destination."""
    await add(shop)
    delivery, other = await done(shop, 2)
    [claimed] = await claim(shop)
    asked = TryAgain(detail="503", status=503, retry_after_s=90, throttled=True)
    await record(shop, claimed, asked)
    assert (await view(shop, delivery)).due_at == after(NOW, 90)
    assert await claim(shop, 5, now=after(NOW, 89)) == []
    [probe] = await claim(shop, 5, now=after(NOW, 90))
    assert probe.parcel.delivery_id == other


async def test_the_breaker_pauses_attempts_and_burns_none(shop: Shop) -> None:
    await add(shop)
    ids = await done(shop, 8)
    for claimed in await claim(shop, 5):
        await record(shop, claimed, DOWN)
    found = await here(shop)
    assert found.breaker.failures == 5 and found.breaker.open_until == after(NOW, 30)
    later = after(NOW, 29)
    assert await claim(shop, 8, now=later) == []
    assert [(await view(shop, id)).attempts for id in ids] == [1] * 5 + [0] * 3
    [event] = [one for one in await shop.store.events(APP, 10) if one.what == "destination.failing"]
    assert event.detail == "5 failures in a row: the receiver answered 500"
    [probe] = await claim(shop, 8, now=after(NOW, 30))  # half open: one, to see
    assert await record(shop, probe, OK, after(NOW, 31), go_on=True) is not None
    assert (await here(shop)).breaker.failures == 0
    assert "destination.recovered" in [one.what for one in await shop.store.events(APP, 10)]
    assert len(await claim(shop, 8, now=after(NOW, 31))) == 6


async def test_a_success_does_not_go_on_into_a_pause(shop: Shop) -> None:
    await add(shop)
    await done(shop, 2)
    [claimed] = await claim(shop)
    assert await shop.store.pause_destination(APP, "we move", "test", NOW) is True
    assert await record(shop, claimed, OK, go_on=True) is None
    assert await counts(shop) == {"pending": 1, "delivered": 1}
    assert await claim(shop) == []
    assert await shop.store.open_webhooks() == []
    assert await shop.store.pause_destination(APP, "twice", "test", NOW) is False
    assert (await here(shop)).pause_reason == "we move"
    assert await shop.store.resume_destination(APP, "test", NOW) is True
    assert await shop.store.resume_destination(APP, "test", NOW) is False
    assert len(await claim(shop)) == 1


async def test_410_pauses_the_destination_and_costs_no_attempt(shop: Shop) -> None:
    await add(shop)
    delivery, _ = await done(shop, 2)
    [claimed] = await claim(shop)
    await record(shop, claimed, Gone(detail="the receiver answered 410 Gone"))
    found = await here(shop)
    assert (found.paused_at, found.pause_reason) == (NOW, "the receiver answered 410 Gone")
    shown = await view(shop, delivery)
    assert (shown.state, shown.attempts, shown.last_status) == (DeliveryState.PENDING, 0, 410)
    assert await claim(shop, 2) == []
    await shop.store.resume_destination(APP, "test", NOW)
    assert len(await claim(shop, 2)) == 2


async def test_what_is_wrong_on_our_side_costs_no_attempt_and_is_told(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    now = NOW
    for _ in range(12):  # more than there are attempts
        await forgive(shop, now)
        [claimed] = await claim(shop, now=now)
        assert claimed.parcel.attempt == 1
        await record(shop, claimed, Misconfigured(detail="the secret env:APP_SECRET is not set"), now)
        now = after(now, 30)
    shown = await view(shop, delivery)
    assert (shown.state, shown.attempts) == (DeliveryState.PENDING, 0)
    assert shown.last_error == "the secret env:APP_SECRET is not set"
    assert (await here(shop)).breaker.failures == 1


async def test_a_destination_that_failed_throughout_is_paused(shop: Shop) -> None:
    await add(shop)
    await done(shop, 6)
    for claimed in await claim(shop, 5):
        await record(shop, claimed, DOWN)
    now = after(NOW, 5 * DAY)
    [probe] = await claim(shop, 1, now=now)
    await record(shop, probe, DOWN, now)
    found = await here(shop)
    assert found.paused_at == now
    assert found.pause_reason == "every attempt failed for 5 days: the receiver answered 500"
    assert "dead" not in found.deliveries


async def test_an_ack_while_it_is_sent_wins_and_a_late_answer_changes_nothing(shop: Shop) -> None:
    """The application may have read the result by another way."""
    await add(shop)
    first, second = await done(shop, 2)
    one, two = await claim(shop, 2)
    assert (await shop.store.ack([first, second], "ack", NOW)).confirmed == [first, second]
    await record(shop, one, OK)
    await record(shop, two, DOWN)
    assert await counts(shop) == {"delivered": 2}
    assert (await view(shop, first)).confirmed_by == "ack"
    assert shop.store.work.delivered == 2
    assert (await here(shop)).breaker.failures == 1  # the destination has learned from it all the same


async def test_an_answer_after_the_lease_is_over_counts(shop: Shop) -> None:
    await add(shop)
    [delivery] = await done(shop, 1)
    [claimed] = await claim(shop)
    assert (await shop.store.return_lapsed(after(NOW, 600)))[0] == 1
    await record(shop, claimed, OK, after(NOW, 601))
    assert (await view(shop, delivery)).state is DeliveryState.DELIVERED


async def test_what_a_killed_daemon_was_sending_is_sent_again_under_the_same_id(tmp_path: Path) -> None:
    """By epoch, at once; the attempt that nobody knows the end of is not counted."""
    shop = await open_shop(tmp_path / "a.db")
    await add(shop)
    await done(shop, 2)
    [before, _] = await claim(shop, 2)
    await shop.close(clean=False)
    shop = await open_shop(tmp_path / "a.db")
    try:
        again = await claim(shop, 5)
        assert before.parcel in [one.parcel for one in again]
        await shop.check()
    finally:
        await shop.close()


async def test_a_change_of_address_holds_from_the_next_claim_on(shop: Shop) -> None:
    """And the breaker forgets what it learned of another address."""
    assert await add(shop) is True
    await done(shop, 8)
    [first, *others] = await claim(shop, 6)
    for claimed in others:
        await record(shop, claimed, DOWN)
    assert (await here(shop)).breaker.open_until is not None
    assert await add(shop, url="https://new.test/") is False
    assert (await here(shop)).breaker.failures == 0
    following = await record(shop, first, OK, go_on=True)
    assert following is not None and following.url == "https://new.test/"


async def test_saying_the_same_again_changes_nothing(shop: Shop) -> None:
    assert await add(shop) is True
    assert await add(shop) is False
    assert [one.what for one in await shop.store.events(APP, 10)] == ["destination.added"]
    assert await add(shop, concurrency=3) is False
    assert [one.what for one in await shop.store.events(APP, 10)] == ["destination.added", "destination.changed"]
    assert "app.test" not in str(await shop.store.events(None, 100))


async def test_a_claim_is_bounded_in_rows_and_in_bytes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await add(shop)
    await add(shop, OTHER)
    await done(shop, 5)
    await done(shop, 5, OTHER, upstream_id="u2")
    wanted = {(await here(shop, name)).id: 5 for name in (APP, OTHER)}
    monkeypatch.setattr(sending, "CLAIM_ROWS", 7)
    some = await shop.store.claim(wanted, 600, NOW)
    assert [one.destination for one in some] == [APP] * 5 + [OTHER] * 2
    monkeypatch.setattr(sending, "CLAIM_BYTES", len(SUCCEEDED) + 1)
    assert len(await shop.store.claim(wanted, 600, NOW)) == 1
    monkeypatch.setattr(sending, "CLAIM_BYTES", 1)
    assert len(await shop.store.claim(wanted, 600, NOW)) == 1  # however large


async def test_destinations_are_listed_by_name_in_pages_with_what_waits_there(shop: Shop) -> None:
    await add(shop, OTHER)
    await add(shop)
    await done(shop, 2)
    await done(shop, 1, "pull:mine", upstream_id="u2")
    found = await shop.store.destinations("", 10)
    assert [(one.name, one.kind, one.deliveries) for one in found] == [
        ("pull:mine", "pull", {"pending": 1}), (APP, "webhook", {"pending": 2}), (OTHER, "webhook", {}),
    ]  # fmt: skip
    assert [one.name for one in await shop.store.destinations("pull:mine", 1)] == [APP]
    assert [one.name for one in await shop.store.open_webhooks()] == [APP]
    assert sorted(await shop.store.webhook_names()) == [APP, OTHER]
    assert await shop.store.destination("webhook:nobody") is None
    assert await shop.store.pause_destination("pull:mine", "no", "test", NOW) is None
    assert await shop.store.resume_destination("pull:mine", "test", NOW) is None


@pytest.mark.parametrize(
    "outcome", [Gone(detail="410"), TryAgain(detail="429", status=429, retry_after_s=86_400, throttled=True)]
)
async def test_what_the_old_receiver_says_is_not_held_against_the_new_one(shop: Shop, outcome: Outcome) -> None:
    await add(shop)
    await done(shop, 1)
    [claimed] = await claim(shop)
    await shop.store.put_webhook(APP, "https://mended.test/hook", ["env:APP_SECRET"], None, "test", NOW)
    await record(shop, claimed, outcome)
    found = await shop.store.destination(APP)
    assert found is not None
    assert (found.paused_at, found.breaker) == (None, Breaker())


async def test_a_clock_that_is_set_back_holds_up_no_delivery(shop: Shop) -> None:
    await add(shop)
    await done(shop, 1, now=after(NOW, 86_400))
    assert len(await claim(shop, now=NOW)) == 1
