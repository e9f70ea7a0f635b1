"""How fast are requests accepted in bulk, beside a bare SQLite loop in groups of 1,000 and Redis' pipeline?"""

import random
import statistics
from collections.abc import Callable, Iterator

from tests.benchmarks import machine, payload
from tests.benchmarks.limits import BareAccepts
from tests.benchmarks.report import Finding, median_ratio, spread
from tests.benchmarks.stage import Stage

LINES = 1_000


def run(stage: Stage) -> Iterator[Finding]:
    seconds = 0.5 if stage.quick else 1.2
    ours: list[float] = []
    limit: list[float] = []
    peer: list[float] = []
    cpu_us: list[float] = []
    foreign: list[float] = []
    bare = BareAccepts(stage.fresh("bare") / "s.db")
    with stage.simulator(), stage.daemon("bulk") as daemon, stage.redis() as redis:
        message = payload.bulk(LINES)

        def take() -> None:
            before = daemon.cpu_s()
            seen = stage.load.run(daemon.socket, 1, seconds, message)
            ours.append(seen.rate * LINES)
            cpu_us.append((daemon.cpu_s() - before) / seen.answered / LINES * 1e6)

        variants: list[Callable[[], None]] = [take, lambda: limit.append(bare.rate(LINES, seconds / 2))]
        if redis is not None:
            address, pipeline = redis.socket, payload.rpush(LINES)
            variants.append(lambda: peer.append(stage.load.run(address, 1, seconds / 2, pipeline, LINES).rate * LINES))
        for _ in range(stage.rounds):
            with machine.watched(*(process.pid for process in (daemon, redis) if process)) as usage:
                for variant in random.sample(variants, len(variants)):
                    variant()
            foreign.append(usage.foreign)
    bare.close()
    others = statistics.median(foreign)
    shown = f"{spread(ours)} rows/s, {statistics.median(cpu_us):.0f} us CPU a row"
    yield Finding(
        what=f"durable bulk accept, {LINES:,} a POST",
        value=median_ratio(ours, limit),
        goal=0.75,
        unit=" of S",
        ours=shown,
        beside=f"S {spread(limit)} rows/s",
        foreign=others,
    )
    yield Finding(
        what=f"bulk beside Redis' pipeline of {LINES:,}",
        value=median_ratio(ours, peer) if peer else None,
        goal=2.0,
        unit=" × R",
        ours=shown if peer else "no redis-server here",
        beside=f"R {spread(peer)} rows/s" if peer else "",
        foreign=others,
    )
