"""A connection on which an answer has a limit, whatever it is made of: headers, interim answers, body, chunk signs."""

import ssl
from typing import Any, Final

import httpcore2

ANSWER_BYTES_MAX: Final = 16_384
"""Node reads no more headers than that. Parsing is the limit, not memory: 64 kB of tiny headers held the event loop up
for a fifth of a second (measured with httpcore2 2.16)."""


class Bounded(httpcore2.AsyncNetworkStream):
    """Fails with ``ReadError`` once more than ``ANSWER_BYTES_MAX`` bytes came since the last write.

    Counted here and not by the headers or the body, because an endless row of ``103 Early Hints`` is neither. TLS is
    inside: the bytes counted are those of HTTP.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = ANSWER_BYTES_MAX

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore2's
        if self._left <= 0:
            raise httpcore2.ReadError(f"an answer of more than {ANSWER_BYTES_MAX:,} bytes")
        data = await self._stream.read(min(max_bytes, self._left), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._left = ANSWER_BYTES_MAX
        await self._stream.write(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        return Bounded(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
