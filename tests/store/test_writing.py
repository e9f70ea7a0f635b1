"""Group commit: one transaction for all who wait, and each one's failure is its own."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tests.store.support import NOW, Shop, new, open_shop, shop_at
from unhurried.store.errors import StoreBusy, StoreFull, StoreUnusable
from unhurried.store.sqlite import StoreConfig, writer
from unhurried.store.sqlite.connection import in_thread
from unhurried.store.sqlite.tx import GuardFailed, Tx, guard


async def test_what_comes_together_is_committed_together(shop: Shop) -> None:
    before = shop.store._writer.commits
    await asyncio.gather(*(shop.take(new()) for _ in range(100)))
    assert shop.store._writer.commits - before <= 3
    assert (await shop.ask("select count(*) from requests"))[0][0] == 100


async def test_one_bad_job_fails_alone(shop: Shop) -> None:
    """The group is rolled back and its jobs are tried one by one."""
    twin = new()
    tasks = [asyncio.create_task(shop.store.accept([request])) for request in (new(), twin, twin, new())]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [False, False, True, False]
    assert isinstance(answers[2], sqlite3.IntegrityError)
    assert (await shop.ask("select count(*) from requests"))[0][0] == 3


async def test_a_failed_guard_changes_nothing(shop: Shop) -> None:
    await shop.some(1)

    def bad(tx: Tx) -> None:
        guard(tx.db.execute("update requests set priority = 5"), 2, "testing")

    with pytest.raises(GuardFailed, match="testing: 1 rows changed, 2 expected"):
        await shop.write(bad)
    assert await shop.ask("select priority from requests") == [(0,)]


async def test_a_name_made_in_a_failed_group_is_not_remembered(shop: Shop) -> None:
    """Ids of queues and groups are cached; a rollback takes back the rows they name."""
    twin = new(queue="fresh")
    tasks = [asyncio.create_task(shop.store.accept([request])) for request in (twin, twin, new(queue="fresh"))]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await shop.ask("select n from counters where state = 'queued'") == [(2,)]


async def test_a_cancelled_caller_changes_nothing(shop: Shop) -> None:
    """What was handed to the writer is carried out, whoever leaves meanwhile."""
    request = new()
    task = asyncio.create_task(shop.store.accept([request]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await shop.some(1)
    assert await shop.store.request(request.id) is not None


async def test_too_much_waiting_is_refused_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    async with shop_at(tmp_path, config=StoreConfig(readers=1, writer_jobs_max=3)) as shop:
        answers = await asyncio.gather(*(shop.store.accept([new()]) for _ in range(10)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, StoreBusy)]
        assert len(refused) == 7 and all(busy.retry_after_s > 0 for busy in refused)
        assert (await shop.ask("select count(*) from requests"))[0][0] == 3
        await shop.some(1)


async def test_too_many_bytes_waiting_are_refused(tmp_path: Path) -> None:
    async with shop_at(tmp_path, config=StoreConfig(readers=1, writer_bytes_max=1_500)) as shop:
        answers = await asyncio.gather(*(shop.store.accept([new()]) for _ in range(4)), return_exceptions=True)
        assert [isinstance(answer, StoreBusy) for answer in answers] == [False, False, True, True]


async def test_a_full_disk_refuses_new_work_and_loses_none(tmp_path: Path) -> None:
    """``max_page_count`` stands for the disk. When there is space again, no restart is needed."""
    async with shop_at(tmp_path) as shop:
        await shop.some(1)
        pages = (await shop.ask("pragma page_count"))[0][0]
        await shop.ask(f"pragma max_page_count = {pages}")

        async def fill() -> None:
            for _ in range(50):
                await shop.take(new(params={"system": "x" * 20_000}))

        with pytest.raises(StoreFull) as full:
            await fill()
        assert full.value.retry_after_s > 0
        stored = (await shop.ask("select count(*) from requests"))[0][0]
        assert stored == len(shop.ids)
        await shop.check()
        await shop.ask("pragma max_page_count = 1000000")
        await shop.take(new(params={"system": "x" * 20_000}))
        await shop.check()


async def test_a_full_disk_fails_only_those_that_do_not_fit(tmp_path: Path) -> None:
    async with shop_at(tmp_path) as shop:
        await shop.some(1)
        await shop.ask(f"pragma max_page_count = {(await shop.ask('pragma page_count'))[0][0]}")
        large = shop.store.accept([new(params={"system": "x" * 200_000})])
        answers = await asyncio.gather(shop.store.accept([new()]), large, return_exceptions=True)
        assert not isinstance(answers[0], Exception)
        assert isinstance(answers[1], StoreFull)


async def test_another_program_that_holds_the_database_makes_us_wait(tmp_path: Path) -> None:
    async with shop_at(tmp_path) as shop:
        await in_thread(shop.store._writer_db, lambda db: db.execute("pragma busy_timeout = 10"))
        other = sqlite3.connect(shop.path, isolation_level=None)
        try:
            other.execute("begin immediate")
            with pytest.raises(StoreBusy, match="another program"):
                await shop.some(1)
            other.execute("rollback")
            await shop.some(1)
        finally:
            other.close()


async def test_a_failing_disk_ends_the_writer_and_fails_everyone(tmp_path: Path) -> None:
    """Nobody knows what is on disk: no job of the group, nor any behind it, is left without an answer."""
    shop = await open_shop(tmp_path / "a.db")

    def bad(tx: Tx) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"
        raise error

    def odd(tx: Tx) -> None:
        raise ValueError("odd")

    try:
        jobs = [asyncio.create_task(shop.write(work)) for work in (odd, bad, odd)]
        jobs.append(asyncio.create_task(shop.write(odd, weight=10_000)))
        answers = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 10)
        assert [type(answer) for answer in answers] == [ValueError, StoreUnusable, StoreUnusable, StoreUnusable]
        with pytest.raises(StoreUnusable, match="SQLITE_IOERR_FSYNC"):
            await shop.writer
        with pytest.raises(StoreUnusable):
            await shop.some(1)
    finally:
        await shop.close(clean=False)


async def test_a_writer_that_is_cancelled_leaves_nobody_waiting(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "a.db")
    try:
        job = asyncio.create_task(shop.store.accept([new()]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        shop.writer.cancel()
        [answer] = await asyncio.wait_for(asyncio.gather(job, return_exceptions=True), 10)
        assert not isinstance(answer, BaseException) or isinstance(answer, (StoreUnusable, StoreBusy))
    finally:
        await asyncio.gather(shop.writer, return_exceptions=True)
        await shop.store.close(clean=False, now=NOW)


async def test_what_waits_when_the_store_stops_is_still_written(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "a.db")
    job = asyncio.create_task(shop.store.accept([new()]))
    await asyncio.sleep(0)
    await shop.close()
    assert len(await job) == 1
    with pytest.raises(StoreBusy):
        await shop.store.accept([new()])


async def test_a_checkpoint_without_space_is_put_off(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted is safe in the log."""

    def full(db: sqlite3.Connection) -> tuple[int, int, int]:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_checkpoint", full)
        await shop.store._writer.checkpoint()
    await shop.some(1)
    await shop.store._writer.checkpoint()


async def test_the_log_is_emptied_while_the_daemon_runs(tmp_path: Path) -> None:
    config = StoreConfig(readers=1, wal_bytes_max=1_000_000)
    async with shop_at(tmp_path, config=config) as shop:
        for _ in range(30):
            await shop.take(new(params={"system": "x" * 200_000}))
        assert (shop.path.with_name("unhurried.db-wal")).stat().st_size < 4_000_000


async def test_slow_work_is_taken_in_bounded_portions() -> None:
    backlog = writer.Backlog()
    loop = asyncio.get_running_loop()

    def job(weight: int) -> writer.Job:
        return writer.Job(lambda _: None, loop.create_future(), 1, weight)

    backlog.others.extend([job(200), job(100), job(1_000), job(1), job(1)])
    backlog.accepts.extend(job(0) for _ in range(600))
    taken = [[one.weight for one in backlog.take()] for _ in range(4)]
    assert [group.count(0) for group in taken] == [512, 88, 0, 0]
    assert [[weight for weight in group if weight] for group in taken] == [[200, 100], [1_000], [1, 1], []]
    assert len(backlog) == 0
