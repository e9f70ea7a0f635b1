"""The daemon with ``synchronous=NORMAL``, which it refuses: the power cut must find what such a daemon loses."""

import sqlite3
import sys

from unhurried.cli import main
from unhurried.store.sqlite import connection

_require = connection._require


def _relaxed(db: sqlite3.Connection, name: str, value: str | int, says: int | None = None) -> None:
    _require(db, name, 1 if name == "synchronous" else value, says)


connection._require = _relaxed

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
