"""Recording results: attempts, outcomes, and the deliveries they cause, in one transaction."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from unhurried.clock import Ms, after
from unhurried.domain.batch import BatchId, custom_id
from unhurried.domain.collecting import (
    BATCH_GONE,
    MISSING_RESULT,
    BadLine,
    Result,
    is_retryable,
    our_error,
    read_line,
    retry_pause_s,
    tokens_of,
)
from unhurried.domain.states import AttemptState, BatchState, RequestState
from unhurried.failpoints import failpoint
from unhurried.store.records import StoredResults
from unhurried.store.sqlite.delivering import AT_ONCE
from unhurried.store.sqlite.rows import insert
from unhurried.store.sqlite.tx import Tx, guard

RESULT_BYTES: Final = 700
"""Roughly what one result writes besides its body."""

_MEMBER_COLUMNS: Final = (
    "r.seq, r.id, r.state, r.batch_seq, r.waits_until, r.attempts, r.attempts_max, r.delivery,"
    " r.cancel_requested_at, r.deliver_to, r.group_id, g.queue_id, r.params_bytes, a.state"
)
# `cross join` keeps SQLite from walking through the whole batch for each chunk: it must begin with the ids.
_MEMBERS_BY_ID: Final = (
    f"select {_MEMBER_COLUMNS} from json_each(?) j cross join requests r on r.id = j.value"
    " cross join attempts a on a.batch_seq = ? and a.request_seq = r.seq join groups g on g.id = r.group_id"
)


class Member(NamedTuple):
    seq: int
    id: str
    state: str
    batch_seq: int | None
    waits_until: int | None
    attempts: int
    attempts_max: int
    delivery: int
    cancel_requested_at: int | None
    deliver_to: str
    group_id: int
    queue_id: int
    params_bytes: int
    attempt: str


@dataclass(frozen=True, kw_only=True)
class RetryPauses:
    first_s: float = 30.0
    longest_s: float = 3_600.0


def store_results(tx: Tx, batch_id: BatchId, lines: Sequence[bytes], pauses: RetryPauses, now: Ms) -> StoredResults:
    """Record one chunk of result lines. What is stored already is skipped, so reading again from the start is safe."""
    row = tx.db.execute(
        "select seq, nonce, found from batches where id = ? and state = 'ended'", (batch_id,)
    ).fetchone()
    if row is None:
        raise BadLine("the batch is not being collected any more")
    batch_seq, nonce, found = row
    results: dict[str, Result] = {}
    foreign: set[str] = set()
    for line in lines:
        result = read_line(line)
        if result.nonce == nonce:
            results.setdefault(result.request_id, result)
        else:
            foreign.add(custom_id(result.nonce, result.request_id))
    wanted = msgspec.json.encode(list(results)).decode()
    if found:
        _take_in(tx, batch_seq, wanted, now)
    members = [Member._make(row) for row in tx.db.execute(_MEMBERS_BY_ID, (wanted, batch_seq))]
    foreign.update(custom_id(nonce, id) for id in results.keys() - {member.id for member in members})
    fresh = [member for member in members if member.attempt in ("open", "superseded")]
    finished, again, waste = _record(tx, batch_seq, [(member, results[member.id]) for member in fresh], pauses, now)
    tx.db.execute("update batches set not_found_at = null where seq = ? and not_found_at is not null", (batch_seq,))
    return StoredResults(
        finished=finished,
        again=again,
        skipped=len(lines) - len(fresh) - len(foreign),
        foreign=frozenset(foreign),
        waste=waste,
        accounted=len(fresh),
        states=Counter(results[member.id].state.value for member in fresh),
        tokens=tokens_of(results[member.id].usage for member in fresh),
    )


def _take_in(tx: Tx, batch_seq: int, wanted: str, now: Ms) -> None:
    """Make members of those requests that this database knows: of a batch that was found after a restore, the result
    lines tell who they are."""
    done = tx.db.execute(
        "insert into attempts (batch_seq, request_seq, state, ended_at) select ?1, r.seq, 'superseded', ?2"
        " from json_each(?3) j cross join requests r on r.id = j.value where not exists"
        " (select 1 from attempts a where a.batch_seq = ?1 and a.request_seq = r.seq)",
        (batch_seq, now, wanted),
    )
    tx.db.execute("update batches set requests = requests + ? where seq = ?", (done.rowcount, batch_seq))


def _record(
    tx: Tx, batch_seq: int, pairs: Sequence[tuple[Member, Result]], pauses: RetryPauses, now: Ms
) -> tuple[int, int, int]:
    """Returns how many requests have their outcome now, how many are queued again, and how many answers were waste."""
    winners: list[tuple[Member, Result]] = []
    retries: list[Member] = []
    waste = 0
    attempts = []
    for member, result in pairs:
        mine = member.state == "assigned" and member.batch_seq == batch_seq
        retry = is_retryable(result.state, result.error_type)
        won = False
        if mine and retry and member.attempts + 1 < member.attempts_max and member.cancel_requested_at is None:
            retries.append(member)
        elif mine or (member.state in ("queued", "assigned") and not retry):
            winners.append((member, result))
            won = True
        elif result.state is AttemptState.SUCCEEDED:
            waste += 1
        attempts.append(_attempt_row(result, won, now, batch_seq, member.seq))
    _finish_attempts(tx, batch_seq, attempts, sum(member.attempt == "open" for member, _ in pairs))
    _finish(tx, winners, batch_seq, now, counts_attempt=True)
    _queue_again(tx, retries, pauses, now)
    return len(winners), len(retries), waste


def _attempt_row(result: Result, won: bool, now: Ms, batch_seq: int, request_seq: int) -> tuple[object, ...]:
    usage = result.usage
    if usage is None:
        tokens: tuple[int | None, ...] = (None, None, None, None, None)
    else:
        written = usage.cache_creation_input_tokens or 0
        hour = (usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else 0) or 0
        tokens = (usage.input_tokens, usage.output_tokens, written - hour, hour, usage.cache_read_input_tokens)
    return (result.state.value, won, now, result.error_type, result.stop_reason, *tokens, batch_seq, request_seq)


def _finish_attempts(tx: Tx, batch_seq: int, attempts: Sequence[tuple[object, ...]], were_open: int) -> None:
    if not attempts:
        return
    done = tx.db.executemany(
        "update attempts set state = ?, won = ?, ended_at = ?, error_type = ?, stop_reason = ?, input_tokens = ?,"
        " output_tokens = ?, cache_write_5m_tokens = ?, cache_write_1h_tokens = ?, cache_read_tokens = ?"
        " where batch_seq = ? and request_seq = ? and state in ('open', 'superseded')",
        attempts,
    )
    guard(done, len(attempts), "ending attempts")
    tx.db.execute("update batches set members_open = members_open - ? where seq = ?", (were_open, batch_seq))


def _finish(
    tx: Tx, winners: Iterable[tuple[Member, Result]], batch_seq: int | None, now: Ms, *, counts_attempt: bool
) -> None:
    """Give requests their outcome: state, result and delivery together."""
    pairs = list(winners)
    if not pairs:
        return
    done = tx.db.executemany(
        "update requests set state = ?, batch_seq = null, waits_until = null, attempts = attempts + ?, finished_at = ?,"
        " delivery = delivery + 1 where seq = ? and state = ?",
        [(result.state.value, counts_attempt, now, member.seq, member.state) for member, result in pairs],
    )
    guard(done, len(pairs), "finishing requests")
    insert(
        tx.db,
        "insert into results (request_seq, batch_seq, stored_at, body)",
        [(member.seq, batch_seq, now, result.body) for member, result in pairs],
    )
    failpoint("store.half_stored")
    insert(
        tx.db,
        "insert into deliveries (request_seq, generation, destination_id, state, due_at, created_at)",
        [
            (member.seq, member.delivery + 1, tx.destination_id(member.deliver_to, now), "pending", AT_ONCE, now)
            for member, _ in pairs
        ],
    )
    elsewhere = [member.batch_seq for member, _ in pairs if member.batch_seq not in (None, batch_seq)]
    tx.db.executemany(
        "update batches set stale = stale + 1 where seq = ? and state = 'forming'", [(seq,) for seq in elsewhere]
    )
    for member, result in pairs:
        tx.count("request", member.queue_id, member.state, -1)
        tx.count("request", member.queue_id, result.state.value, 1)
        tx.count("delivery", tx.destination_id(member.deliver_to, now), "pending", 1)
        if member.state == "queued" and member.waits_until is None:
            tx.wait(member.group_id, -1, -member.params_bytes)


def _queue_again(tx: Tx, members: Sequence[Member], pauses: RetryPauses, now: Ms) -> None:
    """A retryable outcome with attempts left: back into the queue, after a pause."""
    if not members:
        return
    base = {group_id: _base_group(tx, group_id) for group_id in {member.group_id for member in members}}
    done = tx.db.executemany(
        "update requests set state = 'queued', batch_seq = null, attempts = attempts + 1,"
        " queued_at = ?, waits_until = ?, group_id = ? where seq = ? and state = 'assigned'",
        [
            (
                now,
                after(now, retry_pause_s(member.attempts + 1, pauses.first_s, pauses.longest_s)),
                base[member.group_id],
                member.seq,
            )
            for member in members
        ],
    )
    guard(done, len(members), "queueing requests again")
    for member in members:
        tx.count("request", member.queue_id, "assigned", -1)
        tx.count("request", member.queue_id, "queued", 1)


def _base_group(tx: Tx, group_id: int) -> int:
    """The group without the cap of a refused batch that was split: upstream has answered, so it was not the culprit."""
    *key, cap = tx.db.execute(
        "select queue_id, model, anthropic_version, anthropic_beta, deadline_class, requests_cap from groups"
        " where id = ?",
        (group_id,),
    ).fetchone()
    queue_id, model, version, beta, deadline_class = key
    return tx.group_id_of((queue_id, model, version, beta, deadline_class, 0)) if cap else group_id


def finish_collecting(tx: Tx, batch_id: BatchId, chunk: int, now: Ms) -> bool:
    """Every line is stored. Members that had none are errored, a chunk at a time; then the batch is collected."""
    row = tx.db.execute(
        "select seq, members_open from batches where id = ? and state = 'ended'", (batch_id,)
    ).fetchone()
    if row is None:
        return True
    if row[1]:
        members = _take_open_members(tx, row[0], chunk)
        says = "upstream's results, though complete by its own count, had no line for this request"
        body = our_error(MISSING_RESULT, says)
        _error_members(tx, row[0], members, MISSING_RESULT, body, now)
        return False
    tx.move_batch(batch_id, BatchState.ENDED, BatchState.COLLECTED, at=now, actor="poller")
    return True


def release_members(tx: Tx, chunk: int, now: Ms) -> int:
    """Take a chunk of members out of the oldest batch that came to nothing: back into the queue, or errored when the
    batch is gone. Returns how many were moved; 0 when no such batch is left."""
    row = tx.db.execute(
        "select b.seq, b.state, b.release_cap,"
        " g.queue_id, g.model, g.anthropic_version, g.anthropic_beta, g.deadline_class"
        " from batches b join groups g on g.id = b.group_id"
        " where b.finished_at is not null and b.members_open > 0 order by b.seq limit 1"
    ).fetchone()
    if row is None:
        return 0
    batch_seq, state, cap, *group = row
    members = _take_open_members(tx, batch_seq, chunk)
    if state == BatchState.GONE:
        body = our_error(BATCH_GONE, "the batch was deleted upstream or its results are no longer kept")
        _error_members(tx, batch_seq, members, BATCH_GONE, body, now)
        return len(members)
    target = tx.group_id_of((*group, cap)) if cap else None
    _supersede(tx, batch_seq, members, now)
    mine = [member for member in members if member.state == "assigned" and member.batch_seq == batch_seq]
    canceled = [member for member in mine if member.cancel_requested_at is not None]
    _finish(tx, [(member, _canceled(member)) for member in canceled], None, now, counts_attempt=False)
    back = [member for member in mine if member.cancel_requested_at is None]
    done = tx.db.executemany(
        "update requests set state = 'queued', batch_seq = null, group_id = ? where seq = ? and state = 'assigned'",
        [(target or member.group_id, member.seq) for member in back],
    )
    if back:
        guard(done, len(back), "releasing requests")
    for member in back:  # queued_at stays: they have waited already, and a lost batch is no fault of theirs
        tx.count("request", member.queue_id, "assigned", -1)
        tx.count("request", member.queue_id, "queued", 1)
        tx.wait(target or member.group_id, 1, member.params_bytes)
    return len(members)


def error_member(tx: Tx, batch_seq: int, place: int, error_type: str, body: bytes, now: Ms) -> bool:
    """Error the member at ``place`` (from 0) of a batch: the culprit of a refusal. False if there is no such place."""
    row = tx.db.execute(
        f"select {_MEMBER_COLUMNS} from attempts a join requests r on r.seq = a.request_seq"
        " join groups g on g.id = r.group_id where a.batch_seq = ? order by a.request_seq limit 1 offset ?",
        (batch_seq, place),
    ).fetchone()
    if row is None:
        return False
    _error_members(tx, batch_seq, [Member(*row)], error_type, body, now)
    return True


def cancel_queued(tx: Tx, request_id: str, now: Ms) -> bool:
    """Cancel a request that is in no batch. False when it is not queued."""
    row = tx.db.execute(
        "select r.seq, r.id, r.state, r.batch_seq, r.waits_until, r.attempts, r.attempts_max, r.delivery,"
        " r.cancel_requested_at, r.deliver_to, r.group_id, g.queue_id, r.params_bytes, ''"
        " from requests r join groups g on g.id = r.group_id where r.id = ? and r.state = 'queued'",
        (request_id,),
    ).fetchone()
    if row is None:
        return False
    member = Member(*row)
    _finish(tx, [(member, _canceled(member))], None, now, counts_attempt=False)
    return True


def _take_open_members(tx: Tx, batch_seq: int, chunk: int) -> list[Member]:
    """The next open members, to be closed in this transaction. The batch remembers how far it has come: looking from
    the start each time would walk past ever more closed ones."""
    rows = tx.db.execute(
        f"select {_MEMBER_COLUMNS} from attempts a join requests r on r.seq = a.request_seq"
        " join groups g on g.id = r.group_id where a.batch_seq = ?1 and a.state = 'open'"
        " and a.request_seq > (select released_to from batches where seq = ?1) order by a.request_seq limit ?2",
        (batch_seq, chunk),
    )
    members = [Member._make(row) for row in rows]
    if members:
        tx.db.execute("update batches set released_to = ? where seq = ?", (members[-1].seq, batch_seq))
    return members


def _error_members(tx: Tx, batch_seq: int, members: Sequence[Member], error_type: str, body: bytes, now: Ms) -> None:
    results = [
        Result("", member.id, AttemptState.ERRORED, body, stop_reason=None, error_type=error_type, usage=None)
        for member in members
    ]
    _finish_attempts(
        tx,
        batch_seq,
        [
            _attempt_row(result, _is_mine(member, batch_seq), now, batch_seq, member.seq)
            for member, result in zip(members, results, strict=True)
        ],
        len(members),
    )
    mine = [pair for pair in zip(members, results, strict=True) if _is_mine(pair[0], batch_seq)]
    _finish(tx, mine, batch_seq, now, counts_attempt=True)


def _is_mine(member: Member, batch_seq: int) -> bool:
    return member.state == RequestState.ASSIGNED and member.batch_seq == batch_seq


def _supersede(tx: Tx, batch_seq: int, members: Sequence[Member], now: Ms) -> None:
    done = tx.db.executemany(
        "update attempts set state = 'superseded', ended_at = ?"
        " where batch_seq = ? and request_seq = ? and state = 'open'",
        [(now, batch_seq, member.seq) for member in members],
    )
    guard(done, len(members), "superseding attempts")
    tx.db.execute("update batches set members_open = members_open - ? where seq = ?", (len(members), batch_seq))


def _canceled(member: Member) -> Result:
    return Result("", member.id, AttemptState.CANCELED, b'{"type":"canceled"}', None, None, None)
