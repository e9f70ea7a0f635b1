"""Whatever the OpenAPI document allows, or forbids, is answered as it says: schemathesis against a real daemon."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.ingest.daemon import Daemon, running
from unhurried.ingest import Front, build_app
from unhurried.ingest.asgi import Message, Receive, Scope, Send


class Bridge:
    """Runs the application in the daemon's loop, whatever loop the tester has: a store belongs to one."""

    def __init__(self, app: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        done = asyncio.run_coroutine_threadsafe(self._answer(dict(scope), body), self._loop)
        for message in await asyncio.wrap_future(done):
            await send(message)

    async def _answer(self, scope: Scope, body: bytes) -> list[Message]:
        incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        outgoing: list[Message] = []

        async def receive() -> Message:
            if incoming:
                return incoming.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            outgoing.append(message)

        await self._app(scope, receive, send)
        return outgoing


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    folder: Path = tmp_path_factory.mktemp("contract")
    started: Future[tuple[Daemon, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        ended = asyncio.Event()
        async with running(folder, wait_max_s=0.01) as daemon:
            started.set_result((daemon, asyncio.get_running_loop(), ended))
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="daemon")
    thread.start()
    daemon, loop, ended = started.result(timeout=30)
    yield Bridge(build_app(daemon.deps), loop)
    loop.call_soon_threadsafe(ended.set)
    thread.join(timeout=30)
    assert not thread.is_alive()


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def test_every_answer_is_as_the_document_says(bridge: Bridge) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", bridge)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 30  # all but the document itself
    for operation in operations:
        if operation.path == "/queue/results/stream":
            continue  # it does not end
        _check(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        with suppress(Unsatisfiable):  # where there is nothing to get wrong
            _check(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


def _check(cases: st.SearchStrategy[Any]) -> None:
    @given(case=cases)
    @settings(max_examples=3, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()
