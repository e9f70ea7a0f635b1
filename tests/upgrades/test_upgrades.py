"""An upgrade leaves the old schema or the new one, whenever it is cut short; and the way back is the copy it made."""

import asyncio
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.docs.incident import bad_night
from tests.resources.disks import small_disk
from tests.store.support import NOW, open_shop
from tests.upgrades.later import ADDS, contents, rebuilds, shape, start, versions
from unhurried.clock import after
from unhurried.store.sqlite.doctor import examine
from unhurried.store.sqlite.migrate import statements

LATER = after(NOW, 60)
KILLED = -9
STATEMENTS = (len(list(statements(ADDS))), len(list(statements(rebuilds()))))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the first version with some of everything, as a kill has left it."""
    path = tmp_path_factory.mktemp("night") / "u.db"
    asyncio.run(bad_night(path, NOW))
    return path


@pytest.fixture
def database(night: Path, tmp_path: Path) -> Path:
    for path in night.parent.iterdir():
        shutil.copy2(path, tmp_path / path.name)
    return tmp_path / "u.db"


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return versions(tmp_path_factory.mktemp("later") / "migrations")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, later: Path) -> Path:
    """A database that never knew the old schemas."""
    path = tmp_path_factory.mktemp("fresh") / "u.db"
    assert start(path, later, NOW) == (0, "")
    return path


def sound(database: Path) -> bool:
    return asyncio.run(examine(database)) == []


def test_an_upgraded_database_is_like_a_fresh_one_and_has_lost_nothing(
    database: Path, later: Path, fresh: Path
) -> None:
    before = contents(database)
    assert start(database, later, LATER) == (0, "")
    assert shape(database) == shape(fresh)
    assert contents(database) == before
    assert sound(database)
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("select note from v_notes where name = 'content'").fetchall() == [("of content",)]
        assert db.execute("select count(*) from v_batches").fetchone()[0] == before["batches"]
        assert db.execute("select distinct weight from groups").fetchall() == [(1.0,)]
        db.execute("pragma foreign_keys = on")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            db.execute("delete from groups where id in (select group_id from batches)")


KILLS = [
    *(f"backup.{beat}=kill" for beat in ("begun", "copied", "verified", "renamed")),
    "migrate.backed_up=kill",
    *(f"migrate.begun=kill@{number}" for number in (1, 2)),
    *(f"migrate.statement=kill@{number}" for number in range(1, sum(STATEMENTS) + 1)),
    *(f"migrate.{beat}=kill@{number}" for beat in ("versioned", "committed") for number in (1, 2)),
]


@pytest.mark.parametrize("part", range(4))  # side by side
def test_killed_at_any_statement_it_is_one_schema_or_the_other(
    database: Path, later: Path, fresh: Path, tmp_path: Path, part: int
) -> None:
    """One that begins with what the last kill has left; the next start completes it."""
    halfway = tmp_path / "halfway"
    halfway.mkdir()
    for path in database.parent.glob("u.db*"):
        shutil.copy2(path, halfway / path.name)
    assert start(halfway / "u.db", versions(tmp_path / "second", ("0002_adds", ADDS)), LATER) == (0, "")
    between, old, new = shape(halfway / "u.db"), shape(database), shape(fresh)
    before = contents(database)
    clean = {path.name: path.read_bytes() for path in database.parent.glob("u.db*")}
    for kill in KILLS[part::4]:
        for path in database.parent.glob("u.db*"):
            path.unlink()
        for name, content in clean.items():
            (database.parent / name).write_bytes(content)
        assert start(database, later, LATER, kill)[0] == KILLED, kill
        found = shape(database)
        assert found in (old, between, new), kill
        assert (found == new) == (kill == "migrate.committed=kill@2"), kill
        if found == between:
            assert kill not in KILLS[:5], kill
        assert sound(database), kill
        assert contents(database) == before, kill
        assert start(database, later, LATER) == (0, ""), kill
        assert shape(database) == new, kill
        assert sound(database) and contents(database) == before, kill
        assert not list(database.parent.glob("*.partial*")), kill


def test_a_copy_is_made_first_that_the_older_version_opens(database: Path, later: Path) -> None:
    old, before = shape(database), contents(database)
    made = database.with_name("u.db.before-0002")
    made.write_text("left over from an upgrade that was killed")
    assert start(database, later, LATER, "migrate.backed_up=kill")[0] == KILLED
    assert shape(made) == old == shape(database)
    assert contents(made) == before
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert sound(made)
    assert start(database, later, LATER) == (0, "")
    assert contents(made) == before

    async def open_it() -> None:
        shop = await open_shop(made, LATER)
        try:
            status = await shop.store.status()
            assert status.restored is not None and status.restored.held  # it knows that it is a copy
            await shop.check()
        finally:
            await shop.close()

    asyncio.run(open_it())


def test_the_older_version_refuses_the_newer_schema_and_touches_nothing(database: Path, later: Path) -> None:
    assert start(database, later, LATER) == (0, "")
    beside = {path.name for path in database.parent.iterdir()}
    before = database.read_bytes()
    code, said = start(database, versions(database.with_name("only"), ("0002_adds", ADDS)), LATER)
    assert code == 65
    assert "schema 3, made by a newer version" in said and str(database) in said
    assert database.read_bytes() == before
    assert {path.name for path in database.parent.iterdir()} - {"only"} == beside


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (f"{ADDS}\ninsert into nowhere values (1);", "no such table: nowhere, in: insert into nowhere values (1)"),
        (f"{ADDS}\nselect frm where;", "syntax error"),
        (f"{ADDS}\ninsert into queues (name, created_at) select name, 1 from queues;", "UNIQUE constraint failed"),
        (f"{ADDS}\ndelete from groups;", "would lose the row of groups that it belongs to"),
    ],
)
def test_a_migration_that_fails_says_where_and_leaves_the_old(database: Path, sql: str, says: str) -> None:
    old, before = shape(database), contents(database)
    code, said = start(database, versions(database.with_name("bad"), ("0002_bad", sql)), LATER)
    assert code == 65, said
    assert "0002_bad" in said and says in said and "is as it was" in said
    assert said.count("\n") == 0
    assert shape(database) == old and contents(database) == before
    assert sound(database)


def test_no_room_for_the_copy_refuses_the_upgrade(database: Path, later: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("insert into events (at, actor, entity, entity_id, what, detail)"
                   " values (1, 'test', 'daemon', 'daemon', 'large', hex(zeroblob(4000000)))")  # fmt: skip
        db.commit()
        db.execute("pragma wal_checkpoint(truncate)")
    with small_disk(tmp_path / "disk", 26_000_000) as disk:
        there = disk.folder / "u.db"
        shutil.copy2(database, there)
        disk.fill(leave=5_000_000)  # enough to start, and less than the copy takes
        before = there.read_bytes()
        code, said = start(there, later, LATER)
        assert code == 73, said
        assert "an upgrade begins with a copy" in said and "no room" in said
        assert there.read_bytes() == before
        assert not list(disk.folder.glob("*partial*")) and not list(disk.folder.glob("*before*"))
        disk.make_room()
        assert start(there, later, LATER) == (0, "")
