"""What is sent: requests whose params have 2 KB, and the same over HTTP and for Redis."""

import json
from typing import Final

from tests.benchmarks.load import MARK

PARAMS_BYTES: Final = 2_000
MODEL: Final = "claude-haiku-4-5"
_WORDS: Final = (
    'Classify the ticket below; answer with one word.\n\nThe parcel came on time, but the "blue" one is red. '
)


def params(note: str = "") -> bytes:
    """The params of one request: ``PARAMS_BYTES`` of JSON, with ``note`` (its bytes counted) in the text."""

    def made(text: str) -> bytes:
        message = {"role": "user", "content": note + text}
        return json.dumps({"model": MODEL, "max_tokens": 256, "messages": [message]}).encode()

    text = _WORDS * 20
    while len(made(text)) > PARAMS_BYTES:
        text = text[: -max(1, (len(made(text)) - PARAMS_BYTES) // 2)]
    return made(text + "." * (PARAMS_BYTES - len(made(text))))


def envelope() -> bytes:
    """One request; its ``custom_id`` and its text are new each time that the load sends it."""
    mark = MARK.decode()
    return b'{"custom_id":"%s","params":%s}' % (MARK, params(mark))


def single() -> bytes:
    """``POST /queue/requests`` with one request."""
    return _post(b"application/json", envelope())


def bulk(lines: int) -> bytes:
    """``POST /queue/requests`` with many, one a line."""
    return _post(b"application/x-ndjson", b"\n".join([envelope()] * lines) + b"\n")


def rpush(times: int = 1) -> bytes:
    """Redis' RPUSH of one request, ``times`` over in one go."""
    value = envelope()
    return b"*3\r\n$5\r\nRPUSH\r\n$1\r\nq\r\n$%d\r\n%s\r\n" % (len(value), value) * times


def _post(media_type: bytes, body: bytes) -> bytes:
    return b"POST /queue/requests HTTP/1.1\r\nhost: unhurried\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        media_type,
        len(body),
        body,
    )
