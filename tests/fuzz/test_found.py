"""What the fuzzing has found, each with the harm it did."""

from pathlib import Path

import pytest

from tests.loops.world import line, world_at
from tests.store.support import NOW, SUCCEEDED, shop_at
from tests.store.support import line as line_of
from unhurried.domain.submitting import ErrorAnswer
from unhurried.upstream import shapes
from unhurried.upstream.errors import trouble_of

BATCH = (
    b'{"id":"b","processing_status":"ended","created_at":"2026-11-22T08:00:00Z","expires_at":"2026-11-22T08:00:00Z",'
    b'"request_counts":{"processing":0,"succeeded":%d,"errored":0,"canceled":0,"expired":0}}'
)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
@pytest.mark.parametrize(
    "usage",
    [
        b'{"input_tokens":%d}',
        b'{"cache_creation_input_tokens":%d}',
        b'{"cache_creation":{"ephemeral_1h_input_tokens":%d}}',
    ],
)
async def test_a_number_of_tokens_that_no_column_holds_keeps_no_result_from_being_stored(
    tmp_path: Path, usage: bytes, number: int
) -> None:
    """It ended the daemon, at each start anew."""
    body = b'{"type":"succeeded","message":{"usage":%s}}' % (usage % number)
    async with shop_at(tmp_path) as shop:
        ids = await shop.some(2)
        batch = await shop.end()
        await shop.store.store_results(batch.id, [line_of(batch, ids[0], body), line_of(batch, ids[1])], NOW)
        assert await shop.states(ids) == ["succeeded", "succeeded"]
        assert (await shop.result(ids[0])).body == body


async def test_tokens_of_many_results_can_be_added_up(tmp_path: Path) -> None:
    """The sum in the status overflowed, and with it the look of the keeper."""
    body = SUCCEEDED.replace(b'"input_tokens":3', b'"input_tokens":%d' % (2**63 - 1))
    assert body != SUCCEEDED
    async with shop_at(tmp_path) as shop:
        ids = await shop.some(3)
        batch = await shop.end()
        await shop.store.store_results(batch.id, [line_of(batch, id, body) for id in ids], NOW)
        await shop.ask("select sum(input_tokens) from attempts")


def test_counts_that_no_column_holds_are_a_bad_shape() -> None:
    """As the number of lines to expect it ended the daemon, at each start anew."""
    assert shapes.sighting(BATCH % 100_000).total == 100_000
    for number in (2**63, -1, 10**30):
        with pytest.raises(shapes.BadShape):
            shapes.sighting(BATCH % number)


@pytest.mark.parametrize("seconds", [1e300, 40 * 86_400.0])
async def test_results_are_read_again_before_they_vanish_however_long_upstream_says_to_wait(
    tmp_path: Path, seconds: float
) -> None:
    """A moment that no column holds ended the daemon; one after 29 days lost what was paid for."""
    async with world_at(tmp_path) as world:
        await world.accept(1)
        await world.send()
        [batch] = world.upstream.batches
        world.upstream.end(batch, [line(id) for id in batch.custom_ids])
        world.upstream.readings = [trouble_of(ErrorAnswer(status=429, retry_after_s=seconds), "GET /", None)]
        await world.pass_s(3 * 3_600, step_s=600)
        assert await world.shop.states(world.shop.ids) == ["succeeded"]
