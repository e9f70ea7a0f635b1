"""A start with damaged files: sound, or one sentence that names the file and what to do; never less than was there.

Each case is a seed: it prints itself in the name of the test, and ``UNHURRIED_TEST_DAMAGE`` runs as many as one likes.
"""

import asyncio
import os
import random
import shutil
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.docs.incident import bad_night
from tests.store.support import NOW, Shop, new, open_shop
from unhurried.clock import after
from unhurried.store import StoreUnusable
from unhurried.store.sqlite import StoreConfig
from unhurried.store.sqlite.connection import Damaged
from unhurried.store.sqlite.doctor import examine
from unhurried.store.sqlite.place import WrongPlace, holder

SEEDS = range(int(os.environ.get("UNHURRIED_TEST_DAMAGE", "6")))
LATER = after(NOW, 60)
PAGE = 8_192
CHECKED = StoreConfig(readers=1, check_s=30.0)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database as a kill leaves it: some of it in the file, the newest requests in the log only."""
    folder = tmp_path_factory.mktemp("night")

    async def make() -> None:
        await bad_night(folder / "first.db", NOW)
        shop = await open_shop(folder / "first.db", NOW, recover=False)
        await shop.ask("pragma wal_checkpoint(truncate)")
        await shop.take(*(new(NOW, queue="newest") for _ in range(40)))
        for ending in ("", "-wal", "-shm", ".lock"):
            shutil.copy2(f"{shop.path}{ending}", folder / f"u.db{ending}")
        await shop.close(clean=False)

    asyncio.run(make())
    for path in folder.glob("first.db*"):
        path.unlink()
    return folder


@pytest.fixture
def database(night: Path, tmp_path: Path) -> Path:
    for path in night.iterdir():
        shutil.copy2(path, tmp_path / path.name)
    return tmp_path / "u.db"


async def requests(shop: Shop) -> int:
    [(count,)] = await shop.ask("select count(*) from requests")
    return int(count)


async def start(database: Path) -> tuple[StoreUnusable | None, int]:
    """Start and stop. What it was refused with, or how many requests it has; whatever else is raised is a bug."""
    shop: Shop | None = None
    try:
        shop = await open_shop(database, LATER, CHECKED)
        return None, await requests(shop)
    except StoreUnusable as error:
        return error, 0
    finally:
        if shop is not None:
            await shop.close()


def begin(database: Path) -> tuple[StoreUnusable | None, int]:
    return asyncio.run(start(database))


def files(folder: Path) -> dict[str, bytes]:
    """What must not change when a start is refused. The index of the log, and an empty log, are made anew each time."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.stat().st_size and not path.name.endswith(("-shm", ".lock"))
    }


def assert_told(error: StoreUnusable | None, database: Path, *, code: int = 65) -> None:
    assert error is not None
    assert error.exit_code == code, error
    said = str(error)
    assert "\n" not in said
    assert str(database) in said or "database" in said
    assert code != 65 or "unhurried restore" in said or "back beside it" in said or "restore a backup" in said, said


def assert_sound_or_told(database: Path, *, least: int) -> str:
    """Whatever the damage: a sound start with at least so many requests, or a refusal that changes nothing and that is
    the same when it is tried again."""
    before = files(database.parent)
    error, found = begin(database)
    if error is None:
        assert asyncio.run(examine(database)) == []
        assert found >= least
        return "sound"
    assert_told(error, database)
    if isinstance(error, Damaged):  # refused before anything was written
        assert files(database.parent) == before
    again, _ = begin(database)
    assert again is not None and again.exit_code == 65
    return "refused"


def in_the_file(database: Path) -> int:
    """Requests that stand in the file itself."""
    with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as db:
        return int(db.execute("select count(*) from requests").fetchone()[0])


def test_the_fixture_has_something_in_the_file_and_something_in_the_log(database: Path) -> None:
    before = in_the_file(database)
    error, found = begin(database)
    assert error is None
    assert found == before + 40 > 40


@pytest.mark.parametrize("seed", SEEDS)
def test_a_database_that_was_cut_off(database: Path, seed: int) -> None:
    chance = random.Random(f"cut {seed}")
    whole = in_the_file(database)
    size = database.stat().st_size
    anywhere, after_a_page = chance.randrange(1, size), chance.randrange(1, size // PAGE) * PAGE
    os.truncate(database, [1, 511, 600, PAGE, anywhere, after_a_page][seed % 6])
    if chance.random() < 0.5:
        Path(f"{database}-wal").unlink()
        Path(f"{database}-shm").unlink()
    assert_sound_or_told(database, least=whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_pages_that_were_overwritten(database: Path, seed: int) -> None:
    """By another program, or by a disk that has forgotten: in the file, in several places at once. What no check can
    see, bytes within a row, is left out: that is what ``doctor`` compares digests for."""
    chance = random.Random(f"pages {seed}")
    whole = in_the_file(database)
    with database.open("r+b") as file:
        for page in chance.sample(range(database.stat().st_size // PAGE), 3):
            file.seek(page * PAGE)
            file.write(chance.choice([bytes(PAGE), chance.randbytes(PAGE), b"\xff" * PAGE]))
    assert_sound_or_told(database, least=whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_garbage_in_the_header(database: Path, seed: int) -> None:
    chance = random.Random(f"header {seed}")
    whole = in_the_file(database)
    with database.open("r+b") as file:
        at = chance.randrange(0, 92)
        file.seek(at)
        file.write(chance.randbytes(min(8, 100 - at)))
    assert_sound_or_told(database, least=whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_that_was_torn_loses_only_what_is_behind(database: Path, seed: int) -> None:
    chance = random.Random(f"log {seed}")
    whole = in_the_file(database)
    log = Path(f"{database}-wal")
    if chance.random() < 0.5:
        os.truncate(log, chance.randrange(0, log.stat().st_size))
    else:
        with log.open("r+b") as file:
            file.seek(chance.randrange(0, log.stat().st_size - 64))
            file.write(chance.randbytes(64))
    if chance.random() < 0.5:
        Path(f"{database}-shm").unlink()
    assert assert_sound_or_told(database, least=whole) == "sound"


def test_the_log_of_another_database_is_not_taken_for_a_sound_one(database: Path, tmp_path: Path) -> None:
    """Put beside the file by hand. It is written into it by SQLite, or not: either way it is noticed."""
    (tmp_path / "other").mkdir()
    other = tmp_path / "other/o.db"

    async def make() -> None:
        shop = await open_shop(other)
        await shop.take(*(new(queue=f"other-{n}") for n in range(60)))
        shutil.copy2(f"{other}-wal", f"{database}-wal")
        await shop.close()

    whole = in_the_file(database)
    asyncio.run(make())
    Path(f"{database}-shm").unlink()
    assert_sound_or_told(database, least=whole)


def test_a_log_of_garbage_and_a_missing_index_are_no_trouble(database: Path) -> None:
    whole = in_the_file(database)
    Path(f"{database}-wal").write_bytes(b"no log at all" * 10_000)
    Path(f"{database}-shm").unlink()
    assert assert_sound_or_told(database, least=whole) == "sound"


def test_a_log_without_its_database_is_refused_and_not_deleted(database: Path) -> None:
    database.unlink()
    before = files(database.parent)
    error, _ = begin(database)
    assert_told(error, database)
    assert "-wal is there" in str(error)
    assert files(database.parent) == before


@pytest.mark.parametrize("with_log", [True, False])
def test_an_empty_file_where_a_database_was_is_not_begun_anew(database: Path, with_log: bool) -> None:
    database.write_bytes(b"")
    if not with_log:
        Path(f"{database}-wal").unlink()
    before = files(database.parent)
    error, _ = begin(database)
    assert_told(error, database)
    assert "is empty, and a daemon has run on it" in str(error)
    assert files(database.parent) == before


def test_a_file_that_has_lost_all_but_its_first_page_is_not_begun_anew(database: Path, tmp_path: Path) -> None:
    """As a first start leaves it whose log was lost: a header, and no table."""
    for ending in ("", "-wal", "-shm"):
        Path(f"{database}{ending}").unlink()
    with closing(sqlite3.connect(database)) as db:
        db.execute("pragma page_size = 8192")
        db.execute("pragma application_id = 1970169973")
        db.execute("pragma journal_mode = wal")
    error, _ = begin(database)
    assert_told(error, database)
    assert "holds nothing, and a daemon has run on it" in str(error)


def test_a_first_start_that_was_killed_at_its_beginning_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "u.db").write_bytes(b"")
    assert begin(tmp_path / "u.db") == (None, 0)


def test_a_missing_database_without_a_log_begins_anew(database: Path) -> None:
    """Somebody has moved it away, log and all: that is how one begins anew."""
    for ending in ("", "-wal", "-shm"):
        Path(f"{database}{ending}").unlink()
    assert begin(database) == (None, 0)


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\xff" * 5_000, b"12\n99999999999999999999999\n", b"x\n-3\n"])
def test_a_lock_with_garbage_in_it_is_a_lock(database: Path, garbage: bytes) -> None:
    whole = in_the_file(database)
    Path(f"{database}.lock").write_bytes(garbage)
    error, found = begin(database)
    assert error is None
    assert found == whole + 40


def test_a_link_is_the_file_that_it_names(database: Path, tmp_path: Path) -> None:
    """Its log and its lock are beside the file: two daemons that call it by two names do not both get it."""
    whole = in_the_file(database)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere/link.db"
    link.symlink_to(database)

    async def both() -> None:
        shop = await open_shop(link, LATER)
        try:
            assert await requests(shop) == whole + 40
            error, _ = await start(database)
            assert error is not None and error.exit_code == 75
            assert holder(link) is not None
        finally:
            await shop.close()

    asyncio.run(both())
    assert [path.name for path in link.parent.iterdir()] == ["link.db"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    os.mkfifo(tmp_path / "pipe.db")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "s.db"))
        for name in ("folder.db", "pipe.db", "s.db"):
            error, _ = begin(tmp_path / name)
            assert isinstance(error, WrongPlace)
            assert_told(error, tmp_path / name, code=73)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_file_that_may_not_be_written_is_refused(database: Path) -> None:
    database.chmod(stat.S_IRUSR)
    error, _ = begin(database)
    assert_told(error, database, code=73)


def test_damage_that_shows_only_later_ends_the_daemon_with_the_same_words(database: Path) -> None:
    """A page that the first look did not come to: whoever reads it says so, and it is no traceback."""

    async def read() -> StoreUnusable | None:
        shop = await open_shop(database, LATER, StoreConfig(readers=1, check_s=0.0))
        try:
            [(root,)] = await shop.ask("select rootpage from sqlite_master where name = 'destinations'")
            await shop.ask("pragma wal_checkpoint(truncate)")
            with database.open("r+b") as file:
                file.seek((root - 1) * PAGE)
                file.write(b"\xff" * PAGE)
            with pytest.raises(StoreUnusable) as error:
                await shop.store.destinations("", 10)
            return error.value
        finally:
            await shop.close(clean=False)

    error = asyncio.run(read())
    assert_told(error, database)
