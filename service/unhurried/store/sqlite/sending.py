"""Deliveries to webhooks: claimed before they are attempted, and what came of each attempt."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from unhurried.clock import Ms, after
from unhurried.domain.delivering import (
    Breaker,
    Delivered,
    Gone,
    Misconfigured,
    Outcome,
    Parcel,
    TryAgain,
    after_failure,
    after_success,
    allowance,
    given_up,
    retry_pause_s,
)
from unhurried.store.records import Claimed, Destination
from unhurried.store.sqlite.delivering import AT_ONCE, Due, due, lease
from unhurried.store.sqlite.tx import Tx, guard

CLAIM_ROWS: Final = 64
CLAIM_BYTES: Final = 16_000_000
"""Deliveries, and bytes of their results, in one claim: it is a transaction that others wait for, and what it reads is
in memory until it is sent. One result that is larger than this is claimed alone."""
MISCONFIGURED_PAUSE_S: Final = 30.0
DETAIL_CHARS_MAX: Final = 500

DESTINATION: Final = (
    "select t.id, t.name, t.kind, t.url, t.secrets, t.concurrency, t.created_at, t.paused_at, t.pause_reason,"
    " t.failures, t.failing_since, t.open_until, t.trips,"
    " (select min(due_at) from deliveries d where d.destination_id = t.id and d.state = 'pending')"
    " from destinations t"
)


def open_webhooks(db: sqlite3.Connection) -> list[Destination]:
    rows = db.execute(  # by name, which has an index: the destinations to pull from can be thousands
        f"{DESTINATION} where t.name >= 'webhook:' and t.name < 'webhook;' and t.paused_at is null"
    ).fetchall()
    return [found for row in rows if (found := destination_of(row, {})).next_due_at is not None]


def destination_of(row: Sequence[object], deliveries: dict[str, int]) -> Destination:
    (id, name, kind, url, secrets, concurrency, created_at, paused_at, pause_reason, failures, failing_since,
     open_until, trips, next_due_at) = row  # fmt: skip
    fields: dict[str, object] = {
        "id": id,
        "name": name,
        "kind": kind,
        "url": url,
        "secrets": _refs(secrets),
        "concurrency": concurrency,
        "created_at": created_at,
        "paused_at": paused_at,
        "pause_reason": pause_reason,
        "breaker": _breaker((failures, failing_since, open_until, trips)),
        "deliveries": deliveries,
        "next_due_at": next_due_at,
    }
    return Destination(**fields)  # type: ignore[arg-type]  # a row of SQLite has no types; the tests of the store check


def _refs(secrets: object) -> tuple[str, ...]:
    return tuple(msgspec.json.decode(str(secrets))) if secrets is not None else ()


def _breaker(columns: Sequence[object]) -> Breaker:
    failures, failing_since, open_until, trips = columns
    return Breaker(failures=failures, failing_since=failing_since, open_until=open_until, trips=trips)  # type: ignore[arg-type]  # as above


def claim(tx: Tx, wanted: Mapping[int, int], lease_s: float, now: Ms) -> list[Claimed]:
    """Take what is due, up to so many of each destination. Where and whether to send is read here and not before, so
    that nothing is claimed for an address that has been changed, or after a pause was confirmed to an operator."""
    claimed: list[Claimed] = []
    rows, size = CLAIM_ROWS, CLAIM_BYTES
    for destination_id, limit in wanted.items():
        if rows <= 0 or size <= 0:
            break
        name, url, secrets, *columns = tx.db.execute(
            "select name, url, secrets, failures, failing_since, open_until, trips, paused_at from destinations"
            " where id = ? and kind = 'webhook'",
            (destination_id,),
        ).fetchone()
        paused_at = columns.pop()
        free = 0 if paused_at is not None else allowance(_breaker(columns), now, min(limit, rows))
        if not free:
            continue
        found = due(tx.db, destination_id, limit=free, bytes_max=size, now=now)
        lease(tx, found, after(now, lease_s))
        rows -= len(found)
        size -= sum(len(one.handed.body) for one in found)
        claimed += [
            Claimed(
                seq=one.seq,
                destination_id=destination_id,
                destination=name,
                url=url,
                secrets=_refs(secrets),
                parcel=_parcel(one),
            )
            for one in found
        ]
    return claimed


def _parcel(one: Due) -> Parcel:
    handed = one.handed
    assert handed.delivery_id is not None
    return Parcel(
        delivery_id=handed.delivery_id,
        attempt=handed.attempt,
        request_id=handed.request_id,
        custom_id=handed.custom_id,
        queue=handed.queue,
        state=handed.state,
        stored_at=handed.stored_at,
        metadata=handed.metadata,
        result=handed.body,
    )


def record_outcome(
    tx: Tx,
    claimed: Claimed,
    outcome: Outcome,
    *,
    next_lease_s: float | None,
    jitter: float,
    disable_after_s: float,
    now: Ms,
) -> tuple[bool, Claimed | None]:
    """Change the delivery and its destination, and claim the next one if this one arrived. Also tells whether this call
    is the one that confirmed it.

    A delivery that is no longer ``sending`` was confirmed by its caller meanwhile, or canceled: then only the
    destination learns from it.
    """
    row = tx.db.execute("select state, attempts from deliveries where seq = ?", (claimed.seq,)).fetchone()
    state, attempts = row or ("deleted", 0)
    arrived = isinstance(outcome, Delivered)
    confirmed = arrived and state in ("pending", "sending")  # pending: its lease was over, and it was not yet repeated
    if confirmed:
        _move(tx, claimed, state, "delivered", {"finished_at": now, "confirmed_by": "webhook"})
    elif state == "sending" and not isinstance(outcome, Delivered):
        _put_off(tx, claimed, outcome, attempts, jitter, now)
    _learn(tx, claimed, outcome, disable_after_s, now)
    if not arrived or next_lease_s is None:
        return confirmed, None
    following = claim(tx, {claimed.destination_id: 1}, next_lease_s, now)
    return confirmed, following[0] if following else None


def _put_off(
    tx: Tx, claimed: Claimed, outcome: TryAgain | Gone | Misconfigured, attempts: int, jitter: float, now: Ms
) -> None:
    """Plan the next attempt, or give the delivery up when it has had them all."""
    said: dict[str, object] = {"last_at": now, "last_status": None, "last_error": outcome.detail[:DETAIL_CHARS_MAX]}
    match outcome:
        case TryAgain(status=status, retry_after_s=retry_after_s):
            said["last_status"] = status
            pause_s = retry_pause_s(attempts, jitter, retry_after_s)
            if pause_s is None:
                _move(tx, claimed, "sending", "dead", {**said, "finished_at": now})
                detail = f"the last of {attempts} attempts failed: {outcome.detail}"
                tx.event(now, "dispatcher", "delivery", claimed.parcel.delivery_id, "delivery.dead", detail=detail)
                return
            _move(tx, claimed, "sending", "pending", {**said, "due_at": after(now, pause_s)})
        case Gone():  # the destination is paused; whoever resumes it wants this one too
            said["last_status"] = 410
            _move(tx, claimed, "sending", "pending", {**said, "due_at": AT_ONCE, "attempts": attempts - 1})
        case Misconfigured():
            due_at = after(now, MISCONFIGURED_PAUSE_S)
            _move(tx, claimed, "sending", "pending", {**said, "due_at": due_at, "attempts": attempts - 1})


def _move(tx: Tx, claimed: Claimed, old: str, new: str, sets: Mapping[str, object]) -> None:
    assignments = ", ".join(f"{name} = ?" for name in sets)
    done = tx.db.execute(
        f"update deliveries set state = ?, {assignments} where seq = ? and state = ?",
        (new, *sets.values(), claimed.seq, old),
    )
    guard(done, 1, "recording an attempt to deliver")
    tx.count("delivery", claimed.destination_id, old, -1)
    tx.count("delivery", claimed.destination_id, new, 1)


def _learn(tx: Tx, claimed: Claimed, outcome: Outcome, disable_after_s: float, now: Ms) -> None:
    """What the attempt says of its destination: the breaker, and whether to leave it alone until an operator looks.

    Nothing if the destination was changed meanwhile: what the old receiver said is not true of the new one.
    """
    destination_id = claimed.destination_id
    name, url, secrets, paused_at, *columns = tx.db.execute(
        "select name, url, secrets, paused_at, failures, failing_since, open_until, trips from destinations"
        " where id = ?",
        (destination_id,),
    ).fetchone()
    if (url, _refs(secrets)) != (claimed.url, tuple(claimed.secrets)):
        return
    before = _breaker(columns)
    breaker, pause = before, None
    match outcome:
        case Delivered():
            breaker = after_success(before)
        case Gone():
            pause = "the receiver answered 410 Gone"
        case TryAgain(throttled=throttled, retry_after_s=retry_after_s):
            breaker = after_failure(before, now, retry_after_s if throttled else None)
        case Misconfigured():
            breaker = after_failure(before, now)
    if pause is None and given_up(breaker, now, disable_after_s):
        pause = f"every attempt failed for {disable_after_s / 86_400:g} days: {getattr(outcome, 'detail', '')}"
    if breaker != before:
        tx.db.execute(
            "update destinations set failures = ?, failing_since = ?, open_until = ?, trips = ? where id = ?",
            (breaker.failures, breaker.failing_since, breaker.open_until, breaker.trips, destination_id),
        )
        _tell(tx, name, before, breaker, outcome, now)
    if pause is not None and paused_at is None:
        tx.db.execute(
            "update destinations set paused_at = ?, pause_reason = ? where id = ?",
            (now, pause[:DETAIL_CHARS_MAX], destination_id),
        )
        tx.event(now, "dispatcher", "destination", name, "destination.paused", detail=pause)


def _tell(tx: Tx, name: str, before: Breaker, breaker: Breaker, outcome: Outcome, now: Ms) -> None:
    if breaker.trips == 1 and before.trips == 0:
        detail = f"{breaker.failures} failures in a row: {getattr(outcome, 'detail', '')}"
        tx.event(now, "dispatcher", "destination", name, "destination.failing", detail=detail)
    elif isinstance(outcome, Delivered) and before.trips:
        tx.event(now, "dispatcher", "destination", name, "destination.recovered")


def reclaim(tx: Tx, now: Ms) -> int:
    """Deliveries that an older boot was sending: pending again. To a webhook the attempt may have been made or not;
    it is not counted, so that restarts use up nobody's attempts."""
    rows = tx.db.execute(
        "select d.seq, d.destination_id, t.kind = 'webhook' from deliveries d join destinations t"
        " on t.id = d.destination_id where d.state = 'sending' and d.epoch < ?",
        (tx.epoch,),
    ).fetchall()
    done = tx.db.executemany(
        "update deliveries set state = 'pending', due_at = ?, attempts = attempts - ?"
        " where seq = ? and state = 'sending'",
        [(AT_ONCE, webhook, seq) for seq, _, webhook in rows],
    )
    if rows:
        guard(done, len(rows), "taking deliveries back")
    for _, owner, _ in rows:
        tx.count("delivery", owner, "sending", -1)
        tx.count("delivery", owner, "pending", 1)
    return len(rows)
