"""One simulator process for all tests of this folder, reset before each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from anthropic import AsyncAnthropic

from tests.simulator.process import Running, Simulator, start


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """The process."""
    running = start("--port", "0")
    yield running
    assert running.stop() == 0


@pytest.fixture
async def simulator(running: Running) -> AsyncIterator[Simulator]:
    """Its control face; whatever earlier tests did is forgotten."""
    async with httpx2.AsyncClient(base_url=running.url, timeout=20) as http:
        simulator = Simulator(running.url, http)
        await simulator.reset()
        yield simulator


@pytest.fixture
async def claude(simulator: Simulator) -> AsyncIterator[AsyncAnthropic]:
    """The real SDK, which retries nothing."""
    async with AsyncAnthropic(api_key="test-key", base_url=simulator.url, max_retries=0) as claude:
        yield claude
