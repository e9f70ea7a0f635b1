from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.support import Shop, shop_at


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """A fresh store; every invariant is checked when the test is over."""
    async with shop_at(tmp_path) as shop:
        yield shop
        await shop.check()
