"""How fast does the body of a batch of 100,000 × 2 KB leave the store, beside a bare fetch and join, at what strain?"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import large, machine
from tests.benchmarks.report import Finding, median_ratio, spread
from tests.benchmarks.stage import Stage
from unhurried.domain.batch import Batch
from unhurried.store.sqlite import SqliteStore

PAGE_BYTES = 1_000_000
SELECT = (
    "select r.id, b.params from attempts a join requests r on r.seq = a.request_seq"
    " join bodies b on b.request_seq = a.request_seq where a.batch_seq = 1 order by a.request_seq"
)


def run(stage: Stage) -> Iterator[Finding]:
    requests = 20_000 if stage.quick else 100_000
    ours: list[float] = []
    limit: list[float] = []
    with machine.watched() as usage:
        strain = asyncio.run(_send(stage, requests, ours, limit))
    yield Finding(
        what=f"sending {requests:,} × 2 KB",
        value=median_ratio(ours, limit),
        goal=0.6,
        unit=" of bare fetch and join",
        ours=f"{spread(ours)} MB/s",
        beside=f"bare {spread(limit)} MB/s",
        foreign=usage.foreign,
    )
    for what, value, goal, unit in (
        ("sending: memory", strain.grown_mb, 25.0, " MB"),
        ("sending: stalls, p99", strain.p99_ms, 6.0, " ms"),
        ("sending: stalls, max", strain.max_ms, 25.0, " ms"),
    ):
        yield Finding(
            what=what, value=value, goal=goal, at_least=False, unit=unit, ours="", foreign=usage.foreign
        )  # fmt: skip


async def _send(stage: Stage, requests: int, ours: list[float], limit: list[float]) -> large.Strain:
    path = large.filled(stage.fresh("sending") / "u.db", requests)
    async with large.running_store(path) as store:
        batch = await large.formed(store, requests)
        await large.checkpoint(store)
        await _ours(store, batch)  # once, so that both sides find the pages in memory
        async with large.strained() as strain:
            await _ours(store, batch)
        for _ in range(stage.rounds):
            for bare in random.sample([True, False], 2):
                if bare:
                    limit.append(_bare(path, batch))
                else:
                    ours.append(await _ours(store, batch))
    return strain


async def _ours(store: SqliteStore, batch: Batch) -> float:
    """MB a second, as the submission reads it."""
    start, size = time.perf_counter(), 0
    async for page in store.body(batch, bytes_page=PAGE_BYTES):
        size += len(page)
        await asyncio.sleep(0)  # where it would be sent
    assert size == batch.body_bytes
    return size / 1e6 / (time.perf_counter() - start)


def _bare(path: Path, batch: Batch) -> float:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    start, size = time.perf_counter(), 0
    cursor = db.execute(SELECT)
    while rows := cursor.fetchmany(1_000):
        size += len(b",".join([b'{"custom_id":"%s-%s","params":%s}' % (b"n" * 12, id.encode(), p) for id, p in rows]))
    took = time.perf_counter() - start
    db.close()
    assert size > batch.requests * 2_000
    return size / 1e6 / took
