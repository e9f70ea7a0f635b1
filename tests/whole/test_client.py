"""The Python client against the real daemon, as the README shows it."""

import json

import pytest

from tests.whole.stage import Stage
from unhurried.client import QueueError

PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "A joke, please."}]}


def test_a_request_is_submitted_waited_for_and_its_result_acknowledged(shared: Stage) -> None:
    with shared.client() as queue:
        accepted = queue.submit(PARAMS, queue="jokes", custom_id="joke", metadata={"page": 3})
        view = queue.get(accepted.id, wait=30)
        assert (view["state"], view["result"]["type"]) == ("succeeded", "succeeded")
        result = next(queue.results("pull:jokes"))
        assert (result.request_id, result.custom_id, json.loads(bytes(result.metadata))) == (
            accepted.id,
            "joke",
            {"page": 3},
        )
        assert json.loads(bytes(result.result)) == view["result"]
        assert result.delivery_id is not None
        assert queue.ack([result.delivery_id]).confirmed == [result.delivery_id]
        assert queue.ack([result.delivery_id, "x.1"]).already == [result.delivery_id]
        assert queue.pull("pull:jokes") == []


def test_the_same_key_is_the_same_request_and_another_body_under_it_is_refused(shared: Stage) -> None:
    with shared.client() as queue:
        first = queue.submit(PARAMS, queue="keys", idempotency_key="k")
        again = queue.submit(PARAMS, queue="keys", idempotency_key="k")
        assert (again.id, first.duplicate, again.duplicate) == (first.id, False, True)
        with pytest.raises(QueueError) as refused:
            queue.submit({**PARAMS, "max_tokens": 5}, queue="keys", idempotency_key="k")
        assert (refused.value.status, refused.value.code) == (409, "idempotency_conflict")


def test_a_request_tells_its_batch_its_attempts_and_its_events_oldest_first(shared: Stage) -> None:
    with shared.client() as queue:
        id = queue.submit(PARAMS, queue="history").id
        view = queue.get(id, wait=30)
        [attempt] = queue.attempts(id)
        assert (attempt["batch"], attempt["upstream_batch"]) == (view["batch"], view["upstream_batch"])
        assert (attempt["state"], attempt["won"]) == ("succeeded", True)
        assert attempt["custom_id"].endswith(f"-{id}")
        events = queue.events(view["batch"])
        assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
        assert len(events) > 2


def test_a_request_that_is_refused_says_which_field(shared: Stage) -> None:
    with shared.client() as queue, pytest.raises(QueueError) as refused:
        queue.submit({**PARAMS, "stream": True})
    assert (refused.value.code, refused.value.problem["field"]) == ("invalid_params", "params.stream")
