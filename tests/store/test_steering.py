"""Queues with settings, retries, erasing: what operators change."""

from pathlib import Path
from typing import Any

import pytest

from tests.store.support import (
    CANCELED,
    EXPIRED,
    INVALID,
    NOW,
    OVERLOADED,
    SUCCEEDED,
    Shop,
    line,
    new,
    open_shop,
    shop_at,
    sighting,
)
from unhurried.clock import after
from unhurried.domain.queue import SETTINGS, QueueSettings, check_changes
from unhurried.domain.states import RequestState
from unhurried.store.errors import NotNow
from unhurried.store.records import RetryFilter
from unhurried.store.sqlite import StoreConfig
from unhurried.store.sqlite.connection import open_reader
from unhurried.store.sqlite.erasing import ERASED
from unhurried.store.sqlite.retrying import NOBODY

LOST = frozenset({RequestState.ERRORED, RequestState.EXPIRED})


async def answered(shop: Shop, *bodies: bytes, upstream_id: str = "u1", **fields: Any) -> list[str]:
    """Requests with a single attempt, and these outcomes."""
    ids = await shop.take(*(new(attempts_max=1, **fields) for _ in bodies))
    batch = await shop.end(upstream_id)
    lines = [line(batch, id, body) for id, body in zip(ids, bodies, strict=True)]
    await shop.store.store_results(batch.id, lines, NOW)
    await shop.store.finish_collecting(batch.id, 100, NOW)
    return ids


async def retry(shop: Shop, id: str, **how: Any) -> None:
    await shop.store.retry(id, **({"wait_s": None, "default_s": 86_400.0, "actor": "test", "now": NOW} | how))


# Queues


async def test_a_queue_can_be_set_before_its_first_request(shop: Shop) -> None:
    changed = await shop.store.change_queue("labels", {"linger_s": 3.0, "retention_days": 7.0}, "uid:7", NOW)
    assert changed.settings == QueueSettings(linger_s=3.0, retention_days=7.0)
    assert await shop.store.queue("labels") == changed
    [event] = await shop.store.events("labels", 9)
    assert (event.actor, event.what) == ("uid:7", "queue.changed")
    assert event.detail == "linger_s default → 3.0, retention_days default → 7.0"
    await shop.some(2, queue="labels")
    [group] = await shop.store.groups()
    assert group.linger_s == 3.0 and group.batch_requests_max is None


async def test_a_setting_that_is_handed_back_is_the_daemons_again_and_what_changes_nothing_is_not_told(
    shop: Shop,
) -> None:
    await shop.store.change_queue("labels", {"priority": 2}, "test", NOW)
    await shop.store.change_queue("labels", {"priority": 2}, "test", NOW)
    back = await shop.store.change_queue("labels", {"priority": None}, "test", NOW)
    assert back.settings == QueueSettings()
    assert [event.detail for event in await shop.store.events("labels", 9)] == [
        "priority default → 2",
        "priority 2 → default",
    ]


async def test_every_setting_is_a_column_and_survives_a_restart(tmp_path: Path) -> None:
    some: dict[str, Any] = {
        "linger_s": 1.5, "batch_requests_max": 7, "batch_bytes_max": 5_000, "deadline_s": 60.0, "attempts_max": 2,
        "priority": -3, "deliver_to": "pull:x", "anthropic_version": "2023-06-01", "anthropic_beta": "a,b",
        "open_requests_max": 9, "retention_days": 0.5, "unread_days": 3.0,
    }  # fmt: skip
    assert some.keys() == set(SETTINGS)
    async with shop_at(tmp_path) as shop:
        await shop.store.change_queue("labels", check_changes(some, ()), "test", NOW)
    async with shop_at(tmp_path) as shop:
        found = await shop.store.queue("labels")
        assert found is not None and found.settings == QueueSettings(**some)
        columns = [row[1] for row in await shop.ask("pragma table_info(queues)")]
        assert columns[-len(SETTINGS) :] == list(SETTINGS)


async def test_a_paused_queue_accepts_and_forms_nothing(shop: Shop) -> None:
    assert await shop.store.pause_queue("default", "the prompt is wrong", "test", NOW) is None  # a name nobody used
    assert await shop.store.queues() == []
    await shop.some(2)
    await shop.store.pause_queue("default", "the prompt is wrong", "test", NOW)
    await shop.some(1, queue="other")
    assert [group.requests for group in await shop.store.groups()] == [1]
    paused = await shop.store.pause_queue("default", "still wrong", "test", after(NOW, 5))
    assert paused is not None and (paused.paused_at, paused.pause_reason) == (NOW, "still wrong")
    assert await shop.store.resume_queue("default", "test", NOW) is True
    assert await shop.store.resume_queue("default", "test", NOW) is False
    assert await shop.store.resume_queue("nowhere", "test", NOW) is None
    assert len(await shop.store.groups()) == 2
    assert [event.what for event in await shop.store.events("default", 9)] == [
        "queue.paused", "queue.paused", "queue.resumed",
    ]  # fmt: skip


async def test_a_flush_says_which_pause_holds_how_many(shop: Shop) -> None:
    await shop.some(2)
    await shop.some(1, queue="other")
    await shop.store.pause_queue("default", "why", "test", NOW)
    asked = await shop.store.ask_flush(None, None, "uid:7", NOW)
    assert (asked.groups, asked.requests, asked.held) == (2, 3, {"queue default is paused: why": 2})
    [event] = await shop.store.events("*", 9)
    assert (event.actor, event.detail) == ("uid:7", "3 requests in 2 groups")
    await shop.store.pause_account("401 wrong key", after(NOW, 60), "test", NOW)
    asked = await shop.store.ask_flush("other", None, "uid:7", NOW)
    assert asked.held == {"the account is paused: 401 wrong key": 1}
    assert (await shop.store.ask_flush("other", None, "uid:7", after(NOW, 60))).held == {}  # it is tried again


async def test_the_account_is_paused_since_the_first_refusal(shop: Shop) -> None:
    await shop.store.pause_account("401", after(NOW, 60), "test", NOW)
    await shop.store.pause_account("401", after(NOW, 180), "test", after(NOW, 60))
    account = (await shop.store.status()).account
    assert account is not None and account.paused_at == NOW


async def test_events_since_a_time_are_the_last_ones_of_these(shop: Shop) -> None:
    await shop.some(1)
    for second in range(4):
        await shop.store.pause_queue("default", f"reason {second}", "test", after(NOW, second))
    found = await shop.store.events("default", 9, after(NOW, 2))
    assert [event.detail for event in found] == ["reason 2", "reason 3"]
    assert [event.detail for event in await shop.store.events(None, 1, NOW)] == ["reason 3"]
    assert await shop.store.events(None, 9, after(NOW, 4)) == []


# Retries


@pytest.mark.parametrize("body", [INVALID, EXPIRED, CANCELED])
async def test_what_came_to_no_good_end_is_queued_again_as_a_new_generation(shop: Shop, body: bytes) -> None:
    [id, other] = await answered(shop, body, SUCCEEDED)
    await retry(shop, id, wait_s=60.0)
    view = await shop.store.request(id)
    assert view is not None
    assert (view.state, view.generation, view.attempts, view.finished_at) == (RequestState.QUEUED, 2, 0, None)
    assert view.deadline_at == after(NOW, 60)
    assert await shop.store.result(id) is None
    assert [row[0] for row in await shop.ask("select state from deliveries order by seq")] == ["canceled", "pending"]
    assert [handed.request_id for handed in await shop.pull()] == [other]
    assert [event.what for event in await shop.store.events(id, 9)] == ["request.retried"]
    await shop.check()
    batch = await shop.end("u2")
    await shop.store.store_results(batch.id, [line(batch, id)], NOW)
    [handed] = await shop.pull()
    assert (handed.delivery_id, handed.state) == (f"{id}.2", RequestState.SUCCEEDED)
    attempts = await shop.store.attempts_of(id)
    assert attempts is not None and [one.won for one in attempts] == [True, True]
    await shop.check()


async def test_what_was_delivered_before_stays_delivered(shop: Shop) -> None:
    [id] = await answered(shop, INVALID)
    await shop.store.ack([f"{id}.1"], "ack", NOW)
    await retry(shop, id)
    assert await shop.ask("select state from deliveries") == [("delivered",)]
    await shop.store.cancel(id, "test", NOW)
    assert [handed.delivery_id for handed in await shop.pull()] == [f"{id}.2"]
    await shop.check()


async def test_a_retry_is_due_as_its_queue_says(shop: Shop) -> None:
    [id] = await answered(shop, INVALID)
    await shop.store.change_queue("default", {"deadline_s": 90.0}, "test", NOW)
    await retry(shop, id)
    view = await shop.store.request(id)
    assert view is not None and view.deadline_at == after(NOW, 90)
    [group] = await shop.store.groups()
    assert await shop.ask("select deadline_class from groups where id = ?", group.id) == [(0,)]


async def test_a_retry_is_refused_with_a_reason(shop: Shop) -> None:
    [succeeded, erased] = await answered(shop, SUCCEEDED, INVALID)
    await shop.store.erase(erased, "test", NOW)
    [queued] = await shop.some(1)
    for id, says in ((succeeded, "succeeded"), (erased, "erased"), (queued, "open"), ("nobody", "no such")):
        with pytest.raises(NotNow, match=says):
            await retry(shop, id)


async def test_what_upstream_still_owes_an_answer_for_is_not_sent_again(shop: Shop) -> None:
    """A late twin has answered it while it travelled in another batch: that batch is paid for, and its line comes."""
    [id] = await shop.some(1)
    twin = await shop.doubt()
    await shop.store.abandon(twin.id, "missing", NOW)
    await shop.release()
    second = await shop.submit("u2")
    await shop.store.harvest_twin(twin.id, sighting(twin, "u1", ended=True), NOW)
    await shop.store.store_results(twin.id, [line(twin, id, INVALID)], NOW)
    assert await shop.state(id) == RequestState.ERRORED
    for act in (retry(shop, id), shop.store.erase(id, "test", NOW)):
        with pytest.raises(NotNow, match=r"owes|not finished"):
            await act
    await shop.store.record_ended(second.id, sighting(second, "u2", ended=True), NOW)
    await shop.store.store_results(second.id, [line(second, id)], NOW)
    await retry(shop, id)
    await shop.check()


async def test_the_number_of_a_result_never_comes_again(shop: Shop) -> None:
    ids = await answered(shop, INVALID, INVALID)
    top = (await shop.ask("select max(seq) from results"))[0][0]
    for id in ids:
        await retry(shop, id)
        await shop.check()
    assert await shop.ask("select seq, request_seq from results") == [(top, NOBODY)]
    batch = await shop.end("u2")
    await shop.store.store_results(batch.id, [line(batch, id, INVALID) for id in ids], NOW)
    seqs = [row[0] for row in await shop.ask("select seq from results order by seq")]
    assert seqs == [top, top + 1, top + 2]
    await retry(shop, ids[1])
    await retry(shop, ids[0])
    assert (await shop.ask("select max(seq), count(*) from results"))[0] == (top + 2, 1)
    await shop.check()


async def found(shop: Shop, **filter: Any) -> list[str]:
    ids, before = [], None
    while True:
        some, before = await shop.store.retry_candidates(RetryFilter(**({"states": LOST} | filter)), before)
        ids += [one.id for one in some]
        if before is None:
            return ids


async def test_requests_to_retry_are_found_by_what_became_of_them(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unhurried.store.sqlite.retrying.WINDOW_ROWS", 3)
    bad, late, busy, good = await answered(shop, INVALID, EXPIRED, OVERLOADED, SUCCEEDED)
    [other] = await answered(shop, INVALID, upstream_id="u2", queue="other")
    [canceled] = await shop.some(1)
    await shop.store.cancel(canceled, "test", after(NOW, 10))
    assert await found(shop) == [other, busy, late, bad]
    assert await found(shop, queue="other") == [other]
    assert await found(shop, error_type="overloaded_error") == [busy]
    assert await found(shop, states=frozenset({RequestState.EXPIRED})) == [late]
    assert await found(shop, states=LOST | {RequestState.CANCELED}, since=after(NOW, 10)) == [canceled]
    assert await found(shop, model="another") == []
    assert good not in await found(shop)


async def test_many_are_queued_again_in_one_transaction_and_those_that_cannot_be_are_left(shop: Shop) -> None:
    ids = await answered(shop, INVALID, OVERLOADED, EXPIRED)
    some, _ = await shop.store.retry_candidates(RetryFilter(states=LOST), None)
    await retry(shop, ids[0])
    assert await shop.store.retry_many(some, wait_s=None, default_s=9.0, actor="uid:7", now=NOW) == 2
    assert await shop.states(ids) == ["queued"] * 3
    [event] = [event for event in await shop.store.events("default", 9) if event.what == "queue.requests_retried"]
    assert event.actor == "uid:7" and event.detail is not None
    assert "1 errored (overloaded_error)" in event.detail and "1 expired" in event.detail
    assert await found(shop) == []
    await shop.check()


# Erasing

SECRETS = {
    "params": "the patient is called Wilhelmina",
    "result": "Wilhelmina has a rare disease",
    "metadata": "case Wilhelmina 4711",
    "custom_id": "row-Wilhelmina",
    "idempotency_key": "key/Wilhelmina",
}


def traces(path: Path) -> list[str]:
    """In which files the name is to be found."""
    return [file.name for file in sorted(path.parent.glob(f"{path.name}*")) if b"Wilhelmina" in file.read_bytes()]


async def confided(shop: Shop, *, long: int = 1) -> str:
    [id] = await shop.take(
        new(
            params={"messages": [{"role": "user", "content": SECRETS["params"] * long}]},
            metadata={"case": SECRETS["metadata"]},
            custom_id=SECRETS["custom_id"],
            idempotency_key=SECRETS["idempotency_key"],
        )
    )
    return id


@pytest.mark.parametrize("long", [1, 2_000], ids=["in a row", "in overflow pages"])
async def test_nothing_of_what_was_erased_is_in_the_files(tmp_path: Path, long: int) -> None:
    """Neither in the database nor in its write-ahead log: the bytes are overwritten, and the log is emptied."""
    async with shop_at(tmp_path) as shop:
        await shop.some(30)
        id = await confided(shop, long=long)
        await shop.some(30)
        batch = await shop.end()
        answer = b'{"type":"succeeded","message":{"text":"%s"}}' % (SECRETS["result"].encode() * long)
        await shop.store.store_results(batch.id, [line(batch, id, answer)], NOW)
        await shop.store.store_results(batch.id, [line(batch, other) for other in shop.ids if other != id], NOW)
        await shop.store.finish_collecting(batch.id, 100, NOW)
        assert traces(shop.path)
        assert await shop.store.erase(id, "test", NOW) is True
        assert traces(shop.path) == []
        await shop.check()
        view = await shop.store.request(id)
        assert view is not None
        assert (view.state, view.erased_at, view.custom_id, view.metadata) == (RequestState.SUCCEEDED, NOW, None, None)
        assert view.delivery == "canceled"
        assert (await shop.result(id)).body == ERASED
        assert id not in {handed.request_id for handed in await shop.pull()}
        [event] = await shop.store.events(id, 9)
        assert (event.what, event.detail) == ("request.erased", None)


async def test_a_queued_request_is_canceled_and_erased(shop: Shop) -> None:
    id = await confided(shop)
    assert await shop.store.erase(id, "test", NOW) is True
    assert traces(shop.path) == []
    assert await shop.state(id) == RequestState.CANCELED
    assert await shop.pull() == []
    assert await shop.store.erase(id, "test", after(NOW, 5)) is True
    view = await shop.store.request(id)
    assert view is not None and view.erased_at == NOW
    again = await confided(shop)
    assert again != id
    await shop.check()


async def test_what_is_under_way_is_not_erased(shop: Shop) -> None:
    [id] = await shop.some(1)
    await shop.submit()
    with pytest.raises(NotNow, match="cancel it"):
        await shop.store.erase(id, "test", NOW)
    assert await shop.state(id) == RequestState.SUBMITTED
    await shop.check()


async def test_a_member_of_an_open_batch_may_be_erased_once_it_has_its_outcome(shop: Shop) -> None:
    ids = await shop.some(2)
    batch = await shop.end()
    await shop.store.store_results(batch.id, [line(batch, ids[0])], NOW)
    await shop.store.erase(ids[0], "test", NOW)
    await shop.check()
    stored = await shop.store.store_results(batch.id, [line(batch, id) for id in ids], NOW)
    assert (stored.skipped, stored.finished) == (1, 1)
    assert (await shop.result(ids[0])).body == ERASED


async def test_a_reader_keeps_the_bytes_in_the_log_until_it_ends(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "unhurried.db", NOW, StoreConfig(readers=1))
    reader = await open_reader(shop.path)
    try:
        id = await confided(shop)
        await reader.execute("begin")
        await reader.execute("select count(*) from requests")
        assert await shop.store.erase(id, "test", NOW) is False
        assert traces(shop.path)
        assert await shop.store.empty_log(only_owed=True) is False
        await reader.execute("rollback")
        assert await shop.store.empty_log(only_owed=True) is True
        assert traces(shop.path) == []
        assert await shop.ask("pragma secure_delete") == [(2,)]
    finally:
        await reader.close()
        await shop.close()


async def test_an_erase_killed_before_its_log_was_emptied_is_made_good_by_the_next_boot(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "unhurried.db", NOW, StoreConfig(readers=1))
    reader = await open_reader(shop.path)
    id = await confided(shop)
    await reader.execute("begin")
    await reader.execute("select count(*) from requests")
    assert await shop.store.erase(id, "test", NOW) is False
    await shop.close(clean=False)  # while the reader keeps SQLite from emptying the log at the last close
    assert traces(shop.path)
    await reader.close()
    shop = await open_shop(shop.path, NOW, StoreConfig(readers=1))
    try:
        assert await shop.store.empty_log(only_owed=True) is True  # the keeper's first look
        assert traces(shop.path) == []
    finally:
        await shop.close()
