"""Results: attempts, outcomes and deliveries in one transaction; the first outcome wins."""

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
    sighting,
)
from unhurried.clock import after
from unhurried.domain.batch import Batch
from unhurried.domain.collecting import BadLine
from unhurried.store.records import StoredResults


async def test_each_outcome_is_recorded_with_its_delivery(shop: Shop) -> None:
    await shop.some(4, attempts_max=1)
    batch = await shop.end()
    ids = await shop.members(batch)
    bodies = [SUCCEEDED, INVALID, EXPIRED, CANCELED]
    stored = await shop.store.store_results(
        batch.id, [line(batch, id, body) for id, body in zip(ids, bodies, strict=True)], after(NOW, 20)
    )
    assert stored == StoredResults(finished=4, accounted=4)
    assert await shop.states(ids) == ["succeeded", "errored", "expired", "canceled"]
    assert [(await shop.result(id)).body for id in ids] == bodies
    assert [handed.request_id for handed in await shop.pull(after(NOW, 20))] == ids
    rows = await shop.ask("select won, error_type, stop_reason, input_tokens, output_tokens from attempts order by 2")
    assert rows == [
        (1, None, "end_turn", 3, 5),
        (1, None, None, None, None),
        (1, None, None, None, None),
        (1, "invalid_request_error", None, None, None),
    ]
    assert await shop.store.finish_collecting(batch.id, 100, after(NOW, 20))
    assert await shop.batch_state(batch) == "collected"


async def test_tokens_are_kept_by_price(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.end()
    usage = (
        b'{"input_tokens":1,"output_tokens":2,"cache_creation_input_tokens":7,"cache_read_input_tokens":9,'
        b'"cache_creation":{"ephemeral_1h_input_tokens":4}}'
    )
    body = b'{"type":"succeeded","message":{"usage":%s}}' % usage
    await shop.store.store_results(batch.id, [line(batch, shop.ids[0], body)], NOW)
    rows = await shop.ask(
        "select input_tokens, output_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens"
        " from attempts"
    )
    assert rows == [(1, 2, 3, 4, 9)]


@pytest.mark.parametrize("body", [EXPIRED, CANCELED, OVERLOADED])
async def test_what_was_not_billed_is_sent_again_while_attempts_are_left(shop: Shop, body: bytes) -> None:
    [request_id] = await shop.some(1, attempts_max=2)
    batch = await shop.end()
    stored = await shop.store.store_results(batch.id, [line(batch, request_id, body)], NOW)
    assert stored == StoredResults(again=1, accounted=1)
    view = await shop.store.request(request_id)
    assert view is not None and (view.state, view.attempts, view.waits_until) == ("queued", 1, after(NOW, 30))
    assert await shop.store.finish_collecting(batch.id, 100, NOW)
    assert list(await shop.store.groups()) == []  # not before its pause is over
    await shop.store.wake_waiting(after(NOW, 30))
    second = await shop.end("u2", after(NOW, 30))
    stored = await shop.store.store_results(second.id, [line(second, request_id, body)], after(NOW, 40))
    assert stored == StoredResults(finished=1, accounted=1)
    assert (await shop.result(request_id)).body == body
    view = await shop.store.request(request_id)
    assert view is not None and view.attempts == 2


async def test_a_flagged_request_is_not_sent_again(shop: Shop) -> None:
    [request_id] = await shop.some(1)
    batch = await shop.end()
    await shop.store.cancel(request_id, "test", NOW)
    await shop.store.store_results(batch.id, [line(batch, request_id, CANCELED)], NOW)
    assert await shop.state(request_id) == "canceled"


async def test_a_result_that_arrives_in_spite_of_a_cancel_is_the_outcome(shop: Shop) -> None:
    [request_id] = await shop.some(1)
    batch = await shop.end()
    await shop.store.cancel(request_id, "test", NOW)
    await shop.store.store_results(batch.id, [line(batch, request_id)], NOW)
    assert await shop.state(request_id) == "succeeded"


async def test_lines_that_were_stored_are_skipped(shop: Shop) -> None:
    """Reading again from the start is safe, in any order and portion."""
    await shop.some(3)
    batch = await shop.end()
    ids = await shop.members(batch)
    first = [line(batch, ids[0]), line(batch, ids[1]), line(batch, ids[0], INVALID)]
    assert await shop.store.store_results(batch.id, first, NOW) == StoredResults(finished=2, skipped=1, accounted=2)
    again = [line(batch, id, INVALID) for id in ids[::-1]]
    assert await shop.store.store_results(batch.id, again, NOW) == StoredResults(finished=1, skipped=2, accounted=1)
    assert await shop.states(ids) == ["succeeded", "succeeded", "errored"]


async def test_foreign_lines_are_told_and_nothing_of_them_is_kept(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.end()
    lines = [
        b'{"custom_id":"stranger-1","result":{"type":"succeeded","secret":"s3cret"}}',
        line(batch, "01980000-0000-7000-8000-000000000009"),
        line(batch, "not one of ours"),
        line(batch, shop.ids[0]),
        line(batch, shop.ids[0]),
    ]
    stored = await shop.store.store_results(batch.id, lines, NOW)
    assert (stored.finished, stored.skipped, len(stored.foreign)) == (1, 1, 3)
    assert b"s3cret" not in shop.path.read_bytes() + shop.path.with_name("unhurried.db-wal").read_bytes()


async def test_a_chunk_with_a_bad_line_stores_nothing(shop: Shop) -> None:
    await shop.some(2)
    batch = await shop.end()
    ids = await shop.members(batch)
    with pytest.raises(BadLine):
        await shop.store.store_results(batch.id, [line(batch, ids[0]), line(batch, ids[1])[:-4]], NOW)
    assert await shop.states(ids) == ["submitted", "submitted"]


async def test_results_of_a_batch_that_has_not_ended_are_not_taken(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.submit()
    with pytest.raises(BadLine):
        await shop.store.store_results(batch.id, [line(batch, shop.ids[0])], NOW)


async def test_members_without_a_line_are_errored_in_chunks(shop: Shop) -> None:
    """`missing_result` is never retried by itself."""
    await shop.some(5)
    batch = await shop.end()
    ids = await shop.members(batch)
    await shop.store.store_results(batch.id, [line(batch, ids[1])], NOW)
    rounds = 0
    while not await shop.store.finish_collecting(batch.id, 3, NOW):
        rounds += 1
        await shop.check()
    assert rounds == 2
    assert await shop.states(ids) == ["errored", "succeeded", "errored", "errored", "errored"]
    assert b"missing_result" in (await shop.result(ids[0])).body
    assert await shop.store.finish_collecting(batch.id, 3, NOW)  # done is done


async def test_members_of_a_batch_that_is_gone_are_errored(shop: Shop) -> None:
    ids = await shop.some(3)
    batch = await shop.submit()
    await shop.store.record_gone(batch.id, "deleted", NOW)
    await shop.check()
    await shop.release()
    assert await shop.states(ids) == ["errored"] * 3
    assert b"batch_gone" in (await shop.result(ids[0])).body
    assert await shop.batch_state(batch) == "gone"


async def twin_of(shop: Shop) -> Batch:
    """What waits is in a batch that was given up, and turns up ended."""
    twin = await shop.doubt()
    await shop.store.abandon(twin.id, "missing", NOW)
    await shop.release()
    await shop.store.harvest_twin(twin.id, sighting(twin, "late", ended=True), NOW)
    return twin


async def test_a_late_twin_wins_when_it_is_first(shop: Shop) -> None:
    """One request waits again, one is in another batch already: both have their outcome, the rest is waste."""
    await shop.some(2)
    twin = await twin_of(shop)
    second = await shop.end("u2", requests_max=1)
    [sent] = await shop.members(second)
    [waiting] = [id for id in shop.ids if id != sent]
    stored = await shop.store.store_results(twin.id, [line(twin, sent), line(twin, waiting, INVALID)], NOW)
    assert (stored.finished, stored.waste, stored.accounted) == (2, 0, 2)
    assert await shop.states([sent, waiting]) == ["succeeded", "errored"]
    await shop.check()
    stored = await shop.store.store_results(second.id, [line(second, sent, INVALID)], NOW)
    assert (stored.finished, stored.waste) == (0, 0)
    assert (await shop.result(sent)).body == SUCCEEDED
    assert await shop.store.finish_collecting(twin.id, 10, NOW)
    assert await shop.store.finish_collecting(second.id, 10, NOW)
    assert list(await shop.store.groups()) == []
    view = await shop.store.batch(twin.id)
    assert view is not None and view.late


async def test_a_late_twin_that_is_second_is_waste(shop: Shop) -> None:
    await shop.some(2)
    twin = await twin_of(shop)
    second = await shop.end("u2")
    ids = await shop.members(second)
    await shop.store.store_results(second.id, [line(second, id) for id in ids], NOW)
    stored = await shop.store.store_results(twin.id, [line(twin, ids[0]), line(twin, ids[1], EXPIRED)], NOW)
    assert (stored.finished, stored.waste) == (0, 1)  # what expired was not billed
    counts = await shop.ask("select counts_as, count(*) from v_attempts group by 1 order by 1")
    assert counts == [("outcome", 2), ("waste or retried", 2)]


async def test_a_late_twins_retryable_outcome_changes_nothing(shop: Shop) -> None:
    await shop.some(1)
    twin = await twin_of(shop)
    stored = await shop.store.store_results(twin.id, [line(twin, shop.ids[0], OVERLOADED)], NOW)
    assert (stored.finished, stored.again) == (0, 0)
    assert await shop.state(shop.ids[0]) == "queued"


async def test_a_twin_that_turns_up_while_its_members_are_released_keeps_the_rest(shop: Shop) -> None:
    await shop.some(4)
    twin = await shop.doubt()
    await shop.store.abandon(twin.id, "missing", NOW)
    await shop.store.release_members(2, NOW)
    await shop.store.harvest_twin(twin.id, sighting(twin, "late", ended=True), NOW)
    await shop.check()
    assert await shop.store.release_members(2, NOW) == 0
    stored = await shop.store.store_results(twin.id, [line(twin, id) for id in shop.ids], NOW)
    assert (stored.finished, stored.accounted) == (4, 4)
    assert await shop.store.finish_collecting(twin.id, 10, NOW)


async def test_a_reading_that_brings_lines_forgets_an_earlier_not_found(shop: Shop) -> None:
    """Else one 404 now and one much later would make a batch gone."""
    await shop.some(2)
    batch = await shop.end()
    await shop.store.record_not_found(batch.id, NOW)
    await shop.store.store_results(batch.id, [line(batch, shop.ids[0])], NOW)
    [found] = await shop.store.open_batches()
    assert found.not_found_at is None


async def test_a_broken_reading_is_counted(shop: Shop) -> None:
    await shop.some(1)
    batch = await shop.end()
    await shop.store.record_read_failure(batch.id, "cut", after(NOW, 20), NOW)
    [found] = await shop.store.open_batches()
    assert (found.failures, found.next_try_at, found.expected_lines) == (1, after(NOW, 20), 1)


async def test_a_chunk_is_larger_than_any_bound_of_sqlite(shop: Shop) -> None:
    await shop.take(*(new() for _ in range(3_000)))
    batch = await shop.end()
    stored = await shop.store.store_results(batch.id, [line(batch, id) for id in shop.ids], NOW)
    assert stored.finished == 3_000
