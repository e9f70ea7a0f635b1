"""When a group is sent, and how much of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.clock import Ms, after
from unhurried.domain.grouping import (
    PAUSE_MAX_S,
    SAMPLES_MIN,
    Group,
    Limits,
    Why,
    deadline_class,
    expected_turnaround_s,
    plan,
)

NOW = Ms(1_795_000_000_000)
LIMITS = Limits(
    requests_max=100, bytes_max=10_000, linger_s=300.0, turnaround_default_s=3_600.0, deadline_margin_s=60.0
)


def group(id: int = 1, **fields: Any) -> Group:
    """One request that came just now and is due in a day, unless said otherwise. Moments in seconds from now."""
    for name in ("oldest_at", "nearest_deadline", "flush_asked_at"):
        if name in fields:
            fields[name] = after(NOW, fields[name])
    plain: dict[str, Any] = {
        "id": id,
        "model": "m",
        "requests": 1,
        "bytes": 100,
        "oldest_at": NOW,
        "nearest_deadline": after(NOW, 86_400),
    }
    return Group(**(plain | fields))


@dataclass
class Case:
    name: str
    groups: Sequence[Group]
    chosen: int | None
    why: Why | None = None
    look_again_s: float = 0.0
    requests_max: int = 100
    bytes_max: int = 10_000
    history: dict[str, Sequence[float]] = field(default_factory=dict)


CASES = [
    Case("nothing waits", [], None, look_again_s=PAUSE_MAX_S),
    Case("an empty group", [group(requests=0, oldest_at=-9_999)], None, look_again_s=PAUSE_MAX_S),
    Case("one just came", [group()], None, look_again_s=PAUSE_MAX_S),
    Case("one lingers for some seconds more", [group(oldest_at=-290)], None, look_again_s=10.0),
    Case("one has lingered", [group(oldest_at=-300)], 1, Why.LINGER),
    Case("as many as a batch takes", [group(requests=100)], 1, Why.FULL),
    Case("one less", [group(requests=99)], None, look_again_s=PAUSE_MAX_S),
    Case("as many bytes as a batch takes", [group(bytes=10_000)], 1, Why.FULL),
    Case("a flush was asked for", [group(oldest_at=-5, flush_asked_at=-5)], 1, Why.FLUSH),
    Case("came after the flush", [group(oldest_at=-4, flush_asked_at=-5)], None, look_again_s=PAUSE_MAX_S),
    Case("the deadline is near", [group(nearest_deadline=3_660)], 1, Why.DEADLINE),
    Case("the deadline is nearly near", [group(nearest_deadline=3_665)], None, look_again_s=5.0),
    Case("the deadline has passed", [group(nearest_deadline=-5)], 1, Why.DEADLINE),
    Case(
        "this model is slow",
        [group(nearest_deadline=9_000)],
        1,
        Why.DEADLINE,
        history={"m": [9_000.0] * SAMPLES_MIN},
    ),
    Case("another is slow", [group(nearest_deadline=9_000)], None, look_again_s=30, history={"x": [9_000.0] * 9}),
    Case("too few samples", [group(nearest_deadline=9_000)], None, look_again_s=30, history={"m": [9_000.0] * 4}),
    Case(
        "this model is quick",
        [group(nearest_deadline=3_000)],
        None,
        look_again_s=30,
        history={"m": [10.0] * SAMPLES_MIN},
    ),
    Case("part of a refused batch", [group(requests_cap=8)], 1, Why.SPLIT, requests_max=8),
    Case("part of a refused batch, full", [group(requests_cap=8, requests=9)], 1, Why.SPLIT, requests_max=8),
    Case("a batch was too large", [group(bytes_cap=500, bytes=500)], 1, Why.FULL, bytes_max=500),
    Case("caps above the limits", [group(requests_cap=900, bytes_cap=99_999)], 1, Why.SPLIT),
    Case(
        "of several the nearest deadline",
        [group(1, oldest_at=-400), group(2, oldest_at=-301, nearest_deadline=80_000), group(3, nearest_deadline=9_000)],
        2,
        Why.LINGER,
    ),
    Case("of equals the oldest", [group(1, oldest_at=-301), group(2, oldest_at=-302)], 2, Why.LINGER),
    Case(
        "the soonest of several leads the pause",
        [group(1, oldest_at=-290), group(2, oldest_at=-297), group(3)],
        None,
        look_again_s=3.0,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan(case: Case) -> None:
    found = plan(case.groups, LIMITS, case.history, NOW)
    assert found.look_again_s == pytest.approx(case.look_again_s)
    if case.chosen is None:
        assert found.order is None
        return
    assert found.order is not None
    order = found.order
    assert (order.group.id, order.why) == (case.chosen, case.why)
    assert (order.requests_max, order.bytes_max) == (case.requests_max, case.bytes_max)


def groups() -> st.SearchStrategy[list[Group]]:
    ms = st.integers(-400_000, 400_000).map(lambda delta: Ms(NOW + delta))
    one = st.builds(
        Group,
        id=st.integers(1, 5),
        model=st.sampled_from(["a", "b"]),
        requests=st.integers(0, 120),
        bytes=st.integers(0, 12_000),
        oldest_at=ms,
        nearest_deadline=st.integers(0, 5_000_000).map(lambda delta: Ms(NOW + delta)),
        flush_asked_at=st.none() | ms,
        requests_cap=st.none() | st.integers(1, 200),
        bytes_cap=st.none() | st.integers(1, 20_000),
    )
    return st.lists(one, max_size=5, unique_by=lambda group: group.id)


HISTORY = st.dictionaries(st.sampled_from(["a", "b"]), st.lists(st.floats(0, 9_000), max_size=8))


@given(groups(), HISTORY)
def test_an_order_is_within_every_limit(waiting: list[Group], history: dict[str, Sequence[float]]) -> None:
    order = plan(waiting, LIMITS, history, NOW).order
    if order is None:
        return
    assert order.group in waiting and order.group.requests > 0
    assert 1 <= order.requests_max <= min(LIMITS.requests_max, order.group.requests_cap or LIMITS.requests_max)
    assert 1 <= order.bytes_max <= min(LIMITS.bytes_max, order.group.bytes_cap or LIMITS.bytes_max)


@given(groups(), HISTORY)
def test_a_group_that_is_due_is_never_kept_waiting(waiting: list[Group], history: dict[str, Sequence[float]]) -> None:
    found = plan(waiting, LIMITS, history, NOW)
    alone = [one for one in waiting if plan([one], LIMITS, history, NOW).order is not None]
    assert (found.order is not None) == bool(alone)
    if found.order is not None:
        assert found.look_again_s == 0
        assert found.order.group.nearest_deadline == min(one.nearest_deadline for one in alone)


@given(groups(), HISTORY)
def test_looking_again_is_never_too_late(waiting: list[Group], history: dict[str, Sequence[float]]) -> None:
    """Nothing becomes due by time alone before the moment that was named, and then it is due, or the pause is full."""
    found = plan(waiting, LIMITS, history, NOW)
    if found.order is not None:
        return
    assert 0 < found.look_again_s <= PAUSE_MAX_S
    then = after(NOW, found.look_again_s)
    if found.look_again_s < PAUSE_MAX_S:
        assert plan(waiting, LIMITS, history, then).order is not None
    assert plan(waiting, LIMITS, history, Ms(then - 2)).order is None


@pytest.mark.parametrize(("wait_s", "expected"), [(1, 0), (3_600, 0), (3_601, 1), (86_400, 2), (86_401, 3)])
def test_the_class_of_a_deadline(wait_s: float, expected: int) -> None:
    assert deadline_class(wait_s, (3_600.0, 21_600.0, 86_400.0)) == expected


@given(st.lists(st.floats(0, 100_000), min_size=SAMPLES_MIN))
def test_nine_of_ten_batches_were_back_by_the_expected_time(samples: list[float]) -> None:
    expected = expected_turnaround_s(samples, 1.0)
    assert min(samples) - 1e-6 <= expected <= max(samples) + 1e-6
    assert sum(sample <= expected + 1e-6 for sample in samples) >= 0.9 * (len(samples) - 1)
