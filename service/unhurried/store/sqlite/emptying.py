"""Cutting the write-ahead log to nothing: the writer's checkpoints only let its pages be used again."""

import sqlite3

from unhurried.store.sqlite.connection import WRITER_BUSY_MS, is_fatal


def empty_log(db: sqlite3.Connection) -> bool:
    """Move all of the log into the database and truncate it. False when a reader is in the way, or the disk is full:
    nobody waits for either, for this connection is the one that writes."""
    db.execute("pragma busy_timeout = 0").fetchall()
    try:
        busy, _, _ = db.execute("pragma wal_checkpoint(truncate)").fetchone()
    except sqlite3.OperationalError as error:
        if is_fatal(error):
            raise
        return False
    finally:
        db.execute(f"pragma busy_timeout = {WRITER_BUSY_MS}").fetchall()
    return not busy
