"""Groups, and the batches that are formed of them."""

import hashlib
import sqlite3
from typing import Any, Final

import msgspec
import uuid_utils

from unhurried.clock import Ms
from unhurried.domain.batch import Batch, BatchId, UpstreamId, body_bytes, custom_id
from unhurried.domain.grouping import Group, Order
from unhurried.domain.states import BatchState
from unhurried.store.sqlite.collecting import cancel_queued
from unhurried.store.sqlite.tx import Tx, guard

TURNAROUND_ROWS: Final = 200
TURNAROUNDS_PER_MODEL: Final = 20
DIGEST_PAGE: Final = 5_000
MEMBER_BYTES: Final = 250
"""Roughly what moving one request into a batch writes."""

BATCH_COLUMNS: Final = (
    "b.id, b.state, b.nonce, q.name, g.model, g.anthropic_version, g.anthropic_beta, b.requests, b.params_bytes,"
    " b.created_at, b.formed_at, b.submit_started_at, b.upstream_id, b.upstream_created_at, b.adopted, b.proved,"
    " b.members_open, b.late, b.found, g.cut_short"
)
BATCH_FROM: Final = "from batches b join groups g on g.id = b.group_id join queues q on q.id = g.queue_id"


def batch_of(row: tuple[Any, ...]) -> Batch:
    """A ``Batch`` from the columns of ``BATCH_COLUMNS``."""
    (id, state, nonce, queue, model, version, beta, requests, params_bytes, created_at, formed_at, submit_started_at,
     upstream_id, upstream_created_at, adopted, proved, members_open, late, found,
     cut_short) = row  # fmt: skip
    return Batch(
        id=BatchId(id),
        state=BatchState(state),
        nonce=nonce,
        queue=queue,
        model=model,
        anthropic_version=version,
        anthropic_beta=beta,
        requests=requests,
        body_bytes=body_bytes(requests, params_bytes),
        created_at=created_at,
        formed_at=formed_at,
        submit_started_at=submit_started_at,
        upstream_id=UpstreamId(upstream_id) if upstream_id else None,
        upstream_created_at=upstream_created_at,
        adopted=bool(adopted),
        proved=bool(proved),
        members_open=members_open,
        cut_short=cut_short,
        late=bool(late),
        found=bool(found),
    )


def batch_by_id(db: sqlite3.Connection, batch_id: BatchId) -> Batch | None:
    row = db.execute(f"select {BATCH_COLUMNS} {BATCH_FROM} where b.id = ?", (batch_id,)).fetchone()
    return batch_of(row) if row else None


def groups(db: sqlite3.Connection) -> list[Group]:
    """The groups in which requests wait, of queues that are not paused. Each costs a few index look-ups."""
    rows = db.execute(
        "select g.id, g.model, g.waiting_requests, g.waiting_bytes, g.flush_asked_at, g.requests_cap, g.bytes_cap,"
        " q.linger_s, q.batch_requests_max, q.batch_bytes_max,"
        " (select min(deadline_at) from requests r"
        "  where r.group_id = g.id and r.state = 'queued' and r.waits_until is null)"
        " from groups g join queues q on q.id = g.queue_id where g.waiting_requests > 0 and q.paused_at is null"
    ).fetchall()
    found = []
    for id, model, requests, params_bytes, flush_asked_at, requests_cap, bytes_cap, *of_queue, deadline in rows:
        oldest = oldest_waiting(db, id)
        if oldest is None or deadline is None:
            continue
        found.append(
            Group(
                id=id,
                model=model,
                requests=requests,
                bytes=body_bytes(requests, params_bytes),
                oldest_at=oldest,
                nearest_deadline=deadline,
                flush_asked_at=flush_asked_at,
                requests_cap=requests_cap or None,
                bytes_cap=bytes_cap,
                linger_s=of_queue[0],
                batch_requests_max=of_queue[1],
                batch_bytes_max=of_queue[2],
            )
        )
    return found


def oldest_waiting(db: sqlite3.Connection, group_id: int) -> Ms | None:
    """Since when the longest-waiting request of a group waits: one seek for each priority in use."""
    oldest: Ms | None = None
    row = db.execute(_FIRST, (group_id,)).fetchone()
    while row is not None:
        priority, queued_at = row
        oldest = queued_at if oldest is None else min(oldest, queued_at)
        row = db.execute(_NEXT_PRIORITY, (group_id, priority)).fetchone()
    return oldest


_FIRST: Final = (
    "select priority, queued_at from requests where group_id = ? and state = 'queued' and waits_until is null"
    " order by priority desc, queued_at limit 1"
)
_NEXT_PRIORITY: Final = (
    "select priority, queued_at from requests where group_id = ? and state = 'queued' and waits_until is null"
    " and priority < ? order by priority desc, queued_at limit 1"
)


def turnarounds(db: sqlite3.Connection) -> dict[str, list[float]]:
    rows = db.execute(
        "select g.model, b.upstream_ended_at - b.upstream_created_at from batches b join groups g on g.id = b.group_id"
        " where b.upstream_ended_at is not null order by b.upstream_ended_at desc limit ?",
        (TURNAROUND_ROWS,),
    )
    history: dict[str, list[float]] = {}
    for model, ms in rows:
        samples = history.setdefault(model, [])
        if len(samples) < TURNAROUNDS_PER_MODEL:
            samples.append(ms / 1000)
    return history


def wake_waiting(tx: Tx, now: Ms, chunk: int) -> Ms | None:
    """Those whose time has come wait to be sent from now on. Returns the next such moment, ``now`` if more are due."""
    rows = tx.db.execute(
        "select seq, group_id, params_bytes from requests where state = 'queued' and waits_until is not null"
        " and waits_until <= ? order by waits_until limit ?",
        (now, chunk),
    ).fetchall()
    done = tx.db.executemany(
        "update requests set waits_until = null, queued_at = ? where seq = ? and state = 'queued'",
        [(now, seq) for seq, _, _ in rows],
    )
    if rows:
        guard(done, len(rows), "waking requests")
    for _, group_id, params_bytes in rows:
        tx.wait(group_id, 1, params_bytes)
    next_at = tx.db.execute(
        "select min(waits_until) from requests where state = 'queued' and waits_until is not null"
    ).fetchone()[0]
    return now if len(rows) == chunk else next_at


def begin_batch(tx: Tx, order: Order, nonce: str, now: Ms) -> BatchId:
    batch_id = BatchId(str(uuid_utils.uuid7()))
    tx.db.execute(
        "insert into batches (id, group_id, state, nonce, epoch, why, created_at) values (?, ?, 'forming', ?, ?, ?, ?)",
        (batch_id, order.group.id, nonce, tx.epoch, order.why.value, now),
    )
    tx.event(now, "flusher", "batch", batch_id, "batch.forming", new="forming", detail=f"because of {order.why}")
    return batch_id


def add_members(tx: Tx, batch_id: BatchId, *, requests_max: int, bytes_max: int, chunk: int) -> int:
    """Move a chunk of waiting requests into a forming batch; how many, 0 when it is full or none waits."""
    row = tx.db.execute(
        "select b.seq, b.group_id, b.requests, b.params_bytes, g.queue_id"
        " from batches b join groups g on g.id = b.group_id"
        " where b.id = ? and b.state = 'forming' and b.formed_at is null",
        (batch_id,),
    ).fetchone()
    if row is None:
        return 0
    batch_seq, group_id, requests, params_bytes, queue_id = row
    waiting = tx.db.execute(
        "select seq, params_bytes from requests where group_id = ? and state = 'queued' and waits_until is null"
        " order by priority desc, queued_at limit ?",
        (group_id, min(chunk, requests_max - requests)),
    ).fetchall()
    chosen: list[int] = []
    added_bytes = 0
    for seq, size in waiting:
        members = requests + len(chosen) + 1
        if members > 1 and body_bytes(members, params_bytes + added_bytes + size) > bytes_max:
            break  # one alone is sent whatever its size: nothing smaller can be made of it
        chosen.append(seq)
        added_bytes += size
    if not chosen:
        return 0
    seqs = msgspec.json.encode(sorted(chosen)).decode()
    tx.db.execute("insert into attempts (batch_seq, request_seq) select ?, value from json_each(?)", (batch_seq, seqs))
    moved = tx.db.execute(
        "update requests set state = 'assigned', batch_seq = ?"
        " where seq in (select value from json_each(?)) and state = 'queued'",
        (batch_seq, seqs),
    )
    guard(moved, len(chosen), "assigning requests")
    tx.db.execute(
        "update batches set requests = requests + ?1, members_open = members_open + ?1,"
        " params_bytes = params_bytes + ?2 where seq = ?3",
        (len(chosen), added_bytes, batch_seq),
    )
    tx.wait(group_id, -len(chosen), -added_bytes)
    tx.count("request", queue_id, "queued", -len(chosen))
    tx.count("request", queue_id, "assigned", len(chosen))
    return len(chosen)


def digest(db: sqlite3.Connection, batch_id: BatchId) -> tuple[bytes, int]:
    """SHA-256 over ``custom_id`` and the digest taken at acceptance, member by member, in the order of the batch; and
    how many members that were."""
    seal, members = hashlib.sha256(), 0
    row = db.execute("select seq, nonce from batches where id = ?", (batch_id,)).fetchone()
    batch_seq, nonce = row
    after = 0
    while True:
        page = db.execute(
            "select r.seq, r.id, r.digest from attempts a join requests r on r.seq = a.request_seq"
            " where a.batch_seq = ? and a.request_seq > ? order by a.request_seq limit ?",
            (batch_seq, after, DIGEST_PAGE),
        ).fetchall()
        if not page:
            return seal.digest(), members
        members += len(page)
        for _, request_id, request_digest in page:
            seal.update(custom_id(nonce, request_id).encode())
            seal.update(request_digest)
        after = page[-1][0]


def complete_batch(tx: Tx, batch_id: BatchId, sealed: bytes, members: int, now: Ms) -> Batch | None:
    """Freeze a forming batch with the digest ``sealed`` over ``members``; an empty one is dissolved. None, and nothing
    changed, when it is not forming, or has other members by now than those the digest was taken over."""
    row = tx.db.execute(
        "select requests from batches where id = ? and state = 'forming' and formed_at is null", (batch_id,)
    ).fetchone()
    if row is None or row[0] != members:
        return None
    if members == 0:
        tx.move_batch(
            batch_id, BatchState.FORMING, BatchState.DISSOLVED, at=now, actor="flusher", detail="nothing waited"
        )
        return None
    tx.db.execute("update batches set formed_at = ?, digest = ? where id = ?", (now, sealed, batch_id))
    tx.event(now, "flusher", "batch", batch_id, "batch.formed", detail=f"{members} requests")
    return batch_by_id(tx.db, batch_id)


def drop_last_member(tx: Tx, batch_id: BatchId, now: Ms) -> bool:
    """Put the last member of a formed, not yet submitted batch back into the queue. False when it has no other."""
    row = tx.db.execute(
        "select b.seq, b.group_id, g.queue_id, b.requests from batches b join groups g on g.id = b.group_id"
        " where b.id = ? and b.state = 'forming' and b.formed_at is not null",
        (batch_id,),
    ).fetchone()
    if row is None or row[3] < 2:
        return False
    batch_seq, group_id, queue_id, _ = row
    last, last_id, size, here, canceled = tx.db.execute(
        "select r.seq, r.id, r.params_bytes, r.state = 'assigned' and r.batch_seq = a.batch_seq,"
        " r.cancel_requested_at is not null from attempts a join requests r on r.seq = a.request_seq"
        " where a.batch_seq = ? order by a.request_seq desc limit 1",
        (batch_seq,),
    ).fetchone()
    tx.db.execute("delete from attempts where batch_seq = ? and request_seq = ?", (batch_seq, last))
    tx.db.execute(
        "update batches set requests = requests - 1, members_open = members_open - 1, params_bytes = params_bytes - ?,"
        " cancels = cancels - ?, formed_at = null, digest = null where seq = ?",
        (size, here and canceled, batch_seq),
    )
    if here:  # else a late twin has brought its outcome meanwhile, and it waits for nothing
        moved = tx.db.execute(
            "update requests set state = 'queued', batch_seq = null where seq = ? and state = 'assigned'", (last,)
        )
        guard(moved, 1, "dropping a member")
        tx.wait(group_id, 1, size)
        tx.count("request", queue_id, "queued", 1)
        tx.count("request", queue_id, "assigned", -1)
        if canceled:
            cancel_queued(tx, last_id, now)
    detail = "a batch in doubt has as many requests: one less tells them apart"
    tx.event(now, "submission", "batch", batch_id, "batch.shrunk", detail=detail)
    return True
