"""What the poller writes of batches that exist upstream."""

import sqlite3

from unhurried.clock import Ms
from unhurried.domain.batch import BatchId
from unhurried.domain.settling import Sighting
from unhurried.domain.states import BatchState
from unhurried.store.records import OpenBatch
from unhurried.store.sqlite.forming import BATCH_COLUMNS, BATCH_FROM, batch_by_id, batch_of
from unhurried.store.sqlite.tx import Tx

ACTOR = "poller"


def open_batches(db: sqlite3.Connection) -> list[OpenBatch]:
    """Batches that exist upstream and still owe results, oldest first."""
    rows = db.execute(
        # The members of a late twin were given up and are not counted as open: what came for them is counted instead.
        "select case b.late when 0 then b.requests - b.members_open else (select count(*) from attempts a"
        " where a.batch_seq = b.seq and a.state not in ('open', 'superseded')) end,"
        " b.cancels, b.not_found_at, b.not_found, b.expected_lines, b.failures, b.next_try_at, b.upstream_expires_at,"
        f" {BATCH_COLUMNS} {BATCH_FROM}"
        " where b.state in ('in_progress', 'canceling', 'ended') and b.finished_at is null order by b.seq"
    )
    found = []
    for (
        accounted,
        cancels,
        not_found_at,
        not_found,
        expected_lines,
        failures,
        next_try_at,
        expires_at,
        *columns,
    ) in rows:
        batch = batch_of(tuple(columns))
        found.append(
            OpenBatch(
                batch=batch,
                members_open=batch.members_open,
                accounted=accounted,
                cancels=cancels,
                not_found_at=not_found_at,
                not_found=not_found,
                expected_lines=expected_lines,
                failures=failures,
                next_try_at=next_try_at,
                expires_at=expires_at,
            )
        )
    return found


def record_seen(tx: Tx, batch_id: BatchId, sighting: Sighting, now: Ms) -> None:
    """Found upstream and not ended: what upstream says of it, and the end of any doubt whether it is there."""
    tx.db.execute(
        "update batches set upstream_expires_at = ?, upstream_created_at = ?, not_found_at = null, not_found = 0"
        " where id = ? and state in ('in_progress', 'canceling')",
        (sighting.expires_at, sighting.created_at, batch_id),
    )
    batch = batch_by_id(tx.db, batch_id)
    # One that is adopted and not proved may be a stranger's, and must be able to become unknown again.
    if sighting.canceling and batch is not None and batch.proved and batch.state is BatchState.IN_PROGRESS:
        detail = "upstream is canceling it"
        tx.move_batch(batch_id, BatchState.IN_PROGRESS, BatchState.CANCELING, at=now, actor=ACTOR, detail=detail)


def record_cancel_sent(tx: Tx, batch_id: BatchId, now: Ms) -> None:
    tx.move_batch(
        batch_id,
        BatchState.IN_PROGRESS,
        BatchState.CANCELING,
        at=now,
        actor=ACTOR,
        detail="every caller asked to cancel",
    )


def record_ended(tx: Tx, batch_id: BatchId, sighting: Sighting, now: Ms) -> None:
    """Upstream has finished it: from now on its results are collected."""
    batch = batch_by_id(tx.db, batch_id)
    if batch is None or batch.state not in (BatchState.IN_PROGRESS, BatchState.CANCELING):
        return
    tx.move_batch(
        batch_id,
        batch.state,
        BatchState.ENDED,
        at=now,
        actor=ACTOR,
        sets={
            "upstream_created_at": sighting.created_at,
            "upstream_expires_at": sighting.expires_at,
            "upstream_ended_at": sighting.ended_at or sighting.created_at,
            "expected_lines": sighting.total,
            "not_found_at": None,
            "not_found": 0,
            "failures": 0,
            "next_try_at": 0,
        },
    )


def record_not_found(tx: Tx, batch_id: BatchId, now: Ms) -> None:
    tx.db.execute(
        "update batches set not_found_at = coalesce(not_found_at, ?), not_found = not_found + 1 where id = ?",
        (now, batch_id),
    )


def record_other_answer(tx: Tx, batch_id: BatchId) -> None:
    """Upstream said something else than 404: whatever that was, the 404s are no longer in a row."""
    tx.db.execute("update batches set not_found_at = null, not_found = 0 where id = ?", (batch_id,))


def record_gone(tx: Tx, batch_id: BatchId, reason: str, now: Ms) -> None:
    batch = batch_by_id(tx.db, batch_id)
    if batch is not None and batch.state in (BatchState.IN_PROGRESS, BatchState.CANCELING, BatchState.ENDED):
        tx.move_batch(batch_id, batch.state, BatchState.GONE, at=now, actor=ACTOR, detail=reason)


def prove(tx: Tx, batch_id: BatchId, now: Ms) -> None:
    done = tx.db.execute("update batches set proved = 1 where id = ? and proved = 0", (batch_id,))
    if done.rowcount:
        tx.event(now, ACTOR, "batch", batch_id, "batch.proved", detail="its first result line shows our nonce")


def record_read_failure(tx: Tx, batch_id: BatchId, detail: str, next_try_at: Ms, now: Ms) -> None:
    tx.db.execute(
        "update batches set failures = failures + 1, next_try_at = ?, detail = ? where id = ?",
        (next_try_at, detail[:500], batch_id),
    )
    tx.event(now, ACTOR, "batch", batch_id, "batch.read_failed", detail=detail)
