"""The room against the simulator: what both believe of Anthropic is the same."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import httpx2
import msgspec
import pytest

from tests.simulator.process import MODEL, Running, Simulator, start
from unhurried.clock import Ms, after
from unhurried.domain.batch import BODY_HEAD, BODY_TAIL, UpstreamId, body_bytes, body_page, custom_id
from unhurried.domain.collecting import nonce_of
from unhurried.domain.submitting import Answer, Created, ErrorAnswer, No, NoAnswer, Refused, Unknown, outcome_of
from unhurried.settings import UpstreamSettings
from unhurried.upstream import ResultsNotFound, Upstream, UpstreamTrouble, connect

NONCE = "abcdefgh1234"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """The simulator, a process of its own."""
    running = start("--port", "0")
    yield running
    running.stop()


@pytest.fixture
async def simulator(running: Running) -> AsyncIterator[Simulator]:
    """Its control face; whatever earlier tests did is forgotten."""
    async with httpx2.AsyncClient(base_url=running.url, timeout=20) as http:
        simulator = Simulator(running.url, http)
        await simulator.reset()
        yield simulator


@pytest.fixture
async def upstream(simulator: Simulator) -> AsyncIterator[Upstream]:
    """The room, told that its upstream is a simulator."""
    settings = UpstreamSettings.model_validate({"base_url": simulator.url, "simulator": True})
    upstream = await connect(settings, lambda *_: None)
    yield upstream
    await upstream.aclose()


def _id(n: int) -> str:
    return f"0192f1d0-0000-7000-8000-{n:012d}"


async def _create(upstream: Upstream, total: int = 3) -> Answer:
    """As the submission does it: pages from the domain, a length computed beforehand."""
    params = msgspec.json.encode({"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "Grüße"}]})

    async def pages() -> AsyncIterator[bytes]:
        yield BODY_HEAD
        for n in range(total):
            yield body_page(NONCE, [(_id(n), params)], first=n == 0)
        yield BODY_TAIL

    length = body_bytes(total, total * len(params))
    return await upstream.create(
        anthropic_version="2023-06-01", anthropic_beta="", content=pages(), content_length=length
    )


async def _created(upstream: Upstream, total: int = 3) -> Created:
    answer = await _create(upstream, total)
    assert isinstance(answer, Created)
    return answer


async def _lines(upstream: Upstream, id: UpstreamId) -> list[bytes]:
    async with contextlib.aclosing(upstream.result_lines(id)) as groups:
        return [line async for group in groups for line in group]


async def test_a_batch_goes_from_its_create_to_its_results(upstream: Upstream, simulator: Simulator) -> None:
    answer = await _created(upstream)
    seen = await upstream.retrieve(answer.upstream_id)
    assert seen is not None
    assert (seen.total, seen.created_at, seen.ended) == (3, answer.created_at, False)
    with pytest.raises(UpstreamTrouble):
        await upstream.first_line(answer.upstream_id)
    await simulator.advance(61)
    seen = await upstream.retrieve(answer.upstream_id)
    assert seen is not None
    assert seen.ended
    assert seen.results_readable
    assert seen.ended_at is not None
    lines = await _lines(upstream, answer.upstream_id)
    assert {msgspec.json.decode(line)["custom_id"] for line in lines} == {custom_id(NONCE, _id(n)) for n in range(3)}
    first = await upstream.first_line(answer.upstream_id)
    assert first is not None
    assert nonce_of(first) == NONCE


async def test_the_date_is_on_the_clock_that_dates_batches(upstream: Upstream, simulator: Simulator) -> None:
    await simulator.advance(7_200)
    date = await upstream.date()
    created_at = (await _created(upstream)).created_at
    assert after(date, -2) <= created_at <= after(date, 5)


async def test_a_listing_shows_what_was_created_since(upstream: Upstream, simulator: Simulator) -> None:
    old = await _created(upstream)
    await simulator.advance(3_600)
    new = await _created(upstream, 2)
    listing = await upstream.list_since(None)
    assert [sighting.id for sighting in listing.sightings] == [new.upstream_id, old.upstream_id]
    assert [sighting.total for sighting in listing.sightings] == [2, 3]
    assert new.upstream_id in {s.id for s in (await upstream.list_since(Ms(new.created_at))).sightings}


async def test_a_listing_of_more_than_a_page_is_complete(upstream: Upstream, simulator: Simulator) -> None:
    for _ in range(1_001):
        await simulator.call("POST", "/batches", total=1)
    assert len({sighting.id for sighting in (await upstream.list_since(None)).sightings}) == 1_001


async def test_a_canceled_batch_ends(upstream: Upstream, simulator: Simulator) -> None:
    answer = await _created(upstream)
    seen = await upstream.cancel(answer.upstream_id)
    assert seen is not None
    assert seen.canceling
    await simulator.advance(10)
    seen = await upstream.retrieve(answer.upstream_id)
    assert seen is not None
    assert (seen.ended, seen.canceling) == (True, False)


async def test_what_is_unknown_to_upstream_is_none(upstream: Upstream) -> None:
    unknown = UpstreamId("msgbatch_unknown")
    assert await upstream.retrieve(unknown) is None
    assert await upstream.cancel(unknown) is None
    with pytest.raises(ResultsNotFound):
        await upstream.first_line(unknown)


REFUSED = {
    "create_413_html": No.TOO_LARGE,
    "create_429": No.ACCOUNT,
    "create_spend_limit": No.ACCOUNT,
    "create_401": No.ACCOUNT,
    "create_402": No.ACCOUNT,
    "create_403": No.ACCOUNT,
    "create_404": No.ACCOUNT,
    "create_400_cut_body": No.CUT_SHORT,
    "create_400_names_request": No.CULPRIT,
    "create_400_unexplained": No.UNEXPLAINED,
}


@pytest.mark.parametrize("fault", REFUSED)
async def test_a_definite_no_is_understood(upstream: Upstream, simulator: Simulator, fault: str) -> None:
    await simulator.fault(fault)
    outcome = outcome_of(await _create(upstream))
    assert isinstance(outcome, Refused)
    assert outcome.kind is REFUSED[fault]
    assert (await upstream.list_since(None)).sightings == []


UNCLEAR = {
    "create_then_drop": (NoAnswer, 1),
    "create_then_500": (ErrorAnswer, 1),
    "create_lost": (NoAnswer, 0),
    "create_500": (ErrorAnswer, 0),
    "create_529": (ErrorAnswer, 0),
    "create_500_with_stranger": (ErrorAnswer, 1),
}


@pytest.mark.parametrize("fault", UNCLEAR)
async def test_what_may_have_happened_is_unknown_and_was_sent_once(
    upstream: Upstream, simulator: Simulator, fault: str
) -> None:
    kind, batches = UNCLEAR[fault]
    await simulator.fault(fault)
    answer = await _create(upstream)
    assert isinstance(answer, kind)
    assert isinstance(outcome_of(answer), Unknown)
    assert len((await upstream.list_since(None)).sightings) == batches  # the fault strikes once: a retry would show


async def test_a_413_during_the_upload_is_understood(upstream: Upstream, simulator: Simulator) -> None:
    await simulator.fault("create_413_html", after_bytes=1_000)
    assert await _create(upstream, 20_000) == ErrorAnswer(status=413)


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_results_cut_in_mid_line_are_never_whole(upstream: Upstream, simulator: Simulator, framing: str) -> None:
    id = (await _created(upstream)).upstream_id
    await simulator.advance(61)
    await simulator.fault("results_cut_mid_line", after_lines=1, framing=framing)
    if framing == "chunked":
        with pytest.raises(UpstreamTrouble):
            await _lines(upstream, id)
    else:
        whole, piece = await _lines(upstream, id)
        assert (nonce_of(whole), nonce_of(piece)) == (NONCE, None)
    assert len(await _lines(upstream, id)) == 3


async def test_blank_lines_of_the_simulator_are_dropped(upstream: Upstream, simulator: Simulator) -> None:
    id = (await _created(upstream)).upstream_id
    await simulator.advance(61)
    await simulator.fault("results_blank_lines")
    assert [nonce_of(line) for line in await _lines(upstream, id)] == [NONCE] * 3
