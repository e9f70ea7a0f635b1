"""Cutting bytes into lines."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.upstream import lines
from unhurried.upstream.lines import LineCutter, LineTooLong


@given(pieces=st.lists(st.text("ab \n\r", max_size=9).map(str.encode)))
def test_lines_do_not_depend_on_how_the_bytes_arrive(pieces: list[bytes]) -> None:
    cutter = LineCutter()
    found = [line for piece in pieces for line in cutter.feed(piece)]
    rest = cutter.rest()
    expected = b"".join(pieces).split(b"\n")
    assert found == [line for line in expected[:-1] if line.strip()]
    assert rest == expected[-1]
    assert cutter.rest() == b""


def test_a_long_line_in_many_pieces_takes_time_in_proportion() -> None:
    """Joining the rest anew with each piece would copy 200 GB here."""
    cutter = LineCutter()
    started = time.process_time()
    for _ in range(400_000):
        cutter.feed(b"x" * 100)
    assert len(cutter.feed(b"\n")[0]) == 40_000_000
    assert time.process_time() - started < 5


def test_a_line_that_is_too_long_is_refused_before_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 10)
    cutter = LineCutter()
    assert cutter.feed(b"x" * 10 + b"\n") == [b"x" * 10]
    cutter.feed(b"x" * 6)
    with pytest.raises(LineTooLong):
        cutter.feed(b"x" * 5)
