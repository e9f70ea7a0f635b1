"""Histograms: each value is in one place, and their sizes say how many there were."""

from hypothesis import given
from hypothesis import strategies as st

from unhurried.counting import Histogram

BOUNDS = (0.1, 1.0, 10.0)


def test_a_value_on_a_bound_is_under_it() -> None:
    spread = Histogram(BOUNDS)
    for value in (0.1, 0.2, 1.0, 11.0):
        spread.add(value)
    assert spread.counts == [1, 2, 0, 1]
    assert spread.total == 12.3


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=50))
def test_every_value_is_counted_once(values: list[float]) -> None:
    spread = Histogram(BOUNDS)
    for value in values:
        spread.add(value)
    assert sum(spread.counts) == len(values)
    for place, bound in enumerate(BOUNDS):
        assert sum(spread.counts[: place + 1]) == sum(value <= bound for value in values)
