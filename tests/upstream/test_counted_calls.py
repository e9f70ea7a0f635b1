"""Every call is told to whoever counts: which it was, how it was answered, how long it took."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from tests.upstream.bodies import BODY, Pages, create
from tests.upstream.server import Call, Handler, answering, batch, serving
from unhurried.domain.batch import UpstreamId
from unhurried.settings import UpstreamSettings
from unhurried.upstream import UpstreamTrouble, connect

ID = UpstreamId("msgbatch_1")


async def told(handler: Handler, ask: Any) -> list[tuple[str, int | None]]:
    """What is told of the calls that ``ask`` makes."""
    heard: list[tuple[str, int | None, float]] = []
    async with serving(handler) as server:
        settings = UpstreamSettings.model_validate({"base_url": server.url, "api_key": "k", "read_timeout_s": 5})
        upstream = await connect(settings, lambda *_: None, lambda *call: heard.append(call))
        try:
            with suppress(UpstreamTrouble):
                await ask(upstream)
        finally:
            await upstream.aclose()
    assert all(0 <= seconds < 10 for _, _, seconds in heard)
    return [(call, status) for call, status, _ in heard]


async def cut(call: Call) -> None:
    call.reset()


@pytest.mark.parametrize(
    ("ask", "call"),
    [
        (lambda upstream: create(upstream, Pages(BODY)), "create"),
        (lambda upstream: upstream.date(), "list"),
        (lambda upstream: upstream.retrieve(ID), "retrieve"),
        (lambda upstream: upstream.cancel(ID), "cancel"),
        (lambda upstream: upstream.first_line(ID), "results"),
    ],
    ids=["create", "list", "retrieve", "cancel", "results"],
)
async def test_each_call_has_a_name_whatever_its_ids(ask: Any, call: str) -> None:
    assert await told(answering(200, batch()), ask) == [(call, 200)]
    assert await told(answering(529, {}), ask) == [(call, 529)]


async def test_a_call_without_an_answer_is_told_too() -> None:
    assert await told(cut, lambda upstream: upstream.retrieve(ID)) == [("retrieve", None)]
