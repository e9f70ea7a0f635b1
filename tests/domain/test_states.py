"""The one table of transitions."""

from enum import StrEnum

import pytest

from unhurried.domain.states import (
    FINAL_BATCH_STATES,
    FINAL_REQUEST_STATES,
    TRANSITIONS,
    UPSTREAM_BATCH_STATES,
    WAITING_BATCH_STATES,
    AttemptState,
    BatchState,
    DeliveryState,
    IllegalTransition,
    RequestState,
    check,
)

ALL = [(old, new) for states in TRANSITIONS for old in states for new in states]


@pytest.mark.parametrize(("old", "new"), ALL, ids=lambda state: f"{type(state).__name__}.{state}")
def test_only_what_the_table_knows_may_follow(old: StrEnum, new: StrEnum) -> None:
    if (old, new) in TRANSITIONS[type(old)]:
        check(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"{old} → {new}"):
            check(old, new)


def test_every_state_but_submitted_can_be_reached() -> None:
    """``submitted`` is never stored, so the table knows no way to it."""
    starts: set[StrEnum] = {RequestState.QUEUED, BatchState.FORMING, AttemptState.OPEN, DeliveryState.PENDING}
    for states, pairs in TRANSITIONS.items():
        reached = {new for _, new in pairs} | starts
        assert set(states) - reached <= {RequestState.SUBMITTED}


def test_a_batch_goes_on_from_every_state_that_is_not_final() -> None:
    for state in BatchState:
        onwards = {new for old, new in TRANSITIONS[BatchState] if old is state}
        if state in FINAL_BATCH_STATES:
            assert onwards <= {BatchState.ENDED}  # only a late twin brings one back
        else:
            assert onwards


def test_only_an_abandoned_batch_comes_back() -> None:
    """A late twin is harvested; what is collected, dissolved, refused or gone stays so."""
    back = {old for old, new in TRANSITIONS[BatchState] if old in FINAL_BATCH_STATES}
    assert back == {BatchState.ABANDONED}


def test_an_outcome_is_left_by_an_operators_retry_only() -> None:
    left = {(old, new) for old, new in TRANSITIONS[RequestState] if old in FINAL_REQUEST_STATES}
    assert all(new is RequestState.QUEUED for _, new in left)
    assert RequestState.SUCCEEDED not in {old for old, _ in left}


def test_the_kinds_of_batch_states_do_not_overlap() -> None:
    assert not UPSTREAM_BATCH_STATES & FINAL_BATCH_STATES
    assert not WAITING_BATCH_STATES & FINAL_BATCH_STATES
