"""A queue in memory for the command line to talk to, and a way to run a command and see what it says."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from unhurried.cli import main

RESULT = b'{"type": "succeeded",  "message": {"id": "msg_1", "content": [{"type": "text", "text": "\\u00e9"}]}}'
"""With spaces and an escape: bytes that a careless encoder would change."""


@dataclass
class Kept:
    """One request of the fake."""

    id: str
    line: dict[str, Any]
    params: bytes
    result: bytes | None = None
    delivery: str = "pending"


@dataclass
class FakeQueue:
    """Answers as the daemon does, from a dict; requests are finished by ``answer`` or at once."""

    requests: dict[str, Kept] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    answer_at_once: bytes | None = RESULT
    broken: list[Callable[[], httpx2.Response]] = field(default_factory=list)
    """Each stands for one call that goes wrong; taken in order."""
    calls: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.calls.append(f"{request.method} {request.url.path}")
        if self.broken:
            return self.broken.pop(0)()
        route = self.routes().get(f"{request.method} {request.url.path}")
        if route is None:
            return _json({"title": "Not found", "status": 404, "code": "not_found"}, 404)
        return route(request)

    def routes(self) -> dict[str, Callable[[httpx2.Request], httpx2.Response]]:
        return {
            "POST /queue/requests": lambda request: self._bulk(request.content),
            "GET /queue/results": lambda request: self._pull(request.url.params),
            "POST /queue/results/ack": lambda request: self._ack(json.loads(request.content)["delivery_ids"]),
            "POST /queue/results/lookup": lambda request: self._lookup(json.loads(request.content)["ids"]),
            "POST /queue/flush": lambda _: _json({"groups": 1, "requests": len(self.requests), "held": []}),
            "POST /queue/account/resume": lambda _: _json({"resumed": True}),
            "GET /queue/status": lambda _: _json(self.status),
            "GET /healthz": lambda _: _json({"status": "ok"}),
        }

    def answer(self, result: bytes = RESULT) -> None:
        """Finish everything that is open."""
        for kept in self.requests.values():
            kept.result = kept.result or result

    def _bulk(self, body: bytes) -> httpx2.Response:
        answers: list[Any] = [self._accept(n, line) for n, line in enumerate(body.splitlines(), start=1)]
        answers.append({"summary": {"accepted": 0, "duplicates": 0, "refused": 0}})
        return httpx2.Response(
            200,
            headers={"content-type": "application/x-ndjson"},
            content=b"\n".join(msgspec.json.encode(answer) for answer in answers),
        )

    def _accept(self, number: int, line: bytes) -> dict[str, Any]:
        envelope = json.loads(line)
        if "model" not in envelope["params"]:
            return {
                "line": number,
                "error": {"title": "Refused", "detail": "params: no model", "code": "invalid_params"},
            }
        key = (envelope.get("queue", "default"), envelope["idempotency_key"])
        duplicate = key in self.keys
        id_ = self.keys.setdefault(key, f"req-{len(self.keys):05d}")
        if not duplicate:
            params = bytes(msgspec.json.decode(line, type=dict[str, msgspec.Raw])["params"])
            self.requests[id_] = Kept(id_, envelope, params, self.answer_at_once)
        return {"line": number, "id": id_, "state": "queued", "duplicate": duplicate}

    def _pull(self, query: httpx2.QueryParams) -> httpx2.Response:
        mine = [
            kept
            for kept in self.requests.values()
            if kept.result is not None
            and kept.delivery == "pending"
            and kept.line["deliver_to"] == query["destination"]
        ][: int(query["limit"])]
        for kept in mine:
            kept.delivery = "sending"
        return _json({"results": [_handed(kept) for kept in mine]})

    def _lookup(self, ids: Sequence[str]) -> httpx2.Response:
        found = [self.requests[id_] for id_ in ids if id_ in self.requests]
        return _json({"results": [_handed(kept) for kept in found if kept.result is not None]})

    def _ack(self, delivery_ids: Sequence[str]) -> httpx2.Response:
        for id_ in delivery_ids:
            self.requests[id_.partition(".")[0]].delivery = "delivered"
        return _json({"confirmed": list(delivery_ids), "already": [], "unknown": []})


def _handed(kept: Kept) -> dict[str, Any]:
    assert kept.result is not None
    return {
        "delivery_id": f"{kept.id}.1",
        "request_id": kept.id,
        "custom_id": kept.line.get("custom_id"),
        "queue": kept.line.get("queue", "default"),
        "state": json.loads(kept.result)["type"],
        "attempt": 1,
        "stored_at": "2026-11-22T08:00:00.000Z",
        "metadata": None,
        "result": msgspec.Raw(kept.result),
    }


def _json(value: Any, status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, content=msgspec.json.encode(value))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    """The daemon that every command of this test reaches."""
    fake = FakeQueue()
    monkeypatch.setattr(httpx2, "HTTPTransport", lambda uds: httpx2.MockTransport(fake.handle))
    monkeypatch.setenv("UNHURRIED_SOCKET", "/nowhere/queue.sock")
    return fake


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run one command in this process."""

    def run_(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        told = capfdbinary.readouterr()
        return Ran(code, told.out.decode(), told.err.decode())

    return run_


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Three requests in a file."""
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(request_line(name) for name in ("a", "b", "c")))
    return path


def request_line(custom_id: str, text: str = "hello") -> str:
    params = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": custom_id, "params": params}) + "\n"


def plain(text: str) -> str:
    """Without the line breaks of a help page."""
    return re.sub(r"\s+", " ", text)
