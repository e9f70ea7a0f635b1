"""Bringing the schema up to date: numbered SQL files, each applied in one transaction with its version row."""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unhurried import __version__
from unhurried.clock import Ms
from unhurried.failpoints import failpoint
from unhurried.store.errors import StoreUnusable
from unhurried.store.sqlite.backup import CannotCopy, make_copy
from unhurried.store.sqlite.connection import is_full

_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


STATEMENT_CHARS: Final = 120
UNCHANGED: Final = "The database is as it was; run the version that it had, and tell whoever made this one"


class NewerSchema(StoreUnusable):
    exit_code = 65


class MigrationFailed(StoreUnusable):
    exit_code = 65


@dataclass(frozen=True, kw_only=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def label(self) -> str:
        return f"{self.version:04d}_{self.name}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def available(folder: Path | None = None) -> list[Migration]:
    """The migrations that this version knows, in order. They lie in the wheel, or at the top of a checkout."""
    package = Path(__file__).parents[2]
    folders = [folder] if folder else [package / "migrations/sqlite", package.parents[1] / "migrations/sqlite"]
    place = next((place for place in folders if place.is_dir()), None)
    if place is None:
        raise StoreUnusable(f"the migrations are missing from this installation (looked in {folders[0]})")
    found = [(match, path) for path in sorted(place.iterdir()) if (match := _NAME.fullmatch(path.name))]
    return [Migration(version=int(match[1]), name=match[2], sql=path.read_text("utf-8")) for match, path in found]


def migrate(db: sqlite3.Connection, path: Path, migrations: list[Migration], now: Ms) -> list[Migration]:
    """Apply what is missing and return it. A file that already holds data is backed up first, beside itself.

    Raises ``NewerSchema``, the database untouched, when it was made by a newer version, and ``StoreUnusable`` when a
    migration that it has is not the one known here.
    """
    found = applied(db)
    require_known(found, migrations, path)
    missing = [migration for migration in migrations if migration.version not in found]
    if found and missing:
        _back_up(db, path.with_name(f"{path.name}.before-{missing[0].version:04d}"), now)
        failpoint("migrate.backed_up")
    for migration in missing:
        _apply(db, migration, now)
    return missing


def require_known(found: dict[int, str], migrations: list[Migration], path: Path) -> None:
    """Raises ``NewerSchema`` or ``StoreUnusable`` for a schema that this version cannot use."""
    newest = migrations[-1].version if migrations else 0
    if found and max(found) > newest:
        raise NewerSchema(
            f"{path} has schema {max(found)}, made by a newer version; this one ({__version__}) knows {newest}."
            " Run the newer version, or restore the backup that it made before the upgrade"
        )
    for migration in migrations:
        if found.get(migration.version, migration.sha256) != migration.sha256:
            raise StoreUnusable(
                f"{path} was made by another build, with another schema {migration.version:04d}. Run that build until"
                " nothing is open, then begin with a new file; before 0.1.0 is released the schema has no upgrades"
            )


def applied(db: sqlite3.Connection) -> dict[int, str]:
    """Each migration that the file has, with its digest."""
    if not db.execute("select 1 from sqlite_master where name = 'schema_migrations'").fetchone():
        return {}
    return dict(db.execute("select version, sha256 from schema_migrations").fetchall())


def _apply(db: sqlite3.Connection, migration: Migration, now: Ms) -> None:
    """In one transaction. Foreign keys are looked at once, at its end: a table is rebuilt by making it anew, and
    dropping the old one would count as the loss of every row. Raises ``MigrationFailed`` with the statement."""
    (enforced,) = db.execute("pragma foreign_keys").fetchone()
    db.execute("pragma foreign_keys = off")  # does nothing within a transaction
    try:
        _apply_alone(db, migration, now)
    finally:
        db.execute(f"pragma foreign_keys = {enforced}")


def _apply_alone(db: sqlite3.Connection, migration: Migration, now: Ms) -> None:
    db.execute("begin immediate")
    try:
        failpoint("migrate.begun")
        db.execute(
            "create table if not exists schema_migrations (version integer primary key, name text not null,"
            " sha256 text not null, app_version text not null, applied_at integer not null) strict"
        )
        for statement in statements(migration.sql):
            _run(db, statement, migration)
            failpoint("migrate.statement")
        _check_references(db, migration)
        db.execute(
            "insert into schema_migrations (version, name, sha256, app_version, applied_at) values (?, ?, ?, ?, ?)",
            (migration.version, migration.name, migration.sha256, __version__, now),
        )
        failpoint("migrate.versioned")
        db.execute("commit")
        failpoint("migrate.committed")
    except BaseException:
        if db.in_transaction:
            db.execute("rollback")
        raise


def statements(sql: str) -> Iterator[str]:
    """One statement at a time: ``executescript`` would commit the transaction around them first."""
    pending = ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            if pending.strip(" \n;"):
                yield pending
            pending = ""
    if any(line.strip() and not line.strip().startswith("--") for line in pending.splitlines()):
        raise StoreUnusable(f"a migration ends in the middle of a statement: {pending.strip()[:60]!r}")


def _run(db: sqlite3.Connection, statement: str, migration: Migration) -> None:
    try:
        db.execute(statement)
    except sqlite3.Error as error:
        if is_full(error):
            raise
        first = " ".join(line for line in statement.split("\n") if not line.strip().startswith("--")).split()
        says = f"{error}, in: {' '.join(first)[:STATEMENT_CHARS]}"
        raise MigrationFailed(f"migration {migration.label} failed: {says}. {UNCHANGED}") from None


def _check_references(db: sqlite3.Connection, migration: Migration) -> None:
    if (lost := db.execute("pragma foreign_key_check").fetchone()) is not None:
        says = f"a row of {lost[0]} would lose the row of {lost[2]} that it belongs to"
        raise MigrationFailed(f"migration {migration.label} would break the database: {says}. {UNCHANGED}")


def _back_up(db: sqlite3.Connection, target: Path, now: Ms) -> None:
    """A copy through SQLite: copying the file would miss what is still in the write-ahead log. One that is left over
    from an upgrade that was killed is replaced."""
    try:
        make_copy(db, target, "upgrade", now)
    except CannotCopy as error:
        raise CannotCopy(f"an upgrade begins with a copy of the database: {error}. The database is as it was") from None
