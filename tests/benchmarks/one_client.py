"""How long does one client wait for one durable request, beside one bare commit of the same rows?"""

import random
import statistics
import time
from collections.abc import Iterator

from tests.benchmarks import machine, payload
from tests.benchmarks.limits import BareAccepts
from tests.benchmarks.report import Finding, median_ratio, spread
from tests.benchmarks.stage import Stage


def run(stage: Stage) -> Iterator[Finding]:
    seconds = 0.5 if stage.quick else 1.0
    ours_ms: list[float] = []
    bare_ms: list[float] = []
    foreign: list[float] = []
    bare = BareAccepts(stage.fresh("bare") / "s.db")
    with stage.simulator(), stage.daemon("one-client") as daemon:
        message = payload.single()

        def ours() -> None:
            ours_ms.append(stage.load.run(daemon.socket, 1, seconds, message).p50_ms)

        def limit() -> None:
            bare_ms.append(_bare_p50_ms(bare, seconds / 2))

        for _ in range(stage.rounds):
            with machine.watched(daemon.pid) as usage:
                for variant in random.sample([ours, limit], 2):
                    variant()
            foreign.append(usage.foreign)
    bare.close()
    yield Finding(
        what="one client, one request: p50",
        value=median_ratio(ours_ms, bare_ms),
        goal=2.0,
        at_least=False,
        unit=" × one bare commit",
        ours=f"{spread(ours_ms)} ms",
        beside=f"commit {spread(bare_ms)} ms",
        foreign=statistics.median(foreign),
    )


def _bare_p50_ms(bare: BareAccepts, seconds: float) -> float:
    params = payload.params()
    times_ms = []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        bare.commit(1, params)
        times_ms.append((time.perf_counter() - start) * 1000)
    return statistics.median(times_ms)
