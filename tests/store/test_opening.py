"""Where a database may lie, who may hold it, and what its connections are set to."""

import asyncio
import fcntl
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.support import NOW, Shop, open_shop, shop_at
from unhurried.clock import after
from unhurried.store.errors import StoreUnusable
from unhurried.store.sqlite import StoreConfig, open_store, place
from unhurried.store.sqlite.connection import APPLICATION_ID, Damaged, in_thread, open_reader
from unhurried.store.sqlite.doctor import examine
from unhurried.store.sqlite.place import AlreadyHeld, WrongPlace, file_system, prepare_folder


async def refused(path: Path) -> StoreUnusable:
    """What opening a store there raises; nothing is left held."""
    with pytest.raises(StoreUnusable) as error:
        await open_store(path, StoreConfig(readers=1), NOW)
    return error.value


async def test_the_settings_of_the_connections_are_in_force(shop: Shop) -> None:
    """Read back from the open connections: SQLite is silent about a pragma that it does not take."""
    expected = {
        "page_size": 8192,
        "auto_vacuum": 2,
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "wal_autocheckpoint": 0,
        "busy_timeout": 10_000,
        "secure_delete": 2,
        "application_id": APPLICATION_ID,
        "temp_store": 2,
        "mmap_size": 0,
        "trusted_schema": 0,
    }
    found = {name: (await shop.ask(f"pragma {name}"))[0][0] for name in expected}
    assert found == expected
    async with shop.store._reader() as db:
        assert await in_thread(db, lambda conn: conn.execute("pragma query_only").fetchone()) == (1,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await in_thread(db, lambda conn: conn.execute("delete from events"))


async def test_every_table_is_strict(shop: Shop) -> None:
    loose = await shop.ask(
        "select name from pragma_table_list where schema = 'main' and type = 'table' and not strict"
        " and name not like 'sqlite_%'"
    )
    assert loose == []


async def test_files_are_readable_for_their_owner_only(shop: Shop) -> None:
    await shop.some(1)
    for name in ("unhurried.db", "unhurried.db-wal", "unhurried.db-shm", "unhurried.db.lock"):
        mode = stat.S_IMODE((shop.path.with_name(name)).stat().st_mode)
        assert mode == 0o600, name


async def test_the_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    shop = await open_shop(tmp_path / "deep" / "er" / "a.db")
    await shop.close()
    assert stat.S_IMODE((tmp_path / "deep" / "er").stat().st_mode) == 0o700


async def test_each_start_is_a_new_epoch(tmp_path: Path) -> None:
    epochs = []
    for clean in (True, False, True):
        shop = await open_shop(tmp_path / "a.db")
        epochs.append(shop.store.epoch)
        await shop.close(clean=clean)
    assert epochs == [1, 2, 3]
    shop = await open_shop(tmp_path / "a.db")
    try:
        assert await shop.ask("select stopped_at is not null from boots") == [(1,), (0,), (1,), (0,)]
    finally:
        await shop.close()


async def test_a_second_daemon_is_kept_out_and_told_who_is_in(shop: Shop) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from unhurried.store.sqlite import StoreConfig, open_store\n"
        "try:\n    asyncio.run(open_store(Path(sys.argv[1]), StoreConfig(), 1))\n"
        "except Exception as error:\n    print(error); sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", code, str(shop.path)]
    second = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 75, second.stderr
    assert f"pid {os.getpid()}" in second.stdout


async def test_the_lock_is_let_go_when_opening_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is no database, and long enough to be taken for one" * 100)
    error = await refused(path)
    assert isinstance(error, Damaged) and error.exit_code == 65
    with (tmp_path / "a.db.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    path.unlink()
    await (await open_shop(path)).close()


async def test_a_database_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    other = sqlite3.connect(path)
    other.execute("create table theirs (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    error = await refused(path)
    assert isinstance(error, Damaged) and "another program" in str(error)
    assert path.read_bytes() == before


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    error = await refused(tmp_path / "a.db")
    assert isinstance(error, WrongPlace) and error.exit_code == 73


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = await refused(tmp_path / "file" / "sub" / "a.db")
    assert isinstance(error, WrongPlace) and "cannot create" in str(error)


async def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the system says of it: root may write anywhere, and tests may run as root."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        error = await refused(tmp_path / "a.db")
    assert isinstance(error, WrongPlace) and error.exit_code == 73
    assert f"uid {os.getuid()}" in str(error)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"22 21 0:45 / {tmp_path} rw,relatime shared:2 master:3 - {kind} server:/export rw\n"
    )
    monkeypatch.setattr(place, "file_system", lambda folder: file_system(folder, mounts))
    with pytest.raises(WrongPlace, match=kind):
        prepare_folder(tmp_path / "data" / "a.db")
    prepare_folder(tmp_path.parent / "unrelated" / "a.db")


def test_the_deepest_mount_tells_the_file_system(tmp_path: Path) -> None:
    inner = tmp_path / "in ner"
    inner.mkdir()
    beside = tmp_path / "in ner too"
    beside.mkdir()
    mounts = tmp_path / "mountinfo"
    escaped = str(inner).replace(" ", "\\040")
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 / {escaped} rw - nfs b rw\n3 1 8:1 / {tmp_path} rw - xfs c rw\n"
    )
    assert file_system(inner, mounts) == "nfs"
    assert file_system(beside, mounts) == "xfs"
    assert file_system(Path("/"), mounts) == "ext4"
    assert file_system(inner, tmp_path / "nothing") == ""


def test_a_lock_that_is_held_names_the_holder(tmp_path: Path) -> None:
    first, second = place.InstanceLock(tmp_path / "a.db"), place.InstanceLock(tmp_path / "a.db")
    first.acquire()
    with pytest.raises(AlreadyHeld, match=f"pid {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    second.release()


def test_a_look_at_the_lock_names_the_holder_and_keeps_nobody_out(tmp_path: Path) -> None:
    assert place.holder(tmp_path / "a.db") is None
    assert list(tmp_path.iterdir()) == []
    lock = place.InstanceLock(tmp_path / "a.db")
    lock.acquire()
    assert place.holder(tmp_path / "a.db") == place.Holder(str(os.getpid()))
    lock.release()
    assert place.holder(tmp_path / "a.db") is None  # though the file is there, with the pid in it
    lock.acquire()
    lock.release()


async def test_a_reader_finds_no_database_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        await (await open_reader(tmp_path / "none.db")).close()
    assert list(tmp_path.iterdir()) == []


async def test_the_doctor_may_look_while_the_daemon_runs(tmp_path: Path) -> None:
    async with shop_at(tmp_path) as shop:
        await shop.some(3)
        assert await examine(shop.path) == []
        await shop.ask("update requests set params_bytes = 1 where seq = 1")
        await shop.ask("update bodies set params = x'7b' where request_seq = 2")
        await shop.ask("update counters set n = 9")
        found = {complaint.invariant: complaint for complaint in await examine(shop.path)}
        assert found.keys() >= {"accepted means kept", "counters are right", "waiting is counted", "the caller's bytes"}
        assert found["the caller's bytes"].examples == [shop.ids[1]]


async def test_the_boots_tell_how_each_ended_and_when_it_was_last_alive(tmp_path: Path) -> None:
    path = tmp_path / "unhurried.db"
    for clean in (True, False):
        shop = await open_shop(path, NOW)
        await shop.store.record_alive(after(NOW, 60))
        await shop.close(clean=clean, now=after(NOW, 90))
    shop = await open_shop(path, after(NOW, 3_600))
    boots = await shop.ask("select state, started_at <= seen_at, stopped_at from v_boots")
    alive = await shop.ask("select seen_at - ? from boots order by epoch", NOW)
    await shop.close()
    assert [state for state, _, _ in boots] == ["running, or cut off after seen_at", "cut off", "stopped"]
    assert all(ordered for _, ordered, _ in boots)
    assert alive == [(90_000,), (60_000,), (3_600_000,)]
