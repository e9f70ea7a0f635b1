"""One request in: stored first, answered second, byte for byte."""

import json
import os
from pathlib import Path
from uuid import UUID

import httpx2
import pytest

from tests.ingest.daemon import PARAMS, Daemon, envelope, running

JSON = {"content-type": "application/json"}


async def _post(client: httpx2.AsyncClient, body: bytes, **headers: str) -> httpx2.Response:
    return await client.post("/queue/requests", content=body, headers=JSON | headers)


async def test_an_accepted_request_is_on_disk_when_it_is_answered(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    answer = await _post(client, envelope(custom_id="row-1", queue="reports", priority=3))
    assert answer.status_code == 201
    id = answer.json()["id"]
    assert answer.json() == {"id": id, "state": "queued", "duplicate": False}
    assert answer.headers["location"] == f"/queue/requests/{id}"
    assert UUID(id).version == 7 and str(UUID(id)) == id
    shown = (await client.get(answer.headers["location"])).json()
    assert (shown["custom_id"], shown["queue"], shown["priority"]) == ("row-1", "reports", 3)
    assert shown["deliver_to"] == "pull:reports"
    assert await daemon.count() == 1


@pytest.mark.parametrize(
    "params",
    [
        b'{ "model":"m",\t"max_tokens": 1,\r\n "messages":[{}]  }',
        b'{"messages":[{"content":"\xf0\x9f\x8d\x8f \xc3\xa9 \\u00e9 \\/"}],"max_tokens":1,"model":"m"}',
        b'{"model":"m","max_tokens":1,"messages":[1.0,1e2,100000000000000000000000],"new_field":{"b":1,"a":2}}',
    ],
)
async def test_params_are_kept_byte_for_byte(daemon: Daemon, client: httpx2.AsyncClient, params: bytes) -> None:
    answer = await _post(client, b'{"params": ' + params + b' , "metadata": {"a" :  1} }')
    assert answer.status_code == 201, answer.text
    assert await daemon.params(answer.json()["id"]) == params
    shown = await client.get(answer.headers["location"])
    assert b'"metadata":{"a" :  1}' in shown.content


async def test_the_uid_of_the_peer_is_stored(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = (await _post(client, envelope())).json()["id"]
    assert await daemon.peer_uid(id) == os.getuid()


async def test_an_accept_wakes_the_flusher_and_a_repeat_does_not(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    bell = daemon.deps.bells.flusher.event
    assert not bell.is_set()
    await _post(client, envelope(idempotency_key="k"))
    assert bell.is_set()
    bell.clear()
    await _post(client, envelope(idempotency_key="k"))
    assert not bell.is_set()


async def test_the_same_key_and_body_again_is_the_same_request(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    first = await _post(client, envelope(idempotency_key="order-1"))
    again = await _post(client, envelope(idempotency_key="order-1"))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {"id": first.json()["id"], "state": "queued", "duplicate": True}
    assert await daemon.count() == 1


async def test_the_same_key_with_another_body_is_a_conflict_that_names_the_first(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    first = await _post(client, envelope(idempotency_key="order-1"))
    other = await _post(client, envelope(idempotency_key="order-1", params=PARAMS | {"max_tokens": 65}))
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"
    assert (other.json()["code"], other.json()["id"]) == ("idempotency_conflict", first.json()["id"])
    assert await daemon.count() == 1


async def test_the_idempotency_key_header_stands_in_for_the_field(client: httpx2.AsyncClient) -> None:
    first = await _post(client, envelope(), **{"idempotency-key": "k"})
    again = await _post(client, envelope(idempotency_key="k"))
    both = await _post(client, envelope(idempotency_key="k"), **{"idempotency-key": "k"})
    assert first.json()["id"] == again.json()["id"] == both.json()["id"]
    other = await _post(client, envelope(idempotency_key="k"), **{"idempotency-key": "another"})
    assert (other.status_code, other.json()["field"]) == (422, "idempotency_key")


async def test_a_full_queue_refuses_and_says_when_to_come_back(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    daemon.open_requests.append(daemon.deps.settings.queue_requests_max)
    answer = await _post(client, envelope())
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    daemon.open_requests.clear()
    assert (await _post(client, envelope())).status_code == 201
    assert await daemon.count() == 1


async def test_a_daemon_that_drains_refuses_new_work_and_still_answers_questions(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    id = (await _post(client, envelope())).json()["id"]
    daemon.draining.set()
    for kind in ("application/json", "application/x-ndjson"):
        refused = await client.post("/queue/requests", content=envelope(), headers={"content-type": kind})
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
    assert (await client.get(f"/queue/requests/{id}")).json()["id"] == id
    assert (await client.get("/readyz")).json() == {"ready": False, "reason": "draining"}
    assert await daemon.count() == 1


async def test_a_large_request_is_accepted_whole(tmp_path: Path) -> None:
    """Also in pieces, as clients send what they do not hold in memory."""
    params = json.dumps(PARAMS | {"messages": [{"role": "user", "content": "é" * 2_000_000}]}, ensure_ascii=False)
    body = b'{"params":' + params.encode() + b"}"

    async def pieces() -> object:
        for first in range(0, len(body), 50_000):
            yield body[first : first + 50_000]

    async with running(tmp_path) as daemon, daemon.client() as client:
        whole = await _post(client, body)
        piecewise = await client.post("/queue/requests", content=pieces(), headers=JSON)  # type: ignore[arg-type]
        for answer in (whole, piecewise):
            assert answer.status_code == 201, answer.text
            assert await daemon.params(answer.json()["id"]) == params.encode()


async def test_requests_on_one_connection_are_answered_in_order(daemon: Daemon) -> None:
    """Pipelining: nobody does it on purpose, proxies do."""
    async with daemon.connection() as (reader, writer):
        for number in range(5):
            body = envelope(custom_id=f"n-{number}")
            writer.write(
                b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )
        ids = []
        for _ in range(5):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201 ")
            ids.append(json.loads(await reader.readuntil(b"}"))["id"])
    views = [await daemon.store.request(id) for id in ids]
    assert [view.custom_id for view in views if view] == [f"n-{number}" for number in range(5)]
