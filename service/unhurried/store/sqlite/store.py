"""The store on SQLite: each intent of the contract is one line here and a function of a ``Tx`` in a file beside."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite
import structlog

from unhurried import __version__
from unhurried.clock import Ms
from unhurried.domain.batch import BODY_HEAD, BODY_TAIL, Batch, BatchId, UpstreamId
from unhurried.domain.delivering import Outcome
from unhurried.domain.grouping import Group, Order
from unhurried.domain.request import Accepted, KeyConflict, NewRequest
from unhurried.domain.settling import Doubt, Known, Sighting
from unhurried.domain.submitting import Refused
from unhurried.failpoints import failpoint
from unhurried.store import records
from unhurried.store.errors import StoreUnusable
from unhurried.store.sqlite import (
    accepting,
    collecting,
    copies,
    delivering,
    destinations,
    doctor,
    forming,
    polling,
    reading,
    restoring,
    sending,
    setback,
    status,
    steering,
    submission,
)
from unhurried.store.sqlite.checking import check_after_a_cut
from unhurried.store.sqlite.collecting import RetryPauses
from unhurried.store.sqlite.connection import (
    Damaged,
    in_thread,
    is_fatal,
    is_full,
    open_reader,
    open_writer,
    unopened,
)
from unhurried.store.sqlite.files import Found, advised, look_before_opening, require_whole, untouched
from unhurried.store.sqlite.migrate import Migration, available, migrate
from unhurried.store.sqlite.place import InstanceLock, prepare_folder
from unhurried.store.sqlite.searched import Searched
from unhurried.store.sqlite.space import Limits, Space
from unhurried.store.sqlite.steered import Steered
from unhurried.store.sqlite.tx import Tx
from unhurried.store.sqlite.writer import Writer

log = structlog.get_logger()
T = TypeVar("T")
WAKE_CHUNK: Final = 500


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    readers: int = 3
    writer_jobs_max: int = 20_000
    writer_bytes_max: int = 256_000_000
    wal_bytes_max: int = 64_000_000
    idempotency_days: float = 30.0
    deadline_classes_s: tuple[float, ...] = (3_600.0, 21_600.0, 86_400.0)
    retry_pauses: RetryPauses = field(default_factory=RetryPauses)
    space: Limits = field(default_factory=Limits)
    check_s: float = 0.0


async def open_store(path: Path, config: StoreConfig, now: Ms) -> "SqliteStore":
    """Take the lock, bring the schema up to date, begin a new epoch. Raises ``StoreUnusable`` with what to do."""
    path = path.resolve()  # what stands beside the file stands beside the real one
    prepare_folder(path)
    lock = InstanceLock(path)
    lock.acquire()
    space = Space(path, config.space)
    connections: list[aiosqlite.Connection] = []
    try:
        failpoint("start.locked")
        space.begin()
        found = look_before_opening(path, lock.epoch, now)
        with untouched(path) if found.logged else nullcontext():
            epoch, migrated = await _opened(path, config, now, lock, space, found, connections)
    except BaseException as error:
        lock.release()
        if isinstance(error, sqlite3.Error):
            raise advised(unopened(path, error)) from None
        if isinstance(error, Damaged):
            raise advised(error) from None
        raise
    return SqliteStore(connections, lock, epoch, config, migrated, space)


async def _opened(
    path: Path,
    config: StoreConfig,
    now: Ms,
    lock: InstanceLock,
    space: Space,
    found: Found,
    connections: list[aiosqlite.Connection],
) -> tuple[int, list[Migration]]:
    """Fill ``connections``, the writing one first, or leave none open. Returns the new epoch, and what was migrated."""
    try:
        db = await open_writer(path)
        connections.append(db)
        failpoint("start.opened")
        await in_thread(db, lambda conn: require_whole(conn, path, lock.epoch, found))
        await in_thread(db, lambda conn: check_after_a_cut(conn, path, config.check_s))
        migrated = await in_thread(db, lambda conn: migrate(conn, path, available(), now))
        epoch = await in_thread(db, lambda conn: _begin_epoch(conn, now, lock.epoch))
        lock.remember(epoch)  # after the commit: a lock that knows more than the file would mean an older file
        await in_thread(db, space.limit)
        failpoint("start.epoch")
        for _ in range(config.readers):
            connections.append(await open_reader(path))  # noqa: PERF401  # each is in the list before the next can fail
    except BaseException:
        for connection in connections:
            await connection.close()  # an unclosed one keeps its thread, and so the process, alive
        raise
    return epoch, migrated


def _begin_epoch(db: sqlite3.Connection, now: Ms, remembered: int) -> int:
    """``remembered``: the newest epoch that the lock knows of. A database that knows less is an older one that was put
    back in its place: it is marked as a copy, and its epochs go on behind those that have been."""
    newest = db.execute("select coalesce(max(epoch), 0) from boots").fetchone()[0]
    if 0 < newest < remembered and not copies.is_marked(db):
        copies.mark(db, "older", copies.last_moment(db))
    copies.open_copy(db, now)
    db.execute("begin immediate")
    setback.mend(db, now)
    db.execute(
        "insert into boots (epoch, started_at, seen_at, pid, version, sqlite) values (?1, ?2, ?2, ?3, ?4, ?5)",
        (epoch := max(newest, remembered) + 1, now, os.getpid(), __version__, sqlite3.sqlite_version),
    )
    db.execute("commit")
    return int(epoch)


class SqliteStore(Steered, Searched):
    """``unhurried.store.Store``; the contract documents each method. ``run`` is the writer and must be running."""

    def __init__(
        self,
        connections: Sequence[aiosqlite.Connection],
        lock: InstanceLock,
        epoch: int,
        config: StoreConfig,
        migrated: Sequence[Migration],
        space: Space,
    ) -> None:
        self._writer_db, *readers = connections
        self._readers = readers
        self._idle: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._lock = lock
        self._space = space
        self._config = config
        self.epoch = epoch
        self.migrated = [f"{migration.version:04d}_{migration.name}" for migration in migrated]
        self._writer = Writer(
            self._writer_db,
            epoch,
            space,
            jobs_max=config.writer_jobs_max,
            bytes_max=config.writer_bytes_max,
            wal_bytes_max=config.wal_bytes_max,
        )
        self._deadline_classes_s = config.deadline_classes_s
        self.work = self._writer.work

    async def run(self) -> None:
        """The writer task: ends after ``stop_writing`` once all that waits is written. Raises ``StoreUnusable``."""
        await self._writer.run()

    def stop_writing(self) -> None:
        self._writer.stop()

    async def close(self, *, clean: bool, now: Ms) -> None:
        """Close every connection and release the lock. ``clean`` records that nothing was under way."""
        try:
            if clean:
                await self._writer.alone(lambda db: _end_epoch(db, self.epoch, now))
                failpoint("stop.ended")
        finally:
            for connection in (*self._readers, self._writer_db):
                await connection.close()
            self._lock.release()

    async def _write(self, work: Callable[[Tx], T], *, size: int = 512, weight: int = 1) -> T:
        return await self._writer.write(work, size=size, weight=weight)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        async with self._reader() as db:
            try:
                return await in_thread(db, work)
            except sqlite3.DatabaseError as error:
                if is_fatal(error):
                    raise advised(StoreUnusable(f"the database cannot be read any more: {error}")) from error
                raise

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[aiosqlite.Connection]:
        db = await self._idle.get()
        try:
            yield db
        finally:
            self._idle.put_nowait(db)

    # ingest

    async def accept(self, requests: Sequence[NewRequest]) -> Sequence[Accepted | KeyConflict]:
        config = self._config
        size = sum(len(request.params) for request in requests) + len(requests) * accepting.ROW_BYTES
        answers = await self._writer.write(
            lambda tx: accepting.accept(tx, requests, config.deadline_classes_s, config.idempotency_days),
            size=size,
            accept=True,
        )
        new = sum(isinstance(answer, Accepted) and not answer.duplicate for answer in answers)
        self._count_accepts(answers, new)
        return answers

    def _count_accepts(self, answers: Sequence[Accepted | KeyConflict], new: int) -> None:
        accepts = self.work.accepts
        accepts["accepted"] += new
        if new != len(answers):
            conflicts = sum(isinstance(answer, KeyConflict) for answer in answers)
            accepts["conflict"] += conflicts
            accepts["duplicate"] += len(answers) - new - conflicts

    def refusal(self) -> str | None:
        """Why nothing new can be taken, if it cannot."""
        return self._space.complaint() or self._writer.complaint()

    def open_requests(self) -> int:
        return self._writer.tally.open_requests

    def open_requests_of(self, queue_id: int) -> int:
        return self._writer.tally.of_queue(queue_id)

    async def request(self, request_id: str) -> records.RequestView | None:
        return await self._read(lambda db: reading.request(db, request_id))

    async def requests(self, filter: records.RequestFilter, cursor: str | None, limit: int) -> records.RequestPage:
        return await self._read(lambda db: reading.requests(db, filter, cursor, limit))

    async def attempts_of(self, request_id: str) -> Sequence[records.AttemptView] | None:
        return await self._read(lambda db: reading.attempts_of(db, request_id))

    async def result(self, request_id: str) -> records.Handed | None:
        return await self._read(lambda db: reading.result(db, request_id))

    async def results_of(self, request_ids: Sequence[str], bytes_max: int) -> Sequence[records.Handed]:
        return await self._read(lambda db: reading.results_of(db, request_ids, bytes_max))

    async def cancel(self, request_id: str, actor: str, now: Ms) -> records.RequestView | None:
        await self._write(lambda tx: steering.cancel(tx, request_id, actor, now))
        return await self.request(request_id)

    async def pull(
        self, destination: str, *, limit: int, bytes_max: int, lease_s: float, now: Ms, after_seq: int = 0
    ) -> Sequence[records.Handed]:
        if not await self._read(lambda db: reading.anything_due(db, destination, after_seq, now)):
            return []  # an idle long-poll costs no write
        work = partial(
            delivering.pull,
            destination=destination,
            limit=limit,
            bytes_max=bytes_max,
            lease_s=lease_s,
            after_seq=after_seq,
            now=now,
        )
        return await self._write(work, size=limit * 100, weight=limit // 2)

    async def give_back(self, delivery_ids: Sequence[str], now: Ms) -> int:
        return await self._write(
            lambda tx: delivering.give_back(tx, delivery_ids, now),
            size=len(delivery_ids) * 100,
            weight=len(delivery_ids),
        )

    async def still_out(self, delivery_ids: Sequence[str]) -> frozenset[str]:
        return await self._read(lambda db: delivering.still_out(db, delivery_ids))

    async def ack(self, delivery_ids: Sequence[str], confirmed_by: str, now: Ms) -> records.Acked:
        acked = await self._write(
            lambda tx: delivering.ack(tx, delivery_ids, confirmed_by, now),
            size=len(delivery_ids) * 100,
            weight=len(delivery_ids) // 2,
        )
        self.work.delivered += len(acked.confirmed)
        return acked

    async def ask_flush(self, queue: str | None, model: str | None, actor: str, now: Ms) -> records.Flushed:
        return await self._write(lambda tx: steering.ask_flush(tx, queue, model, actor, now))

    async def batches(self, *, open_only: bool, before: str | None, limit: int) -> Sequence[records.BatchView]:
        return await self._read(lambda db: reading.batches(db, open_only=open_only, before=before, limit=limit))

    async def batch(self, batch_id: BatchId) -> records.BatchView | None:
        return await self._read(lambda db: reading.batch(db, batch_id))

    async def events(self, entity_id: str | None, limit: int, since: Ms | None = None) -> Sequence[records.Event]:
        return await self._read(lambda db: reading.events(db, entity_id, limit, since))

    async def status(self) -> records.Status:
        return await self._read(status.status)

    async def resume_account(self, actor: str, now: Ms) -> bool:
        return await self._write(lambda tx: submission.resume_account(tx, actor, now))

    # destinations

    async def destinations(self, after: str, limit: int) -> Sequence[records.Destination]:
        return await self._read(lambda db: destinations.destinations(db, after, limit))

    async def destination(self, name: str) -> records.Destination | None:
        return await self._read(lambda db: destinations.destination(db, name))

    async def webhook_names(self) -> Sequence[str]:
        return await self._read(destinations.webhook_names)

    async def put_webhook(
        self, name: str, url: str, secrets: Sequence[str], concurrency: int | None, actor: str, now: Ms
    ) -> bool:
        return await self._write(lambda tx: destinations.put_webhook(tx, name, url, secrets, concurrency, actor, now))

    async def pause_destination(self, name: str, reason: str, actor: str, now: Ms) -> bool | None:
        return await self._write(lambda tx: destinations.pause(tx, name, reason, actor, now))

    async def resume_destination(self, name: str, actor: str, now: Ms) -> bool | None:
        return await self._write(lambda tx: destinations.resume(tx, name, actor, now))

    async def deliveries(self, filter: records.DeliveryFilter, cursor: str | None, limit: int) -> records.DeliveryPage:
        return await self._read(lambda db: destinations.deliveries(db, filter, cursor, limit))

    async def delivery(self, delivery_id: str) -> records.DeliveryView | None:
        return await self._read(lambda db: destinations.delivery(db, delivery_id))

    async def redeliver(self, delivery_id: str, actor: str, now: Ms) -> records.DeliveryView | None:
        made = await self._write(lambda tx: destinations.redeliver(tx, delivery_id, actor, now))
        return await self.delivery(made) if made is not None else None

    async def redeliver_many(
        self, filter: records.DeliveryFilter, cursor: tuple[int, int] | None, actor: str, now: Ms, *, dry_run: bool
    ) -> records.Redelivered:
        if dry_run:
            rows, following = await self._read(lambda db: destinations.find_again(db, filter, cursor))
            return records.Redelivered(deliveries=len(rows), cursor=following)
        return await self._write(
            lambda tx: destinations.redeliver_many(tx, filter, cursor, actor, now), weight=destinations.REDELIVER_CHUNK
        )

    # flusher

    async def wake_waiting(self, now: Ms) -> Ms | None:
        next_at = await self._read(reading.next_wait)
        if next_at is None or next_at > now:
            return next_at
        return await self._write(
            lambda tx: forming.wake_waiting(tx, now, WAKE_CHUNK), size=WAKE_CHUNK * 100, weight=250
        )

    async def groups(self) -> Sequence[Group]:
        return await self._read(forming.groups)

    async def turnarounds(self) -> dict[str, Sequence[float]]:
        return dict(await self._read(forming.turnarounds))

    async def formed_ahead(self) -> int:
        return await self._read(submission.formed_ahead)

    async def begin_batch(self, order: Order, nonce: str, now: Ms) -> BatchId:
        return await self._write(lambda tx: forming.begin_batch(tx, order, nonce, now))

    async def add_members(self, batch_id: BatchId, *, requests_max: int, bytes_max: int, chunk: int, now: Ms) -> int:
        return await self._write(
            lambda tx: forming.add_members(tx, batch_id, requests_max=requests_max, bytes_max=bytes_max, chunk=chunk),
            size=chunk * forming.MEMBER_BYTES,
            weight=chunk,
        )

    async def complete_batch(self, batch_id: BatchId, now: Ms) -> Batch | None:
        sealed, members = await self._read(lambda db: forming.digest(db, batch_id))
        return await self._write(lambda tx: forming.complete_batch(tx, batch_id, sealed, members, now))

    async def unfinished(self) -> Sequence[BatchId]:
        return await self._read(reading.unfinished)

    # submission

    async def bind_account(self, base_url: str, now: Ms) -> None:
        await self._write(lambda tx: submission.bind_account(tx, base_url, now))

    async def account(self) -> records.Account | None:
        return await self._read(submission.account)

    async def next_formed(self) -> Batch | None:
        return await self._read(submission.next_formed)

    async def sizes_in_doubt(self) -> frozenset[int]:
        return await self._read(submission.sizes_in_doubt)

    async def waiting_upstream(self) -> int:
        return await self._read(submission.waiting_upstream)

    async def drop_last_member(self, batch_id: BatchId, now: Ms) -> Batch | None:
        if not await self._write(lambda tx: forming.drop_last_member(tx, batch_id, now)):
            return None
        return await self.complete_batch(batch_id, now)

    async def record_submission(self, batch_id: BatchId, window_from: Ms, now: Ms) -> Batch | None:
        return await self._write(lambda tx: submission.record_submission(tx, batch_id, window_from, now))

    async def body(self, batch: Batch, *, bytes_page: int) -> AsyncIterator[bytes]:
        yield BODY_HEAD
        after = 0
        while True:
            read_page = partial(reading.body_page_after, batch=batch, after=after, bytes_page=bytes_page)
            page, after = await self._read(read_page)
            if not page:
                break
            yield page
            failpoint("submission.uploading")
        yield BODY_TAIL

    async def record_created(self, batch_id: BatchId, upstream_id: UpstreamId, created_at: Ms, now: Ms) -> None:
        await self._write(lambda tx: submission.record_created(tx, batch_id, upstream_id, created_at, now))

    async def record_refused(self, batch_id: BatchId, refused: Refused, pause_until: Ms | None, now: Ms) -> None:
        await self._write(lambda tx: submission.record_refused(tx, batch_id, refused, pause_until, now))

    async def record_unknown(self, batch_id: BatchId, detail: str, now: Ms) -> None:
        await self._write(lambda tx: submission.record_unknown(tx, batch_id, detail, now))

    async def release_members(self, chunk: int, now: Ms) -> int:
        if not await self._read(reading.anything_to_release):
            return 0
        return await self._write(
            lambda tx: collecting.release_members(tx, chunk, now), size=chunk * forming.MEMBER_BYTES, weight=chunk
        )

    async def doubts(self) -> Sequence[Doubt]:
        return await self._read(submission.doubts)

    async def known_ids(self, since: Ms) -> Known:
        return await self._read(lambda db: submission.known_ids(db, since))

    async def record_look(self, batch_id: BatchId, date: Ms, *, absent: bool, window_to: Ms, now: Ms) -> None:
        await self._write(lambda tx: submission.record_look(tx, batch_id, date, absent, window_to, now))

    async def adopt(self, batch_id: BatchId, sighting: Sighting, *, proved: bool, now: Ms) -> None:
        await self._write(lambda tx: submission.adopt(tx, batch_id, sighting, proved=proved, now=now))

    async def abandon(self, batch_id: BatchId, reason: str, now: Ms) -> None:
        await self._write(lambda tx: submission.abandon(tx, batch_id, reason, now))

    async def note_stranger(self, upstream_id: UpstreamId, why: str, now: Ms) -> None:
        await self._write(lambda tx: submission.note_stranger(tx, upstream_id, why, now))

    async def batch_by_nonce(self, nonce: str) -> Batch | None:
        return await self._read(lambda db: submission.batch_by_nonce(db, nonce))

    async def harvest_twin(self, batch_id: BatchId, sighting: Sighting, now: Ms) -> None:
        await self._write(lambda tx: submission.harvest_twin(tx, batch_id, sighting, now))

    async def given_up(self, since: Ms) -> Sequence[Doubt]:
        return await self._read(lambda db: submission.given_up(db, since))

    async def record_sweep(self, now: Ms) -> None:
        await self._write(lambda tx: submission.record_sweep(tx, now))

    async def record_workspace(self, workspace: str) -> None:
        await self._write(lambda tx: submission.record_workspace(tx, workspace))

    async def pause_account(self, reason: str, until: Ms | None, actor: str, now: Ms) -> None:
        await self._write(lambda tx: submission.pause_account(tx, reason, until, actor, now))

    # poller

    async def open_batches(self) -> Sequence[records.OpenBatch]:
        return await self._read(polling.open_batches)

    async def record_seen(self, batch_id: BatchId, sighting: Sighting, now: Ms) -> None:
        await self._write(lambda tx: polling.record_seen(tx, batch_id, sighting, now))

    async def record_ended(self, batch_id: BatchId, sighting: Sighting, now: Ms) -> None:
        await self._write(lambda tx: polling.record_ended(tx, batch_id, sighting, now))

    async def record_not_found(self, batch_id: BatchId, now: Ms) -> None:
        await self._write(lambda tx: polling.record_not_found(tx, batch_id, now))

    async def record_other_answer(self, batch_id: BatchId) -> None:
        await self._write(lambda tx: polling.record_other_answer(tx, batch_id))

    async def record_gone(self, batch_id: BatchId, reason: str, now: Ms) -> None:
        await self._write(lambda tx: polling.record_gone(tx, batch_id, reason, now))

    async def record_cancel_sent(self, batch_id: BatchId, now: Ms) -> None:
        await self._write(lambda tx: polling.record_cancel_sent(tx, batch_id, now))

    async def prove(self, batch_id: BatchId, now: Ms) -> None:
        await self._write(lambda tx: polling.prove(tx, batch_id, now))

    async def disown(self, batch_id: BatchId, why: str, *, stranger: bool, now: Ms) -> None:
        await self._write(lambda tx: submission.disown(tx, batch_id, why, stranger=stranger, now=now))

    async def store_results(self, batch_id: BatchId, lines: Sequence[bytes], now: Ms) -> records.StoredResults:
        stored = await self._write(
            lambda tx: collecting.store_results(tx, batch_id, lines, self._config.retry_pauses, now),
            size=sum(map(len, lines)) + len(lines) * collecting.RESULT_BYTES,
            weight=len(lines),
        )
        self.work.finished += stored.finished
        return stored

    async def require_room_for_results(self) -> None:
        self._space.require_room_for_results()

    async def record_read_failure(self, batch_id: BatchId, detail: str, next_try_at: Ms, now: Ms) -> None:
        await self._write(lambda tx: polling.record_read_failure(tx, batch_id, detail, next_try_at, now))

    async def finish_collecting(self, batch_id: BatchId, chunk: int, now: Ms) -> bool:
        return await self._write(lambda tx: collecting.finish_collecting(tx, batch_id, chunk, now), weight=chunk)

    # dispatcher and keeper

    async def return_lapsed(self, now: Ms) -> tuple[int, Ms | None]:
        next_at = await self._read(reading.next_lease_end)
        if next_at is None or next_at > now:
            return 0, next_at
        return await self._write(lambda tx: delivering.return_lapsed(tx, WAKE_CHUNK, now), weight=250)

    async def open_webhooks(self) -> Sequence[records.Destination]:
        return await self._read(sending.open_webhooks)

    async def claim(self, wanted: Mapping[int, int], lease_s: float, now: Ms) -> Sequence[records.Claimed]:
        rows = min(sum(wanted.values()), sending.CLAIM_ROWS)
        return await self._write(lambda tx: sending.claim(tx, wanted, lease_s, now), size=rows * 100, weight=rows)

    async def record_outcome(
        self,
        claimed: records.Claimed,
        outcome: Outcome,
        *,
        next_lease_s: float | None,
        jitter: float,
        disable_after_s: float,
        now: Ms,
    ) -> records.Claimed | None:
        work = partial(
            sending.record_outcome,
            claimed=claimed,
            outcome=outcome,
            next_lease_s=next_lease_s,
            jitter=jitter,
            disable_after_s=disable_after_s,
            now=now,
        )
        confirmed, following = await self._write(work)
        self.work.delivered += confirmed
        return following

    def waiting_writes(self) -> tuple[int, int]:
        return self._writer.backlog

    async def touch(self) -> None:
        await self._write(lambda tx: None)

    async def recover(self, now: Ms) -> dict[str, int]:
        await in_thread(self._writer_db, self._writer.tally.load)
        return await self._write(lambda tx: _recover(tx, now))

    async def complaints(self) -> Sequence[records.Complaint]:
        return await self._read(doctor.complaints)


def _recover(tx: Tx, now: Ms) -> dict[str, int]:
    return {**submission.reclaim(tx, now), "restored": int(restoring.begin(tx, now))}


def _end_epoch(db: sqlite3.Connection, epoch: int, now: Ms) -> None:
    try:
        db.execute("update boots set stopped_at = ?1, seen_at = ?1 where epoch = ?2", (now, epoch))
        db.execute("pragma wal_checkpoint(truncate)")
    except sqlite3.Error as error:
        if not is_full(error):
            raise
        log.warning("store.stop_not_recorded", detail=str(error))  # the next start takes it for a crash: no harm
