"""What any fate has found."""

from pathlib import Path

from tests.store.support import NOW, shop_at
from unhurried.clock import after


async def test_a_clock_that_is_set_back_between_forming_and_sending_is_no_complaint(tmp_path: Path) -> None:
    async with shop_at(tmp_path) as shop:
        await shop.some(2)
        batch = await shop.form(NOW)
        earlier = after(NOW, -100)
        assert await shop.store.record_submission(batch.id, earlier, earlier) is not None
        await shop.check()
