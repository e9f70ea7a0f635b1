"""Every invariant of the store as a query that must find nothing. ``unhurried doctor`` and the crash tests run them."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unhurried.domain.request import digest_of
from unhurried.domain.states import FINAL_BATCH_STATES
from unhurried.store.records import Complaint
from unhurried.store.sqlite.connection import Damaged, in_thread, open_reader
from unhurried.store.sqlite.forming import digest

EXAMPLES: Final = 5


@dataclass(frozen=True)
class Invariant:
    name: str
    says: str
    broken_by: str
    """A query whose rows, one id each, break it."""


_CLOSED = ", ".join(f"'{state}'" for state in sorted(FINAL_BATCH_STATES))

INVARIANTS: Final[Sequence[Invariant]] = (
    Invariant(
        "accepted means kept",
        "every request without an outcome has its params, as long as when they were accepted",
        "select r.id from requests r left join bodies b on b.request_seq = r.seq"
        " where r.finished_at is null and (b.params is null or length(b.params) <> r.params_bytes)",
    ),
    Invariant(
        "one batch at a time",
        "a request has at most one open attempt in a batch that is not finished, and it is the one it is assigned to",
        "select r.id from requests r where r.state = 'assigned' and not exists (select 1 from attempts a"
        " where a.batch_seq = r.batch_seq and a.request_seq = r.seq and a.state in ('open', 'superseded'))"
        " union all select r.id from requests r join attempts a on a.request_seq = r.seq"
        " join batches b on b.seq = a.batch_seq"
        " where a.state = 'open' and b.finished_at is null and r.finished_at is null"
        " and (r.batch_seq is null or r.batch_seq <> b.seq) and b.late = 0",
    ),
    Invariant(
        "intent before the act",
        "every batch that was submitted had its members frozen, counted and sealed before",
        # Not by the two moments: the clock may have been set back between them.
        "select id from batches where submit_started_at is not null and (formed_at is null or digest is null)",
    ),
    Invariant(
        "members are counted",
        "the number of attempts of a batch, and of those forgotten since, is the number of requests it was made of",
        "select b.id from batches b where b.requests <> b.forgotten"
        " + (select count(*) from attempts a where a.batch_seq = b.seq)",
    ),
    Invariant(
        "open members are counted",
        "members_open is the number of attempts of a batch that are open",
        "select b.id from batches b where b.members_open <>"
        " (select count(*) from attempts a where a.batch_seq = b.seq and a.state = 'open')",
    ),
    Invariant(
        "one outcome",
        "a request has a result if and only if it is finished",
        "select r.id from requests r left join results s on s.request_seq = r.seq"
        " where (r.finished_at is not null) <> (s.request_seq is not null)",
    ),
    Invariant(
        "one winner",
        "the result of a request comes from exactly one winning attempt, or from none when it never reached upstream",
        "select r.id from requests r join results s on s.request_seq = r.seq where"
        " (select count(*) from attempts a where a.request_seq = r.seq and a.won = 1 and a.batch_seq is s.batch_seq)"
        " <> (s.batch_seq is not null)"
        " or (select count(*) from attempts a where a.request_seq = r.seq and a.won = 1) > r.generation",
    ),
    Invariant(
        "every outcome is handed over",
        "every finished request has its newest delivery",
        "select r.id from requests r where r.finished_at is not null and not exists"
        " (select 1 from deliveries d where d.request_seq = r.seq and d.generation = r.delivery)",
    ),
    Invariant(
        "nothing delivered early",
        "what waits to be delivered is the newest delivery of a request that has an outcome",
        "select r.id || '.' || d.generation from deliveries d join requests r on r.seq = d.request_seq"
        " where d.generation > r.delivery"
        " or (d.state in ('pending', 'sending') and (d.generation <> r.delivery or r.finished_at is null))",
    ),
    Invariant(
        "every member is accounted for",
        "a collected batch has no open attempt",
        "select b.id from batches b where b.state = 'collected' and b.members_open > 0",
    ),
    Invariant(
        "open work is in an open batch",
        "an assigned request is in a batch that is open, or in one whose members are being released",
        "select r.id from requests r join batches b on b.seq = r.batch_seq"
        f" where r.state = 'assigned' and b.state in ({_CLOSED}) and b.members_open = 0",
    ),
    Invariant(
        "nothing is owned by nobody",
        "no batch is being submitted, and no delivery is handed out, by a daemon that has been replaced",
        "select id from batches where state = 'submitting' and epoch < (select max(epoch) from boots)"
        " union all select r.id from deliveries d join requests r on r.seq = d.request_seq"
        " where d.state = 'sending' and d.epoch < (select max(epoch) from boots)",
    ),
    Invariant(
        "nothing without its owner",
        "every body, attempt, result and delivery belongs to a request that is there, an attempt to a batch as well",
        "select 'body ' || request_seq from bodies where request_seq not in (select seq from requests)"
        " union all select 'attempt ' || request_seq from attempts where request_seq not in (select seq from requests)"
        " or batch_seq not in (select seq from batches)"
        # 0: a result that a retry took away, and whose number must not come again
        " union all select 'result ' || request_seq from results"
        " where request_seq <> 0 and request_seq not in (select seq from requests)"
        " union all select 'delivery ' || seq from deliveries where request_seq not in (select seq from requests)"
        " or destination_id not in (select id from destinations)"
        " union all select 'request ' || seq from requests where group_id not in (select id from groups)"
        " or (batch_seq is not null and batch_seq not in (select seq from batches))",
    ),
    Invariant(
        "counters are right",
        "the kept numbers of requests by queue, and of deliveries by destination, are what counting finds",
        "select c.entity || ' ' || c.owner_id || ' ' || c.state from counters c"
        " left join (select 'request' as entity, g.queue_id as owner_id, r.state, count(*) as n from requests r"
        "  join groups g on g.id = r.group_id group by 2, 3"
        "  union all select 'delivery', d.destination_id, d.state, count(*) from deliveries d group by 2, 3) t"
        " on t.owner_id = c.owner_id and t.entity = c.entity and t.state = c.state where c.n <> coalesce(t.n, 0)",
    ),
    Invariant(
        "waiting is counted",
        "the kept numbers of waiting requests and bytes of each group are what counting finds",
        "select g.id from groups g left join (select group_id, count(*) as n, sum(params_bytes) as size from requests"
        " where state = 'queued' and waits_until is null group by group_id) t on t.group_id = g.id"
        " where g.waiting_requests <> coalesce(t.n, 0) or g.waiting_bytes <> coalesce(t.size, 0)",
    ),
    Invariant(
        "transitions are told",
        "the last event of every batch names the state it is in",
        "select b.id from batches b where b.state <> coalesce((select e.new_state from events e"
        " where e.entity_id = b.id and e.new_state is not null order by e.seq desc limit 1), '')",
    ),
)


def complaints(db: sqlite3.Connection) -> list[Complaint]:
    """Look at everything; an empty list is a clean bill. Takes seconds for a million requests."""
    db.execute("begin")  # one snapshot for all queries: the daemon may be at work
    try:
        found = [complaint for invariant in INVARIANTS if (complaint := _ask(db, invariant)) is not None]
        found += _file_checks(db)
        found += _params_checks(db)
        return found
    finally:
        db.execute("rollback")


async def examine(path: Path) -> list[Complaint]:
    """Examine a database file, whether its daemon runs or not, without writing. Raises ``StoreUnusable``."""
    db = await open_reader(path)
    try:
        return await in_thread(db, complaints)
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{path} cannot be examined: {error}") from None
    finally:
        await db.close()


def _ask(db: sqlite3.Connection, invariant: Invariant) -> Complaint | None:
    ids = [str(row[0]) for row in db.execute(invariant.broken_by)]
    if not ids:
        return None
    return _complaint(invariant.name, invariant.says, ids)


def _complaint(name: str, says: str, ids: Sequence[str]) -> Complaint:
    return Complaint(invariant=name, says=says, count=len(ids), examples=ids[:EXAMPLES])


def _file_checks(db: sqlite3.Connection) -> list[Complaint]:
    lines = [str(row[0]) for row in db.execute("pragma integrity_check(20)")]
    keys = [str(row[0]) for row in db.execute("pragma foreign_key_check")]
    found = []
    if lines != ["ok"]:
        found.append(_complaint("the file is sound", "SQLite's integrity check finds nothing", lines))
    if keys:
        found.append(_complaint("references hold", "every foreign key has its row", keys))
    return found


def _params_checks(db: sqlite3.Connection) -> list[Complaint]:
    """Params and members are what they were when they were accepted and frozen. Open work only: the rest is history."""
    damaged = []
    cursor = db.execute(
        "select r.id, r.digest, b.params, g.anthropic_version, g.anthropic_beta from requests r"
        " join bodies b on b.request_seq = r.seq join groups g on g.id = r.group_id where r.finished_at is null"
    )
    for request_id, expected, params, version, beta in cursor:
        if digest_of(params, version, beta) != expected:
            damaged.append(request_id)
    changed = [
        batch_id
        for batch_id, sealed in db.execute(
            "select b.id, b.digest from batches b where b.finished_at is null and b.digest is not null and not exists"
            " (select 1 from attempts a join requests r on r.seq = a.request_seq"
            "  where a.batch_seq = b.seq and r.erased_at is not null)"  # with its contents the digest of a request goes
        ).fetchall()
        if digest(db, batch_id)[0] != sealed
    ]
    found = []
    if damaged:
        found.append(_complaint("the caller's bytes", "params have the digest taken when they were accepted", damaged))
    if changed:
        says = "an open batch has the members, order and params it was sealed with"
        found.append(_complaint("members are frozen", says, changed))
    return found
