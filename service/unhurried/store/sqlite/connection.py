"""Opening connections, and running a function in a connection's own thread."""

import asyncio
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from unhurried.store.errors import StoreUnusable

T = TypeVar("T")

APPLICATION_ID: Final = 0x756E6875  # "unhu": `file` and other tools can tell what this is
SQLITE_MIN: Final = (3, 38, 0)
WRITER_BUSY_MS: Final = 10_000
READER_BUSY_MS: Final = 1_000
JOURNAL_SIZE_LIMIT: Final = 64 * 1024 * 1024


class Damaged(StoreUnusable):
    exit_code = 65


class NotPermitted(StoreUnusable):
    """The file is there, and this user may not use it."""

    exit_code = 73


async def open_writer(path: Path) -> aiosqlite.Connection:
    """The one connection that writes. Creates the file, readable for its owner only. Raises ``StoreUnusable``."""
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise StoreUnusable(f"SQLite {sqlite3.sqlite_version} is too old: {'.'.join(map(str, SQLITE_MIN))} is needed")
    before = os.umask(0o077)
    try:
        db = await _connected(path, aiosqlite.connect(path, isolation_level=None, cached_statements=512))
    finally:
        os.umask(before)
    return await _prepared(path, db, _prepare_writer)


async def open_reader(path: Path) -> aiosqlite.Connection:
    """A connection that cannot write. Raises ``StoreUnusable``."""
    connecting = aiosqlite.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    return await _prepared(path, await _connected(path, connecting), _prepare_reader)


async def _connected(path: Path, db: aiosqlite.Connection) -> aiosqlite.Connection:
    try:
        return await db
    except sqlite3.Error as error:
        # Its thread has a last word for this loop, and would die with a traceback if the loop were closed by then.
        await asyncio.to_thread(db._thread.join)  # noqa: SLF001
        raise unopened(path, error) from None


async def _prepared(
    path: Path, db: aiosqlite.Connection, prepare: Callable[[sqlite3.Connection], None]
) -> aiosqlite.Connection:
    try:
        await in_thread(db, prepare)
    except sqlite3.DatabaseError as error:
        await db.close()
        raise unopened(path, error) from None
    except BaseException:
        await db.close()  # an unclosed one keeps its thread, and so the process, alive
        raise
    return db


def is_full(error: sqlite3.Error) -> bool:
    """There is no space: for the file, its log, or (it has a code of its own) the index of the log."""
    index_full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE
    return index_full or primary_code(error) == sqlite3.SQLITE_FULL


def primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_fatal(error: sqlite3.Error) -> bool:
    """After these nobody knows what is on disk: stop, and let the next start look."""
    return not is_full(error) and primary_code(error) in (
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB
    )  # fmt: skip


def unopened(path: Path, error: sqlite3.Error) -> StoreUnusable:
    """What is told of a file that cannot be opened."""
    if is_full(error):
        return StoreUnusable(
            f"no space is left on the disk of {path}, not even to start: make some. What was accepted is safe"
        )
    kind = primary_code(error)
    if kind in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM) and not _permitted(path):
        return NotPermitted(f"no permission to use {path} as uid {os.geteuid()}: run this as the daemon's user")
    return Damaged(f"{path} cannot be used: {error}")


def _permitted(path: Path) -> bool:
    """Whether this user may use all that a reader needs: in WAL mode it writes into the ``-shm`` beside the file."""
    try:
        if not path.exists():
            return True
        shm = path.with_name(path.name + "-shm")
        beside = os.access(shm, os.R_OK | os.W_OK) if shm.exists() else os.access(path.parent, os.W_OK | os.X_OK)
    except PermissionError:
        return False
    return beside and os.access(path, os.R_OK)


async def in_thread(db: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run ``work`` in the connection's thread, as one hop.

    aiosqlite has no public way to hand over a whole transaction, and one hop a statement costs more than the statement
    (docs/architecture.md), so this is the one place that reaches for its private method.
    """
    result: T = await db._execute(work, db._conn)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return result


def _prepare_writer(db: sqlite3.Connection) -> None:
    empty = db.execute("select count(*) from sqlite_master").fetchone()[0] == 0
    owner = db.execute("pragma application_id").fetchone()[0]
    if not empty and owner != APPLICATION_ID:
        raise Damaged("the file is a SQLite database of another program; UNHURRIED_DATABASE must name its own file")
    if empty:  # these hold only if they are set before the first table, in this order
        db.execute("pragma page_size = 8192")
        db.execute("pragma auto_vacuum = incremental")
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        if not db.execute("pragma user_version").fetchone()[0]:  # a second number would be in the log only
            db.execute(f"pragma user_version = {1 + secrets.randbelow(2**31 - 1)}")  # which of ours it is: see files
    _require(db, "journal_mode", "wal")
    # Not FULL by default everywhere, and NORMAL loses acknowledged commits in a power cut.
    _require(db, "synchronous", 2)
    _require(db, "foreign_keys", 1)
    _require(db, "busy_timeout", WRITER_BUSY_MS)
    _require(db, "wal_autocheckpoint", 0)  # the writer checkpoints when nothing waits
    _require(db, "journal_size_limit", JOURNAL_SIZE_LIMIT)
    _require(db, "cache_size", -16_000)
    _require(db, "temp_store", 2)  # memory: the root file system may be read-only
    _require(db, "mmap_size", 0)  # a read error through mmap would be a SIGBUS
    # What is deleted or moved in a page is zeroed there; the page is written anyway. Pages that are freed whole keep
    # their bytes until they are used again: ON would write each of them, measured as sixty times the pages.
    _require(db, "secure_delete", "fast", says=2)
    _require(db, "trusted_schema", 0)
    _require(db, "cell_size_check", 1)


def _prepare_reader(db: sqlite3.Connection) -> None:
    _require(db, "query_only", 1)
    _require(db, "busy_timeout", READER_BUSY_MS)
    _require(db, "trusted_schema", 0)
    _require(db, "mmap_size", 0)
    _require(db, "temp_store", 2)
    db.execute("select 1 from sqlite_master limit 1").fetchone()  # opens the log and its index: may they be used?


def _require(db: sqlite3.Connection, name: str, value: str | int, says: int | None = None) -> None:
    """Set a pragma and read it back: a misspelt or refused one is silent in SQLite. ``says``: how it reads, if not as
    it was set."""
    db.execute(f"pragma {name} = {value}")
    row = db.execute(f"pragma {name}").fetchone()
    if row is None or row[0] != (value if says is None else says):
        raise StoreUnusable(f"SQLite does not take {name} = {value}; it says {row[0] if row else 'nothing'}")
