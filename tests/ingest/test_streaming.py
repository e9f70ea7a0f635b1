"""Results as server-sent events: the window, the cursor, and what becomes of what nobody confirmed."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ingest.daemon import Daemon, envelope, eventually, running
from unhurried.ingest import streaming
from unhurried.store.errors import StoreFull

RESULT = b'{"type": "succeeded",\r "message":{"z":1} }'


@dataclass
class Listener:
    """A client that reads on and on."""

    answer: httpx2.Response
    events: list[dict[str, str]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    ended: bool = False

    async def listen(self) -> None:
        event: dict[str, str] = {}
        async for line in self.answer.aiter_lines():
            if not line:
                if "data" in event:
                    self.events.append(event)
                event = {}
            elif line.startswith(":"):
                self.comments.append(line[1:].strip())
            else:
                name, _, value = line.partition(": ")
                event[name] = f"{event[name]}\n{value}" if name in event else value
        self.ended = True

    @property
    def ids(self) -> list[str]:
        return [json.loads(event["data"])["delivery_id"] for event in self.events]

    async def until(self, reached: "Callable[[Listener], bool]", what: str = "no event came") -> None:
        await eventually(lambda: reached(self), what)


@asynccontextmanager
async def stream(client: httpx2.AsyncClient, query: str = "", **headers: str) -> AsyncIterator[Listener]:
    async with client.stream("GET", f"/queue/results/stream{query}", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        listener = Listener(answer)
        listening = asyncio.create_task(listener.listen())
        try:
            yield listener
        finally:
            listening.cancel()


async def results(daemon: Daemon, client: httpx2.AsyncClient, count: int = 1, **fields: Any) -> list[str]:
    """So many that wait; their delivery ids."""
    answers = [
        await client.post("/queue/requests", content=envelope(**fields), headers={"content-type": "application/json"})
        for _ in range(count)
    ]
    ids = [answer.json()["id"] for answer in answers]
    await daemon.finish(ids, RESULT)
    return [f"{id}.1" for id in ids]


async def ack(client: httpx2.AsyncClient, ids: list[str]) -> list[str]:
    confirmed: list[str] = (await client.post("/queue/results/ack", json={"delivery_ids": ids})).json()["confirmed"]
    return confirmed


async def state(daemon: Daemon, id: str) -> str:
    found = await daemon.store.delivery(id)
    assert found is not None
    return str(found.state)


def lines(daemon: Daemon) -> int:
    return sum(map(len, daemon.deps.waiters._lines.values()))


async def test_results_come_as_events_as_a_pull_shows_them(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    async with stream(client) as listener:
        assert listener.answer.headers["content-type"].startswith("text/event-stream")
        ids = await results(daemon, client, 3, custom_id="row", metadata={"a": 1})
        await listener.until(lambda got: len(got.events) == 3)
        assert sorted(listener.ids) == sorted(ids)
        assert {event["event"] for event in listener.events} == {"result"}
        numbers = [int(event["id"]) for event in listener.events]
        assert numbers == sorted(numbers)
        shown = json.loads(listener.events[0]["data"])
        assert (shown["custom_id"], shown["attempt"], shown["metadata"]) == ("row", 1, {"a": 1})
        assert shown["result"] == {"type": "succeeded", "message": {"z": 1}}
        assert shown.keys() == (await lookup(client, shown["request_id"])).keys()
        assert [await state(daemon, id) for id in ids] == ["sending"] * 3
        assert await ack(client, ids) == ids


async def lookup(client: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post("/queue/results/lookup", json={"ids": [id]})).json()["results"][0]
    return found


async def test_no_more_are_out_than_the_window_has_room_for_and_an_ack_makes_room_at_once(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, interval_s=3_600) as daemon, daemon.client() as client:
        await results(daemon, client, 5)
        async with stream(client, "?window=2") as listener:
            await listener.until(lambda got: len(got.events) == 2)
            assert len((await client.get("/queue/results")).json()["results"]) == 3  # they are free for others
            await eventually(lambda: lines(daemon) == 0, "a full window stands in line")
            more = await results(daemon, client, 2)
            assert len(listener.events) == 2
            await ack(client, listener.ids[:1])
            await listener.until(lambda got: len(got.events) == 3)
            await ack(client, listener.ids[1:3])
            await listener.until(lambda got: len(got.events) == 4)
            assert sorted(listener.ids[2:]) == sorted(more)


async def test_what_was_confirmed_by_other_means_makes_room_too(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hint that is lost costs a look-up."""
    monkeypatch.setattr(streaming, "LOOK_S", 0.02)
    await results(daemon, client, 2)
    async with stream(client, "?window=1") as listener:
        await listener.until(lambda got: len(got.events) == 1)
        await daemon.store.ack(listener.ids, "wait", daemon.clock.now())
        await listener.until(lambda got: len(got.events) == 2)


async def test_the_end_of_a_lease_makes_room_and_the_result_is_handed_out_again(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    [id] = await results(daemon, client)
    async with stream(client, "?window=1&lease=1") as listener:
        await listener.until(lambda got: len(got.events) == 1)
        daemon.clock.ahead_s = 2
        await daemon.store.return_lapsed(daemon.clock.now())  # as the dispatcher does
        daemon.deps.waiters.results_stored()
        await listener.until(lambda got: len(got.events) == 2)
        assert listener.ids == [id, id]
        assert json.loads(listener.events[1]["data"])["attempt"] == 2


async def test_a_dropped_connection_gives_back_what_nobody_confirmed(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    ids = await results(daemon, client, 3)
    async with stream(client, "?lease=3600") as listener:
        await listener.until(lambda got: len(got.events) == 3)
        await ack(client, ids[:1])
    pulled = (await client.get("/queue/results?wait=10")).json()["results"]
    assert sorted(one["delivery_id"] for one in pulled) == sorted(ids[1:])
    assert {one["attempt"] for one in pulled} == {2}


async def test_what_a_stream_lost_to_its_lease_is_not_taken_from_the_next_one(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    """A lease that is over is over: the result may be in another's hands by now."""
    [id] = await results(daemon, client)
    async with stream(client, "?lease=1") as listener:
        await listener.until(lambda got: len(got.events) == 1)
        daemon.clock.ahead_s = 2
        await daemon.store.return_lapsed(daemon.clock.now())
        [again] = await daemon.store.pull("pull:default", limit=1, bytes_max=1, lease_s=60, now=daemon.clock.now())
        assert again.delivery_id == id
    await eventually(lambda: not daemon.deps.waiters.windows._open, "the stream is still there")
    assert await state(daemon, id) == "sending"


@pytest.mark.parametrize("header", [True, False])
async def test_a_cursor_skips_what_came_before_it(daemon: Daemon, client: httpx2.AsyncClient, header: bool) -> None:
    await results(daemon, client, 3)
    async with stream(client, "?wait=0") as listener:
        await listener.until(lambda got: got.ended)
    assert len(listener.events) == 3
    seen = listener.events[1]["id"]
    headers = {"last-event-id": seen} if header else {}
    async with stream(client, "?after=1&wait=0" if header else f"?after={seen}&wait=0", **headers) as again:
        await again.until(lambda got: got.ended)
    assert again.ids == listener.ids[2:]
    async with stream(client, "?wait=0") as everything:  # skipping confirms nothing
        await everything.until(lambda got: got.ended)
    assert sorted(everything.ids) == sorted(listener.ids)


async def test_a_stream_ends_by_itself_when_nothing_came_for_so_long(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    async with stream(client, "?wait=0.05") as listener:
        await listener.until(lambda got: got.ended, "it goes on and on")
    assert listener.events == []


async def test_an_idle_stream_is_pinged_and_costs_no_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PING_S", 0.01)
    async with running(tmp_path, interval_s=3_600) as daemon, daemon.client() as client:
        asked: list[str] = []
        really = daemon.store.pull

        async def pull(destination: str, **how: Any) -> Any:
            asked.append(destination)
            return await really(destination, **how)

        monkeypatch.setattr(daemon.store, "pull", pull)
        async with stream(client) as one, stream(client) as other:
            for listener in (one, other):
                await listener.until(lambda got: len(got.comments) > 3, "no ping came")
            assert asked == ["pull:default"] * 2
            daemon.deps.waiters.results_stored()  # a hint is one look-up, whoever stands in line
            await eventually(lambda: len(asked) == 3, "nobody looked")
            await one.until(lambda got: len(got.comments) > 20)
            assert len(asked) == 3


async def test_streams_of_one_destination_share_what_comes(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    async with stream(client, "?window=3") as one, stream(client, "?window=3") as other:
        await eventually(lambda: lines(daemon) == 2, "not both are there")
        ids = await results(daemon, client, 6)
        await one.until(lambda got: len(got.events) == 3)
        await other.until(lambda got: len(got.events) == 3)
        assert sorted(one.ids + other.ids) == sorted(ids)


async def test_a_caller_that_does_not_read_is_not_read_for(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    """A page is fetched when the one before is with the kernel; and after a lease the caller is let go."""
    big = b'{"type":"succeeded","message":{"x":"%s"}}' % (b"y" * 200_000)
    answers = [
        await client.post("/queue/requests", content=envelope(), headers={"content-type": "application/json"})
        for _ in range(40)
    ]
    await daemon.finish([answer.json()["id"] for answer in answers], big)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(daemon.path))
        caller.sendall(b"GET /queue/results/stream?window=40&lease=1 HTTP/1.1\r\nhost: u\r\n\r\n")
        await eventually(lambda: bool(daemon.deps.waiters.windows._open), "no stream")
        await eventually(lambda: not daemon.deps.waiters.windows._open, "it is still waited for")
    pulled = (await client.get("/queue/results?limit=1000&wait=1")).json()["results"]
    assert len(pulled) >= 34  # of forty: the rest fills the buffers of the socket, and a page or two


async def test_the_end_of_the_server_ends_a_stream_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon, daemon.client() as client:
        ids = await results(daemon, client, 2)
        async with stream(client, "?window=1&lease=3600") as full, stream(client, "?destination=pull:none") as idle:
            await full.until(lambda got: len(got.events) == 1)
            daemon.draining.set()
            daemon.stop.set()
            await full.until(lambda got: got.ended, "the full one goes on")
            await idle.until(lambda got: got.ended, "the idle one goes on")
        assert {await state(daemon, id) for id in ids} == {"pending"}


async def test_a_full_disk_delays_a_stream_and_does_not_end_it(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await results(daemon, client)
    really = daemon.store.pull
    fails = [StoreFull("full"), StoreFull("full")]
    monkeypatch.setattr(StoreFull, "retry_after_s", 0.01)

    async def pull(destination: str, **how: Any) -> Any:
        if fails:
            raise fails.pop()
        return await really(destination, **how)

    monkeypatch.setattr(daemon.store, "pull", pull)
    async with stream(client) as listener:
        await listener.until(lambda got: len(got.events) == 1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?window=0", "window"),
        ("?window=1001", "window"),
        ("?lease=0.5", "lease"),
        ("?after=x", "after"),
        ("?destination=webhook:app", "destination"),
        ("?queue=a&destination=pull:a", "queue"),
        ("?colour=red", "colour"),
    ],
)
async def test_what_is_asked_wrongly_is_refused(client: httpx2.AsyncClient, query: str, field: str) -> None:
    answer = await client.get(f"/queue/results/stream{query}")
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_a_head_of_it_is_refused_and_hands_out_nothing(client: httpx2.AsyncClient) -> None:
    assert (await client.head("/queue/results/stream")).status_code == 405
    wrong = await client.get("/queue/results/stream", headers={"last-event-id": "abc"})
    assert wrong.status_code == 422


async def test_a_stream_that_skips_what_comes_leaves_it_to_those_behind_it(tmp_path: Path) -> None:
    """Only the first in line is woken: one that finds nothing behind its cursor must not be the end of it."""
    async with (
        running(tmp_path, interval_s=3_600) as daemon,
        daemon.client() as client,
        stream(client, "?after=999999999999"),
        stream(client, "?after=999999999998"),
    ):
        await eventually(lambda: lines(daemon) == 2, "not both are there")
        async with stream(client) as listener:
            await eventually(lambda: lines(daemon) == 3, "the third is not there")
            ids = await results(daemon, client, 2)
            await listener.until(lambda got: len(got.events) == 2)
            assert sorted(listener.ids) == sorted(ids)


async def test_a_stream_with_a_call_behind_it_gives_back_what_it_was_handed(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PING_S", 0.01)
    [id] = await results(daemon, client)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(daemon.path))
        caller.sendall(
            b"GET /queue/results/stream?lease=3600 HTTP/1.1\r\nhost: u\r\n\r\nGET /healthz HTTP/1.1\r\nhost: u\r\n\r\n"
        )
        await eventually(lambda: id in daemon.deps.waiters.windows._owners, "it was not handed out")
    [again] = (await client.get("/queue/results?wait=10")).json()["results"]
    assert (again["delivery_id"], again["attempt"]) == (id, 2)
