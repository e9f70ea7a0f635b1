"""The judge: what was promised, compared with what was seen. It knows nothing of how the daemon works."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.evidence import FINAL, Evidence, Receipt
from tests.chaos.plan import BRIEF, TEXT_CHARS

GONE: Final = "batch_gone"
NEVER: Final = frozenset({"missing_result"})
"""Nothing here makes upstream withhold a line for ever."""
REFUSALS: Final = frozenset({"invalid_request_error", "request_too_large"})
"""Said of a request alone in its batch when the whole batch was refused: there is no line upstream to compare."""


@dataclass
class Verdict:
    """Numbers of requests, but ``duplicates``: receipts beyond the first of a delivery."""

    accepted: int = 0
    delivered: int = 0
    lost: int = 0
    corrupted: int = 0
    spurious: int = 0
    paid_twice: int = 0
    late_twins: int = 0
    """Paid a second time for a batch that appeared after the settlement time, and reported by the daemon."""
    deleted_unseen: int = 0
    """Paid a second time because somebody deleted a batch that was still looked for: the list did not tell of it."""
    gone: int = 0
    duplicates: int = 0
    compared: int = 0
    """Results that were compared with upstream's own, byte for byte."""
    violations: list[str] = field(default_factory=list)

    def accuse(self, column: str, says: str) -> None:
        setattr(self, column, getattr(self, column) + 1)
        self.violations.append(says)


def judge(seen: Evidence) -> Verdict:
    """Every promise, one after the other."""
    verdict = Verdict(violations=list(seen.complaints))
    owner = _accepted(seen, verdict)
    _upstream(seen, owner, verdict)
    _receipts(seen, owner, verdict)
    _outcomes(seen, owner, verdict)
    _payments(seen, verdict)
    return verdict


def _accepted(seen: Evidence, verdict: Verdict) -> dict[str, str]:
    """Request id → key, of everything that was accepted: by the daemon's answers, and by what stands on disk."""
    owner: dict[str, str] = {}
    for key in seen.pieces:
        ids = seen.answered.get(key, set())
        if not ids:
            verdict.violations.append(f"{key}: its caller never had an answer")
        if len(ids) > 1:
            verdict.violations.append(f"{key}: one idempotency key has become {len(ids)} requests: {sorted(ids)}")
        owner.update(dict.fromkeys(ids, key))
    for id, row in seen.rows.items():
        if id not in owner and row.custom_id is not None:
            verdict.violations.append(f"{id} ({row.custom_id}): a second request for one idempotency key")
            owner[id] = row.custom_id
    verdict.accepted = len(owner)
    return owner


def _upstream(seen: Evidence, owner: dict[str, str], verdict: Verdict) -> None:
    """What reached upstream is what a caller sent, byte for byte."""
    digests = {key: hashlib.sha256(piece.params.encode()).hexdigest() for key, piece in seen.pieces.items()}
    for created in seen.created:
        key = owner.get(created.request_id)
        if key is None:
            verdict.accuse("spurious", f"{created.request_id}: upstream was asked, and nobody had")
        elif digests.get(key) != created.params_sha256:
            verdict.accuse("corrupted", f"{created.request_id} ({key}): upstream got other params than were sent")


def _receipts(seen: Evidence, owner: dict[str, str], verdict: Verdict) -> None:
    first: dict[str, Receipt] = {}
    for receipt in seen.receipts:
        key = owner.get(receipt.request_id)
        name = f"{receipt.delivery_id or receipt.request_id} ({key}, by {receipt.via})"
        if key is None:
            verdict.accuse("spurious", f"{name}: delivered, and never accepted")
            continue
        if receipt.custom_id not in (key, None):
            verdict.accuse("corrupted", f"{name}: it came as {receipt.custom_id}")
        for says in _content(seen, key, receipt, verdict):
            verdict.accuse("corrupted", f"{name}: {says}")
        if receipt.delivery_id is None:
            continue
        id, _, number = receipt.delivery_id.rpartition(".")
        touched = receipt.request_id in seen.acts.retried | seen.acts.redelivered
        if id != receipt.request_id or not number.isdecimal() or (number != "1" and not touched):
            verdict.violations.append(f"{name}: nobody asked for a second delivery")
        before = first.setdefault(receipt.delivery_id, receipt)
        if before is not receipt:
            verdict.duplicates += 1
            if (before.result, before.state) != (receipt.result, receipt.state):
                verdict.accuse("corrupted", f"{name}: the same delivery came with two contents")


def _content(seen: Evidence, key: str, receipt: Receipt, verdict: Verdict) -> Iterator[str]:
    """What is wrong with what was received."""
    result: dict[str, Any] = json.loads(receipt.result)
    if result.get("type") == "erased" and receipt.request_id in seen.acts.erased:
        return
    if result.get("type") != receipt.state:
        yield f"it is called {receipt.state} and says {result.get('type')}"
    if receipt.state == "succeeded":
        text = result["message"]["content"][0]["text"]
        if not text.startswith(seen.pieces[key].text[:TEXT_CHARS] + " | "):
            yield f"it answers another prompt: {text[:60]!r}"
    if receipt.result in seen.lines.get(receipt.request_id, ()):
        verdict.compared += 1
        return
    yield from _not_from_upstream(seen, receipt, result)


def _not_from_upstream(seen: Evidence, receipt: Receipt, result: dict[str, Any]) -> Iterator[str]:
    """Upstream shows no such line: then it must be an outcome of our own, or a line of a batch that was deleted."""
    deleted = any(
        seen.batches[created.batch_id].deleted for created in seen.created if created.request_id == receipt.request_id
    )
    kind = result["error"]["error"]["type"] if receipt.state == "errored" else ""
    if kind in NEVER:
        yield f"it was given up as {kind}, and upstream has a line for it"
    elif kind == GONE:
        if not deleted:
            yield "its batch was called gone, and upstream has it"
    elif receipt.state == "canceled":
        if receipt.request_id not in seen.acts.canceled and not deleted:
            yield "it was canceled, and nobody had asked for that"
    elif not deleted and kind not in REFUSALS:
        yield f"upstream has said no such thing: {receipt.result[:120]!r}"


def _outcomes(seen: Evidence, owner: dict[str, str], verdict: Verdict) -> None:
    """One outcome each, and that one delivered."""
    hands: dict[str, list[Receipt]] = defaultdict(list)
    for receipt in seen.receipts:
        hands[receipt.request_id].append(receipt)
    for id, key in owner.items():
        row, received = seen.rows.get(id), hands[id]
        if row is None:
            if seen.pieces[key].queue == BRIEF and received:
                verdict.delivered += 1
            else:
                verdict.accuse("lost", f"{id} ({key}): accepted, and nothing is left of it")
        elif row.state not in FINAL:
            verdict.accuse("lost", f"{id} ({key}): still {row.state}")
        elif row.erased:
            verdict.delivered += 1
        elif not any(_is_delivery(receipt, id, row.delivery) for receipt in received):
            verdict.accuse("lost", f"{id} ({key}): {row.state}, delivery {row.delivery} ({row.delivered}) never came")
        elif row.delivered != "delivered":
            verdict.violations.append(f"{id} ({key}): received and confirmed, and its delivery is {row.delivered}")
        else:
            verdict.delivered += 1
            verdict.gone += any(f'"{GONE}"'.encode() in receipt.result for receipt in received)


def _is_delivery(receipt: Receipt, id: str, number: int) -> bool:
    """Whoever waited for a request is not told the number; it is the first, where nobody asks for another."""
    return receipt.delivery_id == f"{id}.{number}" or (receipt.delivery_id is None and number == 1)


def _payments(seen: Evidence, verdict: Verdict) -> None:
    """Each request billed once by upstream, whatever nonces it travelled under."""
    billed: dict[str, list[str]] = defaultdict(list)
    for created in seen.created:
        if created.billed:
            billed[created.request_id].append(created.batch_id)
    copies = Counter((created.request_id, created.batch_id) for created in seen.created)
    for (id, batch_id), times in copies.items():
        if times > 1:
            verdict.accuse("paid_twice", f"{id}: {times} times in one batch {batch_id}")
    for id in sorted(billed.keys() | {id for id, row in seen.rows.items() if row.waste}):
        batches = billed[id]
        late = sum(seen.batches[batch].late for batch in batches)
        hidden = sum(seen.batches[batch].deleted and not seen.batches[batch].known for batch in batches)
        extra = max(len(batches) - 1, 0)
        in_vain = min(extra, late)
        unseen = min(extra - in_vain, hidden)
        if extra > in_vain + unseen:
            verdict.accuse("paid_twice", f"{id}: billed in {', '.join(batches)}")
        verdict.late_twins += in_vain
        verdict.deleted_unseen += unseen
        row = seen.rows.get(id)
        if row is not None and not hidden and row.waste != in_vain:
            verdict.violations.append(f"{id}: paid {in_vain} times in vain, and the daemon reports {row.waste}")
