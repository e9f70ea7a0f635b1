"""However a body is cut on its way, the same requests are taken from it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.simulator.process import params
from unhurried.simulator import intake
from unhurried.simulator.errors import ApiError
from unhurried.simulator.intake import Intake
from unhurried.simulator.settings import Settings
from unhurried.simulator.world import World


def _intake() -> Intake:
    return Intake(version="2026-10-21", plan=World(Settings()).plan(), check_params=False, answer_tokens=(50, 400))


def _requests(total: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    texts = ['},{"custom_id":"x"', "a,{b}[c]", '\\"', "é漢😀", "x" * 3000, '"params"', " , { "]
    return [
        {
            "custom_id": f"n-{n}",
            "params": params(
                chance.choice(texts),
                metadata={"custom_id": "inner", "params": [{"custom_id": "b"}, {"custom_id": "c", "params": {}}]},
            ),
        }
        for n in range(total)
    ]


def _swapped(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"params": request["params"], "custom_id": request["custom_id"]} for request in requests]


BODIES = {
    "compact": json.dumps({"requests": _requests(60)}, separators=(",", ":")),
    "spaced": json.dumps({"requests": _requests(60)}),
    "indented": json.dumps({"requests": _requests(60)}, indent=4),
    "swapped": json.dumps({"requests": _swapped(_requests(60))}),
    "not ascii": json.dumps({"requests": _requests(60)}, ensure_ascii=False),
    "space around": "\n " + json.dumps({"requests": _requests(60)}) + " \r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("window_bytes", [1, 500, 5_000, 1_000_000])
def test_a_body_gives_the_same_requests_in_any_pieces(
    monkeypatch: pytest.MonkeyPatch, body: str, window_bytes: int
) -> None:
    monkeypatch.setattr(intake, "WINDOW_BYTES", window_bytes)
    raw, chance, taken = body.encode(), random.Random(2), _intake()
    taken.feed(raw[:400])  # the head stands in the first piece, as it does on the wire
    start = 400
    while start < len(raw):
        size = chance.randint(1, 2 * min(window_bytes, 3000) + 50)
        taken.feed(raw[start : start + size])
        start += size
    taken.finish()

    assert [item.custom_id for item in taken.items] == [f"n-{n}" for n in range(60)]
    assert taken.body_bytes == len(raw)
    assert sum(taken.tally.counts.values()) == 60
    assert {item.outcome.type.value for item in taken.items} == {"succeeded"}


def test_one_giant_request_is_taken() -> None:
    text = "[{" * 1_500_000
    raw = json.dumps({"requests": [{"custom_id": "a", "params": params(text)}]}).encode()
    taken = _intake()
    for start in range(0, len(raw), 65536):
        taken.feed(raw[start : start + 65536])
    taken.finish()

    [item] = taken.items
    assert item.input_tokens == pytest.approx(750_000, rel=0.01)


def test_a_refused_body_is_read_to_its_end_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WINDOW_BYTES", 100)
    taken = _intake()
    raw = json.dumps({"requests": [{"custom_id": "a b", "params": {}}, *_requests(20)]}).encode()
    for start in range(0, len(raw), 300):
        taken.feed(raw[start : start + 300])

    with pytest.raises(ApiError) as refused:
        taken.finish()
    assert refused.value.message.startswith("requests.0.custom_id")
    assert taken.items == []
    assert taken.body_bytes == len(raw)


def test_garbage_between_requests_is_no_json() -> None:
    taken = _intake()
    taken.feed(b'{"requests":[{"custom_id":"a","params":{}} {"custom_id":"b","params":{}}]}')

    with pytest.raises(ApiError) as refused:
        taken.finish()
    assert "not valid JSON" in refused.value.message
