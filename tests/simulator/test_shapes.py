"""What the real SDK sees when all goes well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx2
import pytest
from anthropic import AnthropicError, AsyncAnthropic, BadRequestError, NotFoundError

from tests.simulator.process import MODEL, Simulator, params, requests


async def test_a_batch_begins_in_progress_and_shows_nothing_of_its_requests(claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(3))

    assert batch.id.startswith("msgbatch_")
    assert batch.processing_status == "in_progress"
    assert batch.request_counts.to_dict() == {
        "processing": 3,
        "succeeded": 0,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    }
    assert batch.expires_at - batch.created_at == timedelta(hours=24)
    assert [batch.ended_at, batch.results_url, batch.cancel_initiated_at, batch.archived_at] == [None] * 4


async def test_a_batch_ends_after_its_turnaround_with_one_result_for_each_request(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    batch = await claude.messages.batches.create(requests=requests(30))
    await simulator.advance(60)
    ended = await claude.messages.batches.retrieve(batch.id)

    assert ended.processing_status == "ended"
    assert ended.ended_at == batch.created_at + timedelta(seconds=60)
    assert ended.request_counts.succeeded == 30
    assert ended.results_url == f"/v1/messages/batches/{batch.id}/results"
    results = [result async for result in await claude.messages.batches.results(batch.id)]
    custom_ids = [result.custom_id for result in results]
    assert sorted(custom_ids) == [f"n0-{n:05d}" for n in range(30)]
    assert custom_ids != sorted(custom_ids)
    for result in results:
        assert result.result.type == "succeeded"
        message = result.result.message
        assert (message.model, message.role, message.stop_reason) == (MODEL, "assistant", "end_turn")
        assert message.usage.service_tier == "batch"
        assert message.usage.input_tokens > 10
        assert 50 <= message.usage.output_tokens <= 400


async def test_results_are_the_same_bytes_at_each_reading(simulator: Simulator, claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(20))
    await simulator.advance(60)

    async def read() -> bytes:
        async with claude.messages.batches.with_streaming_response.results(batch.id) as response:
            assert response.headers["content-type"] == "application/x-jsonl"
            return await response.read()

    first = await read()
    assert first.endswith(b"}\n")
    assert await read() == first


async def test_an_answer_quotes_its_request_whatever_characters_it_has(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    text = 'a "quoted" \\ line\nbreak, \x00, é, 漢字, 😀'
    batch = await claude.messages.batches.create(requests=[{"custom_id": "a", "params": params(text)}])  # type: ignore[typeddict-item]
    await simulator.advance(60)

    [result] = [result async for result in await claude.messages.batches.results(batch.id)]
    assert result.result.type == "succeeded"
    content = result.result.message.content[0]
    assert content.type == "text"
    assert content.text.startswith(text)


async def test_results_are_not_to_be_had_before_the_end(claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(1))

    with pytest.raises(AnthropicError, match="results_url"):
        await claude.messages.batches.results(batch.id)
    with pytest.raises(NotFoundError):
        await claude.get(f"/v1/messages/batches/{batch.id}/results", cast_to=httpx2.Response)


async def test_a_list_is_newest_first_and_pages_in_both_directions(claude: AsyncAnthropic) -> None:
    made = [(await claude.messages.batches.create(requests=requests(1))).id for _ in range(5)]
    newest_first = made[::-1]

    page = await claude.messages.batches.list(limit=2)
    assert [batch.id for batch in page.data] == newest_first[:2]
    assert page.has_more
    assert (page.first_id, page.last_id) == (newest_first[0], newest_first[1])
    assert [batch.id async for batch in claude.messages.batches.list(limit=2)] == newest_first
    older = await claude.messages.batches.list(limit=10, after_id=newest_first[2])
    assert [batch.id for batch in older.data] == newest_first[3:]
    assert not older.has_more
    newer = await claude.messages.batches.list(limit=1, before_id=newest_first[2])
    assert [batch.id for batch in newer.data] == [newest_first[1]]
    assert newer.has_more


async def test_a_list_shows_20_unless_told_and_at_most_1000(simulator: Simulator, claude: AsyncAnthropic) -> None:
    for _ in range(21):
        await simulator.call("POST", "/batches", total=1)

    assert len((await claude.messages.batches.list()).data) == 20
    assert len((await claude.messages.batches.list(limit=1000)).data) == 21
    for limit in (0, 1001):
        with pytest.raises(BadRequestError, match="limit"):
            await claude.messages.batches.list(limit=limit)


async def test_an_empty_list_is_a_page_without_ids(claude: AsyncAnthropic) -> None:
    page = await claude.messages.batches.list()

    assert (page.data, page.has_more, page.first_id, page.last_id) == ([], False, None, None)


async def test_a_cancel_keeps_what_is_finished_and_cancels_the_rest(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    batch = await claude.messages.batches.create(requests=requests(100))
    await simulator.advance(45)
    canceling = await claude.messages.batches.cancel(batch.id)

    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    assert canceling.request_counts.processing == 100
    again = await claude.messages.batches.cancel(batch.id)
    assert again.cancel_initiated_at == canceling.cancel_initiated_at
    await simulator.advance(5)
    ended = await claude.messages.batches.retrieve(batch.id)
    counts = ended.request_counts
    assert ended.processing_status == "ended"
    assert counts.succeeded + counts.canceled == 100
    assert 30 < counts.succeeded < 70
    types = [result.result.type async for result in await claude.messages.batches.results(batch.id)]
    assert types.count("canceled") == counts.canceled
    with pytest.raises(BadRequestError, match="ended"):
        await claude.messages.batches.cancel(batch.id)


async def test_a_batch_is_deleted_only_after_its_end(simulator: Simulator, claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(1))
    with pytest.raises(BadRequestError, match="cancel it first"):
        await claude.messages.batches.delete(batch.id)
    await simulator.advance(60)

    assert (await claude.messages.batches.delete(batch.id)).type == "message_batch_deleted"
    with pytest.raises(NotFoundError):
        await claude.messages.batches.retrieve(batch.id)
    assert (await claude.messages.batches.list()).data == []


async def test_what_takes_longer_than_24_hours_expires(simulator: Simulator, claude: AsyncAnthropic) -> None:
    await simulator.reset(turnaround_by_model_s={MODEL: 36 * 3600})
    batch = await claude.messages.batches.create(requests=requests(40))
    await simulator.advance(24 * 3600 - 60)
    assert (await claude.messages.batches.retrieve(batch.id)).processing_status == "in_progress"
    await simulator.advance(60)

    ended = await claude.messages.batches.retrieve(batch.id)
    assert ended.ended_at == ended.expires_at
    # Requests take between 18 and 36 hours: a third of them makes it.
    assert 12 <= ended.request_counts.succeeded <= 15
    assert ended.request_counts.expired == 40 - ended.request_counts.succeeded


async def test_results_are_archived_29_days_after_creation(simulator: Simulator, claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(1))
    await simulator.advance(29 * 24 * 3600 - 60)
    assert (await claude.messages.batches.retrieve(batch.id)).results_url is not None
    await simulator.advance(60)

    archived = await claude.messages.batches.retrieve(batch.id)
    assert archived.archived_at == batch.created_at + timedelta(days=29)
    assert archived.results_url is None


async def test_every_answer_says_who_sent_it_and_when(simulator: Simulator, claude: AsyncAnthropic) -> None:
    await simulator.advance(3600)
    response = await claude.messages.batches.with_raw_response.list()

    headers = response.headers
    assert headers["x-unhurried-simulator"]
    assert headers["request-id"].startswith("req_")
    assert headers["anthropic-organization-id"]
    assert headers["anthropic-workspace-id"]
    assert int(headers["anthropic-ratelimit-requests-remaining"]) < int(headers["anthropic-ratelimit-requests-limit"])
    ahead = parsedate_to_datetime(headers["date"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < ahead <= timedelta(minutes=61)


async def test_time_passes_at_the_given_speed(simulator: Simulator, claude: AsyncAnthropic) -> None:
    await simulator.reset(speed=1e9, turnaround_s=3600)
    batch = await claude.messages.batches.create(requests=requests(1))

    assert (await claude.messages.batches.retrieve(batch.id)).processing_status == "ended"


async def test_a_message_is_answered_in_real_time(simulator: Simulator, claude: AsyncAnthropic) -> None:
    message = await claude.messages.create(**params("Tell me", max_tokens=70))

    assert message.usage.service_tier == "standard"
    assert message.usage.output_tokens <= 70
    assert message.content[0].type == "text"
    assert message.content[0].text.startswith("Tell me")
    ledger = await simulator.ledger()
    assert ledger["messages"]["calls"] == 1
    assert ledger["messages"]["billed"]["output_tokens"] == message.usage.output_tokens


async def test_a_streamed_message_is_the_message_in_pieces(claude: AsyncAnthropic) -> None:
    async with claude.messages.stream(**params("Tell me")) as stream:
        types = [event.type async for event in stream]
        message = await stream.get_final_message()

    assert types[0] == "message_start"
    assert types[-1] == "message_stop"
    assert message.stop_reason == "end_turn"
    assert message.content[0].type == "text"
    assert message.content[0].text.startswith("Tell me")
    assert message.usage.output_tokens >= 50


async def test_tokens_are_counted_and_models_are_listed(claude: AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
    models = [model.id async for model in claude.models.list()]

    assert counted.input_tokens > 0
    assert MODEL in models
    assert (await claude.models.retrieve(MODEL)).type == "model"
    with pytest.raises(NotFoundError):
        await claude.models.retrieve("claude-none")
