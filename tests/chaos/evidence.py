"""What was seen of one world, from outside wherever that can be: by callers, receivers, upstream; then on disk."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.plan import Piece

FINAL: Final = frozenset({"succeeded", "errored", "expired", "canceled"})


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A result that somebody has in hand. ``delivery_id`` is unknown to those who waited for their request."""

    request_id: str
    delivery_id: str | None
    custom_id: str | None
    state: str
    result: bytes
    via: str


@dataclass(frozen=True, kw_only=True)
class Created:
    """One request of one batch that exists upstream, as the simulator's ledger has it."""

    request_id: str
    batch_id: str
    params_sha256: str
    billed: bool


@dataclass(frozen=True, kw_only=True)
class UpstreamBatch:
    """``late``: it appeared after the settlement time. ``deleted``: by somebody. ``known``: the daemon has found it."""

    late: bool = False
    deleted: bool = False
    known: bool = True


@dataclass(frozen=True, kw_only=True)
class Row:
    """A request in the database. ``delivery`` is the number of its newest delivery, ``delivered`` its state."""

    custom_id: str | None
    state: str
    generation: int
    delivery: int
    delivered: str | None
    erased: bool
    waste: int
    """Attempts that upstream billed and that are not the outcome: what the daemon reports as paid in vain."""


@dataclass
class Acts:
    """Request ids by what somebody asked for them, whether the answer came or not."""

    canceled: set[str] = field(default_factory=set)
    retried: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    redelivered: set[str] = field(default_factory=set)
    done: int = 0


class Notes:
    """What callers and receivers write down while the world runs. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answered: dict[str, set[str]] = defaultdict(set)
        self.receipts: list[Receipt] = []
        self.acts = Acts()
        self.complaints: list[str] = []
        self.refused: list[str] = []

    def accepted(self, key: str, request_id: str) -> None:
        with self._lock:
            self.answered[key].add(request_id)

    def received(self, receipt: Receipt) -> None:
        with self._lock:
            self.receipts.append(receipt)

    def complain(self, says: str) -> None:
        with self._lock:
            self.complaints.append(says)

    def ids(self) -> list[str]:
        """Of every accepted request, in the order of their keys' first answers."""
        with self._lock:
            return [next(iter(ids)) for ids in self.answered.values()]

    def in_hand(self) -> list[Receipt]:
        with self._lock:
            return list(self.receipts)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """``answered``: key → ids that the daemon gave for it. ``lines``: request id → upstream's results of it."""

    pieces: Mapping[str, Piece]
    answered: Mapping[str, set[str]]
    receipts: list[Receipt]
    created: list[Created]
    batches: Mapping[str, UpstreamBatch]
    lines: Mapping[str, set[bytes]]
    rows: Mapping[str, Row]
    acts: Acts
    complaints: list[str] = field(default_factory=list)
    """Found while the world ran: an exit code, a doctor's complaint, a secret in a log, work that did not end."""
