"""The five in which other tools lose or pay twice, and two more: each in one place, with the kill where its name says.

Nobody helps: nothing is resumed, retried or looked at by hand. At the end everything is handed back and paid once.
"""

import pytest

from tests.crash.run import Run, Theatre
from tests.crash.stories import STORIES


def hand_back(run: Run, queue: str) -> None:
    """Everything of the queue comes back, and all the books are right."""
    run.do(run.fetch, queue)
    run.do(run.rest)
    run.check()


def test_killed_while_polling(stages: Theatre) -> None:
    with stages.run() as run:
        run.start()
        run.simulator.hold("retrieve", times=1)
        run.hand_in_many("polled", 20)
        run.simulator.wait_held("retrieve")
        run.kill()
        run.simulator.release("retrieve")
        hand_back(run, "polled")
        assert len(run.simulator.ledger()["creates"]) == 1


@pytest.mark.parametrize(
    ("point", "arrived"),
    [("create_before_body", False), ("create_mid_upload", False), ("create_not_recorded", False),
     ("create_received", True)],
)  # fmt: skip
def test_killed_inside_create(stages: Theatre, point: str, arrived: bool) -> None:
    """Before a byte was read, in the middle, after the last one, and when the batch exists and nothing was answered."""
    with stages.run() as run:
        run.start()
        run.simulator.hold(point, times=1, then="drop")
        run.hand_in_many("created", 20)
        run.simulator.wait_held(point)
        run.kill()
        run.simulator.release(point)
        hand_back(run, "created")
        made = [create["batch_id"] for create in run.simulator.ledger()["creates"] if create["batch_id"]]
        assert len(made) == 1
        assert bool(run.batches("abandoned")) is not arrived


@pytest.mark.parametrize("killed", ["", "settlement.listed=kill"])
def test_create_accepted_but_answered_500(stages: Theatre, killed: str) -> None:
    """Whether it lives through its doubt or is killed in it."""
    with stages.run(killed) as run:
        run.simulator.fault("create_then_500")
        run.start()
        run.do(run.hand_in_many, "answered", 20)
        hand_back(run, "answered")
        assert run.kills == bool(killed)
        assert len(run.simulator.ledger()["creates"]) == 1


def test_first_poll_404(stages: Theatre) -> None:
    """Upstream does not know its own batch for a while; a daemon that is killed meanwhile asks again."""
    with stages.run("tracker.missed=kill") as run:
        run.simulator.fault("retrieve_404_after_create", seconds=20)
        run.start()
        run.do(run.hand_in_many, "unseen", 20)
        hand_back(run, "unseen")
        assert run.kills == 1
        assert len(run.simulator.ledger()["creates"]) == 1


@pytest.mark.parametrize("killed", ["", "settlement.adopted=kill"])
def test_create_never_arrived_and_a_strangers_batch_has_the_same_size(stages: Theatre, killed: str) -> None:
    with stages.run(killed) as run:
        run.simulator.fault("create_lost_with_stranger")
        run.start()
        run.do(run.hand_in_many, "foreign", 20)
        hand_back(run, "foreign")
        run.check_no_strangers()
        assert run.kills == bool(killed)
        assert [create["batch_id"] for create in run.simulator.ledger()["creates"]].count(None) == 1


def test_a_batch_that_someone_deleted_ends_as_named_outcomes(stages: Theatre) -> None:
    with stages.run("tracker.gone=kill", settings=STORIES["gone"].settings) as run:
        run.simulator.fault("batch_deleted")
        run.start()
        run.do(run.hand_in_many, "deleted", 20)
        run.book.outcomes = dict.fromkeys(run.book.sent, frozenset({"errored"}))
        hand_back(run, "deleted")
        assert run.kills == 1
        told = [result["error"]["error"]["type"] for got in run.book.handed.values() for result in got.values()]
        assert told == ["batch_gone"] * 20


@pytest.mark.parametrize("arrived", [False, True])
def test_a_cancel_while_submitting_is_not_forgotten(stages: Theatre, arrived: bool) -> None:
    """What upstream has is not tried again when it expires; what never arrived is canceled without being sent."""
    point = "create_received" if arrived else "create_not_recorded"
    with stages.run() as run:
        run.simulator.fault("expired_all")
        run.start()
        run.simulator.hold(point, times=1, then="drop")
        run.hand_in_many("canceled", 4)
        run.simulator.wait_held(point)
        for id in run.book.ids.values():
            assert run.client.cancel(id)["cancel_requested_at"]
        run.kill()
        run.simulator.release(point)
        outcome = "expired" if arrived else "canceled"
        run.book.outcomes = dict.fromkeys(run.book.sent, frozenset({outcome}))
        hand_back(run, "canceled")
        assert all(run.client.get(id)["cancel_requested_at"] for id in run.book.ids.values())
        made = [create["batch_id"] for create in run.simulator.ledger()["creates"] if create["batch_id"]]
        assert len(made) == arrived
