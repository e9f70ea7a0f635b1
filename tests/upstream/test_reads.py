"""Looking at upstream: the clock, single batches, listings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.upstream.conftest import Connected
from tests.upstream.server import DATE_MS, Call, answering, batch, error, one_by_one, page
from unhurried.clock import parse_rfc3339
from unhurried.domain.batch import UpstreamId
from unhurried.upstream import UpstreamTrouble

ID = UpstreamId("msgbatch_1")


def _created(minute: int) -> str:
    return f"2026-11-22T08:{minute:02d}:00Z"


async def test_the_date_of_upstream_is_read_from_its_header(connected: Connected) -> None:
    async with connected(answering(200, page([]))) as (upstream, server):
        assert await upstream.date() == DATE_MS
    assert [call.target for call in server.calls] == ["/v1/messages/batches?limit=1"]


@pytest.mark.parametrize("date", ["", "soon"])
async def test_an_answer_without_a_date_is_trouble_for_whoever_needs_it(connected: Connected, date: str) -> None:
    async with connected(answering(200, page([]), date=date)) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="without a Date"):
            await upstream.date()
        with pytest.raises(UpstreamTrouble, match="without a Date"):
            await upstream.list_since(None)


async def test_a_batch_is_read_field_by_field(connected: Connected) -> None:
    counts = {"processing": 0, "succeeded": 4, "errored": 3, "canceled": 2, "expired": 1}
    ended = {"ended_at": "2026-11-22T09:00:00Z", "results_url": "https://elsewhere/x"}
    said = batch(processing_status="ended", request_counts=counts, **ended, new_field={"of": "tomorrow"})
    async with connected(answering(200, said)) as (upstream, server):
        seen = await upstream.retrieve(UpstreamId("odd/id?x"))
    assert server.calls[0].target == "/v1/messages/batches/odd%2Fid%3Fx"
    assert seen is not None
    assert (seen.total, seen.ended, seen.canceling, seen.results_readable) == (10, True, False, True)
    assert (seen.created_at, seen.expires_at) == (DATE_MS + 123, DATE_MS + 86_400_123)
    assert (seen.ended_at, seen.archived) == (parse_rfc3339("2026-11-22T09:00:00Z"), False)


async def test_results_of_an_archived_batch_are_not_readable(connected: Connected) -> None:
    said = batch(processing_status="ended", results_url="/x", archived_at="2026-12-21T08:00:00Z")
    async with connected(answering(200, said)) as (upstream, _):
        seen = await upstream.retrieve(ID)
    assert seen is not None
    assert (seen.archived, seen.results_readable) == (True, False)


async def test_a_cancel_is_one_post_that_brings_the_batch(connected: Connected) -> None:
    async with connected(answering(200, batch(processing_status="canceling"))) as (upstream, server):
        seen = await upstream.cancel(ID)
    assert [(call.method, call.target) for call in server.calls] == [("POST", "/v1/messages/batches/msgbatch_1/cancel")]
    assert seen is not None
    assert seen.canceling


async def test_a_batch_that_upstream_does_not_know_is_none(connected: Connected) -> None:
    async with connected(answering(404, error("not_found_error"))) as (upstream, _):
        assert await upstream.retrieve(ID) is None
        assert await upstream.cancel(ID) is None


@pytest.mark.parametrize("status", [400, 401, 403, 408, 409, 429, 500, 503, 529])
async def test_other_answers_are_trouble_and_asked_for_once(connected: Connected, status: int) -> None:
    async with connected(answering(status, error("a_type", "Why"), retry_after="3", request_id="req_7")) as (
        upstream,
        server,
    ):
        calls: list[Callable[[], Awaitable[object]]] = [
            upstream.date,
            lambda: upstream.retrieve(ID),
            lambda: upstream.cancel(ID),
        ]
        for call in calls:
            with pytest.raises(UpstreamTrouble) as raised:
                await call()
            assert (raised.value.status, raised.value.retry_after_s, raised.value.reachable) == (status, 3.0, True)
            assert raised.value.detail.endswith(f": {status} a_type Why (req_7)")
    assert len(server.calls) == 3


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"id":"x"}', b'{"data":[{}],"has_more":false}'])
async def test_an_answer_that_cannot_be_read_is_trouble(connected: Connected, body: bytes) -> None:
    async with connected(answering(200, body)) as (upstream, _):
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: upstream.retrieve(ID),
            lambda: upstream.list_since(None),
        ]
        for call in calls:
            with pytest.raises(UpstreamTrouble, match="cannot be read") as raised:
                await call()
            assert raised.value.reachable


async def test_a_batch_with_a_time_that_is_none_is_trouble(connected: Connected) -> None:
    async with connected(answering(200, batch(created="yesterday"))) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="RFC 3339"):
            await upstream.retrieve(ID)


async def test_an_answer_that_does_not_come_is_trouble_of_a_server_that_was_reached(connected: Connected) -> None:
    never = asyncio.Event()

    async def handle(_: Call) -> None:
        await never.wait()

    async with connected(handle, read_timeout_s=0.2) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="ReadTimeout") as raised:
            await upstream.date()
        never.set()
    assert (raised.value.reachable, raised.value.status) == (True, None)


async def test_a_server_that_is_down_is_not_reachable(connected: Connected) -> None:
    async with connected(answering(200)) as (upstream, _):
        pass
    async with connected(answering(200), base_url="http://127.0.0.1:1") as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="Errno 111") as raised:
            await upstream.list_since(None)
    assert not raised.value.reachable


async def test_a_listing_is_followed_to_its_end(connected: Connected) -> None:
    newest, middle, oldest = (batch(f"b{n}", created=_created(n)) for n in (3, 2, 1))
    handler = one_by_one(
        answering(200, page([newest, middle], more=True)),
        answering(200, page([oldest]), date="Mon, 23 Nov 2026 08:00:00 GMT"),
    )
    async with connected(handler) as (upstream, server):
        listing = await upstream.list_since(None)
    assert [sighting.id for sighting in listing.sightings] == ["b3", "b2", "b1"]
    assert listing.date == DATE_MS  # of the first page: all that was created before it is in the listing
    assert [call.target for call in server.calls] == [
        "/v1/messages/batches?limit=1000",
        "/v1/messages/batches?limit=1000&after_id=b2",
    ]


async def test_a_listing_ends_only_with_a_page_that_is_older_as_a_whole(connected: Connected) -> None:
    pages = [page([batch(f"b{n}{m}", created=_created(n)) for m in range(2)], more=True) for n in (9, 8, 7, 6)]
    pages[1]["data"][1]["created_at"] = _created(3)  # one is older already, its neighbour is not
    async with connected(one_by_one(*(answering(200, one) for one in pages[:3]))) as (upstream, server):
        listing = await upstream.list_since(parse_rfc3339(_created(8)))
    assert len(server.calls) == 3
    assert [sighting.id for sighting in listing.sightings] == ["b90", "b91", "b80", "b70", "b71", "b81"]


async def test_a_batch_created_just_at_the_time_asked_for_is_not_old(connected: Connected) -> None:
    first, second = page([batch("b2", created=_created(5))], more=True), page([batch("b1", created=_created(5))])
    async with connected(one_by_one(answering(200, first), answering(200, second))) as (upstream, _):
        assert len((await upstream.list_since(parse_rfc3339(_created(5)))).sightings) == 2


async def test_pages_that_overlap_show_each_batch_once(connected: Connected) -> None:
    first, second = page([batch("b3"), batch("b2")], more=True), page([batch("b2"), batch("b1")])
    async with connected(one_by_one(answering(200, first), answering(200, second))) as (upstream, _):
        assert sorted(sighting.id for sighting in (await upstream.list_since(None)).sightings) == ["b1", "b2", "b3"]


@pytest.mark.parametrize("repeated", [page([batch("b1")], more=True), page([], more=True)])
async def test_a_listing_that_does_not_come_to_an_end_is_trouble(connected: Connected, repeated: Any) -> None:
    """Absence from a listing is proof, so an incomplete one must not look complete, nor may it go on for ever."""
    async with connected(answering(200, repeated)) as (upstream, server):
        with pytest.raises(UpstreamTrouble, match="anything new"):
            await upstream.list_since(None)
    assert len(server.calls) <= 2


async def test_a_listing_whose_second_page_fails_is_no_listing(connected: Connected) -> None:
    handler = one_by_one(answering(200, page([batch("b1")], more=True)), answering(529, error("overloaded_error")))
    async with connected(handler) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="529 overloaded_error"):
            await upstream.list_since(None)


@pytest.mark.parametrize("missing", ["has_more", "data"])
async def test_a_page_that_does_not_say_whether_there_is_more_is_trouble(connected: Connected, missing: str) -> None:
    said = page([batch()])
    del said[missing]
    async with connected(answering(200, said)) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="cannot be read"):
            await upstream.list_since(None)


async def test_a_page_that_is_cut_is_trouble(connected: Connected) -> None:
    async def handle(call: Call) -> None:
        call.write_head(200, content_length="100")
        call.writer.write(b'{"data":[],"has_more":false}')
        call.writer.close()

    async with connected(handle) as (upstream, _):
        with pytest.raises(UpstreamTrouble, match="RemoteProtocolError"):
            await upstream.list_since(None)
