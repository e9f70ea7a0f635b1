"""A real store in a folder, and the few moves that most tests begin with."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import uuid_utils

from unhurried.clock import Ms, after
from unhurried.domain.batch import Batch, BatchId, UpstreamId, custom_id, new_nonce
from unhurried.domain.grouping import Order, Why
from unhurried.domain.request import Defaults, NewRequest, accept
from unhurried.domain.settling import Sighting
from unhurried.domain.states import TRANSITIONS, AttemptState, BatchState, DeliveryState, RequestState
from unhurried.store import StoreUnusable
from unhurried.store.records import Handed
from unhurried.store.sqlite import SqliteStore, StoreConfig, open_store
from unhurried.store.sqlite.connection import in_thread
from unhurried.store.sqlite.tx import Tx

T = TypeVar("T")
NOW = Ms(1_795_000_000_000)
URL = "http://upstream.test"
PARAMS: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hello"}],
}
SUCCEEDED = b'{"type":"succeeded", "message":{"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":5}}}'
EXPIRED = b'{"type":"expired"}'
WEBHOOKS = frozenset({"webhook:app", "webhook:other"})
"""That a request may name; a test that does adds them to its store first."""
CANCELED = b'{"type":"canceled"}'


CHANGING: dict[str, type[StrEnum]] = {
    "requests": RequestState,
    "batches": BatchState,
    "attempts": AttemptState,
    "deliveries": DeliveryState,
}
"""The tables whose rows have a state, and which states these are."""


def errored(kind: str) -> bytes:
    return b'{"type":"errored","error":{"type":"error","error":{"type":"%s","message":"m"}}}' % kind.encode()


INVALID, OVERLOADED = errored("invalid_request_error"), errored("overloaded_error")


def new(now: Ms = NOW, *, params: dict[str, Any] | None = None, attempts_max: int = 3, **fields: Any) -> NewRequest:
    """A request as the front hands it to the store."""
    line = json.dumps({"params": PARAMS | (params or {})} | fields).encode()
    defaults = Defaults(attempts_max=attempts_max, webhooks=WEBHOOKS)
    return accept(line, id=str(uuid_utils.uuid7()), now=now, defaults=defaults, peer_uid=7)


def sighting(
    batch: Batch,
    upstream_id: str,
    *,
    now: Ms = NOW,
    ended: bool = False,
    canceling: bool = False,
    total: int | None = None,
) -> Sighting:
    return Sighting(
        id=UpstreamId(upstream_id),
        total=total if total is not None else batch.requests,
        created_at=now,
        expires_at=after(now, 86_400),
        ended_at=after(now, 10) if ended else None,
        ended=ended,
        canceling=canceling,
        results_readable=ended,
    )


def line(batch: Batch, request_id: str, result: bytes = SUCCEEDED) -> bytes:
    return b'{"custom_id":"%s","result":%s}' % (custom_id(batch.nonce, request_id).encode(), result)


@dataclass
class Shop:
    """An open store with its writer at work, and shorthands."""

    store: SqliteStore
    path: Path
    writer: "asyncio.Task[None]"
    ids: list[str] = field(default_factory=list)

    async def take(self, *requests: NewRequest) -> list[str]:
        """Accept these and return their ids."""
        for answer in await self.store.accept(requests):
            self.ids.append(answer.id)
        return self.ids[-len(requests) :]

    async def some(self, count: int, now: Ms = NOW, **fields: Any) -> list[str]:
        return await self.take(*(new(now, **fields) for _ in range(count)))

    async def form(
        self,
        now: Ms = NOW,
        *,
        group: int = 0,
        requests_max: int = 100_000,
        bytes_max: int = 256_000_000,
        chunk: int = 1_000,
    ) -> Batch:
        """Form a batch of the ``group``-th waiting group."""
        found = (await self.store.groups())[group]
        order = Order(group=found, requests_max=requests_max, bytes_max=bytes_max, why=Why.FLUSH)
        batch_id = await self.store.begin_batch(order, new_nonce(), now)
        while await self.store.add_members(
            batch_id, requests_max=requests_max, bytes_max=bytes_max, chunk=chunk, now=now
        ):
            pass
        batch = await self.store.complete_batch(batch_id, now)
        assert batch is not None
        return batch

    async def intend(self, now: Ms = NOW, **how: Any) -> Batch:
        """A batch whose intent to be submitted is on disk."""
        batch = await self.form(now, **how)
        intended = await self.store.record_submission(batch.id, now, now)
        assert intended is not None
        return intended

    async def submit(self, upstream_id: str = "msgbatch_1", now: Ms = NOW, **how: Any) -> Batch:
        """A batch that upstream has confirmed."""
        batch = await self.intend(now, **how)
        await self.store.record_created(batch.id, UpstreamId(upstream_id), now, now)
        return batch

    async def end(self, upstream_id: str = "msgbatch_1", now: Ms = NOW, **how: Any) -> Batch:
        """A batch that has ended upstream."""
        batch = await self.submit(upstream_id, now, **how)
        await self.store.record_ended(batch.id, sighting(batch, upstream_id, now=now, ended=True), now)
        return batch

    async def doubt(self, now: Ms = NOW, **how: Any) -> Batch:
        batch = await self.intend(now, **how)
        await self.store.record_unknown(batch.id, "timeout", now)
        return batch

    async def release(self, now: Ms = NOW) -> None:
        while await self.store.release_members(1_000, now):
            pass

    async def state(self, request_id: str) -> RequestState:
        view = await self.store.request(request_id)
        assert view is not None
        return view.state

    async def states(self, ids: Sequence[str]) -> list[str]:
        return [str(await self.state(id)) for id in ids]

    async def batch_state(self, batch: Batch) -> str:
        view = await self.store.batch(batch.id)
        assert view is not None
        return str(view.state)

    async def result(self, request_id: str) -> Handed:
        handed = await self.store.result(request_id)
        assert handed is not None
        return handed

    async def pull(self, now: Ms = NOW, *, limit: int = 100, lease_s: float = 60.0) -> Sequence[Handed]:
        return await self.store.pull("pull:default", limit=limit, bytes_max=1_000_000, lease_s=lease_s, now=now)

    async def ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Look into the database with the writer's own connection."""
        return await in_thread(self.store._writer_db, lambda db: db.execute(sql, values).fetchall())

    async def write(self, work: Callable[[Tx], T], **how: Any) -> T:
        return await self.store._writer.write(work, **how)

    async def members(self, batch: Batch) -> list[str]:
        rows = await self.ask(
            "select r.id from attempts a join requests r on r.seq = a.request_seq join batches b on b.seq = a.batch_seq"
            " where b.id = ? order by a.request_seq",
            batch.id,
        )
        return [row[0] for row in rows]

    async def watch_states(self) -> None:
        """Record from here on, in a table of this connection only, from which state to which a row was changed."""
        await self.ask("create temp table if not exists changes (of text, old text, new text, unique (of, old, new))")
        for table in CHANGING:
            await self.ask(
                f"create temp trigger if not exists watch_{table} after update of state on main.{table}"
                " when old.state <> new.state"
                f" begin insert or ignore into changes values ('{table}', old.state, new.state); end"
            )

    async def changes(self) -> dict[str, set[tuple[str, str]]]:
        """The changes of state since the store was opened, by table."""
        rows = await self.ask("select of, old, new from changes")
        return {table: {(old, new) for of, old, new in rows if of == table} for table in CHANGING}

    async def check(self) -> None:
        """Every invariant holds, and every change of a state is in the table of the domain."""
        assert list(await self.store.complaints()) == []
        for table, changes in (await self.changes()).items():
            assert changes <= {(old.value, new.value) for old, new in TRANSITIONS[CHANGING[table]]}, table

    async def close(self, *, clean: bool = True, now: Ms = NOW) -> None:
        """``clean=False``: as a kill leaves it, with whatever was under way."""
        self.store.stop_writing()
        with contextlib.suppress(StoreUnusable, asyncio.CancelledError):  # a test may have broken the disk
            await self.writer
        await self.store.close(clean=clean, now=now)


async def open_shop(path: Path, now: Ms = NOW, config: StoreConfig | None = None, *, recover: bool = True) -> Shop:
    store = await open_store(path, config or StoreConfig(readers=1), now)
    shop = Shop(store, path, asyncio.create_task(store.run()))
    await shop.watch_states()
    if recover:
        await store.bind_account(URL, now)
        await store.recover(now)
    return shop


@asynccontextmanager
async def shop_at(folder: Path, now: Ms = NOW, config: StoreConfig | None = None) -> AsyncIterator[Shop]:
    shop = await open_shop(folder / "unhurried.db", now, config)
    try:
        yield shop
    finally:
        await shop.close()


def upstream_of(batch: Batch | BatchId) -> str:
    return f"msgbatch_{batch.id if isinstance(batch, Batch) else batch}"
