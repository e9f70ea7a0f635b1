"""Places that the simulator cannot be made to lead to, and groups whose company must be known: in this process.

``raise`` ends a step where a kill would; what ``restart`` finds on disk is what a kill leaves there.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.stories import IN_PROCESS
from tests.loops.world import Theirs, World, world_at
from tests.store.support import Shop, new, shop_at
from unhurried.domain.request import Accepted
from unhurried.failpoints import FailpointReached, arm
from unhurried.store.sqlite.tx import Tx


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm(None)


@pytest.mark.parametrize("point", IN_PROCESS)
async def test_a_batch_that_lost_a_strangers_and_did_not_get_its_own_yet_gets_it(tmp_path: Path, point: str) -> None:
    """It has adopted a stranger's. Then a second of its size is in doubt, and while that one is looked into, the first
    line of the real one turns up."""
    async with world_at(tmp_path) as world:
        ids, stranger = await adopt_a_stranger_and_find_the_own(world)
        arm(f"{point}=raise")
        with pytest.raises(FailpointReached, match=point):
            await world.pass_s(200)
        arm(None)
        await world.restart()
        await world.pass_s(60)
        world.upstream.end(stranger)
        await world.settled()
        await world.finished()
        assert await world.shop.states(ids) == ["succeeded"] * len(ids)
        sent = [id for batch in world.upstream.ours() for id in batch.custom_ids]
        assert sorted(id.partition("-")[2] for id in sent) == sorted(ids), "each was paid once"


async def adopt_a_stranger_and_find_the_own(world: World) -> tuple[list[str], Theirs]:
    first = await world.accept(3)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    real = world.upstream.batches[0]
    real.visible = False
    world.clock.pass_s(1)
    stranger = world.upstream.stranger(3)
    await world.look()
    second = await world.accept(3)
    world.upstream.answers = [world.upstream.silent]
    await world.send()
    world.clock.pass_s(20)
    await world.look()
    real.visible = True
    world.upstream.end(real)
    return first + second, stranger


async def test_one_that_breaks_a_constraint_fails_alone_in_its_group(tmp_path: Path) -> None:
    """The others of the group are committed, acknowledged and on disk."""
    async with shop_at(tmp_path) as shop:
        good = [new() for _ in range(5)]
        arm(f"*=note:{tmp_path / 'hits'}")
        accepts = [asyncio.create_task(shop.store.accept([one])) for one in good[:3]]
        bad = asyncio.create_task(shop.store._writer.write(break_a_constraint))
        accepts += [asyncio.create_task(shop.store.accept([one])) for one in good[3:]]
        with pytest.raises(sqlite3.IntegrityError):
            await bad
        answers = [answer for [answer] in await asyncio.gather(*accepts)]
        arm(None)
        together = (tmp_path / "hits").read_text().split()[:6]
        assert together == ["writer.begun", *["writer.job"] * 5], "five were well when the sixth failed"
        await all_are_there(shop, [answer.id for answer in answers if isinstance(answer, Accepted)], 5)


def break_a_constraint(tx: Tx) -> None:
    """A row of its own first, which must go with the rest of it."""
    tx.db.execute("insert into events (at, actor, entity, entity_id, what) values (1, 'x', 'daemon', '', '')")
    tx.db.execute("insert into boots (epoch, started_at) select epoch, 1 from boots limit 1")


@pytest.mark.parametrize("point", ["writer.begun", "writer.job", "writer.settled"])
async def test_a_group_that_fails_as_a_whole_is_tried_one_by_one(tmp_path: Path, point: str) -> None:
    """A failure that is nobody's own is not anybody's answer."""
    async with shop_at(tmp_path) as shop:
        arm(f"{point}=raise")
        answers = await asyncio.gather(*(shop.store.accept([new()]) for _ in range(5)))
        ids = [answer.id for [answer] in answers if isinstance(answer, Accepted)]
        await all_are_there(shop, ids, 5)


async def all_are_there(shop: Shop, ids: list[str], count: int) -> None:
    assert len(set(ids)) == count
    db = sqlite3.connect(f"file:{shop.path}?mode=ro", uri=True)
    try:
        assert {row[0] for row in db.execute("select id from requests")} == set(ids)
        assert db.execute("select count(*) from events where actor = 'x'").fetchone() == (0,)
    finally:
        db.close()
    await shop.check()
