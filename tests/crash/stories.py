"""What a daemon does in its life, as stories that a client plays with it, and where in each the daemon is killed.

``STORIES`` is the table: every failpoint belongs to one story at least. A story is written for a daemon that lives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.crash.run import APP, Run

HOUR_S: Final = 3_600.0
SLOW: Final = "claude-opus-4-5"


@dataclass(frozen=True)
class Story:
    play: Callable[[Run], None]
    chains: Sequence[str]
    """Each a run of the short form: where the first daemon is killed, where the one that follows it, and so on. ``@2``
    is the second hit in that daemon's life."""
    settings: dict[str, str] = field(default_factory=dict)
    webhooks: bool = False

    @property
    def points(self) -> list[str]:
        """All of them, each once, in the order in which they are listed."""
        return list(dict.fromkeys(link.partition("@")[0] for chain in self.chains for link in chain.split()))


def main_job(run: Run) -> None:
    """Accepted alone and together, formed into two batches, sent, polled, collected, pulled, confirmed."""
    run.start()
    for number in range(3):
        run.do(run.hand_in, "a", number)
    run.do(run.hand_in, "a", 3, "long " * 15_000)  # too large for the express lane
    run.do(run.hand_in_many, "b", 24)
    run.do(run.hand_in_many, "a", 12, first=4)
    run.do(run.fetch, "b")
    run.do(run.fetch, "a")
    run.do(run.rest)


def webhook(run: Run) -> None:
    """Results that are carried to an application."""
    assert run.receiver is not None
    run.start()
    run.do(run.call, "put_webhook", APP, run.receiver.url, secrets=["env:APP_SECRET"])
    run.do(run.hand_in_many, "w", 12, deliver_to=APP)
    run.do(run.received)
    run.do(run.rest)


def stream(run: Run) -> None:
    """Results that are streamed."""
    run.start()
    run.do(run.hand_in_many, "s", 12)
    run.do(run.stream, "s")
    run.do(run.rest)


def cancel(run: Run) -> None:
    """Two that are queued, and all of a batch that is under way upstream."""
    run.simulator.reset(turnaround_s=HOUR_S)
    run.start()
    run.do(run.call, "set_queue", "held", linger_s=HOUR_S)
    run.do(run.hand_in_many, "held", 2)
    run.do(run.hand_in_many, "sent", 4)
    run.do(run.until, lambda: run.batches("in_progress"), "it is under way")
    for key, id in run.book.ids.items():
        run.book.outcomes[key] = frozenset({"canceled"})
        run.do(run.call, "cancel", id, unless="already_finished")
    run.do(run.fetch, "held")
    run.do(run.fetch, "sent")
    run.do(run.rest)


def again(run: Run) -> None:
    """Errored for good and handed over; queued again, one alone and the others together; two delivered once more."""
    run.book.created_twice = True
    run.simulator.fault("errored_some", fraction=1.0, type="invalid_request_error")
    run.start()
    run.do(run.hand_in_many, "r", 6)
    run.book.outcomes = dict.fromkeys(run.book.sent, frozenset({"errored", "succeeded"}))
    run.do(run.fetch, "r")
    run.simulator.call("DELETE", "/faults")
    ids = sorted(run.book.ids.values())
    run.do(run.call, "retry", ids[0], unless="cannot_retry")
    run.do(run.call, "retry_many", queue="r", dry_run=False)
    run.do(run.fetch, "r", 2)
    for id in ids:
        assert [run.book.handed[id][f"{id}.{n}"]["type"] for n in (1, 2)] == ["errored", "succeeded"]
    for id in ids[:2]:
        run.do(run.call, "redeliver", f"{id}.2", unless="not_redeliverable")
    run.do(run.fetch, "r", wanted={f"{id}.3" for id in ids[:2]})
    run.book.generations = {key: 3 if id in ids[:2] else 2 for key, id in run.book.ids.items()}
    run.do(run.rest)


SECRET_WORD: Final = "a-word-that-nobody-may-find"


def erase(run: Run) -> None:
    """The contents of one that is finished and of one that waits."""
    run.start()
    run.do(run.hand_in_many, "e", 3, text=SECRET_WORD)
    run.do(run.fetch, "e")
    run.do(run.rest)
    run.do(run.call, "set_queue", "held", linger_s=HOUR_S)
    run.do(run.hand_in_many, "held", 1, text=SECRET_WORD)
    for id in run.book.ids.values():
        run.do(run.call, "erase", id, unless="cannot_erase")
        run.book.erased.add(id)
    run.book.generations["held-0"] = 0  # it was canceled by it, and nobody is told
    run.do(run.until, lambda: not found_on_disk(run, SECRET_WORD), "nothing of the contents is on disk")


def found_on_disk(run: Run, word: str) -> list[str]:
    """The files that have it. Reading them would be wrong while the daemon runs in this process; it does not."""
    database = run.stage.database
    beside = [database, database.with_name(database.name + "-wal")]
    return [path.name for path in beside if path.exists() and word.encode() in path.read_bytes()]


def retention(run: Run) -> None:
    """What was delivered is deleted after its time, in chunks; what is open or was not confirmed stays."""
    run.book.forgotten = True
    armed, run.armed = run.armed, lambda _: ""
    run.start()
    run.do(run.hand_in_many, "old", 260)
    run.do(run.fetch, "old")
    run.do(run.rest)
    run.do(run.call, "set_queue", "open", linger_s=HOUR_S)
    run.do(run.hand_in_many, "open", 3)
    run.do(run.hand_in_many, "unread", 3)
    run.do(run.until, lambda: run.open_requests() == 3, "those that nobody reads have ended")
    run.stage.kill()
    run.hang_up()
    run.armed = armed
    run.stage.settings["UNHURRIED_KEEPER__RETENTION_DAYS"] = "0"
    run.start()
    kept = run.book.wanted(["open", "unread"])
    run.do(run.until, lambda: run.kept() == kept, "what is old is deleted, and nothing else")
    run.do(run.until, lambda: run.free_pages() == 0, "the free pages are given back")
    run.do(run.fetch, "unread")
    run.do(run.call, "set_queue", "open", linger_s=0)
    run.do(run.fetch, "open")


def adopted(run: Run) -> None:
    """The create was made, its answer never came."""
    run.simulator.reset(turnaround_s=HOUR_S)
    run.simulator.fault("create_then_drop")
    run.start()
    run.do(run.hand_in_many, "d", 8)
    run.do(run.until, lambda: run.batches("in_progress"), "it is adopted")
    run.end_upstream()
    run.do(run.fetch, "d")
    run.do(run.rest)


def lost(run: Run) -> None:
    """The create never arrived; one of the same size waits behind it and is made smaller by one."""
    run.simulator.hold("create_not_recorded", times=1, then="drop")
    run.start()
    run.do(run.hand_in_many, "one", 5)
    run.do(run.hand_in_many, "two", 5)
    run.do(run.until, lambda: run.batches("submitting") and run.batches("forming"), "two batches are under way")
    run.simulator.wait_held("create_not_recorded")
    run.simulator.release("create_not_recorded")
    run.do(run.fetch, "one")
    run.do(run.fetch, "two")
    run.do(run.rest)


def late(run: Run) -> None:
    """The create had been given up, and turns up: the first outcome counts, and what was paid in vain is on record."""
    run.book.paid_twice = True
    run.simulator.fault("create_late", seconds=10 * HOUR_S)
    run.start()
    run.do(run.hand_in_many, "t", 6)
    run.do(run.until, lambda: run.batches("abandoned"), "it was given up")
    run.do(run.fetch, "t")
    run.simulator.call("POST", "/advance", seconds=11 * HOUR_S)
    run.do(run.until, lambda: not run.batches("abandoned"), "the late twin is seen")
    run.do(run.hand_in, "t", 6)  # work goes on, and rings for all that is to be collected
    run.do(run.fetch, "t")
    run.do(run.rest)


def strangers(run: Run) -> None:
    """The create never arrived, and two strangers' batches are as large: their first lines tell."""
    run.start()
    lose_beside_strangers(run, 2)
    run.do(run.fetch, "x")
    run.do(run.rest)
    run.check_no_strangers()


def stranger(run: Run) -> None:
    """The create never arrived, and one stranger's batch is as large: it is adopted, and disowned at its first line."""
    run.simulator.reset(turnaround_by_model_s={SLOW: HOUR_S})
    run.start()
    lose_beside_strangers(run, 1, model=SLOW)
    run.do(run.until, lambda: run.batches("in_progress"), "the stranger's is adopted")
    run.end_upstream()
    run.do(run.fetch, "x")
    run.do(run.rest)
    run.check_no_strangers()


def lose_beside_strangers(run: Run, strangers: int, **batch: str) -> None:
    run.simulator.hold("create_not_recorded", times=1, then="drop")
    run.do(run.hand_in_many, "x", 6)
    run.simulator.wait_held("create_not_recorded")
    for _ in range(strangers):
        run.simulator.call("POST", "/batches", total=6, **batch)
    run.simulator.release("create_not_recorded")


def refused(run: Run) -> None:
    """Too large, then not understood: split until everyone gets through."""
    run.simulator.fault("create_413_html")
    run.simulator.fault("create_400_unexplained", times=2)
    run.start()
    run.do(run.hand_in_many, "f", 12)
    run.do(run.fetch, "f")
    run.do(run.rest)


def gone(run: Run) -> None:
    """Someone deletes the batch."""
    run.simulator.fault("batch_deleted")
    run.start()
    run.do(run.hand_in_many, "g", 5)
    run.book.outcomes = dict.fromkeys(run.book.sent, frozenset({"errored"}))
    run.do(run.fetch, "g")
    run.do(run.rest)
    for results in run.book.handed.values():
        assert [result["error"]["error"]["type"] for result in results.values()] == ["batch_gone"]


def torn(run: Run) -> None:
    """Results that break off in the middle of a line, and are read again."""
    run.simulator.fault("results_cut_mid_line", after_lines=15)
    run.start()
    run.do(run.hand_in_many, "c", 25)
    run.do(run.fetch, "c")
    run.do(run.rest)


STORIES: Final[dict[str, Story]] = {
    "main job": Story(
        main_job,
        [
            ("start.locked start.opened migrate.begun migrate.statement migrate.versioned migrate.committed start.epoch"
             " start.bound start.recovered start.listening start.connected"),
            "writer.begun writer.job writer.settled writer.committed keeper.looked settlement.swept",
            ("ingest.checked ingest.accepted@2 flusher.begun submission.dated submission.answered tracker.seen"
             " collector.stored results.pulled"),
            ("ingest.checked@2 ingest.accepted bulk.stored flusher.added submission.intended tracker.ended"
             " collector.stored@2 results.handed_over"),
            "bulk.whole flusher.added@2 submission.uploading collector.read results.confirming",
            "bulk.stored@2 flusher.formed submission.recorded collector.finished results.confirmed",
            "writer.checkpointed store.half_stored results.confirming@2",
        ],
    ),
    "webhook": Story(webhook, ["dispatcher.claimed dispatcher.sent dispatcher.recorded dispatcher.sent@2"],
                     webhooks=True),
    "stream": Story(stream, ["stream.handed_over stream.handed_over@2 results.confirming"]),
    "cancel": Story(cancel, ["ingest.canceled tracker.cancel_sent"]),
    "again": Story(again, ["ingest.retried ingest.retried ingest.redelivered"]),
    "erase": Story(erase, ["store.erased ingest.erased@2"]),
    "retention": Story(retention, ["keeper.deleted keeper.vacuumed", "keeper.deleted@2"],
                       settings={"UNHURRIED_KEEPER__VACUUM_BYTES": "0"}),
    "adopted": Story(adopted, ["settlement.listed settlement.looked settlement.adopted tracker.proved"]),
    "lost": Story(lost, ["submission.distinct settlement.abandoned submission.released"]),
    "late": Story(late, ["settlement.nonce_read settlement.harvested"]),
    "strangers": Story(strangers, ["settlement.stranger"]),
    "stranger": Story(stranger, ["tracker.disowned"]),
    "refused": Story(refused, ["submission.released submission.released@2"]),
    "gone": Story(gone, ["tracker.missed tracker.gone"], settings={"UNHURRIED_POLLER__NOT_FOUND_GRACE_S": "0.3"}),
    "torn": Story(torn, ["collector.failed"]),
}  # fmt: skip
UPGRADING: Final = ["migrate.backed_up", "migrate.begun", "migrate.statement", "migrate.versioned", "migrate.committed"]
"""Killed at in ``test_starting.py``, with migrations of its own."""
STOPPING: Final = ["stop.ordered", "stop.finished", "stop.written", "stop.ended"]
"""Killed at in ``test_stopping.py``, one after the other."""
IN_PROCESS: Final = ["settlement.disowned"]
"""Reached in ``test_in_process.py``, against an upstream that lies more than the simulator does."""
ELSEWHERE: Final = {
    "reserve": "tests/resources",
    "backup": "tests/whole",
    "restore": "tests/whole",
    "search": "tests/whole",
}
"""What no story leads to: the points of these rooms are killed at by name in the tests there."""
