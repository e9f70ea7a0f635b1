"""How soon is a daemon ready that was killed with 1,000,000 requests on disk?"""

import signal
import time
from collections.abc import Iterator

from tests.benchmarks import backlog, machine, payload
from tests.benchmarks.report import Finding
from tests.benchmarks.stage import Stage, ready


def run(stage: Stage) -> Iterator[Finding]:
    path = backlog.database(stage)
    with (
        stage.simulator(),
        stage.daemon(path.parent.name, keep=True) as daemon,
    ):
        stage.load.run(daemon.socket, 16, 0.5, payload.single())
        daemon.stop(signal.SIGKILL)
        with machine.watched() as usage:
            start = time.monotonic()
            again = stage.start(path.parent)
            try:
                while not ready(again):
                    time.sleep(0.005)
                took = time.monotonic() - start
                waiting = sum(again.status()["requests"]["default"].values())
            finally:
                again.stop()
    yield Finding(
        what="ready after kill -9",
        value=took,
        goal=2.0,
        at_least=False,
        unit=" s",
        ours=f"with {waiting:,} requests on disk",
        foreign=usage.foreign,
    )
