"""What a database knows of being a copy. It imports no other part of the store: whoever copies a file marks it.

The mark is a row of ``copies``. The first start on the copy finds it. A start that finds a database older than what the
lock beside it remembers writes one itself.
"""

import sqlite3
from typing import Final

from unhurried.clock import Ms
from unhurried.domain.restoring import Restored
from unhurried.store.errors import StoreUnusable


class InTheWay(StoreUnusable):
    exit_code = 75


# Of several marks that are not over: the oldest copy counts. A listing has to come after the last of them.
_OPEN: Final = (
    "select min(made_at), group_concat(distinct why), max(found_at), min(since),"
    " case when count(first_at) = count(*) then max(first_at) end,"
    " case when count(first_at) = count(*) then max(first_date) end,"
    " max(released_at is null), max(newest_request), max(detail), count(*) from copies where ended_at is null"
)


def restored(db: sqlite3.Connection) -> Restored | None:
    """The search that is not over; None when there is none."""
    made_at, why, found_at, since, first_at, first_date, held, newest, detail, marks = db.execute(_OPEN).fetchone()
    if not marks:
        return None
    return Restored(
        made_at=made_at,
        why=why,
        found_at=found_at,
        since=since if since is not None else made_at,
        first_at=first_at,
        first_date=first_date,
        held=bool(held),
        newest_request=newest or 0,
        detail=detail,
    )


def is_searching(db: sqlite3.Connection) -> bool:
    return db.execute("select 1 from copies where ended_at is null limit 1").fetchone() is not None


def is_held(db: sqlite3.Connection) -> bool:
    """Whether nothing may be submitted."""
    return db.execute("select 1 from copies where released_at is null limit 1").fetchone() is not None


def mark(db: sqlite3.Connection, why: str, made_at: Ms) -> None:
    """Let the next start know that this is a copy of that moment."""
    db.execute("insert into copies (why, made_at) values (?, ?)", (why, made_at))


def is_marked(db: sqlite3.Connection) -> bool:
    """Whether it is a copy on which no daemon has started."""
    return db.execute("select 1 from copies where found_at is null limit 1").fetchone() is not None


def last_moment(db: sqlite3.Connection) -> Ms:
    """The last moment that a database tells of; 0 for an empty one."""
    row = db.execute(
        "select max(coalesce((select max(seen_at) from boots), 0),"
        " coalesce((select at from events order by seq desc limit 1), 0),"
        " coalesce((select accepted_at from requests order by seq desc limit 1), 0))"
    ).fetchone()
    return Ms(row[0])


def open_copy(db: sqlite3.Connection, now: Ms) -> None:
    """Note that a daemon has started on a copy, in the file itself and not in its log only: until that is there, a log
    beside it is taken for one that another database has left. Raises ``InTheWay`` while somebody else reads."""
    if not is_marked(db):
        return
    db.execute("update copies set found_at = ? where found_at is null", (now,))
    busy, in_log, moved = db.execute("pragma wal_checkpoint(full)").fetchone()
    if busy or moved < in_log:
        raise InTheWay("another program reads the restored database; start again when it has finished")
