"""One run: a daemon with one armed failpoint, a client's story, the kill, a new start, and the check at the end.

The client is a good one: it repeats what was not answered, with the same idempotency keys, and confirms what it has.
A story is therefore written as if nothing could happen; ``do`` begins a part of it anew when the daemon dies in it.
"""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import httpx2

from tests.crash.book import Book, Sent
from tests.whole.nursery import Child
from tests.whole.receivers import SECRET, Receiver, listening
from tests.whole.stage import OPEN, Simulator, Stage, listens
from unhurried.client import Client, DaemonUnreachable, QueueError
from unhurried.failpoints import VARIABLE
from unhurried.store.sqlite.doctor import examine

PATIENCE_S: Final = 40.0
LOOK_S: Final = 0.02
TURNAROUND_S: Final = 6.0
"""Simulated: a tenth of a second."""
TAKEN_OVER: Final = "nothing is owned by nobody"
"""The one invariant that a start has yet to make true, when it is killed after its epoch has begun."""
APP: Final = "webhook:app"
OURS: Final = {
    "UNHURRIED_FLUSHER__CHUNK_REQUESTS": "10",
    "UNHURRIED_POLLER__CHUNK_RESULTS": "10",
    "UNHURRIED_STORE__WAL_BYTES_MAX": "1000000",
    "UNHURRIED_DELIVERY__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
    "UNHURRIED_DELIVERY__TIMEOUT_S": "5",
    "APP_SECRET": SECRET,
}
"""Small chunks, so that little work has many beats."""


class Died(Exception):
    """The daemon was killed while somebody waited for it."""


@dataclass
class Run:
    stage: Stage
    armed: Callable[[int], str]
    """What ``UNHURRIED_FAILPOINTS`` has for the daemon that follows the n-th kill, beginning with 0."""
    book: Book = field(default_factory=Book)
    receiver: Receiver | None = None
    kills: int = 0
    ends_with: int = -signal.SIGKILL
    """The exit code of a daemon that meets its failpoint."""
    _client: Client | None = None

    @property
    def simulator(self) -> Simulator:
        return self.stage.simulator

    @property
    def client(self) -> Client:
        if self._client is None:
            transport = httpx2.HTTPTransport(uds=str(self.stage.socket), verify=False)  # certificates cost a start
            self._client = Client(self.stage.socket, transport=transport)
        return self._client

    # Living and dying

    def start(self) -> None:
        """Start the daemon, armed, and again for as long as it is killed in starting."""
        self.do(self._start)

    def _start(self) -> None:
        if self.stage.daemon is None:
            self._launch()
        self._wait_ready()

    def _launch(self) -> None:
        self.stage.settings.pop(VARIABLE, None)
        if armed := self.armed(self.kills):
            self.stage.settings[VARIABLE] = armed
        self.stage.launch()

    def _wait_ready(self) -> None:
        self.until(self._answers, "the daemon takes requests")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.stage.socket)) != 0:
                return False
        return self.client.ready()[0]

    def do(self, part: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Play a part of the story until it comes to its end; each part may be begun anew."""
        while True:
            try:
                return part(*arguments, **named)
            except (DaemonUnreachable, Died) as reason:
                self.survive(reason)
            except QueueError as no:  # a bug ends it in order: whoever waits may be told so
                if no.status < 500 or self.ends_with == -signal.SIGKILL:
                    raise
                self.survive(no)

    def survive(self, reason: Exception) -> None:
        """The daemon is gone: killed, nothing else. Look at what it left behind, and start the next one."""
        assert self.stage.daemon is not None, reason
        code = self.stage.daemon.wait(20)
        assert code == self.ends_with, f"it ended with {code}, after {reason!r}:\n{self.stage.tail()}"
        self.kills += 1
        self.hang_up()
        assert_sound(self.stage.database, but=TAKEN_OVER)
        self._launch()
        try:
            self._wait_ready()
        except (DaemonUnreachable, Died) as again:
            self.survive(again)
            return
        assert_sound(self.stage.database)

    def kill(self) -> None:
        """Kill it here and now, and start the next one."""
        assert self.stage.daemon is not None
        self.stage.daemon.kill()
        self.survive(Died("by the test"))

    def hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def until(self, reached: Callable[[], Any], what: str) -> Any:
        """What ``reached`` returns once it is true. Raises ``Died`` when the daemon does."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if self.stage.daemon is not None and self.stage.daemon.poll() is not None:
                raise Died(what)
            if result := reached():
                return result
            time.sleep(LOOK_S)
        raise AssertionError(f"not within {PATIENCE_S:g} s: {what}\n{self.stage.tail()}")

    # What a client does

    def hand_in(self, queue: str, number: int, text: str = "", **envelope: Any) -> None:
        """One request, alone."""
        sent = self.book.write(queue, number, text, **envelope)
        answer = self.client.submit(sent.params, queue=queue, idempotency_key=sent.key, **sent.envelope)
        self.book.acknowledged(sent, answer.id, duplicate=answer.duplicate)

    def hand_in_many(self, queue: str, count: int, first: int = 0, text: str = "", **envelope: Any) -> None:
        """Many, in one call."""
        self.repeat([self.book.write(queue, first + n, text, **envelope) for n in range(count)])

    def repeat(self, all_sent: list[Sent]) -> None:
        for answer in self.client.submit_many(sent.line() for sent in all_sent):
            assert answer.id is not None, answer
            self.book.acknowledged(all_sent[answer.line - 1], answer.id, duplicate=answer.duplicate)

    def call(self, act: str, *arguments: Any, unless: str = "", **named: Any) -> Any:
        """Any other call. ``unless``: the code with which it is refused when it was done before; a client that was not
        answered cannot know."""
        try:
            return getattr(self.client, act)(*arguments, **named)
        except QueueError as no:
            if no.code != unless:
                raise

    def batches(self, *states: str) -> list[str]:
        """The ids of the batches in these states."""
        wanted = "', '".join(states)
        return [row[0] for row in ask(self.stage.database, f"select id from batches where state in ('{wanted}')")]

    def open_requests(self) -> int:
        of_queues = self.client.status()["requests"].values()
        return sum(n for counts in of_queues for state, n in counts.items() if state in OPEN)

    def kept(self) -> set[str]:
        return {row[0] for row in ask(self.stage.database, "select id from requests")}

    def free_pages(self) -> int:
        [[pages]] = ask(self.stage.database, "pragma freelist_count")
        return int(pages)

    def check_no_strangers(self) -> None:
        """No batch of ours is one of another's that the simulator has made."""
        theirs = {batch["id"] for batch in self.simulator.call("GET", "/batches")["data"] if batch["stranger"]}
        ours = {row[0] for row in ask(self.stage.database, "select upstream_id from batches")}
        assert theirs and not theirs & ours

    def end_upstream(self) -> None:
        """Whatever is under way there ends now."""
        for batch in self.simulator.call("GET", "/batches")["data"]:
            if batch["processing_status"] != "ended":
                self.simulator.call("POST", f"/batches/{batch['id']}/end")

    def fetch(self, queue: str, generation: int = 1, wanted: set[str] | None = None) -> None:
        """Pull and confirm until everything of a queue is here, or the deliveries that are wanted.

        After a kill it pulls first, so that what was not confirmed is handed out again; what does not come any more
        was confirmed by an ack whose answer was lost, and the ack is repeated.
        """
        wanted = wanted or {f"{id}.{generation}" for id in self.book.wanted([queue])}
        deadline = time.monotonic() + PATIENCE_S
        while not wanted <= self.book.confirmed:
            assert time.monotonic() < deadline, f"{queue} did not come back:\n{self.stage.tail()}"
            held = sorted(self.book.unconfirmed)
            results = self.client.pull(f"pull:{queue}", limit=7, wait=0 if held else 1)
            for result in results:
                self.book.take(result.request_id, str(result.delivery_id), json.loads(bytes(result.result)))
            self.confirm([str(result.delivery_id) for result in results] or held)

    def stream(self, queue: str) -> None:
        """The same by a stream, confirming by other calls as it goes."""
        wanted = {f"{id}.1" for id in self.book.wanted([queue])}
        deadline = time.monotonic() + PATIENCE_S
        while not wanted <= self.book.confirmed:
            assert time.monotonic() < deadline, f"{queue} did not come back:\n{self.stage.tail()}"
            for result in self.client.stream(f"pull:{queue}", window=5, wait=1):
                self.book.take(result.request_id, str(result.delivery_id), json.loads(bytes(result.result)))
                self.confirm([str(result.delivery_id)])
                if wanted <= self.book.confirmed:
                    return
            self.confirm(sorted(self.book.unconfirmed))

    def confirm(self, deliveries: list[str]) -> None:
        if deliveries:
            acked = self.client.ack(deliveries)
            assert {*acked.confirmed, *acked.already} == set(deliveries), acked
            self.book.confirmed.update(deliveries)
            self.book.unconfirmed.difference_update(deliveries)

    def received(self) -> None:
        """Everything that goes to the webhook was delivered there, and the daemon knows."""
        assert self.receiver is not None
        wanted = {id for key, id in self.book.ids.items() if self.book.sent[key].envelope.get("deliver_to") == APP}
        self.until(lambda: self.client.destination(APP)["deliveries"] == {"delivered": len(wanted)}, "all delivered")
        for got in list(self.receiver.got):
            if got.event["type"] != "unhurried.test":
                data = got.event["data"]
                assert got.id == data["delivery_id"]
                self.book.pushed(data["request_id"], got.id, data["result"])
        assert self.kills or not self.receiver.forged  # the attempt that a kill cuts short has no whole signature

    def rest(self) -> None:
        """Until nothing is open, here or upstream."""
        self.until(lambda: not self.open_requests() and not self.client.batches(open_only=True), "all is done")

    # The check

    def check(self) -> None:
        """Whatever has happened: nothing lost, nothing twice, nothing changed. Then the daemon is killed."""
        everything = [sent for key, sent in self.book.sent.items() if self.book.ids.get(key) not in self.book.erased]
        if everything and not self.book.forgotten:
            self.do(self.repeat, everything)
        self.book.check_results()
        self.book.check_ledger(self.simulator.ledger(), self.simulator.created())
        assert_sound(self.stage.database)
        kept = ask(self.stage.database, "select id from requests where erased_at is null")
        if not self.book.forgotten:
            assert {row[0] for row in kept} == set(self.book.ids.values()) - self.book.erased


@dataclass
class Theatre:
    """One simulator for many runs, each with a folder of its own."""

    simulator: Simulator
    address: Path

    @contextmanager
    def run(
        self, *armed: str, webhooks: bool = False, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Iterator[Run]:
        """``armed``: what to arm in the first daemon, in the one after the first kill, and so on; then nothing."""
        self.simulator.reset(turnaround_s=TURNAROUND_S, answer_tokens=[5, 10])
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unhurried-")))
            base_url = {"UNHURRIED_UPSTREAM__BASE_URL": f"unix:{self.address}"}
            stage = Stage(folder, self.simulator, {**base_url, **OURS, **settings})
            run = Run(stage, lambda kills: armed[kills] if kills < len(armed) else "")
            if webhooks:
                run.receiver = stack.enter_context(listening(Receiver()))
            try:
                yield run
            finally:
                run.hang_up()
                if stage.daemon is not None:
                    stage.kill()


@contextmanager
def theatre() -> Iterator[Theatre]:
    with tempfile.TemporaryDirectory(prefix="unhurried-") as name:
        folder = Path(name)
        address = folder / "sim.sock"
        process = Child(["simulate", "--socket", str(address)], os.environ, folder / "simulate.log")
        http = httpx2.Client(base_url="http://simulator", transport=httpx2.HTTPTransport(uds=str(address)), timeout=60)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not listens(address):
                assert time.monotonic() < deadline and process.poll() is None, (folder / "simulate.log").read_text()
                time.sleep(LOOK_S)
            yield Theatre(Simulator(process, http), address)
        finally:
            http.close()
            process.terminate()
            process.wait(10)


def assert_sound(database: Path, but: str = "") -> None:
    """What ``unhurried doctor`` runs finds nothing, whether a daemon is at work or was killed there; ``but`` one."""
    if has_schema(database):
        assert [one for one in asyncio.run(examine(database)) if one.invariant != but] == []


def has_schema(database: Path) -> bool:
    """False where a kill came before the first migration was on disk: then there is nothing at all."""
    if not database.exists():
        return False
    tables = {row[0] for row in ask(database, "select name from sqlite_master where type = 'table'")}
    assert not tables or {"schema_migrations", "requests", "boots"} <= tables, f"a schema by halves: {tables}"
    return bool(tables)


def ask(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Read as an operator would, while the daemon runs or not."""
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()
