"""A look into the database from another process, whether the daemon runs or not. Nothing here writes."""

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from unhurried.store.records import Status
from unhurried.store.sqlite.connection import Damaged, in_thread, open_reader
from unhurried.store.sqlite.status import status


async def peek(path: Path) -> Status:
    """The status as the daemon would tell it, without writing. Raises ``StoreUnusable``."""
    db = await open_reader(path)
    try:
        return await in_thread(db, status)
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{path} cannot be read: {error}") from None
    finally:
        await db.close()


STEPS_BETWEEN_LOOKS: Final = 20_000
"""Steps of SQLite's machine, about a millisecond, between two looks at the clock."""


@dataclass(frozen=True)
class Answer:
    """What a query found. ``truncated``: there was more than was asked for."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    truncated: bool


class BadQuery(Exception):
    """The statement cannot be run; the text is SQLite's own."""


async def query(path: Path, sql: str, *, rows_max: int, timeout_s: float) -> Answer:
    """Run one reading statement. Raises ``BadQuery``, also for one that writes or takes longer than ``timeout_s``, and
    ``StoreUnusable`` when the file cannot be opened."""
    db = await open_reader(path)
    try:
        return await in_thread(db, lambda conn: _run(conn, sql, rows_max, timeout_s))
    finally:
        await db.close()


def _run(db: sqlite3.Connection, sql: str, rows_max: int, timeout_s: float) -> Answer:
    end = time.monotonic() + timeout_s
    db.set_progress_handler(lambda: time.monotonic() > end, STEPS_BETWEEN_LOOKS)
    try:
        cursor = db.execute(sql)
        rows = cursor.fetchmany(rows_max + 1)
        columns = [column[0] for column in cursor.description or ()]
        cursor.close()
    except sqlite3.OperationalError as error:
        late = str(error) == "interrupted"
        raise BadQuery(
            f"it takes longer than {timeout_s:g} s: narrow it, or --timeout" if late else str(error)
        ) from None
    except (sqlite3.Error, sqlite3.Warning) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Damaged(f"the database cannot be read: {error}") from None
        raise BadQuery(str(error)) from None
    return Answer(columns=columns, rows=rows[:rows_max], truncated=len(rows) > rows_max)
