"""Putting a copy in the place of a database. Whoever calls holds the lock of the instance.

A complete and verified copy lies beside the database under a name of its own; from that moment the restore is decided,
and whoever comes next finishes it: the same command again, or the next start. The old file keeps its place until the
new one takes it, and gets another name before that.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from unhurried.clock import Ms
from unhurried.failpoints import failpoint
from unhurried.store.sqlite.backup import Copied, Progress, make_copy, sync_folder
from unhurried.store.sqlite.connection import APPLICATION_ID, Damaged
from unhurried.store.sqlite.copies import last_moment
from unhurried.store.sqlite.migrate import applied, available, require_known

_DECIDED: Final = re.compile(r"\.restored-(\d{8}T\d{6}\.\d{3}Z)")


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """``aside``: what was there before, None if nothing was. ``logged``: parts of it are still in the log beside it."""

    aside: Path | None
    logged: bool


def put_in_place(
    file: Path, database: Path, now: Ms, progress: Progress = lambda done, of: None
) -> tuple[Copied, Swapped]:
    """Restore ``file``. Raises ``StoreUnusable``, the database untouched, when it is no sound database of ours, is
    newer than this version, or finds no room."""
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%S.") + f"{now % 1000:03d}Z"
    with closing(open_copy_of(file)) as source:
        try:
            made_at = last_moment(source)
            decided = database.with_name(f"{database.name}.restored-{stamp}")
            _move_log_in(database)
            failpoint("restore.checkpointed")
            copied = make_copy(source, decided, "restore", made_at, progress, marked_again=False)
        except sqlite3.Error as error:
            raise Damaged(f"{file} cannot be read: {error}") from None
    failpoint("restore.decided")
    swapped = finish(database)
    assert swapped is not None
    return copied, swapped


def open_copy_of(file: Path) -> sqlite3.Connection:
    """A connection that only reads ``file`` and leaves nothing beside it. Raises ``StoreUnusable`` unless it is a
    database of ours that this version knows."""
    if not file.is_file() or not file.stat().st_size:
        raise Damaged(f"{file} is {'empty' if file.is_file() else 'no file'}")
    log = file.with_name(file.name + "-wal")
    how = "mode=ro" if log.exists() else "immutable=1"
    db = sqlite3.connect(f"{file.resolve().as_uri()}?{how}", uri=True, isolation_level=None)
    try:
        _require_ours(db, file)
    except sqlite3.Error as error:
        db.close()
        raise Damaged(f"{file} cannot be read: {error}") from None
    except BaseException:
        db.close()
        raise
    return db


def _require_ours(db: sqlite3.Connection, file: Path) -> None:
    if db.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
        raise Damaged(f"{file} is a SQLite database of another program")
    if not (found := applied(db)):
        raise Damaged(f"{file} has no schema: no daemon has ever finished its first start on it")
    require_known(found, available(), file)


def finish(database: Path) -> Swapped | None:
    """Finish a restore that is decided. None when there is none. Safe to be killed in, and to be run again."""
    swapped = None
    for decided, stamp in _decided(database):
        aside = database.with_name(f"{database.name}.aside-{stamp}")
        log, index = (database.with_name(database.name + ending) for ending in ("-wal", "-shm"))
        if database.exists() and not aside.exists():
            _name_too(database, aside)
        failpoint("restore.named")
        aside_log = aside.with_name(aside.name + "-wal")
        if log.exists():  # it could not be moved into the old file, which is damaged then; they stay together
            log.replace(aside_log)
        index.unlink(missing_ok=True)
        failpoint("restore.aside")
        sync_folder(database.parent)  # no power cut may bring the old log back beside the new file
        decided.replace(database)
        failpoint("restore.in_place")
        sync_folder(database.parent)
        swapped = Swapped(aside=aside if aside.exists() else None, logged=aside_log.exists())
    return swapped


def _decided(database: Path) -> Iterator[tuple[Path, str]]:
    if not database.parent.is_dir():
        return
    for path in sorted(database.parent.iterdir()):
        if path.name.startswith(database.name) and (match := _DECIDED.fullmatch(path.name[len(database.name) :])):
            yield path, match[1]


def _name_too(database: Path, aside: Path) -> None:
    try:
        os.link(database, aside)
    except OSError:  # a file system without: for a moment there is no database, and a start finishes this first
        database.replace(aside)


def _move_log_in(database: Path) -> None:
    """Make the old file whole, if it can be: what is in its log goes into it."""
    if not database.exists():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
