"""Stopping in order is a courtesy: whatever cuts it short, the next start finds what a kill leaves."""

import os
import random
import time
from typing import Final

from tests.crash.run import Died, Run, Theatre, ask
from tests.crash.stories import STOPPING

CUT_SHORT: Final = int(os.environ.get("UNHURRIED_TEST_CRASH_STOPS", "4"))
MOMENT_MAX_S: Final = 0.25


def test_killed_at_each_beat_of_a_stop(stages: Theatre) -> None:
    with stages.run(*(f"{point}=kill" for point in STOPPING)) as run:
        run.start()
        run.do(work_and_stop, run)
        assert run.kills == len(STOPPING)
        assert ask(run.stage.database, "select stopped_at is not null from boots order by epoch desc limit 1") == [(1,)]
        finish(run)


def test_a_stop_that_is_cut_short_at_random_is_a_kill(stages: Theatre) -> None:
    seed = int(os.environ.get("UNHURRIED_TEST_SEED", str(random.randrange(10**6))))
    print(f"UNHURRIED_TEST_SEED={seed}")
    chance = random.Random(seed)
    with stages.run() as run:
        run.start()
        for _ in range(CUT_SHORT):
            run.hand_in_many("q", 8, first=len(run.book.sent))
            daemon = run.stage.daemon
            assert daemon is not None
            daemon.terminate()
            end = time.monotonic() + chance.uniform(0.0, MOMENT_MAX_S)
            while time.monotonic() < end:  # the moment is what is being chosen here
                time.sleep(0.001)
            daemon.kill()
            run.ends_with = daemon.wait(20)  # it may have been quicker
            assert run.ends_with in (0, -9)
            run.survive(Died("in its stop"))
        finish(run)


def test_after_the_order_no_create_begins(stages: Theatre) -> None:
    """The one under way is finished and recorded, the next one stays where it is."""
    with stages.run() as run:
        run.start()
        run.simulator.hold("create_received", times=1)
        run.hand_in_many("first", 5)
        run.simulator.wait_held("create_received")
        run.hand_in_many("second", 6)
        run.until(lambda: run.batches("forming"), "another one waits")
        assert run.stage.daemon is not None
        run.stage.daemon.terminate()
        run.until(lambda: '"daemon.stopping"' in run.stage.tail(1_000), "the order is given")
        run.simulator.release("create_received")
        assert run.stage.daemon.wait(20) == 0
        run.stage.daemon = None
        run.hang_up()
        assert (len(run.batches("in_progress")), len(run.batches("forming"))) == (1, 1)
        assert len(run.simulator.ledger()["creates"]) == 1
        run.start()
        for queue in ("first", "second"):
            run.fetch(queue)
        run.rest()
        run.check()


def work_and_stop(run: Run) -> None:
    """Some work, and in its midst the order."""
    run.hand_in_many("q", 8, first=8 * run.kills)
    assert run.stage.daemon is not None
    run.stage.daemon.terminate()
    code = run.stage.daemon.wait(20)
    if code != 0:
        raise Died("in its stop")
    run.stage.daemon = None
    run.hang_up()


def finish(run: Run) -> None:
    run.start()
    run.do(run.fetch, "q")
    run.do(run.rest)
    run.check()
