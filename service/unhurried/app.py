"""The one place that builds the rooms, joins them, starts them and stops them.

Starting is recovering: the lock, the schema, a new epoch, what an older process left behind, the socket, and only then
the upstream room, whose SDK takes seconds to import. Stopping: no new work, every loop finishes its step, and whatever
is not finished when the grace is over is cut off, which is no worse than a kill.
"""

import asyncio
import gc
import os
import platform
import signal
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from unhurried import __version__, ingest
from unhurried import settings as configuration
from unhurried.clock import Clock, Ms, SystemClock
from unhurried.delivery import Webhooks
from unhurried.dispatcher import Dispatcher, WebhookPolicy
from unhurried.domain.grouping import Limits
from unhurried.domain.polling import PollPolicy
from unhurried.domain.queue import QueueSettings
from unhurried.domain.request import Defaults
from unhurried.domain.settling import SettlePolicy
from unhurried.domain.submitting import PausePolicy
from unhurried.failpoints import failpoint
from unhurried.flusher import Flusher
from unhurried.keeper import Keeper
from unhurried.keeper import Limits as KeeperLimits
from unhurried.loop import Bell, Step, repeat
from unhurried.observability import log as logging
from unhurried.observability.health import HANGS_S, WRITER_HANGS_S, Health, touching
from unhurried.observability.meters import Meters
from unhurried.observability.metrics import Metrics
from unhurried.poller import Collector, Tracker
from unhurried.settings import Settings
from unhurried.store import StoreUnusable
from unhurried.store.sqlite import SqliteStore, StoreConfig, open_store
from unhurried.store.sqlite.collecting import RetryPauses
from unhurried.store.sqlite.space import Limits as SpaceLimits
from unhurried.submission import Settlement, Submission
from unhurried.upstream import Upstream, UpstreamTrouble, connect

log = structlog.get_logger()

CONNECT_AGAIN_S: Final = 5.0
LEASE_MARGIN_S: Final = 600.0
FLUSHER_REST_S: Final = 0.2
"""Each accept rings the flusher; under load it looks five times a second, not a thousand."""


def run(settings: Settings) -> int:
    """Run the daemon until a signal ends it; the exit code is 0 then.

    Raises ``SettingsError``, ``StoreUnusable`` or ``SocketUnusable``, each with what to do; anything else is a bug.
    """
    logging.setup(settings.log.format, settings.log.level)
    configuration.require_upstream(settings.upstream)
    configuration.arm_failpoints(settings.upstream)
    asyncio.run(_serve(settings))
    return 0


@dataclass
class Bells:
    """One for each loop, and how to ring them all."""

    flusher: Bell = field(default_factory=Bell)
    submission: Bell = field(default_factory=Bell)
    settlement: Bell = field(default_factory=Bell)
    tracker: Bell = field(default_factory=Bell)
    collector: Bell = field(default_factory=Bell)
    dispatcher: Bell = field(default_factory=Bell)
    keeper: Bell = field(default_factory=Bell)
    writer: Bell = field(default_factory=Bell)

    def ring_all(self) -> None:
        for bell in vars(self).values():
            bell.ring()


class Stop:
    """The order to stop: by signal once, and at once by a second one."""

    def __init__(self, bells: Bells) -> None:
        self.event = asyncio.Event()
        self._bells = bells
        self._deadline: asyncio.Timeout | None = None
        self._grace_s = 0.0

    def order(self, name: str) -> None:
        if self.event.is_set():
            log.warning("daemon.stopped_at_once", signal=name)
            os._exit(128 + signal.Signals[name])  # a kill like any other: the next start recovers
        self.ask(signal=name)

    def ask(self, **why: str) -> None:
        """The same, asked by whom the daemon itself listens to: only the first order counts."""
        if self.event.is_set():
            return
        log.info("daemon.stopping", grace_s=self._grace_s, **why)
        self.event.set()
        failpoint("stop.ordered")
        self._bells.ring_all()
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._grace_s)

    def bound(self, deadline: asyncio.Timeout, grace_s: float) -> None:
        """From the order on, ``deadline`` is ``grace_s`` away."""
        self._deadline, self._grace_s = deadline, grace_s

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.order, number.name)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


async def _serve(settings: Settings) -> None:
    clock = SystemClock()
    bells = Bells()
    stop = Stop(bells)
    with stop.on_signals():
        store = await open_store(settings.database, _store_config(settings), clock.now())
        clean = False
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(store.run(), name="writer")
                try:
                    clean = await _run_rooms(settings, store, clock, bells, stop, writing.done)
                finally:
                    failpoint("stop.finished")
                    store.stop_writing()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors
        finally:
            failpoint("stop.written")
            await store.close(clean=clean, now=clock.now())
            log.info("daemon.stopped", clean=clean)


async def _run_rooms(
    settings: Settings, store: SqliteStore, clock: Clock, bells: Bells, stop: Stop, writer_ended: Callable[[], bool]
) -> bool:
    """Everything between the first and the last write. Returns whether all of it finished within the grace."""
    base_url = configuration.base_url(settings.upstream)
    await store.bind_account(base_url, clock.now())
    failpoint("start.bound")
    recovered = await store.recover(clock.now())
    failpoint("start.recovered")
    log.info("daemon.recovered", epoch=store.epoch, migrated=store.migrated, **recovered)

    health, meters = Health(), Meters()
    webhooks = Webhooks(settings.delivery, own_socket=settings.socket, database=settings.database, environ=os.environ)
    waiters = ingest.Waiters(store, clock)
    webhook_names = set(await store.webhook_names())
    defaults = _defaults(settings, webhook_names)
    queues = ingest.QueueBook(store, defaults, store.open_requests_of)
    await queues.load()
    drain = ingest.Draining(store, store, clock, flusher=bells.flusher, stop=partial(stop.ask, reason="drained"))
    deps = ingest.IngestDeps(
        store=store,
        destinations=store,
        steering=store,
        queues=queues,
        drain=drain,
        clock=clock,
        settings=settings.ingest,
        defaults=defaults,
        queue_settings=_queue_settings(settings),
        bells=ingest.Bells(
            flusher=bells.flusher, submission=bells.submission, poller=bells.tracker, dispatcher=bells.dispatcher
        ),
        waiters=waiters,
        health=health,
        daemon=ingest.Daemon(
            version=__version__,
            epoch=store.epoch,
            pid=os.getpid(),
            started_at=clock.now(),
            base_url=base_url,
            simulator=settings.upstream.simulator,
        ),
        stop=stop.event,
        draining=lambda: stop.event.is_set() or drain.on(),
        open_requests=store.open_requests,
        unready=store.refusal,
        webhooks=webhook_names,
        test_webhook=lambda target, secrets: webhooks.test(target, secrets, clock.now()),
        spool_dir=str(settings.database.parent),  # /tmp may be read-only, or memory
        unhealthy=lambda: "the writer has ended" if writer_ended() else None,
        refused=meters.refused,
        metrics=Metrics(store, meters, health, clock, _build(settings)).render,
    )
    listener = ingest.bind(settings.socket, int(settings.ingest.socket_mode, 8))
    server = ingest.Server(
        ingest.build_app(deps),
        listener,
        clock=clock,
        stop=stop.event,
        grace_s=settings.grace_s,
        at_stop=waiters.close,
    )
    try:
        async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as group:
            stop.bound(deadline, settings.grace_s)
            loops = _Loops(group, clock, stop.event, health, drain.on)
            group.create_task(server.serve(), name="server")
            answering = health.watch.watch("waiters", clock.now(), prompt=True)
            group.create_task(waiters.watch(stop.event, answering), name="waiters")
            group.create_task(health.stalls.run(stop.event), name="stalls")
            loops.start("writer", touching(store.touch), bells.writer, prompt=True, hangs_s=WRITER_HANGS_S)
            dispatcher = Dispatcher(
                store,
                webhooks,
                clock,
                policy=_webhook_policy(settings),
                group=group,
                stop=stop.event,
                bell=bells.dispatcher,
                tell=waiters.results_stored,
            )
            meters.attempts, meters.attempt_seconds = dispatcher.attempts, dispatcher.attempt_seconds
            loops.start("dispatcher", dispatcher.step, bells.dispatcher, prompt=True)
            keeper = Keeper(store, settings.keeper, _keeper_limits(settings))
            loops.start("keeper", keeper.step, bells.keeper, prompt=True)
            await server.ready.wait()
            failpoint("start.listening")
            log.info("daemon.ready", socket=str(settings.socket), database=str(settings.database), pid=os.getpid())
            workspace = Workspace()
            upstream = await _connect(settings, workspace, meters, stop.event, clock)
            if upstream is not None:
                failpoint("start.connected")
                _start_loops(loops, settings, store, upstream, clock, bells, workspace, meters)
                gc.freeze()  # a collection that walks through all that starting up has made takes a tenth of a second
                health.mark_ready()
                log.info("daemon.upstream", base_url=upstream.base_url, simulator=settings.upstream.simulator)
    except TimeoutError:
        log.warning("daemon.grace_over", grace_s=settings.grace_s)
        return False
    await webhooks.aclose()
    if upstream is not None:
        await upstream.aclose()
    return True


@dataclass
class _Loops:
    group: asyncio.TaskGroup
    clock: Clock
    stop: asyncio.Event
    health: Health
    draining: Callable[[], bool]

    def start(
        self, name: str, step: Step, bell: Bell, *, rest_s: float = 0.0, prompt: bool = False, hangs_s: float = HANGS_S
    ) -> None:
        finished = self.health.watch.watch(name, self.clock.now(), prompt=prompt, hangs_s=hangs_s)
        self.group.create_task(
            repeat(step, clock=self.clock, bell=bell, stop=self.stop, rest_s=rest_s, finished=finished), name=name
        )


@dataclass
class Workspace:
    """Whose batches upstream makes, as its answers say. The submission writes it down before it sends anything."""

    id: str | None = None

    def on_answer(self, workspace: str | None, _date: Ms | None) -> None:
        self.id = workspace or self.id

    def seen(self) -> str | None:
        return self.id


async def _connect(
    settings: Settings, workspace: Workspace, meters: Meters, stop: asyncio.Event, clock: Clock
) -> Upstream | None:
    """Import the SDK and open the door. None when the daemon was told to stop meanwhile."""
    while not stop.is_set():
        try:
            return await connect(settings.upstream, workspace.on_answer, meters.upstream_answered)
        except UpstreamTrouble as trouble:
            log.error("upstream.cannot_connect", detail=trouble.detail)
            await clock.wait(stop, CONNECT_AGAIN_S)
    return None


def _start_loops(
    loops: _Loops,
    settings: Settings,
    store: SqliteStore,
    upstream: Upstream,
    clock: Clock,
    bells: Bells,
    workspace: Workspace,
    meters: Meters,
) -> None:
    policy = PollPolicy(interval_min_s=settings.poller.interval_min_s, interval_max_s=settings.poller.interval_max_s)
    flusher = Flusher(
        store, clock, _limits(settings), settings.flusher.chunk_requests, bells.submission, loops.draining
    )
    submission = Submission(
        store,
        upstream,
        clock,
        pauses=PausePolicy(
            account_s=settings.submission.pause_s,
            unreachable_s=settings.submission.unreachable_pause_s,
            longest_s=settings.submission.pause_max_s,
        ),
        queue_limit=settings.upstream.queue_requests_max,
        flusher=bells.flusher,
        poller=bells.tracker,
        settlement=bells.settlement,
        workspace=workspace.seen,
        stopping=loops.stop.is_set,
        ended=meters.create_ended,
    )
    settlement = Settlement(
        store,
        upstream,
        clock,
        policy=SettlePolicy(grace_s=settings.submission.settle_grace_s, absent_s=settings.submission.absent_s),
        sweep_s=settings.submission.sweep_s,
        submission=bells.submission,
        poller=bells.tracker,
        flusher=bells.flusher,
        settled=meters.doubt_ended,
    )
    tracker = Tracker(
        store,
        upstream,
        clock,
        policy=policy,
        not_found_grace_s=settings.poller.not_found_grace_s,
        collector=bells.collector,
        submission=bells.submission,
        settlement=bells.settlement,
    )
    collector = Collector(
        store,
        upstream,
        clock,
        policy=policy,
        chunk=settings.poller.chunk_results,
        not_found_grace_s=settings.poller.not_found_grace_s,
        dispatcher=bells.dispatcher,
        flusher=bells.flusher,
        submission=bells.submission,
        stored=meters.results_stored,
    )
    loops.start("flusher", flusher.step, bells.flusher, rest_s=FLUSHER_REST_S)
    loops.start("submission", submission.step, bells.submission)
    loops.start("settlement", settlement.step, bells.settlement)
    loops.start("tracker", tracker.step, bells.tracker)
    loops.start("collector", collector.step, bells.collector)


def _build(settings: Settings) -> Mapping[str, str]:
    """What this program is, for the metrics."""
    simulator = "true" if settings.upstream.simulator else "false"
    return {"version": __version__, "python": platform.python_version(), "simulator": simulator}


def _store_config(settings: Settings) -> StoreConfig:
    store = settings.store
    return StoreConfig(
        readers=store.readers,
        writer_jobs_max=store.writer_jobs_max,
        writer_bytes_max=store.writer_bytes_max,
        wal_bytes_max=store.wal_bytes_max,
        idempotency_days=store.idempotency_days,
        deadline_classes_s=settings.flusher.deadline_classes_s,
        retry_pauses=RetryPauses(first_s=settings.poller.retry_pause_s, longest_s=settings.poller.retry_pause_max_s),
        space=SpaceLimits(
            disk_free_bytes_min=store.disk_free_bytes_min,
            reserve_bytes=store.reserve,
            database_bytes_max=store.database_bytes_max,
        ),
        check_s=store.check_s,
    )


def _webhook_policy(settings: Settings) -> WebhookPolicy:
    return WebhookPolicy(
        concurrency=settings.delivery.concurrency,
        disable_after_s=settings.delivery.disable_after_s,
        lease_s=settings.delivery.timeout_s * 2 + LEASE_MARGIN_S,
    )


def _defaults(settings: Settings, webhooks: Container[str]) -> Defaults:
    return Defaults(
        deadline_s=settings.ingest.deadline_s,
        anthropic_version=settings.upstream.anthropic_version,
        params_bytes_max=settings.ingest.request_bytes_max,
        attempts_max=settings.ingest.attempts_max,
        webhooks=webhooks,
    )


def _queue_settings(settings: Settings) -> QueueSettings:
    return QueueSettings(
        linger_s=settings.flusher.linger_s,
        batch_requests_max=settings.flusher.batch_requests_max,
        batch_bytes_max=settings.flusher.batch_bytes_max,
        deadline_s=settings.ingest.deadline_s,
        attempts_max=settings.ingest.attempts_max,
        priority=0,
        anthropic_version=settings.upstream.anthropic_version,
        anthropic_beta="",
        retention_days=settings.keeper.retention_days,
        unread_days=settings.keeper.unread_days,
    )


def _keeper_limits(settings: Settings) -> KeeperLimits:
    quota = settings.store.database_bytes_max
    return KeeperLimits(
        open_requests_max=settings.ingest.queue_requests_max,
        log_bytes_max=settings.store.wal_bytes_max,
        database_alarm_bytes=quota * 3 // 4 if quota is not None else None,
    )


def _limits(settings: Settings) -> Limits:
    flusher = settings.flusher
    return Limits(
        requests_max=flusher.batch_requests_max,
        bytes_max=flusher.batch_bytes_max,
        linger_s=flusher.linger_s,
        turnaround_default_s=flusher.turnaround_s,
        deadline_margin_s=flusher.deadline_margin_s,
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says what to do, if one of the group does; else the first."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [errors]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, StoreUnusable | ingest.SocketUnusable)), flat[0])
