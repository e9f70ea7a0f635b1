"""A connection can be held at each named point, and a client that is killed there leaves what upstream would have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.simulator.process import Simulator, params, requests
from unhurried.simulator.holds import POINTS

Call = Callable[[AsyncAnthropic, str], Coroutine[Any, Any, Any]]


async def _create(claude: AsyncAnthropic, _: str) -> Any:
    return await claude.messages.batches.create(requests=requests(3, "held"))


async def _retrieve(claude: AsyncAnthropic, batch_id: str) -> Any:
    return await claude.messages.batches.retrieve(batch_id)


async def _list(claude: AsyncAnthropic, _: str) -> Any:
    return await claude.messages.batches.list()


async def _results(claude: AsyncAnthropic, batch_id: str) -> Any:
    results = [result async for result in await claude.messages.batches.results(batch_id)]
    assert len(results) == 3
    return results


async def _messages(claude: AsyncAnthropic, _: str) -> Any:
    return await claude.messages.create(**params())


CALLS: dict[str, Call] = {
    "create_before_body": _create,
    "create_mid_upload": _create,
    "create_not_recorded": _create,
    "create_received": _create,
    "retrieve": _retrieve,
    "list": _list,
    "results_start": _results,
    "results_mid": _results,
    "messages": _messages,
}


def test_every_point_is_tested() -> None:
    assert set(CALLS) == set(POINTS)


@pytest.mark.parametrize("point", CALLS)
async def test_a_held_call_goes_on_when_it_is_released(
    simulator: Simulator, claude: AsyncAnthropic, point: str
) -> None:
    batch = await claude.messages.batches.create(requests=requests(3))
    await simulator.advance(60)
    await simulator.hold(point)
    call = asyncio.create_task(CALLS[point](claude, batch.id))

    [held] = await simulator.held(point)
    assert held["path"].startswith("/v1/messages")
    assert not call.done()
    assert await simulator.release(point) == 1
    assert await call
    await CALLS[point](claude, batch.id)  # nobody is held any more


@pytest.mark.parametrize(
    ("point", "recorded"),
    [("create_before_body", False), ("create_not_recorded", False), ("create_received", True)],
)
async def test_a_client_that_is_killed_in_its_create_leaves_what_upstream_had_got(
    simulator: Simulator, claude: AsyncAnthropic, point: str, recorded: bool
) -> None:
    await simulator.hold(point)
    call = asyncio.create_task(_create(claude, ""))
    await simulator.held(point)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await simulator.until(f"/holds/{point}", lambda hold: not hold["held"])
    await simulator.release(point)
    assert len((await claude.messages.batches.list()).data) == recorded
    [entry] = (await simulator.ledger())["creates"]
    assert (entry["batch_id"] is not None) is recorded
    assert not entry["answered"]


async def test_an_upload_held_in_its_middle_leaves_nothing_when_the_client_is_killed(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    async def body() -> Any:
        yield b'{"requests":[{"custom_id":"a"'
        await asyncio.Event().wait()

    await simulator.hold("create_mid_upload", after_bytes=10)
    call = asyncio.create_task(claude.post("/v1/messages/batches", cast_to=object, content=body()))
    [held] = await simulator.held("create_mid_upload")
    assert held["body_bytes"] >= 10
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await simulator.release("create_mid_upload")

    ledger = await simulator.until("/ledger", lambda ledger: ledger["creates"][0]["body_sha256"])
    [entry] = ledger["creates"]
    assert not entry["complete"]
    assert (await claude.messages.batches.list()).data == []


async def test_a_hold_may_drop_whom_it_held(simulator: Simulator, claude: AsyncAnthropic) -> None:
    await simulator.hold("create_received", then="drop")
    call = asyncio.create_task(_create(claude, ""))
    await simulator.held("create_received")
    await simulator.release("create_received")

    with pytest.raises(anthropic.APIConnectionError):
        await call
    assert len((await claude.messages.batches.list()).data) == 1


async def test_a_hold_is_spent_after_as_many_as_it_was_told(simulator: Simulator, claude: AsyncAnthropic) -> None:
    await simulator.hold("list", times=1)
    call = asyncio.create_task(_list(claude, ""))
    await simulator.held("list")

    await _list(claude, "")
    shown = await simulator.call("GET", "/holds/list")
    assert (shown["armed"], shown["held_ever"], len(shown["held"])) == (False, 1, 1)
    await simulator.release("list")
    await call


async def test_results_are_held_after_so_many_lines(simulator: Simulator, claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(500))
    await simulator.advance(60)
    await simulator.hold("results_mid", after_lines=123)
    lines: list[str] = []

    async def read() -> None:
        async with claude.messages.batches.with_streaming_response.results(batch.id) as response:
            lines.extend([line async for line in response.iter_lines()])

    call = asyncio.create_task(read())
    [held] = await simulator.held("results_mid")
    assert held["lines"] == 123
    await simulator.release("results_mid")
    await call
    assert len(lines) == 500


async def test_nobody_held_is_an_empty_list_and_an_unknown_point_is_refused(simulator: Simulator) -> None:
    assert (await simulator.call("GET", "/holds/list?wait=0.01"))["held"] == []
    await simulator.hold("list")
    assert (await simulator.call("GET", "/holds/list?wait=0.01"))["held"] == []
    assert set(await simulator.call("GET", "/holds")) == set(POINTS)
    assert (await simulator.http.put("/simulator/holds/nowhere", json={})).status_code == 404
    assert (await simulator.http.put("/simulator/holds/list", json={"then": "explode"})).status_code == 400
