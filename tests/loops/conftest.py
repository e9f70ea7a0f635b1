from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.loops.world import World, world_at


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A daemon without its socket; every invariant is checked when the test is over."""
    async with world_at(tmp_path) as world:
        yield world
