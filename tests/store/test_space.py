"""Who may still write when room runs out: decided on figures that a test makes up."""

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.store.support import Shop, new, open_shop
from unhurried.store.errors import StoreFull
from unhurried.store.sqlite import StoreConfig, space, writer
from unhurried.store.sqlite.space import Limits, Space
from unhurried.store.sqlite.tx import Tx

MB = 1_000_000


class Figures(NamedTuple):
    f_bavail: int
    f_frsize: int = 1


class FakeDisk:
    """What a disk says is free. Blocks of the reserve are taken from it, as they would be."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.moment = 0.0

    def statvfs(self, _folder: object) -> Figures:
        return Figures(self.free)

    def monotonic(self) -> float:
        self.moment += space.LOOK_S
        return self.moment


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FakeDisk:
    fake = FakeDisk(100 * MB)
    monkeypatch.setattr(os, "statvfs", fake.statvfs)
    return fake


def made(tmp_path: Path, disk: FakeDisk, **limits: int) -> Space:
    return Space(tmp_path / "a.db", Limits(**limits), disk.monotonic)


def test_new_requests_are_refused_below_the_low_water_mark_and_above_it_taken(tmp_path: Path, disk: FakeDisk) -> None:
    room = made(tmp_path, disk, disk_free_bytes_min=10 * MB)
    assert room.complaint() is None
    disk.free = 10 * MB - 1
    assert room.complaint() == "the disk is nearly full: 9,999,999 bytes are free, 10,000,000 are wanted"
    with pytest.raises(StoreFull, match=r"nearly full.*what was accepted before is safe"):
        room.require_room_for_new()
    disk.free = 10 * MB
    room.require_room_for_new()


def test_the_disk_is_asked_once_a_second(tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Space(tmp_path / "a.db", Limits(disk_free_bytes_min=MB), lambda: 5.0)
    room.require_room_for_new()
    monkeypatch.setattr(os, "statvfs", None)
    room.require_room_for_new()


def test_a_reserve_has_blocks_of_its_own_and_is_for_its_owner_only(tmp_path: Path) -> None:
    room = Space(tmp_path / "a.db", Limits(reserve_bytes=MB))
    room.begin()
    found = room.reserve.stat()
    assert (found.st_size, found.st_mode & 0o777) == (MB, 0o600)
    assert found.st_blocks * 512 >= MB


@pytest.mark.parametrize("left", [None, 0, 300_000, 5 * MB])
def test_a_start_makes_of_the_reserve_what_it_should_be(tmp_path: Path, disk: FakeDisk, left: int | None) -> None:
    room = made(tmp_path, disk, reserve_bytes=MB)
    if left is not None:
        room.reserve.write_bytes(b"\0" * left)
    room.begin()
    assert room.reserve.stat().st_size == MB and room.reserve.stat().st_blocks * 512 >= MB
    assert room.complaint() is None
    without = made(tmp_path, disk, reserve_bytes=0)
    without.begin()
    assert not room.reserve.exists()


def test_a_reserve_that_was_given_up_is_made_again_before_anything_new_is_taken(tmp_path: Path, disk: FakeDisk) -> None:
    room = made(tmp_path, disk, reserve_bytes=20 * MB, disk_free_bytes_min=10 * MB)
    room.begin()
    disk.free = 0
    assert room.release_helps()
    room.release("full")
    assert not room.reserve.exists() and not room.release_helps()
    disk.free = 30 * MB - 1
    assert "30,000,000 are wanted" in str(room.complaint()) and not room.hold_is_due()
    disk.free = 30 * MB
    assert room.complaint() is not None and room.hold_is_due()
    room.hold()
    assert room.complaint() is None and not room.hold_is_due()


def test_a_file_system_that_has_no_reserve_is_used_without(
    tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    room = made(tmp_path, disk, reserve_bytes=MB)
    room.begin()
    assert room.complaint() is None and not room.reserve.exists() and not room.hold_is_due()


def test_a_start_on_a_full_disk_gives_the_reserve_up(tmp_path: Path, disk: FakeDisk) -> None:
    room = made(tmp_path, disk, reserve_bytes=MB)
    room.begin()
    disk.free = 0
    again = made(tmp_path, disk, reserve_bytes=MB)
    again.begin()
    assert not again.reserve.exists() and again.complaint() is not None


def test_at_the_quota_the_reserve_is_kept(tmp_path: Path, disk: FakeDisk) -> None:
    """Giving it up would help nothing; on a full disk it would, quota or not."""
    room = made(tmp_path, disk, reserve_bytes=MB, database_bytes_max=50 * MB)
    room.begin()
    assert not room.release_helps()
    disk.free = 0
    assert room.release_helps()


def test_results_that_found_no_space_wait_until_there_is_more_or_long_enough(tmp_path: Path, disk: FakeDisk) -> None:
    room = made(tmp_path, disk)
    room.require_room_for_results()
    for _ in range(2):
        room.note_stuck()
        with pytest.raises(StoreFull):
            room.require_room_for_results()
        disk.free += space.STEP_BYTES
        room.require_room_for_results()
        room.require_room_for_results()
    room.note_stuck()
    disk.moment += space.STUCK_S
    room.require_room_for_results()


async def full(tmp_path: Path, code: int) -> tuple[Shop, list[int]]:
    """A store on which every commit finds no space until the reserve is given up, and the sizes of what was tried."""
    shop = await open_shop(tmp_path / "unhurried.db", config=StoreConfig(readers=1, space=Limits(reserve_bytes=MB)))
    tried: list[int] = []
    real = shop.store._writer._commit

    def commit(db: sqlite3.Connection, group: list[writer.Job]) -> list[object]:
        tried.append(len(group))
        if shop.store._space.reserve.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode, error.sqlite_errorname = code, "FULL"
            raise error
        return real(db, group)

    shop.store._writer._commit = commit  # type: ignore[method-assign]
    return shop, tried


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE])
async def test_the_reserve_is_for_what_was_accepted_before(tmp_path: Path, code: int) -> None:
    """Of one group the accept is refused, and the rest is written at once. No space for the log's index is no space."""
    shop, tried = await full(tmp_path, code)
    try:
        accept = asyncio.create_task(shop.store.accept([new()]))

        def work(tx: Tx) -> str:
            return "written"

        other = asyncio.create_task(shop.write(work))
        answers = await asyncio.gather(accept, other, return_exceptions=True)
        assert isinstance(answers[0], StoreFull) and answers[1] == "written"
        assert tried[:2] == [2, 1]
        assert await shop.ask("select count(*) from requests") == [(0,)]
    finally:
        await shop.close()
