"""What this process did since its start. All of it begins anew with a restart, as counters in Prometheus may."""

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from unhurried.observability.health import LoopWatch, StallMeter
from unhurried.observability.meters import Meters
from unhurried.observability.metrics.families import counter, gauge, histogram, info
from unhurried.observability.metrics.scrape import Seen
from unhurried.store.contract import WatchedStore


def families(seen: Seen) -> Iterator[Metric]:
    yield info("build", 'What this program is; the upstream of one with simulator="true" is a fake', seen.build)
    yield from _taking(seen.store, seen.meters)
    yield from _writing(seen.store)
    yield from _sending(seen.meters)
    yield from _collecting(seen.meters)
    yield from _delivering(seen.store, seen.meters)
    yield from _loops(seen.health.watch)
    yield from _event_loop(seen.health.stalls)
    yield gauge(
        "scrape_read_seconds",
        "How long the store took to tell what it knows for this scrape",
        (),
        [((), seen.status_s)],
    )


def _taking(store: WatchedStore, meters: Meters) -> Iterator[Metric]:
    accepts = {"accepted": 0, "duplicate": 0, "conflict": 0, **store.work.accepts}
    yield counter(
        "accepts_total",
        "Requests that were well formed, by what came of them: new on disk, here before, or its key stands for another",
        ("outcome",),
        (((outcome,), n) for outcome, n in accepts.items()),
    )
    yield counter(
        "refusals_total",
        "Calls and single lines of uploads that were refused, by code",
        ("code",),
        (((code,), n) for code, n in list(meters.refusals.items())),
    )


def _writing(store: WatchedStore) -> Iterator[Metric]:
    yield histogram(
        "commit_seconds",
        "Transactions of the writer, the fsync included",
        (),
        [((), store.work.commits)],
    )
    yield histogram("commit_writes", "Writes that shared one commit", (), [((), store.work.groups)])
    jobs, size = store.waiting_writes()
    yield gauge("writer_queue_writes", "Writes that wait for their commit", (), [((), jobs)])
    yield gauge("writer_queue_bytes", "Bytes of these writes", (), [((), size)])


def _sending(meters: Meters) -> Iterator[Metric]:
    yield counter(
        "upstream_calls_total",
        "Calls to upstream, by the class of their status; none where no answer came",
        ("call", "status"),
        list(meters.calls.items()),
    )
    yield histogram(
        "upstream_call_seconds",
        "Until the head of the answer, the upload included",
        ("call",),
        [((call,), spread) for call, spread in list(meters.call_seconds.items())],
    )
    yield counter(
        "creates_total",
        "Batches posted, by how it ended: created, unknown, or the kind of the refusal",
        ("outcome",),
        (((outcome,), n) for outcome, n in list(meters.creates.items())),
    )
    yield counter(
        "settlements_total",
        "What the settlement found out about creates whose answer never came",
        ("outcome",),
        (((how,), n) for how, n in list(meters.settled.items())),
    )


def _collecting(meters: Meters) -> Iterator[Metric]:
    yield counter(
        "result_lines_total",
        "Result lines by outcome; repeated: was stored before; foreign: of no member of the batch",
        ("outcome",),
        (((outcome,), n) for outcome, n in list(meters.results.items())),
    )
    yield counter("requeued_total", "Requests whose outcome was worth another attempt", (), [((), meters.requeued)])
    yield counter("wasted_results_total", "Answers that came second: paid in vain", (), [((), meters.wasted)])
    yield counter(
        "tokens_total",
        "Tokens that upstream billed, by model and kind",
        ("model", "kind"),
        list(meters.tokens.items()),
    )


def _delivering(store: WatchedStore, meters: Meters) -> Iterator[Metric]:
    yield counter(
        "deliveries_confirmed_total",
        "Results whose receiver has confirmed them",
        (),
        [((), store.work.delivered)],
    )
    yield counter(
        "delivery_attempts_total",
        "Results carried to webhooks, by what came of it",
        ("destination", "outcome"),
        list(meters.attempts.items()),
    )
    yield histogram(
        "delivery_attempt_seconds",
        "How long webhooks took to answer",
        ("destination",),
        [((to,), spread) for to, spread in list(meters.attempt_seconds.items())],
    )


def _loops(watch: LoopWatch) -> Iterator[Metric]:
    yield counter(
        "loop_steps_total",
        "Steps that each loop has finished",
        ("loop",),
        (((n,), k) for n, k in list(watch.steps.items())),
    )
    yield gauge(
        "loop_last_step_timestamp_seconds",
        "When each loop last finished a step, as seconds since 1970",
        ("loop",),
        (((name,), moment / 1000) for name, moment in list(watch.finished_at.items())),
    )


def _event_loop(stalls: StallMeter) -> Iterator[Metric]:
    yield histogram(
        "event_loop_delay_seconds",
        "By how much a ticker of the event loop was late",
        (),
        [((), stalls.late_ms)],
        per=1000,
    )
    yield gauge(
        "event_loop_delay_max_seconds",
        "The longest of these since the daemon was ready",
        (),
        [((), stalls.max_ms / 1000)],
    )
