"""``query`` reads, and only reads, whatever it is given."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.store.support import new, open_shop


@pytest.fixture
def database(tmp_path: Path) -> Path:
    async def fill() -> None:
        shop = await open_shop(tmp_path / "unhurried.db")
        await shop.take(new(custom_id="one"), new(custom_id="two"))
        await shop.close()

    asyncio.run(fill())
    return tmp_path / "unhurried.db"


def test_without_a_statement_it_names_the_views(database: Path, run: Run) -> None:
    ran = run("query", "--database", database)
    assert ran.code == 0
    assert {"v_queue", "v_open_batches", "v_deliveries"} <= set(ran.out.split())


def test_a_table_for_people_and_a_line_a_row_for_programs(database: Path, run: Run) -> None:
    asked = "select r.custom_id, b.params, null as empty from requests r join bodies b on b.request_seq = r.seq"
    ran = run("query", asked, "--database", database)
    assert ran.out.splitlines()[0].split() == ["custom_id", "params", "empty"]
    assert "one" in ran.out and "Hello" not in ran.out  # a prompt is shown only when it is asked for
    lines = [json.loads(line) for line in run("query", asked, "--database", database, "--json").out.splitlines()]
    assert [line["custom_id"] for line in lines] == ["one", "two"]
    assert json.loads(lines[0]["params"])["messages"][0]["content"] == "Hello"
    digest = run("query", "select digest from requests limit 1", "--database", database, "--json").out
    assert len(bytes.fromhex(json.loads(digest)["digest"])) == 32


def test_more_rows_than_asked_for_are_told_of(database: Path, run: Run) -> None:
    ran = run("query", "select id from requests", "--database", database, "--limit", "1")
    assert (ran.code, len(ran.out.splitlines())) == (0, 2)
    assert "--limit" in ran.err


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("delete from requests", "readonly"),
        ("create temp table t (x)", "read"),
        ("pragma user_version = 9", "readonly"),
        ("select 1; select 2", "one statement"),
        ("selec", "syntax error"),
        ("select * from nowhere", "no such table"),
        ("with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c", "longer than 0.1 s"),
    ],
)
def test_what_it_will_not_run_is_said_in_a_line(database: Path, run: Run, statement: str, says: str) -> None:
    ran = run("query", statement, "--database", database, "--timeout", "0.1")
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err and len(ran.err.splitlines()) == 1
    assert sqlite3.connect(database).execute("select count(*) from requests").fetchone() == (2,)


@pytest.mark.parametrize("statement", ["", "  "])
def test_nothing_to_run_is_a_mistake(database: Path, run: Run, statement: str) -> None:
    ran = run("query", statement, "--database", database)
    assert (ran.code, ran.out) == (2, "")
    assert "there is no statement" in ran.err


def test_a_file_that_is_no_database_is_told_of(tmp_path: Path, run: Run) -> None:
    (tmp_path / "text").write_text("no database at all, however long it may be" * 100)
    assert run("query", "select 1 from requests", "--database", tmp_path / "text").code == 65
    assert run("query", "--database", tmp_path / "none").code == 2
