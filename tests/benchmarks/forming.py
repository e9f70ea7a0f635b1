"""What does it cost to form a batch of 100,000, and how long does one step of it hold the writer?"""

import asyncio
from collections.abc import Iterator

from tests.benchmarks import large, machine
from tests.benchmarks.report import Finding
from tests.benchmarks.stage import Stage


def run(stage: Stage) -> Iterator[Finding]:
    requests = 20_000 if stage.quick else 100_000
    with machine.watched() as usage:
        times_ms = asyncio.run(_form(stage, requests))
    times_ms.sort()
    shown = f"{len(times_ms)} transactions, p50 {times_ms[len(times_ms) // 2]:.1f}, p90"
    shown += f" {times_ms[len(times_ms) * 9 // 10]:.1f} ms, fsyncs included"
    yield Finding(
        what=f"forming a batch of {requests:,}: database time a row",
        value=sum(times_ms) / requests * 1000,
        goal=20.0,
        at_least=False,
        unit=" us",
        ours=shown,
        foreign=usage.foreign,
    )
    yield Finding(
        what="forming: the longest transaction",
        value=times_ms[-1],
        goal=25.0,
        at_least=False,
        unit=" ms",
        ours=shown,
        foreign=usage.foreign,
    )


async def _form(stage: Stage, requests: int) -> list[float]:
    path = large.filled(stage.fresh("forming") / "u.db", requests)
    transactions = large.Transactions()
    async with large.running_store(path) as store:
        transactions.watch(store)
        await large.add_all(store, await large.begin(store, requests), requests)
    return transactions.times_ms
