"""The simulated clock: starts at the real now or beside it, runs faster, and can be moved forward."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import formatdate


class SimulatedClock:
    """Time as the simulator tells it: seconds since the epoch, UTC."""

    def __init__(self, speed: float, offset_s: float = 0.0) -> None:
        """``speed`` is simulated seconds per real second; 1 is real time, 0 stands still but for ``advance``.

        ``offset_s``: how far ahead of ours it starts; below 0 it starts behind.
        """
        self.speed = speed
        self._started_at = time.time() + offset_s
        self._started_monotonic = time.monotonic()
        self._advanced_s = 0.0

    def now(self) -> float:
        """Simulated seconds since the epoch."""
        return self._started_at + (time.monotonic() - self._started_monotonic) * self.speed + self._advanced_s

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds`` (not negative: created batches must not lie in the future)."""
        if seconds < 0:
            raise ValueError("the simulated clock only moves forward")
        self._advanced_s += seconds


def rfc3339(at: float) -> str:
    """``2026-11-22T08:00:00.123456Z``, upstream's form of a time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def http_date(at: float) -> str:
    """``Sun, 22 Nov 2026 08:00:00 GMT``, the form of the ``Date`` header."""
    return formatdate(at, usegmt=True)
