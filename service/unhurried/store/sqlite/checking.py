"""A look at the file before anything is written, when the last daemon was cut off: did the disk keep what it was given?

Bounded in time, so that a start stays short however large the file is. A finding stops the start with nothing changed,
as often as it is tried: what to do is a person's to decide.
"""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from unhurried.store.sqlite.connection import Damaged

log = structlog.get_logger()

LARGE: Final = ("bodies", "results")
"""Contents, and most of the file: last. What decides who is paid for, sent and delivered is in the others."""
BETWEEN: Final = 10_000
"""Instructions of SQLite between two looks at the time. It is heard between two trees of the file as well, and not in
the midst of one before SQLite 3.43: a look at a tree of a million rows takes a tenth of a second."""


def check_after_a_cut(
    db: sqlite3.Connection, path: Path, budget_s: float, monotonic: Callable[[], float] = time.monotonic
) -> None:
    """Raises ``Damaged`` when the file is; nothing is written. ``budget_s``: 0 leaves the look out."""
    if not budget_s:
        return
    began = monotonic()
    whole: list[str] = []
    found: list[str] = []
    tables: list[str] = []
    try:
        if not _cut_off(db):
            return
        tables = _tables(db)
        db.set_progress_handler(lambda: int(monotonic() - began > budget_s), BETWEEN)
        for table in tables:
            if monotonic() - began > budget_s:
                break
            found += [str(row[0]) for row in db.execute(f'pragma quick_check("{table}")') if row[0] != "ok"]
            whole.append(table)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    except sqlite3.DatabaseError as error:
        found.append(str(error))
    finally:
        db.set_progress_handler(None, 0)
    if found:
        raise Damaged(
            f"{path} is damaged: {found[0]}. Nothing was changed. Copy its folder away, then restore a backup, or"
            " see what `unhurried doctor` says; UNHURRIED_STORE__CHECK_S=0 starts in spite of it"
        )
    took_s = round(monotonic() - began, 3)
    log.info("store.checked", sound=len(whole), tables=len(tables), took_s=took_s)


def _cut_off(db: sqlite3.Connection) -> bool:
    """Whether the last daemon did not stop by itself."""
    if not db.execute("select 1 from sqlite_master where name = 'boots'").fetchone():
        return False
    row = db.execute("select stopped_at from boots order by epoch desc limit 1").fetchone()
    return row is not None and row[0] is None


def _tables(db: sqlite3.Connection) -> list[str]:
    rows = db.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'").fetchall()
    return sorted((name for (name,) in rows), key=lambda name: (name in LARGE, name))
