"""What callers and operators change at a word: cancel, flush, drain; and taking back what was not delivered."""

from unhurried.clock import Ms
from unhurried.domain.states import FINAL_REQUEST_STATES
from unhurried.store.records import Flushed
from unhurried.store.sqlite import setback
from unhurried.store.sqlite.collecting import cancel_queued
from unhurried.store.sqlite.submission import account
from unhurried.store.sqlite.tx import Tx, guard


def cancel(tx: Tx, request_id: str, actor: str, now: Ms) -> None:
    """Cancel a queued request; flag an assigned one, so that it is not sent again and, once all members of its batch
    are flagged, the batch is canceled upstream. A finished or unknown one is left alone."""
    row = tx.db.execute(
        "select seq, state, batch_seq, cancel_requested_at from requests where id = ?", (request_id,)
    ).fetchone()
    if row is None or row[1] in FINAL_REQUEST_STATES or row[3] is not None:
        return
    seq, state, batch_seq, _ = row
    tx.db.execute("update requests set cancel_requested_at = ? where seq = ?", (now, seq))
    tx.event(now, actor, "request", request_id, "request.cancel_asked", old=state)
    if state == "queued":
        cancel_queued(tx, request_id, now)
    else:
        tx.db.execute("update batches set cancels = cancels + 1 where seq = ?", (batch_seq,))


def ask_flush(tx: Tx, queue: str | None, model: str | None, actor: str, now: Ms) -> Flushed:
    rows = tx.db.execute(
        "select g.id, g.waiting_requests, q.name, q.paused_at is not null, q.pause_reason"
        " from groups g join queues q on q.id = g.queue_id"
        " where g.waiting_requests > 0 and (?1 is null or q.name = ?1) and (?2 is null or g.model = ?2)",
        (queue, model),
    ).fetchall()
    tx.db.executemany("update groups set flush_asked_at = ? where id = ?", [(now, id) for id, *_ in rows])
    requests = sum(waiting for _, waiting, *_ in rows)
    if rows:
        detail = f"{requests:,} request{'s' * (requests != 1)} in {len(rows):,} group{'s' * (len(rows) != 1)}"
        tx.event(now, actor, "queue", queue or "*", "queue.flush_asked", detail=detail)
    paid = account(tx.db)
    held: dict[str, int] = {}
    for _, waiting, name, paused, reason in rows:
        if paused:
            by = f"queue {name} is paused: {reason or 'no reason given'}"
        elif paid is not None and paid.restored:
            by = "the database was restored: what was sent since the copy was made is looked for first"
        elif paid is not None and paid.is_paused(now):
            by = f"the account is paused: {paid.pause_reason or 'no reason given'}"
        else:
            continue
        held[by] = held.get(by, 0) + waiting
    return Flushed(groups=len(rows), requests=requests, held=held)


def note_drain(tx: Tx, draining: bool, actor: str, now: Ms) -> None:
    """Draining itself is in memory; that it began and ended is on record."""
    tx.event(now, actor, "daemon", "daemon", "daemon.draining" if draining else "daemon.accepting")


def withdraw(tx: Tx, request_seq: int, now: Ms) -> None:
    """Cancel the newest delivery of a request unless it was delivered: it has nothing to bring any more. A receiver
    that has it in hand just now may confirm it all the same; then the answer is that it is known."""
    row = tx.db.execute(
        "select d.seq, d.state, d.destination_id from deliveries d join requests r on r.seq = d.request_seq"
        " and r.delivery = d.generation where d.request_seq = ? and d.state in ('pending', 'sending', 'dead')",
        (request_seq,),
    ).fetchone()
    if row is None:
        return
    seq, state, destination_id = row
    done = tx.db.execute(
        "update deliveries set state = 'canceled', finished_at = ? where seq = ? and state = ?", (now, seq, state)
    )
    guard(done, 1, "withdrawing a delivery")
    tx.count("delivery", destination_id, state, -1)
    tx.count("delivery", destination_id, "canceled", 1)


def record_alive(tx: Tx, now: Ms) -> None:
    setback.mend(tx.db, now)
    tx.db.execute("update boots set seen_at = ? where epoch = ?", (now, tx.epoch))
