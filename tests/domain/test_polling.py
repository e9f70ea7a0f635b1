"""How long until it is worth asking again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.clock import Ms
from unhurried.domain.polling import NOT_FOUND_MIN, PollPolicy, is_gone, pause_s, retry_pause_s

POLICY = PollPolicy(interval_min_s=10.0, interval_max_s=60.0)


@pytest.mark.parametrize(
    ("ages", "expected"), [([], 60), ([0], 10), ([50], 10), ([300], 30), ([9_999], 60), ([9_999, 200], 20), ([-5], 10)]
)
def test_the_youngest_leads_the_pause(ages: list[float], expected: float) -> None:
    assert pause_s(ages, POLICY) == expected


@given(st.lists(st.floats(-10, 1e6)), st.integers(0, 10_000))
def test_a_pause_keeps_its_bounds(ages: list[float], failures: int) -> None:
    assert 10 <= pause_s(ages, POLICY) <= 60
    assert 10 <= retry_pause_s(failures, POLICY) <= 900
    assert retry_pause_s(failures + 1, POLICY) >= retry_pause_s(failures, POLICY)


@pytest.mark.parametrize(
    ("since", "times", "gone"),
    [
        (None, 99, False),
        (Ms(0), NOT_FOUND_MIN, True),
        (Ms(0), NOT_FOUND_MIN - 1, False),
        (Ms(1), NOT_FOUND_MIN, False),
    ],
)
def test_several_in_a_row_over_some_minutes_mean_gone(since: Ms | None, times: int, gone: bool) -> None:
    assert is_gone(since, times, 600.0, Ms(600_000)) == gone
