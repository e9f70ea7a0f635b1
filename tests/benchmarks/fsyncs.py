"""How many requests does one fsync carry? Counted in the daemon, checkpoints included: without noise."""

from collections.abc import Iterator

from tests.benchmarks import machine, payload
from tests.benchmarks.report import Finding
from tests.benchmarks.stage import Stage

GOALS = {16: 6.0, 64: 24.0, 256: 85.0}


def run(stage: Stage) -> Iterator[Finding]:
    seconds = 0.5 if stage.quick else 2.0
    what = "accepts per fsync, {} connections"
    if stage.fsync_counter is None:
        for connections, goal in GOALS.items():
            yield Finding(what=what.format(connections), value=None, goal=goal, ours="no compiler for the counter")
        return
    with stage.simulator(), stage.daemon("fsyncs", count_fsyncs=True) as daemon:
        for connections, goal in GOALS.items():
            before = daemon.fsyncs()
            with machine.watched(daemon.pid) as usage:
                seen = stage.load.run(daemon.socket, connections, seconds, payload.single())
            counted = daemon.fsyncs() - before
            yield Finding(
                what=what.format(connections),
                value=seen.answered / counted,
                goal=goal,
                ours=f"{seen.answered:,} accepts, {counted:,} fsyncs",
                foreign=usage.foreign,
            )
