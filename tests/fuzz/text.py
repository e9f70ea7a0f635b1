"""JSON as nobody writes it, and bytes that are nearly JSON."""

import json

from hypothesis import strategies as st

NAMES = (
    "model", "max_tokens", "messages", "stream", "speed", "temperature", "top_p", "role", "content", "type",
    "citations",
    "params", "custom_id", "queue", "deadline", "max_wait", "not_before", "priority", "deliver_to", "metadata",
    "idempotency_key", "anthropic_version", "anthropic_beta", "result", "message", "usage", "error", "stop_reason",
    "input_tokens", "output_tokens", "cache_creation", "cache_creation_input_tokens", "ephemeral_1h_input_tokens", "a",
    "", "é", "\0", "\U0001f600",
)  # fmt: skip

SPACE = st.sampled_from([b"", b"", b"", b" ", b"\t", b"\r", b"\n", b"\r\n  "])
NUMBERS = st.sampled_from(
    [
        b"0", b"-0", b"1", b"64", b"-1", b"1.0", b"1e2", b"1E-2", b"0.1", b"1e308", b"1e309", b"-1e999", b"1e-999",
        b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809",
        b"18446744073709551616", b"9" * 30, b"9" * 400, b"9" * 5_000, b"01", b"1.", b".5", b"+1", b"NaN", b"Infinity",
        b"0x10", b"1_0",
    ]
)  # fmt: skip
STRINGS = st.one_of(
    st.sampled_from([json.dumps(name).encode() for name in NAMES]),
    st.text(max_size=8).map(lambda text: json.dumps(text).encode()),
    st.text(max_size=8, alphabet=st.characters(exclude_categories=["Cs"])).map(
        lambda text: json.dumps(text, ensure_ascii=False).encode()
    ),
    st.sampled_from(
        [
            rb'"\u0000"', rb'"\ud83d\ude00"', rb'"\ud800"', rb'"\udc00"', rb'"\ud800\ud800"', rb'"\ud800x"',
            rb'"\uD83D\u"',
            rb'"\x"', rb'"\/"', rb'"mod\u0065l"', rb'"max\u005ftokens"', b'"\x00"', b'"\x1f"', b'"\x7f"', b'"\xff"',
            b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x80\xa8"', b'"', b"'a'", b'"a\nb"',
            b'"claude-sonnet-5-5"', b'"2023-06-01"', b'"2026-10-21"', b'"2027-01-01T00:00:00Z"', b'"user"',
            b'"assistant"',
            b'"document"', b'"succeeded"', b'"errored"', b'"pull:x"', b'"webhook:app"',
        ]
    ),
)  # fmt: skip
DEPTHS = st.integers(1, 5_000)
DEEP = st.one_of(
    DEPTHS.map(lambda depth: b"[" * depth + b"]" * depth),
    DEPTHS.map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
)
PLAIN = st.one_of(
    st.sampled_from([b"null", b"true", b"false", b"nul", b"True", b"", b"{}", b"[]"]), NUMBERS, STRINGS, STRINGS
)


def _listed(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def object_of(pairs: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """Of (name as it is written, white space, value). A name may come twice."""
    return b"{" + b",".join(name + space + b":" + space + value for name, space, value in pairs) + b"}"


VALUES: st.SearchStrategy[bytes] = st.recursive(
    PLAIN | DEEP,
    lambda inner: (
        st.lists(inner, max_size=3).map(_listed) | st.lists(st.tuples(STRINGS, SPACE, inner), max_size=4).map(object_of)
    ),
    max_leaves=10,
)


def named(
    fields: dict[str, st.SearchStrategy[bytes]], more: st.SearchStrategy[bytes] = VALUES
) -> st.SearchStrategy[bytes]:
    """An object that mostly has these fields: in any order, some missing, twice, or with another value."""

    @st.composite
    def drawn(draw: st.DrawFn) -> bytes:
        names = draw(st.permutations(sorted(fields)))
        if draw(st.booleans()):
            names = [*names, draw(st.sampled_from(sorted(fields)))]
        if not draw(st.integers(0, 5)):
            names.pop(draw(st.integers(0, len(names) - 1)))
        pairs = []
        for name in names:
            written = json.dumps(name).encode()
            if not draw(st.integers(0, 7)):
                written = b'"\\u%04x' % ord(name[0]) + written[2:]  # the same name, written in another way
            value = draw(fields[name] if draw(st.integers(0, 7)) else VALUES)
            pairs.append((written, draw(SPACE), value))
        if not draw(st.integers(0, 3)):
            pairs.append((draw(STRINGS), b"", draw(VALUES)))
        return object_of(pairs)

    return drawn()


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Mostly whole; else cut, with bytes changed, put in, taken out, or put behind it."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 5]))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "flip", "insert", "drop", "double", "behind"])):
            case "cut":
                del data[place:]
            case "flip" if data:
                data[place % len(data)] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=4) | PLAIN)
            case "drop":
                del data[place : place + draw(st.integers(1, 4))]
            case "double":
                data[place:place] = data[place : place + 9]
            case _:
                data += draw(st.sampled_from([b" ", b"\n", b"\0", b"}", b",", b"{}", b"\xef\xbb\xbf"]))
    return bytes(data)


def strict(data: bytes) -> object:
    """What the standard library reads: UTF-8, no NaN, the last of two fields of one name. Raises ``ValueError``."""

    def refused(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(data.decode(), parse_constant=refused)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes, cut at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


CUTS = st.lists(st.integers(0, 10_000), max_size=20)
