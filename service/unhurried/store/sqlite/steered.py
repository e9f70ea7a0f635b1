"""What operators and the keeper ask of the store: the half of ``SqliteStore`` that steers. One line for each intent."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unhurried.clock import Ms
from unhurried.domain.alarms import Alarm
from unhurried.domain.queue import Queue
from unhurried.domain.retention import Verdict
from unhurried.failpoints import failpoint
from unhurried.store.errors import NotNow
from unhurried.store.records import Page, RetryCandidate, RetryFilter
from unhurried.store.sqlite import alarms, emptying, erasing, queues, retention, retrying, steering
from unhurried.store.sqlite.part import Part
from unhurried.store.sqlite.writer import PAGE_BYTES, Writer


class Steered(Part):
    _writer: Writer
    _deadline_classes_s: Sequence[float]
    _log_owed = True
    """Whether the write-ahead log may still have the contents of a request that was erased. At start nobody knows: an
    erase may have been killed between its commit and the emptying of the log."""

    # steering

    async def queues(self) -> Sequence[Queue]:
        return await self._read(queues.queues)

    async def queue(self, name: str) -> Queue | None:
        return await self._read(lambda db: queues.queue(db, name))

    async def change_queue(self, name: str, changes: Mapping[str, Any], actor: str, now: Ms) -> Queue:
        return await self._write(lambda tx: queues.change(tx, name, changes, actor, now))

    async def pause_queue(self, name: str, reason: str, actor: str, now: Ms) -> Queue | None:
        return await self._write(lambda tx: queues.pause(tx, name, reason, actor, now))

    async def resume_queue(self, name: str, actor: str, now: Ms) -> bool | None:
        return await self._write(lambda tx: queues.resume(tx, name, actor, now))

    async def note_drain(self, draining: bool, actor: str, now: Ms) -> None:
        await self._write(lambda tx: steering.note_drain(tx, draining, actor, now))

    async def retry_candidates(
        self, filter: RetryFilter, before: int | None
    ) -> tuple[Sequence[RetryCandidate], int | None]:
        return await self._read(lambda db: retrying.candidates(db, filter, before))

    async def retry(self, request_id: str, *, wait_s: float | None, default_s: float, actor: str, now: Ms) -> None:
        wait = retrying.Wait(wait_s, default_s, self._deadline_classes_s)
        if (reason := await self._write(lambda tx: retrying.retry_one(tx, request_id, wait, actor, now))) is not None:
            raise NotNow(reason)

    async def retry_many(
        self, found: Sequence[RetryCandidate], *, wait_s: float | None, default_s: float, actor: str, now: Ms
    ) -> int:
        wait = retrying.Wait(wait_s, default_s, self._deadline_classes_s)
        return await self._write(
            lambda tx: retrying.retry_many(tx, found, wait, actor, now),
            size=len(found) * retrying.ROW_BYTES,
            weight=len(found),
        )

    async def erase(self, request_id: str, actor: str, now: Ms) -> bool:
        key = await self._read(lambda db: erasing.key_of(db, request_id))
        self._log_owed = True
        if (reason := await self._write(lambda tx: erasing.erase(tx, request_id, key, actor, now))) is not None:
            raise NotNow(reason)
        failpoint("store.erased")
        return await self.empty_log()

    # keeper

    async def paused_since(self) -> Ms | None:
        return await self._read(alarms.paused_since)

    async def alarms(self) -> Sequence[Alarm]:
        return await self._read(alarms.alarms)

    async def record_alive(self, now: Ms) -> None:
        await self._write(lambda tx: steering.record_alive(tx, now))

    async def record_alarms(self, current: Sequence[Alarm], now: Ms) -> tuple[Sequence[Alarm], Sequence[Alarm]]:
        if alarms.told(await self.alarms()) == alarms.told(current):
            return [], []
        return await self._write(lambda tx: alarms.record(tx, current, now))

    async def forget_outcomes(
        self, after_seq: int, rows: int, *, retention_s: float, unread_s: float | None, now: Ms
    ) -> Page:
        of_queue = await self._read(lambda db: retention.rules(db, retention_s, unread_s))
        judged, page = await self._read(lambda db: retention.outcomes(db, of_queue, after_seq, rows, now))
        unread, old = judged[Verdict.CANCEL], judged[Verdict.FORGET]
        deleted = 0
        if unread:
            await self._write(lambda tx: retention.cancel_unread(tx, unread, of_queue, now), weight=len(unread))
        if old:
            deleted = await self._write(
                lambda tx: retention.forget(tx, old, of_queue, now),
                size=len(old) * retention.FORGET_BYTES,
                weight=len(old),
            )
        return replace(page, deleted=deleted)

    async def forget_batches(self, after_seq: int, rows: int, now: Ms) -> Page:
        return await self._write(lambda tx: retention.forget_batches(tx, after_seq, rows, now), weight=rows)

    async def forget_events(self, after_seq: int, rows: int, *, days: float, now: Ms) -> Page:
        return await self._write(lambda tx: retention.forget_events(tx, after_seq, rows, days, now), weight=rows)

    async def trim(self, chunk: int, now: Ms) -> None:
        await self._write(lambda tx: retention.trim(tx, chunk, now))

    async def forget_keys(self, now: Ms, chunk: int) -> int:
        return await self._write(lambda tx: retention.forget_keys(tx, chunk, now), weight=chunk)

    async def free_bytes(self) -> int:
        return await self._read(retention.free_bytes)

    async def vacuum(self, pages: int) -> int:
        return await self._write(lambda tx: retention.vacuum(tx, pages), size=pages * PAGE_BYTES, weight=pages)

    async def empty_log(self, *, only_owed: bool = False) -> bool:
        if only_owed and not self._log_owed:
            return True
        emptied = await self._writer.alone(emptying.empty_log)
        self._log_owed = self._log_owed and not emptied
        return emptied
