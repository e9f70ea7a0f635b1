"""What a create sends, and how a clear answer is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.upstream.bodies import BODY, Pages, create
from tests.upstream.conftest import Connected
from tests.upstream.server import DATE_MS, answering, batch, error
from unhurried.clock import Ms
from unhurried.domain.batch import UpstreamId
from unhurried.domain.submitting import Created, ErrorAnswer, NoAnswer


async def test_a_create_sends_the_body_byte_for_byte_with_its_exact_length(connected: Connected) -> None:
    async with connected(answering(200, batch())) as (upstream, server):
        answer = await create(upstream, pages := Pages(BODY))
    (call,) = server.calls
    assert (call.method, call.target, call.body) == ("POST", "/v1/messages/batches", b"".join(BODY))
    assert call.headers["content-length"] == str(pages.length)
    assert "transfer-encoding" not in call.headers
    assert call.headers["content-type"] == "application/json"
    assert answer == Created(upstream_id=UpstreamId("msgbatch_1"), created_at=Ms(DATE_MS + 123))
    assert pages.closed


async def test_a_body_of_many_megabytes_arrives_whole(connected: Connected) -> None:
    pages = Pages([bytes([n]) * 1_048_576 for n in range(20)])
    async with connected(answering(200, batch())) as (upstream, server):
        assert isinstance(await create(upstream, pages), Created)
    assert server.calls[0].body == b"".join(pages.pages)


async def test_the_version_and_betas_of_the_batch_replace_those_of_the_sdk(connected: Connected) -> None:
    async with connected(answering(200, batch())) as (upstream, server):
        await create(upstream, version="2023-06-01", beta="a-1,b-2")
        await create(upstream, version="2026-10-21")
    first, second = server.calls
    assert (first.headers["anthropic-version"], first.headers["anthropic-beta"]) == ("2023-06-01", "a-1,b-2")
    assert second.headers["anthropic-version"] == "2026-10-21"
    assert "anthropic-beta" not in second.headers
    assert first.headers["authorization"] == "Bearer key-for-tests"


async def test_every_create_has_a_connection_of_its_own(connected: Connected) -> None:
    """A kept connection may be closed by upstream in the moment in which we write to it."""
    async with connected(answering(200, batch())) as (upstream, server):
        await create(upstream)
        await create(upstream)
        assert server.connections == 2


async def test_every_answer_reports_workspace_and_date(
    connected: Connected, answers: list[tuple[str | None, int | None]]
) -> None:
    async with connected(answering(200, batch(), anthropic_workspace_id="wrkspc_1")) as (upstream, _):
        await create(upstream)
        await upstream.retrieve(UpstreamId("msgbatch_1"))
    async with connected(answering(529, date="")) as (upstream, _):
        await create(upstream)
    assert answers == [("wrkspc_1", DATE_MS), ("wrkspc_1", DATE_MS), (None, None)]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504, 529])
async def test_each_error_comes_back_as_it_was_after_one_post(connected: Connected, status: int) -> None:
    """The SDK would retry 408, 409, 429 and 5xx; each retry could be another paid batch."""
    said = error("some_error", "Something is wrong", error_code="a_code")
    async with connected(answering(status, said, retry_after="7", x_should_retry="true")) as (upstream, server):
        answer = await create(upstream, pages := Pages(BODY))
    assert answer == ErrorAnswer(
        status=status,
        error_type="some_error",
        error_code="a_code",
        message="Something is wrong",
        retry_after_s=7.0,
        body=answer.body,
    )
    assert json.loads(answer.body) == said["error"]
    assert len(server.posts) == 1
    assert pages.closed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_a_create_is_not_followed(connected: Connected, status: int) -> None:
    async with connected(answering(status, location="/elsewhere")) as (upstream, server):
        assert await create(upstream) == ErrorAnswer(status=status)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    "body",
    [b"<html><h1>413</h1></html>", b"", b"[]", b"{}", b'{"error":"text"}', b'{"error":null}', b"\xff\xfe", b"[" * 9999],
)
async def test_an_error_body_that_is_not_upstreams_leaves_the_texts_empty(connected: Connected, body: bytes) -> None:
    async with connected(answering(413, body)) as (upstream, _):
        assert await create(upstream) == ErrorAnswer(status=413)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b'{"id":""}', b'{"id":7}', b"<html>", b'{"type":"error"}', b'{"id":"msgbatch_1"']
)
async def test_a_yes_without_an_id_is_no_answer(connected: Connected, body: bytes) -> None:
    async with connected(answering(200, body)) as (upstream, server):
        answer = await create(upstream)
    assert isinstance(answer, NoAnswer)
    assert answer.sent
    assert len(server.posts) == 1


@pytest.mark.parametrize("said", [{}, {"created_at": None}, {"created_at": "yesterday"}])
async def test_a_yes_without_a_time_takes_the_time_of_the_answer(connected: Connected, said: dict[str, Any]) -> None:
    async with connected(answering(200, {"id": "msgbatch_1", **said})) as (upstream, _):
        assert await create(upstream) == Created(upstream_id=UpstreamId("msgbatch_1"), created_at=Ms(DATE_MS))
    async with connected(answering(200, {"id": "msgbatch_1", **said}, date="")) as (upstream, _):
        assert isinstance(await create(upstream), NoAnswer)


async def test_a_create_goes_through_a_unix_socket(connected: Connected, tmp_path: Path) -> None:
    async with connected(answering(200, batch()), unix=tmp_path / "up.sock") as (upstream, server):
        assert isinstance(await create(upstream), Created)
        assert await upstream.retrieve(UpstreamId("msgbatch_1")) is not None
        assert upstream.base_url == f"unix:{tmp_path}/up.sock"
    assert server.calls[0].body == b"".join(BODY)
