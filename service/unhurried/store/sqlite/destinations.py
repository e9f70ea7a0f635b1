"""Destinations as an operator sees and changes them, and results delivered again at his word."""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from unhurried.clock import Ms
from unhurried.domain.states import DeliveryState, RequestState
from unhurried.store.errors import NotRedeliverable
from unhurried.store.records import DeliveryFilter, DeliveryPage, DeliveryView, Destination, Redelivered
from unhurried.store.sqlite.delivering import AT_ONCE, delivery_id, parse_delivery_id
from unhurried.store.sqlite.sending import DESTINATION, destination_of
from unhurried.store.sqlite.tx import Tx, guard

WINDOW_ROWS: Final = 5_000
"""Rows of ``deliveries`` that one look at them passes, whatever it finds."""
REDELIVER_CHUNK: Final = 250


def destinations(db: sqlite3.Connection, after: str, limit: int) -> list[Destination]:
    rows = db.execute(f"{DESTINATION} where t.name > ? order by t.name limit ?", (after, limit)).fetchall()
    counts: dict[int, dict[str, int]] = {}
    for owner, state, n in db.execute(
        "select c.owner_id, c.state, c.n from json_each(?) j"
        " cross join counters c on c.entity = 'delivery' and c.owner_id = j.value where c.n > 0",
        (msgspec.json.encode([row[0] for row in rows]).decode(),),
    ).fetchall():
        counts.setdefault(owner, {})[state] = n
    return [destination_of(row, counts.get(row[0], {})) for row in rows]


def destination(db: sqlite3.Connection, name: str) -> Destination | None:
    row = db.execute(f"{DESTINATION} where t.name = ?", (name,)).fetchone()
    if row is None:
        return None
    counts = db.execute(
        "select state, n from counters where entity = 'delivery' and owner_id = ? and n > 0", (row[0],)
    ).fetchall()
    return destination_of(row, dict(counts))


def webhook_names(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("select name from destinations where kind = 'webhook'").fetchall()]


def put_webhook(
    tx: Tx, name: str, url: str, secrets: Sequence[str], concurrency: int | None, actor: str, now: Ms
) -> bool:
    """A pause stays; the breaker forgets what it learned of another address or with other secrets. Saying the same
    again changes nothing."""
    refs = msgspec.json.encode(list(secrets)).decode()
    row = tx.db.execute(
        "select url, secrets, concurrency from destinations where name = ? and kind = 'webhook'", (name,)
    ).fetchone()
    if row == (url, refs, concurrency):
        return False
    if row is None:
        tx.db.execute(
            "insert into destinations (name, kind, url, secrets, concurrency, created_at)"
            " values (?, 'webhook', ?, ?, ?, ?)",
            (name, url, refs, concurrency, now),
        )
    else:
        tx.db.execute(
            "update destinations set url = ?, secrets = ?, concurrency = ? where name = ?",
            (url, refs, concurrency, name),
        )
        if row[:2] != (url, refs):
            _close_breaker(tx, name)
    # Not the URL: its path may be a secret of the receiver's, and events are shown to everyone.
    tx.event(now, actor, "destination", name, "destination.added" if row is None else "destination.changed")
    return row is None


def _close_breaker(tx: Tx, name: str) -> None:
    tx.db.execute(
        "update destinations set failures = 0, failing_since = null, open_until = null, trips = 0 where name = ?",
        (name,),
    )


def pause(tx: Tx, name: str, reason: str, actor: str, now: Ms) -> bool | None:
    row = tx.db.execute("select paused_at from destinations where name = ? and kind = 'webhook'", (name,)).fetchone()
    if row is None or row[0] is not None:
        return None if row is None else False
    tx.db.execute("update destinations set paused_at = ?, pause_reason = ? where name = ?", (now, reason, name))
    tx.event(now, actor, "destination", name, "destination.paused", detail=reason)
    return True


def resume(tx: Tx, name: str, actor: str, now: Ms) -> bool | None:
    """A pause was somebody's word, and ends with all that led to it. Of a breaker only the rest ends: what it has
    learned stays, and one attempt shows whether it still holds."""
    row = tx.db.execute(
        "select paused_at, failures, open_until from destinations where name = ? and kind = 'webhook'", (name,)
    ).fetchone()
    if row is None:
        return None
    paused_at, failures, open_until = row
    if paused_at is not None:
        tx.db.execute("update destinations set paused_at = null, pause_reason = null where name = ?", (name,))
        _close_breaker(tx, name)
        tx.event(now, actor, "destination", name, "destination.resumed")
        return True
    if open_until is None or open_until <= now:
        return False
    tx.db.execute("update destinations set open_until = ? where name = ?", (now, name))
    detail = f"one attempt now, after {failures:,} that failed" if failures else "it had asked for rest"
    tx.event(now, actor, "destination", name, "destination.resumed", detail=detail)
    return True


_DELIVERY: Final = (
    "select d.seq, r.id, d.generation, t.name, r.custom_id, q.name, r.state, d.state, d.attempts, d.created_at,"
    " max(d.due_at, d.created_at), d.finished_at, d.confirmed_by, d.last_at, d.last_status, d.last_error"
    " from deliveries d join requests r on r.seq = d.request_seq join destinations t on t.id = d.destination_id"
    " join groups g on g.id = r.group_id join queues q on q.id = g.queue_id"
)


def delivery(db: sqlite3.Connection, text: str) -> DeliveryView | None:
    pair = parse_delivery_id(text)
    if pair is None:
        return None
    row = db.execute(f"{_DELIVERY} where r.id = ? and d.generation = ?", pair).fetchone()
    return _view(row) if row else None


def deliveries(db: sqlite3.Connection, filter: DeliveryFilter, cursor: str | None, limit: int) -> DeliveryPage:
    """Newest first. With a filter a page passes a bounded window of rows, so it costs the same whatever it finds."""
    if cursor is not None:
        top = int(cursor)
    else:
        top = int(db.execute("select coalesce(max(seq), 0) + 1 from deliveries").fetchone()[0])
    clauses, values = _clauses(filter)
    bottom = max(0, top - WINDOW_ROWS) if clauses else 0
    where = " and ".join((*clauses, "d.seq < ?", "d.seq >= ?"))
    rows = db.execute(
        f"{_DELIVERY} where {where} order by d.seq desc limit ?", (*values, top, bottom, limit)
    ).fetchall()
    if len(rows) == limit:
        following: str | None = str(rows[-1][0])
    else:
        following = str(bottom) if bottom > 1 else None
    return DeliveryPage(deliveries=[_view(row) for row in rows], cursor=following)


def _clauses(filter: DeliveryFilter) -> tuple[list[str], list[object]]:
    clauses: list[str] = []
    values: list[object] = []
    if filter.destination is not None:
        clauses.append("t.name = ?")
        values.append(filter.destination)
    if filter.states:
        states = sorted(state.value for state in filter.states)
        clauses.append(f"+d.state in ({', '.join('?' * len(states))})")
        values.extend(states)
    if filter.since is not None:
        clauses.append("coalesce(d.finished_at, d.created_at) >= ?")
        values.append(filter.since)
    return clauses, values


def _view(row: Sequence[object]) -> DeliveryView:
    (_, request_id, generation, name, custom_id, queue, request_state, state, attempts, created_at, due_at, finished_at,
     confirmed_by, last_at, last_status, last_error) = row  # fmt: skip
    assert isinstance(generation, int)
    fields: dict[str, object] = {
        "id": delivery_id(str(request_id), generation),
        "destination": name,
        "request_id": request_id,
        "custom_id": custom_id,
        "queue": queue,
        "request_state": RequestState(str(request_state)),
        "state": DeliveryState(str(state)),
        "attempts": attempts,
        "created_at": created_at,
        "due_at": due_at,
        "finished_at": finished_at,
        "confirmed_by": confirmed_by,
        "last_at": last_at,
        "last_status": last_status,
        "last_error": last_error,
    }
    return DeliveryView(**fields)  # type: ignore[arg-type]  # a row of SQLite has no types; the tests of the store check


_AGAIN: Final = (
    "select d.seq, d.state, d.destination_id, r.seq, r.id, r.delivery"
    " from deliveries d join requests r on r.seq = d.request_seq"
)


def redeliver(tx: Tx, text: str, actor: str, now: Ms) -> str | None:
    """Returns the id of the new delivery; None when there is none of this id."""
    pair = parse_delivery_id(text)
    row = tx.db.execute(f"{_AGAIN} where r.id = ? and d.generation = ?", pair).fetchone() if pair else None
    if row is None or pair is None:
        return None
    seq, state, owner, request_seq, request_id, newest = row
    if newest != pair[1]:
        raise NotRedeliverable(f"{delivery_id(request_id, newest)} took its place")
    if state == DeliveryState.SENDING:
        raise NotRedeliverable("it is being delivered just now")
    if not _has_result(tx.db, request_seq):
        raise NotRedeliverable("the request has no result any more: it was erased or retried")
    _again(tx, [(seq, state, owner, request_seq, request_id, newest)], now)
    made = delivery_id(request_id, newest + 1)
    tx.event(now, actor, "delivery", made, "delivery.again", detail=f"in place of {text}, which was {state}")
    return made


def _has_result(db: sqlite3.Connection, request_seq: int) -> bool:
    """Not if it was erased: what stands in its place says so, and is nothing to hand over."""
    row = db.execute(
        "select 1 from results s join requests r on r.seq = s.request_seq where r.seq = ? and r.erased_at is null",
        (request_seq,),
    ).fetchone()
    return row is not None


def find_again(
    db: sqlite3.Connection, filter: DeliveryFilter, cursor: tuple[int, int] | None
) -> tuple[list[tuple[object, ...]], tuple[int, int] | None]:
    """The next deliveries that ``filter`` names and that are the newest of their request, and where to go on: behind
    which row, and up to which. The end is fixed at the first look, since each one found makes another."""
    clauses, values = _clauses(filter)
    if cursor is None:
        cursor = (0, int(db.execute("select coalesce(max(seq), 0) from deliveries").fetchone()[0]))
    after, last = cursor
    until = min(after + WINDOW_ROWS, last)
    where = " and ".join((*clauses, "d.state <> 'sending'", "d.generation = r.delivery", "d.seq > ?", "d.seq <= ?"))
    rows = db.execute(
        f"{_AGAIN} join destinations t on t.id = d.destination_id where {where}"
        " and r.erased_at is null and exists (select 1 from results s where s.request_seq = r.seq)"
        " order by d.seq limit ?",
        (*values, after, until, REDELIVER_CHUNK),
    ).fetchall()
    if len(rows) == REDELIVER_CHUNK:
        until = int(rows[-1][0])
    return rows, (until, last) if until < last else None


def redeliver_many(tx: Tx, filter: DeliveryFilter, cursor: tuple[int, int] | None, actor: str, now: Ms) -> Redelivered:
    rows, following = find_again(tx.db, filter, cursor)
    _again(tx, rows, now)
    if rows:
        detail = f"{len(rows)} deliveries, {', '.join(sorted(state.value for state in filter.states))}"
        tx.event(now, actor, "destination", str(filter.destination), "destination.redelivered", detail=detail)
    return Redelivered(deliveries=len(rows), cursor=following)


def _again(tx: Tx, rows: Sequence[Sequence[object]], now: Ms) -> None:
    """A new delivery for each, due now. One that was pending or dead is canceled: nobody need look after it now."""
    replaced = [(now, seq, state) for seq, state, *_ in rows if state in ("pending", "dead")]
    done = tx.db.executemany(
        "update deliveries set state = 'canceled', finished_at = ? where seq = ? and state = ?", replaced
    )
    if replaced:
        guard(done, len(replaced), "replacing deliveries")
    tx.db.executemany(
        "insert into deliveries (request_seq, generation, destination_id, state, due_at, created_at)"
        " select seq, delivery + 1, ?, 'pending', ?, ? from requests where seq = ?",
        [(owner, AT_ONCE, now, request_seq) for _, _, owner, request_seq, *_ in rows],
    )
    tx.db.executemany(
        "update requests set delivery = delivery + 1 where seq = ?",
        [(request_seq,) for _, _, _, request_seq, *_ in rows],
    )
    for _, state, owner, *_ in rows:
        assert isinstance(owner, int)
        if state in ("pending", "dead"):
            tx.count("delivery", owner, str(state), -1)
            tx.count("delivery", owner, "canceled", 1)
        tx.count("delivery", owner, "pending", 1)
