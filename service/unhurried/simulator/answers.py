"""Makes answers: a result line, a message, a stream of events. Nothing of it is stored, all of it can be made again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import gcd
from typing import Any, Final

import msgspec

from unhurried.simulator.outcomes import Item, Outcome, ResultType

_FILLER: Final = (
    "This text was made by a simulator and means nothing; it has the length that its count of tokens promises. "
) * 640
_TEXT_CHARS_MAX: Final = 64 * 1024
_CHARS_A_TOKEN: Final = 4
_SHUFFLED_MAX: Final = 4096


def order(n: int, salt: int) -> Iterator[int]:
    """The numbers below ``n``, each once, in an order that ``salt`` decides; a large ``n`` needs no list."""
    if n <= _SHUFFLED_MAX:
        numbers = list(range(n))
        random.Random(salt).shuffle(numbers)
        return iter(numbers)
    step = max(1, int(n * 0.6180339887)) | 1
    step += 2 * (salt % 97)
    while gcd(step, n) != 1:
        step += 2 if n % 2 == 0 else 1
    start = salt % n
    return ((start + k * step) % n for k in range(n))


def result_line(item: Item, outcome: Outcome, message_id: str) -> str:
    """One line of results without its newline, as upstream writes it."""
    if outcome.type is ResultType.SUCCEEDED:
        return (
            f'{{"custom_id":"{item.custom_id}","result":{{"type":"succeeded","message":'
            f"{message_json(item, outcome, message_id, 'batch')}}}}}"
        )
    if outcome.type is ResultType.ERRORED:
        error = {
            "type": "error",
            "request_id": f"req_{message_id[4:]}",
            "error": {"type": outcome.error_type, "message": outcome.message},
        }
        line = {"custom_id": item.custom_id, "result": {"type": "errored", "error": error}}
        return msgspec.json.encode(line).decode()
    return f'{{"custom_id":"{item.custom_id}","result":{{"type":"{outcome.type.value}"}}}}'


def message_json(item: Item, outcome: Outcome, message_id: str, service_tier: str) -> str:
    """One message as compact JSON. Written by hand: it is the costliest thing the simulator does per request."""
    if outcome.refusal:
        stop_details = f'{{"type":"refusal","category":"{outcome.refusal}","explanation":null}}'
    else:
        stop_details = "null"
    # The excerpt comes with its quotes; the filler goes between it and the closing one.
    return (
        f'{{"id":"{message_id}","type":"message","role":"assistant","model":"{item.model}",'
        f'"content":[{{"type":"text","text":{item.excerpt[:-1]} | {_filler(item)}"}}],'
        f'"stop_reason":"{outcome.stop_reason}","stop_sequence":null,"stop_details":{stop_details},'
        f'"container":null,"diagnostics":null,"usage":{{"input_tokens":{item.input_tokens},'
        f'"output_tokens":{item.output_tokens},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
        f'"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}},'
        f'"service_tier":"{service_tier}"}}}}'
    )


def events(message: dict[str, Any]) -> Iterator[bytes]:
    """``message`` as the server-sent events of a stream."""
    text = message["content"][0]["text"]
    usage = message["usage"]
    opening = {**message, "content": [], "stop_reason": None, "stop_details": None}
    opening["usage"] = {**usage, "output_tokens": 1}
    yield _event("message_start", {"message": opening})
    yield _event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
    yield _event("ping", {})
    for start in range(0, len(text), 200):
        delta = {"type": "text_delta", "text": text[start : start + 200]}
        yield _event("content_block_delta", {"index": 0, "delta": delta})
    yield _event("content_block_stop", {"index": 0})
    ending = {key: message[key] for key in ("stop_reason", "stop_sequence", "stop_details", "container")}
    yield _event("message_delta", {"delta": ending, "usage": {"output_tokens": usage["output_tokens"]}})
    yield _event("message_stop", {})


def _event(type_: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (type_.encode(), msgspec.json.encode({"type": type_, **fields}))


def _filler(item: Item) -> str:
    return _FILLER[: min(item.output_tokens * _CHARS_A_TOKEN, _TEXT_CHARS_MAX)]
