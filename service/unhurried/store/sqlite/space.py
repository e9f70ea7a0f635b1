"""Room: who may still write when the disk, or what the database may have of it, runs out.

New requests are refused first, while there is room to finish what was accepted. For the moment at which somebody else
fills the disk there is a reserve beside the database, a file whose blocks are ours: it is given up when SQLite finds no
space, so that checkpoints, answers of upstream, results and deliveries can still be written, and made again before
anything new is taken. Nothing but its blocks matters: missing, half made or whole, each start makes of it what it may.
"""

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from unhurried.failpoints import failpoint
from unhurried.store.errors import StoreFull

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""So old may be what the disk has said; asking for each request would cost a call of the system for each."""
START_BYTES: Final = 1_000_000
"""A start writes less than that: its epoch, and the index of the log."""
QUOTA_SHARE: Final = 0.8
"""Of the quota new requests have so much; the rest is for what becomes of them."""
STEP_BYTES: Final = 1_000_000
"""Where results found no space they are read again when there is so much more than there was then,"""
STUCK_LOOK_S: Final = 2.0
STUCK_S: Final = 600.0
"""or after so long: a smaller batch may fit."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """``disk_free_bytes_min``: free space of the disk below which new requests are refused. ``reserve_bytes``: of the
    file beside the database, 0 for none. ``database_bytes_max``: the quota, None for none."""

    disk_free_bytes_min: int = 0
    reserve_bytes: int = 0
    database_bytes_max: int | None = None


@dataclass(frozen=True)
class _Stuck:
    available: int
    since: float


class Space:
    def __init__(self, database: Path, limits: Limits, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = database.parent
        self.reserve = database.with_name(database.name + ".reserve")
        self._limits = limits
        self._monotonic = monotonic
        self._wanted = limits.reserve_bytes
        self._held = False
        self._free = 0
        self._looked_at: float | None = None
        self._pages, self._unused, self._page_bytes = 0, 0, 0
        self._stuck: _Stuck | None = None
        self._refusing = False

    # New requests

    def complaint(self) -> str | None:
        """Why new requests are refused just now; None: they are taken."""
        found = self._complaint()
        if (found is not None) is not self._refusing:
            self._refusing = found is not None
            if found is not None:
                log.error("store.full", detail=found)
            else:
                log.info("store.room_again", disk_free_bytes=self._free)
        return found

    def require_room_for_new(self) -> None:
        """Raises ``StoreFull``."""
        if (complaint := self.complaint()) is not None:
            raise StoreFull(f"{complaint}; what was accepted before is safe")

    def _complaint(self) -> str | None:
        free, least = self._disk_free(), self._limits.disk_free_bytes_min
        if self._spent:
            least += self._wanted
        if self._spent or free < least:
            return f"the disk is nearly full: {free:,} bytes are free, {least:,} are wanted"
        quota = self._limits.database_bytes_max
        if quota is not None and (self._pages - self._unused) * self._page_bytes >= QUOTA_SHARE * quota:
            return f"the database is nearly as large as it may be: {QUOTA_SHARE:.0%} of {quota:,} bytes are in use"
        return None

    def _disk_free(self) -> int:
        now = self._monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_S:
            disk = os.statvfs(self._folder)
            self._free = disk.f_bavail * disk.f_frsize
            self._looked_at = now
        return self._free

    # The quota

    def limit(self, db: sqlite3.Connection) -> None:
        """Tell SQLite of the quota. It is of this connection, and never less than what the file has already."""
        self._page_bytes = int(db.execute("pragma page_size").fetchone()[0])
        if self._limits.database_bytes_max is not None:
            pages = max(1, self._limits.database_bytes_max // self._page_bytes)
            db.execute(f"pragma max_page_count = {pages}").fetchone()
        self.measure(db)

    def measure(self, db: sqlite3.Connection) -> None:
        """How much the database has and does not use, after a commit. Costs microseconds."""
        self._pages = int(db.execute("pragma page_count").fetchone()[0])
        self._unused = int(db.execute("pragma freelist_count").fetchone()[0])

    # The reserve. All of this runs where the database is written, or before anybody writes.

    @property
    def _spent(self) -> bool:
        return bool(self._wanted) and not self._held

    def begin(self) -> None:
        """At a start: go on with what the last process left, or without it where the disk is full."""
        if not self._wanted:
            self.reserve.unlink(missing_ok=True)
            return
        has = self._blocks()
        if has >= self._wanted or self._disk_free() + has >= self._wanted + self._limits.disk_free_bytes_min:
            self.hold()
        if self._disk_free() < START_BYTES and self._blocks():
            self.release("the disk is full at the start")

    def hold_is_due(self) -> bool:
        """It was given up, or never made, and there is room for it again."""
        return self._spent and self._disk_free() >= self._wanted + self._limits.disk_free_bytes_min

    def hold(self) -> None:
        """Make the reserve, or what is missing of it."""
        try:
            file = os.open(self.reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                failpoint("reserve.begun")
                os.truncate(file, min(os.fstat(file).st_size, self._wanted))
                os.posix_fallocate(file, 0, self._wanted)
            finally:
                os.close(file)
        except OSError as error:
            self.reserve.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # this file system has no such thing
                log.warning("store.no_reserve", detail=error.strerror)
                self._wanted = 0
        else:
            self._held = True
            failpoint("reserve.made")
        self._looked_at = None

    def release_helps(self) -> bool:
        """Whether SQLite may have found no space for want of what the reserve has. False at the quota."""
        self._looked_at = None
        if not self._held:
            return False
        enough = self._wanted + self._limits.disk_free_bytes_min
        return self._limits.database_bytes_max is None or self._disk_free() < enough

    def release(self, why: str) -> None:
        self._held = False
        with suppress(FileNotFoundError):
            self.reserve.unlink()
        self._looked_at = None
        log.error("store.reserve_released", bytes=self._wanted, detail=why)
        failpoint("reserve.released")

    def _blocks(self) -> int:
        try:
            return self.reserve.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    # Results

    def note_stuck(self) -> None:
        """Something that was accepted long ago found no space."""
        self._looked_at = None
        self._stuck = _Stuck(self._available(), self._monotonic())

    def require_room_for_results(self) -> None:
        """Raises ``StoreFull`` while there is no more room than when something last found none: reading 100,000
        results to store none of them would be repeated for hours."""
        if self._stuck is None:
            return
        more = self._available() - self._stuck.available
        if more < STEP_BYTES and self._monotonic() - self._stuck.since < STUCK_S:
            raise StoreFull("there is no space for more results", STUCK_LOOK_S)
        self._stuck = None

    def _available(self) -> int:
        free, quota = self._disk_free(), self._limits.database_bytes_max
        if quota is not None:
            free = min(free, max(0, quota - self._pages * self._page_bytes))
        return free + self._unused * self._page_bytes
