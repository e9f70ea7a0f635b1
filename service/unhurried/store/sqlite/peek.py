"""A look into the database while no daemon runs."""

import sqlite3
from pathlib import Path

from unhurried.store.contract import Status
from unhurried.store.sqlite import reading
from unhurried.store.sqlite.connection import Damaged, in_thread, open_reader


async def peek(path: Path) -> Status:
    """The status as the daemon would tell it, without writing. Raises ``StoreUnusable``."""
    db = await open_reader(path)
    try:
        return await in_thread(db, reading.status)
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{path} cannot be read: {error}") from None
    finally:
        await db.close()
