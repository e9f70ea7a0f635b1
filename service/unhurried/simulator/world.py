"""All state of one simulator, and the rules that join it: time, batches, ledger, faults, holds."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from unhurried.simulator.batch import LIFETIME_S, Batch, Status
from unhurried.simulator.clock import SimulatedClock
from unhurried.simulator.errors import by_status, not_found
from unhurried.simulator.faults import Faults
from unhurried.simulator.holds import Holds
from unhurried.simulator.ledger import Ledger
from unhurried.simulator.outcomes import SUCCEEDED, Chance, Item, Outcome, Plan, Rule
from unhurried.simulator.rules import lasts_whole_life, rules_of
from unhurried.simulator.settings import Settings
from unhurried.simulator.tally import Tally

ID_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
ORGANIZATION_ID: Final = "org_simulator"
WORKSPACE_ID: Final = "wrkspc_simulator"
RATE_WINDOW_S: Final = 60.0
RATE_LIMIT_SHOWN: Final = 4_000
"""What the headers tell while no limit is set."""


class World:
    """One simulated upstream. Nothing of it is on disk."""

    def __init__(self, settings: Settings) -> None:
        """Fresh: no batch, no fault, no hold; the clock at the real now."""
        self.settings = settings
        self.clock = SimulatedClock(settings.speed, settings.clock_offset_s)
        self.ledger = Ledger()
        self.faults = Faults(settings.seed)
        self.holds = Holds()
        self.attempts: Counter[bytes] = Counter()
        """Digest of params → attempts seen while `errored_first_attempts` was set."""
        # Ids are the one thing that no seed decides: a simulator that was started again, or reset, must not give the
        # id of a batch that it has forgotten to another one.
        self._random = random.Random()
        self._batches: dict[str, Batch] = {}
        self._sequence = 0
        self._rate_window = 0.0
        self._rate_calls = 0

    # ids

    def new_id(self, prefix: str) -> str:
        """An opaque id such as ``msgbatch_01…``, never given before."""
        return f"{prefix}_01{''.join(self._random.choices(ID_ALPHABET, k=22))}"

    # batches

    def plan(self) -> Plan:
        """How the requests of the next create will end, by seed, turnaround and the faults set now."""
        salt = int.from_bytes(hashlib.sha256(f"{self.settings.seed} {self._sequence}".encode()).digest()[:4], "big")
        chance = Chance(salt=salt)
        waits = lasts_whole_life(self.faults)
        rules: Sequence[Rule] = rules_of(self.faults, chance, self.attempts)
        return Plan(
            turnaround_s=self.settings.turnaround_of,
            lifetime_s=LIFETIME_S,
            chance=chance,
            rules=rules,
            lasts_whole_life=waits,
        )

    def add_batch(
        self,
        items: Sequence[Item],
        tally: Tally,
        takes_s: float,
        *,
        stranger: bool = False,
        late_s: float = 0.0,
    ) -> Batch:
        """Create a batch that ends after ``takes_s``, visible ``late_s`` from now."""
        now = self.clock.now() + late_s
        self._sequence += 1
        batch = Batch(
            id=self.new_id("msgbatch"),
            sequence=self._sequence,
            items=items,
            tally=tally,
            created_at=now,
            ends_at=now + min(takes_s, LIFETIME_S),
            stranger=stranger,
        )
        self._batches[batch.id] = batch
        return batch

    def add_stranger(self, custom_ids: Sequence[str], model: str, takes_s: float | None = None) -> Batch:
        """A batch that somebody else creates on the same account."""
        tally = Tally()
        items = [_stranger_item(custom_id, model, SUCCEEDED) for custom_id in custom_ids]
        for item in items:
            tally.add(item, item.outcome)
        return self.add_batch(
            items, tally, self.settings.turnaround_of(model) if takes_s is None else takes_s, stranger=True
        )

    def batch(self, batch_id: str) -> Batch:
        """The batch as upstream knows it now. Raises ``ApiError`` 404."""
        batch = self._batches.get(batch_id)
        if batch is None or not batch.exists(self.clock.now()):
            raise not_found(f"Message Batch {batch_id} not found.")
        return batch

    def find(self, batch_id: str) -> Batch | None:
        """Any batch ever created, deleted and late ones too."""
        return self._batches.get(batch_id)

    def listed(self) -> list[Batch]:
        """Every batch created by now, deleted ones too (they keep their place as cursors), newest first."""
        now = self.clock.now()
        batches = [batch for batch in self._batches.values() if batch.created_at <= now]
        batches.sort(key=attrgetter("created_at", "sequence"), reverse=True)
        return batches

    def waiting_requests(self) -> int:
        """Requests of batches that have not ended."""
        now = self.clock.now()
        return sum(
            len(batch.items)
            for batch in self._batches.values()
            if batch.exists(now) and batch.status(now) is not Status.ENDED
        )

    # rate

    def count_call(self) -> None:
        """Count one call to the batch endpoints. Raises ``ApiError`` 429 above the rate limit, if one is set."""
        now = self.clock.now()
        if now >= self._rate_window + RATE_WINDOW_S:
            self._rate_window = now
            self._rate_calls = 0
        self._rate_calls += 1
        limit = self.settings.rate_limit
        if limit and self._rate_calls > limit:
            raise by_status(429, retry_after_s=max(1.0, round(self.rate_reset_at - now)))

    @property
    def rate_reset_at(self) -> float:
        """When the present window of the rate limit is over."""
        return self._rate_window + RATE_WINDOW_S

    def rate_shown(self) -> tuple[int, int]:
        """(limit, remaining) for the headers."""
        limit = self.settings.rate_limit or RATE_LIMIT_SHOWN
        return limit, max(0, limit - self._rate_calls)


def _stranger_item(custom_id: str, model: str, outcome: Outcome) -> Item:
    digest = hashlib.sha256(custom_id.encode()).digest()
    return Item(custom_id, model, 100, 100, digest, '"(a stranger)"', 0.0, outcome)
