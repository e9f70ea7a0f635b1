"""Handing results out and having them confirmed."""

from collections.abc import Sequence

from unhurried.clock import Ms, after
from unhurried.domain.states import RequestState
from unhurried.store.contract import Acked, Handed
from unhurried.store.sqlite.tx import Tx, guard


def delivery_id(request_id: str, generation: int) -> str:
    """``<request id>.<generation>``: the same over every attempt of a delivery."""
    return f"{request_id}.{generation}"


def pull(tx: Tx, destination: str, *, limit: int, bytes_max: int, lease_s: float, now: Ms) -> list[Handed]:
    rows = tx.db.execute(
        "select d.request_seq, d.generation, d.attempts, r.id, r.custom_id, r.metadata, r.state, q.name, q.id,"
        " s.stored_at, length(s.body) from destinations t"
        " join deliveries d on d.destination_id = t.id and d.state = 'pending' and d.due_at <= ?2"
        " join requests r on r.seq = d.request_seq join results s on s.request_seq = r.seq"
        " join groups g on g.id = r.group_id join queues q on q.id = g.queue_id"
        " where t.name = ?1 order by d.due_at, d.request_seq limit ?3",
        (destination, now, limit),
    ).fetchall()
    handed: list[Handed] = []
    leased = []
    size = 0
    for request_seq, generation, attempts, id, custom_id, metadata, state, queue, queue_id, stored_at, length in rows:
        size += length
        if handed and size > bytes_max:
            break
        body = tx.db.execute("select body from results where request_seq = ?", (request_seq,)).fetchone()[0]
        leased.append((after(now, lease_s), tx.epoch, request_seq, generation))
        tx.count(queue_id, "delivery", "pending", -1)
        tx.count(queue_id, "delivery", "sending", 1)
        handed.append(
            Handed(
                delivery_id=delivery_id(id, generation),
                request_id=id,
                custom_id=custom_id,
                queue=queue,
                state=RequestState(state),
                stored_at=stored_at,
                attempt=attempts + 1,
                metadata=metadata.encode() if metadata else None,
                body=body,
            )
        )
    if leased:
        done = tx.db.executemany(
            "update deliveries set state = 'sending', due_at = ?, epoch = ?, attempts = attempts + 1"
            " where request_seq = ? and generation = ? and state = 'pending'",
            leased,
        )
        guard(done, len(leased), "leasing deliveries")
    return handed


def ack(tx: Tx, delivery_ids: Sequence[str], confirmed_by: str, now: Ms) -> Acked:
    confirmed, already, unknown = [], [], []
    for text in delivery_ids:
        request_id, _, generation = text.rpartition(".")
        row = None
        if generation.isascii() and generation.isdigit() and len(generation) < 10:
            row = tx.db.execute(
                "select d.request_seq, d.state, g.queue_id from requests r"
                " join deliveries d on d.request_seq = r.seq and d.generation = ?"
                " join groups g on g.id = r.group_id where r.id = ?",
                (int(generation), request_id),
            ).fetchone()
        if row is None:
            unknown.append(text)
            continue
        request_seq, state, queue_id = row
        if state not in ("pending", "sending"):
            already.append(text)
            continue
        done = tx.db.execute(
            "update deliveries set state = 'delivered', finished_at = ?, confirmed_by = ?"
            " where request_seq = ? and generation = ? and state = ?",
            (now, confirmed_by, request_seq, int(generation), state),
        )
        guard(done, 1, "confirming a delivery")
        tx.count(queue_id, "delivery", state, -1)
        tx.count(queue_id, "delivery", "delivered", 1)
        confirmed.append(text)
    return Acked(confirmed=confirmed, already=already, unknown=unknown)


def return_lapsed(tx: Tx, chunk: int, now: Ms) -> tuple[int, Ms | None]:
    """Results whose lease has run out become available again. Also tells when the next lease ends."""
    rows = tx.db.execute(
        "select d.request_seq, d.generation, g.queue_id from deliveries d join requests r on r.seq = d.request_seq"
        " join groups g on g.id = r.group_id where d.state = 'sending' and d.due_at <= ? order by d.due_at limit ?",
        (now, chunk),
    ).fetchall()
    make_pending(tx, rows, now)
    next_at = tx.db.execute("select min(due_at) from deliveries where state = 'sending'").fetchone()[0]
    return len(rows), next_at


def make_pending(tx: Tx, leased: Sequence[tuple[int, int, int]], now: Ms) -> None:
    """Take back what was handed out: ``(request_seq, generation, queue_id)`` each."""
    if not leased:
        return
    done = tx.db.executemany(
        "update deliveries set state = 'pending', due_at = ?"
        " where request_seq = ? and generation = ? and state = 'sending'",
        [(now, request_seq, generation) for request_seq, generation, _ in leased],
    )
    guard(done, len(leased), "taking deliveries back")
    for _, _, queue_id in leased:
        tx.count(queue_id, "delivery", "sending", -1)
        tx.count(queue_id, "delivery", "pending", 1)
