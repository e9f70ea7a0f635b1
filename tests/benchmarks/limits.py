"""The limits that ours are compared with: bare ``sqlite3`` loops that write or read the same rows, and nothing else."""

import sqlite3
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from uuid_utils import uuid7

from tests.benchmarks import payload
from unhurried.clock import Ms
from unhurried.store.sqlite.connection import APPLICATION_ID
from unhurried.store.sqlite.migrate import available, migrate

INSERT_REQUEST: Final = (
    "insert into requests (seq, id, group_id, state, priority, accepted_at, queued_at, deadline_at, params_bytes,"
    " digest, attempts_max, deliver_to, custom_id) values (?, ?, 1, 'queued', 0, ?, ?, ?, ?, ?, 3, 'pull:default', ?)"
)
INSERT_BODY: Final = "insert into bodies (request_seq, params) values (?, ?)"


def connect(path: Path) -> sqlite3.Connection:
    """With the pragmas of the daemon's writer; foreign keys are left out, a bare loop needs none."""
    db = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    for pragma in (
        "page_size=8192",
        "auto_vacuum=incremental",
        "journal_mode=wal",
        "synchronous=full",
        "wal_autocheckpoint=0",
        "cache_size=-16000",
        "secure_delete=off",
        "temp_store=memory",
    ):
        db.execute(f"pragma {pragma}")
    return db


def create(path: Path) -> sqlite3.Connection:
    """A database with the schema of the daemon, one queue and one group."""
    db = connect(path)
    db.execute(f"pragma application_id={APPLICATION_ID}")
    migrate(db, path, available(), Ms(0))
    db.execute("insert into queues (id, name, created_at) values (1, 'default', 0)")
    db.execute(
        "insert into groups (id, queue_id, model, anthropic_version, anthropic_beta, deadline_class)"
        " values (1, 1, ?, '2026-10-21', '', 2)",
        (payload.MODEL,),
    )
    return db


class BareAccepts:
    """S: commits the rows of requests in groups, ids and digests made in the loop."""

    def __init__(self, path: Path) -> None:
        self._db = create(path)
        self._seq = 0

    def rate(self, group: int, seconds: float) -> float:
        """Rows a second."""
        params = payload.params()
        start = time.perf_counter()
        rows = 0
        while time.perf_counter() - start < seconds:
            self.commit(group, params)
            rows += group
        took = time.perf_counter() - start
        self._db.execute("pragma wal_checkpoint(passive)")
        return rows / took

    def commit(self, group: int, params: bytes) -> None:
        now = time.time_ns() // 1_000_000
        first, self._seq = self._seq + 1, self._seq + group
        numbers = range(first, first + group)
        self._db.execute("begin immediate")
        self._db.executemany(
            INSERT_REQUEST,
            [
                (seq, str(uuid7()), now, now, now + 86_400_000, len(params), sha256(params).digest(), f"{seq:010d}")
                for seq in numbers
            ],
        )
        self._db.executemany(INSERT_BODY, [(seq, params) for seq in numbers])
        self._db.execute("commit")

    def close(self) -> None:
        self._db.close()


def fill(db: sqlite3.Connection, count: int, *, first: int = 1, params: bytes | None = None) -> None:
    """``count`` waiting requests as accepting would have left them, kept counters too, in one transaction."""
    body = params or payload.params()
    digest, now = sha256(body).digest(), time.time_ns() // 1_000_000
    numbers = range(first, first + count)

    def rows() -> Iterable[tuple[object, ...]]:
        for seq in numbers:
            yield seq, str(uuid7()), now, now, now + 86_400_000, len(body), digest, f"{seq:010d}"

    db.execute("pragma synchronous=off")
    db.execute("begin immediate")
    db.executemany(INSERT_REQUEST, rows())
    db.executemany(INSERT_BODY, ((seq, body) for seq in numbers))
    db.execute(
        "update groups set waiting_requests = waiting_requests + ?, waiting_bytes = waiting_bytes + ? where id = 1",
        (count, count * len(body)),
    )
    db.execute(
        "insert into counters (entity, owner_id, state, n) values ('request', 1, 'queued', ?)"
        " on conflict do update set n = n + excluded.n",
        (count,),
    )
    db.execute("commit")
    db.execute("pragma wal_checkpoint(truncate)")
    db.execute("pragma synchronous=full")
