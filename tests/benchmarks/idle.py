"""What does a daemon cost that has nothing to do?"""

import time
from collections.abc import Iterator

from tests.benchmarks import machine
from tests.benchmarks.report import Finding
from tests.benchmarks.stage import Stage


def run(stage: Stage) -> Iterator[Finding]:
    seconds = 3.0 if stage.quick else 10.0
    with stage.simulator(), stage.daemon("idle") as daemon:
        time.sleep(1.0)
        before = daemon.cpu_s()
        with machine.watched(daemon.pid) as usage:
            time.sleep(seconds)
        cpu = (daemon.cpu_s() - before) / usage.seconds
        rss_mb = daemon.status()["daemon"]["memory"]["rss_bytes"] / 1e6
    yield Finding(
        what="idle: share of a core",
        value=cpu * 100,
        goal=1.0,
        at_least=False,
        unit=" %",
        ours=f"over {seconds:g} s",
        foreign=usage.foreign,
    )
    yield Finding(what="idle: resident", value=rss_mb, goal=150.0, at_least=False, unit=" MB", ours="")
