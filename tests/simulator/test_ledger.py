"""The ledger tells what was created, answered and billed, and what was so more than once."""

from __future__ import annotations

import hashlib
import json
import time

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.simulator.process import MODEL, Simulator, params, requests


async def test_a_create_is_written_down_with_the_digest_of_its_body(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    body = json.dumps({"requests": requests(3)}).encode()
    await claude.post("/v1/messages/batches", cast_to=object, content=body)

    ledger = await simulator.ledger()
    [entry] = ledger["creates"]
    assert entry["total"] == 3
    assert entry["body_bytes"] == len(body)
    assert entry["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert entry["complete"]
    assert entry["answered"]
    assert entry["status"] == 200
    assert entry["batch_id"] == (await claude.messages.batches.list()).data[0].id
    assert ledger["calls"] == {"create": 1}


async def test_every_request_is_told_with_the_digest_of_its_params_and_its_outcome(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    raw = b'{ "model":"%b","max_tokens":5,"messages":[{"role":"user","content":"\xc3\xa9"}] }' % MODEL.encode()
    body = b'{"requests":[{"custom_id":"n-1","params":%b}]}' % raw
    await claude.post("/v1/messages/batches", cast_to=object, content=body)
    [request] = await simulator.ledger_requests()
    assert request["custom_id"] == "n-1"
    assert request["params_sha256"] == hashlib.sha256(raw).hexdigest()
    assert request["outcome"] is None
    assert not request["billed"]

    await simulator.advance(60)
    [request] = await simulator.ledger_requests()
    assert request["outcome"] == "succeeded"
    assert request["billed"]


async def test_what_was_created_twice_is_found_by_the_id_after_the_nonce(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    await claude.messages.batches.create(requests=requests(3, "first"))
    [other] = requests(1, "second")
    other["params"] = params("other words")
    await claude.messages.batches.create(requests=[other])

    ledger = await simulator.ledger()
    assert ledger["requests_created_more_than_once"]["by_custom_id"] == {"count": 1, "examples": {"00000": 2}}
    assert ledger["requests_created_more_than_once"]["by_params_sha256"]["count"] == 0
    assert ledger["requests_billed_more_than_once"]["by_custom_id"]["count"] == 0
    assert ledger["requests_distinct"] == 3
    assert (await simulator.ledger(split=""))["requests_created_more_than_once"]["by_custom_id"]["count"] == 0
    await simulator.advance(60)
    assert (await simulator.ledger())["requests_billed_more_than_once"]["by_custom_id"]["count"] == 1


async def test_what_was_created_twice_is_found_by_the_digest_of_its_params(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    await claude.messages.batches.create(requests=requests(3))
    await claude.messages.batches.create(requests=[{"custom_id": "n1-other", "params": params("Hello 1")}])  # type: ignore[typeddict-item]

    more_than_once = (await simulator.ledger())["requests_created_more_than_once"]
    assert more_than_once["by_custom_id"]["count"] == 0
    assert more_than_once["by_params_sha256"]["count"] == 1


async def test_only_what_succeeded_is_billed_at_half_the_price(simulator: Simulator, claude: AsyncAnthropic) -> None:
    await simulator.fault("errored_some", count=4)
    batch = await claude.messages.batches.create(requests=requests(10))
    assert (await simulator.ledger())["billed"]["output_tokens"] == 0
    await simulator.advance(60)

    usages = [
        result.result.message.usage
        async for result in await claude.messages.batches.results(batch.id)
        if result.result.type == "succeeded"
    ]
    ledger = await simulator.ledger()
    billed = ledger["billed"]
    assert ledger["totals"]["outcomes"] == {"succeeded": 6, "errored": 4, "canceled": 0, "expired": 0}
    assert billed["input_tokens"] == sum(usage.input_tokens for usage in usages)
    assert billed["output_tokens"] == sum(usage.output_tokens for usage in usages)
    # Haiku 4.5: 1 and 5 dollars a million in real time.
    assert billed["cost_usd"] == pytest.approx((billed["input_tokens"] * 0.5 + billed["output_tokens"] * 2.5) / 1e6)


async def test_what_was_lost_and_what_strangers_do_is_not_counted_as_created(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    await simulator.fault("create_lost")
    with pytest.raises(anthropic.APIConnectionError):
        await claude.messages.batches.create(requests=requests(3))
    await simulator.call("POST", "/batches", custom_ids=["n0-00000", "n0-00001"])

    ledger = await simulator.ledger()
    assert ledger["totals"]["creates"] == 1
    assert ledger["totals"]["batches"] == 0
    assert ledger["totals"]["requests"] == 0
    assert ledger["statuses"] == {"create none": 1}


async def test_a_deleted_batch_stays_in_the_ledger(simulator: Simulator, claude: AsyncAnthropic) -> None:
    batch = await claude.messages.batches.create(requests=requests(3))
    await simulator.call("POST", f"/batches/{batch.id}/end")
    await claude.messages.batches.delete(batch.id)

    assert (await simulator.ledger())["totals"]["outcomes"]["succeeded"] == 3
    assert len(await simulator.ledger_requests()) == 3


async def test_strangers_batches_are_made_ended_and_deleted_by_the_control_face(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    chosen = await simulator.call("POST", "/batches", custom_ids=["a-1", "b-2"], turnaround_s=3600)
    total = await simulator.call("POST", "/batches", total=3)

    assert {batch.id for batch in (await claude.messages.batches.list()).data} == {chosen["id"], total["id"]}
    await simulator.call("POST", f"/batches/{chosen['id']}/end")
    results = [result.custom_id async for result in await claude.messages.batches.results(chosen["id"])]
    assert sorted(results) == ["a-1", "b-2"]
    await simulator.call("DELETE", f"/batches/{total['id']}")
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.retrieve(total["id"])
    shown = {batch["id"]: batch for batch in (await simulator.call("GET", "/batches"))["data"]}
    assert shown[total["id"]]["deleted"]
    assert shown[chosen["id"]]["results_read"] == 1


async def test_a_reset_forgets_everything_and_takes_other_settings(
    simulator: Simulator, claude: AsyncAnthropic
) -> None:
    batch = await claude.messages.batches.create(requests=requests(1))
    await simulator.fault("poll_500")
    health = await simulator.call("POST", "/reset", seed=9)

    assert health["seed"] == 9
    assert health["simulator"] is True
    assert (await claude.messages.batches.list()).data == []
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.retrieve(batch.id)
    assert (await simulator.http.post("/simulator/reset", json={"sped": 3})).status_code == 400
    assert (await simulator.http.post("/simulator/reset", json={"speed": "fast"})).status_code == 400


async def test_the_clock_can_be_ahead_of_ours_or_behind(simulator: Simulator, claude: AsyncAnthropic) -> None:
    for offset_s in (86_400.0, -3_600.0):
        await simulator.reset(clock_offset_s=offset_s)
        batch = await claude.messages.batches.create(requests=requests(1))
        assert batch.created_at.timestamp() - time.time() == pytest.approx(offset_s, abs=5)


async def test_the_clock_only_moves_forward(simulator: Simulator) -> None:
    assert (await simulator.http.post("/simulator/advance", json={"seconds": -1})).status_code == 400
    assert (await simulator.http.post("/simulator/advance", json={})).status_code == 400
