"""One simulated Message Batch: its states follow from the clock, nothing runs in the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from unhurried.simulator.clock import rfc3339
from unhurried.simulator.outcomes import CANCELED, Item, Outcome
from unhurried.simulator.tally import Tally

LIFETIME_S: Final = 24 * 3600.0
RESULTS_LIFETIME_S: Final = 29 * 24 * 3600.0
"""Counted from creation, not from the end."""


class Status(StrEnum):
    """``processing_status``."""

    IN_PROGRESS = "in_progress"
    CANCELING = "canceling"
    ENDED = "ended"


@dataclass(kw_only=True, eq=False)
class Batch:
    """Mutable: someone may cancel, end or delete it. Times are simulated seconds since the epoch."""

    id: str
    sequence: int
    """Position of its creation; orders batches of one instant."""
    items: Sequence[Item]
    tally: Tally
    """How its requests end; counted anew only after a cancel."""
    created_at: float
    """May lie in the future for a create that is still on its way: until then nobody sees the batch."""
    ends_at: float
    stranger: bool = False
    """Made by ``/simulator/batches`` or a fault, not by a create."""
    cancel_initiated_at: float | None = None
    cut_s: float | None = None
    """Requests that finish later than this after creation are canceled."""
    deleted_at: float | None = None
    """When someone deletes or has deleted it; may lie in the future."""
    results_read: int = field(default=0)
    """How often its results were asked for."""

    @property
    def expires_at(self) -> float:
        """24 hours after creation."""
        return self.created_at + LIFETIME_S

    def status(self, now: float) -> Status:
        """Where it stands at ``now``."""
        if now >= self.ends_at:
            return Status.ENDED
        return Status.IN_PROGRESS if self.cancel_initiated_at is None else Status.CANCELING

    def exists(self, now: float) -> bool:
        """Whether upstream knows it at ``now``."""
        return self.created_at <= now and not self.is_deleted(now)

    def is_deleted(self, now: float) -> bool:
        """Whether someone has deleted it by ``now``."""
        return self.deleted_at is not None and self.deleted_at <= now

    def has_results(self, now: float) -> bool:
        """Whether its results can be read: from its end until 29 days after its creation."""
        return self.status(now) is Status.ENDED and now < self.created_at + RESULTS_LIFETIME_S

    def outcome(self, item: Item) -> Outcome:
        """How ``item`` ends."""
        if self.cut_s is not None and item.finishes_s > self.cut_s:
            return CANCELED
        return item.outcome

    def cancel(self, now: float, takes_s: float) -> None:
        """Stop what is not finished at ``now``; the batch ends at most ``takes_s`` later. Again is harmless."""
        if self.cancel_initiated_at is not None:
            return
        self.cancel_initiated_at = now
        self.cut_s = now - self.created_at
        self.ends_at = min(self.ends_at, now + takes_s)
        self.tally = Tally()
        for item in self.items:
            self.tally.add(item, self.outcome(item))

    def end(self, now: float) -> None:
        """End now, every request as it would have ended."""
        self.ends_at = min(self.ends_at, now)

    def shown(self, now: float) -> dict[str, Any]:
        """The batch object as upstream shows it at ``now``."""
        ended = self.status(now) is Status.ENDED
        archived_at = self.created_at + RESULTS_LIFETIME_S
        if ended:
            counts = {"processing": 0, **{type_.value: count for type_, count in self.tally.counts.items()}}
        else:
            counts = {"processing": len(self.items), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": self.status(now).value,
            "request_counts": counts,
            "created_at": rfc3339(self.created_at),
            "expires_at": rfc3339(self.expires_at),
            "ended_at": rfc3339(self.ends_at) if ended else None,
            "cancel_initiated_at": None if self.cancel_initiated_at is None else rfc3339(self.cancel_initiated_at),
            "archived_at": rfc3339(archived_at) if now >= archived_at else None,
            # Relative: the SDK follows it by whatever transport it came; an absolute one would leave its base_url.
            "results_url": f"/v1/messages/batches/{self.id}/results" if self.has_results(now) else None,
        }
