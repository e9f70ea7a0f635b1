"""A large batch in a store that runs in this process: what forming, sending and collecting need."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import limits
from unhurried.clock import Ms, SystemClock, after
from unhurried.domain.batch import Batch, BatchId, UpstreamId, new_nonce
from unhurried.domain.grouping import Order, Why
from unhurried.domain.settling import Sighting
from unhurried.observability.health import MemoryMeter, StallMeter
from unhurried.store.sqlite import SqliteStore, StoreConfig, open_store
from unhurried.store.sqlite.connection import in_thread

NO_LIMIT: Final = 10**15
TICK_S: Final = 0.001


@asynccontextmanager
async def running_store(path: Path) -> AsyncIterator[SqliteStore]:
    """The store of the daemon with its writer."""
    clock = SystemClock()
    store = await open_store(path, StoreConfig(), clock.now())
    writing = asyncio.create_task(store.run())
    try:
        yield store
    finally:
        store.stop_writing()
        await writing
        await store.close(clean=False, now=clock.now())


def filled(path: Path, requests: int) -> Path:
    """A database in which so many requests of 2 KB wait."""
    db = limits.create(path)
    limits.fill(db, requests)
    db.close()
    return path


@dataclass
class Transactions:
    """How long each transaction held the writer, in milliseconds."""

    times_ms: list[float] = field(default_factory=list)

    def watch(self, store: SqliteStore) -> None:
        commit = store._writer._commit

        def timed(db: sqlite3.Connection, group: Any) -> Any:
            start = time.perf_counter()
            try:
                return commit(db, group)
            finally:
                self.times_ms.append((time.perf_counter() - start) * 1000)

        store._writer._commit = timed  # type: ignore[method-assign]


@dataclass
class Strain:
    """What work did to this process: growth of its resident size over what it was before, and stalls of its loop."""

    grown_mb: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


@asynccontextmanager
async def strained() -> AsyncIterator[Strain]:
    strain, stop, stalls, memory = Strain(), asyncio.Event(), StallMeter(TICK_S), MemoryMeter()
    ticking = asyncio.create_task(stalls.run(stop))
    _forget_peak()
    before = memory.figures()["rss_bytes"]
    yield strain
    strain.grown_mb = (memory.figures()["rss_peak_bytes"] - before) / 1e6
    strain.p99_ms, strain.max_ms = stalls.p99_ms, stalls.max_ms
    stop.set()
    await ticking


def _forget_peak() -> None:
    """The kernel begins a new peak of the resident size."""
    Path("/proc/self/clear_refs").write_text("5")


async def begin(store: SqliteStore, requests: int) -> BatchId:
    """A batch for what waits, still empty."""
    [group] = await store.groups()
    order = Order(group=group, requests_max=requests, bytes_max=NO_LIMIT, why=Why.FLUSH)
    return await store.begin_batch(order, new_nonce(), SystemClock().now())


async def add_all(store: SqliteStore, batch_id: BatchId, requests: int, chunk: int = 1_000) -> None:
    now = SystemClock().now()
    while await store.add_members(batch_id, requests_max=requests, bytes_max=NO_LIMIT, chunk=chunk, now=now):
        pass


async def formed(store: SqliteStore, requests: int) -> Batch:
    """A batch of so many, ready to be sent."""
    batch_id = await begin(store, requests)
    await add_all(store, batch_id, requests)
    batch = await store.complete_batch(batch_id, SystemClock().now())
    assert batch is not None
    return batch


async def ended(store: SqliteStore, requests: int) -> Batch:
    """A batch of so many whose results can be read."""
    batch, now = await formed(store, requests), SystemClock().now()
    await store.record_submission(batch.id, now, now)
    upstream_id = UpstreamId(f"msgbatch_{batch.nonce}")
    await store.record_created(batch.id, upstream_id, now, now)
    sighting = Sighting(
        id=upstream_id, total=requests, created_at=now, expires_at=after(now, 86_400), ended_at=now, ended=True,
        canceling=False, results_readable=True,
    )  # fmt: skip
    await store.record_ended(batch.id, sighting, now)
    return batch


async def member_ids(store: SqliteStore, batch: Batch) -> list[str]:
    """In the order of acceptance."""
    sql = (
        "select r.id from attempts a join requests r on r.seq = a.request_seq"
        " where a.batch_seq = (select seq from batches where id = ?) order by a.request_seq"
    )
    return [row[0] for row in await store._read(lambda db: db.execute(sql, (batch.id,)).fetchall())]


async def checkpoint(store: SqliteStore) -> None:
    await in_thread(store._writer_db, lambda db: db.execute("pragma wal_checkpoint(passive)").fetchone())


def now() -> Ms:
    return SystemClock().now()
