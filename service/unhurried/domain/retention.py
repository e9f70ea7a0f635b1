"""How long what was handled is kept.

A request goes some days after its newest delivery came to its end. What nobody has fetched is kept for ever, unless its
queue says otherwise; then its delivery is canceled first, visibly, and the request goes its way like any other.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from unhurried.clock import Ms, after
from unhurried.domain.states import DeliveryState

DAY_S: Final = 86_400.0
BATCH_DAYS: Final = 35.0
"""A batch is remembered for so long after it was made: upstream keeps results for 29 days, and until then a late twin
of it, or a stranger that looks like it, may turn up in the list."""

ENDED: Final = frozenset({DeliveryState.DELIVERED, DeliveryState.CANCELED})
UNREAD: Final = frozenset({DeliveryState.PENDING, DeliveryState.DEAD})
"""Not ``sending``: it is in somebody's hands just now."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Of one queue. ``unread_s`` None: for ever."""

    retention_s: float
    unread_s: float | None


class Verdict(StrEnum):
    KEEP = "keep"
    CANCEL = "cancel"
    """The delivery: nobody has fetched it for too long."""
    FORGET = "forget"
    """The request, and all that belongs to it."""


def verdict(state: DeliveryState, created_at: Ms, finished_at: Ms | None, rule: Rule, now: Ms) -> Verdict:
    """What becomes of a request by its newest delivery."""
    if state in ENDED and finished_at is not None and after(finished_at, rule.retention_s) <= now:
        return Verdict.FORGET
    if state in UNREAD and rule.unread_s is not None and after(created_at, rule.unread_s) <= now:
        return Verdict.CANCEL
    return Verdict.KEEP
