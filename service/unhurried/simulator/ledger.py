"""What the simulator was asked, so that a test can prove "paid once" from the other side."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from unhurried.simulator import prices
from unhurried.simulator.batch import Batch, Status
from unhurried.simulator.clock import rfc3339
from unhurried.simulator.outcomes import Item, ResultType
from unhurried.simulator.tally import Tally

SLICE: Final = 5_000
"""Requests looked at between two turns of the event loop."""
EXAMPLES_MAX: Final = 20


@dataclass(kw_only=True, eq=False)
class Create:
    """One call of the create endpoint, however it went. Filled in while it goes."""

    at: float
    total: int = 0
    body_bytes: int = 0
    body_sha256: str = ""
    """Over the bytes that arrived."""
    complete: bool = False
    """The whole body arrived."""
    batch: Batch | None = None
    status: int | None = None
    """Of the answer; None when none was sent."""
    answered: bool = False
    """The whole answer was handed to a connection that was still open."""
    fault: str | None = None

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "at": rfc3339(self.at),
            "batch_id": None if self.batch is None else self.batch.id,
            "total": self.total,
            "body_bytes": self.body_bytes,
            "body_sha256": self.body_sha256,
            "complete": self.complete,
            "status": self.status,
            "answered": self.answered,
            "fault": self.fault,
        }


@dataclass(eq=False)
class Ledger:
    """All that was asked since the start or the last reset."""

    creates: list[Create] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    """Endpoint name → calls, refused ones included."""
    statuses: Counter[str] = field(default_factory=Counter)
    """``endpoint status`` → answers; ``none`` when no answer was sent."""
    messages: Tally = field(default_factory=Tally)
    """What Messages calls were billed."""

    def batches(self) -> list[Batch]:
        """The batches that creates have made, oldest first; strangers' are not among them."""
        return [create.batch for create in self.creates if create.batch is not None]

    async def shown(self, now: float, split: str) -> dict[str, Any]:
        """The ledger as JSON; ``split`` is what stands between the nonce and the request id of a custom_id."""
        batches = self.batches()
        billed = Tally()
        for batch in batches:
            if batch.status(now) is Status.ENDED:
                billed.join(batch.tally)
        return {
            "now": rfc3339(now),
            "creates": [create.shown() for create in self.creates],
            "calls": dict(self.calls),
            "statuses": dict(self.statuses),
            "totals": {
                "creates": len(self.creates),
                "creates_answered": sum(create.answered for create in self.creates),
                "batches": len(batches),
                "batches_ended": sum(batch.status(now) is Status.ENDED for batch in batches),
                "requests": sum(len(batch.items) for batch in batches),
                "outcomes": {type_.value: count for type_, count in billed.counts.items()},
            },
            "billed": billed.billed(discount=prices.BATCH_DISCOUNT),
            "messages": {"calls": self.calls["messages"], "billed": self.messages.billed(discount=1)},
            **await _more_than_once(batches, now, split),
        }

    async def requests(self, now: float) -> AsyncIterator[bytes]:
        """NDJSON of every request of every create that made a batch, in slices of whole lines."""
        encode = msgspec.json.encode
        for batch in self.batches():
            ended = batch.status(now) is Status.ENDED
            for slice_ in _slices(batch.items):
                lines = []
                for item in slice_:
                    outcome = batch.outcome(item)
                    line = {
                        "custom_id": item.custom_id,
                        "batch_id": batch.id,
                        "model": item.model,
                        "params_sha256": item.params_sha256.hex(),
                        "outcome": outcome.type.value if ended else None,
                        "error_type": outcome.error_type or None,
                        "billed": ended and outcome.type is ResultType.SUCCEEDED,
                    }
                    lines.append(encode(line))
                lines.append(b"")
                yield b"\n".join(lines)
                await asyncio.sleep(0)


async def _more_than_once(batches: Sequence[Batch], now: float, split: str) -> dict[str, Any]:
    """Which requests were created, and which were billed, in more than one batch.

    By custom_id means: by what follows the first ``split`` in it, because each submission has its own nonce. By digest
    means: by sha256 of the params, which says something only where all params differ.
    """
    created_id: Counter[str] = Counter()
    created_params: Counter[bytes] = Counter()
    billed_id: Counter[str] = Counter()
    billed_params: Counter[bytes] = Counter()
    for batch in batches:
        ended = batch.status(now) is Status.ENDED
        for slice_ in _slices(batch.items):
            ids = [item.custom_id.partition(split)[2] or item.custom_id if split else item.custom_id for item in slice_]
            created_id.update(ids)
            created_params.update([item.params_sha256 for item in slice_])
            if ended:
                paid = [batch.outcome(item).type is ResultType.SUCCEEDED for item in slice_]
                billed_id.update([id_ for id_, yes in zip(ids, paid, strict=True) if yes])
                billed_params.update([item.params_sha256 for item, yes in zip(slice_, paid, strict=True) if yes])
            await asyncio.sleep(0)
    return {
        "split": split,
        "requests_distinct": len(created_id),
        "requests_created_more_than_once": {
            "by_custom_id": _repeated(created_id),
            "by_params_sha256": _repeated({digest.hex(): n for digest, n in created_params.items() if n > 1}),
        },
        "requests_billed_more_than_once": {
            "by_custom_id": _repeated(billed_id),
            "by_params_sha256": _repeated({digest.hex(): n for digest, n in billed_params.items() if n > 1}),
        },
    }


def _repeated(counts: dict[str, int]) -> dict[str, Any]:
    repeated = {key: n for key, n in counts.items() if n > 1}
    return {"count": len(repeated), "examples": dict(list(repeated.items())[:EXAMPLES_MAX])}


def _slices(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), SLICE):
        yield items[start : start + SLICE]
