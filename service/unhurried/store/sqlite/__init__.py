"""The store on SQLite.

``place``       where the file may lie, and the lock that keeps a second daemon out
``connection``  opening, pragmas, and running a function in a connection's own thread
``migrate``     bringing the schema up to date
``writer``      the one task that writes: it takes everything that waits, commits once, then answers
``tx``          what a write sees: the connection, kept counters, guarded transitions, events
``accepting`` ``forming`` ``submission`` ``collecting`` ``delivering`` ``steering``
                the statements of each room, as plain functions of a ``Tx``
``reading``     the statements of the readers
``status``      the whole queue in numbers, in one short read
``doctor``      every invariant as a query
``peek``        a look into the database while no daemon runs
``store``       the class that joins them behind the contract
"""

from unhurried.store.sqlite.store import SqliteStore, StoreConfig, open_store

__all__ = ["SqliteStore", "StoreConfig", "open_store"]
