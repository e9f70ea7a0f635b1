"""Handing results out and having them confirmed."""

import sqlite3
from collections.abc import Sequence

import msgspec

from unhurried.clock import Ms, after
from unhurried.domain.states import RequestState
from unhurried.store.contract import Acked, Handed
from unhurried.store.sqlite.tx import Tx, guard


def delivery_id(request_id: str, generation: int) -> str:
    """``<request id>.<generation>``: the same over every attempt of a delivery."""
    return f"{request_id}.{generation}"


def pull(tx: Tx, destination: str, *, limit: int, bytes_max: int, lease_s: float, now: Ms) -> list[Handed]:
    """Hand out what is pending, oldest first, under a lease; at least one result however large, if there is any."""
    cursor = tx.db.execute(
        "select d.seq, d.generation, d.attempts, t.id, r.id, r.custom_id, r.metadata, r.state, q.name, s.stored_at,"
        " s.body from destinations t"
        " join deliveries d on d.destination_id = t.id and d.state = 'pending' and d.due_at <= ?2"
        " join requests r on r.seq = d.request_seq join results s on s.request_seq = r.seq"
        " join groups g on g.id = r.group_id join queues q on q.id = g.queue_id"
        " where t.name = ?1 order by d.due_at, d.seq limit ?3",
        (destination, now, limit),
    )
    handed: list[Handed] = []
    leased = []
    size = 0
    for seq, generation, attempts, owner, id, custom_id, metadata, state, queue, stored_at, body in cursor:
        size += len(body)
        if handed and size > bytes_max:
            break
        leased.append((after(now, lease_s), tx.epoch, seq))
        tx.count("delivery", owner, "pending", -1)
        tx.count("delivery", owner, "sending", 1)
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
    cursor.close()  # before what it reads is changed
    if leased:
        done = tx.db.executemany(
            "update deliveries set state = 'sending', due_at = ?, epoch = ?, attempts = attempts + 1"
            " where seq = ? and state = 'pending'",
            leased,
        )
        guard(done, len(leased), "leasing deliveries")
    return handed


def ack(tx: Tx, delivery_ids: Sequence[str], confirmed_by: str, now: Ms) -> Acked:
    """Confirm deliveries by id, whether their lease still runs or not. Safe to repeat."""
    found = _deliveries(tx.db, [pair for text in delivery_ids if (pair := _parts(text)) is not None])
    confirmed, already, unknown = [], [], []
    changes = []
    for text in delivery_ids:
        pair = _parts(text)
        delivery = found.get(pair) if pair is not None else None
        if pair is None or delivery is None:
            unknown.append(text)
            continue
        seq, state, owner = delivery
        if state not in ("pending", "sending"):
            already.append(text)
            continue
        changes.append((now, confirmed_by, seq, state))
        tx.count("delivery", owner, state, -1)
        tx.count("delivery", owner, "delivered", 1)
        found[pair] = (seq, "delivered", owner)  # it may be named twice
        confirmed.append(text)
    done = tx.db.executemany(
        "update deliveries set state = 'delivered', finished_at = ?, confirmed_by = ? where seq = ? and state = ?",
        changes,
    )
    if changes:
        guard(done, len(changes), "confirming deliveries")
    return Acked(confirmed=confirmed, already=already, unknown=unknown)


def _parts(text: str) -> tuple[str, int] | None:
    """The request id and the generation in a delivery id; None for any other text."""
    request_id, _, generation = text.rpartition(".")
    if generation.isascii() and generation.isdigit() and len(generation) < 10:
        return request_id, int(generation)
    return None


def _deliveries(
    db: sqlite3.Connection, pairs: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, str, int]]:
    """``(seq, state, destination_id)`` of the deliveries that exist, all in one look-up."""
    rows = db.execute(
        "select r.id, d.generation, d.seq, d.state, d.destination_id from json_each(?) j"
        " cross join requests r on r.id = j.value ->> 0"
        " cross join deliveries d on d.request_seq = r.seq and d.generation = j.value ->> 1",
        (msgspec.json.encode(pairs).decode(),),
    )
    return {(id, generation): (seq, state, owner) for id, generation, seq, state, owner in rows}


def return_lapsed(tx: Tx, chunk: int, now: Ms) -> tuple[int, Ms | None]:
    """Results whose lease has run out become available again. Also tells when the next lease ends."""
    rows = tx.db.execute(
        "select seq, destination_id from deliveries where state = 'sending' and due_at <= ? order by due_at limit ?",
        (now, chunk),
    ).fetchall()
    make_pending(tx, rows, now)
    next_at = tx.db.execute("select min(due_at) from deliveries where state = 'sending'").fetchone()[0]
    return len(rows), next_at


def make_pending(tx: Tx, leased: Sequence[tuple[int, int]], now: Ms) -> None:
    """Take back what was handed out: ``(seq, destination_id)`` each."""
    if not leased:
        return
    done = tx.db.executemany(
        "update deliveries set state = 'pending', due_at = ? where seq = ? and state = 'sending'",
        [(now, seq) for seq, _ in leased],
    )
    guard(done, len(leased), "taking deliveries back")
    for _, owner in leased:
        tx.count("delivery", owner, "sending", -1)
        tx.count("delivery", owner, "pending", 1)
