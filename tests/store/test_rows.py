"""Many rows in few statements: as many as were given, in their order, whatever their number."""

import sqlite3

import pytest

from unhurried.store.sqlite.rows import ROWS_ANY, ROWS_MAX, insert


@pytest.mark.parametrize("count", [0, 1, 2, ROWS_ANY, ROWS_ANY + 1, 63, 64, 65, ROWS_MAX, ROWS_MAX + 1, 1_000])
def test_every_row_is_inserted_once(count: int) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("create table t (seq integer primary key autoincrement, a integer, b blob) strict")
    statements: list[str] = []
    db.set_trace_callback(statements.append)
    rows = [(number, b"%d" % number) for number in range(count)]
    insert(db, "insert into t (a, b)", rows)
    assert len(statements) <= 4 + count // ROWS_MAX
    assert db.execute("select a, b from t order by seq").fetchall() == rows
    db.close()
