"""Handing results out and having them confirmed, whoever takes them: a caller that pulls, or the dispatcher."""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from unhurried.clock import Ms, after
from unhurried.domain.states import RequestState
from unhurried.store.records import Acked, Handed
from unhurried.store.sqlite.tx import Tx, guard

AT_ONCE: Final = Ms(0)
"""When a delivery is due that waits for nothing: not the moment of its making, which a clock that is set back would put
into the future."""
NOT_CONFIRMED: Final = ("pending", "sending", "dead")
"""States from which an ack leads to ``delivered``: whoever confirms has read it, even if it had been given up."""


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is pending and whose time has come."""

    seq: int
    destination_id: int
    handed: Handed


_DELIVERY_ID: Final = re.compile(r"([0-9A-Za-z_-]{1,64})\.([1-9][0-9]{0,8})")


def delivery_id(request_id: str, generation: int) -> str:
    """``<request id>.<generation>``: the same over every attempt of a delivery."""
    return f"{request_id}.{generation}"


def parse_delivery_id(text: str) -> tuple[str, int] | None:
    """The request id and the generation in a delivery id; None for any other text."""
    match = _DELIVERY_ID.fullmatch(text)
    return (match[1], int(match[2])) if match else None


def pull(
    tx: Tx, destination: str, *, limit: int, bytes_max: int, lease_s: float, after_seq: int, now: Ms
) -> list[Handed]:
    """Hand out what is pending, oldest first, under a lease; at least one result however large, if there is any."""
    row = tx.db.execute("select id from destinations where name = ? and kind = 'pull'", (destination,)).fetchone()
    if row is None:
        return []
    found = due(tx.db, row[0], limit=limit, bytes_max=bytes_max, after_seq=after_seq, now=now)
    lease(tx, found, after(now, lease_s))
    return [one.handed for one in found]


def due(
    db: sqlite3.Connection, destination_id: int, *, limit: int, bytes_max: int, after_seq: int = 0, now: Ms
) -> list[Due]:
    """What may be handed out now, by the time it became due; ``after_seq``: only deliveries made after that one."""
    cursor = db.execute(
        "select d.seq, d.generation, d.attempts, r.id, r.custom_id, r.metadata, r.state, q.name, s.stored_at, s.body"
        " from deliveries d join requests r on r.seq = d.request_seq join results s on s.request_seq = r.seq"
        " join groups g on g.id = r.group_id join queues q on q.id = g.queue_id"
        " where d.destination_id = ? and d.state = 'pending' and d.due_at <= ? and d.seq > ?"
        " order by d.due_at, d.seq limit ?",
        (destination_id, now, after_seq, limit),
    )
    found: list[Due] = []
    size = 0
    for seq, generation, attempts, id, custom_id, metadata, state, queue, stored_at, body in cursor:
        size += len(body)
        if found and size > bytes_max:
            break
        handed = Handed(
            delivery_id=delivery_id(id, generation),
            request_id=id,
            custom_id=custom_id,
            queue=queue,
            state=RequestState(state),
            stored_at=stored_at,
            attempt=attempts + 1,
            metadata=metadata.encode() if metadata else None,
            body=body,
            seq=seq,
        )
        found.append(Due(seq, destination_id, handed))
    cursor.close()  # before what it reads is changed
    return found


def lease(tx: Tx, found: Sequence[Due], until: Ms) -> None:
    """Mark what was found as handed out by this boot, which counts as an attempt."""
    if not found:
        return
    done = tx.db.executemany(
        "update deliveries set state = 'sending', due_at = ?, epoch = ?, attempts = attempts + 1"
        " where seq = ? and state = 'pending'",
        [(until, tx.epoch, one.seq) for one in found],
    )
    guard(done, len(found), "leasing deliveries")
    for one in found:
        tx.count("delivery", one.destination_id, "pending", -1)
        tx.count("delivery", one.destination_id, "sending", 1)


def ack(tx: Tx, delivery_ids: Sequence[str], confirmed_by: str, now: Ms) -> Acked:
    """Confirm deliveries by id, whether their lease still runs or not. Safe to repeat."""
    found = deliveries_of(tx.db, delivery_ids)
    confirmed, already, unknown = [], [], []
    changes = []
    for text in delivery_ids:
        delivery = found.get(text)
        if delivery is None:
            unknown.append(text)
            continue
        seq, state, owner = delivery
        if state not in NOT_CONFIRMED:
            already.append(text)
            continue
        changes.append((now, confirmed_by, seq, state))
        tx.count("delivery", owner, state, -1)
        tx.count("delivery", owner, "delivered", 1)
        found[text] = (seq, "delivered", owner)  # it may be named twice
        confirmed.append(text)
    done = tx.db.executemany(
        "update deliveries set state = 'delivered', finished_at = ?, confirmed_by = ? where seq = ? and state = ?",
        changes,
    )
    if changes:
        guard(done, len(changes), "confirming deliveries")
    return Acked(confirmed=confirmed, already=already, unknown=unknown)


def deliveries_of(db: sqlite3.Connection, delivery_ids: Sequence[str]) -> dict[str, tuple[int, str, int]]:
    """``(seq, state, destination_id)`` of the deliveries that exist, all in one look-up."""
    asked = {pair: text for text in delivery_ids if (pair := parse_delivery_id(text)) is not None}
    rows = db.execute(
        "select r.id, d.generation, d.seq, d.state, d.destination_id from json_each(?) j"
        " cross join requests r on r.id = j.value ->> 0"
        " cross join deliveries d on d.request_seq = r.seq and d.generation = j.value ->> 1",
        (msgspec.json.encode(list(asked)).decode(),),
    )
    return {asked[id, generation]: (seq, state, owner) for id, generation, seq, state, owner in rows}


def still_out(db: sqlite3.Connection, delivery_ids: Sequence[str]) -> frozenset[str]:
    return frozenset(text for text, (_, state, _) in deliveries_of(db, delivery_ids).items() if state == "sending")


def return_lapsed(tx: Tx, chunk: int, now: Ms) -> tuple[int, Ms | None]:
    """Results whose lease has run out become available again. Also tells when the next lease ends."""
    rows = tx.db.execute(
        "select seq, destination_id from deliveries where state = 'sending' and due_at <= ? order by due_at limit ?",
        (now, chunk),
    ).fetchall()
    make_pending(tx, rows)
    next_at = tx.db.execute("select min(due_at) from deliveries where state = 'sending'").fetchone()[0]
    return len(rows), next_at


def give_back(tx: Tx, delivery_ids: Sequence[str], now: Ms) -> int:
    """What was handed out to a caller that has gone becomes available again, without waiting for the lease's end."""
    found = deliveries_of(tx.db, delivery_ids).values()
    leased = [(seq, owner) for seq, state, owner in found if state == "sending"]
    make_pending(tx, leased)
    return len(leased)


def make_pending(tx: Tx, leased: Sequence[tuple[int, int]]) -> None:
    """Take back what was handed out: ``(seq, destination_id)`` each."""
    if not leased:
        return
    done = tx.db.executemany(
        "update deliveries set state = 'pending', due_at = ? where seq = ? and state = 'sending'",
        [(AT_ONCE, seq) for seq, _ in leased],
    )
    guard(done, len(leased), "taking deliveries back")
    for _, owner in leased:
        tx.count("delivery", owner, "sending", -1)
        tx.count("delivery", owner, "pending", 1)
