"""Copies of a database, made through SQLite while it may be in use.

The copy is one snapshot: a read transaction is held for as long as it takes. Without it SQLite begins anew whenever
another process writes, and beside a busy daemon never ends (200 MB: a thousand beginnings in 20 s and no copy). What it
costs is that the write-ahead log cannot be emptied meanwhile (200 MB: a second, and 6 MB of log). ``VACUUM INTO`` holds
the same transaction, takes half as much CPU again, and cannot tell how far it is.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unhurried.clock import Ms
from unhurried.failpoints import failpoint
from unhurried.store.errors import StoreUnusable
from unhurried.store.sqlite.connection import APPLICATION_ID, READER_BUSY_MS, Damaged, is_full, unopened
from unhurried.store.sqlite.copies import is_marked, mark

PAGES: Final = 1_000
"""Copied in one step, some milliseconds."""
PARTIAL: Final = ".partial"
BESIDE: Final = ("-journal", "-wal", "-shm")
"""What SQLite may put beside a file."""

Progress = Callable[[int, int], None]
"""Told of pages done, and of all."""


class CannotCopy(StoreUnusable):
    """There is no room for the copy, or it may not be written there. Nothing is left of it."""

    exit_code = 73


class CopyTaken(StoreUnusable):
    """Another process is writing the same copy."""

    exit_code = 75


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a finished copy has. ``rows`` by table."""

    path: Path
    size: int
    rows: dict[str, int]
    schema: int
    made_at: Ms


def make_copy(
    source: sqlite3.Connection,
    target: Path,
    why: str,
    made_at: Ms,
    progress: Progress = lambda done, of: None,
    *,
    marked_again: bool = True,
) -> Copied:
    """Make ``target`` a verified copy of ``source``, on disk when this returns; what was there before stays until then.

    The copy says of itself that it is one, made at ``made_at``; with ``marked_again`` false one that says so already is
    left as it is. Killed at any moment it leaves the old file or the new one, and at most something that the next run
    removes. Raises ``CannotCopy``, ``CopyTaken``, or ``Damaged`` when the source, or what was written, is not sound.
    """
    partial = target.with_name(target.name + PARTIAL)
    with _claimed(partial) as file:
        failpoint("backup.begun")
        try:
            _require_room(source, target.parent)
            rows, schema = _copy(source, partial, why, made_at, progress, marked_again=marked_again)
            os.fsync(file)
            failpoint("backup.verified")
            size = os.fstat(file).st_size
            partial.replace(target)
        except (sqlite3.Error, OSError) as error:
            _remove(partial)
            raise _explained(error, target) from None
        except BaseException:
            _remove(partial)
            raise
        failpoint("backup.renamed")
        sync_folder(target.parent)
    return Copied(path=target, size=size, rows=rows, schema=schema, made_at=made_at)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder survive a power cut."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _claimed(partial: Path) -> Iterator[int]:
    """An empty file of our own to copy into. Its lock is not SQLite's, so it does not mind."""
    while True:
        try:
            file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise CannotCopy(f"cannot write {partial}: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise CopyTaken(f"another process is writing {partial}; wait until it has finished") from None
        if _is_there(file, partial):
            break
        os.close(file)  # whoever had it has renamed or removed it meanwhile
    try:
        os.fchmod(file, 0o600)  # as private as the database itself
        os.ftruncate(file, 0)  # left over from one that was killed
        _remove_beside(partial)
        yield file
    finally:
        os.close(file)


def _is_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _copy(
    source: sqlite3.Connection, partial: Path, why: str, made_at: Ms, progress: Progress, *, marked_again: bool
) -> tuple[dict[str, int], int]:
    copy = sqlite3.connect(partial, isolation_level=None)
    try:
        source.execute("begin")
        try:
            rows, schema, owner = _facts(source)  # begins the snapshot
            source.backup(copy, pages=PAGES, progress=lambda _, left, of: progress(of - left, of))
        finally:
            source.execute("rollback")
        failpoint("backup.copied")
        copy.execute("pragma journal_mode = delete")  # one file, without a log beside it
        _verify(copy, rows, schema, owner)
        if "copies" in rows and (marked_again or not is_marked(copy)):
            mark(copy, why, made_at)
        failpoint("backup.marked")
    finally:
        copy.close()
    return rows, schema


def _facts(db: sqlite3.Connection) -> tuple[dict[str, int], int, int]:
    """Rows by table, the newest migration, and whose file it is."""
    tables = [
        name
        for (name,) in db.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'")
    ]
    rows = {name: int(db.execute(f'select count(*) from "{name}"').fetchone()[0]) for name in tables}
    schema = 0
    if "schema_migrations" in rows:
        schema = db.execute("select coalesce(max(version), 0) from schema_migrations").fetchone()[0]
    return rows, schema, db.execute("pragma application_id").fetchone()[0]


def _verify(copy: sqlite3.Connection, rows: dict[str, int], schema: int, owner: int) -> None:
    found = [str(row[0]) for row in copy.execute("pragma integrity_check(5)") if row[0] != "ok"]
    found += [f"a row of {row[0]} has lost what it belongs to" for row in copy.execute("pragma foreign_key_check")]
    if not found and _facts(copy) != (rows, schema, owner):
        found = ["it has other rows than the original"]
    if found:
        raise Damaged(f"the copy is not sound, nor then is what it was made of: {found[0]}")


def _require_room(source: sqlite3.Connection, folder: Path) -> None:
    wanted = source.execute("pragma page_count").fetchone()[0] * source.execute("pragma page_size").fetchone()[0]
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < wanted:
        raise CannotCopy(f"no room for a copy in {folder}: it takes {wanted:,} bytes, and {free:,} are free")


def _explained(error: sqlite3.Error | OSError, target: Path) -> StoreUnusable:
    if isinstance(error, OSError):
        return CannotCopy(f"cannot write {target}: {error.strerror}")
    if is_full(error):
        return CannotCopy(f"no room for a copy in {target.parent}: it was full before the copy was complete")
    return Damaged(f"no copy could be made: {error}")


def _remove(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink(missing_ok=True)
        _remove_beside(partial)


def _remove_beside(partial: Path) -> None:
    for ending in BESIDE:
        partial.with_name(partial.name + ending).unlink(missing_ok=True)


def back_up(
    database: Path, target: Path, now: Ms, progress: Progress = lambda done, of: None, *, force: bool = False
) -> Copied:
    """Copy a database from another process than the daemon's, whether that runs or not. Raises ``StoreUnusable``, also
    when ``target`` is there already and ``force`` does not say that it may be replaced."""
    _require_free(database, target, force=force)
    try:
        source = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise unopened(database, error) from None
    with closing(source):
        try:
            source.execute(f"pragma busy_timeout = {READER_BUSY_MS}")
            source.execute("select 1 from sqlite_master limit 1").fetchone()  # may it be used at all?
            if source.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
                raise Damaged(f"{database} is no database of ours")
        except sqlite3.Error as error:
            raise unopened(database, error) from None
        return make_copy(source, target, "backup", now, progress)


def _require_free(database: Path, target: Path, *, force: bool) -> None:
    real = database.resolve()
    if target.resolve() in {real, *(real.with_name(real.name + ending) for ending in (*BESIDE, ".lock", ".reserve"))}:
        raise CannotCopy(f"{target} is the database, or belongs to it: name another file")
    if target.is_dir():
        raise CannotCopy(f"{target} is a folder: name the file in it")
    if target.exists() and not force:
        raise CannotCopy(f"{target} is there already: name another file, or replace it with --force")
