"""How long do single requests wait while results are being stored, beside an idle daemon?"""

import time
from collections.abc import Iterator

from tests.benchmarks import machine, payload
from tests.benchmarks.load import MARK
from tests.benchmarks.report import Finding
from tests.benchmarks.stage import Daemon, Stage

CONNECTIONS = 16
SETTINGS = {"UNHURRIED_POLLER__INTERVAL_MIN_S": "0.2", "UNHURRIED_POLLER__INTERVAL_MAX_S": "0.5"}


def run(stage: Stage) -> Iterator[Finding]:
    results = 5_000 if stage.quick else 20_000
    seconds = 1.0 if stage.quick else 2.0
    single = payload.single()
    with (
        stage.simulator() as simulator,
        stage.daemon("beside", SETTINGS) as daemon,
        machine.watched(daemon.pid, simulator.pid) as usage,
    ):
        _hand_in(daemon, "alone", results)
        full_rate = _rate(daemon, "alone", results)
        idle = stage.load.run(daemon.socket, CONNECTIONS, seconds, single)
        _hand_in(daemon, "beside", results)
        before, start = _stored(daemon, "beside", at_least=1), time.monotonic()
        busy = stage.load.run(daemon.socket, CONNECTIONS, seconds, single)
        rate = (_stored(daemon, "beside") - before) / (time.monotonic() - start)
    yield Finding(
        what="accepts while results come in: p99",
        value=busy.p99_ms / idle.p99_ms,
        goal=4.0,
        at_least=False,
        unit=" × idle p99",
        ours=f"p99 {busy.p99_ms:.1f} ms, {busy.rate:,.0f} accepts/s",
        beside=f"idle p99 {idle.p99_ms:.1f} ms, {idle.rate:,.0f} accepts/s",
        foreign=usage.foreign,
    )
    yield Finding(
        what="results meanwhile",
        value=rate / full_rate,
        goal=0.45,
        unit=" of full speed",
        ours=f"{rate:,.0f} results/s",
        beside=f"alone {full_rate:,.0f} results/s",
        foreign=usage.foreign,
    )


def _hand_in(daemon: Daemon, queue: str, count: int) -> None:
    envelope = payload.envelope().replace(b"{", b'{"queue":"%s",' % queue.encode(), 1)
    with daemon.client() as client:
        for _ in client.submit_many(envelope.replace(MARK, b"%010d" % number) for number in range(count)):
            pass
        client.flush(queue=queue)


def _rate(daemon: Daemon, queue: str, count: int) -> float:
    """Results a second, from the first ones on disk to the last."""
    first = _stored(daemon, queue, at_least=1)
    start = time.monotonic()
    _stored(daemon, queue, at_least=count)
    return (count - first) / (time.monotonic() - start)


def _stored(daemon: Daemon, queue: str, at_least: int = 0) -> int:
    """How many of a queue have their outcome; waits until there are ``at_least`` so many."""
    with daemon.client() as client:
        while True:
            states = client.status()["requests"].get(queue, {})
            if (count := states.get("succeeded", 0) + states.get("errored", 0)) >= at_least:
                return int(count)
            time.sleep(0.01)
