"""What a result line means for its request. Of each line only a few fields are decoded; the bytes are stored as they
came."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from unhurried.domain.batch import split_custom_id
from unhurried.domain.states import AttemptState

RETRYABLE_ERRORS: Final = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})
"""Nothing was billed and nothing is wrong with the request: it is sent again while attempts are left."""

BATCH_GONE: Final = "batch_gone"
MISSING_RESULT: Final = "missing_result"


TOKENS_MAX: Final = 10**12
"""More is no number of tokens but a shape that we do not know. A column of 64 bits holds it, and ten million such."""
Tokens = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]


class _Line(msgspec.Struct):
    custom_id: str
    result: msgspec.Raw


class CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: Tokens | None = None


class Usage(msgspec.Struct):
    """Tokens as upstream billed them."""

    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation: CacheCreation | None = None


class _Message(msgspec.Struct):
    stop_reason: str | None = None
    usage: Usage | None = None


class _InnerError(msgspec.Struct):
    type: str = ""


class _Error(msgspec.Struct):
    error: _InnerError | None = None


class _Result(msgspec.Struct):
    type: str
    message: _Message | None = None
    error: _Error | None = None


class _Kind(msgspec.Struct):
    type: str


@dataclass(frozen=True, slots=True)
class Result:
    """One result line. ``body`` is the ``result`` object as it came."""

    nonce: str
    request_id: str
    state: AttemptState
    body: bytes
    stop_reason: str | None
    error_type: str | None
    usage: Usage | None


def tokens_of(usages: Iterable[Usage | None]) -> tuple[int, int, int, int, int]:
    """Added up: input, output, written to the cache for 5 minutes, for an hour, read from the cache."""
    given = answered = written = for_an_hour = read = 0
    for usage in usages:
        if usage is None:
            continue
        given += usage.input_tokens or 0
        answered += usage.output_tokens or 0
        written += usage.cache_creation_input_tokens or 0
        for_an_hour += (usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else 0) or 0
        read += usage.cache_read_input_tokens or 0
    return given, answered, written - for_an_hour, for_an_hour, read


class BadLine(Exception):
    """A result line that cannot be read: cut short, or not what upstream documents. Its text is never kept."""


_lines: Final = msgspec.json.Decoder(_Line)
_results: Final = msgspec.json.Decoder(_Result)
_kinds: Final = msgspec.json.Decoder(_Kind)
_ENDS: Final = (AttemptState.SUCCEEDED, AttemptState.ERRORED, AttemptState.CANCELED, AttemptState.EXPIRED)
_STATES: Final = {state.value: state for state in _ENDS}


def read_line(line: bytes) -> Result:
    """Decode one line. Raises ``BadLine``. An unknown kind of result counts as errored, its bytes kept."""
    try:
        outer = _lines.decode(line)
        body = bytes(outer.result)
        result = _result(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLine(f"a result line of {len(line)} bytes is not readable: {type(error).__name__}") from None
    nonce, request_id = split_custom_id(outer.custom_id)
    state = _STATES.get(result.type)
    message = result.message
    error_type = None
    if state is None:
        state, error_type = AttemptState.ERRORED, f"unknown_result_{result.type[:40]}"
    elif state is AttemptState.ERRORED:
        error_type = result.error.error.type if result.error and result.error.error else "unknown_error"
    return Result(
        nonce=nonce,
        request_id=request_id,
        state=state,
        body=body,
        stop_reason=message.stop_reason if message else None,
        error_type=error_type,
        usage=message.usage if message else None,
    )


def _result(body: bytes) -> _Result:
    """The result with the details we know, or its kind alone when these have a shape that we do not know: the line is
    whole, and refusing it would keep the other results of its batch from being stored, for ever."""
    try:
        return _results.decode(body)
    except msgspec.ValidationError:
        return _Result(type=_kinds.decode(body).type)


def nonce_of(line: bytes) -> str | None:
    """The nonce in a result line that may be a stranger's; nothing else of it is looked at."""
    found = custom_id_of(line)
    return split_custom_id(found)[0] if found is not None else None


def custom_id_of(line: bytes) -> str | None:
    """The custom_id of a result line that may be a stranger's; None when it cannot be read."""
    try:
        return _lines.decode(line).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_retryable(state: AttemptState, error_type: str | None) -> bool:
    """Whether the same request is worth sending again: nothing was billed, and it may well succeed."""
    if state in (AttemptState.EXPIRED, AttemptState.CANCELED):
        return True
    return state is AttemptState.ERRORED and error_type in RETRYABLE_ERRORS


def retry_pause_s(attempts_used: int, first_s: float, longest_s: float) -> float:
    """Doubles with each attempt."""
    return float(min(first_s * 2.0 ** max(attempts_used - 1, 0), longest_s))


def our_error(error_type: str, message: str) -> bytes:
    """A result of our own making, in the shape of upstream's."""
    return msgspec.json.encode(
        {"type": "errored", "error": {"type": "error", "error": {"type": error_type, "message": message}}}
    )
