"""Moments and their texts."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.clock import Ms, SystemClock, after, parse_rfc3339, rfc3339, seconds_between


@given(st.integers(0, 4_000_000_000_000))
def test_a_moment_survives_its_text(moment: int) -> None:
    assert parse_rfc3339(rfc3339(Ms(moment))) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("2026-11-22T08:00:00.123Z", 1_795_334_400_123),
        ("2026-11-22t08:00:00z", 1_795_334_400_000),
    ],
)
def test_a_text_names_a_moment(text: str, moment: int) -> None:
    assert parse_rfc3339(text.upper()) == moment


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-11-22T08:00:00", "2026-13-01T00:00:00Z", "1795334400"])
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_rfc3339(text)


def test_seconds_are_rounded_to_milliseconds() -> None:
    assert after(Ms(1), 0.0006) == 2
    assert after(Ms(5_000), -1) == 4_000
    assert seconds_between(Ms(1_000), Ms(2_500)) == 1.5


async def test_a_wait_ends_when_it_is_woken_or_over() -> None:
    clock, wake = SystemClock(), asyncio.Event()
    await asyncio.wait_for(clock.wait(wake, 0), 5)
    await asyncio.wait_for(clock.wait(wake, 0.001), 5)
    wake.set()
    await asyncio.wait_for(clock.wait(wake, 3_600), 5)
