"""Erasing a request by id: what was asked and answered goes, that there was a request stays.

Whatever is deleted within a page is zeroed there always (``secure_delete = fast``). Here pages that are freed whole are
zeroed too, which would be too dear for every other change. The write-ahead log still has the old pages until it is
emptied, which ``SqliteStore.erase`` does behind it. What can remain is a copy of an idempotency key in the unused space
of an index page that was split, until that space is used again.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from unhurried.clock import Ms
from unhurried.domain.states import RequestState
from unhurried.store.sqlite.collecting import cancel_queued
from unhurried.store.sqlite.steering import withdraw
from unhurried.store.sqlite.tx import Tx, guard

ERASED: Final = b'{"type":"erased"}'
"""Stands where the result was, for whoever asks for it."""


def key_of(db: sqlite3.Connection, request_id: str) -> tuple[int, str] | None:
    """The idempotency key of a request, as ``(queue_id, key)``. Walks the keys of its queue: for a reader to do."""
    row: tuple[int, str] | None = db.execute(
        "select k.queue_id, k.key from requests r join groups g on g.id = r.group_id"
        " cross join idempotency_keys k on k.queue_id = g.queue_id and k.request_id = r.id where r.id = ?",
        (request_id,),
    ).fetchone()
    return row


def erase(tx: Tx, request_id: str, key: tuple[int, str] | None, actor: str, now: Ms) -> str | None:
    """Take the contents of a request out. None when it is done, or was before; else why not, and nothing was changed.

    ``key`` is what ``key_of`` has found.
    """
    row = tx.db.execute(
        "select r.seq, r.state, r.erased_at,"
        " exists (select 1 from attempts a where a.request_seq = r.seq and a.state = 'open')"
        " from requests r where r.id = ?",
        (request_id,),
    ).fetchone()
    if row is None:
        return "there is no such request"
    seq, state, erased_at, owed = row
    if erased_at is not None:
        return None
    if state == RequestState.ASSIGNED or owed:
        return "it is in a batch that is not finished: cancel it, wait until upstream has answered, and erase it then"
    if state == RequestState.QUEUED:
        cancel_queued(tx, request_id, now)
    with _overwriting(tx.db):
        tx.db.execute("delete from bodies where request_seq = ?", (seq,))
        done = tx.db.execute("update results set body = ? where request_seq = ?", (ERASED, seq))
        guard(done, 1, "erasing a result")
        tx.db.execute(
            "update requests set metadata = null, custom_id = null, digest = x'', erased_at = ? where seq = ?",
            (now, seq),
        )
        if key is not None:
            tx.db.execute(
                "delete from idempotency_keys where queue_id = ? and key = ? and request_id = ?", (*key, request_id)
            )
    withdraw(tx, seq, now)
    tx.event(now, actor, "request", request_id, "request.erased", old=state)
    return None


@contextmanager
def _overwriting(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("pragma secure_delete = on").fetchall()
    try:
        yield
    finally:
        db.execute("pragma secure_delete = fast").fetchall()
