"""Callers that wait, pull and confirm."""

import asyncio
import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ingest.daemon import Daemon, envelope, eventually, running
from unhurried.ingest import Waiters
from unhurried.store.errors import StoreBusy

RESULT = b'{"type": "succeeded", "message":{"z":1,"a":"\xc3\xa9 \\u00e9" } }'


async def _accepted(client: httpx2.AsyncClient, **fields: Any) -> str:
    answer = await client.post(
        "/queue/requests", content=envelope(**fields), headers={"content-type": "application/json"}
    )
    id: str = answer.json()["id"]
    return id


def _waiting(daemon: Daemon) -> int:
    return sum(map(len, daemon.deps.waiters._requests.values()))


def _in_line(daemon: Daemon) -> int:
    return sum(map(len, daemon.deps.waiters._lines.values()))


async def _delivery(client: httpx2.AsyncClient, id: str) -> str | None:
    state: str | None = (await client.get(f"/queue/requests/{id}")).json()["delivery"]
    return state


async def test_a_finished_request_is_shown_with_its_result_byte_for_byte(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    id = await _accepted(client)
    assert "result" not in (await client.get(f"/queue/requests/{id}")).json()
    await daemon.finish([id], RESULT)
    shown = await client.get(f"/queue/requests/{id}")
    assert (shown.json()["state"], shown.json()["delivery"]) == ("succeeded", "pending")
    assert b'"result":' + RESULT + b"}" in shown.content


async def test_a_head_has_the_length_of_the_answer_and_no_body(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    await daemon.finish([id])
    head = await client.head(f"/queue/requests/{id}?wait=60&ack=true")
    whole = await client.get(f"/queue/requests/{id}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert whole.json()["delivery"] == "pending"


async def test_a_caller_that_waits_is_answered_when_the_result_is_there(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    id = await _accepted(client)
    waiting = asyncio.create_task(client.get(f"/queue/requests/{id}?wait=60"))
    await eventually(lambda: _waiting(daemon) == 1, "nobody waits")
    await daemon.finish([id], RESULT, tell=False)
    daemon.deps.waiters.results_stored([id])
    answer = await waiting
    assert answer.json()["state"] == "succeeded" and RESULT in answer.content
    assert _waiting(daemon) == 0


async def test_a_caller_that_waits_long_enough_is_answered_all_the_same(client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    answer = await client.get(f"/queue/requests/{id}?wait=0.02")
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")


async def test_a_lost_hint_delays_an_answer_and_does_not_lose_it(tmp_path: Path) -> None:
    async with running(tmp_path, interval_s=0.02) as daemon, daemon.client() as client:
        id = await _accepted(client)
        waiting = asyncio.create_task(client.get(f"/queue/requests/{id}?wait=60"))
        pulling = asyncio.create_task(client.get("/queue/results?wait=60"))
        await eventually(lambda: _waiting(daemon) == 1 and _in_line(daemon) == 1, "nobody waits")
        await daemon.finish([id], tell=False)
        assert (await waiting).json()["state"] == "succeeded"
        assert len((await pulling).json()["results"]) == 1


async def test_many_that_wait_for_the_same_request_are_all_answered(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    waiting = [asyncio.create_task(client.get(f"/queue/requests/{id}?wait=60")) for _ in range(20)]
    await eventually(lambda: _waiting(daemon) == 20, "not all wait")
    await daemon.finish([id])
    assert {(await task).json()["state"] for task in waiting} == {"succeeded"}


async def test_a_hint_about_others_costs_those_that_wait_nothing(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    waiting = asyncio.create_task(client.get(f"/queue/requests/{id}?wait=60"))
    await eventually(lambda: _waiting(daemon) == 1, "nobody waits")
    await eventually(lambda: not daemon.deps.waiters.bell.event.is_set(), "the first look at all is not over")
    daemon.deps.waiters.results_stored(["another"], ["pull:another"])
    assert not daemon.deps.waiters.bell.event.is_set()
    await daemon.finish([id])
    await waiting


async def test_a_caller_that_hangs_up_is_let_go(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    for path in (f"/queue/requests/{id}?wait=60&ack=true", "/queue/results?wait=60"):
        async with daemon.connection() as (_, writer):
            writer.write(b"GET %s HTTP/1.1\r\nhost: u\r\n\r\n" % path.encode())
            await eventually(lambda: _waiting(daemon) + _in_line(daemon) == 1, "nobody waits")
        await eventually(lambda: _waiting(daemon) + _in_line(daemon) == 0, "a caller that left is still waited for")
    await daemon.finish([id])
    assert await _delivery(client, id) == "pending"
    assert len((await client.get("/queue/results")).json()["results"]) == 1


async def test_waiting_with_ack_confirms_what_was_handed_over(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    waiting = asyncio.create_task(client.get(f"/queue/requests/{id}?wait=60&ack=true"))
    await eventually(lambda: _waiting(daemon) == 1, "nobody waits")
    await daemon.finish([id])
    assert (await waiting).json()["delivery"] == "pending"  # as it was when the answer was written
    assert await _delivery(client, id) == "delivered"
    assert (await client.get("/queue/results")).json() == {"results": []}


async def test_without_ack_nothing_is_confirmed(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    assert (await client.get(f"/queue/requests/{id}?ack=true")).json()["state"] == "queued"
    await daemon.finish([id])
    await client.get(f"/queue/requests/{id}?wait=1")
    assert await _delivery(client, id) == "pending"


async def test_an_ack_that_cannot_be_stored_costs_only_a_second_delivery(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was written by then; the result is handed out again."""
    id = await _accepted(client)
    await daemon.finish([id])

    async def busy(*_: object) -> None:
        raise StoreBusy("too much waits")

    with monkeypatch.context() as patched:
        patched.setattr(daemon.store, "ack", busy)
        answer = await client.get(f"/queue/requests/{id}?ack=true")
        assert answer.json()["state"] == "succeeded"
    assert await _delivery(client, id) == "pending"


async def test_pulled_results_are_leased_and_confirmed_by_an_ack(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    ids = [await _accepted(client, queue="reports", custom_id=f"n-{n}", metadata={"n": n}) for n in range(3)]
    await daemon.finish(ids, RESULT)
    pulled = await client.get("/queue/results?queue=reports&limit=2&lease=60")
    first, second = pulled.json()["results"]
    assert RESULT in pulled.content
    assert first.keys() == {
        "delivery_id", "request_id", "custom_id", "queue", "state", "attempt", "stored_at", "metadata", "result",
    }  # fmt: skip
    assert (first["delivery_id"], first["queue"], first["attempt"]) == (f"{first['request_id']}.1", "reports", 1)
    [third] = (await client.get("/queue/results?destination=pull:reports")).json()["results"]
    assert {first["custom_id"], second["custom_id"], third["custom_id"]} == {"n-0", "n-1", "n-2"}
    assert (await client.get("/queue/results?queue=reports")).json() == {"results": []}
    given = [first["delivery_id"], "nonsense"]
    acked = await client.post("/queue/results/ack", json={"delivery_ids": given})
    assert acked.json() == {"confirmed": [given[0]], "already": [], "unknown": ["nonsense"]}
    again = await client.post("/queue/results/ack", json={"delivery_ids": given[:1]})
    assert again.json() == {"confirmed": [], "already": given[:1], "unknown": []}
    assert await _delivery(client, first["request_id"]) == "delivered"
    assert await _delivery(client, second["request_id"]) == "sending"


async def test_results_can_come_one_a_line(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    ids = [await _accepted(client) for _ in range(2)]
    await daemon.finish(ids)
    answer = await client.get("/queue/results", headers={"accept": "application/x-ndjson"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert {json.loads(line)["request_id"] for line in answer.content.splitlines()} == set(ids)


async def test_a_lease_that_lapsed_is_handed_out_again(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    await daemon.finish([id])
    [first] = (await client.get("/queue/results?lease=1")).json()["results"]
    assert daemon.deps.bells.dispatcher.event.is_set()  # it gives lapsed leases back, and must know when to look
    pulling = asyncio.create_task(client.get("/queue/results?wait=60"))
    await eventually(lambda: _in_line(daemon) == 1, "nobody pulls")
    daemon.clock.ahead_s = 2.0
    assert (await daemon.store.return_lapsed(daemon.clock.now()))[0] == 1
    daemon.deps.waiters.results_stored(None, ["pull:default"])
    [again] = (await pulling).json()["results"]
    assert (again["delivery_id"], again["attempt"]) == (first["delivery_id"], 2)


async def test_pullers_in_line_share_what_comes(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    """Only the first in line is woken; having got something it wakes the next, and nobody is forgotten."""
    pulling = [asyncio.create_task(client.get("/queue/results?wait=60&limit=1")) for _ in range(5)]
    await eventually(lambda: _in_line(daemon) == 5, "not all pull")
    ids = [await _accepted(client) for _ in range(5)]
    await daemon.finish(ids, tell=False)
    daemon.deps.waiters.results_stored([], ["pull:default"])
    async with asyncio.timeout(3):  # less than the interval at which everyone looks anyway
        got = [(await task).json()["results"] for task in pulling]
    assert sorted(result["request_id"] for [result] in got) == sorted(ids)


async def test_long_polls_end_at_once_when_the_server_ends(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    polls = [
        asyncio.create_task(client.get(path)) for path in (f"/queue/requests/{id}?wait=60", "/queue/results?wait=60")
    ]
    await eventually(lambda: _waiting(daemon) == 1 and _in_line(daemon) == 1, "nobody waits")
    daemon.stop.set()
    async with asyncio.timeout(2):
        shown, pulled = await asyncio.gather(*polls)
    assert (shown.status_code, shown.json()["state"]) == (200, "queued")
    assert (pulled.status_code, pulled.json()) == (200, {"results": []})


async def test_one_look_up_serves_all_that_wait(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    """A thousand waiters must not cost a thousand queries."""
    ids = [await _accepted(client) for _ in range(30)]
    calls: list[int] = []
    results_of = daemon.store.results_of

    async def counted(request_ids: Any, bytes_max: int) -> Any:
        calls.append(len(request_ids))
        return await results_of(request_ids, bytes_max)

    daemon.store.results_of = counted  # type: ignore[method-assign]
    waiters = Waiters(daemon.store, daemon.clock)
    with ExitStack() as stack:
        futures = [stack.enter_context(waiters.request(id)) for id in ids]
        await daemon.finish(ids[:20], tell=False)
        waiters.results_stored(ids[:20])
        await waiters.step(daemon.clock.now())
        assert [future.done() for future in futures] == [True] * 20 + [False] * 10
    assert len(calls) == 2  # what follows the last one found is looked at once more


def _watched() -> bool:
    """Whether any call is under way that watches for its caller's end."""
    return any(task.get_name() == "ingest.hung_up" for task in asyncio.all_tasks())


async def test_a_result_is_not_confirmed_to_a_caller_that_died_with_another_call_in_line(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    id = await _accepted(client)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(daemon.path))
        caller.sendall(
            b"GET /queue/requests/%s?wait=60&ack=true HTTP/1.1\r\nhost: u\r\n\r\n" % id.encode()
            + b"GET /healthz HTTP/1.1\r\nhost: u\r\n\r\n"
        )
        await eventually(lambda: _waiting(daemon) == 1, "nobody waits")
    await daemon.finish([id])
    await eventually(lambda: not _watched(), "the call goes on")
    assert await _delivery(client, id) == "pending"


@pytest.mark.parametrize("behind", [b"", b"GET /healthz HTTP/1.1\r\nhost: u\r\n\r\n"])
async def test_what_was_pulled_by_a_caller_that_died_can_be_had_at_once(
    daemon: Daemon, client: httpx2.AsyncClient, behind: bytes
) -> None:
    id = await _accepted(client)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(daemon.path))
        caller.sendall(b"GET /queue/results?wait=60&lease=3600 HTTP/1.1\r\nhost: u\r\n\r\n" + behind)
        await eventually(lambda: _in_line(daemon) == 1, "nobody pulls")
        pulling, really = asyncio.Event(), daemon.store.pull

        async def pull(*what: Any, **how: Any) -> Any:
            handed = await really(*what, **how)
            pulling.set()
            if handed:
                caller.close()
            return handed

        daemon.store.pull = pull  # type: ignore[method-assign]
        await daemon.finish([id])
        await pulling.wait()
        await eventually(lambda: not _watched(), "the call goes on")
    daemon.store.pull = really  # type: ignore[method-assign]
    [again] = (await client.get("/queue/results?wait=10")).json()["results"]
    assert (again["request_id"], again["attempt"]) == (id, 2)


async def test_what_was_pulled_by_a_caller_that_died_while_it_read_can_be_had_at_once(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    id = await _accepted(client)
    await daemon.finish([id], b'{"type":"succeeded","message":{"x":"%s"}}' % (b"y" * 3_000_000))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        caller.connect(str(daemon.path))
        caller.sendall(b"GET /queue/results?lease=3600 HTTP/1.1\r\nhost: u\r\n\r\n")
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().sock_recv(caller, 1_000)
    [again] = (await client.get("/queue/results?wait=10")).json()["results"]
    assert (again["request_id"], again["attempt"]) == (id, 2)


async def test_what_is_given_back_late_is_not_taken_from_the_next_one(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    """The caller that died had a lease, and it was over by then."""
    id = await _accepted(client)
    await daemon.finish([id], b'{"type":"succeeded","message":{"x":"%s"}}' % (b"y" * 3_000_000))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        caller.connect(str(daemon.path))
        caller.sendall(b"GET /queue/results?lease=1 HTTP/1.1\r\nhost: u\r\n\r\n")
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().sock_recv(caller, 1_000)
        daemon.clock.ahead_s = 2.0
        assert (await daemon.store.return_lapsed(daemon.clock.now()))[0] == 1
        assert len((await client.get("/queue/results?lease=3600")).json()["results"]) == 1
    await eventually(lambda: not _watched(), "the call goes on")
    assert await _delivery(client, id) == "sending"
