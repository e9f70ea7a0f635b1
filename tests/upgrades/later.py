"""Versions that do not exist yet: two migrations on top of the real first one, and a daemon that knows them.

The first adds; the second rebuilds a table that others refer to, with its index and its views, in the way that SQLite
wants it: make the new one, copy, drop the old one, rename.
"""

import asyncio
import multiprocessing
import os
import re
import sqlite3
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import tests.whole.nursery  # noqa: F401  # the fork server, in which everything is imported
from unhurried.clock import Ms
from unhurried.failpoints import arm
from unhurried.store import StoreUnusable
from unhurried.store.sqlite import StoreConfig, migrate, open_store
from unhurried.store.sqlite import store as opening
from unhurried.store.sqlite.migrate import available, statements

FIRST: Final = available()[0]
ADDS: Final = """
-- A column; an index of its own; a view on both.
alter table queues add column note text;
create index queues_noted on queues (note) where note is not null;
update queues set note = 'of ' || name;
create view v_notes as select name, note from queues where note is not null;
"""


def rebuilds() -> str:
    """The table ``groups`` made anew with another column: ``batches`` refers to it, and five views read it."""
    views = [sql for sql in statements(FIRST.sql) if re.search(r"create view", sql) and re.search(r"\bgroups\b", sql)]
    [table] = [sql for sql in statements(FIRST.sql) if re.search(r"create table groups\b", sql)]
    [index] = [sql for sql in statements(FIRST.sql) if "create index groups_waiting" in sql]
    anew = table.replace("create table groups", "create table groups_new").replace(
        "  flush_asked_at     integer,", "  flush_asked_at     integer,\n  weight real not null default 1,"
    )
    assert anew.count("weight") == 1
    columns = ", ".join(re.findall(r"^  (\w+) +(?:integer|text)", table, re.MULTILINE))
    dropped = [f"drop view {name};" for sql in views for name in re.findall(r"create view (\w+)", sql)]
    assert len(views) >= 5
    return "\n".join(
        [
            *dropped,
            anew,
            f"insert into groups_new ({columns}) select {columns} from groups;",
            "drop table groups;",
            "alter table groups_new rename to groups;",
            index,
            *views,
        ]
    )


def versions(folder: Path, *more: tuple[str, str]) -> Path:
    """A folder with the real migration and the two later ones, or others: (name, SQL)."""
    folder.mkdir()
    (folder / f"{FIRST.version:04d}_{FIRST.name}.sql").write_text(FIRST.sql)
    for name, sql in more or (("0002_adds", ADDS), ("0003_rebuilds", rebuilds())):
        (folder / f"{name}.sql").write_text(sql)
    return folder


def start(database: Path, migrations: Path, now: Ms, failpoints: str = "") -> tuple[int, str]:
    """Start a daemon's store that knows these migrations, in a process of its own, and stop it. Its exit code, negative
    for a signal, and what it said when it could not."""
    said = database.with_name("said")
    said.write_text("")
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(str(database), str(migrations), now, failpoints, str(said)))
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode, said.read_text()


def _run(database: str, migrations: str, now: int, failpoints: str, said: str) -> None:
    vars(opening)["available"] = lambda: available(Path(migrations))
    arm(failpoints)
    try:
        asyncio.run(_open(Path(database), Ms(now)))
    except StoreUnusable as error:
        Path(said).write_text(str(error))
        sys.exit(error.exit_code)
    except BaseException:  # noqa: BLE001  # a bug, and the test shows it
        Path(said).write_text(traceback.format_exc())
        os._exit(70)


async def _open(database: Path, now: Ms) -> None:
    store = await open_store(database, StoreConfig(readers=1), now)
    writing = asyncio.create_task(store.run())
    await store.recover(now)
    store.stop_writing()
    await writing
    await store.close(clean=True, now=now)


def shape(database: Path) -> dict[str, Any]:
    """The schema as SQLite has it: of each object its statement, of each table its columns."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        objects = {
            (kind, name): " ".join((sql or "").split())
            for kind, name, sql in db.execute("select type, name, sql from sqlite_master")
        }
        columns = {
            name: db.execute(f'select * from pragma_table_xinfo("{name}")').fetchall()
            for kind, name in objects
            if kind in ("table", "view")
        }
        keys = {
            name: db.execute(f'select * from pragma_foreign_key_list("{name}")').fetchall()
            for kind, name in objects
            if kind == "table"
        }
        versions = db.execute("select version, name, sha256 from schema_migrations order by 1").fetchall()
    return {"objects": objects, "columns": columns, "keys": keys, "versions": versions}


def contents(database: Path) -> dict[str, int]:
    """Rows by table, of those that hold callers' work."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return {
            table: db.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("requests", "bodies", "results", "attempts", "batches", "groups", "queues", "deliveries")
        }


__all__ = ["ADDS", "contents", "migrate", "rebuilds", "shape", "start", "versions"]
