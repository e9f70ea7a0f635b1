"""``kill -9`` anywhere on the way changes nothing but the time it takes."""

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.whole.stage import Stage

TIMES = int(os.environ.get("UNHURRIED_TEST_KILLS", "1"))
"""How often each kill is repeated. Once, and at the most telling points only, is the short form."""
RANDOM_KILLS = int(os.environ.get("UNHURRIED_TEST_RANDOM_KILLS", "2"))
POINTS = [
    ("create_received", {}),
    ("create_mid_upload", {"after_bytes": 20_000}),
    ("results_mid", {"after_lines": 200}),
    *([("create_not_recorded", {}), ("results_start", {}), ("retrieve", {})] if TIMES > 1 else []),
]
REQUESTS = 400

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("turn", range(TIMES))
@pytest.mark.parametrize(("point", "parameters"), POINTS)
def test_a_kill_while_upstream_holds_changes_nothing(
    scene: Stage, point: str, parameters: dict[str, int], turn: int
) -> None:
    scene.start()
    scene.simulator.hold(point, times=1, **parameters)
    ids = scene.submit(REQUESTS)
    scene.simulator.wait_held(point)
    scene.kill()
    scene.simulator.release(point)
    scene.start()
    assert_everything_came_back_once(scene, ids)


@pytest.mark.parametrize("turn", range(TIMES))
def test_a_kill_between_the_intent_and_the_post_changes_nothing(scene: Stage, turn: int) -> None:
    """The intent is on disk and not a byte has left: the simulator holds the connection before it reads any."""
    scene.start()
    scene.simulator.hold("create_before_body", times=1, then="drop")
    ids = scene.submit(REQUESTS)
    scene.until(lambda: "submitting" in batch_states(scene.database), "the intent is on disk")
    scene.kill()
    scene.simulator.release("create_before_body")
    scene.start()
    assert_everything_came_back_once(scene, ids)


def test_one_group_killed_in_its_create_many_times_leaves_one_batch(scene: Stage) -> None:
    scene.start()
    scene.simulator.hold("create_not_recorded", times=0, then="drop")
    ids = scene.submit(50)
    for _ in range(2 if TIMES == 1 else 10):
        scene.simulator.wait_held("create_not_recorded")
        scene.kill()
        scene.simulator.release("create_not_recorded")
        scene.simulator.hold("create_not_recorded", times=0, then="drop")
        scene.start()
    scene.simulator.release("create_not_recorded")
    assert_everything_came_back_once(scene, ids)
    containing = {row["batch_id"] for row in scene.simulator.created()}
    assert len(containing) == 1


def test_kills_at_random_moments_lose_nothing(scene: Stage) -> None:
    """The moments are drawn from a printed seed; a kill may hit starting up, forming, sending, polling, collecting."""
    seed = int(os.environ.get("UNHURRIED_TEST_SEED", str(random.randrange(10**6))))
    print(f"UNHURRIED_TEST_SEED={seed}")
    chance = random.Random(seed)
    ids: list[str] = []
    scene.start()
    for kill in range(RANDOM_KILLS):
        ids += scene.submit(REQUESTS, text=f"round {kill}")
        moment = chance.uniform(0.0, 6.0)
        scene.until(elapsed(moment), f"{moment:.1f} s have passed")
        scene.kill()
        scene.start()
    assert_everything_came_back_once(scene, ids)


def elapsed(seconds: float) -> Callable[[], bool]:
    """A small clock for ``until``: the moment of a kill is what is being chosen here."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def batch_states(database: Path) -> list[str]:
    """Read as an operator would, while the daemon runs."""
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return [row[0] for row in db.execute("select state from batches")]
    finally:
        db.close()


def assert_everything_came_back_once(scene: Stage, ids: list[str]) -> None:
    scene.wait_finished(120)
    results = scene.pull_all()
    assert set(results) == set(ids)
    assert {result["type"] for result in results.values()} == {"succeeded"}
    scene.assert_created_once()
    scene.assert_paid_once()
    scene.assert_sound()
