"""The whole queue in numbers: one short read of kept counters and index look-ups. No table is counted.

``/queue/status``, ``/metrics`` and, on a database without a daemon, ``unhurried status`` all tell what this reads.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from unhurried.clock import Ms
from unhurried.domain.states import FINAL_BATCH_STATES, BatchState
from unhurried.store.records import BatchView, DestinationStatus, OpenBatches, QueueStatus, Status, Storage
from unhurried.store.sqlite import reading, restoring
from unhurried.store.sqlite.alarms import alarms, paused_since
from unhurried.store.sqlite.forming import oldest_waiting
from unhurried.store.sqlite.submission import account

OPEN_BATCHES_MAX: Final = 1_000
"""Open batches that are told one by one; more are only counted."""
LEASES_MAX: Final = 1_000
"""Deliveries handed out just now that are looked at for the oldest among them."""
NOT_HANDED_OVER: Final = ("pending", "sending")


def status(db: sqlite3.Connection) -> Status:
    """Everything as of one moment."""
    db.execute("begin")
    try:
        return _status(db)
    finally:
        db.execute("commit")


def _status(db: sqlite3.Connection) -> Status:
    open_now = reading.batches(db, open_only=True, before=None, limit=OPEN_BATCHES_MAX)
    queues = _queues(db)
    destinations = _destinations(db)
    paid = account(db)
    return Status(
        requests=_requests(db, open_now),
        open_batches=open_now,
        waiting_bytes=sum(queue.waiting_bytes for queue in queues),
        oldest_queued_at=_first(queue.oldest_queued_at for queue in queues),
        nearest_deadline=_first(queue.nearest_deadline for queue in queues),
        deliveries_pending=sum(to.deliveries.get(state, 0) for to in destinations for state in NOT_HANDED_OVER),
        oldest_delivery_at=_first(to.oldest_at for to in destinations),
        account=replace(paid, paused_at=paused_since(db)) if paid is not None else None,
        restored=restoring.status(db),
        paused_queues=[queue.name for queue in queues if queue.paused_at is not None],
        queues=queues,
        batches=_batches(db),
        destinations=destinations,
        storage=_storage(db),
        alarms=alarms(db),
    )


def _requests(db: sqlite3.Connection, open_now: Sequence[BatchView]) -> dict[str, dict[str, int]]:
    """Requests by queue and visible state: kept counters, with ``submitted`` told apart through the open batches."""
    counts: dict[str, dict[str, int]] = {}
    rows = db.execute(
        "select q.name, c.state, c.n from counters c join queues q on q.id = c.owner_id"
        " where c.entity = 'request' and c.n > 0"
    )
    for queue, state, n in rows:
        counts.setdefault(queue, {})[state] = n
    for open_batch in open_now:
        of_queue = counts.get(open_batch.queue, {})
        submitted = min(open_batch.members_open, of_queue.get("assigned", 0)) if open_batch.upstream_id else 0
        if submitted:
            of_queue["assigned"] -= submitted
            of_queue["submitted"] = of_queue.get("submitted", 0) + submitted
            if not of_queue["assigned"]:
                del of_queue["assigned"]
    return counts


def _queues(db: sqlite3.Connection) -> list[QueueStatus]:
    sizes: dict[int, int] = {}
    queued: dict[int, list[Ms]] = {}
    deadlines: dict[int, list[Ms]] = {}
    waiting = db.execute(
        "select g.id, g.queue_id, g.waiting_bytes, (select min(deadline_at) from requests r where r.group_id = g.id"
        " and r.state = 'queued' and r.waits_until is null) from groups g where g.waiting_requests > 0"
    ).fetchall()
    for group_id, queue_id, size, deadline in waiting:
        sizes[queue_id] = sizes.get(queue_id, 0) + size
        if (oldest := oldest_waiting(db, group_id)) is not None:
            queued.setdefault(queue_id, []).append(oldest)
        if deadline is not None:
            deadlines.setdefault(queue_id, []).append(deadline)
    sent = dict(db.execute(_FIRST_MEMBERS).fetchall())
    return [
        QueueStatus(
            name=name,
            waiting_bytes=sizes.get(id, 0),
            oldest_queued_at=min(queued.get(id, ()), default=None),
            oldest_open_at=_first((*queued.get(id, ()), sent.get(id))),
            nearest_deadline=min(deadlines.get(id, ()), default=None),
            paused_at=paused_at,
            pause_reason=pause_reason,
        )
        for id, name, paused_at, pause_reason in db.execute(
            "select id, name, paused_at, pause_reason from queues order by name"
        ).fetchall()
    ]


# The first member of a batch was accepted first. It may have its outcome by now; that no look-up can tell cheaply.
_FIRST_MEMBERS: Final = (
    "select g.queue_id, min((select r.accepted_at from requests r where r.seq ="
    " (select min(a.request_seq) from attempts a where a.batch_seq = b.seq)))"
    " from batches b join groups g on g.id = b.group_id where b.finished_at is null group by g.queue_id"
)


def _batches(db: sqlite3.Connection) -> dict[str, OpenBatches]:
    """Those that are not finished, by state; every such state is named."""
    found = {
        state: OpenBatches(batches=count, oldest_at=oldest)
        for state, count, oldest in db.execute(
            "select state, count(*), min(coalesce(upstream_ended_at, submit_started_at, created_at)) from batches"
            " where finished_at is null group by state"
        )
    }
    none = OpenBatches(batches=0, oldest_at=None)
    return {state.value: found.get(state.value, none) for state in BatchState if state not in FINAL_BATCH_STATES}


def _destinations(db: sqlite3.Connection) -> list[DestinationStatus]:
    counts: dict[int, dict[str, int]] = {}
    for owner, state, n in db.execute("select owner_id, state, n from counters where entity = 'delivery' and n > 0"):
        counts.setdefault(owner, {})[state] = n
    leased = dict(db.execute(_LEASED, (LEASES_MAX,)).fetchall())
    rows = db.execute(
        "select t.id, t.name, t.kind, t.paused_at, t.pause_reason, t.failures, t.failing_since, t.open_until,"
        " (select created_at from deliveries d where d.destination_id = t.id and d.state = 'pending'"
        "  order by d.due_at, d.seq limit 1)"
        " from destinations t order by t.name"
    ).fetchall()
    return [
        DestinationStatus(
            name=name,
            kind=kind,
            deliveries=counts.get(id, {}),
            # The first in line. One that failed stands further back, and then its destination has been failing since
            # at least `failing_since`.
            oldest_at=_first((first_at, leased.get(id), failing_since if first_at is not None else None)),
            paused_at=paused_at,
            pause_reason=pause_reason,
            failures=failures,
            failing_since=failing_since,
            open_until=open_until,
        )
        for id, name, kind, paused_at, pause_reason, failures, failing_since, open_until, first_at in rows
    ]


# An application that pulls and never confirms makes what it pulled look new each time a lease ends; these tell its age.
_LEASED: Final = (
    "select destination_id, min(created_at) from (select destination_id, created_at from deliveries"
    " where state = 'sending' order by due_at limit ?) group by destination_id"
)


def _storage(db: sqlite3.Connection) -> Storage:
    """Sizes of the files by their names: opening one would drop SQLite's locks when it is closed."""
    path = Path(db.execute("pragma database_list").fetchone()[2])
    page = _pragma(db, "page_size")
    disk = os.statvfs(path.parent)
    try:
        wal = path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        wal = 0
    return Storage(
        database_bytes=_pragma(db, "page_count") * page,
        free_bytes=_pragma(db, "freelist_count") * page,
        wal_bytes=wal,
        disk_bytes=disk.f_blocks * disk.f_frsize,
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
    )


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"pragma {name}").fetchone()[0])


def _first(moments: Iterable[Ms | None]) -> Ms | None:
    return min((moment for moment in moments if moment is not None), default=None)
