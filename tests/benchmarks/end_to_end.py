"""How long from the first request in to the last result confirmed, through an upstream that takes 2 s?"""

import time
from collections.abc import Iterator

from tests.benchmarks import machine, payload
from tests.benchmarks.load import MARK
from tests.benchmarks.report import Finding
from tests.benchmarks.stage import Daemon, Stage

GOALS = {10_000: (5.0, 100.0), 100_000: (25.0, 130.0)}
SETTINGS = {"UNHURRIED_POLLER__INTERVAL_MIN_S": "0.2", "UNHURRIED_POLLER__INTERVAL_MAX_S": "1"}
PULL = 1_000


def run(stage: Stage) -> Iterator[Finding]:
    for requests, (seconds_goal, memory_goal) in GOALS.items():
        if stage.quick and requests > 10_000:
            continue
        with stage.simulator() as simulator, stage.daemon("end-to-end", SETTINGS) as daemon:
            before = daemon.cpu_s()
            with machine.watched(daemon.pid, simulator.pid) as usage:
                phases = _through(daemon, requests)
            status = daemon.status()["daemon"]
            cpu_s, memory, stall = daemon.cpu_s() - before, status["memory"], status["stall"]
        yield Finding(
            what=f"{requests:,} requests end to end, 2 s upstream",
            value=phases[-1],
            goal=seconds_goal,
            at_least=False,
            unit=" s",
            ours=f"accepted {phases[0]:.1f} s, first result {phases[1]:.1f} s; {cpu_s / requests * 1e6:.0f} us CPU"
            f" each; stalls p99 {stall['p99_ms']:.0f}, max {stall['max_ms']:.0f} ms",
            foreign=usage.foreign,
        )
        yield Finding(
            what=f"{requests:,} end to end: memory",
            value=(memory["rss_peak_bytes"] - memory["rss_ready_bytes"]) / 1e6,
            goal=memory_goal,
            at_least=False,
            unit=" MB",
            ours=f"peak {memory['rss_peak_bytes'] / 1e6:.0f} MB, ready {memory['rss_ready_bytes'] / 1e6:.0f} MB",
            foreign=usage.foreign,
        )


def _through(daemon: Daemon, requests: int) -> tuple[float, float, float]:
    """Seconds until all were accepted, until the first result came, and until the last one was confirmed."""
    start = time.monotonic()
    with daemon.client() as client:
        envelope = payload.envelope()
        lines = (envelope.replace(MARK, b"%010d" % number) for number in range(requests))
        ids = {answer.id for answer in client.submit_many(lines)}
        accepted_s = time.monotonic() - start
        client.flush()
        first_s = 0.0
        while ids:
            results = client.pull(limit=PULL, wait=30)
            first_s = first_s or time.monotonic() - start
            client.ack([result.delivery_id for result in results if result.delivery_id])
            ids.difference_update(result.request_id for result in results)
    return accepted_s, first_s, time.monotonic() - start
