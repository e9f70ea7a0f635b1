"""Starting is recovering: killed in it at any place, and again and again, it comes to the same end."""

import os
import signal
import sqlite3
from pathlib import Path
from typing import Final

import pytest

from tests.crash.run import Run, Theatre, ask
from tests.crash.stories import UPGRADING
from tests.whole.nursery import _context
from unhurried.clock import Ms
from unhurried.failpoints import arm
from unhurried.store.sqlite.migrate import Migration, available, migrate, statements

ALL: Final = bool(os.environ.get("UNHURRIED_TEST_CRASH_ALL"))
STATEMENTS: Final = sum(len(list(statements(migration.sql))) for migration in available())
KILLED_AT: Final = range(1, STATEMENTS + 1) if ALL else (2, STATEMENTS // 2, STATEMENTS)
STRIDE: Final = 1 if ALL else 3
RECOVERIES: Final = 60 if ALL else 8
FIRST: Final = Migration(version=1, name="first", sql="create table things (name text);\n")
SECOND: Final = Migration(
    version=2,
    name="second",
    sql="create table others (name text not null);\ninsert into others select name from things;\n"
    "drop table things;\nalter table others rename to things;\n",
)
NOW: Final = Ms(1_795_000_000_000)


def test_a_first_start_killed_at_its_statements_leaves_no_half_schema(stages: Theatre) -> None:
    """``survive`` looks at the file after each kill: all tables or none."""
    with stages.run(*(f"migrate.statement=kill@{hit}" for hit in KILLED_AT)) as run:
        run.start()
        assert run.kills == len(KILLED_AT)
        run.hand_in_many("a", 3)
        run.fetch("a")
        run.check()


def test_recovery_that_is_killed_again_and_again_converges(stages: Theatre) -> None:
    """With something of everything under way, the n-th recovery is killed at a later beat than the one before it."""
    with stages.run(settings={"UNHURRIED_FLUSHER__CHUNK_REQUESTS": "5"}) as run:
        leave_work_of_every_kind(run)
        run.armed = lambda kills: f"*=kill@{1 + STRIDE * kills}" if kills < RECOVERIES else ""
        run.kill()
        for point in ("retrieve", "create_received"):
            run.simulator.release(point)
        assert run.kills >= 18 // STRIDE
        for queue in ("handed", "open", "doubtful", "waiting"):
            run.do(run.fetch, queue)
        run.do(run.rest)
        run.check()


def leave_work_of_every_kind(run: Run) -> None:
    """Results that were pulled and not confirmed, a batch that is polled, one whose create is not answered, and
    requests that wait."""
    run.armed = lambda _: ""
    run.start()
    run.hand_in_many("handed", 6)
    run.until(lambda: not run.open_requests(), "some results are here")
    for result in run.client.pull("pull:handed", limit=3):
        assert result.delivery_id is not None
    run.simulator.hold("retrieve", times=0)
    run.hand_in_many("open", 7)
    run.simulator.wait_held("retrieve")
    run.simulator.hold("create_received", times=1)
    run.hand_in_many("doubtful", 8)
    run.simulator.wait_held("create_received")
    run.hand_in_many("waiting", 9)


@pytest.mark.parametrize("point", UPGRADING)
def test_an_upgrade_that_is_killed_leaves_the_old_schema_or_the_new_one(tmp_path: Path, point: str) -> None:
    """With two small migrations of our own, the second of which makes a table anew."""
    path = tmp_path / "u.db"
    assert upgrade(path, [FIRST], "") == 0
    db = sqlite3.connect(path)
    with db:
        db.execute("insert into things values ('kept')")
    db.close()
    assert upgrade(path, [FIRST, SECOND], f"{point}=kill") == -signal.SIGKILL
    done = point == "migrate.committed"
    assert [version for (version,) in ask(path, "select version from schema_migrations")] == ([1, 2] if done else [1])
    assert ask(path, "select name from things") == [("kept",)]
    copy = path.with_name("u.db.before-0002")
    assert ask(copy, "select name from things") == [("kept",)]
    assert upgrade(path, [FIRST, SECOND], "") == 0
    assert ask(path, "select name from things") == [("kept",)]
    assert ask(path, "select sql from sqlite_master where name = 'things'") != ask(
        copy, "select sql from sqlite_master where name = 'things'"
    )


def upgrade(path: Path, migrations: list[Migration], armed: str) -> int:
    """In a process of its own, which may be killed; its exit code."""
    process = _context.Process(target=_upgrade, args=(path, migrations, armed))
    process.start()
    process.join(20)
    assert process.exitcode is not None
    return process.exitcode


def _upgrade(path: Path, migrations: list[Migration], armed: str) -> None:
    arm(armed)
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, path, migrations, NOW)
    db.close()
