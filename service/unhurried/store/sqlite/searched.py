"""The part of the store that the search after a restore asks for; see ``store.py`` for how it is made."""

from collections.abc import Sequence

from unhurried.clock import Ms
from unhurried.domain.batch import BatchId
from unhurried.domain.restoring import Restored
from unhurried.domain.settling import Sighting
from unhurried.store.sqlite import copies, restoring
from unhurried.store.sqlite.part import Part


class Searched(Part):
    """``unhurried.store.SearchStore``; the contract documents each method."""

    async def restored(self) -> Restored | None:
        return await self._read(copies.restored)

    async def record_first_look(self, date: Ms, now: Ms) -> None:
        await self._write(lambda tx: restoring.record_first_look(tx, date, now))

    async def record_wait(self, detail: str) -> None:
        await self._write(lambda tx: restoring.record_wait(tx, detail))

    async def first_known(self, request_ids: Sequence[str]) -> str | None:
        return await self._read(lambda db: restoring.first_known(db, request_ids))

    async def record_found(self, sighting: Sighting, nonce: str, request_id: str, now: Ms) -> bool:
        return await self._write(lambda tx: restoring.record_found(tx, sighting, nonce, request_id, now))

    async def note_unknown(self, sighting: Sighting, why: str, unknown_requests: int, now: Ms) -> None:
        await self._write(lambda tx: restoring.note_unknown(tx, sighting, why, unknown_requests, now))

    async def record_unknown_requests(self, batch_id: BatchId, count: int, now: Ms) -> None:
        await self._write(lambda tx: restoring.record_unknown_requests(tx, batch_id, count, now))

    async def still_collecting(self) -> int:
        return await self._read(restoring.still_collecting)

    async def anything_at_risk(self, newest_request: int) -> bool:
        return await self._read(lambda db: restoring.anything_at_risk(db, newest_request))

    async def end_search(self, why: str, now: Ms) -> bool:
        return await self._write(lambda tx: restoring.end(tx, why, now))

    async def release_restored(self, actor: str, now: Ms) -> bool:
        return await self._write(lambda tx: restoring.release(tx, actor, now))
