"""What a write sees: the connection, the kept counters, guarded transitions, and events."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unhurried.clock import Ms
from unhurried.domain import states
from unhurried.domain.batch import BatchId
from unhurried.domain.request import NewRequest
from unhurried.domain.states import FINAL_BATCH_STATES, BatchState


class GuardFailed(Exception):
    """A row was not in the state that a change expected: a bug of ours."""


@dataclass
class Names:
    """Ids of the few rows that every accept needs. Forgotten after each rollback, since it may have made some."""

    queues: dict[str, int] = field(default_factory=dict)
    groups: dict[tuple[int, str, str, str, int, int], int] = field(default_factory=dict)
    destinations: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        self.queues.clear()
        self.groups.clear()
        self.destinations.clear()


Counted = Mapping[tuple[str, int, str], int]
"""Changes of the kept counters: of an entity, its owner and a state, by how much."""


@dataclass
class Tx:
    """One transaction, perhaps shared with other writes. Counters are added up and written once, by ``settle``."""

    db: sqlite3.Connection
    names: Names
    epoch: int
    counted: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    waiting: dict[int, tuple[int, int]] = field(default_factory=dict)
    settled: Counted = field(default_factory=dict)
    """What ``settle`` has written."""

    def count(self, entity: str, owner_id: int, state: str, n: int) -> None:
        """Add ``n`` to the requests of a queue, or to the deliveries of a destination, that are in ``state``."""
        self.counted[entity, owner_id, state] += n

    def wait(self, group_id: int, requests: int, size: int) -> None:
        """Add to what waits in a group, or take away when negative. ``size`` in bytes of params."""
        before = self.waiting.get(group_id, (0, 0))
        self.waiting[group_id] = (before[0] + requests, before[1] + size)

    def settle(self) -> None:
        """Write the kept counters; called once, before the commit."""
        for (entity, owner_id, state), n in self.counted.items():
            if n:
                self.db.execute(
                    "insert into counters (entity, owner_id, state, n) values (?, ?, ?, ?)"
                    " on conflict do update set n = n + excluded.n" if n > 0 else
                    "update counters set n = n + ?4 where entity = ?1 and owner_id = ?2 and state = ?3",
                    (entity, owner_id, state, n),
                )  # fmt: skip
        for group_id, (requests, size) in self.waiting.items():
            self.db.execute(
                "update groups set waiting_requests = waiting_requests + ?, waiting_bytes = waiting_bytes + ?"
                " where id = ?",
                (requests, size, group_id),
            )
        self.settled = dict(self.counted)
        self.counted.clear()
        self.waiting.clear()

    def event(
        self,
        at: Ms,
        actor: str,
        entity: str,
        entity_id: str,
        what: str,
        *,
        old: str | None = None,
        new: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Tell of one thing that happened, in the same transaction as the thing itself."""
        self.db.execute(
            "insert into events (at, actor, entity, entity_id, what, old_state, new_state, detail)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (at, actor, entity, entity_id, what, old, new, detail[:1000] if detail else None),
        )

    def move_batch(
        self,
        batch_id: BatchId,
        old: BatchState,
        new: BatchState,
        *,
        at: Ms,
        actor: str,
        detail: str | None = None,
        sets: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change the state of a batch that is in ``old``; False, and nothing changed, when it is not.

        ``sets`` are further columns. One event tells of it.
        """
        states.check(old, new)
        columns = {**(sets or {}), "state": new.value, "epoch": self.epoch, "detail": detail}
        columns["finished_at"] = at if new in FINAL_BATCH_STATES else None
        assignments = ", ".join(f"{name} = ?" for name in columns)
        done = self.db.execute(
            f"update batches set {assignments} where id = ? and state = ?", (*columns.values(), batch_id, old.value)
        )
        if done.rowcount != 1:
            return False
        self.event(at, actor, "batch", batch_id, f"batch.{new}", old=old, new=new, detail=detail)
        return True

    def queue_id(self, name: str, now: Ms) -> int:
        found = self.names.queues.get(name)
        if found is None:
            self.db.execute("insert into queues (name, created_at) values (?, ?) on conflict do nothing", (name, now))
            found = int(self.db.execute("select id from queues where name = ?", (name,)).fetchone()[0])
            self.names.queues[name] = found
        return found

    def group_id(self, request: NewRequest, deadline_class: int, now: Ms) -> int:
        key = (
            self.queue_id(request.queue, now),
            request.model,
            request.anthropic_version,
            request.anthropic_beta,
            deadline_class,
            0,
        )
        return self.group_id_of(key)

    def group_id_of(self, key: tuple[int, str, str, str, int, int]) -> int:
        """The group with this queue, model, version, betas, deadline class and cap; made if it is new."""
        found = self.names.groups.get(key)
        if found is None:
            self.db.execute(
                "insert into groups (queue_id, model, anthropic_version, anthropic_beta, deadline_class, requests_cap)"
                " values (?, ?, ?, ?, ?, ?) on conflict do nothing",
                key,
            )
            found = int(
                self.db.execute(
                    "select id from groups where queue_id = ? and model = ? and anthropic_version = ?"
                    " and anthropic_beta = ? and deadline_class = ? and requests_cap = ?",
                    key,
                ).fetchone()[0]
            )
            self.names.groups[key] = found
        return found

    def destination_id(self, name: str, now: Ms) -> int:
        """The destination of this name; one to pull from is made if it is new."""
        found = self.names.destinations.get(name)
        if found is None:
            if name.startswith("pull:"):
                self.db.execute(
                    "insert into destinations (name, kind, created_at) values (?, 'pull', ?) on conflict do nothing",
                    (name, now),
                )
            found = int(self.db.execute("select id from destinations where name = ?", (name,)).fetchone()[0])
            self.names.destinations[name] = found
        return found


def guard(cursor: sqlite3.Cursor, expected: int, what: str) -> None:
    """Raise ``GuardFailed`` unless the statement changed exactly ``expected`` rows."""
    if cursor.rowcount != expected:
        raise GuardFailed(f"{what}: {cursor.rowcount} rows changed, {expected} expected")
