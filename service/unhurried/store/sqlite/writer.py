"""The one task that writes.

Callers hand it work and await a future. It takes everything that waits, within bounds, runs it in one transaction,
commits once and only then answers: that group commit makes durability nearly free, because one fsync serves all who
came while the last one ran. There is no fixed pause to gather company; whoever comes alone is answered at once.

A failed group is rolled back and its jobs are tried again one by one, so that one bad job fails alone. Jobs are pure
functions of the transaction and may therefore run twice.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import aiosqlite
import structlog

from unhurried.failpoints import failpoint
from unhurried.store.errors import StoreBusy, StoreFull, StoreUnusable
from unhurried.store.records import Work
from unhurried.store.sqlite.connection import in_thread, is_fatal, is_full, primary_code
from unhurried.store.sqlite.space import Space
from unhurried.store.sqlite.tally import Tally
from unhurried.store.sqlite.tx import Names, Tx

log = structlog.get_logger()
T = TypeVar("T")

GROUP_JOBS_MAX: Final = 512
GROUP_BYTES_MAX: Final = 16_000_000
CHUNK_WEIGHT_MAX: Final = 500
"""Rows of slow work in one commit, a chunk of results and a pull or an ack beside it: more would make the accepts
behind it wait too long."""
FULL_AGAIN_S: Final = 5.0
"""Who could not write what became of accepted work tries again, sooner than somebody with new work."""
HELD_UP_S: Final = 2.0
"""A commit takes milliseconds: one that takes so long waits for another program's lock, or for a disk in trouble."""
CHECKPOINT_IDLE_S: Final = 0.05
CHECKPOINT_BYTES: Final = 4_000_000
PAGE_BYTES: Final = 8_192
CHECKPOINT_AGAIN_S: Final = 10.0
"""After one that found no space."""
PAGES_PER_COMMIT: Final = 8
"""Pages that even the smallest commit writes to the log: a leaf of each table and index that it touches."""


@dataclass(slots=True)
class Job:
    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    bytes: int
    weight: int
    accept: bool = False


@dataclass
class Backlog:
    """What waits to be written. Accepts go first; everything else follows in order."""

    accepts: deque[Job] = field(default_factory=deque)
    others: deque[Job] = field(default_factory=deque)
    bytes: int = 0

    def __len__(self) -> int:
        return len(self.accepts) + len(self.others)

    def take(self) -> list[Job]:
        """The next group: all waiting accepts within bounds, and behind them a bounded portion of everything else."""
        group: list[Job] = []
        size = weight = 0
        while self.accepts and len(group) < GROUP_JOBS_MAX and size < GROUP_BYTES_MAX:
            group.append(self.accepts.popleft())
            size += group[-1].bytes
        # However many accepts wait, the others always get a turn: an answer of upstream must reach the disk.
        others = 0
        while self.others and others < GROUP_JOBS_MAX:
            if weight and weight + self.others[0].weight > CHUNK_WEIGHT_MAX:
                break
            group.append(self.others.popleft())
            weight += group[-1].weight
            others += 1
        self.bytes -= sum(job.bytes for job in group)
        return group

    def take_accepts(self) -> list[Job]:
        """All of them, and none of the others."""
        accepts = list(self.accepts)
        self.accepts.clear()
        self.bytes -= sum(job.bytes for job in accepts)
        return accepts


class Writer:
    """Owns the writing connection. ``run`` is a task of the app; when it ends, nothing can be written any more."""

    def __init__(
        self, db: aiosqlite.Connection, epoch: int, space: Space, *, jobs_max: int, bytes_max: int, wal_bytes_max: int
    ) -> None:
        self._db = db
        self._space = space
        self._epoch = epoch
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._wal_bytes_max = wal_bytes_max
        self._backlog = Backlog()
        self._wake = asyncio.Event()
        self._stopping = False
        self._names = Names()
        self._unchecked_bytes = 0
        self._checkpoint_from = 0.0
        self._held_up_since: float | None = None
        self._failed: StoreUnusable | None = None
        self._taken: list[Job] = []
        self.commits = 0
        self.work = Work()
        self.tally = Tally()

    @property
    def backlog(self) -> tuple[int, int]:
        return len(self._backlog), self._backlog.bytes

    def complaint(self) -> str | None:
        """Why nothing can be written just now; None: it can."""
        if self._held_up_since is None:
            return None
        held_s = time.monotonic() - self._held_up_since
        return f"nothing can be written since {held_s:.0f} s: another program holds the database, or the disk stands"

    async def write(self, work: Callable[[Tx], T], *, size: int = 512, weight: int = 1, accept: bool = False) -> T:
        """Run ``work`` in a transaction; when this returns, it is on disk. Cancelling the caller does not stop it.

        ``size``: bytes it will roughly write; ``weight``: rows of slow work. Raises ``StoreBusy`` when too much waits,
        ``StoreFull`` when there is no space, ``StoreUnusable`` when the disk fails; and whatever ``work`` raises.
        """
        if self._failed is not None:
            raise self._failed
        if self._stopping:
            raise StoreBusy("the store is closing")
        if accept:
            self._require_room()
        if accept and (len(self._backlog.accepts) >= self._jobs_max or self._backlog.bytes >= self._bytes_max):
            raise StoreBusy(f"{len(self._backlog.accepts)} writes are waiting already")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = Job(work, future, size, weight, accept)
        (self._backlog.accepts if accept else self._backlog.others).append(job)
        self._backlog.bytes += size
        self._wake.set()
        return await asyncio.shield(future)

    async def run(self) -> None:
        """Write until ``stop`` is called and nothing waits. Raises ``StoreUnusable`` when the disk fails."""
        try:
            while True:
                if self._failed is not None:
                    raise self._failed
                if self._space.hold_is_due():
                    await in_thread(self._db, lambda _: self._space.hold())
                if not len(self._backlog):
                    if self._stopping:
                        return
                    self._wake.clear()
                    await self._rest()
                    continue
                self._taken = self._backlog.take()
                await self._write_group(self._taken)
                if self._unchecked_bytes > self._wal_bytes_max and time.monotonic() >= self._checkpoint_from:
                    await self.checkpoint()
        except StoreUnusable as error:
            self._failed = error
            raise
        finally:
            self._stopping = True
            # Those taken and not answered: the disk failed in their midst, or this task was cancelled.
            _fail(self._taken, self._failed or StoreUnusable("the writer was stopped while this was being written"))
            while len(self._backlog):
                _fail(self._backlog.take(), self._failed or StoreBusy("the store is closing"))

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on the writing connection outside of any transaction. Raises ``StoreUnusable`` when the disk
        fails, and so does ``run`` then."""
        try:
            return await in_thread(self._db, work)
        except sqlite3.Error as error:
            if not is_fatal(error):
                raise
            self._failed = _unusable(error)
            self._wake.set()
            raise self._failed from error

    async def checkpoint(self) -> None:
        """Move what is in the write-ahead log into the database, as far as readers allow."""
        try:
            busy, pages, moved = await in_thread(self._db, _checkpoint)
        except sqlite3.Error as error:
            if is_fatal(error):
                raise _unusable(error) from error
            if await self._made_room(error):
                await self.checkpoint()
                return
            log.warning("store.checkpoint_failed", detail=str(error))  # what is accepted is safe in the log
            self._checkpoint_from = time.monotonic() + CHECKPOINT_AGAIN_S
            return
        self._unchecked_bytes = 0 if not busy else (pages - moved) * PAGE_BYTES
        if busy or moved < pages:
            log.debug("store.checkpoint_partial", pages=pages, moved=moved)

    async def _rest(self) -> None:
        if self._unchecked_bytes < CHECKPOINT_BYTES or time.monotonic() < self._checkpoint_from:
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(CHECKPOINT_IDLE_S):
                await self._wake.wait()
        except TimeoutError:
            await self.checkpoint()

    async def _write_group(self, group: list[Job]) -> None:
        began = time.monotonic()
        try:
            results = await self._committed(group, began)
        except sqlite3.Error as error:
            if is_fatal(error):
                raise self._give_up(group, error) from error
            if _is_locked(error):  # by another program; nothing of the group has run, and each would wait as long again
                self._hold_up(began)
                _fail(group, _translated(error))
            elif await self._made_room(error):
                # The reserve is for what was accepted: those who came with something new are told to come later.
                full = _translated(error)
                _fail([job for job in group if job.accept] + self._backlog.take_accepts(), full)
                if rest := [job for job in group if not job.accept]:
                    await self._write_group(rest)
            else:
                await self._one_by_one(group, error)
        except Exception as error:  # noqa: BLE001  # a job's own failure, whatever it is, goes to its caller
            await self._one_by_one(group, error)
        else:
            self._go_on()
            self._unchecked_bytes += sum(job.bytes for job in group) + PAGES_PER_COMMIT * PAGE_BYTES
            self.commits += 1
            self.work.commits.add(time.monotonic() - began)
            self.work.groups.add(len(group))
            for job, result in zip(group, results, strict=True):
                if not job.future.done():
                    job.future.set_result(result)

    async def _committed(self, group: list[Job], began: float) -> list[Any]:
        """What the jobs return. Told while it takes suspiciously long: this one alone, not what is tried after it."""
        telling = asyncio.get_running_loop().call_later(HELD_UP_S, self._hold_up, began)
        try:
            return await in_thread(self._db, lambda db: self._commit(db, group))
        finally:
            telling.cancel()

    def _hold_up(self, since: float) -> None:
        if self._held_up_since is None:
            self._held_up_since = since
            log.error("store.held_up", detail=self.complaint(), advice="is a sqlite3 shell open in a transaction?")

    def _go_on(self) -> None:
        if self._held_up_since is not None:
            log.info("store.held_up_over", after_s=round(time.monotonic() - self._held_up_since, 1))
            self._held_up_since = None

    async def _one_by_one(self, group: list[Job], error: Exception) -> None:
        """The group was rolled back. Alone, each job fails or succeeds for itself."""
        if len(group) == 1:
            told = _translated(error)
            if isinstance(told, StoreFull) and not group[0].accept:
                told.retry_after_s = FULL_AGAIN_S
                self._space.note_stuck()
            if not group[0].future.done():
                group[0].future.set_exception(told)
            return
        for job in group:
            await self._write_group([job])

    def _require_room(self) -> None:
        """For something new. Raises ``StoreFull``."""
        try:
            self._space.require_room_for_new()
        except StoreFull:
            if self._space.hold_is_due():
                self._wake.set()  # the reserve is made, and the next one is taken
            raise

    async def _made_room(self, error: sqlite3.Error) -> bool:
        """Give the reserve up, if it is that which is missing."""
        if not is_full(error) or not self._space.release_helps():
            return False
        await in_thread(self._db, lambda _: self._space.release(str(error)))
        return True

    def _commit(self, db: sqlite3.Connection, group: list[Job]) -> list[Any]:
        """In the connection's thread: one transaction around all jobs."""
        tx = Tx(db, self._names, self._epoch)
        db.execute("begin immediate")
        try:
            failpoint("writer.begun")
            results = []
            for job in group:
                results.append(job.work(tx))
                failpoint("writer.job")
            tx.settle()
            failpoint("writer.settled")
            db.execute("commit")
            failpoint("writer.committed")
            self._space.measure(db)
        except BaseException:
            self._names.forget()
            if db.in_transaction:  # a full disk has rolled back already
                db.execute("rollback")
            raise
        self.tally.add(tx.settled)
        return results

    def _give_up(self, group: list[Job], error: sqlite3.Error) -> StoreUnusable:
        reason = _unusable(error)
        _fail(group, reason)
        return reason


def _fail(group: list[Job], error: Exception) -> None:
    for job in group:
        if not job.future.done():
            job.future.set_exception(error)


def _unusable(error: sqlite3.Error) -> StoreUnusable:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreUnusable(
        f"the database cannot be written any more: {error} ({name}). What was accepted is on disk, and the next start"
        " looks whether it is sound; if this comes again, look at the disk (dmesg)"
    )


def _checkpoint(db: sqlite3.Connection) -> tuple[int, int, int]:
    row = db.execute("pragma wal_checkpoint(passive)").fetchone()
    failpoint("writer.checkpointed")
    return int(row[0]), int(row[1]), int(row[2])


def _is_locked(error: sqlite3.Error) -> bool:
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _translated(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    if is_full(error):
        return StoreFull("there is no space left for the database; what was accepted before is safe")
    if _is_locked(error):
        says = "another program holds the database; is a sqlite3 shell open in a transaction?"
        return StoreBusy(says, retry_after_s=5.0)
    return error
