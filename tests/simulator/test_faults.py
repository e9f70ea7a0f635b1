"""Each fault does what the table says of it, as the real SDK sees it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic
from anthropic.types.messages import MessageBatch

from tests.simulator.process import Simulator, params, requests
from unhurried.simulator.errors import ERROR_TYPES_IN_RESULTS
from unhurried.simulator.faults import FAULTS


@pytest.fixture
async def fault(simulator: Simulator) -> Callable[..., Awaitable[None]]:
    """Set a fault."""
    return simulator.fault


Fault = Callable[..., Awaitable[None]]


async def _ended(simulator: Simulator, claude: AsyncAnthropic, total: int = 10) -> MessageBatch:
    batch = await claude.messages.batches.create(requests=requests(total))
    await simulator.advance(60)
    return await claude.messages.batches.retrieve(batch.id)


async def _lines(claude: AsyncAnthropic, batch_id: str) -> list[str]:
    """The result lines as they come, the last perhaps cut."""
    async with claude.messages.batches.with_streaming_response.results(batch_id) as response:
        return [line async for line in response.iter_lines()]


@pytest.mark.parametrize(
    ("name", "parameters", "error", "batches"),
    [
        ("create_then_drop", {}, anthropic.APIConnectionError, 1),
        ("create_then_drop", {"reset": True}, anthropic.APIConnectionError, 1),
        ("create_then_500", {}, anthropic.InternalServerError, 1),
        ("create_lost", {}, anthropic.APIConnectionError, 0),
        ("create_lost", {"after_bytes": 100, "reset": True}, anthropic.APIConnectionError, 0),
        ("create_lost_with_stranger", {}, anthropic.APIConnectionError, 1),
        ("create_500_with_stranger", {}, anthropic.InternalServerError, 1),
        ("create_500", {}, anthropic.InternalServerError, 0),
        ("create_500", {"after_bytes": 100}, anthropic.InternalServerError, 0),
        ("create_529", {"retry_after": 3}, anthropic.OverloadedError, 0),
        ("create_429", {}, anthropic.RateLimitError, 0),
        ("create_413_html", {}, anthropic.ContentTooLargeError, 0),
        ("create_413_html", {"after_bytes": 100}, anthropic.ContentTooLargeError, 0),
        ("create_400_cut_body", {}, anthropic.BadRequestError, 0),
        ("create_400_names_request", {"index": 3}, anthropic.BadRequestError, 0),
        ("create_400_unexplained", {}, anthropic.BadRequestError, 0),
        ("create_spend_limit", {}, anthropic.BadRequestError, 0),
        ("create_401", {}, anthropic.AuthenticationError, 0),
        ("create_402", {}, anthropic.PaymentRequiredError, 0),
        ("create_403", {}, anthropic.PermissionDeniedError, 0),
        ("create_404", {}, anthropic.NotFoundError, 0),
        ("create_error", {"status": 503, "code": "cmek_key_unreachable"}, anthropic.ServiceUnavailableError, 0),
        ("create_error", {"status": 409, "recorded": True}, anthropic.ConflictError, 1),
        ("create_error", {"status": 408}, anthropic.RequestTimeoutError, 0),
    ],
)
async def test_a_create_fails_once_and_then_works(
    simulator: Simulator,
    claude: AsyncAnthropic,
    fault: Fault,
    name: str,
    parameters: dict[str, Any],
    error: type[anthropic.APIError],
    batches: int,
) -> None:
    await fault(name, **parameters)

    with pytest.raises(error) as raised:
        await claude.messages.batches.create(requests=requests(4))
    listed = await claude.messages.batches.list()
    assert len(listed.data) == batches
    assert all(batch.request_counts.processing == 4 for batch in listed.data)
    [entry] = (await simulator.ledger())["creates"]
    assert entry["fault"] == name
    assert entry["answered"] is not issubclass(error, anthropic.APIConnectionError)
    assert (entry["batch_id"] is not None) is (batches == 1 and "stranger" not in name)
    if isinstance(raised.value, anthropic.APIStatusError):
        assert raised.value.response.headers["x-unhurried-simulator"]
        assert raised.value.response.headers.get("retry-after") == (
            str(parameters["retry_after"]) if "retry_after" in parameters else None
        )
    await claude.messages.batches.create(requests=requests(4, "n1"))


async def test_errors_of_create_have_upstreams_words(claude: AsyncAnthropic, fault: Fault) -> None:
    words = {
        "create_400_names_request": "requests.2.params.tools: no",
        "create_spend_limit": "You have reached your specified API usage limits",
        "create_400_cut_body": "request body is not valid JSON: unexpected end of input",
    }
    for name, message in words.items():
        await fault(name, **({"index": 2, "message": "tools: no"} if "names" in name else {}))
        with pytest.raises(anthropic.BadRequestError) as raised:
            await claude.messages.batches.create(requests=requests(3))
        assert raised.value.type == "invalid_request_error"
        assert message in raised.value.message


async def test_a_page_of_html_has_no_request_id(claude: AsyncAnthropic, fault: Fault) -> None:
    await fault("create_413_html")

    with pytest.raises(anthropic.ContentTooLargeError) as raised:
        await claude.messages.batches.create(requests=requests(1))
    assert raised.value.request_id is None
    assert raised.value.response.headers["content-type"] == "text/html"
    assert raised.value.response.text.startswith("<html>")


async def test_a_late_create_appears_after_a_while(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    await fault("create_late", seconds=100)
    with pytest.raises(anthropic.APIConnectionError):
        await claude.messages.batches.create(requests=requests(2))

    assert (await claude.messages.batches.list()).data == []
    await simulator.advance(100)
    [batch] = (await claude.messages.batches.list()).data
    assert batch.request_counts.processing == 2


async def test_a_strangers_batch_has_other_custom_ids(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    await fault("create_lost_with_stranger")
    with pytest.raises(anthropic.APIConnectionError):
        await claude.messages.batches.create(requests=requests(2))
    await simulator.advance(60)

    [batch] = (await claude.messages.batches.list()).data
    custom_ids = {result.custom_id async for result in await claude.messages.batches.results(batch.id)}
    assert custom_ids == {"stranger_000000", "stranger_000001"}


async def test_a_slow_create_is_created_before_it_is_answered(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    await fault("slow_create", seconds=30)

    with pytest.raises(anthropic.APITimeoutError):
        await claude.with_options(timeout=0.2).messages.batches.create(requests=requests(1))
    assert len((await claude.messages.batches.list()).data) == 1


async def test_a_slow_upload_is_held_back(claude: AsyncAnthropic, fault: Fault) -> None:
    await fault("slow_upload", bytes_per_s=10_000)

    began = monotonic()
    await claude.messages.batches.create(requests=requests(20))
    assert monotonic() - began > 0.1


async def test_a_new_batch_may_be_missing_from_lists_for_a_while(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    await fault("list_lag", seconds=20)
    batch = await claude.messages.batches.create(requests=requests(1))

    assert (await claude.messages.batches.list()).data == []
    assert (await claude.messages.batches.retrieve(batch.id)).id == batch.id
    await simulator.advance(20)
    assert len((await claude.messages.batches.list()).data) == 1


async def test_a_new_batch_may_be_unknown_for_a_while(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    await fault("retrieve_404_after_create", seconds=20)
    batch = await claude.messages.batches.create(requests=requests(1))

    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.retrieve(batch.id)
    await simulator.advance(20)
    assert (await claude.messages.batches.retrieve(batch.id)).id == batch.id
    await fault("retrieve_404_after_create", seconds=0, times=1, batch=batch.id)
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.retrieve(batch.id)
    assert (await claude.messages.batches.retrieve(batch.id)).id == batch.id


async def test_results_may_be_missing_for_a_while(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    batch = await _ended(simulator, claude)
    await fault("results_404_after_end", seconds=20)

    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.results(batch.id)
    await simulator.advance(20)
    assert len(await _lines(claude, batch.id)) == 10


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("poll_429", anthropic.RateLimitError),
        ("poll_529", anthropic.OverloadedError),
        ("poll_500", anthropic.InternalServerError),
        ("poll_drop", anthropic.APIConnectionError),
    ],
)
async def test_polling_fails_as_often_as_told(
    claude: AsyncAnthropic, fault: Fault, name: str, error: type[anthropic.APIError]
) -> None:
    batch = await claude.messages.batches.create(requests=requests(1))
    await fault(name, times=2)

    with pytest.raises(error):
        await claude.messages.batches.retrieve(batch.id)
    with pytest.raises(error):
        await claude.messages.batches.list()
    await claude.messages.batches.list()
    await fault(name, batch=batch.id)
    await claude.messages.batches.list()
    with pytest.raises(error):
        await claude.messages.batches.retrieve(batch.id)


async def test_a_429_says_when_to_come_back_only_if_told(claude: AsyncAnthropic, fault: Fault) -> None:
    for retry_after in (None, "7.5"):
        await fault("poll_429", **({"retry_after": 7.5} if retry_after else {}))
        with pytest.raises(anthropic.RateLimitError) as raised:
            await claude.messages.batches.list()
        assert raised.value.response.headers.get("retry-after") == retry_after


async def test_a_slow_list_takes_its_time(claude: AsyncAnthropic, fault: Fault) -> None:
    await fault("slow_list", seconds=30)

    with pytest.raises(anthropic.APITimeoutError):
        await claude.with_options(timeout=0.2).messages.batches.list()


async def test_someone_deletes_a_batch(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    await fault("batch_deleted", seconds=10)
    batch = await claude.messages.batches.create(requests=requests(1))
    await claude.messages.batches.retrieve(batch.id)
    await simulator.advance(10)

    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.retrieve(batch.id)
    assert (await claude.messages.batches.list()).data == []


async def test_results_fail_with_a_status(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    batch = await _ended(simulator, claude)
    await fault("results_error", status=529)

    with pytest.raises(anthropic.OverloadedError):
        await claude.messages.batches.results(batch.id)
    assert len(await _lines(claude, batch.id)) == 10


async def test_results_cut_inside_a_line_end_in_a_protocol_error(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    batch = await _ended(simulator, claude)
    await fault("results_cut_mid_line", after_lines=4)

    with pytest.raises(httpx2.RemoteProtocolError):
        await _lines(claude, batch.id)
    assert len(await _lines(claude, batch.id)) == 10


async def test_results_framed_by_closing_are_cut_in_silence(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    batch = await _ended(simulator, claude)
    await fault("results_cut_at_line_end")
    whole = await _lines(claude, batch.id)
    assert len(whole) == 5
    assert all(json.loads(line) for line in whole)

    await fault("results_cut_mid_line", framing="close", after_lines=3)
    *lines, cut = await _lines(claude, batch.id)
    assert len(lines) == 3
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut)


async def test_results_cut_by_a_reset_are_a_read_error(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    batch = await _ended(simulator, claude)
    await fault("results_cut_at_line_end", framing="chunked", reset=True)

    with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError, anthropic.APIConnectionError)):
        await _lines(claude, batch.id)


async def test_result_lines_come_twice_or_not_at_all(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    batch = await _ended(simulator, claude, 40)
    right = set(await _lines(claude, batch.id))

    await fault("results_duplicate_lines", fraction=0.5)
    twice = Counter(await _lines(claude, batch.id))
    assert set(twice) == right
    assert 15 <= list(twice.values()).count(2) <= 25
    await fault("results_missing_lines", fraction=0.5)
    assert 15 <= len(await _lines(claude, batch.id)) <= 25
    await fault("results_missing_lines", count=1)
    assert len(await _lines(claude, batch.id)) == 39
    assert len(await _lines(claude, batch.id)) == 40


async def test_result_lines_change_their_order(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    batch = await _ended(simulator, claude, 40)
    await fault("results_shuffled")

    first, second = await _lines(claude, batch.id), await _lines(claude, batch.id)
    assert first != second
    assert sorted(first) == sorted(second)


async def test_results_come_in_odd_forms(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    batch = await _ended(simulator, claude)
    await fault("results_blank_lines")
    lines = await _lines(claude, batch.id)
    assert lines.count("") == 10

    for content_type in ("text/event-stream", ""):
        await fault("results_wrong_content_type", type=content_type)
        async with claude.messages.batches.with_streaming_response.results(batch.id) as response:
            assert response.headers.get("content-type", "") == content_type
            assert len(await response.read()) > 1000


async def test_results_come_slowly(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    batch = await _ended(simulator, claude)
    size = sum(len(line) for line in await _lines(claude, batch.id))
    await fault("slow_results", bytes_per_s=size * 5)

    began = monotonic()
    await _lines(claude, batch.id)
    assert monotonic() - began > 0.15


@pytest.mark.parametrize("error_type", ERROR_TYPES_IN_RESULTS)
async def test_requests_fail_with_each_type_of_error(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault, error_type: str
) -> None:
    await fault("errored_some", type=error_type, fraction=0.5)
    batch = await _ended(simulator, claude)

    assert batch.request_counts.errored == batch.request_counts.succeeded == 5
    results = [result.result async for result in await claude.messages.batches.results(batch.id)]
    errors = [result.error for result in results if result.type == "errored"]
    assert {error.type for error in errors} == {"error"}
    assert {error.error.type for error in errors} == {error_type}
    assert all(str(error.request_id).startswith("req_") for error in errors)


async def test_requests_fail_at_first_and_succeed_in_a_later_batch(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    await fault("errored_first_attempts", attempts=2)
    succeeded = []
    for nonce in ("n1", "n2", "n3"):
        batch = await claude.messages.batches.create(requests=requests(4, nonce))
        await simulator.call("POST", f"/batches/{batch.id}/end")
        succeeded.append((await claude.messages.batches.retrieve(batch.id)).request_counts.succeeded)

    assert succeeded == [0, 0, 4]


@pytest.mark.parametrize(
    ("name", "parameters", "counts"),
    [
        ("expired_some", {"count": 3}, {"expired": 3, "succeeded": 7}),
        ("expired_all", {}, {"expired": 10}),
        ("canceled_some", {"fraction": 0.2}, {"canceled": 2, "succeeded": 8}),
        ("errored_some", {"count": 1}, {"errored": 1, "succeeded": 9}),
        ("errored_some", {"model": "claude-other"}, {"succeeded": 10}),
    ],
)
async def test_requests_end_as_the_fault_says(
    simulator: Simulator,
    claude: AsyncAnthropic,
    fault: Fault,
    name: str,
    parameters: dict[str, Any],
    counts: dict[str, int],
) -> None:
    await fault(name, **parameters)
    batch = await _ended(simulator, claude)

    shown = batch.request_counts.to_dict()
    assert {type_: count for type_, count in shown.items() if count} == counts
    types = Counter([result.result.type async for result in await claude.messages.batches.results(batch.id)])
    assert types == counts


async def test_a_batch_with_expired_requests_may_last_until_its_24_hours(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    await fault("expired_some", wait=True)
    batch = await _ended(simulator, claude)
    assert batch.processing_status == "in_progress"
    await simulator.advance(24 * 3600)

    ended = await claude.messages.batches.retrieve(batch.id)
    assert ended.ended_at == ended.expires_at
    assert ended.request_counts.expired == 5


async def test_answers_stop_for_another_reason(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    await fault("stop_refusal", count=1, category="cyber")
    await fault("stop_max_tokens", fraction=1)
    batch = await _ended(simulator, claude, 2)

    results = {r.custom_id: r.result async for r in await claude.messages.batches.results(batch.id)}
    refused, stopped = results["n0-00000"], results["n0-00001"]
    assert refused.type == stopped.type == "succeeded"
    assert refused.message.stop_reason == "refusal"
    assert refused.message.stop_details is not None
    assert refused.message.stop_details.category == "cyber"
    assert stopped.message.stop_reason == "max_tokens"
    assert stopped.message.usage.output_tokens == 1000


async def test_messages_calls_fail(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    for name, error in (
        ("messages_429", anthropic.RateLimitError),
        ("messages_529", anthropic.OverloadedError),
        ("messages_500", anthropic.InternalServerError),
        ("messages_then_drop", anthropic.APIConnectionError),
    ):
        await fault(name)
        with pytest.raises(error):
            await claude.messages.create(**params())
    assert (await simulator.ledger())["messages"]["billed"]["input_tokens"] > 0  # by the one that was dropped
    await fault("messages_then_drop")
    with pytest.raises(httpx2.RemoteProtocolError):
        async with claude.messages.stream(**params()) as stream:
            await stream.get_final_message()
    await fault("slow_messages", seconds=30)
    with pytest.raises(anthropic.APITimeoutError):
        await claude.with_options(timeout=0.2).messages.create(**params())


async def test_any_call_can_be_reset(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    await fault("reset_connection", path="/models")
    await claude.messages.batches.list()

    with pytest.raises(anthropic.APIConnectionError):
        await claude.models.list()
    assert (await simulator.ledger())["statuses"]["models none"] == 1


async def test_answers_can_come_from_a_machine_with_another_clock(
    simulator: Simulator, claude: AsyncAnthropic, fault: Fault
) -> None:
    """The batches are dated by the clock, only the header is wrong."""
    for seconds in (-30.0, 45.0):
        await fault("date_skew", seconds=seconds, times=1)
        created = await claude.messages.batches.with_raw_response.create(requests=requests(1))
        batch = await created.parse()
        assert (_date_of(created) - batch.created_at).total_seconds() == pytest.approx(seconds, abs=2)
        listed = await claude.messages.batches.with_raw_response.list()
        assert (_date_of(listed) - batch.created_at).total_seconds() == pytest.approx(0, abs=2)


def _date_of(answer: Any) -> datetime:
    return parsedate_to_datetime(answer.headers["date"])


async def test_a_probability_strikes_some_by_seed(simulator: Simulator, claude: AsyncAnthropic, fault: Fault) -> None:
    async def struck() -> list[int]:
        await simulator.reset(seed=3)
        await fault("poll_500", times=0, probability=0.5)
        failed = []
        for n in range(20):
            try:
                await claude.messages.batches.list()
            except anthropic.InternalServerError:
                failed.append(n)
        return failed

    first = await struck()
    assert 3 <= len(first) <= 17
    assert await struck() == first


async def test_faults_are_shown_set_together_and_cleared(simulator: Simulator, claude: AsyncAnthropic) -> None:
    await simulator.call("PUT", "/faults", create_500={"times": 3}, poll_429={"retry_after": 2})
    with pytest.raises(anthropic.InternalServerError):
        await claude.messages.batches.create(requests=requests(1))

    shown = await simulator.call("GET", "/faults")
    assert set(shown["available"]) == set(FAULTS)
    assert shown["set"]["create_500"]["left"] == 2
    assert shown["set"]["create_500"]["struck"] == 1
    assert shown["set"]["poll_429"]["parameters"]["retry_after"] == 2
    assert list((await simulator.call("DELETE", "/faults/create_500"))["set"]) == ["poll_429"]
    cleared = await simulator.call("DELETE", "/faults")
    assert (cleared["set"], cleared["struck"]) == ({}, {"create_500": 1})
    await claude.messages.batches.create(requests=requests(1))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("create_5000", {}, "there is no fault"),
        ("create_500", {"timse": 1}, "has no parameter timse"),
        ("create_500", {"times": "often"}, "times should be like 1"),
        ("results_cut_mid_line", {"framing": "length"}, "framing should be"),
    ],
)
async def test_a_fault_that_is_misspelt_is_refused_and_changes_nothing(
    simulator: Simulator, name: str, parameters: dict[str, Any], message: str
) -> None:
    await simulator.fault("poll_429")
    answer = await simulator.http.put(
        "/simulator/faults", json={"poll_500": {}, name: parameters}, headers={"content-type": "application/json"}
    )

    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert list((await simulator.call("GET", "/faults"))["set"]) == ["poll_429"]


def test_every_fault_of_the_table_is_tested() -> None:
    source = Path(__file__).read_text()
    assert [name for name in FAULTS if f'"{name}"' not in source] == []
