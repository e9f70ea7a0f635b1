"""What the submission and its settlement write: intents, outcomes, doubts, the account."""

import sqlite3
from typing import Any, Final

from unhurried.clock import Ms
from unhurried.domain.batch import Batch, BatchId, UpstreamId
from unhurried.domain.collecting import our_error
from unhurried.domain.settling import Doubt, Known, Sighting
from unhurried.domain.states import BatchState
from unhurried.domain.submitting import No, Refused
from unhurried.store.errors import AccountChanged
from unhurried.store.records import Account
from unhurried.store.sqlite import sending
from unhurried.store.sqlite.collecting import error_member
from unhurried.store.sqlite.copies import is_held, is_searching
from unhurried.store.sqlite.forming import BATCH_COLUMNS, BATCH_FROM, batch_by_id, batch_of
from unhurried.store.sqlite.tx import Tx

ACTOR: Final = "submission"

_IN_DOUBT: Final = "select requests from batches where state in ('submitting', 'unknown') and finished_at is null"
FORMED: Final = (
    "b.state = 'forming' and b.finished_at is null and b.formed_at is not null"
    # A batch of one cannot be made smaller; it must not block the others while another of one is in doubt.
    f" and not (b.requests = 1 and 1 in ({_IN_DOUBT}))"
)


CREDENTIAL_STATUSES: Final = frozenset({"401", "402", "403"})
"""A pause that one of these caused is lifted at a start: the credential may be another by now."""


def account(db: sqlite3.Connection) -> Account | None:
    """The one row of the account; None before the first start."""
    row = db.execute(
        "select base_url, workspace, paused_at, paused_until, pause_reason, refusals, swept_at from account"
    ).fetchone()
    if row is None:
        return None
    base_url, workspace, paused_at, paused_until, reason, refusals, swept_at = row
    return Account(
        base_url=base_url,
        workspace=workspace,
        paused=paused_at is not None,
        paused_until=paused_until,
        pause_reason=reason,
        refusals=refusals,
        swept_at=swept_at,
        restored=is_held(db),
    )


def bind_account(tx: Tx, base_url: str, now: Ms) -> None:
    """At the first start, remember where the work is paid; later, insist on it while any is open."""
    found = account(tx.db)
    if found is None:
        tx.db.execute("insert into account (id, base_url) values (1, ?)", (base_url,))
        return
    if found.base_url == base_url:
        return
    if _anything_open(tx.db):
        raise AccountChanged(
            f"this database has open work at {found.base_url}, and the settings say {base_url}."
            " Let the work end there first, or give the new account its own UNHURRIED_DATABASE"
        )
    tx.db.execute("update account set base_url = ?, workspace = null, refusals = 0", (base_url,))
    tx.event(now, "daemon", "account", base_url, "account.bound", detail=f"was {found.base_url}")


def record_workspace(tx: Tx, workspace: str) -> None:
    """Remember whose batches these are, at first sight. Raises ``AccountChanged`` for another workspace."""
    found = account(tx.db)
    if found is None or workspace == found.workspace:
        return
    if found.workspace and _anything_open(tx.db):
        raise AccountChanged(
            f"the credential now belongs to workspace {workspace}, but open work of this database is in"
            f" {found.workspace}, where only a credential of that workspace can see it"
        )
    tx.db.execute("update account set workspace = ?", (workspace,))


def _anything_open(db: sqlite3.Connection) -> bool:
    row = db.execute(
        "select 1 from counters where entity = 'request' and state in ('queued', 'assigned') and n > 0 limit 1"
    ).fetchone()
    return row is not None


def pause_account(tx: Tx, reason: str, until: Ms | None, actor: str, now: Ms) -> None:
    found = account(tx.db)
    if found is None:
        return
    tx.db.execute(
        "update account set paused_at = ?, paused_until = ?, pause_reason = ?, refusals = refusals + 1",
        (now, until, reason[:500]),
    )
    tx.event(now, actor, "account", found.base_url, "account.paused", detail=reason)


def resume_account(tx: Tx, actor: str, now: Ms, why: str | None = None) -> bool:
    found = account(tx.db)
    if found is None or not found.paused:
        return False
    tx.db.execute("update account set paused_at = null, paused_until = null, pause_reason = null, refusals = 0")
    tx.event(now, actor, "account", found.base_url, "account.resumed", detail=why)
    return True


def next_formed(db: sqlite3.Connection) -> Batch | None:
    """The formed batch with the most urgent class, the oldest of these."""
    row = db.execute(
        f"select {BATCH_COLUMNS} {BATCH_FROM} where {FORMED} order by g.deadline_class, b.seq limit 1"
    ).fetchone()
    return batch_of(row) if row else None


def formed_ahead(db: sqlite3.Connection) -> int:
    return int(db.execute(f"select count(*) from batches b where {FORMED}").fetchone()[0])


def sizes_in_doubt(db: sqlite3.Connection) -> frozenset[int]:
    return frozenset(row[0] for row in db.execute(_IN_DOUBT))


def waiting_upstream(db: sqlite3.Connection) -> int:
    row = db.execute(
        "select coalesce(sum(members_open), 0) from batches"
        " where state in ('submitting', 'unknown', 'in_progress', 'canceling') and finished_at is null"
    ).fetchone()
    return int(row[0])


def record_submission(tx: Tx, batch_id: BatchId, window_from: Ms, now: Ms) -> Batch | None:
    """The intent to POST. None when the batch is not to be submitted now: see the contract."""
    row = tx.db.execute(
        "select requests, stale, cancels >= members_open from batches where id = ? and state = 'forming'", (batch_id,)
    ).fetchone()
    if row is None or row[0] in sizes_in_doubt(tx.db) or is_held(tx.db):
        return None
    if row[1] or row[2]:
        # Some were answered by a late twin meanwhile, or nobody wants an answer any more: sending it would be waste.
        detail = "answered meanwhile" if row[1] else "every caller asked to cancel"
        tx.move_batch(batch_id, BatchState.FORMING, BatchState.DISSOLVED, at=now, actor=ACTOR, detail=detail)
        return None
    moved = tx.move_batch(
        batch_id,
        BatchState.FORMING,
        BatchState.SUBMITTING,
        at=now,
        actor=ACTOR,
        sets={"submit_started_at": now, "window_from": window_from},
    )
    return batch_by_id(tx.db, batch_id) if moved else None


def record_created(tx: Tx, batch_id: BatchId, upstream_id: UpstreamId, created_at: Ms, now: Ms) -> bool:
    """Upstream said yes. False, and nothing changed, when the batch was not being submitted."""
    holder = tx.db.execute("select id from batches where upstream_id = ? and proved = 0", (upstream_id,)).fetchone()
    if holder is not None:
        disown(tx, BatchId(holder[0]), f"it is {batch_id}", stranger=False, now=now)
    done = tx.move_batch(
        batch_id,
        BatchState.SUBMITTING,
        BatchState.IN_PROGRESS,
        at=now,
        actor=ACTOR,
        detail=f"upstream calls it {upstream_id}",
        sets={"upstream_id": upstream_id, "upstream_created_at": created_at, "proved": 1},
    )
    if not resume_account(tx, ACTOR, now, "upstream took a batch"):
        tx.db.execute("update account set refusals = 0 where refusals > 0")
    tx.db.execute(
        "update groups set cut_short = 0, bytes_cap = bytes_cap * 9 / 8"
        " where id = (select group_id from batches where id = ?) and (cut_short > 0 or bytes_cap is not null)",
        (batch_id,),
    )
    return done


def record_unknown(tx: Tx, batch_id: BatchId, detail: str, now: Ms) -> bool:
    return tx.move_batch(batch_id, BatchState.SUBMITTING, BatchState.UNKNOWN, at=now, actor=ACTOR, detail=detail)


def record_refused(tx: Tx, batch_id: BatchId, refused: Refused, pause_until: Ms | None, now: Ms) -> bool:
    """A definite no. The culprit is errored here; ``release_members`` takes the others out, chunk by chunk."""
    row = tx.db.execute("select seq, group_id, requests from batches where id = ?", (batch_id,)).fetchone()
    batch_seq, group_id, requests = row
    sets: dict[str, Any] = {}
    culprit = refused.culprit if refused.kind is No.CULPRIT else None
    whole = refused.kind is No.UNEXPLAINED or (culprit is not None and culprit >= requests)
    if requests == 1 and (whole or refused.kind is No.TOO_LARGE):
        culprit = 0  # it is alone: nobody else can have been the cause
    elif whole:
        sets["release_cap"] = 1 << ((requests - 1).bit_length() - 1)  # the largest power of two below: few groups
    if not tx.move_batch(
        batch_id, BatchState.SUBMITTING, BatchState.REFUSED, at=now, actor=ACTOR, detail=refused.detail, sets=sets
    ):
        return False
    if culprit is not None and culprit < requests:
        error_type, body = _as_result(refused)
        error_member(tx, batch_seq, culprit, error_type, body, now)
    if refused.kind is No.TOO_LARGE and requests > 1:
        tx.db.execute(
            "update groups set bytes_cap = max(1, (select params_bytes from batches where seq = ?) / 2) where id = ?",
            (batch_seq, group_id),
        )
    if refused.kind is No.CUT_SHORT:
        tx.db.execute("update groups set cut_short = cut_short + 1 where id = ?", (group_id,))
    if pause_until is not None:
        pause_account(tx, refused.detail, pause_until, ACTOR, now)
    elif refused.kind is No.UNEXPLAINED:
        tx.db.execute("update account set refusals = refusals + 1")
    return True


def _as_result(refused: Refused) -> tuple[str, bytes]:
    """The refusal as the result of the request that caused it: upstream's own words where it sent any."""
    error_type = "request_too_large" if refused.kind is No.TOO_LARGE else "invalid_request_error"
    if refused.error:
        return error_type, b'{"type":"errored","error":{"type":"error","error":%s}}' % refused.error
    return error_type, our_error(error_type, refused.detail)


def doubts(db: sqlite3.Connection) -> list[Doubt]:
    return _doubts(db, "b.state = 'unknown' and b.finished_at is null", ())


def given_up(db: sqlite3.Connection, since: Ms) -> list[Doubt]:
    return _doubts(db, "b.state = 'abandoned' and b.submit_started_at >= ?", (since,))


def _doubts(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[Doubt]:
    rows = db.execute(
        f"select b.window_from, b.window_to, b.absent_at, b.absent_date, {BATCH_COLUMNS} {BATCH_FROM}"
        f" where {where} order by b.seq",
        values,
    )
    found = []
    for window_from, window_to, absent_at, absent_date, *columns in rows:
        batch = batch_of(tuple(columns))
        found.append(
            Doubt(
                batch=batch,
                since=batch.submit_started_at or batch.created_at,
                window_from=window_from,
                window_to=window_to,
                absent_at=absent_at,
                absent_date=absent_date,
            )
        )
    return found


def known_ids(db: sqlite3.Connection, since: Ms) -> Known:
    """What is known of upstream batches made since then."""
    rows = db.execute(
        "select upstream_id, proved from batches where upstream_id is not null and upstream_created_at >= ?"
        " union all select upstream_id, 1 from strangers",
        (since,),
    ).fetchall()
    return Known(
        settled=frozenset(UpstreamId(id) for id, proved in rows if proved),
        held=frozenset(UpstreamId(id) for id, proved in rows if not proved),
        being_created=frozenset(
            row[0]
            for row in db.execute("select requests from batches where state = 'submitting' and finished_at is null")
        ),
    )


def record_look(tx: Tx, batch_id: BatchId, date: Ms, absent: bool, window_to: Ms, now: Ms) -> None:
    """What a complete listing showed of a batch in doubt. The first one also bounds the window in which it can lie."""
    if absent:
        tx.db.execute(
            "update batches set absent_at = coalesce(absent_at, ?), absent_date = coalesce(absent_date, ?),"
            " window_to = coalesce(window_to, ?) where id = ? and state = 'unknown'",
            (now, date, window_to, batch_id),
        )
    else:
        tx.db.execute(
            "update batches set absent_at = null, absent_date = null, window_to = coalesce(window_to, ?)"
            " where id = ? and state = 'unknown'",
            (window_to, batch_id),
        )


def _is_held(tx: Tx, upstream_id: UpstreamId) -> bool:
    return tx.db.execute("select 1 from batches where upstream_id = ?", (upstream_id,)).fetchone() is not None


def adopt(tx: Tx, batch_id: BatchId, sighting: Sighting, *, proved: bool, now: Ms) -> bool:
    """Take a batch that upstream lists for the one in doubt. False when either has changed meanwhile."""
    if _is_held(tx, sighting.id):  # taken by another while the list was on its way
        return False
    return tx.move_batch(
        batch_id,
        BatchState.UNKNOWN,
        BatchState.IN_PROGRESS,
        at=now,
        actor=ACTOR,
        detail=f"{'proved by its first result line' if proved else 'the only one it can be'}: {sighting.id}",
        sets={
            "upstream_id": sighting.id,
            "upstream_created_at": sighting.created_at,
            "upstream_expires_at": sighting.expires_at,
            "adopted": 1,
            "proved": int(proved),
            "absent_at": None,
            "absent_date": None,
            "not_found_at": None,
            "not_found": 0,
        },
    )


def abandon(tx: Tx, batch_id: BatchId, reason: str, now: Ms) -> bool:
    return tx.move_batch(batch_id, BatchState.UNKNOWN, BatchState.ABANDONED, at=now, actor=ACTOR, detail=reason)


def note_stranger(tx: Tx, upstream_id: UpstreamId, why: str, now: Ms) -> None:
    tx.db.execute(
        "insert into strangers (upstream_id, noted_at, why) values (?, ?, ?) on conflict do nothing",
        (upstream_id, now, why),
    )


def disown(tx: Tx, batch_id: BatchId, why: str, *, stranger: bool, now: Ms) -> bool:
    """What was adopted for this batch is another's. Ours is in doubt again."""
    batch = batch_by_id(tx.db, batch_id)
    if batch is None or batch.upstream_id is None or not batch.adopted or batch.proved:
        return False
    if stranger and not is_searching(tx.db):  # after a restore a nonce that is not known may be ours: see restoring
        note_stranger(tx, batch.upstream_id, f"adopted for {batch_id}: {why}", now)
    return tx.move_batch(
        batch_id,
        BatchState.IN_PROGRESS,
        BatchState.UNKNOWN,
        at=now,
        actor="poller",
        detail=f"{batch.upstream_id}: {why}",
        sets={
            "upstream_id": None,
            "upstream_created_at": None,
            "upstream_expires_at": None,
            "adopted": 0,
            "not_found_at": None,
            "absent_at": None,
            "absent_date": None,
        },
    )


def batch_by_nonce(db: sqlite3.Connection, nonce: str) -> Batch | None:
    row = db.execute(f"select {BATCH_COLUMNS} {BATCH_FROM} where b.nonce = ?", (nonce,)).fetchone()
    return batch_of(row) if row else None


def harvest_twin(tx: Tx, batch_id: BatchId, sighting: Sighting, now: Ms) -> bool:
    """An abandoned batch exists upstream after all: collect it. False when it is no longer abandoned."""
    if _is_held(tx, sighting.id):
        return False
    return tx.move_batch(
        batch_id,
        BatchState.ABANDONED,
        BatchState.ENDED,
        at=now,
        actor=ACTOR,
        detail=f"a late twin: {sighting.id} exists after all",
        sets={
            "upstream_id": sighting.id,
            "upstream_created_at": sighting.created_at,
            "upstream_expires_at": sighting.expires_at,
            "upstream_ended_at": sighting.ended_at,
            "expected_lines": sighting.total,
            "adopted": 1,
            "proved": 1,
            "late": 1,
            "failures": 0,
            "next_try_at": 0,
        },
    )


def record_sweep(tx: Tx, now: Ms) -> None:
    tx.db.execute("update account set swept_at = ?", (now,))


def reclaim(tx: Tx, now: Ms) -> dict[str, int]:
    """Take over what an older boot left: nobody else can be at work on it, so no clock takes part."""
    submitting = tx.db.execute(
        "select id from batches where state = 'submitting' and finished_at is null and epoch < ?", (tx.epoch,)
    ).fetchall()
    for (batch_id,) in submitting:
        record_unknown(tx, batch_id, "the daemon stopped while it was being submitted", now)
    deliveries = sending.reclaim(tx, now)
    tx.db.execute("update account set swept_at = null")  # each start looks for late twins once
    tx.db.execute("update batches set not_found_at = null, not_found = 0 where not_found_at is not null")
    found = account(tx.db)
    lifted = 0
    if found is not None and found.paused and (found.pause_reason or "")[:3] in CREDENTIAL_STATUSES:
        lifted = int(resume_account(tx, "daemon", now, "a new start: the credential may be another"))
    return {"batches_unknown": len(submitting), "deliveries_pending": deliveries, "pauses_lifted": lifted}
