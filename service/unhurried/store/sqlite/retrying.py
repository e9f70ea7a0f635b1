"""An operator's retry: a request that came to no good end is queued again, as a new generation.

Its attempts stay, as history. Its result goes, for a request that is open has none.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from unhurried.clock import Ms, after
from unhurried.domain.grouping import deadline_class
from unhurried.domain.states import RequestState
from unhurried.store.records import RetryCandidate, RetryFilter
from unhurried.store.sqlite.steering import withdraw
from unhurried.store.sqlite.tx import Tx, guard

RETRYABLE: Final = frozenset({RequestState.ERRORED, RequestState.EXPIRED, RequestState.CANCELED})
WINDOW_ROWS: Final = 5_000
"""Outcomes that one look for candidates passes, whatever it finds."""
ROW_BYTES: Final = 800
"""Roughly what one retry writes."""
NOBODY: Final = 0
"""The request of a result that was taken away and whose number must not come again: the largest number stays."""

_CANDIDATES: Final = (
    "select r.id, q.name, g.model, r.state, a.error_type"
    " from json_each(?) j cross join requests r on r.seq = j.value ->> 0 and r.delivery = j.value ->> 1"
    " join groups g on g.id = r.group_id join queues q on q.id = g.queue_id"
    " left join results s on s.request_seq = r.seq"
    " left join attempts a on a.batch_seq = s.batch_seq and a.request_seq = r.seq"
)


def candidates(
    db: sqlite3.Connection, filter: RetryFilter, before: int | None
) -> tuple[list[RetryCandidate], int | None]:
    """Those that ``filter`` names among the next outcomes, newest first, and where to go on; None at the end.

    Outcomes are found by their deliveries, which are small and in the order of time.
    """
    bound = before if before is not None else 1 << 62
    rows = db.execute(
        "select seq, request_seq, generation, created_at from deliveries where seq < ? order by seq desc limit ?",
        (bound, WINDOW_ROWS),
    ).fetchall()
    # A delivery is made with the outcome or after it: before ``since`` there is none to be found any more.
    recent = [row for row in rows if filter.since is None or row[3] >= filter.since]
    following = rows[-1][0] if len(recent) == WINDOW_ROWS else None
    return _matching(db, filter, [(row[1], row[2]) for row in recent]), following


def _matching(db: sqlite3.Connection, filter: RetryFilter, newest: Sequence[tuple[int, int]]) -> list[RetryCandidate]:
    clauses = ["r.erased_at is null", f"r.state in ({', '.join('?' * len(filter.states))})"]
    values: list[Any] = [msgspec.json.encode(newest).decode(), *sorted(filter.states)]
    for column, value in (("q.name", filter.queue), ("g.model", filter.model), ("a.error_type", filter.error_type)):
        if value is not None:
            clauses.append(f"{column} = ?")
            values.append(value)
    if filter.since is not None:
        clauses.append("r.finished_at >= ?")
        values.append(filter.since)
    found = db.execute(f"{_CANDIDATES} where {' and '.join(clauses)}", values).fetchall()
    return [
        RetryCandidate(id=id, queue=queue, model=model, state=RequestState(state), error_type=error_type)
        for id, queue, model, state, error_type in found
    ]


_FACTS: Final = (
    "select r.seq, r.state, r.erased_at, r.params_bytes, g.queue_id, g.model, g.anthropic_version, g.anthropic_beta,"
    " q.deadline_s, (select length(params) from bodies b where b.request_seq = r.seq),"
    " exists (select 1 from attempts a where a.request_seq = r.seq and a.state = 'open')"
    " from requests r join groups g on g.id = r.group_id join queues q on q.id = g.queue_id where r.id = ?"
)


@dataclass(frozen=True)
class Wait:
    """When it is due: in ``given_s``, or as its queue says, or in ``default_s``. ``bounds_s``: of the classes."""

    given_s: float | None
    default_s: float
    bounds_s: Sequence[float]

    def seconds(self, of_queue_s: float | None) -> float:
        if self.given_s is not None:
            return self.given_s
        return self.default_s if of_queue_s is None else of_queue_s


def retry_one(tx: Tx, request_id: str, wait: Wait, actor: str, now: Ms) -> str | None:
    """Queue a request again. None when it is done, else why not; then nothing was changed."""
    reason = _retry(tx, request_id, wait, now)
    if reason is None:
        tx.event(now, actor, "request", request_id, "request.retried")
    return reason


def retry_many(tx: Tx, found: Sequence[RetryCandidate], wait: Wait, actor: str, now: Ms) -> int:
    """Queue again those of them that can be. Returns how many; one event for each queue tells of them."""
    retried: Counter[tuple[str, str, str | None]] = Counter()
    for one in found:
        if _retry(tx, one.id, wait, now) is None:
            retried[one.queue, one.state.value, one.error_type] += 1
    for queue in sorted({queue for queue, _, _ in retried}):
        of_queue = [(n, state, error) for (name, state, error), n in retried.items() if name == queue]
        detail = ", ".join(f"{n} {state}" + (f" ({error})" if error else "") for n, state, error in of_queue)
        tx.event(now, actor, "queue", queue, "queue.requests_retried", detail=detail)
    return retried.total()


def _retry(tx: Tx, request_id: str, wait: Wait, now: Ms) -> str | None:
    row = tx.db.execute(_FACTS, (request_id,)).fetchone()
    if row is None:
        return "there is no such request"
    seq, state, erased_at, size, queue_id, model, version, beta, deadline_s, stored, owed = row
    if (reason := _why_not(state, erased_at, size, stored, owed)) is not None:
        return reason
    wait_s = wait.seconds(deadline_s)
    group_id = tx.group_id_of((queue_id, model, version, beta, deadline_class(wait_s, wait.bounds_s), 0))
    done = tx.db.execute(
        "update requests set state = 'queued', group_id = ?, generation = generation + 1, attempts = 0, queued_at = ?,"
        " waits_until = null, deadline_at = ?, cancel_requested_at = null, finished_at = null"
        " where seq = ? and state = ?",
        (group_id, now, after(now, wait_s), seq, state),
    )
    guard(done, 1, "queueing a request for a retry")
    _take_result(tx, seq)
    withdraw(tx, seq, now)
    tx.count("request", queue_id, state, -1)
    tx.count("request", queue_id, "queued", 1)
    tx.wait(group_id, 1, size)
    return None


def _why_not(state: str, erased_at: Ms | None, size: int, stored: int | None, owed: bool) -> str | None:
    if state == RequestState.SUCCEEDED:
        return "it has succeeded"
    if state not in RETRYABLE:
        return "it is open still"
    if erased_at is not None or stored != size:
        return "it was erased: there is nothing left to send"
    if owed:
        return "upstream still owes an answer for an earlier attempt; wait until that batch is finished"
    return None


def _take_result(tx: Tx, request_seq: int) -> None:
    newest = tx.db.execute(
        "select 1 from results where request_seq = ? and seq = (select max(seq) from results)", (request_seq,)
    ).fetchone()
    if newest is None:
        done = tx.db.execute("delete from results where request_seq = ?", (request_seq,))
    else:
        tx.db.execute("delete from results where request_seq = ?", (NOBODY,))
        done = tx.db.execute(
            "update results set request_seq = ?, batch_seq = null, body = x'' where request_seq = ?",
            (NOBODY, request_seq),
        )
    guard(done, 1, "taking a result away")
