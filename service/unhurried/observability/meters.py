"""What this process did since its start, as plain numbers: an addition each, and no metrics library in any room.

``app`` hands each room the one method that it calls. To the room that is a function, and by default one that does
nothing. What the store did itself it keeps in ``contract.Work``.
"""

from collections import Counter
from typing import Final

from unhurried.counting import Histogram
from unhurried.domain.states import AttemptState
from unhurried.domain.submitting import No
from unhurried.store.records import StoredResults

CALL_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Of calls to upstream, an upload among them."""
RESULTS: Final = tuple(s.value for s in AttemptState if s not in (AttemptState.OPEN, AttemptState.SUPERSEDED))
SETTLED: Final = ("adopted", "abandoned", "late_twin", "second_copy")
TOKENS: Final = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")


class Meters:
    """Counts that are known beforehand begin at 0, so that the first one already shows as an increase."""

    def __init__(self) -> None:
        self.refusals = Counter[str]()
        self.calls = Counter[tuple[str, str]]()
        self.call_seconds: dict[str, Histogram] = {}
        self.creates = Counter(dict.fromkeys(("created", *No, "unknown"), 0))
        self.settled = Counter(dict.fromkeys(SETTLED, 0))
        self.results = Counter(dict.fromkeys((*RESULTS, "repeated", "foreign"), 0))
        self.requeued = 0
        self.wasted = 0
        self.tokens = Counter[tuple[str, str]]()
        self.attempts = Counter[tuple[str, str]]()
        """Of deliveries, by destination and outcome: the dispatcher's own, once it is there."""
        self.attempt_seconds: dict[str, Histogram] = {}

    def refused(self, code: str) -> None:
        """A caller was told no: a whole call, or one line of an upload in bulk."""
        self.refusals[code] += 1

    def upstream_answered(self, call: str, status: int | None, seconds: float) -> None:
        """A call to upstream came to the head of an answer after so long; ``status`` None: there was no answer."""
        self.calls[call, "none" if status is None else f"{status // 100}xx"] += 1
        if call not in self.call_seconds:
            self.call_seconds[call] = Histogram(CALL_BOUNDS_S)
        self.call_seconds[call].add(seconds)

    def create_ended(self, outcome: str) -> None:
        """``created``, ``unknown``, or the kind of a refusal."""
        self.creates[outcome] += 1

    def doubt_ended(self, how: str) -> None:
        """One of ``SETTLED``."""
        self.settled[how] += 1

    def results_stored(self, model: str, stored: StoredResults) -> None:
        """A chunk of result lines was stored, of a batch of that model."""
        self.results.update(stored.states)
        self.results["repeated"] += stored.skipped
        self.results["foreign"] += len(stored.foreign)
        self.requeued += stored.again
        self.wasted += stored.waste
        for kind, tokens in zip(TOKENS, stored.tokens, strict=True):
            self.tokens[model, kind] += tokens
