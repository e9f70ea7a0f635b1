"""Many rows in few statements.

``executemany`` lets go of the interpreter lock and takes it back for each row. Under load the event loop wants it too,
and every one of these is a change of threads, dearer than the row. One statement for many rows is one such change.
"""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Final

ROWS_ANY: Final = 32
ROWS_MAX: Final = 128
"""Up to ``ROWS_ANY`` rows are one statement; more are cut into powers of two, so that there are few to be prepared."""


def insert(db: sqlite3.Connection, head: str, rows: Sequence[tuple[object, ...]]) -> None:
    """``insert into … (…)`` as ``head``, its values as ``rows``."""
    done = 0
    while done < len(rows):
        left = len(rows) - done
        count = left if left <= ROWS_ANY else min(ROWS_MAX, 1 << left.bit_length() - 1)
        part = rows[done : done + count]
        db.execute(_statement(head, len(part[0]), count), tuple(chain.from_iterable(part)))
        done += count


@cache
def _statement(head: str, columns: int, rows: int) -> str:
    row = "(" + ", ".join("?" * columns) + ")"
    return f"{head} values " + ", ".join([row] * rows)
