"""A clock that was set back: what pauses until a moment would pause for as much longer, a lease a day, a retry a day.

The store knows when this or the last daemon was seen alive, to a minute. When that lies ahead, the clock was set back
by at least so much, and every pause that is ours is moved by so much. What a caller asked for (``not_before``, a
deadline) is a moment of the calendar and stays.
"""

import sqlite3
from typing import Final

import structlog

from unhurried.clock import Ms

log = structlog.get_logger()

LEAST_MS: Final = 2_000
"""Smaller corrections are made all the time, and cost nobody anything."""

_PAUSES: Final = (
    ("requests", "waits_until", "state = 'queued' and waits_until is not not_before"),
    ("batches", "next_try_at", "finished_at is null"),
    ("batches", "absent_at", "state = 'unknown'"),
    ("batches", "not_found_at", "finished_at is null"),
    ("deliveries", "due_at", "state = 'pending'"),
    ("deliveries", "due_at", "state = 'sending'"),
    ("destinations", "open_until", "kind = 'webhook'"),
    ("account", "paused_until", "paused_at is not null"),
)


def mend(db: sqlite3.Connection, now: Ms) -> None:
    """In a transaction, before ``seen_at`` is written anew: move what pauses if the clock was set back since then."""
    row = db.execute("select seen_at from boots order by epoch desc limit 1").fetchone()
    back_ms = row[0] - now if row is not None else 0
    if back_ms < LEAST_MS:
        return
    for table, column, which in _PAUSES:
        db.execute(
            f"update {table} set {column} = max(?1, {column} - ?2) where {which} and {column} > ?1", (now, back_ms)
        )
    log.warning("clock.set_back", by_s=round(back_ms / 1000))
