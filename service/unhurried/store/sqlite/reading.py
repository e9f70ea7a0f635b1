"""The statements of the readers. Each fetches all it returns: no cursor outlives the call."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from unhurried.clock import Ms
from unhurried.domain.batch import Batch, BatchId, UpstreamId, body_bytes, body_page, custom_id
from unhurried.domain.states import AttemptState, BatchState, DeliveryState, RequestState
from unhurried.store.records import AttemptView, BatchView, Event, Handed, RequestFilter, RequestPage, RequestView
from unhurried.store.sqlite.accepting import visible_state
from unhurried.store.sqlite.delivering import delivery_id

SCAN_ROWS: Final = 20_000
"""Rows that one page of a filtered list looks at before it answers with what it has."""

_VIEW: Final = (
    "select r.seq, r.id, r.state, b.upstream_id, q.name, g.model, r.custom_id, r.priority, r.accepted_at,"
    " r.deadline_at,"
    " r.not_before, r.waits_until, r.finished_at, r.cancel_requested_at, r.erased_at, r.attempts, r.attempts_max,"
    " r.generation,"
    " r.params_bytes, r.deliver_to, d.state, b.id, r.metadata"
    " from requests r join groups g on g.id = r.group_id join queues q on q.id = g.queue_id"
    " left join results s on s.request_seq = r.seq"
    " left join batches b on b.seq = coalesce(r.batch_seq, s.batch_seq)"  # travels in it, or was answered by it
    " left join deliveries d on d.request_seq = r.seq and d.generation = r.delivery"
)
_HANDED: Final = (
    "select r.id, r.delivery, r.custom_id, r.metadata, r.state, q.name, s.stored_at, coalesce(d.attempts, 0),"
    " d.state, s.body from requests r join results s on s.request_seq = r.seq"
    " join groups g on g.id = r.group_id join queues q on q.id = g.queue_id"
    " left join deliveries d on d.request_seq = r.seq and d.generation = r.delivery"
)


def request(db: sqlite3.Connection, request_id: str) -> RequestView | None:
    row = db.execute(f"{_VIEW} where r.id = ?", (request_id,)).fetchone()
    return _view(row) if row else None


def attempts_of(db: sqlite3.Connection, request_id: str) -> list[AttemptView] | None:
    """Every attempt of a request, oldest first; None when there is no such request."""
    row = db.execute("select seq from requests where id = ?", (request_id,)).fetchone()
    if row is None:
        return None
    rows = db.execute(
        "select b.id, b.upstream_id, b.nonce, a.state, a.won, a.ended_at, a.error_type, a.stop_reason, a.input_tokens,"
        " a.output_tokens from attempts a join batches b on b.seq = a.batch_seq"
        " where a.request_seq = ? order by a.batch_seq",
        row,
    )
    return [
        AttemptView(
            batch=BatchId(batch),
            upstream_batch=UpstreamId(upstream_id) if upstream_id else None,
            custom_id=custom_id(nonce, request_id),
            state=AttemptState(state),
            won=bool(won),
            ended_at=ended_at,
            error_type=error_type,
            stop_reason=stop_reason,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
        )
        for batch, upstream_id, nonce, state, won, ended_at, error_type, stop_reason, tokens_in, tokens_out in rows
    ]


def requests(db: sqlite3.Connection, filter: RequestFilter, cursor: str | None, limit: int) -> RequestPage:
    """Newest first. A filtered page looks at a bounded window of rows, so it costs the same whatever it finds."""
    top = int(cursor) if cursor is not None else None
    newest = top if top is not None else int(db.execute("select coalesce(max(seq), 0) + 1 from requests").fetchone()[0])
    clauses, values = _filters(filter)
    if filter.batch is not None:
        window_from = 0  # a batch's members are few and found through the attempts
    else:
        window_from = max(0, newest - SCAN_ROWS) if clauses else 0
    clauses += ["r.seq < ?", "r.seq >= ?"]
    rows = db.execute(
        f"{_VIEW} where {' and '.join(clauses)} order by r.seq desc limit ?", (*values, newest, window_from, limit)
    ).fetchall()
    if len(rows) == limit:
        following: str | None = str(rows[-1][0])
    else:
        following = str(window_from) if window_from > 1 else None
    return RequestPage(requests=[_view(row) for row in rows], cursor=following)


def _filters(filter: RequestFilter) -> tuple[list[str], list[object]]:
    clauses: list[str] = []
    values: list[object] = []
    if filter.queue is not None:
        clauses.append("q.name = ?")
        values.append(filter.queue)
    if filter.custom_id is not None:
        clauses.append("r.custom_id = ?")
        values.append(filter.custom_id)
    if filter.batch is not None:
        clauses.append(
            "r.seq in (select a.request_seq from attempts a join batches x on x.seq = a.batch_seq where x.id = ?)"
        )
        values.append(filter.batch)
    if filter.state is not None:
        stored = RequestState.ASSIGNED if filter.state is RequestState.SUBMITTED else filter.state
        clauses.append("r.state = ?")
        values.append(stored.value)
        if stored is RequestState.ASSIGNED:
            clauses.append(f"b.upstream_id is {'not ' if filter.state is RequestState.SUBMITTED else ''}null")
    return clauses, values


def _view(row: Sequence[object]) -> RequestView:
    (_, id, state, upstream_id, queue, model, custom_id, priority, accepted_at, deadline_at, not_before, waits_until,
     finished_at, cancel_requested_at, erased_at, attempts, attempts_max, generation, params_bytes, deliver_to,
     delivery, batch, metadata) = row  # fmt: skip
    fields: dict[str, object] = {
        "id": id,
        "state": visible_state(str(state), str(upstream_id) if upstream_id else None),
        "queue": queue,
        "model": model,
        "custom_id": custom_id,
        "priority": priority,
        "accepted_at": accepted_at,
        "deadline_at": deadline_at,
        "not_before": not_before,
        "waits_until": waits_until,
        "finished_at": finished_at,
        "cancel_requested_at": cancel_requested_at,
        "erased_at": erased_at,
        "attempts": attempts,
        "attempts_max": attempts_max,
        "generation": generation,
        "params_bytes": params_bytes,
        "deliver_to": deliver_to,
        "delivery": DeliveryState(str(delivery)) if delivery else None,
        "batch": batch,
        "upstream_batch": upstream_id,
        "metadata": str(metadata).encode() if metadata else None,
    }
    return RequestView(**fields)  # type: ignore[arg-type]  # a row of SQLite has no types; the view's tests check them


def result(db: sqlite3.Connection, request_id: str) -> Handed | None:
    row = db.execute(f"{_HANDED} where r.id = ?", (request_id,)).fetchone()
    return _handed(row) if row else None


def results_of(db: sqlite3.Connection, request_ids: Sequence[str], bytes_max: int) -> list[Handed]:
    found: list[Handed] = []
    size = 0
    for request_id in request_ids:
        handed = result(db, request_id)
        if handed is None:
            continue
        size += len(handed.body)
        if found and size > bytes_max:
            break
        found.append(handed)
    return found


def _handed(row: Sequence[object]) -> Handed:
    id, generation, custom_id, metadata, state, queue, stored_at, attempts, delivery, body = row
    assert isinstance(generation, int) and isinstance(stored_at, int) and isinstance(attempts, int)
    assert isinstance(body, bytes)
    return Handed(
        delivery_id=delivery_id(str(id), generation) if delivery else None,
        request_id=str(id),
        custom_id=str(custom_id) if custom_id is not None else None,
        queue=str(queue),
        state=RequestState(str(state)),
        stored_at=Ms(stored_at),
        attempt=attempts,
        metadata=str(metadata).encode() if metadata else None,
        body=body,
    )


def body_page_after(db: sqlite3.Connection, batch: Batch, after: int, bytes_page: int) -> tuple[bytes, int]:
    """One page of a batch's body behind member ``after``, and the last member in it; empty at the end."""
    batch_seq = db.execute("select seq from batches where id = ?", (batch.id,)).fetchone()[0]
    cursor = db.execute(
        "select a.request_seq, r.id, b.params from attempts a join requests r on r.seq = a.request_seq"
        " join bodies b on b.request_seq = a.request_seq"
        " where a.batch_seq = ? and a.request_seq > ? and a.state = 'open' order by a.request_seq",
        (batch_seq, after),
    )
    try:
        members, last, size = [], after, 0
        for request_seq, request_id, params in cursor:
            members.append((request_id, params))
            last = request_seq
            size += len(params)
            if size >= bytes_page:
                break
        return (body_page(batch.nonce, members, first=after == 0) if members else b""), last
    finally:
        cursor.close()  # a half-read cursor would pin the write-ahead log while the network is waited for


_BATCH_VIEW: Final = (
    "select b.id, b.state, b.upstream_id, q.name, g.model, b.requests, b.members_open, b.params_bytes, b.why, b.nonce,"
    " b.created_at, b.submit_started_at, b.upstream_created_at, b.upstream_expires_at, b.upstream_ended_at,"
    " b.finished_at, b.adopted, b.late, b.detail"
    " from batches b join groups g on g.id = b.group_id join queues q on q.id = g.queue_id"
)


def batches(db: sqlite3.Connection, *, open_only: bool, before: str | None, limit: int) -> list[BatchView]:
    where = "b.finished_at is null" if open_only else "1"
    rows = db.execute(
        f"{_BATCH_VIEW} where {where} and (?1 is null or b.seq < (select seq from batches where id = ?1))"
        " order by b.seq desc limit ?2",
        (before, limit),
    )
    return [_batch_view(row) for row in rows.fetchall()]


def batch(db: sqlite3.Connection, batch_id: BatchId) -> BatchView | None:
    row = db.execute(f"{_BATCH_VIEW} where b.id = ?", (batch_id,)).fetchone()
    if row is None:
        return None
    states = db.execute(
        "select a.state, count(*) from attempts a join batches b on b.seq = a.batch_seq"
        " where b.id = ? group by a.state",
        (batch_id,),
    )
    return _batch_view(row, dict(states.fetchall()), events(db, batch_id, 100))


def _batch_view(
    row: Sequence[object], attempts: dict[str, int] | None = None, history: Sequence[Event] = ()
) -> BatchView:
    (id, state, upstream_id, queue, model, count, members_open, params_bytes, why, nonce, created_at, submit_started_at,
     upstream_created_at, upstream_expires_at, upstream_ended_at, finished_at, adopted, late, detail) = row  # fmt: skip
    assert isinstance(count, int) and isinstance(params_bytes, int)
    fields: dict[str, object] = {
        "id": id,
        "state": BatchState(str(state)),
        "upstream_id": UpstreamId(str(upstream_id)) if upstream_id else None,
        "queue": queue,
        "model": model,
        "requests": count,
        "members_open": members_open,
        "body_bytes": body_bytes(count, params_bytes),
        "why": why,
        "nonce": nonce,
        "created_at": created_at,
        "submit_started_at": submit_started_at,
        "upstream_created_at": upstream_created_at,
        "upstream_expires_at": upstream_expires_at,
        "upstream_ended_at": upstream_ended_at,
        "finished_at": finished_at,
        "adopted": bool(adopted),
        "late": bool(late),
        "detail": detail,
        "attempts_by_state": attempts or {},
        "events": history,
    }
    return BatchView(**fields)  # type: ignore[arg-type]  # as above


def events(db: sqlite3.Connection, entity_id: str | None, limit: int, since: Ms | None = None) -> list[Event]:
    """The last ``limit`` events, oldest of them first; of one entity or of all, without those before ``since``."""
    rows = db.execute(
        "select seq, at, actor, entity, entity_id, what, old_state, new_state, detail from events"
        + (" where entity_id = ?1" if entity_id is not None else " where ?1 is null")
        + " order by seq desc limit ?2",
        (entity_id, limit),
    ).fetchall()
    return [
        Event(
            seq=seq,
            at=at,
            actor=actor,
            entity=entity,
            entity_id=id,
            what=what,
            old_state=old,
            new_state=new,
            detail=detail,
        )
        for seq, at, actor, entity, id, what, old, new, detail in reversed(rows)
        if since is None or at >= since  # here, not in SQL: times have no index
    ]


def anything_due(db: sqlite3.Connection, destination: str, after_seq: int, now: Ms) -> bool:
    row = db.execute(
        "select 1 from destinations t"
        " join deliveries d on d.destination_id = t.id and d.state = 'pending' and d.due_at <= ? and d.seq > ?"
        " where t.name = ? limit 1",
        (now, after_seq, destination),
    ).fetchone()
    return row is not None


def anything_to_release(db: sqlite3.Connection) -> bool:
    row = db.execute("select 1 from batches where finished_at is not null and members_open > 0 limit 1").fetchone()
    return row is not None


def next_wait(db: sqlite3.Connection) -> Ms | None:
    """When the next request that waits for its time may be sent."""
    moment: Ms | None = db.execute(
        "select min(waits_until) from requests where state = 'queued' and waits_until is not null"
    ).fetchone()[0]
    return moment


def next_lease_end(db: sqlite3.Connection) -> Ms | None:
    moment: Ms | None = db.execute("select min(due_at) from deliveries where state = 'sending'").fetchone()[0]
    return moment


def unfinished(db: sqlite3.Connection) -> list[BatchId]:
    rows = db.execute(
        "select id from batches where state = 'forming' and finished_at is null and formed_at is null order by seq"
    )
    return [BatchId(row[0]) for row in rows.fetchall()]
