"""What lies at the place of a database before SQLite is let at it.

SQLite takes whatever it finds: a log without its database it deletes, a log beside an empty one too, and a log that
another database has left it writes into this one. So these are looked at first, by their names and sizes.
"""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from unhurried.clock import Ms
from unhurried.store.errors import StoreUnusable
from unhurried.store.sqlite.connection import Damaged
from unhurried.store.sqlite.copies import is_marked
from unhurried.store.sqlite.migrate import applied
from unhurried.store.sqlite.place import WrongPlace
from unhurried.store.sqlite.swap import finish

log = structlog.get_logger()

PAGE_MIN: Final = 512
"""SQLite takes what is smaller for an empty file."""
ADVICE: Final = (
    "Copy the folder away first; then restore a backup (`unhurried restore FILE`), or save what can be read"
    " (docs/backup.md)"
)


def advised(error: StoreUnusable) -> StoreUnusable:
    """The same in one line, with what to do about a damaged file."""
    says = " ".join(str(error).split())
    return type(error)(says if "restore a backup" in says else f"{says}. {ADVICE}")


@dataclass(frozen=True)
class Found:
    """``fresh``: there is no database yet. ``logged``: some of it is in the log beside it. ``identity``: of the file
    without that; None where it cannot be told or there is no log."""

    fresh: bool
    logged: bool = False
    identity: int | None = None


def look_before_opening(database: Path, epoch: int, now: Ms) -> Found:
    """Finish a restore that was cut short, and refuse what SQLite would lose. ``epoch``: the newest boot that the lock
    remembers. Raises ``StoreUnusable``, nothing changed."""
    if (swapped := finish(database)) is not None:
        log.warning("restore.finished", aside=str(swapped.aside) if swapped.aside else None)
    log_bytes = _size(database.with_name(database.name + "-wal"))
    try:
        kind = database.stat().st_mode
    except FileNotFoundError:
        if log_bytes:
            raise Damaged(
                f"{database} is missing, and its log {database.name}-wal is there: SQLite would delete it. Put the"
                " database back beside it, or move the log away to begin anew"
            ) from None
        if epoch:
            log.warning("database.missing", database=str(database), boots=epoch)
        return Found(fresh=True)
    if not stat.S_ISREG(kind):
        raise WrongPlace(f"{database} is no file; UNHURRIED_DATABASE names the file")
    size = _size(database)
    if not size and (log_bytes or epoch):
        raise Damaged(f"{database} is empty, and a daemon has run on it")
    if 0 < size < PAGE_MIN:
        raise Damaged(f"{database} is cut off after {size} bytes")
    if not size or not log_bytes:
        return Found(fresh=not size)
    identity, fresh_copy = _without_its_log(database)
    if fresh_copy:
        _set_log_aside(database, now)
        return Found(fresh=False)
    return Found(fresh=False, logged=True, identity=identity)


def require_whole(db: sqlite3.Connection, database: Path, epoch: int, found: Found) -> None:
    """Refuse a file with a log that is not its own, as far as that shows, and to begin anew on one that has lost
    everything but its first page. ``db``: open, and nothing is written."""
    if found.identity is not None and db.execute("pragma user_version").fetchone()[0] != found.identity:
        raise Damaged(f"the log {database.name}-wal beside {database} is of another database: move it away")
    if epoch and not found.fresh and not applied(db):
        raise Damaged(f"{database} holds nothing, and a daemon has run on it")


@contextmanager
def untouched(database: Path) -> Iterator[None]:
    """Opened in here and closed again, a database stays as it is: the last connection that can write would move the log
    into the file and delete it, though the file was refused. So the last one is one that cannot."""
    with ExitStack() as at_last:
        with suppress(sqlite3.Error):
            last = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)
            at_last.callback(last.close)
            last.execute("select 1 from sqlite_master limit 1").fetchone()  # only now it takes part
        yield


def _without_its_log(database: Path) -> tuple[int | None, bool]:
    """Of the file itself: which database it is, and whether it is a copy on which no daemon has started. Then the log
    is not its own: the first thing that a start does is to note itself in the file."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?immutable=1", uri=True, isolation_level=None)) as db:
            identity = int(db.execute("pragma user_version").fetchone()[0])
            known = db.execute("select 1 from sqlite_master where name = 'copies'").fetchone() is not None
            return identity, known and is_marked(db)
    except sqlite3.Error:
        return None, False  # opening it will tell


def _set_log_aside(database: Path, now: Ms) -> None:
    stray = database.with_name(f"{database.name}-wal.stray-{now}")
    database.with_name(database.name + "-wal").replace(stray)
    database.with_name(database.name + "-shm").unlink(missing_ok=True)
    log.warning("database.log_of_another", database=str(database), moved_to=str(stray))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
