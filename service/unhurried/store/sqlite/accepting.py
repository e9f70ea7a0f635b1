"""Taking requests in."""

from collections.abc import Container, Sequence
from typing import Final

import msgspec

from unhurried.clock import Ms, after, seconds_between
from unhurried.domain.grouping import deadline_class
from unhurried.domain.request import Accepted, KeyConflict, NewRequest
from unhurried.domain.states import RequestState
from unhurried.store.sqlite.rows import insert
from unhurried.store.sqlite.tx import Tx

ROW_BYTES: Final = 700
"""Roughly what one request writes besides its params: rows and index entries."""

_INTO_REQUESTS: Final = (
    "insert into requests (seq, id, group_id, state, priority, accepted_at, queued_at, waits_until, deadline_at,"
    " not_before, params_bytes, digest, attempts_max, deliver_to, custom_id, metadata, peer_uid)"
)


def accept(
    tx: Tx, requests: Sequence[NewRequest], bounds_s: Sequence[float], key_days: float
) -> list[Accepted | KeyConflict]:
    """Store those that are new; answer the others from their idempotency key. In the order given."""
    answers: list[Accepted | KeyConflict | None] = [None] * len(requests)
    known = _known_keys(tx, requests)
    rows, bodies, keys = [], [], []
    fresh: set[str] = set()
    seq = int(tx.db.execute("select coalesce(max(seq), 0) from requests").fetchone()[0])
    for place, request in enumerate(requests):
        queue_id = tx.queue_id(request.queue, request.accepted_at)
        if request.idempotency_key is not None:
            key = (queue_id, request.idempotency_key)
            if (held := known.get(key)) is not None:
                answers[place] = _answer_again(tx, request, *held, fresh)
                continue
            known[key] = (request.digest, request.id)
            fresh.add(request.id)
            expires_at = after(request.accepted_at, key_days * 86_400)
            keys.append((*key, request.digest, request.id, expires_at))
        seq += 1
        rows.append(_row(tx, request, seq, bounds_s))
        bodies.append((seq, request.params))
        tx.count("request", queue_id, "queued", 1)
        answers[place] = Accepted(request.id, RequestState.QUEUED)
    insert(tx.db, _INTO_REQUESTS, rows)
    insert(tx.db, "insert into bodies (request_seq, params)", bodies)
    if keys:
        tx.db.executemany(
            "insert into idempotency_keys (queue_id, key, digest, request_id, expires_at) values (?, ?, ?, ?, ?)"
            " on conflict do update set digest = excluded.digest, request_id = excluded.request_id,"
            " expires_at = excluded.expires_at",  # only an expired key can still be there
            keys,
        )
    return [answer for answer in answers if answer is not None]


def _row(tx: Tx, request: NewRequest, seq: int, bounds_s: Sequence[float]) -> tuple[object, ...]:
    start = request.not_before or request.accepted_at
    urgency = deadline_class(seconds_between(start, request.deadline_at), bounds_s)
    group_id = tx.group_id(request, urgency, request.accepted_at)
    size = len(request.params)
    if request.not_before is None:
        tx.wait(group_id, 1, size)
    return (
        seq,
        request.id,
        group_id,
        "queued",
        request.priority,
        request.accepted_at,
        start,
        request.not_before,
        request.deadline_at,
        request.not_before,
        size,
        request.digest,
        request.attempts_max,
        request.deliver_to,
        request.custom_id,
        request.metadata.decode() if request.metadata else None,
        request.peer_uid,
    )


def _known_keys(tx: Tx, requests: Sequence[NewRequest]) -> dict[tuple[int, str], tuple[bytes, str]]:
    """Keys that are held already: ``(queue, key)`` to digest and request id. One look-up for each queue."""
    asked: dict[int, list[str]] = {}
    now = Ms(0)
    for request in requests:
        if request.idempotency_key is not None:
            now = max(now, request.accepted_at)
            asked.setdefault(tx.queue_id(request.queue, now), []).append(request.idempotency_key)
    known = {}
    for queue_id, keys in asked.items():
        rows = tx.db.execute(
            "select key, digest, request_id from idempotency_keys"
            " where queue_id = ? and key in (select value from json_each(?)) and expires_at > ?",
            (queue_id, msgspec.json.encode(keys).decode(), now),
        )
        known.update({(queue_id, key): (digest, request_id) for key, digest, request_id in rows})
    return known


def _answer_again(
    tx: Tx, request: NewRequest, digest: bytes, request_id: str, fresh: Container[str]
) -> Accepted | KeyConflict:
    if digest != request.digest:
        return KeyConflict(request_id)
    row = tx.db.execute(
        "select r.state, b.upstream_id from requests r left join batches b on b.seq = r.batch_seq where r.id = ?",
        (request_id,),
    ).fetchone()
    if row is None:  # first named a few lines above, in this very call; or retention has deleted it
        return Accepted(request_id, RequestState.QUEUED if request_id in fresh else None, duplicate=True)
    return Accepted(request_id, visible_state(row[0], row[1]), duplicate=True)


def visible_state(stored: str, upstream_id: str | None) -> RequestState:
    """``submitted`` is ``assigned`` to a batch that upstream has confirmed."""
    if stored == RequestState.ASSIGNED and upstream_id is not None:
        return RequestState.SUBMITTED
    return RequestState(stored)
