"""What becomes slower when 1,000,000 requests wait instead of 10,000, and does any plan scan a table that grows?"""

import asyncio
import random
import re
import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from uuid_utils import uuid7

from tests.benchmarks import large, limits, machine, payload
from tests.benchmarks.report import Finding, short
from tests.benchmarks.stage import Stage
from unhurried.domain.batch import BatchId
from unhurried.domain.request import Defaults, NewRequest, accept
from unhurried.store.sqlite import SqliteStore

SMALL, LARGE = 10_000, 1_000_000
SMALL_PARAMS: Final = b'{"model":"claude-haiku-4-5","max_tokens":64,"messages":[{"role":"user","content":"Hello"}]}'
GROWING: Final = re.compile(r"\bSCAN (requests|attempts|deliveries|bodies|results|idempotency_keys|events|r|a|d)\b")
REPEATS: Final = 30


def run(stage: Stage) -> Iterator[Finding]:
    with machine.watched() as usage:
        times, plans = asyncio.run(_compare(stage))
    ratios = {name: statistics.median(of[LARGE]) / statistics.median(of[SMALL]) for name, of in times.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    yield Finding(
        what=f"backlog {SMALL:,} to {_large(stage):,}: the worst of {len(ratios)}",
        value=ratios[worst],
        goal=1.3,
        at_least=False,
        unit=" ×",
        ours="; ".join(f"{name} {short(ratio)}" for name, ratio in ratios.items()),
        beside=f"worst: {worst}, {short(statistics.median(times[worst][SMALL]))} ms at {SMALL:,}",
        foreign=usage.foreign,
    )
    yield Finding(
        what=f"status with {_large(stage):,} waiting",
        value=statistics.median(times["status"][LARGE]),
        goal=1.0,
        at_least=False,
        unit=" ms",
        ours="the thread hop included",
        foreign=usage.foreign,
    )
    scans = [plan for plan in plans if GROWING.search(plan) and "USING" not in plan]
    yield Finding(
        what="plans that scan a table that grows",
        value=len(scans),
        goal=0,
        at_least=False,
        ours=f"of {len(plans)} steps of plans" + "".join(f"; {scan}" for scan in scans),
        foreign=usage.foreign,
    )


def database(stage: Stage) -> Path:
    """The large one; made once in a run, since it takes half a minute."""
    path = stage.folder / "backlog-large" / "u.db"
    if not path.exists():
        _make(stage.fresh("backlog-large") / "u.db", _large(stage))
    return path


def _large(stage: Stage) -> int:
    return 100_000 if stage.quick else LARGE


def _make(path: Path, count: int) -> None:
    db = limits.create(path)
    for first in range(1, count + 1, 100_000):
        limits.fill(db, min(100_000, count + 1 - first), first=first, params=SMALL_PARAMS)
    db.execute(
        "insert into idempotency_keys (queue_id, key, digest, request_id, expires_at)"
        " select 1, 'key-' || seq, digest, id, accepted_at + 2592000000 from requests"
    )
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()


async def _compare(stage: Stage) -> tuple[dict[str, dict[int, list[float]]], set[str]]:
    small = stage.fresh("backlog-small") / "u.db"
    _make(small, SMALL)
    times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        sides = {
            SMALL: await _Side.of(await stack.enter_async_context(large.running_store(small)), SMALL),
            LARGE: await _Side.of(await stack.enter_async_context(large.running_store(database(stage))), _large(stage)),
        }
        for side in sides.values():
            await side.warm()
        for _ in range(REPEATS):
            for size in random.sample(list(sides), 2):
                for name, act in sides[size].acts().items():
                    start = time.perf_counter()
                    await act()
                    times[name][size].append((time.perf_counter() - start) * 1000)
        plans = await sides[LARGE].plans()
    return times, plans


class _Side:
    """One of the two databases, and what is done to it."""

    def __init__(self, store: SqliteStore, count: int, ids: Sequence[str], batch: BatchId) -> None:
        self._store = store
        self._count = count
        self._ids = ids
        self._batch = batch

    @classmethod
    async def of(cls, store: SqliteStore, count: int) -> "_Side":
        rows = await store._read(lambda db: db.execute(_SAMPLE, (max(1, count // 1_000),)).fetchall())
        return cls(store, count, [row[0] for row in rows], await large.begin(store, count))

    def acts(self) -> dict[str, Callable[[], Awaitable[object]]]:
        store = self._store
        return {
            "accept 1": lambda: store.accept(_new(1)),
            "accept 100": lambda: store.accept(_new(100)),
            "accept 100 keyed": lambda: store.accept(_new(100, self._count)),
            "claim 100": lambda: store.add_members(
                self._batch, requests_max=100_000, bytes_max=large.NO_LIMIT, chunk=100, now=large.now()
            ),
            "look up 100": lambda: store.results_of(random.choices(self._ids, k=100), 1_000_000),
            "request": lambda: store.request(random.choice(self._ids)),
            "flush decision": store.groups,
            "status": store.status,
        }

    async def warm(self) -> None:
        for act in self.acts().values():
            await act()

    async def plans(self) -> set[str]:
        """Every step of the plans of every statement that these acts run."""
        seen: set[str] = set()
        connections = [self._store._writer_db, *self._store._readers]
        for connection in connections:
            await connection.set_trace_callback(seen.add)
        await self.warm()
        for connection in connections:
            await connection.set_trace_callback(None)  # type: ignore[arg-type]  # which ends it
        return await self._store._read(lambda db: _steps(db, seen))


_SAMPLE: Final = "select id from requests where seq % ? = 1 limit 1000"


def _steps(db: sqlite3.Connection, statements: set[str]) -> set[str]:
    steps: set[str] = set()
    for statement in statements:
        if statement.lstrip().lower().startswith(("select", "update", "insert", "delete", "with")):
            steps.update(row[3] for row in db.execute(f"explain query plan {statement}"))
    return steps


def _new(count: int, key_below: int | None = None) -> list[NewRequest]:
    """``key_below``: with idempotency keys, half of which are held already."""
    envelopes = []
    for number in range(count):
        key = b""
        if key_below is not None:
            name = f"key-{random.randint(1, key_below)}" if number % 2 else uuid7().hex
            key = b'"idempotency_key":"%s",' % name.encode()
        envelopes.append(b'{%s"params":%s}' % (key, payload.params() if not key else SMALL_PARAMS))
    return [accept(one, id=str(uuid7()), now=large.now(), defaults=Defaults()) for one in envelopes]
