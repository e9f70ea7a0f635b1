"""Queues as an operator sees and changes them. A queue comes into being by its first request or its first setting."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from unhurried.clock import Ms
from unhurried.domain.queue import SETTINGS, Queue, QueueSettings, told
from unhurried.store.sqlite.tx import Tx

_COLUMNS: Final = f"id, name, created_at, paused_at, pause_reason, {', '.join(SETTINGS)}"


def queues(db: sqlite3.Connection) -> list[Queue]:
    """All of them, by name."""
    counts: dict[int, dict[str, int]] = {}
    for owner, state, n in db.execute("select owner_id, state, n from counters where entity = 'request' and n > 0"):
        counts.setdefault(owner, {})[state] = n
    rows = db.execute(f"select {_COLUMNS} from queues order by name").fetchall()
    return [_queue(row, counts.get(row[0], {})) for row in rows]


def queue(db: sqlite3.Connection, name: str) -> Queue | None:
    row = db.execute(f"select {_COLUMNS} from queues where name = ?", (name,)).fetchone()
    if row is None:
        return None
    counts = db.execute(
        "select state, n from counters where entity = 'request' and owner_id = ? and n > 0", (row[0],)
    ).fetchall()
    return _queue(row, dict(counts))


def change(tx: Tx, name: str, changes: Mapping[str, Any], actor: str, now: Ms) -> Queue:
    """Store settings that were checked; the queue is made if it is new. One event says what changed, if anything."""
    before = _known(tx, name, now)
    if detail := told(changes, before.settings):
        assignments = ", ".join(f"{setting} = ?" for setting in changes)  # names that ``check_changes`` has let through
        tx.db.execute(f"update queues set {assignments} where id = ?", (*changes.values(), before.id))
        tx.event(now, actor, "queue", name, "queue.changed", detail=detail)
    return _known(tx, name, now)


def pause(tx: Tx, name: str, reason: str, actor: str, now: Ms) -> Queue | None:
    """Form nothing of this queue from now on. Repeated, it changes the reason and not since when. None: there is no
    such queue, and a misspelt name makes none."""
    before = queue(tx.db, name)
    if before is None:
        return None
    if before.paused_at is None or before.pause_reason != reason:
        tx.db.execute(
            "update queues set paused_at = coalesce(paused_at, ?), pause_reason = ? where id = ?",
            (now, reason, before.id),
        )
        tx.event(now, actor, "queue", name, "queue.paused", detail=reason)
    return queue(tx.db, name)


def resume(tx: Tx, name: str, actor: str, now: Ms) -> bool | None:
    """End a pause. False: there was none; None: there is no such queue."""
    found = queue(tx.db, name)
    if found is None or found.paused_at is None:
        return None if found is None else False
    tx.db.execute("update queues set paused_at = null, pause_reason = null where id = ?", (found.id,))
    tx.event(now, actor, "queue", name, "queue.resumed")
    return True


def _known(tx: Tx, name: str, now: Ms) -> Queue:
    tx.queue_id(name, now)
    found = queue(tx.db, name)
    assert found is not None
    return found


def _queue(row: Sequence[Any], requests: Mapping[str, int]) -> Queue:
    id, name, created_at, paused_at, pause_reason, *settings = row
    return Queue(
        id=id,
        name=name,
        settings=QueueSettings(**dict(zip(SETTINGS, settings, strict=True))),
        created_at=created_at,
        paused_at=paused_at,
        pause_reason=pause_reason,
        requests=requests,
    )
