"""Every bad input has a clear problem with a code, and loses nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ingest.daemon import PARAMS, Daemon, envelope, running


@dataclass(frozen=True)
class Bad:
    name: str
    body: bytes
    status: int
    code: str
    of_field: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def _with(**changes: Any) -> bytes:
    return envelope(params={key: value for key, value in (PARAMS | changes).items() if value is not ...})


BAD = [
    Bad("no JSON", b"{", 400, "invalid_json"),
    Bad("empty", b"", 400, "invalid_json"),
    Bad("two objects", envelope() + envelope(), 400, "invalid_json"),
    Bad("NaN", envelope().replace(b"64", b"NaN"), 400, "invalid_json"),
    Bad("NaN deep inside", _with(x={"y": [1]}).replace(b"[1]", b"[NaN]"), 400, "invalid_json"),
    Bad("a number too large for a double", _with(x=1).replace(b'"x": 1', b'"x": 1e999'), 400, "invalid_json"),
    Bad("lone surrogate", _with(x=1).replace(b'"x": 1', b'"x": "\\ud800"'), 400, "invalid_json"),
    Bad("no UTF-8", _with(x=1).replace(b'"x": 1', b'"x": "\xff"'), 400, "invalid_json"),
    Bad("too deep", b'{"params":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json"),
    Bad("an array", b"[]", 422, "invalid_request"),
    Bad("no params", b"{}", 422, "invalid_request"),
    Bad("unknown field", envelope(colour="red"), 422, "invalid_request"),
    Bad("65 characters", envelope(custom_id="x" * 65), 422, "invalid_request", "custom_id"),
    Bad("empty custom_id", envelope(custom_id=""), 422, "invalid_request", "custom_id"),
    Bad("no model", _with(model=...), 422, "invalid_params", "params"),
    Bad("no max_tokens", _with(max_tokens=...), 422, "invalid_params", "params"),
    Bad("no messages", _with(messages=...), 422, "invalid_params", "params"),
    Bad("empty messages", _with(messages=[]), 422, "invalid_params", "params"),
    Bad("max_tokens 0", _with(max_tokens=0), 422, "invalid_params", "params.max_tokens"),
    Bad("stream", _with(stream=True), 422, "invalid_params", "params.stream"),
    Bad("speed", _with(speed="fast"), 422, "invalid_params", "params.speed"),
    Bad("temperature", _with(temperature=1), 422, "invalid_params", "params.temperature"),
    Bad("past deadline", envelope(deadline="2020-01-01T00:00:00Z"), 422, "invalid_request", "deadline"),
    Bad("deadline without a zone", envelope(deadline="2099-01-01T00:00:00"), 422, "invalid_request", "deadline"),
    Bad(
        "deadline and max_wait",
        envelope(deadline="2099-01-01T00:00:00Z", max_wait=1),
        422,
        "invalid_request",
        "max_wait",
    ),
    Bad("priority", envelope(priority=10), 422, "invalid_request"),
    Bad("bad queue", envelope(queue="a b"), 422, "invalid_request", "queue"),
    Bad("bad destination", envelope(deliver_to="ftp://x"), 422, "invalid_request", "deliver_to"),
    Bad("metadata is no object", envelope(metadata=[1]), 422, "invalid_request", "metadata"),
    Bad("metadata too large", envelope(metadata={"x": "y" * 17_000}), 422, "invalid_request", "metadata"),
    Bad("long key", envelope(), 422, "invalid_request", "idempotency_key", {"idempotency-key": "k" * 256}),
    Bad("tab in a key", envelope(), 422, "invalid_request", "idempotency_key", {"idempotency-key": "a\tb"}),
    Bad("empty key", envelope(), 422, "invalid_request", "idempotency_key", {"idempotency-key": ""}),
    Bad("no media type", envelope(), 415, "unsupported_media_type", headers={"content-type": ""}),
    Bad("wrong media type", envelope(), 415, "unsupported_media_type", headers={"content-type": "text/plain"}),
    Bad("compressed", envelope(), 415, "unsupported_media_type", headers={"content-encoding": "gzip"}),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
async def test_a_bad_request_is_refused_with_a_code(daemon: Daemon, client: httpx2.AsyncClient, bad: Bad) -> None:
    headers = {"content-type": "application/json; charset=utf-8"} | bad.headers
    answer = await client.post("/queue/requests", content=bad.body, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("field")) == (bad.status, bad.code, bad.of_field)
    assert problem["status"] == bad.status and problem["title"] and problem["detail"]
    assert await daemon.count() == 0
    good = await client.post("/queue/requests", content=envelope(), headers={"content-type": "application/json"})
    assert good.status_code == 201


async def test_a_parameter_that_is_not_known_is_refused(client: httpx2.AsyncClient) -> None:
    for method, path in (
        ("POST", "/queue/requests?queue=a"),
        ("GET", "/queue/requests?queu=a"),
        ("GET", "/queue/results?max=1"),
        ("GET", "/queue/status?x=1"),
        ("POST", "/queue/account/resume?x=1"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/queue/requests?limit=0", "limit"),
        ("/queue/requests?limit=x", "limit"),
        ("/queue/requests?state=done", "state"),
        ("/queue/requests?cursor=abc", "cursor"),
        ("/queue/results?limit=1001", "limit"),
        ("/queue/results?limit=1&limit=2", "limit"),
        ("/queue/results?wait=nan", "wait"),
        ("/queue/results?wait=-1", "wait"),
        ("/queue/results?wait=3601", "wait"),
        ("/queue/results?lease=0", "lease"),
        ("/queue/results?destination=webhook:x", "destination"),
        ("/queue/results?queue=a&destination=pull:a", "queue"),
        ("/queue/requests/01a202f3-595f-72d5-911c-a017d33fef52?wait=soon", "wait"),
        ("/queue/requests/01a202f3-595f-72d5-911c-a017d33fef52?ack=yes", "ack"),
        ("/queue/events?limit=-1", "limit"),
        ("/queue/batches?open=maybe", "open"),
    ],
)
async def test_a_bad_value_in_a_query_names_its_parameter(client: httpx2.AsyncClient, path: str, name: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_request", name)


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/queue/results/ack", b"{", 400, "invalid_json"),
        ("/queue/results/ack", b"{}", 422, "invalid_request"),
        ("/queue/results/ack", b'{"delivery_ids":[1]}', 422, "invalid_request"),
        ("/queue/results/ack", json.dumps({"delivery_ids": ["x"] * 10_001}).encode(), 422, "invalid_request"),
        ("/queue/results/ack", b'{"delivery_ids":["\xff"]}', 400, "invalid_json"),
        ("/queue/results/ack", b" " * 1_000_001, 413, "request_too_large"),
        ("/queue/results/lookup", b"{", 400, "invalid_json"),
        ("/queue/results/lookup", b"[]", 422, "invalid_request"),
        ("/queue/results/lookup", b'{"ids":[null]}', 422, "invalid_request"),
        ("/queue/results/lookup", json.dumps({"ids": ["x"] * 1_001}).encode(), 422, "invalid_request"),
        ("/queue/results/lookup", b'{"ids":["\xff"]}', 400, "invalid_json"),
        ("/queue/results/lookup", b" " * 1_000_001, 413, "request_too_large"),
        ("/queue/flush", b"", 422, "invalid_request"),
        ("/queue/flush", b'{"queu":"x"}', 422, "invalid_request"),
    ],
)
async def test_the_other_bodies_are_checked_too(
    client: httpx2.AsyncClient, path: str, content: bytes, status: int, code: str
) -> None:
    answer = await client.post(path, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["code"] == code
    wrong = await client.post(path, content=b"{}", headers={"content-type": "text/plain"})
    assert (wrong.status_code, wrong.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/queue/requests", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/queue/requests/01a202f3-595f-72d5-911c-a017d33fef52", "GET, HEAD, OPTIONS"),
        ("HEAD", "/queue/results", "GET, OPTIONS"),  # it would hand out leases
        ("GET", "/queue/results/ack", "OPTIONS, POST"),
        ("GET", "/queue/requests/x/cancel", "OPTIONS, POST"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    client: httpx2.AsyncClient, method: str, path: str, allow: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    options = await client.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allow, b"")


@pytest.mark.parametrize(
    "path", ["/", "/queue", "/queue/requests/", "/queue/requests/x", "/queue/requests/x/y", "/docs", "/%ff/../x"]
)
async def test_an_unknown_path_is_not_found(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_huge_body_is_refused_without_being_kept(tmp_path: Path) -> None:
    """300 MB, announced or not; the caller sees the answer and the daemon does not grow by as much as a tenth."""
    block = bytes(1_000_000)

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield block

    async with running(tmp_path, request_bytes_max=1_000_000) as daemon, daemon.client() as client:
        before = daemon.deps.health.memory()["rss_peak_bytes"]
        for headers in ({"content-length": "300000000"}, {}):
            headers |= {"content-type": "application/json"}
            answer = await client.post("/queue/requests", content=zeros(), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")
        assert daemon.deps.health.memory()["rss_peak_bytes"] - before < 30_000_000
        assert await daemon.count() == 0


async def test_who_waits_for_consent_is_refused_before_the_body(daemon: Daemon) -> None:
    """``Expect: 100-continue``, as curl sends it with large bodies."""
    async with daemon.connection() as (reader, writer):
        writer.write(
            b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
            b"content-length: 300000000\r\n\r\n"
        )
        async with asyncio.timeout(2):
            answer = await reader.read()  # to its end: the connection is closed at once
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer


async def test_too_many_large_bodies_at_once_are_told_to_come_back(tmp_path: Path) -> None:
    """The bytes of unfinished large bodies are bounded over all connections: eight of the largest size."""
    async with running(tmp_path, request_bytes_max=1_000_000) as daemon:
        part = b" " * 1_000_000
        head = b"POST /queue/requests HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 1050000\r\n\r\n"
        async with asyncio.TaskGroup() as tasks:
            ended = asyncio.Event()

            async def hold() -> bytes:
                async with daemon.connection() as (reader, writer):
                    writer.write(head + part)
                    answer = asyncio.create_task(reader.readuntil(b"\r\n"))
                    await asyncio.wait({answer, asyncio.create_task(ended.wait())}, return_when="FIRST_COMPLETED")
                    if not answer.done():
                        answer.cancel()
                        return b""
                    ended.set()
                    return answer.result()

            held = [tasks.create_task(hold()) for _ in range(10)]
        answers = {task.result() for task in held}
        assert any(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        async with daemon.client() as client:  # all was given back
            good = await client.post(
                "/queue/requests", content=envelope(), headers={"content-type": "application/json"}
            )
            assert good.status_code == 201


async def test_a_body_cut_short_is_no_request(daemon: Daemon) -> None:
    body = envelope()
    async with daemon.connection() as (_, writer):
        writer.write(
            b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (len(body) + 1)
        )
        writer.write(body)
        await writer.drain()
    async with daemon.client() as client:
        assert (await client.get("/queue/requests")).json()["requests"] == []
