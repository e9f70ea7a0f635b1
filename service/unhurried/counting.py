"""Counting, as plain numbers: a room keeps them, the metrics read them. An addition costs a fraction of a microsecond.

For counts by a name, ``collections.Counter`` does; this is for how values are spread.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many values lay at or under each of some bounds, and their sum. Of fixed size, whatever it is given."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds``: upper ones, ascending."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Not added up: of each bound those above the one before; the last are beyond all bounds."""
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
