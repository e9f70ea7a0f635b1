"""How fast are single requests accepted durably, beside the HTTP stack alone, a bare SQLite loop, and Redis?

E is the daemon at work; H the same HTTP stack that stores nothing; S a bare loop that commits the same rows in groups
of half the connections, the groups that so many callers in a closed loop make; R one RPUSH a request. E and R are
measured with the lean load and with clients in Python, whose own cost hides a part of the difference.
"""

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.benchmarks import load, machine, payload
from tests.benchmarks.limits import BareAccepts
from tests.benchmarks.load import Load
from tests.benchmarks.report import Finding, median_ratio, spread
from tests.benchmarks.stage import Process, Stage

CONNECTIONS = (64, 256)


def run(stage: Stage) -> Iterator[Finding]:
    for connections in CONNECTIONS:
        yield from _findings(_measured(stage, connections), connections)


@dataclass
class _Measured:
    """By variant, one figure a round. ``Python E`` and ``Python R`` are E and R with clients in Python."""

    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    foreign: list[float] = field(default_factory=list)


def _measured(stage: Stage, connections: int) -> _Measured:
    seconds = 0.5 if stage.quick else 1.0
    seen = _Measured()
    bare = BareAccepts(stage.fresh("bare") / "s.db")
    in_python = load.in_python(stage.folder)

    def loaded(name: str, by: Load, process: Process, message: bytes, lines: int = 0) -> Callable[[], None]:
        def variant() -> None:
            before = process.cpu_s()
            answers = by.run(process.socket, connections, seconds, message, lines)
            seen.rates[name].append(answers.rate)
            seen.cpu_us[name].append((process.cpu_s() - before) / answers.answered * 1e6)

        return variant

    def committed() -> None:
        seen.rates["S"].append(bare.rate(connections // 2, seconds / 2))

    with (
        stage.simulator(),
        stage.daemon(f"accept-{connections}") as daemon,
        stage.answering() as answering,
        stage.redis() as redis,
    ):
        single, rpush = payload.single(), payload.rpush()
        variants = [loaded("E", stage.load, daemon, single), loaded("H", stage.load, answering, single), committed]
        pids = [daemon.pid, answering.pid]
        if redis is not None:
            variants += [
                loaded("R", stage.load, redis, rpush, 1),
                loaded("Python E", in_python, daemon, single),
                loaded("Python R", in_python, redis, rpush, 1),
            ]
            pids.append(redis.pid)
        for _ in range(stage.rounds):
            with machine.watched(*pids) as usage:
                for variant in random.sample(variants, len(variants)):
                    variant()
            seen.foreign.append(usage.foreign)
    bare.close()
    return seen


def _findings(seen: _Measured, connections: int) -> Iterator[Finding]:
    rates, foreign = seen.rates, statistics.median(seen.foreign)
    limits = [1 / (1 / h + 1 / s) for h, s in zip(rates["H"], rates["S"], strict=True)]
    yield Finding(
        what=f"durable accept, {connections} connections",
        value=median_ratio(rates["E"], limits),
        goal=0.75,
        unit=" of 1/(1/H + 1/S)",
        ours=f"E {spread(rates['E'])}/s",
        beside=f"H {spread(rates['H'])}, S {spread(rates['S'])}/s",
        foreign=foreign,
    )
    for clients, prefix in (("the lean load", ""), ("Python clients", "Python ")):
        ours, peer = rates[f"{prefix}E"], rates[f"{prefix}R"]
        yield Finding(
            what=f"the same beside Redis, {connections} connections, {clients}",
            value=median_ratio(ours, peer) if peer else None,
            goal=1.0,
            unit=" × R",
            ours=f"E {spread(ours)}/s" if peer else "no redis-server here",
            beside=f"R {spread(peer)}/s" if peer else "",
            foreign=foreign,
        )
    if connections == CONNECTIONS[0]:
        yield Finding(
            what=f"CPU per accepted request, {connections} connections",
            value=statistics.median(seen.cpu_us["E"]),
            goal=130.0,
            at_least=False,
            unit=" us",
            ours=f"E {spread(seen.cpu_us['E'])} us",
            beside=f"H {spread(seen.cpu_us['H'])} us",
            foreign=foreign,
        )
