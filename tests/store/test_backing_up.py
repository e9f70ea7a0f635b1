"""A copy needs room, and a place of its own; whatever is in the way, nothing is left of it."""

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.resources.disks import small_disk
from tests.store.support import NOW, Shop
from unhurried.store.sqlite import backup
from unhurried.store.sqlite.backup import CannotCopy, CopyTaken, back_up
from unhurried.store.sqlite.connection import Damaged


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A database of ours of six megabytes."""
    path = tmp_path / "large.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma application_id = 1970169973")
        db.execute("create table some (x blob)")
        db.execute("insert into some values (zeroblob(6000000))")
        db.commit()
    return path


def test_without_room_it_is_not_begun(large: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4_000_000) as disk:
        with pytest.raises(CannotCopy, match=r"it takes 6,\d+,\d+ bytes, and [34],\d+,\d+ are free"):
            back_up(large, disk.folder / "copy.db", NOW)
        assert list(disk.folder.iterdir()) == []


def test_a_disk_that_fills_in_the_midst_leaves_nothing_behind(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else takes the room while it is made."""
    monkeypatch.setattr(backup, "_require_room", lambda *_: None)
    with small_disk(tmp_path / "disk", 4_000_000) as disk:
        (disk.folder / "copy.db").write_text("the old one")
        with pytest.raises(CannotCopy, match="it was full before the copy was complete"):
            back_up(large, disk.folder / "copy.db", NOW, force=True)
        assert [path.name for path in disk.folder.iterdir()] == ["copy.db"]
        assert (disk.folder / "copy.db").read_text() == "the old one"


def test_two_that_write_one_copy_do_not_mix(large: Path, tmp_path: Path) -> None:
    with (tmp_path / "copy.db.partial").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CopyTaken, match="another process is writing"):
            back_up(large, tmp_path / "copy.db", NOW)
    back_up(large, tmp_path / "copy.db", NOW)


def test_what_is_not_sound_is_not_called_a_backup(large: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(large)) as db:
        db.execute("create table others (x integer primary key, y integer unique)")
        db.execute("insert into others values (1, 2), (3, 4)")
        (root,) = db.execute("select rootpage from sqlite_master where name = 'sqlite_autoindex_others_1'").fetchone()
        (size,) = db.execute("pragma page_size").fetchone()
        db.commit()
    with large.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\x0a" + bytes(size - 1))  # an index without entries
    with pytest.raises(Damaged, match="not sound"):
        back_up(large, tmp_path / "copy.db", NOW)
    assert not list(tmp_path.glob("copy*"))


async def test_progress_is_told_and_comes_to_its_end(shop: Shop, tmp_path: Path) -> None:
    await shop.some(3)
    told: list[tuple[int, int]] = []
    copied = back_up(shop.path, tmp_path / "copy.db", NOW, lambda done, of: told.append((done, of)))
    assert told and told[-1][0] == told[-1][1] > 10
    assert copied.rows["requests"] == 3
