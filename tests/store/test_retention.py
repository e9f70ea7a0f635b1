"""Deleting what is old: never what is open, never what nobody has fetched, and never a number that would come again."""

import pytest

from tests.store.support import INVALID, NOW, Shop, line, new, sighting
from unhurried.clock import Ms, after
from unhurried.domain.alarms import Alarm, AlarmName
from unhurried.domain.batch import UpstreamId
from unhurried.domain.request import Accepted
from unhurried.domain.states import RequestState

DAY = 86_400
LATER = after(NOW, 31 * DAY)


async def delivered(shop: Shop, count: int = 3, *, queue: str = "default", upstream_id: str = "u1") -> list[str]:
    """Requests whose results were fetched and confirmed."""
    ids = await shop.some(count, queue=queue, metadata={"n": 1})
    batch = await shop.end(upstream_id)
    await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    await shop.store.ack([f"{id}.1" for id in ids], "ack", NOW)
    return ids


async def last_row(shop: Shop) -> str:
    """One more, that has the largest number of every table and is kept for that."""
    [id] = await delivered(shop, 1, upstream_id="last")
    return id


async def forget(shop: Shop, now: Ms = LATER, *, days: float = 30, unread_days: float | None = None) -> int:
    """A whole round; how many requests went."""
    position, more, deleted = 0, True, 0
    while more:
        page = await shop.store.forget_outcomes(
            position,
            10,
            retention_s=days * DAY,
            unread_s=None if unread_days is None else unread_days * DAY,
            now=now,
        )
        position, more, deleted = page.position, page.more, deleted + page.deleted
    await shop.check()
    return deleted


async def there(shop: Shop) -> list[str]:
    return [row[0] for row in await shop.ask("select id from requests order by seq")]


async def test_what_was_delivered_long_ago_goes_with_all_that_belongs_to_it(shop: Shop) -> None:
    await delivered(shop, 25)
    last = await last_row(shop)
    assert await forget(shop, after(NOW, 29 * DAY)) == 0
    assert await forget(shop) == 25
    assert await there(shop) == [last]
    for table in ("bodies", "attempts", "results", "deliveries"):
        assert await shop.ask(f"select count(*) from {table}") == [(1,)], table
    assert await shop.ask("select requests, forgotten from batches order by seq") == [(25, 25), (1, 0)]
    assert await shop.ask("select state, n from counters where n > 0") == [("delivered", 1), ("succeeded", 1)]


async def test_a_queue_may_keep_its_requests_for_longer_or_shorter(shop: Shop) -> None:
    short = await delivered(shop, 2, queue="short", upstream_id="u1")
    long = await delivered(shop, 2, queue="long", upstream_id="u2")
    plain = await delivered(shop, 2, upstream_id="u3")
    last = await last_row(shop)
    await shop.store.change_queue("short", {"retention_days": 1.0}, "test", NOW)
    await shop.store.change_queue("long", {"retention_days": 90.0}, "test", NOW)
    assert await forget(shop, after(NOW, 2 * DAY)) == 2
    assert not set(short) & set(await there(shop))
    assert await forget(shop) == 2
    assert await there(shop) == [*long, last]
    assert set(plain).isdisjoint(await there(shop))


async def test_what_nobody_has_fetched_stays_for_ever(shop: Shop) -> None:
    ids = await shop.some(3)
    batch = await shop.end()
    await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    await shop.pull(limit=1, lease_s=90 * DAY)
    await last_row(shop)
    assert await forget(shop, after(NOW, 3_650 * DAY)) == 0
    assert len(await there(shop)) == 4


async def test_unread_results_are_given_up_visibly_where_that_is_wanted_and_then_go(shop: Shop) -> None:
    """One that is in somebody's hands just now is left alone."""
    ids = await shop.some(4)
    batch = await shop.end()
    await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    await shop.pull(limit=1, lease_s=90 * DAY)
    last = await last_row(shop)
    assert await forget(shop, after(NOW, 8 * DAY), unread_days=7) == 0
    assert await shop.ask("select state, count(*) from deliveries group by state order by state") == [
        ("canceled", 3),
        ("delivered", 1),
        ("sending", 1),
    ]
    [event] = await shop.store.events("pull:default", 9)
    assert (event.what, event.detail) == ("deliveries.unread_canceled", "3 results that nobody has fetched in time")
    assert await forget(shop, after(NOW, 37 * DAY), unread_days=7) == 0
    assert await forget(shop, after(NOW, 39 * DAY), unread_days=7) == 3
    assert await there(shop) == [ids[0], last]


async def test_dead_deliveries_count_as_unread(shop: Shop) -> None:
    [id] = await delivered(shop, 1)
    await last_row(shop)
    await shop.ask("drop trigger temp.watch_deliveries")
    await shop.ask("update deliveries set state = 'dead', confirmed_by = null where seq = 1")
    await shop.ask("update counters set n = 1 where entity = 'delivery' and state = 'delivered'")
    await shop.ask("insert into counters (entity, owner_id, state, n) values ('delivery', 1, 'dead', 1)")
    assert await forget(shop) == 0
    assert await forget(shop, unread_days=7) == 0
    view = await shop.store.request(id)
    assert view is not None and view.delivery == "canceled"


async def test_open_and_unknown_are_never_touched(shop: Shop) -> None:
    ids = await shop.some(6)
    batch = await shop.end(requests_max=2)
    first, second = await shop.members(batch)
    await shop.store.store_results(batch.id, [line(batch, first)], NOW)
    await shop.store.ack([f"{first}.1"], "ack", NOW)
    unknown = await shop.doubt(requests_max=2)
    await last_row(shop)
    assert await forget(shop, after(NOW, 3_650 * DAY), days=0, unread_days=0) == 0
    assert set(ids) < set(await there(shop))
    assert await shop.batch_state(unknown) == "unknown"
    await shop.store.store_results(batch.id, [line(batch, first), line(batch, second)], NOW)
    await shop.store.finish_collecting(batch.id, 10, NOW)
    assert await forget(shop) == 1
    assert first not in await there(shop)


async def test_a_late_twin_finds_its_batch_though_its_members_are_gone(shop: Shop) -> None:
    """The lines of members that were forgotten count towards its total, as a stranger's do."""
    ids = await shop.some(2)
    twin = await shop.doubt()
    await shop.store.abandon(twin.id, "missing", NOW)
    await shop.release()
    again = await shop.end("u2")
    await shop.store.store_results(again.id, [line(again, id) for id in ids], NOW)
    await shop.store.finish_collecting(again.id, 10, NOW)
    await shop.store.ack([f"{ids[0]}.1"], "ack", NOW)
    await last_row(shop)
    assert await forget(shop, after(NOW, 2 * DAY), days=1) == 1
    await shop.store.harvest_twin(twin.id, sighting(twin, "u1", ended=True), NOW)
    stored = await shop.store.store_results(twin.id, [line(twin, id) for id in ids], NOW)
    assert (len(stored.foreign), stored.accounted) == (1, 1)
    assert await shop.store.finish_collecting(twin.id, 10, NOW)
    await shop.check()


async def test_a_chunk_is_small_and_a_large_body_goes_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unhurried.store.sqlite.retention.CHUNK_BYTES", 3_000)
    ids = await shop.take(*(new(params={"system": "x" * size}) for size in (100, 100, 9_000, 100)))
    batch = await shop.end()
    await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    await shop.store.ack([f"{id}.1" for id in ids], "ack", NOW)
    await last_row(shop)
    sizes, position, more = [], 0, True
    while more:
        page = await shop.store.forget_outcomes(position, 3, retention_s=DAY, unread_s=None, now=LATER)
        sizes.append(page.deleted)
        position, more = page.position, page.more
    assert sizes == [2, 1, 1]


async def test_the_largest_number_of_each_table_stays(shop: Shop) -> None:
    """So that it is not given again: a cursor behind it would miss what has it."""
    await delivered(shop, 3)
    tops = {table: (await shop.ask(f"select max(seq) from {table}"))[0][0] for table in ("requests", "deliveries")}
    assert await forget(shop) == 2
    await shop.store.forget_batches(0, 100, after(NOW, 99 * DAY))
    await shop.some(1)
    assert (await shop.ask("select max(seq) from requests"))[0][0] == tops["requests"] + 1
    assert (await shop.ask("select max(seq) from deliveries"))[0][0] == tops["deliveries"]


async def test_batches_go_once_all_their_members_have_and_their_time_is_over(shop: Shop) -> None:
    """35 days after they were made: until then a late twin may turn up in upstream's list."""
    await delivered(shop, 2, upstream_id="old")
    kept = await shop.some(1)
    batch = await shop.end("unread")
    await shop.store.store_results(batch.id, [line(batch, kept[0], INVALID)], NOW)
    await shop.store.finish_collecting(batch.id, 10, NOW)
    await last_row(shop)
    assert await forget(shop) == 2
    assert (await shop.store.forget_batches(0, 100, after(NOW, 34 * DAY))).deleted == 0
    assert (await shop.store.forget_batches(0, 100, after(NOW, 36 * DAY))).deleted == 1
    assert await shop.ask("select upstream_id from batches order by seq") == [("unread",), ("last",)]
    await shop.check()


async def test_old_events_go_but_for_those_of_batches_that_are_there(shop: Shop) -> None:
    await delivered(shop, 2)
    [id] = await shop.some(1)
    await shop.store.ask_flush(None, None, "test", NOW)
    await shop.store.cancel(id, "test", NOW)
    before = await shop.ask("select count(*) from events where entity <> 'batch'")
    page = await shop.store.forget_events(0, 3, days=90, now=after(NOW, 89 * DAY))
    assert (page.deleted, page.more) == (0, False)
    position, more, deleted = 0, True, 0
    while more:
        page = await shop.store.forget_events(position, 3, days=90, now=after(NOW, 91 * DAY))
        position, more, deleted = page.position, page.more, deleted + page.deleted
    assert deleted == before[0][0] - 1  # the newest of all stays
    await shop.check()


async def test_strangers_and_old_boots_are_trimmed(shop: Shop) -> None:
    await shop.store.note_stranger(UpstreamId("u1"), "another's", NOW)
    await shop.store.note_stranger(UpstreamId("u2"), "another's", after(NOW, 20 * DAY))
    await shop.ask("insert into boots (epoch, started_at, seen_at, pid, version, sqlite) values (500, 1, 1, 1, '', '')")
    await shop.store.trim(100, after(NOW, 40 * DAY))
    assert await shop.ask("select upstream_id from strangers") == [("u2",)]
    assert await shop.ask("select epoch from boots") == [(500,)]


async def test_free_pages_are_given_back_in_small_portions(shop: Shop) -> None:
    ids = await shop.take(*(new(params={"system": "x" * 50_000}) for _ in range(8)))
    batch = await shop.end()
    await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    await shop.store.ack([f"{id}.1" for id in ids], "ack", NOW)
    await last_row(shop)
    assert await forget(shop) == 8
    free = await shop.store.free_bytes() // 8_192
    assert free > 40
    assert await shop.store.vacuum(10) == free - 10
    while await shop.store.vacuum(10):
        pass
    assert await shop.store.free_bytes() == 0
    await shop.check()


async def test_alarms_are_told_when_they_begin_and_when_they_end(shop: Shop) -> None:
    def alarm(name: AlarmName, detail: str = "so it is", since: Ms = NOW) -> Alarm:
        return Alarm(name=name, since=since, detail=detail)

    low, large = alarm(AlarmName.DISK_LOW), alarm(AlarmName.DATABASE_LARGE)
    assert await shop.store.record_alarms([low], NOW) == ([low], [])
    assert await shop.store.record_alarms([alarm(AlarmName.DISK_LOW, since=LATER)], LATER) == ([], [])
    begun, ended = await shop.store.record_alarms([alarm(AlarmName.DISK_LOW, "worse", LATER), large], LATER)
    assert (begun, ended) == ([large], [])
    assert [(on.name, on.since, on.detail) for on in await shop.store.alarms()] == [
        (AlarmName.DATABASE_LARGE, NOW, "so it is"),
        (AlarmName.DISK_LOW, NOW, "worse"),
    ]
    begun, ended = await shop.store.record_alarms([], LATER)
    assert begun == [] and [one.name for one in ended] == [AlarmName.DATABASE_LARGE, AlarmName.DISK_LOW]
    assert await shop.ask("select count(*) from v_alarms") == [(0,)]
    assert len(await shop.store.events("daemon", 9)) == 4


async def test_since_when_the_account_is_paused_does_not_move_with_each_refusal(shop: Shop) -> None:
    assert await shop.store.paused_since() is None
    for seconds in (0, 60, 180):
        await shop.store.pause_account("429", None, "test", after(NOW, seconds))
    assert await shop.store.paused_since() == NOW
    await shop.store.resume_account("test", after(NOW, 200))
    assert await shop.store.paused_since() is None
    await shop.store.pause_account("401", None, "test", after(NOW, 300))
    assert await shop.store.paused_since() == after(NOW, 300)


async def test_a_forgotten_request_is_not_there_any_more(shop: Shop) -> None:
    ids = await delivered(shop, 1)
    await last_row(shop)
    await forget(shop)
    assert await shop.store.request(ids[0]) is None
    assert await shop.store.result(ids[0]) is None
    acked = await shop.store.ack([f"{ids[0]}.1"], "ack", NOW)
    assert acked.unknown == [f"{ids[0]}.1"]
    assert RequestState.SUCCEEDED in {await shop.state(id) for id in await there(shop)}


async def test_a_row_from_a_clock_that_was_set_back_ends_no_walk(shop: Shop) -> None:
    await delivered(shop)
    last = await last_row(shop)
    await shop.ask("update deliveries set created_at = ? where seq = 1", after(NOW, 400 * DAY))
    page = await shop.store.forget_outcomes(0, 1, retention_s=30 * DAY, unread_s=None, now=LATER)
    assert page.more
    await forget(shop)
    assert await there(shop) == [last]


async def test_a_key_that_outlives_its_request_does_not_call_it_open(shop: Shop) -> None:
    [id] = await shop.take(new(idempotency_key="k"))
    batch = await shop.end("u1")
    await shop.store.store_results(batch.id, [line(batch, id)], NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    await shop.store.ack([f"{id}.1"], "ack", NOW)
    await last_row(shop)
    await forget(shop, after(NOW, 2 * DAY), days=1)
    [again] = await shop.store.accept([new(after(NOW, 2 * DAY), idempotency_key="k")])
    assert isinstance(again, Accepted)
    assert (again.id, again.state, again.duplicate, again.state_json) == (id, None, True, b"null")


async def test_one_that_was_delivered_again_is_forgotten_once(shop: Shop) -> None:
    """It has two deliveries, both old, and the walk over deliveries meets it twice in one chunk."""
    again, other = await delivered(shop, 2)
    made = await shop.store.redeliver(f"{again}.1", "test", NOW)
    assert made is not None
    await shop.store.ack([made.id], "ack", NOW)
    last = await last_row(shop)
    assert await forget(shop) == 2
    assert await there(shop) == [last]
    assert other not in await there(shop)
