"""Bodies of creates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from unhurried.upstream import Upstream


class Pages:
    """A body in pages that remembers how far it was read and whether it was closed."""

    def __init__(self, pages: list[bytes], error: Exception | None = None, error_at: int = 0) -> None:
        self.pages, self.error, self.error_at = pages, error, error_at
        self.taken = 0
        self.closed = False

    @property
    def length(self) -> int:
        return sum(map(len, self.pages))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for page in self.pages:
                if self.error is not None and self.taken == self.error_at:
                    raise self.error
                self.taken += 1
                await asyncio.sleep(0)
                yield page
        finally:
            self.closed = True


BODY = [b'{"requests":[', b'{"custom_id":"n-1","params":{"model":"\xc3\xa9"}}', b"]}"]


async def create(upstream: Upstream, pages: Pages | None = None, *, beta: str = "", version: str = "2023-06-01") -> Any:
    """Make the one create a test is about."""
    pages = pages if pages is not None else Pages(BODY)
    content = aiter(pages)
    return await upstream.create(
        anthropic_version=version, anthropic_beta=beta, content=content, content_length=pages.length
    )
