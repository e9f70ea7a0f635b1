"""What upstream would say of one request's params: cheap for a good one, precise for a bad one."""

from __future__ import annotations

from json.encoder import encode_basestring as quoted
from typing import Any, Final

import msgspec

from unhurried.simulator import prices

EXCERPT_CHARS: Final = 48
VERSION_WITHOUT_SAMPLING: Final = "2026-10-21"
VERSIONS: Final = ("2023-06-01", VERSION_WITHOUT_SAMPLING)
SAMPLING: Final = ("temperature", "top_p", "top_k")


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str = ""
    citations: Any = None


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Block]


class _Params(msgspec.Struct, gc=False):
    """The fields that decide; all others pass, as new API fields must."""

    model: str
    max_tokens: int
    messages: list[_Message]
    stream: bool = False
    speed: Any = None
    temperature: Any = msgspec.UNSET
    top_p: Any = msgspec.UNSET
    top_k: Any = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Params)


class Params(msgspec.Struct, frozen=True, gc=False):
    """What is kept of good or bad params. A struct, like all that is made once per request: it is cheap to make."""

    model: str
    max_tokens: int
    excerpt: str
    """As a JSON string with its quotes."""
    stream: bool
    fault: tuple[str, str] | None
    """(error type, message) when upstream would refuse them; a missing model is then the empty string."""


def read(raw: bytes, *, version: str, in_batch: bool) -> Params:
    """Judge ``raw``, one JSON object that is known to be well-formed, under API version ``version``."""
    try:
        params = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        return Params("", 1, '""', False, ("invalid_request_error", _explain(str(error))))
    fault = None if _is_plain(params) else _fault(params, version, in_batch)
    return Params(params.model, params.max_tokens, _excerpt(params), params.stream, fault)


def _is_plain(params: _Params) -> bool:
    """Whether these are params of the commonest form, in which nothing can be wrong."""
    return (
        params.max_tokens >= 1
        and params.stream is False
        and params.speed is None
        and params.temperature is params.top_p is params.top_k is msgspec.UNSET
        and len(params.messages) == 1
        and params.messages[0].role == "user"
        and isinstance(params.messages[0].content, str)
        and prices.is_served(params.model)
    )


def _fault(params: _Params, version: str, in_batch: bool) -> tuple[str, str] | None:
    if params.max_tokens < 1:
        return "invalid_request_error", "max_tokens: Input should be greater than or equal to 1"
    if not params.messages:
        return "invalid_request_error", "messages: at least one message is required"
    if in_batch and params.stream:
        return "invalid_request_error", "stream: streaming is not supported in batches"
    if in_batch and params.speed is not None:
        return "invalid_request_error", "speed: fast mode is not supported in batches"
    if not prices.is_served(params.model):
        return "not_found_error", f"model: {params.model}"
    if (message := _sampling(params, version)) is not None:
        return "invalid_request_error", message
    return _messages_fault(params.messages, version)


def _sampling(params: _Params, version: str) -> str | None:
    if params.temperature is params.top_p is params.top_k is msgspec.UNSET:
        return None
    for name in SAMPLING:
        value = getattr(params, name)
        if value is msgspec.UNSET:
            continue
        if version == VERSION_WITHOUT_SAMPLING:
            return f"{name}: Extra inputs are not permitted"
        if prices.refuses_sampling(params.model) and not (name in ("temperature", "top_p") and value == 1):
            return f"{name}: {params.model} does not take this parameter"
    return None


def _messages_fault(messages: list[_Message], version: str) -> tuple[str, str] | None:
    for n, message in enumerate(messages):
        if message.role not in ("user", "assistant", "system"):
            return "invalid_request_error", f"messages.{n}.role: Input should be 'user' or 'assistant'"
        if isinstance(message.content, str) or version != VERSION_WITHOUT_SAMPLING:
            continue
        for k, block in enumerate(message.content):
            if message.role == "assistant" and block.type == "document":
                return "invalid_request_error", f"messages.{n}.content.{k}: document blocks are not permitted here"
            if message.role == "user" and block.type == "text" and block.citations:
                return "invalid_request_error", f"messages.{n}.content.{k}.citations: Extra inputs are not permitted"
    return None


def _excerpt(params: _Params) -> str:
    if not params.messages:
        return '""'
    content = params.messages[-1].content
    text = content if isinstance(content, str) else next((block.text for block in content if block.text), "")
    excerpt: str = quoted(text[:EXCERPT_CHARS])
    return excerpt


def _explain(error: str) -> str:
    """Turn msgspec's words into upstream's: ``messages.0.content: Field required``."""
    what, _, where = error.partition(" - at `$")
    path = where.rstrip("`").replace("[", ".").replace("]", "").strip(".")
    if what.startswith("Object missing required field `"):
        name = what.split("`")[1]
        return f"{path}.{name}: Field required" if path else f"{name}: Field required"
    return f"{path}: {what}" if path else what
