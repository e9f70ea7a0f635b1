"""A bug in a loop ends the process and says so. A writer that stands still holds up what is to be written, no more."""

import os
import threading
import time
from itertools import groupby
from typing import Final

from tests.crash.run import Run, Theatre, ask
from tests.crash.stories import webhook
from unhurried.cli.exits import BUG
from unhurried.observability.health import WRITER_HANGS_S

LOOPS: Final = ["keeper.looked", "flusher.formed", "settlement.swept", "submission.recorded", "tracker.ended",
                "collector.stored", "dispatcher.recorded"]  # fmt: skip
"""A beat of each loop, in the order in which one story comes to them."""


def test_a_bug_in_a_loop_ends_the_process_with_its_name_and_the_next_one_goes_on(stages: Theatre) -> None:
    """Each daemon is ended by a bug in another loop; none hangs, none lives on without it."""
    with stages.run(*(f"{point}=raise" for point in LOOPS), webhooks=True) as run:
        run.ends_with = BUG
        webhook(run)
        run.check()
        assert run.kills == len(LOOPS)
        log = (run.stage.folder / "serve.log").read_text()
        named = [line.rpartition(" ")[2] for line in log.splitlines() if "failpoints.FailpointReached:" in line]
        assert [name for name, _ in groupby(named)] == LOOPS
        assert log.count("unhurried: this is a bug in unhurried (FailpointReached)") == len(LOOPS)


def test_a_writer_that_stands_still_holds_up_no_reader_and_acknowledges_nothing(stages: Theatre) -> None:
    with stages.run() as run:
        rendezvous = run.stage.folder / "held"
        run.armed = lambda _: f"store.half_stored=block:{rendezvous}"
        run.start()
        run.hand_in_many("q", 5)
        run.until(rendezvous.exists, "the writer stands still, in the middle of a transaction")
        late = threading.Thread(target=hand_in_another, args=(run,))
        late.start()
        for _ in range(20):
            began = time.monotonic()
            assert run.client.get(run.book.ids["q-0"])["state"] == "submitted"
            assert run.client.status()["requests"]["q"] == {"submitted": 5}
            assert run.client.health()[0]
            assert time.monotonic() - began < 2
        assert late.is_alive() and ask(run.stage.database, "select count(*) from requests") == [(5,)]
        if os.environ.get("UNHURRIED_TEST_CRASH_ALL"):
            fails_once_the_writer_hangs(run)
        rendezvous.unlink()
        late.join(20)
        assert "q-5" in run.book.ids
        run.fetch("q")
        run.rest()
        run.check()


def hand_in_another(run: Run) -> None:
    sent = run.book.write("q", 5)
    with run.stage.client() as client:
        answer = client.submit(sent.params, queue="q", idempotency_key=sent.key)
    run.book.acknowledged(sent, answer.id, duplicate=answer.duplicate)


def fails_once_the_writer_hangs(run: Run) -> None:
    """What liveness is for: it takes two minutes to be sure."""
    deadline = time.monotonic() + WRITER_HANGS_S + 30
    while run.client.health()[0]:
        assert time.monotonic() < deadline
        time.sleep(1)
    alive, told = run.client.health()
    assert not alive and "writer" in str(told), told
