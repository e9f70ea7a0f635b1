"""Backup and restore with a real simulator: what the copy knows is paid once and comes back, whatever came since."""

import asyncio
import json
import shutil
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Final

import httpx2
import pytest

from tests.whole.nursery import Child
from tests.whole.stage import OPEN, Stage
from unhurried.client import Client
from unhurried.store.sqlite.doctor import examine

QUICK: Final = "claude-haiku-4-5"
SLOW: Final = "claude-opus-4-8"
PATIENCE_S: Final = 60.0
CHOSEN: Final = {
    "UNHURRIED_FLUSHER__CHUNK_REQUESTS": "10",
    "UNHURRIED_POLLER__CHUNK_RESULTS": "5",
    "UNHURRIED_STORE__CHECK_S": "5",
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _chosen(scene: Stage) -> None:
    """Several small batches; those of one model end at once, those of another in some seconds."""
    scene.settings.update(CHOSEN)
    scene.until(lambda: simulates(scene), "the simulator answers")


def simulates(scene: Stage) -> bool:
    try:
        scene.simulator.reset(turnaround_by_model_s={SLOW: 180.0})
    except httpx2.ConnectError:  # its socket is there a moment before it listens
        return False
    return True


def command(scene: Stage, *arguments: str, expect: int = 0, failpoints: str | None = None) -> str:
    """Run a command to its end, or to where a failpoint kills it; what it said."""
    log = scene.folder / "command.log"
    log.unlink(missing_ok=True)
    environ = {**scene.environment, **({"UNHURRIED_FAILPOINTS": failpoints} if failpoints else {})}
    code = Child(arguments, environ, log).wait(PATIENCE_S)
    said = log.read_text()
    assert code == expect, (code, said)
    return said


def requests_in(file: Path) -> int:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        return int(db.execute("select count(*) from requests").fetchone()[0])


def ask(scene: Stage, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{scene.database}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def open_of(scene: Stage, queue: str) -> int:
    with scene.client() as client:
        counts = client.status()["requests"].get(queue, {})
    return sum(n for state, n in counts.items() if state in OPEN)


def restored(scene: Stage) -> dict[str, Any] | None:
    with scene.client() as client:
        found: dict[str, Any] | None = client.status()["restored"]
    return found


def times_created(scene: Stage) -> Counter[str]:
    """By request id: a second time under another nonce is a second time."""
    return Counter(one["custom_id"][13:] for one in scene.simulator.created())


def assert_nothing_known_was_sent_twice(scene: Stage, ids: list[str]) -> None:
    """And every request of the copy has its outcome."""
    scene.until(lambda: restored(scene) is None, "the search was over")
    scene.wait_finished()
    with scene.client() as client:
        states = Counter(client.get(id)["state"] for id in ids)
    assert states == {"succeeded": len(ids)}
    created = times_created(scene)
    assert {created[id] for id in ids} == {1}
    scene.assert_sound()


# The copy ----------------------------------------------------------------------------------------------------------


def test_a_copy_is_made_while_the_daemon_works_and_is_whole(scene: Stage) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "300"
    scene.start()
    scene.submit(300)
    copy = scene.folder / "copy.db"
    (scene.folder / "copy.db.partial").write_text("left over from one that was killed")
    told = json.loads(command(scene, "backup", "--json", str(copy)).splitlines()[-1])
    assert told["file"] == str(copy) and told["rows"]["requests"] == 300 and told["bytes"] == copy.stat().st_size
    assert sorted(path.name for path in scene.folder.glob("copy*")) == ["copy.db"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert asyncio.run(examine(copy)) == []
    scene.submit(5)
    said = command(scene, "backup", str(copy), expect=73)
    assert "--force" in said and said.count("\n") == 1
    assert requests_in(copy) == 300
    assert "305 requests, verified" in command(scene, "backup", "--force", str(copy))
    for wrong in (scene.database, Path(f"{scene.database}-wal"), Path(f"{scene.database}.lock"), scene.folder):
        command(scene, "backup", "--force", str(wrong), expect=73)
    command(scene, "backup", str(scene.folder / "no" / "copy.db"), expect=73)
    assert scene.stop() == 0
    assert "305 requests, verified" in command(scene, "backup", str(scene.folder / "down.db"))
    command(scene, "backup", "--database", str(scene.folder / "none.db"), str(scene.folder / "x.db"), expect=2)


BACKUP_POINTS: Final = ("backup.begun", "backup.copied", "backup.marked", "backup.verified", "backup.renamed")


def test_killed_at_any_moment_a_backup_leaves_the_old_file_or_the_new_one(scene: Stage) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "300"
    scene.start()
    copy = scene.folder / "copy.db"
    scene.submit(50)
    command(scene, "backup", str(copy))
    scene.submit(50)
    for point in BACKUP_POINTS:
        command(scene, "backup", "--force", str(copy), failpoints=f"{point}=kill", expect=-9)
        assert requests_in(copy) == (100 if point == "backup.renamed" else 50)
        assert asyncio.run(examine(copy)) == []
    command(scene, "backup", "--force", str(copy))
    assert sorted(path.name for path in scene.folder.glob("copy*")) == ["copy.db"]
    assert requests_in(copy) == 100


# The restore -------------------------------------------------------------------------------------------------------


def flush(scene: Stage) -> None:
    with Client(scene.socket, timeout_s=PATIENCE_S) as client:
        client.flush()


def accept_some(scene: Stage) -> list[str]:
    """A hundred, that become three batches."""
    quick = scene.submit(30, "quick", model=QUICK) + scene.submit(30, "more", model=QUICK)
    return quick + scene.submit(40, "slow", model=SLOW)


def live_on(scene: Stage) -> list[str]:
    """After the copy: more comes in, is sent, and partly ends; a stranger makes a batch; and the power goes."""
    flush(scene)
    later = scene.submit(10, "later", model=QUICK)
    flush(scene)
    scene.simulator.call("POST", "/batches", total=20, model=SLOW)
    scene.until(lambda: not open_of(scene, "quick") + open_of(scene, "more"), "the quick ones were answered")
    scene.until(lambda: sum(times_created(scene).values()) == 110, "all of them were sent")
    scene.kill()
    return later


@pytest.mark.parametrize(
    "moment",
    [None, "flusher.added=block", "submission.intended=block", "collector.stored=block"],
    ids=["queued", "forming", "submitting", "half stored"],
)
def test_what_was_sent_after_the_copy_was_made_is_found_before_anything_is_sent(
    scene: Stage, moment: str | None
) -> None:
    copy = scene.folder / "copy.db"
    held = scene.folder / "held"
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "300"
    if moment is not None:
        scene.settings["UNHURRIED_FAILPOINTS"] = f"{moment}:{held}"
    scene.start()
    ids = accept_some(scene)
    flushing = Thread(target=flush, args=(scene,))
    if moment is not None:
        flushing.start()  # which has its answer only once nothing holds the daemon up any more
        scene.until(held.exists, moment)
    command(scene, "backup", str(copy))
    held.unlink(missing_ok=True)
    if moment is not None:
        flushing.join(PATIENCE_S)
    scene.settings.pop("UNHURRIED_FAILPOINTS", None)
    later = live_on(scene)
    said = command(scene, "restore", "--yes", str(copy))
    assert "is kept as" in said
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "0.1"
    scene.start()
    assert_nothing_known_was_sent_twice(scene, ids)
    known = {row[0] for row in ask(scene, "select id from requests")}
    assert known == set(ids)
    assert [row for row in ask(scene, "select what from events") if row == ("daemon.restored_over",)]
    unknown = ask(scene, "select coalesce(sum(unknown_requests), 0) from batches") + ask(
        scene, "select coalesce(sum(unknown_requests), 0) from strangers"
    )
    assert sum(row[0] for row in unknown) == len(later)


SEARCH_POINTS: Final = (
    "start.recovered", "search.listed", "search.begun", "search.first_line", "search.found", "collector.stored",
    "search.stranger", "search.ended",
)  # fmt: skip


def any_exists(paths: Sequence[Path]) -> bool:
    return any(path.exists() for path in paths)


def test_killed_during_the_search_it_goes_on(scene: Stage) -> None:
    """And a raw copy of the file serves as well: here beside the log that the killed daemon has left."""
    copy = scene.folder / "copy.db"
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "300"
    scene.start()
    ids = accept_some(scene)
    command(scene, "backup", str(copy))
    live_on(scene)
    assert Path(f"{scene.database}-wal").stat().st_size
    shutil.copy(copy, scene.database)
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "0.1"
    left = {point: scene.folder / f"at-{point}" for point in SEARCH_POINTS}
    while left:  # killed at each when it is first reached, in whatever order they come
        scene.settings["UNHURRIED_FAILPOINTS"] = ",".join(f"{point}=block:{path}" for point, path in left.items())
        scene.launch()
        there = tuple(left.values())
        scene.until(partial(any_exists, there), f"it came to one of {sorted(left)}")
        scene.kill()
        left = {point: path for point, path in left.items() if not path.exists()}
        assert asyncio.run(examine(scene.database)) == [], sorted(left)
    del scene.settings["UNHURRIED_FAILPOINTS"]
    assert list(scene.folder.glob("u.db-wal.stray-*"))
    scene.start()
    assert_nothing_known_was_sent_twice(scene, ids)


def test_an_operator_sees_it_and_may_end_it(scene: Stage) -> None:
    copy = scene.folder / "copy.db"
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "0.1"
    scene.simulator.reset(turnaround_by_model_s={SLOW: 80_000.0})
    scene.start()
    [id] = scene.submit(1, model=QUICK)
    scene.wait_finished()
    far = (datetime.now(UTC) + timedelta(days=300)).isoformat(timespec="seconds")
    scene.submit(1, "kept", model=QUICK, not_before=far)
    command(scene, "backup", str(copy))
    scene.simulator.call("POST", "/batches", total=1, model=SLOW)
    scene.kill()
    command(scene, "restore", str(copy))  # without --yes
    assert not list(scene.folder.glob("*aside*"))
    command(scene, "restore", "--yes", str(copy))
    assert "was not started on it yet" in command(scene, "doctor")
    scene.start()
    scene.until(lambda: "not ended yet" in ((restored(scene) or {}).get("detail") or ""), "it waits for the stranger")
    said = command(scene, "status")
    assert "RESTORED from a copy" in said and "msgbatch_" in said
    assert "restored from a copy" in command(scene, "doctor")
    scene.until(lambda: ("database.restored",) in ask(scene, "select alarm from v_alarms"), "the alarm was raised")
    assert "a second time" in command(scene, "resume", "--restored")
    assert (restored(scene) or {})["held"]
    assert "released" in command(scene, "resume", "--restored", "--yes")
    assert not (restored(scene) or {})["held"]
    [new] = scene.submit(1, model=QUICK)
    with scene.client() as client:
        scene.until(lambda: client.get(new)["state"] == "succeeded", "it was sent")
        assert client.get(id)["state"] == "succeeded"
    [(actor,)] = ask(scene, "select actor from events where what = 'daemon.released'")
    assert actor.startswith("uid:")


RESTORE_POINTS: Final = ("restore.checkpointed", *BACKUP_POINTS, "restore.decided", "restore.named", "restore.aside",
                         "restore.in_place")  # fmt: skip
DECIDED: Final = RESTORE_POINTS.index("backup.renamed")


@pytest.mark.parametrize("again", ["the command", "a start"])
def test_killed_at_any_moment_a_restore_leaves_the_old_database_or_the_new_one(scene: Stage, again: str) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "300"
    scene.start()
    copy = scene.folder / "copy.db"
    scene.submit(30)
    command(scene, "backup", str(copy))
    scene.submit(20)
    scene.kill()
    kept = scene.folder / "kept"
    kept.mkdir()
    for path in scene.folder.glob("u.db*"):
        shutil.copy2(path, kept / path.name)
    for place, point in enumerate(RESTORE_POINTS):
        for path in scene.folder.glob("u.db*"):
            path.unlink()
        for path in kept.iterdir():
            shutil.copy2(path, scene.folder / path.name)
        command(scene, "restore", "--yes", str(copy), failpoints=f"{point}=kill", expect=-9)
        assert scene.database.exists(), point
        decided = place >= DECIDED
        if again == "the command":
            said = command(scene, "restore", "--yes", str(copy))
            assert ("is finished now" in said) == (decided and point != "restore.in_place"), (point, said)
            expected = 30
        else:
            scene.start()
            scene.stop()
            expected = 30 if decided else 50
        assert requests_in(scene.database) == expected, point
        asides = [path for path in scene.folder.glob("u.db.aside-*") if not path.name.endswith(("-wal", "-shm"))]
        assert 50 in {requests_in(path) for path in asides} or expected == 50, point
        assert not [path for path in scene.folder.glob("u.db.restored-*") if "partial" not in path.name], point


def test_what_cannot_be_restored_is_refused_and_changes_nothing(scene: Stage) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "300"
    scene.start()
    scene.submit(5)
    copy = scene.folder / "copy.db"
    command(scene, "backup", str(copy))
    assert "another daemon" in command(scene, "restore", "--yes", str(copy), expect=75)
    assert scene.stop() == 0
    before = scene.database.read_bytes()
    command(scene, "restore", "--yes", str(scene.folder / "none.db"), expect=2)
    command(scene, "restore", "--yes", str(scene.database), expect=2)
    wrong = scene.folder / "wrong.db"
    wrong.write_bytes(b"")
    assert "is empty" in command(scene, "restore", "--yes", str(wrong), expect=65)
    wrong.write_bytes(b"no database, though long enough" * 500)
    assert "cannot be read" in command(scene, "restore", "--yes", str(wrong), expect=65)
    wrong.unlink()
    with closing(sqlite3.connect(wrong)) as other:
        other.execute("create table theirs (x)")
    assert "another program" in command(scene, "restore", "--yes", str(wrong), expect=65)
    shutil.copy(copy, wrong)
    with closing(sqlite3.connect(wrong)) as newer:
        newer.execute("insert into schema_migrations values (9999, 'later', '', '99', 1)")
        newer.commit()
    assert "newer version" in command(scene, "restore", "--yes", str(wrong), expect=65)
    torn = bytearray(copy.read_bytes())
    for page in range(3, len(torn) // 8192):
        torn[page * 8192 + 8 : page * 8192 + 64] = b"\xff" * 56
    wrong.write_bytes(torn)
    command(scene, "restore", "--yes", str(wrong), expect=65)
    assert scene.database.read_bytes() == before
    left = [path.name for path in scene.folder.glob("u.db.*") if path.suffix not in (".lock", ".reserve")]
    assert left == [], left


def test_a_backup_beside_constant_writing_ends_and_does_not_hold_the_log(scene: Stage) -> None:
    """A snapshot, not a race with the writer."""
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "300"
    scene.start()
    scene.submit(2_000, text="x" * 2_000)
    backup = Child(["backup", str(scene.folder / "copy.db")], scene.environment, scene.folder / "command.log")
    began, sent = time.monotonic(), 0
    with Client(scene.socket) as client:
        while backup.poll() is None and time.monotonic() - began < PATIENCE_S:
            sent += (
                client.submit({"model": QUICK, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]})
                is not None
            )
    assert backup.wait(1) == 0
    assert sent > 5
    assert 2_000 <= requests_in(scene.folder / "copy.db") <= 2_000 + sent
    assert asyncio.run(examine(scene.folder / "copy.db")) == []
