"""How many requests are open, in memory: the kept counters, as of the last commit."""

import sqlite3
from collections import Counter
from typing import Final

from unhurried.store.sqlite.tx import Counted

OPEN: Final = frozenset({"queued", "assigned"})


class Tally:
    """Loaded once, and told of every commit since. Numbers alone are read from other threads, never a walk."""

    def __init__(self) -> None:
        self.open_requests = 0
        self._of_queue: Counter[int] = Counter()

    def load(self, db: sqlite3.Connection) -> None:
        rows = db.execute("select owner_id, state, n from counters where entity = 'request'").fetchall()
        self.open_requests = 0
        self._of_queue.clear()
        self.add({("request", owner, state): n for owner, state, n in rows})

    def add(self, counted: Counted) -> None:
        """What a committed transaction has changed."""
        for (entity, owner, state), n in counted.items():
            if entity == "request" and state in OPEN:
                self._of_queue[owner] += n
                self.open_requests += n

    def of_queue(self, queue_id: int) -> int:
        return self._of_queue[queue_id]
