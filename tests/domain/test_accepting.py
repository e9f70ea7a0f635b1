"""What is accepted, what is refused, and that the caller's bytes are kept."""

import contextlib
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unhurried.clock import Ms, after
from unhurried.domain.request import Defaults, NewRequest, Refusal, accept

NOW = Ms(1_795_000_000_000)
PARAMS: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hello"}],
}
ID = "01980000-0000-7000-8000-000000000001"


def take(line: bytes, **defaults: Any) -> NewRequest:
    return accept(line, id=ID, now=NOW, defaults=Defaults(**defaults))


def envelope(params: bytes | None = None, **fields: Any) -> bytes:
    """An envelope around ``params`` as they are; ``fields`` stand before them."""
    head = json.dumps(fields)[:-1] + (", " if fields else "")
    return head.encode() + b'"params":' + (params if params is not None else json.dumps(PARAMS).encode()) + b"}"


def with_params(**fields: Any) -> bytes:
    return envelope(json.dumps({name: value for name, value in (PARAMS | fields).items() if value is not ...}).encode())


def test_a_plain_request_gets_the_defaults() -> None:
    request = take(envelope(), queue="main", deadline_s=60.0, attempts_max=5)
    params = json.dumps(PARAMS).encode()
    assert request == NewRequest(
        id=ID,
        queue="main",
        model="claude-sonnet-5-5",
        anthropic_version="2026-10-21",
        anthropic_beta="",
        params=params,
        digest=sha256(params + b"\n2026-10-21\n").digest(),
        priority=0,
        accepted_at=NOW,
        deadline_at=after(NOW, 60),
        not_before=None,
        deliver_to="pull:main",
        custom_id=None,
        idempotency_key=None,
        metadata=None,
        attempts_max=5,
        peer_uid=None,
    )


def test_what_a_caller_says_stands() -> None:
    request = take(
        envelope(
            custom_id="a-1",
            queue="content-gen",
            deadline="2026-11-22T08:00:00.5+01:00",
            not_before="2026-11-22T06:00:00Z",
            priority=-3,
            deliver_to="pull:there",
            metadata={"a": 1},
            idempotency_key="key-1",
            anthropic_version="2023-06-01",
            anthropic_beta=["b-2", "a-1", "b-2"],
        ),
    )
    assert request.custom_id == "a-1"
    assert request.queue == "content-gen"
    assert request.deadline_at == 1_795_330_800_500
    assert request.not_before == 1_795_327_200_000
    assert request.priority == -3
    assert request.deliver_to == "pull:there"
    assert request.metadata == b'{"a": 1}'
    assert request.idempotency_key == "key-1"
    assert request.anthropic_version == "2023-06-01"
    assert request.anthropic_beta == "a-1,b-2"


def test_the_order_of_betas_makes_no_difference() -> None:
    """Equal sets make equal groups, and equal digests."""
    one, other = take(envelope(anthropic_beta="b-2, a-1")), take(envelope(anthropic_beta=["a-1", "b-2", "a-1"]))
    assert one.anthropic_beta == other.anthropic_beta == "a-1,b-2"
    assert one.digest == other.digest


def test_the_digest_tells_params_version_and_betas_apart() -> None:
    lines = [
        envelope(),
        with_params(max_tokens=65),
        envelope(anthropic_version="2023-06-01"),
        envelope(anthropic_beta="x-1"),
        envelope(json.dumps(PARAMS, indent=1).encode()),
    ]
    assert len({take(line).digest for line in lines}) == len(lines)


def test_a_default_deadline_counts_from_not_before() -> None:
    start = "2026-11-22T06:00:00Z"
    request = take(envelope(not_before=start), deadline_s=100.0)
    assert request.deadline_at == Ms(1_795_327_200_000 + 100_000)
    assert take(envelope(not_before=start, max_wait=1_000_000)).deadline_at == after(NOW, 1_000_000)


def test_a_not_before_in_the_past_is_now() -> None:
    assert take(envelope(not_before="2026-01-01T00:00:00Z")).not_before is None


def test_a_deadline_in_the_past_is_named_by_max_wait_too() -> None:
    with pytest.raises(Refusal, match=r"in 0\.0001 s lies in the past"):
        take(envelope(max_wait=0.0001))


@dataclass
class Bad:
    name: str
    line: bytes
    code: str
    field: str | None = None


def _version(params: dict[str, Any], version: str = "2026-10-21") -> bytes:
    return envelope(json.dumps(PARAMS | params).encode(), anthropic_version=version)


DOCUMENT = {"messages": [{"role": "assistant", "content": [{"type": "document", "source": {}}]}]}
CITED = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "citations": [{}]}]}]}

BAD = [
    Bad("cut off", b'{"params":', "invalid_json"),
    Bad("empty", b"", "invalid_json"),
    Bad("two values", envelope() + b"{}", "invalid_json"),
    Bad("NaN", envelope(b'{"a":NaN}'), "invalid_json"),
    Bad("a leading zero", envelope(b'{"a":01}'), "invalid_json"),
    Bad("a raw control character", envelope(b'{"a":"\x01"}'), "invalid_json"),
    Bad("1e999", envelope(b'{"a":1e999}'), "invalid_json"),
    Bad("-1E+999", envelope(b'{"a":-1E+999}'), "invalid_json"),
    Bad("999...9e99", envelope(b'{"a":' + b"9" * 210 + b"e99}"), "invalid_json"),
    Bad("1000...0.0", envelope(b'{"a":1' + b"0" * 400 + b".0}"), "invalid_json"),
    Bad("lone surrogate", envelope(rb'{"a":"\ud800"}'), "invalid_json"),
    Bad("lone low surrogate", envelope(rb'{"a":"\uDC00x"}'), "invalid_json"),
    Bad("bad UTF-8", envelope(b'{"a":"\xc3\x28"}'), "invalid_json"),
    Bad("UTF-8 of a surrogate", envelope(b'{"a":"\xed\xa0\x80"}'), "invalid_json"),
    Bad("UTF-16", envelope().decode().encode("utf-16"), "invalid_json"),
    Bad("bad UTF-8 in a field", envelope(custom_id="X").replace(b"X", b"\xff"), "invalid_json"),
    Bad("nested too deeply", envelope(b"[" * 100_000 + b"]" * 100_000), "invalid_json"),
    Bad("an array", b"[]", "invalid_request"),
    Bad("no params", b"{}", "invalid_request"),
    Bad("unknown field", envelope(colour="red"), "invalid_request"),
    Bad("too large", envelope(b'{"a":"' + b"x" * 1_000 + b'"}'), "request_too_large", "params"),
    Bad("params are an array", envelope(b"[]"), "invalid_params", "params"),
    Bad("no model", with_params(model=...), "invalid_params", "params"),
    Bad("empty model", with_params(model=""), "invalid_params", "params"),
    Bad("no max_tokens", with_params(max_tokens=...), "invalid_params", "params"),
    Bad("no messages", with_params(messages=...), "invalid_params", "params"),
    Bad("empty messages", with_params(messages=[]), "invalid_params", "params"),
    Bad("max_tokens is 0", with_params(max_tokens=0), "invalid_params", "params.max_tokens"),
    Bad("max_tokens is a text", with_params(max_tokens="1"), "invalid_params", "params"),
    Bad("stream", with_params(stream=True), "invalid_params", "params.stream"),
    Bad("speed", with_params(speed="fast"), "invalid_params", "params.speed"),
    Bad("temperature", _version({"temperature": 1}), "invalid_params", "params.temperature"),
    Bad("top_p is null", _version({"top_p": None}), "invalid_params", "params.top_p"),
    Bad("top_k in a later version", _version({"top_k": 1}, "2027-01-01"), "invalid_params", "params.top_k"),
    Bad("assistant document", _version(DOCUMENT), "invalid_params", "params.messages.0"),
    Bad("cited user text", _version(CITED), "invalid_params", "params.messages.0"),
    Bad("version", envelope(anthropic_version="latest"), "invalid_request", "anthropic_version"),
    Bad("beta", envelope(anthropic_beta="a b"), "invalid_request", "anthropic_beta"),
    Bad("betas", envelope(anthropic_beta=[f"b-{n}" for n in range(21)]), "invalid_request", "anthropic_beta"),
    Bad("digits of others", envelope(anthropic_version="\u0662026-10-21"), "invalid_request", "anthropic_version"),
    Bad("queue", envelope(queue="a b"), "invalid_request", "queue"),
    Bad("empty queue", envelope(queue=""), "invalid_request", "queue"),
    Bad("long queue", envelope(queue="q" * 65), "invalid_request", "queue"),
    Bad("custom_id", envelope(custom_id="a.b"), "invalid_request", "custom_id"),
    Bad("long custom_id", envelope(custom_id="c" * 65), "invalid_request", "custom_id"),
    Bad("empty key", envelope(idempotency_key=""), "invalid_request", "idempotency_key"),
    Bad("long key", envelope(idempotency_key="k" * 256), "invalid_request", "idempotency_key"),
    Bad("NUL in a key", envelope(idempotency_key="a\x00b"), "invalid_request", "idempotency_key"),
    Bad("deadline and max_wait", envelope(deadline="2099-01-01T00:00:00Z", max_wait=1), "invalid_request", "max_wait"),
    Bad("past deadline", envelope(deadline="2020-01-01T00:00:00Z"), "invalid_request", "deadline"),
    Bad("no zone", envelope(deadline="2026-12-01T00:00:00"), "invalid_request", "deadline"),
    Bad("no date", envelope(deadline="tomorrow"), "invalid_request", "deadline"),
    Bad("far deadline", envelope(deadline="2099-01-01T00:00:00Z"), "invalid_request", "deadline"),
    Bad("far not_before", envelope(not_before="9999-12-31T23:59:59Z"), "invalid_request", "deadline"),
    Bad("year 1", envelope(deadline="0001-01-01T00:00:00+23:59"), "invalid_request", "deadline"),
    Bad("max_wait is 0", envelope(max_wait=0), "invalid_request"),
    Bad("max_wait is too long", envelope(max_wait=1e9), "invalid_request"),
    Bad(
        "not_before the deadline",
        envelope(not_before="2026-12-02T00:00:00Z", deadline="2026-12-01T00:00:00Z"),
        "invalid_request",
        "not_before",
    ),
    Bad("priority", envelope(priority=10), "invalid_request"),
    Bad("destination", envelope(deliver_to="https://x"), "invalid_request", "deliver_to"),
    Bad("metadata is an array", envelope(metadata=[1]), "invalid_request", "metadata"),
    Bad("metadata is large", envelope(metadata={"a": "x" * 17_000}), "invalid_request", "metadata"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_what_upstream_or_the_rules_forbid_is_refused(bad: Bad) -> None:
    limit = 1_000 if bad.code == "request_too_large" else 32_000_000
    with pytest.raises(Refusal) as refusal:
        take(bad.line, params_bytes_max=limit)
    assert (refusal.value.code, refusal.value.field) == (bad.code, bad.field)
    assert refusal.value.detail == str(refusal.value)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1},
        {"top_p": 0.5},
        {"top_k": 4},
        DOCUMENT,
        CITED,
        {"stream": False},
        {"speed": None},
        {"some_new_field": {"x": [1, None]}},
    ],
    ids=str,
)
def test_an_older_version_still_takes_it(params: dict[str, Any]) -> None:
    raw = json.dumps(PARAMS | params).encode()
    assert take(envelope(raw, anthropic_version="2023-06-01")).params == raw


def test_what_merely_looks_like_a_bad_number_passes() -> None:
    """Digits in a text, and numbers that a double can hold, are nobody's business."""
    raw = json.dumps(PARAMS | {"x": ["9" * 500, "1e999", 1e308, 10**300, 1e-999, "\U0001f600"]}).encode()
    assert take(envelope(raw)).params == raw


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.text(min_size=1, max_size=8).map(lambda name: f"x_{name}")


@given(
    extra=st.dictionaries(NAMES, JSON, max_size=4),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 3]),
    before=st.sampled_from([b"", b" ", b"\n\t "]),
)
@example(extra={"x_": "\x00é\U0001f600"}, ascii_only=True, indent=None, before=b"")
def test_params_are_kept_byte_for_byte(
    extra: dict[str, Any], ascii_only: bool, indent: int | None, before: bytes
) -> None:
    raw = json.dumps(extra | PARAMS, ensure_ascii=ascii_only, indent=indent).encode()
    request = take(b'{"custom_id":"c",%s"params":%s%s%s}' % (before, before, raw, before))
    assert request.params == raw


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words_or_are_a_request(line: bytes) -> None:
    with contextlib.suppress(Refusal):
        assert json.loads(take(line).params)["model"]


@given(st.binary(max_size=40))
def test_params_with_any_bytes_inside_are_refused_or_valid_json(inside: bytes) -> None:
    """What is accepted is what a strict parser reads."""
    raw = json.dumps(PARAMS).encode()[:-1] + b', "x": "' + inside + b'"}'
    try:
        request = take(envelope(raw))
    except Refusal:
        return
    assert json.loads(request.params.decode())["max_tokens"] == 64
    json.loads(request.params.decode())["x"].encode()
