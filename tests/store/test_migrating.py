"""Old or new, never between; with a backup before an upgrade; and never downwards."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.store.support import NOW, open_shop
from unhurried.store.errors import StoreUnusable
from unhurried.store.sqlite import StoreConfig, migrate, open_store
from unhurried.store.sqlite.migrate import Migration, MigrationFailed, NewerSchema, available, statements

SECOND = """
-- Semicolons; in a comment
create table more (x integer primary key, y text default ';') strict;
insert into more (y) values ('a;b');
create trigger t after insert on more begin
  delete from more where x < 0;
end;
alter table first rename to renamed;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "0001_first.sql").write_text("create table first (x integer) strict;\ninsert into first values (7);\n")
    (made / "notes.txt").write_text("not a migration")
    return made


@contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


def schema(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("select name from sqlite_master order by 1")]


def test_a_fresh_file_gets_everything_and_a_second_start_nothing(tmp_path: Path, folder: Path) -> None:
    (folder / "0002_more.sql").write_text(SECOND)
    with connected(tmp_path / "a.db") as db:
        done = migrate.migrate(db, tmp_path / "a.db", available(folder), NOW)
        assert [migration.version for migration in done] == [1, 2]
        assert schema(db) == ["more", "renamed", "schema_migrations", "t"]
        assert db.execute("select version, name, applied_at from schema_migrations").fetchall() == [
            (1, "first", NOW),
            (2, "more", NOW),
        ]
        assert db.execute("select y from more").fetchall() == [("a;b",)]
        assert migrate.migrate(db, tmp_path / "a.db", available(folder), NOW) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "migrations"]  # nothing to back up


def test_an_upgrade_makes_a_backup_first(tmp_path: Path, folder: Path) -> None:
    path, backup = tmp_path / "a.db", tmp_path / "a.db.before-0002"
    with connected(path) as db:
        db.execute("pragma journal_mode = wal")
        migrate.migrate(db, path, available(folder), NOW)
        db.execute("insert into first values (8)")  # still in the log, where a copy of the file would miss it
        (folder / "0002_more.sql").write_text(SECOND)
        backup.write_text("left over from an upgrade that was killed")
        assert [migration.name for migration in migrate.migrate(db, path, available(folder), NOW)] == ["more"]
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with connected(backup) as old:
        assert schema(old) == ["first", "schema_migrations"]
        assert old.execute("select x from first").fetchall() == [(7,), (8,)]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", range(8))
def test_a_kill_at_any_statement_leaves_the_old_schema(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """And the next start completes it."""
    path = tmp_path / "a.db"
    with connected(path) as db:
        migrate.migrate(db, path, available(folder), NOW)
        before = schema(db)
    (folder / "0002_more.sql").write_text(SECOND)
    assert len(list(statements(SECOND))) == 4

    class Dying(sqlite3.Connection):
        left = at

        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if not sql.startswith(("select", "rollback")):
                if self.left == 0:
                    raise Killed
                self.left -= 1
            return super().execute(sql, *values)

    dying = sqlite3.connect(path, isolation_level=None, factory=Dying)
    try:
        with pytest.raises(Killed):
            migrate.migrate(dying, path, available(folder), NOW)
    finally:
        dying.close()
    with connected(path) as db:
        assert schema(db) == before
        assert db.execute("select version from schema_migrations").fetchall() == [(1,)]
        migrate.migrate(db, path, available(folder), NOW)
        assert schema(db) == ["more", "renamed", "schema_migrations", "t"]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, folder: Path) -> None:
    (folder / "0002_bad.sql").write_text("create table more (x) ;\ninsert into nowhere values (1);\n")
    with connected(tmp_path / "a.db") as db:
        with pytest.raises(MigrationFailed, match="0002_bad failed: no such table: nowhere, in: insert into nowhere"):
            migrate.migrate(db, tmp_path / "a.db", available(folder), NOW)
        assert schema(db) == ["first", "schema_migrations"]


async def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    shop = await open_shop(path)
    await shop.ask("insert into schema_migrations values (9999, 'later', '', '99', 1)")
    await shop.close()
    before = path.read_bytes()
    with pytest.raises(NewerSchema, match="9999") as error:
        await open_store(path, StoreConfig(), NOW)
    assert error.value.exit_code == 65
    assert path.read_bytes() == before
    with connected(path) as db:
        assert db.execute("select count(*) from boots").fetchone() == (1,)


async def test_a_schema_of_the_same_number_but_another_build_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "unhurried.db"
    shop = await open_shop(path)
    await shop.ask("update schema_migrations set sha256 = 'another'")
    await shop.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="another build"):
        await open_store(path, StoreConfig(), NOW)
    assert path.read_bytes() == before


def test_a_migration_that_ends_in_the_middle_is_not_applied() -> None:
    with pytest.raises(StoreUnusable, match="middle of a statement"):
        list(statements("create table a (x);\ncreate table b (\n"))
    assert list(statements("-- only words\n\n")) == []


def test_our_own_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in available()] == list(range(1, len(available()) + 1))


def test_missing_migrations_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="missing from this installation"):
        available(tmp_path / "nothing")


def test_the_sum_of_a_migration_is_over_its_text() -> None:
    one, other = (Migration(version=1, name="a", sql=sql) for sql in ("select 1;", "select 2;"))
    assert one.sha256 != other.sha256
