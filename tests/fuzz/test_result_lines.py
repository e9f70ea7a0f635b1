"""What upstream hands back: any bytes are a result or a bad line, and a result can be stored."""

import contextlib
import sqlite3

from hypothesis import example, given
from hypothesis import strategies as st

from tests.domain.test_accepting import NOW
from tests.domain.test_collecting import ID, NONCE, OURS
from tests.fuzz.effort import effort
from tests.fuzz.text import CUTS, NUMBERS, STRINGS, VALUES, damaged, named, pieces, strict
from unhurried.clock import after
from unhurried.domain.collecting import BadLine, Result, nonce_of, our_error, read_line, tokens_of
from unhurried.domain.states import AttemptState
from unhurried.domain.submitting import RETRY_AFTER_MAX_S, PausePolicy, Refused, outcome_of, pause_until
from unhurried.upstream import shapes
from unhurried.upstream.errors import READ_AGAIN_MAX_S, error_answer, trouble_of
from unhurried.upstream.lines import LineCutter

WHOLE = st.sampled_from([b"0", b"7", b"null", b"-1", b"1.5"]) | NUMBERS
USAGES = named(
    {
        "input_tokens": WHOLE,
        "output_tokens": WHOLE,
        "cache_creation_input_tokens": WHOLE,
        "cache_read_input_tokens": WHOLE,
        "cache_creation": WHOLE.map(lambda n: b'{"ephemeral_1h_input_tokens":%s}' % n),
    }
)
MESSAGES = named({"stop_reason": STRINGS, "usage": USAGES, "content": VALUES})
ERRORS = STRINGS.map(lambda kind: b'{"type":"error","error":{"type":%s,"message":"m"}}' % kind)
KINDS = st.sampled_from([b'"succeeded"', b'"errored"', b'"canceled"', b'"expired"', b'"superseded"', b'"open"'])
RESULTS = named({"type": KINDS | STRINGS, "message": MESSAGES, "error": ERRORS | VALUES})
IDS = st.just(b'"%s"' % OURS) | STRINGS
LINES = st.one_of(
    damaged(named({"custom_id": IDS, "result": RESULTS})),
    damaged(st.builds(lambda id, result: b'{"custom_id":%s,"result":%s}' % (id, result), IDS, RESULTS)),
    st.binary(max_size=60),
)  # fmt: skip


def read(line: bytes) -> Result | None:
    with contextlib.suppress(BadLine):
        return read_line(line)
    return None


def succeeded(usage: bytes) -> bytes:
    return b'{"custom_id":"%s","result":{"type":"succeeded","message":{"usage":%s}}}' % (OURS, usage)


@effort(200)
@given(line=LINES)
@example(succeeded(b'{"input_tokens":9223372036854775808}'))
@example(succeeded(b'{"input_tokens":%s}' % (b"9" * 30)))
@example(succeeded(b'{"input_tokens":-9223372036854775809}'))
@example(
    succeeded(b'{"cache_creation_input_tokens":-9223372036854775808,"cache_creation":{"ephemeral_1h_input_tokens":1}}')
)
@example(succeeded(b'{"x":%s}' % (b"9" * 5_000)))
@example(succeeded(b'{"x":"\xff"}'))
@example(b'{"custom_id":"%s","result":{"type":"succeeded","type":"errored"}}' % OURS)
def test_any_bytes_are_a_result_or_a_bad_line(line: bytes) -> None:
    result = read(line)
    if result is None:
        nonce_of(line)
        return
    assert result.body in line
    assert result.state not in (AttemptState.OPEN, AttemptState.SUPERSEDED)
    assert nonce_of(line) == result.nonce
    with contextlib.suppress(ValueError, RecursionError):  # what the result says beside its kind is passed on unread
        whole = strict(line)
        assert isinstance(whole, dict) and strict(result.body) == whole["result"]
        assert f"{result.nonce}-{result.request_id}" == whole["custom_id"] or not whole["custom_id"].startswith(NONCE)
        kind = whole["result"]["type"]
        assert result.state == kind or result.error_type == f"unknown_result_{kind[:40]}"


@effort(60)
@given(lines=st.lists(st.builds(succeeded, USAGES) | LINES, min_size=1, max_size=5))
@example([succeeded(b'{"input_tokens":9223372036854775807}')] * 2)
def test_what_is_read_of_a_result_can_be_stored(lines: list[bytes]) -> None:
    """In columns of 64 bits, each of them and their sum: a number that is not taken would end the daemon, each time."""
    results = [result for line in lines if (result := read(line)) is not None]
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("create table t (body blob, kind text, stop text, a int, b int, c int, d int, e int) strict")
        for result in results:
            row = (result.body, result.error_type, result.stop_reason, *tokens_of([result.usage]))
            db.execute("insert into t values (?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("select sum(a), sum(b), sum(c), sum(d), sum(e) from t").fetchone()


def _cut(parts: list[bytes]) -> list[bytes]:
    cutter = LineCutter()
    return [line for part in [*parts, b"\n"] for line in cutter.feed(part)]


@effort(50)
@given(stream=st.lists(LINES | st.sampled_from([b"", b" ", b"\r", b"\t\r"]), max_size=5), cuts=CUTS)
def test_a_stream_of_results_means_the_same_however_the_network_cuts_it(stream: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(stream)
    expected = [line for line in data.split(b"\n") if line.strip(b" \t\n\r\v\f")]
    assert _cut(pieces(data, cuts)) == _cut([data]) == expected


COUNTS = named(dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), WHOLE))
TIMES = st.sampled_from([b'"2026-11-22T08:00:00Z"', b'"2026-11-22T08:00:00"', b'"9999-12-31T23:59:59-23:59"']) | STRINGS
BATCHES = named(
    {
        "id": STRINGS,
        "processing_status": STRINGS,
        "request_counts": COUNTS,
        "created_at": TIMES,
        "expires_at": TIMES,
        "ended_at": TIMES,
        "results_url": STRINGS,
        "archived_at": TIMES,
    }
)


@effort(120)
@given(body=damaged(BATCHES) | st.binary(max_size=30))
@example(
    b'{"id":"b","processing_status":"ended","created_at":"2026-11-22T08:00:00Z","expires_at":"2026-11-22T08:00:00Z",'
    b'"request_counts":{"processing":0,"succeeded":9223372036854775808,"errored":0,"canceled":0,"expired":0}}'
)
def test_any_answer_about_a_batch_is_a_sighting_that_can_be_stored_or_of_a_bad_shape(body: bytes) -> None:
    with contextlib.suppress(shapes.BadShape):
        seen = shapes.sighting(body)
        assert 0 <= seen.total < 2**63
        assert all(abs(at) < 2**63 for at in (seen.created_at, seen.expires_at, seen.ended_at or 0))
        assert shapes.page(b'{"has_more":true,"data":[%s]}' % body) == ([seen], True)
    with contextlib.suppress(shapes.BadShape):
        assert shapes.new_batch(body)[0]


@effort(120)
@given(
    body=damaged(named({"error": named({"type": STRINGS, "message": STRINGS, "details": VALUES})})),
    retry=st.sampled_from(["1e300", "1e30", "-1", "nan", "inf", "0", "", "Sun, 22 Nov 9999 08:00:00 GMT"])
    | st.text(max_size=9),
    name=st.sampled_from(["retry-after", "retry-after-ms", "date"]),
)
@example(b"", "1e300", "retry-after")
def test_any_error_answer_is_read_and_its_pause_is_one_that_can_be_kept(body: bytes, retry: str, name: str) -> None:
    answer = error_answer(429, {name: retry}, body)
    assert answer.body in body
    waits_s = trouble_of(answer, "GET /", None).retry_after_s
    assert waits_s is None or 0 <= waits_s <= READ_AGAIN_MAX_S
    refused = outcome_of(answer)
    assert isinstance(refused, Refused)
    until = pause_until(refused, 0, PausePolicy(account_s=1, unreachable_s=1, longest_s=1), NOW)
    assert until is not None and NOW < until <= after(NOW, RETRY_AFTER_MAX_S)


@effort(50)
@given(error_type=st.text(max_size=9), message=st.text(max_size=9))
def test_our_own_errors_are_read_like_upstreams(error_type: str, message: str) -> None:
    with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate, which none of ours has
        line = b'{"custom_id":"%s","result":%s}' % (OURS, our_error(error_type, message))
        result = read_line(line)
        assert (result.nonce, result.request_id, result.error_type) == (NONCE, ID, error_type)
