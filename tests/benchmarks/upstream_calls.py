"""How often is upstream called: once to create each batch, and to poll as often for many open batches as for few?"""

import time
from collections import Counter
from collections.abc import Iterator

from tests.benchmarks import machine, payload
from tests.benchmarks.report import Finding
from tests.benchmarks.stage import Daemon, Simulator, Stage

FEW, MANY = 5, 50
SETTINGS = {"UNHURRIED_POLLER__INTERVAL_MIN_S": "0.2", "UNHURRIED_POLLER__INTERVAL_MAX_S": "0.2"}


def run(stage: Stage) -> Iterator[Finding]:
    seconds = 2.0 if stage.quick else 5.0
    with stage.simulator(turnaround_s=3_600) as simulator, stage.daemon("calls", SETTINGS) as daemon:
        with machine.watched(daemon.pid, simulator.pid) as usage:
            _open_batches(daemon, 0, FEW)
            few = _polls(simulator, seconds)
            _open_batches(daemon, FEW, MANY)
            many = _polls(simulator, seconds)
        totals = simulator.call("GET", "/ledger")["totals"]
    yield Finding(
        what="creates per batch",
        value=totals["creates"] / MANY,
        goal=1.0,
        at_least=False,
        ours=f"{totals['creates']} creates, {MANY} batches",
        foreign=usage.foreign,
    )
    yield Finding(
        what=f"polling calls with {MANY} open batches",
        value=sum(many.values()) / max(1, sum(few.values())),
        goal=1.5,
        at_least=False,
        unit=f" × those with {FEW}",
        ours=f"{sum(many.values()) / seconds:.1f} calls/s {dict(many)}",
        beside=f"{sum(few.values()) / seconds:.1f} calls/s {dict(few)}",
        foreign=usage.foreign,
    )


def _open_batches(daemon: Daemon, already: int, wanted: int) -> None:
    """One batch a queue; of two requests and more, so that none is mistaken for another."""
    with daemon.client() as client:
        for number in range(already, wanted):
            for _ in range(2):
                client.submit(payload.params(), queue=f"q{number}")
        client.flush()
        deadline = time.monotonic() + 60
        while sum(batch["state"] == "in_progress" for batch in client.batches(open_only=True, limit=1_000)) < wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{wanted} batches were not open within a minute")
            time.sleep(0.1)


def _polls(simulator: Simulator, seconds: float) -> Counter[str]:
    """Calls that look at batches, by endpoint."""
    before = Counter(simulator.call("GET", "/ledger")["calls"])
    time.sleep(seconds)
    calls = Counter(simulator.call("GET", "/ledger")["calls"]) - before
    return Counter({name: count for name, count in calls.items() if "create" not in name})
