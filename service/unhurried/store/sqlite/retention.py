"""Deleting what is old, in small chunks between other writes.

Everything here walks a table in the order of time and goes on behind the last row it looked at. What a walk finds is
looked at again in the transaction that deletes it. The row with the largest number of a table is never deleted: its
number would be given again, and cursors would miss what has it.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from unhurried.clock import Ms, after
from unhurried.domain.retention import BATCH_DAYS, DAY_S, ENDED, Rule, Verdict, verdict
from unhurried.domain.states import DeliveryState
from unhurried.store.records import Page
from unhurried.store.sqlite.tx import Tx, guard

CHUNK: Final = 250
CHUNK_BYTES: Final = 4_000_000
"""What one transaction deletes, at most: requests, and bytes of bodies, though one that is larger goes alone."""
FORGET_BYTES: Final = 400
"""Roughly what deleting one request writes."""
BOOTS_KEPT: Final = 100


def rules(db: sqlite3.Connection, retention_s: float, unread_s: float | None) -> dict[int, Rule]:
    """The rule of each queue, by its id; the arguments are the daemon's, for queues that say nothing."""
    return {
        id: Rule(
            retention_s=retention_s if retention_days is None else retention_days * DAY_S,
            unread_s=unread_s if unread_days is None else unread_days * DAY_S,
        )
        for id, retention_days, unread_days in db.execute("select id, retention_days, unread_days from queues")
    }


def outcomes(
    db: sqlite3.Connection, of_queue: Mapping[int, Rule], after_seq: int, rows: int, now: Ms
) -> tuple[dict[Verdict, list[int]], Page]:
    """Look at the next deliveries: which requests are to be forgotten, and whose delivery is to be canceled.

    A walk ends where nothing can be old enough, since what was made later is younger.
    """
    shortest_s = min((_shortest(rule) for rule in of_queue.values()), default=0.0)
    any_unread = any(rule.unread_s is not None for rule in of_queue.values())
    found = db.execute(
        "select seq, request_seq, generation, state, created_at, finished_at from deliveries"
        " where seq > ? order by seq limit ?",
        (after_seq, rows),
    ).fetchall()
    old = [row for row in found if _is_past(row[4], shortest_s, now)]
    judged: dict[Verdict, list[int]] = {Verdict.FORGET: [], Verdict.CANCEL: []}
    owners = _owners(db, [(row[1], row[2]) for row in old if any_unread or row[3] in ENDED])
    size = 0
    for place, (_, request_seq, _, state, created_at, finished_at) in enumerate(old):
        if request_seq not in owners:
            continue  # waits to be fetched for as long as it takes, or is not the newest delivery of its request
        queue_id, body_bytes = owners[request_seq]
        rule = of_queue.get(queue_id)  # none: the queue is younger than the rules
        said = verdict(DeliveryState(state), created_at, finished_at, rule, now) if rule else Verdict.KEEP
        if said is Verdict.KEEP:
            continue
        if size and (size + body_bytes > CHUNK_BYTES or sum(map(len, judged.values())) == CHUNK):
            return judged, Page(position=old[place - 1][0], more=True)
        size += body_bytes
        judged[said].append(request_seq)
    return judged, Page(position=found[-1][0] if found else after_seq, more=len(old) == rows)


def _is_past(moment: int, span_s: float, now: Ms) -> bool:
    """Whether a walk may go on behind a row of that moment: it is old, or from a clock that was set back since, and
    then it says nothing about what lies behind it."""
    return after(Ms(moment), span_s) <= now or moment > now


def _shortest(rule: Rule) -> float:
    return rule.retention_s if rule.unread_s is None else min(rule.retention_s, rule.unread_s)


def _owners(db: sqlite3.Connection, deliveries: Sequence[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Of those that are the newest of their request: request to queue, and the size of its bodies."""
    rows = db.execute(
        "select r.seq, g.queue_id, r.params_bytes + coalesce(length(s.body), 0)"
        " from json_each(?) j cross join requests r on r.seq = j.value ->> 0 and r.delivery = j.value ->> 1"
        " join groups g on g.id = r.group_id left join results s on s.request_seq = r.seq",
        (msgspec.json.encode(deliveries).decode(),),
    )
    return {seq: (queue_id, size) for seq, queue_id, size in rows}


def cancel_unread(tx: Tx, request_seqs: Sequence[int], of_queue: Mapping[int, Rule], now: Ms) -> int:
    """Give up handing these over: nobody has fetched them in the time that their queue grants. Returns how many."""
    rows = tx.db.execute(
        "select d.seq, d.state, d.created_at, d.finished_at, d.destination_id, t.name, g.queue_id"
        " from json_each(?) j cross join requests r on r.seq = j.value join groups g on g.id = r.group_id"
        " join deliveries d on d.request_seq = r.seq and d.generation = r.delivery"
        " join destinations t on t.id = d.destination_id where d.seq < (select max(seq) from deliveries)",
        _each_once(request_seqs),
    ).fetchall()
    canceled: dict[str, int] = {}
    for seq, state, created_at, finished_at, destination_id, name, queue_id in rows:
        rule = of_queue.get(queue_id)
        said = None if rule is None else verdict(DeliveryState(state), created_at, finished_at, rule, now)
        if said is not Verdict.CANCEL:
            continue
        done = tx.db.execute(
            "update deliveries set state = 'canceled', finished_at = ? where seq = ? and state = ?", (now, seq, state)
        )
        guard(done, 1, "canceling an unread delivery")
        tx.count("delivery", destination_id, state, -1)
        tx.count("delivery", destination_id, "canceled", 1)
        canceled[name] = canceled.get(name, 0) + 1
    for name, count in canceled.items():
        detail = f"{count} results that nobody has fetched in time"
        tx.event(now, "keeper", "destination", name, "deliveries.unread_canceled", detail=detail)
    return sum(canceled.values())


_FORGETTABLE: Final = (
    "select r.seq, r.state, g.queue_id, d.state, d.created_at, d.finished_at"
    " from json_each(?) j cross join requests r on r.seq = j.value join groups g on g.id = r.group_id"
    " join deliveries d on d.request_seq = r.seq and d.generation = r.delivery"
    " where r.finished_at is not null"
    # A batch that is not finished counts its members, and may be read again from its first line.
    " and not exists (select 1 from attempts a join batches b on b.seq = a.batch_seq"
    "  where a.request_seq = r.seq and (a.state = 'open' or b.finished_at is null))"
    " and r.seq < (select max(seq) from requests)"
    " and not exists (select 1 from deliveries x where x.request_seq = r.seq"
    "  and x.seq = (select max(seq) from deliveries))"
    " and not exists (select 1 from results s where s.request_seq = r.seq and s.seq = (select max(seq) from results))"
)


def forget(tx: Tx, request_seqs: Sequence[int], of_queue: Mapping[int, Rule], now: Ms) -> int:
    """Delete requests with all that belongs to them, as far as it is still their time. Returns how many.

    Their batches remember how many members they have lost. Idempotency keys live on by their own time.
    """
    rows = tx.db.execute(_FORGETTABLE, _each_once(request_seqs)).fetchall()
    gone: list[int] = []
    for seq, state, queue_id, delivery, created_at, finished_at in rows:
        rule = of_queue.get(queue_id)
        if rule and verdict(DeliveryState(delivery), created_at, finished_at, rule, now) is Verdict.FORGET:
            gone.append(seq)
            tx.count("request", queue_id, state, -1)
    if not gone:
        return 0
    these = (msgspec.json.encode(gone).decode(),)
    lost = tx.db.execute(
        f"select batch_seq, count(*) from attempts where {_OF_THESE} group by batch_seq", these
    ).fetchall()
    tx.db.executemany("update batches set forgotten = forgotten + ? where seq = ?", [(n, seq) for seq, n in lost])
    for destination_id, state, n in tx.db.execute(
        f"select destination_id, state, count(*) from deliveries where {_OF_THESE} group by 1, 2", these
    ).fetchall():
        tx.count("delivery", destination_id, state, -n)
    for table in ("attempts", "deliveries", "results", "bodies"):
        tx.db.execute(f"delete from {table} where {_OF_THESE}", these)
    done = tx.db.execute("delete from requests where seq in (select value from json_each(?))", these)
    guard(done, len(gone), "forgetting requests")
    return len(gone)


def _each_once(request_seqs: Sequence[int]) -> tuple[str]:
    """For ``json_each``. One that was delivered again has several deliveries, and is found by each of them."""
    return (msgspec.json.encode(list(dict.fromkeys(request_seqs))).decode(),)


_OF_THESE: Final = "request_seq in (select value from json_each(?))"


def forget_batches(tx: Tx, after_seq: int, rows: int, now: Ms) -> Page:
    """Of the next batches, delete those that are finished, old, and have lost all their members; their events too."""
    found = tx.db.execute(
        "select seq, id, created_at, finished_at is not null and forgotten = requests and members_open = 0"
        " and seq < (select max(seq) from batches) from batches where seq > ? order by seq limit ?",
        (after_seq, rows),
    ).fetchall()
    old = [row for row in found if _is_past(row[2], BATCH_DAYS * DAY_S, now)]
    gone = [(seq, id) for seq, id, made_at, deletable in old if deletable and made_at <= now]
    tx.db.executemany("delete from events where entity_id = ?", [(id,) for _, id in gone])
    tx.db.executemany("delete from batches where seq = ?", [(seq,) for seq, _ in gone])
    return Page(position=found[-1][0] if found else after_seq, more=len(old) == rows, deleted=len(gone))


def forget_events(tx: Tx, after_seq: int, rows: int, days: float, now: Ms) -> Page:
    """Of the next events, delete those that are old. A batch keeps its history for as long as it is there itself."""
    found = tx.db.execute(
        "select e.seq, e.at, not (e.entity = 'batch' and exists (select 1 from batches b where b.id = e.entity_id))"
        " from events e where e.seq > ? order by e.seq limit ?",
        (after_seq, rows),
    ).fetchall()
    old = [row for row in found if _is_past(row[1], days * DAY_S, now)]
    gone = [(seq,) for seq, at, deletable in old if deletable and at <= now]
    done = tx.db.executemany("delete from events where seq = ? and seq < (select max(seq) from events)", gone)
    deleted = done.rowcount if gone else 0
    return Page(position=found[-1][0] if found else after_seq, more=len(old) == rows, deleted=deleted)


def forget_keys(tx: Tx, chunk: int, now: Ms) -> int:
    done = tx.db.execute(
        "delete from idempotency_keys where (queue_id, key) in"
        " (select queue_id, key from idempotency_keys where expires_at <= ? order by expires_at limit ?)",
        (now, chunk),
    )
    return done.rowcount


def trim(tx: Tx, chunk: int, now: Ms) -> None:
    """Strangers that can no longer be mistaken for a batch of ours, and old boots: short tables, seldom a row."""
    tx.db.execute(
        "delete from strangers where upstream_id in (select upstream_id from strangers where noted_at <= ? limit ?)",
        (after(now, -BATCH_DAYS * DAY_S), chunk),
    )
    tx.db.execute("delete from boots where epoch <= (select max(epoch) from boots) - ?", (BOOTS_KEPT,))


def free_bytes(db: sqlite3.Connection) -> int:
    return sum(
        int(pages) * int(size)
        for pages, size in db.execute("select freelist_count, page_size from pragma_freelist_count, pragma_page_size")
    )


def vacuum(tx: Tx, pages: int) -> int:
    """Give up to so many free pages back to the file system. Returns how many are left."""
    for _ in range(pages):  # one a call: the pragma frees more only while it is stepped, and Python steps it once
        tx.db.execute("pragma incremental_vacuum(1)")
    return int(tx.db.execute("pragma freelist_count").fetchone()[0])
