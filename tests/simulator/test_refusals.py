"""What upstream would refuse is refused, in its words and statuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic import (
    AsyncAnthropic,
    AuthenticationError,
    BadRequestError,
    ContentTooLargeError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)

from tests.simulator.process import Simulator, params, requests

HEADERS = {"authorization": "Bearer k", "anthropic-version": "2026-10-21", "content-type": "application/json"}


def _request(custom_id: Any = "a", **fields: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "params": params(), **fields}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"requests": []}, "requests: List should have at least 1 item after validation, not 0"),
        ({}, "requests: Field required"),
        ({"requests": [_request("x" * 65)]}, "requests.0.custom_id: String should have at most 64 characters"),
        ({"requests": [_request(), _request("a b")]}, "requests.1.custom_id: String should match pattern"),
        ({"requests": [_request(""), _request("b")]}, "requests.0.custom_id: String should have at least 1 character"),
        ({"requests": [_request(), _request("b"), _request()]}, "requests.2.custom_id: 'a' is not unique"),
        ({"requests": [_request(), {"custom_id": "b"}]}, "requests.1.params: Field required"),
        ({"requests": [_request(), {"params": {}}]}, "requests.1.custom_id: Field required"),
        ({"requests": [_request(), _request(7)]}, "requests.1.custom_id: Expected `str`, got `int`"),
        ({"requests": [_request(extra=1)]}, "requests.0.extra: Extra inputs are not permitted"),
        ({"requests": [_request()], "extra": 1}, "requests: no other fields"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_envelope_that_is_wrong_is_refused_at_once(
    simulator: Simulator, body: dict[str, Any], message: str
) -> None:
    answer = await simulator.http.post("/v1/messages/batches", headers=HEADERS, content=json.dumps(body).encode())

    assert answer.status_code == 400
    error = answer.json()
    assert error["type"] == "error"
    assert error["request_id"] == answer.headers["request-id"]
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"].startswith(message)
    assert (await simulator.ledger())["totals"]["batches"] == 0


@pytest.mark.parametrize("body", [b"", b"{", b'{"requests":[', b'{"requests":[{"custom_id":"a","params":{"x":[1]}'])
async def test_a_body_cut_short_is_told_as_such(simulator: Simulator, body: bytes) -> None:
    answer = await simulator.http.post("/v1/messages/batches", headers=HEADERS, content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "request body is not valid JSON: unexpected end of input"


async def test_more_than_100000_requests_are_refused(simulator: Simulator) -> None:
    body = b'{"requests":[' + b",".join(b'{"custom_id":"%d","params":{}}' % n for n in range(100_001)) + b"]}"
    answer = await simulator.http.post("/v1/messages/batches", headers=HEADERS, content=body)

    assert answer.status_code == 400
    assert "at most 100000 items" in answer.json()["error"]["message"]


async def test_more_than_256_megabytes_are_refused_while_they_are_sent(claude: AsyncAnthropic) -> None:
    async def body() -> Any:
        for _ in range(256):
            yield b"x" * 1_000_000
        yield b"x"

    with pytest.raises(ContentTooLargeError):
        await claude.post(
            "/v1/messages/batches",
            cast_to=object,
            content=body(),
            options={"headers": {"Content-Length": "256000001"}},
        )


@pytest.mark.parametrize(
    ("more", "version", "error_type", "message"),
    [
        ({"max_tokens": 0}, "2026-10-21", "invalid_request_error", "max_tokens"),
        ({"stream": True}, "2026-10-21", "invalid_request_error", "stream"),
        ({"speed": "fast"}, "2026-10-21", "invalid_request_error", "speed"),
        ({"messages": []}, "2026-10-21", "invalid_request_error", "messages: at least one"),
        ({"messages": [{"role": "user"}]}, "2026-10-21", "invalid_request_error", "messages.0.content: Field required"),
        ({"messages": [{"role": "x", "content": ""}]}, "2026-10-21", "invalid_request_error", "messages.0.role"),
        ({"model": "gpt-9"}, "2026-10-21", "not_found_error", "model: gpt-9"),
        ({"temperature": 1}, "2026-10-21", "invalid_request_error", "temperature"),
        ({"top_k": 5, "model": "claude-sonnet-5-5"}, "2023-06-01", "invalid_request_error", "top_k"),
        ({"temperature": 0.5}, "2023-06-01", None, ""),
        ({"a_field_of_tomorrow": {"x": 1}}, "2026-10-21", None, ""),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "document"}]}]},
            "2026-10-21",
            "invalid_request_error",
            "messages.0.content.0: document",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "citations": [1]}]}]},
            "2026-10-21",
            "invalid_request_error",
            "messages.0.content.0.citations",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_params_end_as_an_errored_result_beside_good_ones(
    simulator: Simulator,
    claude: AsyncAnthropic,
    more: dict[str, Any],
    version: str,
    error_type: str | None,
    message: str,
) -> None:
    odd_request: Any = _request("odd", params=params() | more)
    batch = await claude.messages.batches.create(
        requests=[*requests(2), odd_request],
        extra_headers={"anthropic-version": version},
    )
    await simulator.advance(60)

    results = {result.custom_id: result.result async for result in await claude.messages.batches.results(batch.id)}
    odd = results.pop("odd")
    assert {result.type for result in results.values()} == {"succeeded"}
    if error_type is None:
        assert odd.type == "succeeded"
        return
    assert odd.type == "errored"
    assert odd.error.error.type == error_type
    assert odd.error.error.message.startswith(message)


async def test_bad_params_refuse_the_whole_create_when_the_simulator_is_told_so(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    await simulator.reset(check_params=True)

    odd: Any = _request("odd", params=params(max_tokens=0))
    with pytest.raises(BadRequestError, match=r"requests\.1\.params\.max_tokens"):
        await claude.messages.batches.create(requests=[*requests(1), odd])


async def test_a_key_is_required_and_must_be_the_right_one_when_one_is_set(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    without = await simulator.http.get("/v1/models", headers={"anthropic-version": "2026-10-21"})
    assert without.status_code == 401
    await simulator.reset(api_keys=["the-key"])

    with pytest.raises(AuthenticationError):
        await claude.messages.batches.list()
    assert (await claude.with_options(api_key="the-key").messages.batches.list()).data == []
    with pytest.raises(PermissionDeniedError):
        await claude.with_options(api_key="the-key").messages.batches.list(
            extra_headers={"anthropic-workspace-id": "wrkspc_other"}
        )


async def test_a_version_is_required(simulator: Simulator, claude: AsyncAnthropic) -> None:
    without = await simulator.http.get("/v1/messages/batches", headers={"x-api-key": "k"})
    assert without.status_code == 400

    with pytest.raises(BadRequestError, match="anthropic-version"):
        await claude.messages.batches.list(extra_headers={"anthropic-version": "2020-01-01"})


async def test_a_create_above_the_queue_limit_is_refused_until_a_batch_ends(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    await simulator.reset(queue_limit=5)
    await claude.messages.batches.create(requests=requests(3))

    with pytest.raises(RateLimitError):
        await claude.messages.batches.create(requests=requests(3))
    await simulator.advance(60)
    await claude.messages.batches.create(requests=requests(3))


async def test_calls_above_the_rate_limit_are_told_when_to_come_back(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    await simulator.reset(rate_limit=2)
    await claude.messages.batches.list()
    await claude.messages.batches.list()

    with pytest.raises(RateLimitError) as refused:
        await claude.messages.batches.list()
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    await simulator.advance(60)
    await claude.messages.batches.list()


async def test_what_does_not_exist_is_a_404(simulator: Simulator, claude: AsyncAnthropic) -> None:
    batches = claude.messages.batches
    for call in (batches.retrieve, batches.cancel, batches.delete, batches.results):
        with pytest.raises(NotFoundError):
            await call("msgbatch_none")
    with pytest.raises(BadRequestError, match="after_id"):
        await batches.list(after_id="msgbatch_none")
    assert (await simulator.http.get("/v1/none", headers=HEADERS)).status_code == 404
    assert (await simulator.http.get("/simulator/none")).status_code == 404
