"""What the search after a restore writes: which batches were found upstream, and when it is over."""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec
import uuid_utils

from unhurried.clock import Ms, after, rfc3339
from unhurried.domain.batch import BatchId, new_nonce
from unhurried.domain.restoring import CLOCKS_APART_S
from unhurried.domain.settling import Sighting
from unhurried.domain.states import BatchState
from unhurried.store.records import RestoredStatus
from unhurried.store.sqlite.copies import is_held, is_searching, restored
from unhurried.store.sqlite.submission import harvest_twin, note_stranger
from unhurried.store.sqlite.tx import Tx

ACTOR: Final = "settlement"
ENTITY: Final = ("daemon", "daemon")


def begin(tx: Tx, now: Ms) -> bool:
    """The first start on a copy. Batches that were being formed are taken apart: one of them may have been sent since,
    with other members, so its nonce is left to what is found upstream. False when it is no such start."""
    made_at = tx.db.execute("select min(made_at) from copies where newest_request is null").fetchone()[0]
    if made_at is None:
        return False
    forming = tx.db.execute("select id, nonce from batches where state = 'forming' and finished_at is null").fetchall()
    for batch_id, nonce in forming:
        tx.move_batch(
            BatchId(batch_id),
            BatchState.FORMING,
            BatchState.DISSOLVED,
            at=now,
            actor="daemon",
            detail=f"the database was restored; as {nonce} it may be upstream with other members",
            sets={"nonce": new_nonce()},
        )
    newest = tx.db.execute("select coalesce(max(seq), 0) from requests").fetchone()[0]
    tx.db.execute(
        "update copies set found_at = coalesce(found_at, ?), newest_request = ?, since = ?"
        " where newest_request is null",
        (now, newest, _since(tx.db, made_at)),
    )
    detail = f"it knows nothing after {rfc3339(made_at)}; nothing is sent until what was sent since is found upstream"
    tx.event(now, "daemon", *ENTITY, "daemon.restored", detail=detail)
    return True


def _since(db: sqlite3.Connection, made_at: Ms) -> Ms:
    """From when on, on upstream's clock, it may have batches that the copy does not know. Batches are created one after
    the other: what was made before the newest that is known is known, but for those in doubt."""
    newest = db.execute(
        "select max(upstream_created_at) from batches where upstream_id is not null and upstream_created_at >= ?",
        (after(made_at, -CLOCKS_APART_S),),
    ).fetchone()[0]
    since = newest if newest is not None else after(made_at, -CLOCKS_APART_S)
    doubt = db.execute(
        "select min(window_from) from batches where state in ('submitting', 'unknown') and finished_at is null"
    ).fetchone()[0]
    return Ms(min(since, doubt) if doubt is not None else since)


def record_first_look(tx: Tx, date: Ms, now: Ms) -> None:
    tx.db.execute("update copies set first_at = ?, first_date = ? where ended_at is null", (now, date))


def record_wait(tx: Tx, detail: str) -> None:
    tx.db.execute("update copies set detail = ? where ended_at is null", (detail[:1000],))


def first_known(db: sqlite3.Connection, request_ids: Sequence[str]) -> str | None:
    """One of these ids that belongs to a request of ours; None when none does."""
    row = db.execute(
        "select r.id from json_each(?) j cross join requests r on r.id = j.value limit 1",
        (msgspec.json.encode(request_ids).decode(),),
    ).fetchone()
    return row[0] if row else None


def record_found(tx: Tx, sighting: Sighting, nonce: str, request_id: str, now: Ms) -> bool:
    """A batch upstream that carries ``request_id``, one of ours, under a nonce that is new here: it was sent after the
    copy was made. It is written down as one that was given up and turned up late, so that it is collected; its members
    come to light one by one. False when it is known meanwhile."""
    if tx.db.execute("select 1 from batches where nonce = ? or upstream_id = ?", (nonce, sighting.id)).fetchone():
        return False
    batch_id = BatchId(str(uuid_utils.uuid7()))
    tx.db.execute(
        "insert into batches (id, group_id, state, nonce, epoch, why, found, created_at, finished_at)"
        " values (?, (select group_id from requests where id = ?), 'abandoned', ?, ?, 'restore', 1, ?, ?)",
        (batch_id, request_id, nonce, tx.epoch, now, now),
    )
    detail = f"{sighting.id} was sent after the copy was made that was restored"
    tx.event(now, ACTOR, "batch", batch_id, "batch.found", new=BatchState.ABANDONED, detail=detail)
    return harvest_twin(tx, batch_id, sighting, now)


def record_unknown_requests(tx: Tx, batch_id: BatchId, count: int, now: Ms) -> None:
    """Of a batch that was found, so many lines are of requests that were accepted after the copy was made."""
    done = tx.db.execute(
        "update batches set unknown_requests = ?1 where id = ?2 and unknown_requests <> ?1", (count, batch_id)
    )
    if done.rowcount:
        detail = f"{count:,} of its requests were accepted after the copy was made: nothing is known of them here"
        tx.event(now, "poller", "batch", batch_id, "batch.unknown_requests", detail=detail)


def note_unknown(tx: Tx, sighting: Sighting, why: str, unknown_requests: int, now: Ms) -> None:
    """A batch with no request of this copy in it, though it may have been sent from here."""
    note_stranger(tx, sighting.id, why, now)
    if unknown_requests:
        tx.db.execute(
            "update strangers set unknown_requests = ? where upstream_id = ?", (unknown_requests, sighting.id)
        )
        detail = f"{sighting.id} carries {unknown_requests:,} requests like ours that are not known here"
        tx.event(now, ACTOR, *ENTITY, "daemon.unknown_requests", detail=detail)


def still_collecting(db: sqlite3.Connection) -> int:
    """Batches that were found and are not collected yet."""
    row = db.execute("select count(*) from batches where found = 1 and finished_at is null").fetchone()
    return int(row[0])


def anything_at_risk(db: sqlite3.Connection, newest_request: int) -> bool:
    """Whether any request that the copy knew could be sent again: it is queued, or in a batch that may let go of it."""
    row = db.execute(
        # By the indexes of what waits: by its number each request that the copy ever had would be looked at.
        "select 1 where exists (select 1 from requests indexed by requests_waiting"
        " where state = 'queued' and waits_until is null and seq <= ?1)"
        " or exists (select 1 from requests indexed by requests_later"
        " where state = 'queued' and waits_until is not null and seq <= ?1)"
        " or exists (select 1 from batches b join attempts a on a.batch_seq = b.seq where b.members_open > 0"
        " and a.request_seq <= ?1 and a.state = 'open')",
        (newest_request,),
    ).fetchone()
    return row is not None


def end(tx: Tx, why: str, now: Ms) -> bool:
    """The search is over, and with it whatever it held back."""
    if not is_searching(tx.db):
        return False
    told = summary(tx.db)
    tx.db.execute(
        "update copies set ended_at = ?1, released_at = coalesce(released_at, ?1),"
        " released_by = coalesce(released_by, ?2), detail = ?3 where ended_at is null",
        (now, ACTOR, why),
    )
    detail = f"{why}; {told.found:,} batches were found, {told.unknown_requests:,} requests are unknown here"
    tx.event(now, ACTOR, *ENTITY, "daemon.restored_over", detail=detail)
    return True


def release(tx: Tx, actor: str, now: Ms) -> bool:
    """Send again, at an operator's word, though the search is not over; it goes on. False: nothing is held back."""
    row = tx.db.execute("select max(detail) from copies where released_at is null").fetchone()
    if not is_held(tx.db):
        return False
    tx.db.execute("update copies set released_at = ?, released_by = ? where released_at is null", (now, actor))
    tx.event(now, actor, *ENTITY, "daemon.released", detail=row[0] or "before upstream was looked at")
    return True


def summary(db: sqlite3.Connection) -> RestoredStatus:
    """How the search stands, and what came to light since the last restore."""
    found, unknown = db.execute(
        "select count(*), coalesce(sum(unknown_requests), 0) from batches where found = 1"
    ).fetchone()
    strangers = db.execute("select coalesce(sum(unknown_requests), 0) from strangers").fetchone()[0]
    open_now = restored(db)
    assert open_now is not None
    return RestoredStatus(
        made_at=open_now.made_at,
        found_at=open_now.found_at,
        held=open_now.held,
        detail=open_now.detail,
        found=found,
        unknown_requests=unknown + strangers,
    )


def status(db: sqlite3.Connection) -> RestoredStatus | None:
    return summary(db) if is_searching(db) else None
