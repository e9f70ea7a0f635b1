"""After a crash the file is looked at before anything is written to it."""

import itertools
import sqlite3
from pathlib import Path

import pytest
import structlog

from tests.store.support import NOW, open_shop
from unhurried.store.sqlite import StoreConfig, open_store
from unhurried.store.sqlite.checking import check_after_a_cut
from unhurried.store.sqlite.connection import Damaged

CHECKED = StoreConfig(readers=1, check_s=60.0)


async def left(path: Path, *, clean: bool) -> None:
    """A database with some requests, whose daemon has stopped, or was cut off."""
    shop = await open_shop(path)
    await shop.some(200)
    await shop.close(clean=clean)


def spoil(path: Path, table: str) -> None:
    """Overwrite the first page of a table, as a bad disk would."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    page, size = db.execute(
        f"select rootpage, (select page_size from pragma_page_size) from sqlite_master where name = '{table}'"
    ).fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * 100)


async def test_damage_stops_the_start_as_often_as_it_is_tried_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await left(path, clean=False)
    spoil(path, "attempts")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(Damaged, match=r"is damaged: .*Nothing was changed\..*restore a backup") as error:
            await open_store(path, CHECKED, NOW)
        assert error.value.exit_code == 65
        assert path.read_bytes() == before


async def test_a_sound_file_is_told_to_be_sound_and_after_a_clean_stop_nobody_looks(tmp_path: Path) -> None:
    for clean, expected in ((False, ["store.checked"]), (True, [])):
        path = tmp_path / f"{clean}.db"
        await left(path, clean=clean)
        with structlog.testing.capture_logs() as logs:
            store = await open_store(path, CHECKED, NOW)
            await store.close(clean=True, now=NOW)
        assert [entry["event"] for entry in logs] == expected
        assert all(entry["sound"] == entry["tables"] > 10 for entry in logs)


async def test_the_look_ends_with_its_time_and_says_how_far_it_came(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await left(path, clean=False)
    spoil(path, "results")  # contents come last
    db = sqlite3.connect(path)
    ticks = itertools.count()
    with structlog.testing.capture_logs() as logs:
        check_after_a_cut(db, path, 5.0, lambda: float(next(ticks)))
    assert 0 < logs[0]["sound"] < logs[0]["tables"]
    with pytest.raises(Damaged):
        check_after_a_cut(db, path, 60.0)
    db.close()
