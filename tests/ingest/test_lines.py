"""Cutting a stream into lines: the cuts of the network leave no trace."""

from hypothesis import given
from hypothesis import strategies as st

from unhurried.ingest.lines import TOO_LONG, Line, Lines


def _cut(pieces: list[bytes], longest: int = 1_000) -> list[Line]:
    lines = Lines(longest)
    found = [line for piece in pieces for line in lines.feed(piece)]
    return found + lines.end()


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


DATA = st.lists(st.sampled_from([b"\n", b"\r", b"a", b"{}", b" ", b"\xff", b"x" * 12])).map(b"".join)
CUTS = st.lists(st.integers(min_value=0, max_value=1_000), max_size=20)


@given(DATA, CUTS)
def test_however_the_stream_is_cut_the_lines_are_the_same(data: bytes, cuts: list[int]) -> None:
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert _cut(_pieces(data, cuts)) == expected


@given(DATA, CUTS, st.integers(min_value=1, max_value=15))
def test_a_line_over_the_limit_is_passed_over_and_the_others_are_kept(
    data: bytes, cuts: list[int], longest: int
) -> None:
    expected = [line if isinstance(line, bytes) and len(line) <= longest else TOO_LONG for line in _cut([data])]
    assert _cut(_pieces(data, cuts), longest) == expected


@given(st.integers(min_value=1, max_value=50))
def test_a_line_that_never_ends_is_not_kept(pieces: int) -> None:
    lines = Lines(100)
    for _ in range(pieces):
        assert lines.feed(b"x" * 60) == []
        assert lines.held <= 100
    assert lines.feed(b"\nnext\n") == [TOO_LONG if pieces > 1 else b"x" * 60, b"next"]
