"""How fast are the results of 100,000 requests, in no order, stored beside a bare parse and insert, at what strain?

Ours is the collector of the daemon with the store, fed with pages of lines as the network room hands them over. Bare is
a loop that parses the same fields, inserts the result and updates the state of its request, 250 a commit.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import cast

from tests.benchmarks import large, limits, machine
from tests.benchmarks.report import Finding, median_ratio, spread
from tests.benchmarks.stage import Stage
from unhurried.clock import SystemClock
from unhurried.domain.batch import Batch, UpstreamId, custom_id
from unhurried.domain.collecting import read_line
from unhurried.domain.polling import PollPolicy
from unhurried.loop import Bell
from unhurried.poller import Collector
from unhurried.store.sqlite import SqliteStore
from unhurried.upstream import Upstream

CHUNK = 250
PAGE_LINES = 30
"""Lines that arrive at once: 64 KB."""
_TEXT = "The parcel is late, the customer asks for a refund, and the tone is polite. " * 20
_RESULT = (
    '{"type":"succeeded","message":{"id":"msg_013Zva2CMHLNnXjNJJKqJ2EF","type":"message","role":"assistant","model":'
    f'"claude-haiku-4-5","content":[{{"type":"text","text":"{_TEXT}"}}],"stop_reason":"end_turn","stop_sequence":null,'
    '"usage":{"input_tokens":510,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":'
    '{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":390,"service_tier":"batch"}}}'
)


class Stream:
    """Upstream, as far as the collector asks it."""

    def __init__(self) -> None:
        self.lines: Sequence[bytes] = ()

    async def result_lines(self, _upstream_id: UpstreamId) -> AsyncIterator[list[bytes]]:
        for first in range(0, len(self.lines), PAGE_LINES):
            await asyncio.sleep(0)
            yield list(self.lines[first : first + PAGE_LINES])


def run(stage: Stage) -> Iterator[Finding]:
    requests = 20_000 if stage.quick else 100_000
    ours: list[float] = []
    limit: list[float] = []
    cpu_us: list[float] = []
    with machine.watched() as usage:
        strain = asyncio.run(_collect(stage, requests, ours, limit, cpu_us))
    yield Finding(
        what=f"collecting {requests:,} results",
        value=median_ratio(ours, limit),
        goal=0.75,
        unit=" of bare parse and insert",
        ours=f"{spread(ours)} lines/s, {spread(cpu_us)} us CPU a line",
        beside=f"bare {spread(limit)} lines/s",
        foreign=usage.foreign,
    )
    for what, value, goal, unit in (
        ("collecting: memory", strain.grown_mb, 25.0, " MB"),
        ("collecting: stalls, p99", strain.p99_ms, 10.0, " ms"),
        ("collecting: stalls, max", strain.max_ms, 25.0, " ms"),
    ):
        yield Finding(what=what, value=value, goal=goal, at_least=False, unit=unit, ours="", foreign=usage.foreign)


async def _collect(
    stage: Stage, requests: int, ours: list[float], limit: list[float], cpu_us: list[float]
) -> large.Strain:
    """A share of the requests each round: as one batch for the collector, and for the bare loop in a database of its
    own that has just as many."""
    folder = stage.fresh("collecting")
    bare = limits.create(folder / "bare.db")
    limits.fill(bare, requests)
    strain = large.Strain()
    async with large.running_store(large.filled(folder / "u.db", requests)) as store:
        stream = Stream()
        collector = _collector(store, stream)
        for _ in range(stage.rounds):
            share = requests // stage.rounds
            batch = await large.ended(store, share)
            stream.lines = _lines(batch, await large.member_ids(store, batch))
            await large.checkpoint(store)
            for side in random.sample(["ours", "bare"], 2):
                if side == "bare":
                    limit.append(share / _bare(bare, share))
                    continue
                before, start = time.process_time(), time.perf_counter()
                async with large.strained() as seen:
                    await collector.step(large.now())
                ours.append(share / (time.perf_counter() - start))
                cpu_us.append((time.process_time() - before) / share * 1e6)
                strain.grown_mb = max(strain.grown_mb, seen.grown_mb)
                strain.p99_ms = max(strain.p99_ms, seen.p99_ms)
                strain.max_ms = max(strain.max_ms, seen.max_ms)
            assert await store.open_batches() == []
    bare.close()
    return strain


def _collector(store: SqliteStore, stream: Stream) -> Collector:
    policy = PollPolicy(interval_min_s=1.0, interval_max_s=1.0)
    return Collector(
        store, cast(Upstream, stream), SystemClock(), policy=policy, chunk=CHUNK, not_found_grace_s=60.0,
        dispatcher=Bell(), flusher=Bell(), submission=Bell(),
    )  # fmt: skip


def _lines(batch: Batch, ids: list[str]) -> list[bytes]:
    random.shuffle(ids)
    return [b'{"custom_id":"%s","result":%s}' % (custom_id(batch.nonce, id).encode(), _RESULT.encode()) for id in ids]


def _bare(db: sqlite3.Connection, count: int) -> float:
    """Seconds for ``count`` results, in no order."""
    rows = db.execute("select id from requests where state = 'queued' order by seq limit ?", (count,)).fetchall()
    ids = [row[0] for row in rows]
    random.shuffle(ids)
    lines = [b'{"custom_id":"%s-%s","result":%s}' % (b"n" * 12, id.encode(), _RESULT.encode()) for id in ids]
    start = time.perf_counter()
    for first in range(0, count, CHUNK):
        results = [read_line(line) for line in lines[first : first + CHUNK]]
        db.execute("begin immediate")
        db.executemany(
            "update requests set state = ?, finished_at = 1 where id = ? and state = 'queued'",
            [(result.state.value, result.request_id) for result in results],
        )
        db.executemany(
            "insert into results (request_seq, stored_at, body) select seq, 1, ? from requests where id = ?",
            [(result.body, result.request_id) for result in results],
        )
        db.execute("commit")
    took = time.perf_counter() - start
    db.execute("pragma wal_checkpoint(passive)")
    return took
