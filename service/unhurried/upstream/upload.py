"""The body of a create on its way, and how far it came."""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Final


class Upload:
    """Wraps the pages of a body, to know afterwards whether it was touched and whether the failure was our own."""

    def __init__(self, pages: AsyncIterator[bytes]) -> None:
        self._pages = pages
        self.handed_over = False
        """The HTTP client got the request. Before that the SDK only prepares it: it may have to fetch a token."""
        self.asked = False
        """The first page was asked for: from here on nobody can say that nothing was sent."""
        self.error: Exception | None = None
        """What the pages themselves raised. The SDK would report it as a failed connection."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.asked = True
        try:
            return await anext(self._pages)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.error = error
            raise

    async def aclose(self) -> None:
        """Let the store close its page when the upload ended early."""
        if (close := getattr(self._pages, "aclose", None)) is not None:
            await close()


current: Final[ContextVar[Upload | None]] = ContextVar("current", default=None)
"""The upload of the create that is being made in this task: the HTTP client's hooks see requests, not uploads."""
