"""Every query that a loop or a caller runs uses an index: a backlog makes none of them slower.

The statements are not copied here: they are traced while the store is exercised on a filled database.
"""

import re
import sqlite3
from collections.abc import Sequence

import pytest

from tests.store.support import EXPIRED, NOW, Shop, line, new, sighting
from unhurried.clock import Ms, after
from unhurried.domain.alarms import Alarm, AlarmName
from unhurried.domain.delivering import Delivered, Gone, Misconfigured, Outcome, TryAgain
from unhurried.domain.states import DeliveryState
from unhurried.domain.submitting import No, Refused
from unhurried.store.records import DeliveryFilter, RequestFilter, RetryFilter
from unhurried.store.sqlite.connection import in_thread
from unhurried.store.sqlite.retrying import RETRYABLE

BIG = "requests|attempts|deliveries|bodies|results|idempotency_keys|events"


async def fill(shop: Shop) -> None:
    """Some of everything, and statistics, so that the planner decides as it does on a large database."""
    for i in range(12):
        await shop.take(*(new(idempotency_key=f"{i}-{n}", priority=n % 3) for n in range(40)))
        batch = await shop.end(f"u{i}", requests_max=30)
        ids = await shop.members(batch)
        await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
        await shop.store.finish_collecting(batch.id, 100, NOW)
    await shop.pull(limit=50)
    for name in ("webhook:app", "webhook:other"):
        await shop.store.put_webhook(name, "https://app.test/", ["env:A"], None, "test", NOW)
        await shop.take(*(new(deliver_to=name) for _ in range(40)))
    batch = await shop.end("webhooks")
    await shop.store.store_results(batch.id, [line(batch, id) for id in await shop.members(batch)], NOW)
    await shop.store.finish_collecting(batch.id, 1_000, NOW)
    await shop.some(50, not_before="2026-11-19T00:00:00Z")


async def exercise(shop: Shop) -> None:
    """Every method of the contract that a loop or a face calls, each with something to do."""
    now = after(NOW, 86_400 * 3)
    await form_and_refuse(shop, now)
    await doubt_and_settle(shop, now)
    await track_and_collect(shop, now)
    await deliver_and_look(shop, now)
    await send_and_send_again(shop, now)


async def form_and_refuse(shop: Shop, now: Ms) -> None:
    store = shop.store
    await shop.take(new(now, idempotency_key="0-1"), new(now, idempotency_key="x"), new(now))
    while await store.wake_waiting(now) == now:
        pass
    await store.turnarounds()
    await store.formed_ahead()
    await store.account()
    await store.unfinished()
    batch = await shop.intend(now, requests_max=10)
    await store.record_refused(batch.id, Refused(kind=No.UNEXPLAINED, detail="400"), after(now, 1), now)
    await shop.release(now)
    await store.resume_account("test", now)
    batch = await shop.intend(now, requests_max=5)
    await store.record_refused(batch.id, Refused(kind=No.CULPRIT, detail="400", culprit=1), None, now)
    await shop.release(now)


async def doubt_and_settle(shop: Shop, now: Ms) -> None:
    """Dropped, missing, adopted, disowned, given up, and a late twin after all."""
    store = shop.store
    formed = await shop.form(now, requests_max=6)
    await store.next_formed()
    await store.sizes_in_doubt()
    await store.waiting_upstream()
    assert await store.drop_last_member(formed.id, now) is not None
    await store.record_submission(formed.id, now, now)
    await store.record_unknown(formed.id, "timeout", now)
    await store.doubts()
    await store.known_ids(now)
    await store.record_look(formed.id, now, absent=True, window_to=now, now=now)
    await store.adopt(formed.id, sighting(formed, "s1", now=now), proved=False, now=now)
    await store.record_seen(formed.id, sighting(formed, "s1", now=now), now)
    await store.disown(formed.id, "no", stranger=True, now=now)
    await store.abandon(formed.id, "missing", now)
    await shop.release(now)
    await store.given_up(NOW)
    await store.batch_by_nonce(formed.nonce)
    await store.harvest_twin(formed.id, sighting(formed, "s2", now=now, ended=True), now)
    await store.store_results(formed.id, [line(formed, id) for id in await shop.members(formed)], now)
    await store.finish_collecting(formed.id, 10, now)
    await store.record_sweep(now)
    await store.record_workspace("wrkspc")


async def track_and_collect(shop: Shop, now: Ms) -> None:
    store = shop.store
    batch = await shop.submit("plan", now, requests_max=8)
    ids = await shop.members(batch)
    for id in ids[:2]:
        await store.cancel(id, "test", now)
    await store.open_batches()
    await store.record_not_found(batch.id, now)
    await store.record_other_answer(batch.id)
    await store.record_seen(batch.id, sighting(batch, "plan", now=now), now)
    await store.record_cancel_sent(batch.id, now)
    await store.record_ended(batch.id, sighting(batch, "plan", now=now, ended=True), now)
    await store.record_read_failure(batch.id, "cut", now, now)
    await store.store_results(batch.id, [line(batch, ids[0]), line(batch, ids[2], EXPIRED)], now)
    while not await store.finish_collecting(batch.id, 3, now):
        pass
    gone = await shop.submit("gone", now, requests_max=3)
    await store.record_gone(gone.id, "deleted", now)
    await shop.release(now)
    await store.cancel(shop.ids[-1], "test", now)


async def deliver_and_look(shop: Shop, now: Ms) -> None:
    store = shop.store
    [batch] = await store.batches(open_only=False, before=None, limit=1)
    ids = shop.ids[:20]
    handed = await shop.pull(now, limit=5)
    assert handed
    await store.ack([str(one.delivery_id) for one in handed], "ack", now)
    assert (await store.return_lapsed(now))[0]
    await store.ask_flush("default", None, "test", now)
    await store.request(ids[0])
    await store.attempts_of(ids[0])
    await store.result(ids[0])
    await store.results_of(ids, 10**6)
    await store.batches(open_only=True, before=None, limit=10)
    await store.batches(open_only=False, before=batch.id, limit=10)
    await store.batch(batch.id)
    await store.events(batch.id, 10)
    await store.status()
    await store.requests(RequestFilter(batch=batch.id), None, 10)
    await steer(shop, now)
    await keep(shop, after(NOW, 40 * 86_400))
    await store.recover(now)


async def send_and_send_again(shop: Shop, now: Ms) -> None:
    """Webhooks: each outcome of an attempt, an operator's looks and acts, and a stream that is given up."""
    store = shop.store
    app, other = [await store.destination(name) for name in ("webhook:app", "webhook:other")]
    assert app is not None and other is not None
    assert [found.name for found in await store.open_webhooks()] == ["webhook:app", "webhook:other"]
    outcomes: list[Outcome] = [
        TryAgain(detail="500", status=500),
        Misconfigured(detail="no"),
        Delivered(status=200),
        Gone(detail="no"),
    ]
    for claimed, outcome in zip(await store.claim({app.id: 2, other.id: 2}, 60, now), outcomes, strict=True):
        following = await store.record_outcome(
            claimed, outcome, next_lease_s=60, jitter=0.5, disable_after_s=9, now=now
        )
        assert (following is not None) is isinstance(outcome, Delivered)
    await store.return_lapsed(after(now, 3_600))
    await store.pause_destination("webhook:app", "no", "test", now)
    await store.resume_destination("webhook:app", "test", now)
    await store.put_webhook("webhook:app", "https://app.test/2", ["env:A"], 3, "test", now)
    await store.webhook_names()
    await store.destinations("", 10)
    [delivery, *_] = (await store.deliveries(DeliveryFilter(destination="webhook:app"), None, 5)).deliveries
    assert await store.delivery(delivery.id) is not None
    states = frozenset({DeliveryState.PENDING, DeliveryState.DEAD})
    await store.deliveries(DeliveryFilter(states=states, since=NOW), None, 5)
    await store.deliveries(DeliveryFilter(), None, 5)
    assert await store.redeliver(delivery.id, "test", now) is not None
    for filter in (DeliveryFilter(destination="webhook:app", states=states), DeliveryFilter(states=states, since=NOW)):
        for dry_run in (True, False):
            step = await store.redeliver_many(filter, None, "test", now, dry_run=dry_run)
            assert step.deliveries
    handed = await store.pull("pull:default", limit=5, bytes_max=10**6, lease_s=9, after_seq=3, now=after(now, 4_000))
    ids = [str(one.delivery_id) for one in handed]
    assert await store.still_out(ids) == set(ids)
    assert await store.give_back(ids, now) == len(ids) == 5


async def steer(shop: Shop, now: Ms) -> None:
    store = shop.store
    await store.change_queue("default", {"retention_days": 1.0}, "test", now)
    await store.pause_queue("default", "why", "test", now)
    await store.resume_queue("default", "test", now)
    await store.queues()
    await store.queue("default")
    await store.note_drain(True, "test", now)
    wanted = RetryFilter(states=RETRYABLE, queue="default", model="claude-sonnet-5-5", since=NOW)
    found, _ = await store.retry_candidates(wanted, None)
    assert len(found) > 2
    await store.retry_candidates(RetryFilter(states=RETRYABLE, error_type="none"), 100)
    await store.retry(found[0].id, wait_s=None, default_s=9.0, actor="test", now=now)
    await store.retry_many(found, wait_s=None, default_s=9.0, actor="test", now=now)
    await store.erase(found[0].id, "test", now)


async def keep(shop: Shop, now: Ms) -> None:
    store = shop.store
    handed = await shop.pull(now, limit=100)
    await store.ack([str(one.delivery_id) for one in handed], "ack", NOW)
    page = await store.forget_outcomes(0, 100, retention_s=86_400.0, unread_s=3_600.0, now=now)
    assert page.deleted
    await store.forget_batches(0, 10, now)
    await store.forget_events(0, 10, days=1, now=now)
    await store.trim(10, now)
    await store.vacuum(1)
    await store.free_bytes()
    await store.paused_since()
    await store.record_alarms([Alarm(name=AlarmName.DISK_LOW, since=now, detail="low")], now)
    await store.record_alarms([], now)
    assert await store.forget_keys(now, 50)


@pytest.mark.parametrize("analyzed", [True, False], ids=["with statistics", "without"])
async def test_no_query_of_a_loop_looks_at_a_whole_table(shop: Shop, analyzed: bool) -> None:
    await fill(shop)
    if analyzed:
        await shop.ask("analyze")
    traced: set[str] = set()
    connections = [shop.store._writer_db, *shop.store._readers]
    for db in connections:
        await in_thread(db, lambda conn: conn.set_trace_callback(traced.add))
    await exercise(shop)
    for db in connections:
        await in_thread(db, lambda conn: conn.set_trace_callback(None))
    asked = sorted(sql for sql in traced if re.match(r"(?i)\s*(select|insert|update|delete)", sql))
    assert len(asked) > 100
    plans = await in_thread(shop.store._writer_db, lambda conn: [(sql, plan_of(conn, sql)) for sql in asked])
    scans = [(sql[:300], step) for sql, steps in plans for step in steps if is_scan(step, sql)]
    assert scans == []


def plan_of(db: sqlite3.Connection, sql: str) -> Sequence[str]:
    return [row[3] for row in db.execute(f"explain query plan {sql}")]


def is_scan(step: str, sql: str) -> bool:
    """Whether a step of a plan walks over one of the tables that grow with the backlog."""
    match = re.match(r"SCAN (\w+)", step)
    if match is None or step.endswith("INDEX deliveries_leased"):  # holds only what is handed out just now
        return False
    name = match[1]
    table = re.search(rf"\b(\w+) (?:as )?{name}\b", sql)
    big = re.fullmatch(BIG, name) or (table is not None and re.fullmatch(BIG, table[1]))
    if not big:
        return False
    # The last row by the primary key, or an ordered walk that a limit ends, is no scan in any sense that costs.
    return not re.search(r"max\(seq\)|order by r\.seq desc limit|order by seq desc limit", sql)
