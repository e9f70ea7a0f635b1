"""Time, handed in: the rooms ask a ``Clock`` and never the operating system, so a test can choose the moment."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import NewType, Protocol

Ms = NewType("Ms", int)
"""A moment: whole milliseconds since 1970-01-01T00:00:00Z. The one form in which times are stored and compared."""


class Clock(Protocol):
    def now(self) -> Ms:
        """The present moment by the wall clock; it may jump."""
        ...

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        """Return when ``wake`` is set or when ``seconds`` have passed on a clock that never jumps."""
        ...


class SystemClock:
    def now(self) -> Ms:
        return Ms(time.time_ns() // 1_000_000)

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)  # a busy loop still lets the others run
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()


def after(moment: Ms, seconds: float) -> Ms:
    """The moment ``seconds`` later (earlier when negative), rounded to a millisecond."""
    return Ms(moment + round(seconds * 1000))


def seconds_between(start: Ms, end: Ms) -> float:
    return (end - start) / 1000


def rfc3339(moment: Ms) -> str:
    """``2026-11-22T08:00:00.123Z``."""
    whole, ms = divmod(moment, 1000)
    return f"{datetime.fromtimestamp(whole, UTC).isoformat()[:19]}.{ms:03d}Z"  # strftime takes three times as long


def parse_rfc3339(text: str) -> Ms:
    """The moment named by an RFC 3339 timestamp. Raises ``ValueError`` for any other text, or one without a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write it as 2026-11-22T08:00:00Z")
    return Ms(round(moment.timestamp() * 1000))
