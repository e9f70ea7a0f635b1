"""What becomes of each request of a batch: decided while its create arrives, by seed, turnaround and faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec


class ResultType(StrEnum):
    """The four result types of a batch."""

    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    CANCELED = "canceled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Outcome:
    """How one request ends. Shared by all requests that end alike; compared by value."""

    type: ResultType
    error_type: str = ""
    message: str = ""
    """Of the error; empty unless ``errored``."""
    stop_reason: str = "end_turn"
    refusal: str = ""
    """``stop_details.category``; empty unless the stop reason is ``refusal``."""


SUCCEEDED: Final = Outcome(ResultType.SUCCEEDED)
CANCELED: Final = Outcome(ResultType.CANCELED)
EXPIRED: Final = Outcome(ResultType.EXPIRED)


@lru_cache(maxsize=4096)
def errored(error_type: str, message: str) -> Outcome:
    """An ``errored`` outcome, one object for all requests that fail alike."""
    return Outcome(ResultType.ERRORED, error_type, message)


class Item(msgspec.Struct, frozen=True, gc=False):
    """What is kept of one request: no body, only what answering and the ledger need.

    A struct without garbage collection: a hundred thousand dataclasses a batch make every collection a stall.
    """

    custom_id: str
    model: str
    input_tokens: int
    output_tokens: int
    params_sha256: bytes
    """Over the params exactly as they arrived."""
    excerpt: str
    """The first characters of the last message, as a JSON string with its quotes."""
    finishes_s: float
    """Seconds after creation at which the model is done with it."""
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Evenly spread draws by position: a fraction of 0.3 of ten requests is three of them; a seed decides which."""

    salt: int

    def draw(self, index: int) -> float:
        """A number in [0, 1) for the request at ``index``."""
        return ((index * 2654435769 + self.salt) & 0xFFFFFFFF) / 4294967296.0


Rule = Callable[[int, str, bytes], Outcome | None]
"""(position in the batch, model, sha256 of the params) → the outcome, or None to leave it to the next rule."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the requests of one batch will end: the first rule that speaks wins, then the clock decides."""

    turnaround_s: Callable[[str], float]
    """Model → longest turnaround in simulated seconds."""
    lifetime_s: float
    """What is not done after this long is expired."""
    chance: Chance
    rules: Sequence[Rule] = ()
    lasts_whole_life: bool = False
    """The batch ends only when its lifetime is over, as one with expired requests does upstream."""

    def end(self, index: int, model: str, turnaround_s: float, params_sha256: bytes) -> tuple[float, Outcome]:
        """When the request is done, between half and the whole of the turnaround, and how, if nobody cancels it."""
        finishes_s = turnaround_s * (0.5 + 0.5 * self.chance.draw(index))
        for rule in self.rules:
            if (outcome := rule(index, model, params_sha256)) is not None:
                return finishes_s, outcome
        return finishes_s, SUCCEEDED if finishes_s <= self.lifetime_s else EXPIRED
