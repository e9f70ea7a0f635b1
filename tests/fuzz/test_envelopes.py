"""What callers hand in: any bytes are a request or a refusal, and what is accepted is what upstream will read."""

import contextlib
import json

from hypothesis import example, given
from hypothesis import strategies as st

from tests.domain.test_accepting import ID, NOW, PARAMS
from tests.fuzz.effort import effort
from tests.fuzz.text import CUTS, SPACE, VALUES, damaged, named, pieces, strict
from unhurried.domain.batch import BODY_HEAD, BODY_TAIL, body_bytes, body_page
from unhurried.domain.request import IDEMPOTENCY_KEY_MAX, Defaults, NewRequest, Refusal, accept, betas, check_key
from unhurried.ingest.lines import TOO_LONG, Line, Lines
from unhurried.simulator import params as upstream

PLAIN = json.dumps(PARAMS).encode()
TEXTS = st.text(max_size=9).map(lambda text: json.dumps(text).encode())
MESSAGES = st.sampled_from(
    [b'[{"role":"user","content":"Hello"}]', b'[{"role":"assistant","content":[{"type":"document"}]}]', b"[]", b"[1]"]
)
BODIES = named(
    {
        "model": st.sampled_from([b'"claude-sonnet-5-5"', b'"m"', b'""']),
        "max_tokens": st.sampled_from([b"64", b"1", b"0", b"64.0", b"9" * 30]),
        "messages": MESSAGES,
        "stream": st.sampled_from([b"false", b"null", b"true"]),
    }
)
MOMENTS = st.one_of(
    st.datetimes().map(lambda at: json.dumps(at.isoformat() + "Z").encode()),
    st.sampled_from(
        [b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59-23:59"', b'"2027-W01-1T00:00:00Z"', b"null"]
    ),
    TEXTS,
)
ENVELOPES = named(
    {
        "params": BODIES,
        "custom_id": st.sampled_from([b'"a-1"', b"null"]) | TEXTS,
        "queue": st.sampled_from([b'"night"', b"null"]) | TEXTS,
        "deadline": MOMENTS,
        "not_before": MOMENTS,
        "priority": st.sampled_from([b"0", b"9", b"-10", b"null"]),
        "max_wait": st.sampled_from([b"null", b"60", b"0.0001", b"1e-300", b"-1"]),
        "deliver_to": st.sampled_from([b"null", b'"pull:x"', b'"webhook:app"']) | TEXTS,
        "metadata": VALUES,
        "idempotency_key": TEXTS,
        "anthropic_version": st.sampled_from([b"null", b'"2023-06-01"', b'"2026-10-21"', b'""']),
        "anthropic_beta": st.sampled_from([b"null", b'"a,b"', b'["b","a"]', b'[""]', b'","']),
    }
)
SHORT = st.builds(
    lambda space, params: b'{%s"params"%s:%s}' % (space, space, params), SPACE, damaged(BODIES) | damaged(VALUES)
)
LINES = damaged(ENVELOPES) | damaged(SHORT) | SHORT | st.binary(max_size=60)


def taken(line: bytes) -> NewRequest | None:
    with contextlib.suppress(Refusal):
        return accept(line, id=ID, now=NOW, defaults=Defaults(webhooks={"webhook:app"}))
    return None


@effort(250)
@given(line=LINES)
@example(b'{"params":{"model":"m","mod\\u0065l":"x","max_tokens":1,"messages":[1]}}')
@example(b'{"params":{},"p\\u0061rams":' + PLAIN + b"}")
@example(b'{"params":' + PLAIN[:-1] + b',"x":' + b"9" * 5_000 + b"}}")
@example(b'{"params":' + PLAIN[:-1] + b',"x":"\xed\xa0\x80"}}')
@example(b'{"params":' + PLAIN[:-1] + b',"x":"\\ud800"}}')
@example(b'{"params":' + PLAIN[:-1] + b',"x":1e999}}')
@example(b"\xef\xbb\xbf" + b'{"params":' + PLAIN + b"}")
def test_any_bytes_are_a_request_or_a_refusal(line: bytes) -> None:
    """And an accepted one says to the standard library, and to upstream, what it said to us."""
    request = taken(line)
    if request is None:
        return
    assert request.params in line
    envelope, params = strict(line), strict(request.params)
    assert isinstance(envelope, dict) and isinstance(params, dict)
    assert envelope["params"] == params
    assert (params["model"], params.get("stream") or False) == (request.model, False)
    assert isinstance(params["max_tokens"], int) and params["max_tokens"] >= 1
    assert (envelope.get("custom_id"), envelope.get("idempotency_key")) == (request.custom_id, request.idempotency_key)
    assert envelope.get("queue") in (None, request.queue)
    if request.metadata is not None:
        assert request.metadata in line and strict(request.metadata) == envelope["metadata"]
    read = upstream.read(request.params, version=request.anthropic_version, in_batch=True)
    assert (read.model, read.max_tokens) in ((params["model"], params["max_tokens"]), ("", 1))
    assert request.deadline_at > NOW and (request.not_before is None or NOW < request.not_before < request.deadline_at)


@effort(80)
@given(bodies=st.lists(SHORT, min_size=1, max_size=4))
def test_the_body_of_a_batch_of_accepted_requests_is_json(bodies: list[bytes]) -> None:
    """One request can not break out of its place, whatever its bytes are."""
    members = [
        (f"{ID[:-1]}{number}", request.params)
        for number, request in enumerate(map(taken, bodies))
        if request is not None
    ]
    if not members:
        return
    body = BODY_HEAD + body_page("abcdefghjkmn", members, first=True) + BODY_TAIL
    assert len(body) == body_bytes(len(members), sum(len(params) for _, params in members))
    whole = strict(body)
    assert isinstance(whole, dict) and list(whole) == ["requests"]
    assert [(one["custom_id"], one["params"]) for one in whole["requests"]] == [
        (f"abcdefghjkmn-{id}", strict(params)) for id, params in members
    ]


def _lines(parts: list[bytes], longest: int) -> list[Line]:
    lines = Lines(longest)
    found = [line for part in parts for line in lines.feed(part)]
    return found + lines.end()


@effort(50)
@given(uploads=st.lists(LINES, max_size=4), cuts=CUTS, longest=st.sampled_from([20, 200, 100_000]))
def test_an_upload_means_the_same_however_the_network_cuts_it(
    uploads: list[bytes], cuts: list[int], longest: int
) -> None:
    data = b"\n".join(uploads)
    whole = _lines([data], longest)
    assert _lines(pieces(data, cuts), longest) == whole
    expected = data.split(b"\n") if not data.endswith(b"\n") and data else data.split(b"\n")[:-1]
    assert whole == [line if len(line) <= longest else TOO_LONG for line in expected]


@effort(200)
@given(key=st.text(max_size=260))
@example("\ud800")
@example("\N{NO-BREAK SPACE}")
@example("k" * IDEMPOTENCY_KEY_MAX)
def test_a_key_is_printable_and_short_or_refused(key: str) -> None:
    with contextlib.suppress(Refusal):
        check_key(key)
        assert 1 <= len(key) <= IDEMPOTENCY_KEY_MAX and key.encode() and "\n" not in key


@effort(200)
@given(given_betas=st.text(max_size=60) | st.lists(st.text(max_size=9), max_size=30))
def test_betas_are_one_line_of_a_header_or_refused(given_betas: str | list[str]) -> None:
    with contextlib.suppress(Refusal):
        line = betas(given_betas)
        assert line.isascii() and (line == "" or line.isprintable())
        assert betas(line) == line
