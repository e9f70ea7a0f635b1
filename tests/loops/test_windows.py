"""Result lines are stored in the order of their requests, as far as a window reaches; a broken stream loses none."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from unhurried.clock import SystemClock
from unhurried.domain.polling import PollPolicy
from unhurried.loop import Bell
from unhurried.poller import Collector, collect
from unhurried.upstream import UpstreamTrouble


def _collector(chunk: int) -> Collector:
    nobody = cast(Any, None)
    policy = PollPolicy(interval_min_s=1.0, interval_max_s=1.0)
    return Collector(
        nobody, nobody, SystemClock(), policy=policy, chunk=chunk, not_found_grace_s=1.0,
        dispatcher=Bell(), flusher=Bell(), submission=Bell(),
    )  # fmt: skip


async def _pages(*pages: list[bytes], trouble: UpstreamTrouble | None = None) -> AsyncIterator[list[bytes]]:
    for page in pages:
        yield page
    if trouble is not None:
        raise trouble


async def test_lines_are_sorted_across_the_pages_they_came_in() -> None:
    pages = _pages([b"5", b"1"], [b"4"], [b"2", b"3"])
    assert [chunk async for chunk in _collector(2)._chunks(pages)] == [[b"1", b"2"], [b"3", b"4"], [b"5"]]


async def test_a_window_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "WINDOW_BYTES", 2)
    pages = _pages([b"5", b"4"], [b"3"], [b"2"], [b"1"])
    assert [chunk async for chunk in _collector(10)._chunks(pages)] == [[b"4", b"5"], [b"2", b"3"], [b"1"]]


async def test_a_slow_stream_does_not_keep_what_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "WINDOW_S", 0.0)
    pages = _pages([b"2"], [b"1"])
    assert [chunk async for chunk in _collector(10)._chunks(pages)] == [[b"2"], [b"1"]]


async def test_a_commit_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "CHUNK_BYTES_MAX", 4)
    pages = _pages([b"aaa", b"bbb", b"c"])
    assert [chunk async for chunk in _collector(10)._chunks(pages)] == [[b"aaa", b"bbb"], [b"c"]]


async def test_what_came_before_the_stream_broke_is_stored_first() -> None:
    trouble = UpstreamTrouble("cut", reachable=True)
    chunks = _collector(2)._chunks(_pages([b"3", b"1"], [b"2"], trouble=trouble))
    assert [await anext(chunks), await anext(chunks)] == [[b"1", b"2"], [b"3"]]
    with pytest.raises(UpstreamTrouble, match="cut"):
        await anext(chunks)
