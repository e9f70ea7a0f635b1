"""The wall clock is set by a day, forwards and backwards, and the process is stopped for longer than any lease."""

import os
import signal
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.whole.stage import Stage

DAY_MS = 86_400_000

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_set_changes_nothing(scene: Stage, shim: Path, days: int) -> None:
    """First while the daemon runs, with results leased and a batch in the midst of its results; then back again between
    two runs, with results leased and a batch in doubt."""
    set_clock = preload(scene, shim)
    scene.start()
    early = scene.submit(50, "early")
    scene.wait_finished()
    with scene.client() as client:
        leased = client.pull("pull:early", limit=20, wait=0, lease=30)
    scene.simulator.hold("results_mid", times=1, after_lines=100)
    middle = scene.submit(200, "middle")
    scene.simulator.wait_held("results_mid")
    set_clock(days * DAY_MS)
    scene.simulator.release("results_mid")
    scene.wait_finished()
    with scene.client() as client:
        client.ack([result.delivery_id for result in leased if result.delivery_id])
        client.pull("pull:middle", limit=50, wait=0, lease=3_600)
    assert scene.pull_all("early").keys() == set(early) - {result.request_id for result in leased}
    scene.simulator.hold("create_received", times=1)
    late = scene.submit(50, "late")
    scene.simulator.wait_held("create_received")
    scene.kill()
    scene.simulator.release("create_received")
    scene.fresh = None
    scene.start()
    scene.wait_finished()
    assert scene.pull_all("middle").keys() == set(middle)
    assert scene.pull_all("late").keys() == set(late)
    assert_told_in_order(scene)
    assert_nothing_twice(scene)


def test_a_process_that_stood_still_goes_on(scene: Stage) -> None:
    """For longer than its leases, its time-outs and the age at which a batch in doubt is given up."""
    scene.start()
    early = scene.submit(100, "early")
    scene.wait_finished()
    with scene.client() as client:
        leased = client.pull("pull:early", limit=20, wait=0, lease=1)
    scene.simulator.hold("create_received", times=1)
    late = scene.submit(100, "late")
    scene.simulator.wait_held("create_received")
    assert scene.daemon is not None
    scene.daemon.send_signal(signal.SIGSTOP)
    scene.simulator.release("create_received")
    scene.until(elapsed(3.0), "it stood still for longer than any of them")
    scene.daemon.send_signal(signal.SIGCONT)
    scene.wait_finished()
    with scene.client() as client:  # after its lease, and all the same: the first who confirms has it
        client.ack([result.delivery_id for result in leased if result.delivery_id])
    found = scene.pull_all("early").keys()
    assert found == set(early) - {result.request_id for result in leased}
    assert scene.pull_all("late").keys() == set(late)
    assert_nothing_twice(scene)


def preload(scene: Stage, shim: Path) -> Callable[[int], None]:
    """Give the daemon a clock that the test can set, by milliseconds from the true time."""
    file = scene.folder / "clock"
    file.write_bytes(struct.pack("q", 0))
    scene.fresh = {"LD_PRELOAD": str(shim), "SHIM_CLOCK": str(file)}

    def set_clock(offset_ms: int) -> None:
        with file.open("r+b") as shared:
            os.pwrite(shared.fileno(), struct.pack("q", offset_ms), 0)

    return set_clock


def elapsed(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def assert_told_in_order(scene: Stage) -> None:
    """Each batch is formed, sent, ended and collected in the order of the events' numbers, whatever their times say."""
    db = sqlite3.connect(f"file:{scene.database}?mode=ro", uri=True)
    try:
        rows = db.execute("select entity_id, new_state from events where new_state is not null order by seq").fetchall()
    finally:
        db.close()
    order = ["forming", "submitting", "unknown", "in_progress", "ended", "collected"]
    for batch in {entity for entity, state in rows if state == "collected"}:
        states = [order.index(state) for entity, state in rows if entity == batch]
        assert states == sorted(states), (batch, states)


def assert_nothing_twice(scene: Stage) -> None:
    scene.assert_created_once()
    scene.assert_paid_once()
    scene.assert_sound()
