"""Each fault of the simulator alone: the run completes without a person, nothing is lost, nothing is paid twice."""

import re
from typing import Any

import pytest

from tests.whole.stage import Stage

REQUESTS = 60
Fault = tuple[str, dict[str, Any]]

ONCE: list[Fault] = [
    ("create_then_drop", {}),
    ("create_then_drop", {"reset": True}),
    ("create_then_500", {}),
    ("create_lost", {}),
    ("create_lost", {"after_bytes": 2_000}),
    ("create_lost_with_stranger", {}),
    ("create_500_with_stranger", {}),
    ("create_500", {}),
    ("create_529", {}),
    ("create_429", {}),
    ("create_429", {"retry_after": 1}),
    ("create_413_html", {}),
    ("create_400_cut_body", {}),
    ("create_spend_limit", {}),
    ("create_401", {}),
    ("create_402", {}),
    ("create_403", {}),
    ("create_404", {}),
    ("create_error", {"status": 408}),
    ("create_error", {"status": 409}),
    ("create_error", {"status": 503, "recorded": True}),
    ("slow_create", {"seconds": 1}),
    ("slow_list", {"seconds": 1, "times": 2}),
    ("retrieve_404_after_create", {"seconds": 60}),
    ("poll_429", {}),
    ("poll_429", {"retry_after": 1}),
    ("poll_529", {}),
    ("poll_500", {}),
    ("poll_drop", {}),
    ("results_error", {"status": 500}),
    ("results_cut_mid_line", {}),
    ("results_cut_at_line_end", {}),
    ("results_cut_at_line_end", {"framing": "chunked"}),
    ("results_duplicate_lines", {"fraction": 0.5}),
    ("results_missing_lines", {"count": 3}),
    ("results_blank_lines", {}),
    ("results_404_after_end", {"seconds": 60}),
    ("results_shuffled", {}),
    ("results_wrong_content_type", {"type": ""}),
    ("errored_first_attempts", {"attempts": 1, "type": "overloaded_error"}),
    ("errored_first_attempts", {"attempts": 2, "type": "api_error"}),
    ("expired_some", {"fraction": 0.5, "times": 1}),
    ("canceled_some", {"fraction": 0.5, "times": 1}),
    ("stop_refusal", {"fraction": 0.3}),
    ("stop_max_tokens", {"fraction": 0.3}),
]

pytestmark = pytest.mark.timeout(180)


def name_of(fault: Fault) -> str:
    return "-".join([fault[0], *(f"{name}={value}" for name, value in fault[1].items())])


@pytest.mark.parametrize("fault", ONCE, ids=name_of)
def test_a_fault_alone_costs_only_time(shared: Stage, fault: Fault) -> None:
    name, parameters = fault
    queue = prepare(shared, name_of(fault))
    shared.simulator.fault(name, **parameters)
    ids = shared.submit(REQUESTS, queue)
    shared.wait_finished()
    results = shared.pull_all(queue)
    assert set(results) == set(ids)
    assert {result["type"] for result in results.values()} == {"succeeded"}
    shared.assert_paid_once()
    shared.assert_sound()


@pytest.mark.parametrize("kind", ["invalid_request_error", "not_found_error", "permission_error", "billing_error"])
def test_an_error_that_repeating_cannot_heal_is_the_outcome(shared: Stage, kind: str) -> None:
    queue = prepare(shared, kind)
    shared.simulator.fault("errored_some", fraction=1.0, type=kind)
    ids = shared.submit(5, queue)
    shared.wait_finished()
    results = shared.pull_all(queue)
    assert set(results) == set(ids)
    assert {result["error"]["error"]["type"] for result in results.values()} == {kind}
    shared.assert_created_once()


def test_three_attempts_are_made_and_then_the_error_is_the_outcome(shared: Stage) -> None:
    queue = prepare(shared, "always-overloaded")
    shared.simulator.fault("errored_some", fraction=1.0, type="overloaded_error")
    ids = shared.submit(5, queue)
    shared.wait_finished()
    assert {result["type"] for result in shared.pull_all(queue).values()} == {"errored"}
    with shared.client() as client:
        assert [client.get(id)["attempts"] for id in ids] == [3] * 5


def test_the_request_that_upstream_names_is_errored_and_the_others_go_on(shared: Stage) -> None:
    queue = prepare(shared, "named")
    shared.simulator.fault("create_400_names_request", index=7)
    ids = shared.submit(REQUESTS, queue)
    shared.wait_finished()
    results = shared.pull_all(queue)
    assert [id for id in ids if results[id]["type"] == "errored"] == [ids[7]]
    shared.assert_created_once()
    shared.assert_sound()


def test_an_unexplained_refusal_is_bisected_and_everyone_gets_through(shared: Stage) -> None:
    queue = prepare(shared, "unexplained")
    shared.simulator.fault("create_400_unexplained", times=2)
    ids = shared.submit(REQUESTS, queue)
    shared.wait_finished()
    assert [result["type"] for result in shared.pull_all(queue).values()] == ["succeeded"] * len(ids)
    shared.assert_created_once()
    shared.assert_sound()


def test_a_strangers_batch_of_the_same_size_is_not_kept(shared: Stage) -> None:
    queue = prepare(shared, "stranger")
    shared.simulator.fault("create_lost_with_stranger")
    ids = shared.submit(REQUESTS, queue)
    shared.wait_finished()
    assert set(shared.pull_all(queue)) == set(ids)
    strangers = {batch["id"] for batch in shared.simulator.call("GET", "/batches")["data"] if batch["stranger"]}
    assert strangers
    with shared.client() as client:
        kept = {batch["upstream_id"] for batch in client.batches(limit=100)}
    assert not strangers & kept


def test_a_batch_that_someone_deleted_ends_as_a_named_outcome(shared: Stage) -> None:
    queue = prepare(shared, "deleted")
    shared.simulator.fault("batch_deleted", seconds=1)
    ids = shared.submit(5, queue)
    shared.wait_finished()
    results = shared.pull_all(queue)
    assert {results[id]["error"]["error"]["type"] for id in ids} == {"batch_gone"}
    shared.assert_sound()


def test_a_list_that_lags_within_the_grace_hides_nothing(shared: Stage) -> None:
    """0.5 s of grace are 30 simulated seconds here."""
    queue = prepare(shared, "lag")
    shared.simulator.fault("list_lag", seconds=20)
    shared.simulator.fault("create_then_500")
    ids = shared.submit(REQUESTS, queue)
    shared.wait_finished()
    assert set(shared.pull_all(queue)) == set(ids)
    shared.assert_created_once()


def test_a_late_twin_is_harvested_and_the_waste_is_on_record(shared: Stage) -> None:
    """The batch appears when it had been given up: the first outcome wins, and both payments can be seen."""
    queue = prepare(shared, "late-twin")
    shared.simulator.fault("create_late", seconds=240)  # four seconds: beyond grace and absence
    ids = shared.submit(REQUESTS, queue)
    shared.wait_finished()
    shared.until(
        lambda: [batch for batch in _batches(shared) if batch["late"] and batch["state"] == "collected"],
        "the late twin has been collected",
    )
    results = shared.pull_all(queue)
    assert set(results) == set(ids)
    shared.assert_sound()


def _batches(scene: Stage) -> list[dict[str, Any]]:
    with scene.client() as client:
        return client.batches(limit=20)


def prepare(scene: Stage, title: str) -> str:
    """Nothing is open, the simulator has forgotten everything; a queue of its own for the test."""
    scene.wait_finished()
    scene.simulator.reset()
    with scene.client() as client:
        client.resume_account()
    return re.sub(r"[^a-z0-9]+", "-", title)[:55]


def test_a_create_that_arrives_late_is_found_within_the_grace(scene: Stage) -> None:
    """With a grace that a busy machine cannot outlast: the simulator's clock runs sixty times as fast as ours."""
    scene.settings["UNHURRIED_SUBMISSION__SETTLE_GRACE_S"] = "10"
    scene.start()
    scene.simulator.fault("create_late", seconds=1)
    ids = scene.submit(REQUESTS, "late")
    scene.wait_finished()
    assert scene.pull_all("late").keys() == set(ids)
    scene.assert_created_once()
    scene.assert_paid_once()
    scene.assert_sound()
