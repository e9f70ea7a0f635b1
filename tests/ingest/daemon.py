"""The ingest room as the daemon runs it: a real store, a real socket, and no loop besides."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from unhurried import ingest
from unhurried.clock import Ms, SystemClock, after
from unhurried.domain.batch import UpstreamId, custom_id, new_nonce
from unhurried.domain.grouping import Order, Why
from unhurried.domain.queue import QueueSettings
from unhurried.domain.request import Defaults
from unhurried.domain.settling import Sighting
from unhurried.loop import Bell
from unhurried.observability.health import Health
from unhurried.observability.meters import Meters
from unhurried.observability.metrics import Metrics
from unhurried.settings import IngestSettings
from unhurried.store.sqlite import SqliteStore, StoreConfig, open_store

PARAMS = {"model": "claude-sonnet-5-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}


def envelope(**fields: Any) -> bytes:
    """One request as JSON; ``params`` are good ones unless given."""
    return json.dumps({"params": PARAMS} | fields).encode()


class Clock(SystemClock):
    """The real one, which a test may put forward."""

    ahead_s = 0.0

    def now(self) -> Ms:
        return after(super().now(), self.ahead_s)


@dataclass
class Daemon:
    """What a test gets hold of."""

    path: Path
    store: SqliteStore
    deps: ingest.IngestDeps
    stop: asyncio.Event
    draining: asyncio.Event
    clock: Clock
    meters: Meters
    open_requests: list[int] = field(default_factory=list)
    """Empty: the store's own number; else the first is what the daemon believes."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a drain was to end with a stop: here nobody obeys."""

    async def params(self, request_id: str) -> bytes:
        """The bytes that are stored, and will be sent."""
        sql = "select b.params from bodies b join requests r on r.seq = b.request_seq where r.id = ?"
        return bytes(await self._one(sql, request_id))

    async def peer_uid(self, request_id: str) -> int | None:
        uid: int | None = await self._one("select peer_uid from requests where id = ?", request_id)
        return uid

    async def count(self) -> int:
        """How many requests are on disk."""
        return int(await self._one("select count(*) from requests"))

    async def _one(self, sql: str, *values: object) -> Any:
        row = await self.store._read(lambda db: db.execute(sql, values).fetchone())
        return row[0]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection, for what no HTTP client would do."""
        reader, writer = await asyncio.open_unix_connection(os.fspath(self.path), limit=1 << 24)
        try:
            yield reader, writer
        finally:
            writer.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx2.AsyncClient]:
        transport = httpx2.AsyncHTTPTransport(uds=os.fspath(self.path))
        async with httpx2.AsyncClient(transport=transport, base_url="http://unhurried", timeout=30) as client:
            yield client

    async def finish(self, request_ids: Iterable[str], result: bytes | None = None, *, tell: bool = True) -> None:
        """Give these (and whatever else waits) an outcome, as the flusher, the submission and the poller would."""
        wanted = set(request_ids)
        result = result or b'{"type": "succeeded",  "message": {"id": "msg_1", "content": []}}'
        now = self.clock.now()
        for group in await self.store.groups():
            if not group.requests:
                continue
            nonce = new_nonce()
            order = Order(group=group, requests_max=100_000, bytes_max=200_000_000, why=Why.FLUSH)
            batch_id = await self.store.begin_batch(order, nonce, now)
            while await self.store.add_members(
                batch_id, requests_max=100_000, bytes_max=200_000_000, chunk=1_000, now=now
            ):
                pass
            batch = await self.store.complete_batch(batch_id, now)
            assert batch is not None
            await self.store.record_submission(batch_id, now, now)
            upstream_id = UpstreamId(f"msgbatch_{nonce}")
            await self.store.record_created(batch_id, upstream_id, now, now)
            await self.store.record_ended(batch_id, _ended(upstream_id, batch.requests, now), now)
            lines = [
                b'{"custom_id":"%s","result":%s}' % (custom_id(nonce, id).encode(), result) for id in sorted(wanted)
            ]
            await self.store.store_results(batch_id, lines, now)
        if tell:
            self.deps.waiters.results_stored()


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds: the other side works in its own time. Fails after 10 s, saying ``what``."""
    async with asyncio.timeout(10) as deadline:
        while not condition():  # noqa: ASYNC110  # what is waited for is often in another process, or in a room's inside
            await asyncio.sleep(0.002)
    assert not deadline.expired(), what


def _ended(upstream_id: UpstreamId, total: int, now: Ms) -> Sighting:
    return Sighting(
        id=upstream_id,
        total=total,
        created_at=now,
        expires_at=after(now, 86_400),
        ended_at=now,
        ended=True,
        canceling=False,
        results_readable=True,
    )


@asynccontextmanager
async def running(folder: Path, *, interval_s: float = 5.0, **settings: Any) -> AsyncIterator[Daemon]:
    """A daemon on ``folder/s``; ``settings`` are those of the ingest room."""
    clock = Clock()
    store = await open_store(folder / "unhurried.db", StoreConfig(), clock.now())
    try:
        stop, draining = asyncio.Event(), asyncio.Event()
        waiters = ingest.Waiters(store, clock, interval_s=interval_s)
        health, meters = Health(), Meters()
        ingest_settings = IngestSettings.model_validate(settings)
        believed: list[int] = []
        webhooks: set[str] = set()
        defaults = Defaults(params_bytes_max=ingest_settings.request_bytes_max, webhooks=webhooks)
        queues = ingest.QueueBook(store, defaults, store.open_requests_of)
        stopped = asyncio.Event()
        drain = ingest.Draining(store, store, clock, flusher=Bell(), stop=stopped.set)
        deps = ingest.IngestDeps(
            store=store,
            destinations=store,
            steering=store,
            queues=queues,
            drain=drain,
            queue_settings=QueueSettings(
                linger_s=300.0,
                deadline_s=defaults.deadline_s,
                attempts_max=defaults.attempts_max,
                priority=0,
                anthropic_version=defaults.anthropic_version,
                anthropic_beta="",
                retention_days=30.0,
            ),
            clock=clock,
            settings=ingest_settings,
            defaults=defaults,
            webhooks=webhooks,
            bells=ingest.Bells(flusher=Bell(), submission=Bell(), poller=Bell(), dispatcher=Bell()),
            waiters=waiters,
            health=health,
            daemon=ingest.Daemon(
                version="0",
                epoch=store.epoch,
                pid=os.getpid(),
                started_at=clock.now(),
                base_url="http://up",
                simulator=True,
            ),
            stop=stop,
            draining=lambda: draining.is_set() or drain.on(),
            open_requests=lambda: believed[0] if believed else store.open_requests(),
            spool_dir=os.fspath(folder),
            refused=meters.refused,
            metrics=Metrics(store, meters, health, clock, {"version": "0", "python": "3", "simulator": "true"}).render,
        )
        app = ingest.build_app(deps)
        listener = ingest.bind(folder / "s", 0o660)
        server = ingest.Server(app, listener, clock=clock, stop=stop, grace_s=2.0, at_stop=waiters.close)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(store.run())
            await store.bind_account("http://up", clock.now())
            tasks.create_task(waiters.watch(stop))
            serving = tasks.create_task(server.serve())
            await server.ready.wait()
            health.mark_ready()
            try:
                yield Daemon(folder / "s", store, deps, stop, draining, clock, meters, believed, stopped)
            finally:
                draining.set()
                stop.set()
                waiters.bell.ring()
                await serving
                store.stop_writing()
                await writing
    finally:
        await store.close(clean=False, now=clock.now())  # else its threads would keep the process alive
