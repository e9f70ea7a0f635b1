"""Heads of HTTP requests: headers and queries of any bytes are read or refused."""

import asyncio
import contextlib
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from tests.domain.test_accepting import NOW, envelope
from tests.fuzz.effort import effort
from unhurried.domain.request import Defaults as Said
from unhurried.domain.request import Refusal, accept, check_key
from unhurried.ingest import asgi
from unhurried.ingest.express import BODY_BYTES_MAX, _with_key, head_of
from unhurried.ingest.problems import Problem

VALUES = st.one_of(
    st.sampled_from([b"application/json", b"application/json; charset=utf-8", b"Application/JSON ;x", b"identity"]),
    st.sampled_from([b"0", b"00012", b"-1", b"+1", b"1 ", b"1_0", b"\xb2", b"65536", b"65537", b"9" * 30, b""]),
    st.binary(max_size=12),
)  # fmt: skip
NAMES = st.sampled_from(
    [
        b"content-type", b"content-type", b"content-length", b"content-length", b"idempotency-key", b"expect",
        b"upgrade",
        b"content-encoding", b"transfer-encoding", b"host", b"accept",
    ]
)  # fmt: skip
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@effort(300)
@given(headers=HEADERS)
@example([(b"content-type", b"application/json"), (b"content-length", b"\xb2")])
def test_the_express_lane_takes_only_what_is_small_plain_and_json(headers: list[tuple[bytes, bytes]]) -> None:
    head = head_of(headers)
    if head is None:
        return
    names = [name for name, _ in headers]
    assert not {b"expect", b"upgrade", b"content-encoding", b"transfer-encoding"} & set(names)
    assert names.count(b"idempotency-key") == (head.idempotency_key is not None)
    said = dict(headers)
    assert 0 <= int(said[b"content-length"]) <= BODY_BYTES_MAX
    assert said[b"content-type"].lower().startswith(b"application/json")


@effort(200)
@given(headers=HEADERS)
def test_any_headers_have_a_type_a_length_and_an_encoding_or_a_problem(headers: list[tuple[bytes, bytes]]) -> None:
    scope: dict[str, Any] = {"headers": headers}
    assert asgi.media_type(scope) == asgi.media_type(scope).strip().lower()
    length = asgi.content_length(scope)
    assert length is None or length >= 0
    with contextlib.suppress(Problem):
        asgi.require_plain(scope)
        assert (asgi.header(scope, b"content-encoding") or b"identity").strip().lower() == b"identity"


QUERIES = st.one_of(
    st.binary(max_size=30),
    st.lists(
        st.tuples(
            st.sampled_from([b"wait", b"limit", b"ack", b"w%61it", b"x", b"", b"%ff", b"%"]),
            st.sampled_from(
                [b"1", b"0", b"1e3", b"nan", b"inf", b"-0", b"1_0", b"%31", b"\xd9\xa1", b"true", b"TRUE", b""]
            ),
        ).map(lambda pair: pair[0] + b"=" + pair[1]),
        max_size=4,
    ).map(b"&".join),
)  # fmt: skip


@effort(300)
@given(text=QUERIES)
@example(b"wait=nan")
@example(b"limit=%D9%A1")
@example(b"wait=1&wait=1")
@example(b"&" * 2_000)
def test_any_query_is_numbers_within_bounds_or_a_problem(text: bytes) -> None:
    with contextlib.suppress(Problem):
        found = asgi.query({"query_string": text}, frozenset({"wait", "limit", "ack"}))
        assert found.keys() <= {"wait", "limit", "ack"}
        with contextlib.suppress(Problem):
            assert 0.0 <= asgi.number(found, "wait", 0.0, 0.0, 3_600.0) <= 3_600.0
        with contextlib.suppress(Problem):
            assert 1 <= asgi.whole(found, "limit", 100, 1, 1_000) <= 1_000
        with contextlib.suppress(Problem):
            assert asgi.flag(found, "ack") in (True, False)


PLAIN = accept(envelope(), id="i", now=NOW, defaults=Said())


@effort(200)
@given(key=st.binary(max_size=260) | st.text(max_size=260).map(lambda text: text.encode("utf-8", "replace")))
@example(b"\xed\xa0\x80")
@example("k\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"))
@example(b"a\x7f")
def test_any_key_in_a_header_is_the_key_of_the_request_or_refused(key: bytes) -> None:
    for body in (PLAIN, msgspec.structs.replace(PLAIN, idempotency_key="k")):
        with contextlib.suppress(Refusal):
            found = _with_key(body, key).idempotency_key
            assert found is not None and found.encode() == key
            check_key(found)


@effort(150)
@given(parts=st.lists(st.binary(max_size=30), max_size=6), limit=st.integers(0, 60), declared=VALUES, cut=st.booleans())
def test_a_body_in_any_parts_is_read_whole_or_refused_and_its_memory_is_given_back(
    parts: list[bytes], limit: int, declared: bytes, cut: bool
) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": cut or number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    memory = asgi.Memory(70)
    scope = {"headers": [(b"content-length", declared)]}
    try:
        body = asyncio.run(asgi.read_body(scope, receive, limit, memory))
    except (Problem, asgi.ClientGone):
        pass
    else:
        assert body == b"".join(parts) and len(body) <= limit and not cut
    memory.take(70)  # all of it is there again
