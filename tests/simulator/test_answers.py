"""Orders of result lines."""

from __future__ import annotations

import pytest
from anthropic import AsyncAnthropic

from tests.simulator.process import Simulator, requests
from unhurried.simulator.answers import order


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 4096, 4097, 5000, 10_007, 30_030, 100_000])
@pytest.mark.parametrize("salt", [0, 1, 96, 123_456_789])
def test_an_order_has_each_number_once(n: int, salt: int) -> None:
    numbers = list(order(n, salt))

    assert sorted(numbers) == list(range(n))
    assert n < 10 or numbers != sorted(numbers)


async def test_a_large_batch_has_all_its_lines(simulator: Simulator, claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(5_001))
    await simulator.advance(60)

    async with claude.messages.batches.with_streaming_response.results(batch.id) as response:
        lines = [line async for line in response.iter_lines()]
    assert len(lines) == len(set(lines)) == 5_001
