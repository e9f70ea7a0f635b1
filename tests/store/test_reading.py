"""What is told of a request after the fact: its batch, its attempts, the status while no daemon runs."""

import shutil
from pathlib import Path

import pytest

from tests.store.support import NOW, OVERLOADED, SUCCEEDED, Shop, line, shop_at, sighting
from unhurried.clock import after
from unhurried.domain.batch import custom_id
from unhurried.domain.submitting import No, Refused
from unhurried.store import StoreUnusable
from unhurried.store.sqlite.peek import peek

LATER = after(NOW, 10_000)


async def test_a_finished_request_names_the_batch_that_answered_it(shop: Shop) -> None:
    [answered, canceled] = await shop.some(2)
    await shop.store.cancel(canceled, "test", NOW)
    waiting = await shop.store.request(answered)
    assert waiting is not None and (waiting.batch, waiting.upstream_batch) == (None, None)
    batch = await shop.end("u1")
    await shop.store.store_results(batch.id, [line(batch, answered)], NOW)
    view = await shop.store.request(answered)
    assert view is not None and (view.batch, view.upstream_batch) == (batch.id, "u1")
    view = await shop.store.request(canceled)
    assert view is not None and (view.batch, view.upstream_batch) == (None, None)
    assert await shop.ask("select id, batch, upstream_batch from v_requests order by id") == [
        (answered, batch.id, "u1"),
        (canceled, None, None),
    ]


async def test_the_attempts_of_a_request_are_told_oldest_first(shop: Shop) -> None:
    """Refused as a whole, then overloaded, then answered."""
    [id] = await shop.some(1)
    refused = await shop.intend()
    await shop.store.record_refused(refused.id, Refused(kind=No.UNREACHABLE, detail="no route"), None, NOW)
    await shop.release()
    overloaded = await shop.end("u2", LATER)
    await shop.store.store_results(overloaded.id, [line(overloaded, id, OVERLOADED)], LATER)
    much_later = after(LATER, 10_000)
    await shop.store.wake_waiting(much_later)
    answered = await shop.end("u3", much_later)
    open_now = await shop.store.attempts_of(id)
    assert open_now is not None and [(one.state, one.won) for one in open_now][-1] == ("open", False)
    await shop.store.store_results(answered.id, [line(answered, id, SUCCEEDED)], much_later)
    attempts = await shop.store.attempts_of(id)
    assert attempts is not None
    assert [(one.batch, one.upstream_batch, one.state, one.won) for one in attempts] == [
        (refused.id, None, "superseded", False),
        (overloaded.id, "u2", "errored", False),
        (answered.id, "u3", "succeeded", True),
    ]
    assert [one.custom_id for one in attempts] == [
        custom_id(batch.nonce, id) for batch in (refused, overloaded, answered)
    ]
    assert attempts[1].error_type == "overloaded_error"
    assert (attempts[2].stop_reason, attempts[2].input_tokens, attempts[2].output_tokens) == ("end_turn", 3, 5)
    view = await shop.store.request(id)
    assert view is not None and view.batch == answered.id


async def test_an_unknown_request_has_no_attempts_and_a_new_one_an_empty_list(shop: Shop) -> None:
    [id] = await shop.some(1)
    assert await shop.store.attempts_of(id) == []
    assert await shop.store.attempts_of("nobody") is None


async def test_events_are_told_oldest_first_and_the_limit_keeps_the_last(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.submit("u1")
    await shop.store.record_ended(batch.id, sighting(batch, "u1", ended=True), NOW)
    events = await shop.store.events(batch.id, 100)
    assert [event.seq for event in events] == sorted(event.seq for event in events)
    assert events[-1].new_state == "ended"
    assert await shop.store.events(batch.id, 2) == events[-2:]


async def test_a_peek_tells_the_status_without_a_daemon_and_beside_one(tmp_path: Path) -> None:
    async with shop_at(tmp_path) as shop:
        await shop.some(3)
        await shop.submit("u1", requests_max=2)
        told = await shop.store.status()
        assert await peek(shop.path) == told
        killed = tmp_path / "killed.db"
        for end in ("", "-wal"):  # as a kill leaves it: the log has what the file has not
            shutil.copy(f"{shop.path}{end}", f"{killed}{end}")
        assert await peek(killed) == told
    assert await peek(shop.path) == told
    assert told.requests == {"default": {"queued": 1, "submitted": 2}}


@pytest.mark.parametrize("content", [None, b"", b"not a database at all" * 100], ids=["none", "empty", "garbage"])
async def test_a_peek_at_what_is_no_database_of_ours_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreUnusable):
        await peek(path)


async def test_a_change_that_is_not_in_the_table_would_be_noticed(tmp_path: Path) -> None:
    """The check of every test here and of the any-order machine is not blind."""
    async with shop_at(tmp_path) as shop:
        [id] = await shop.some(1)
        await shop.store.cancel(id, "test", NOW)
        await shop.check()
        sql = "update deliveries set state = 'dead', finished_at = 1 where state = 'pending'"
        await shop.write(lambda tx: tx.db.execute(sql).rowcount)
        assert (await shop.changes())["deliveries"] == {("pending", "dead")}
        with pytest.raises(AssertionError):
            await shop.check()
        assert (await shop.changes())["requests"] == {("queued", "canceled")}
        # The triggers live in the connection, the file has none.
        assert await shop.ask("select name from main.sqlite_master where type = 'trigger'") == []
