"""What a result line means."""

import contextlib
import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.domain.batch import custom_id
from unhurried.domain.collecting import BadLine, is_retryable, nonce_of, our_error, read_line, retry_pause_s
from unhurried.domain.states import AttemptState

NONCE, ID = "abcdefghjkmn", "01980000-0000-7000-8000-000000000001"
OURS = custom_id(NONCE, ID).encode()
SUCCEEDED = (
    b'{"type": "succeeded", "message":{"id":"msg_1","content":[{"x":1}],"stop_reason":"end_turn","usage":'
    b'{"input_tokens":10,"output_tokens":20,"cache_creation_input_tokens":7,"cache_read_input_tokens":3,'
    b'"cache_creation":{"ephemeral_1h_input_tokens":5},"new":{}}}}'
)
OVERLOADED = b'{"type":"errored","error":{"type":"error","error":{"type":"overloaded_error","message":"m"}}}'


def line(result: bytes) -> bytes:
    return b'{"custom_id":"%s", "result": %s }' % (OURS, result)


def test_a_success_is_read_and_its_bytes_are_kept() -> None:
    result = read_line(line(SUCCEEDED))
    assert (result.nonce, result.request_id, result.state) == (NONCE, ID, AttemptState.SUCCEEDED)
    assert result.body == SUCCEEDED
    assert (result.stop_reason, result.error_type) == ("end_turn", None)
    assert result.usage is not None and result.usage.cache_creation is not None
    assert (result.usage.input_tokens, result.usage.output_tokens) == (10, 20)
    assert (result.usage.cache_creation_input_tokens, result.usage.cache_read_input_tokens) == (7, 3)
    assert result.usage.cache_creation.ephemeral_1h_input_tokens == 5


@dataclass
class Kind:
    name: str
    result: bytes
    state: AttemptState
    error_type: str | None = None


KINDS = [
    Kind("canceled", b'{"type":"canceled"}', AttemptState.CANCELED),
    Kind("expired", b'{"type":"expired"}', AttemptState.EXPIRED),
    Kind("errored, nested twice", OVERLOADED, AttemptState.ERRORED, "overloaded_error"),
    Kind("errored without an error", b'{"type":"errored"}', AttemptState.ERRORED, "unknown_error"),
    Kind("errored with a text", b'{"type":"errored","error":"x"}', AttemptState.ERRORED, "unknown_error"),
    Kind("errored with null", b'{"type":"errored","error":{"error":null}}', AttemptState.ERRORED, "unknown_error"),
    Kind("an unknown kind", b'{"type":"paused","x":1}', AttemptState.ERRORED, "unknown_result_paused"),
    Kind("our own state is no kind", b'{"type":"superseded"}', AttemptState.ERRORED, "unknown_result_superseded"),
    Kind("usage of a new shape", b'{"type":"succeeded","message":{"usage":[1]}}', AttemptState.SUCCEEDED),
    Kind(
        "tokens of a new shape",
        b'{"type":"succeeded","message":{"usage":{"input_tokens":1.5}}}',
        AttemptState.SUCCEEDED,
    ),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_result(kind: Kind) -> None:
    """What we do not know of a line never keeps the others of its batch from being stored."""
    result = read_line(line(kind.result))
    assert (result.state, result.error_type, result.body) == (kind.state, kind.error_type, kind.result)
    assert result.usage is None


def test_our_own_error_is_read_like_upstreams() -> None:
    result = read_line(line(our_error("batch_gone", "why")))
    assert (result.state, result.error_type) == (AttemptState.ERRORED, "batch_gone")


@pytest.mark.parametrize("cut", range(1, len(line(SUCCEEDED)) - 1))
def test_a_torn_line_is_a_bad_line(cut: int) -> None:
    with pytest.raises(BadLine) as bad:
        read_line(line(SUCCEEDED)[:cut])
    assert "msg" not in str(bad.value)  # nothing of its text


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b'{"custom_id":"a"}',
        b'{"result":{"type":"expired"}}',
        b'{"custom_id":1,"result":{"type":"expired"}}',
        line(b"null"),
        line(b"{}"),
        line(b'{"type":7}'),
        line(b'{"type":"expired"}') + b"x",
        line(b"[" * 5_000 + b"]" * 5_000),
        b"\xff",
    ],
)
def test_what_upstream_does_not_document_is_a_bad_line(bad: bytes) -> None:
    with pytest.raises(BadLine):
        read_line(bad)


@given(st.binary(max_size=120) | st.builds(line, st.binary(max_size=60)))
def test_any_bytes_are_a_result_or_a_bad_line(text: bytes) -> None:
    with contextlib.suppress(BadLine):
        assert read_line(text).state is not AttemptState.OPEN
    nonce_of(text)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "usage", "error"]), inner),
    max_leaves=8,
)


@given(kind=st.text(max_size=9), message=JSON, error=JSON)
def test_any_shape_of_a_typed_result_is_read(kind: str, message: object, error: object) -> None:
    body = json.dumps({"type": kind, "message": message, "error": error}).encode()
    result = read_line(line(body))
    assert result.body == body


def test_a_strangers_line_is_read_for_its_nonce_only() -> None:
    assert nonce_of(line(b'{"type":7}')) == NONCE
    assert nonce_of(b'{"custom_id":"mine-1","result":{}}') == "mine-1"
    assert nonce_of(b'{"custom_id":') is None


def test_only_what_was_not_billed_is_worth_repeating() -> None:
    assert is_retryable(AttemptState.EXPIRED, None)
    assert is_retryable(AttemptState.CANCELED, None)
    assert is_retryable(AttemptState.ERRORED, "overloaded_error")
    assert not is_retryable(AttemptState.ERRORED, "invalid_request_error")
    assert not is_retryable(AttemptState.SUCCEEDED, None)


def test_the_pause_before_another_attempt_doubles_up_to_a_bound() -> None:
    assert [retry_pause_s(used, 30.0, 100.0) for used in (1, 2, 3, 99)] == [30.0, 60.0, 100.0, 100.0]
