"""Handing a file of requests in, and fetching its results: both can be cut off anywhere and done again.

Lines go up in blocks; a block whose answer is lost is sent again, and the idempotency keys make that harmless. Results
come by pull from the run's own destination; for lines that were known before, whose results may have been acknowledged
by an earlier run or belong to another destination, they are looked up.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from unhurried.cli.connection import unreachable
from unhurried.cli.exits import NO, UNREACHABLE, CliError
from unhurried.cli.jobfile import Envelope
from unhurried.cli.resultfile import New, ResultSink

if TYPE_CHECKING:
    from unhurried.client import Client, LineAnswer, Result

BLOCK_LINES: Final = 1_000
BLOCK_BYTES: Final = 8_000_000
PULL_LIMIT: Final = 1_000
PULL_WAIT_S: Final = 20.0
GATHER_S: Final = 0.1
"""Pause after a small pull while results stream in, so that the next is larger: each costs two syncs of a disk."""
LEASE_S: Final = 300.0
LOOKUP_IDS: Final = 500
LOOKUP_PAUSE_S: Final = 5.0
"""First pause between two look-ups of what is outstanding; doubles."""
LOOKUP_PAUSE_MAX_S: Final = 300.0
REFUSALS_SHOWN: Final = 10

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Told a stage, how many are done, and how many there are."""


@dataclass(kw_only=True)
class Handed:
    """What became of the lines. ``open``: request id → custom_id of those whose result is not here yet."""

    accepted: int = 0
    known: int = 0
    """Brought before under the same key; not sent again."""
    skipped: int = 0
    """Their result stands in the output already."""
    refused: int = 0
    refusals: list[str] = field(default_factory=list)
    """The first refusals, with their line numbers."""
    open: dict[str, str] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    """Those among ``open`` that were known: their result may never come by pull."""
    foreign: set[str] = field(default_factory=set)
    """Those whose key the caller chose: their deliveries may be somebody else's to acknowledge."""

    @property
    def lines(self) -> int:
        return self.accepted + self.known + self.skipped + self.refused


class Patience:
    """Bears a daemon that restarts, drains or has no room, for a while; before the first success not at all."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        limit_s: float = 600.0,
        sleep: Callable[[float], None] = time.sleep,
        socket: Path | None = None,
    ) -> None:
        """``socket``: where the daemon should be, for the advice when it is not."""
        self._say = say
        self._limit_s = limit_s
        self._sleep = sleep
        self._socket = socket
        self._reached = False
        self._since: float | None = None
        self._pause_s = 0.0

    def call(self, act: Callable[[], T]) -> T:
        """``act`` until it works. Raises ``CliError`` when it cannot, or not within the time."""
        from unhurried.client import DaemonUnreachable, QueueError

        while True:
            try:
                value = act()
            except DaemonUnreachable as error:
                if not self._reached:
                    raise unreachable(error, self._socket) from None
                self._bear(str(error), None, UNREACHABLE, bearable=True)
            except QueueError as error:
                self._bear(f"{error} [{error.code}]", error.retry_after_s, NO, bearable=error.retry_after_s is not None)
            else:
                if self._since is not None:
                    self._say("the daemon is there again; going on")
                self._reached, self._since = True, None
                return value

    def _bear(self, why: str, after_s: float | None, code: int, *, bearable: bool) -> None:
        now = time.monotonic()
        if not bearable:
            raise CliError(why, code)
        if self._since is None:
            self._since, self._pause_s = now, 0.2
            self._say(f"{why}; trying again for up to {self._limit_s / 60:.0f} minutes")
        elif now - self._since > self._limit_s:
            raise CliError(f"{why}; gave up after {self._limit_s / 60:.0f} minutes", code)
        self._sleep(max(self._pause_s, after_s or 0.0))
        self._pause_s = min(2 * self._pause_s, 5.0)


def hand_in(
    client: "Client",
    lines: Iterator[Envelope],
    total: int,
    sink: ResultSink | None,
    patience: Patience,
    progress: Progress,
) -> Handed:
    """Send every line whose result is not in ``sink`` yet. All that were accepted are on disk when this returns."""
    handed = Handed()
    blocks = _blocks(_wanted(lines, sink, handed))
    with ThreadPoolExecutor(1, thread_name_prefix="reading") as reader:  # reads a block while the last one is sent
        ahead = reader.submit(next, blocks, None)
        while (block := ahead.result()) is not None:
            ahead = reader.submit(next, blocks, None)
            content = [envelope.line for envelope in block]
            answers = patience.call(lambda content=content: list(client.submit_many(content)))  # type: ignore[misc]
            for envelope, answer in zip(block, answers, strict=True):
                _note(handed, envelope, answer)
            progress("accepted", handed.lines - handed.refused, total)
    progress("accepted", handed.lines - handed.refused, total)
    return handed


def collect(
    client: "Client", handed: Handed, destination: str, sink: ResultSink, patience: Patience, progress: Progress
) -> None:
    """Bring every outstanding result into ``sink``, each once, and acknowledge it once it is safe there."""
    total = len(handed.open)
    if sink.unconfirmed:
        patience.call(lambda: client.ack(sink.unconfirmed))
    look_up(client, handed, sink, patience, sorted(handed.suspects))
    pause_s, quiet_s = LOOKUP_PAUSE_S, 0.0
    while handed.open:
        progress("handed back", total - len(handed.open), total)
        wait_s = min(PULL_WAIT_S, pause_s)
        results = patience.call(
            lambda wait_s=wait_s: client.pull(destination, limit=PULL_LIMIT, wait=wait_s, lease=LEASE_S)  # type: ignore[misc]
        )
        if results:
            quiet_s = 0.0
            keep(client, handed, sink, patience, results, pulled=True)
            if handed.open and len(results) < PULL_LIMIT // 2:
                time.sleep(GATHER_S)
            continue
        quiet_s += wait_s
        if quiet_s >= pause_s:
            # Rarely all of them: a result of ours can only fail to come if another process has acknowledged it.
            suspects = handed.suspects if pause_s < LOOKUP_PAUSE_MAX_S else handed.open
            look_up(client, handed, sink, patience, sorted(suspects))
            pause_s, quiet_s = min(2 * pause_s, LOOKUP_PAUSE_MAX_S), 0.0
    progress("handed back", total, total)


def look_up(client: "Client", handed: Handed, sink: ResultSink, patience: Patience, ids: Sequence[str]) -> None:
    """Ask for the results of ``ids`` and keep those that are there."""
    start = 0
    while start < len(ids):
        asked = ids[start : start + LOOKUP_IDS]
        found = patience.call(lambda asked=asked: client.lookup(asked))  # type: ignore[misc]
        keep(client, handed, sink, patience, found.results, pulled=False)
        if found.truncated and found.results:
            start += asked.index(found.results[-1].request_id) + 1
        else:
            start += len(asked)


def keep(
    client: "Client",
    handed: Handed,
    sink: ResultSink,
    patience: Patience,
    results: "Sequence[Result]",
    *,
    pulled: bool,
) -> None:
    """Write what is new and acknowledge what is safe. Looked-up results of a caller's own key stay for their owner."""
    new: dict[str, New] = {}
    safe: list[str] = []
    for result in results:
        custom_id = handed.open.get(result.request_id) or result.custom_id
        mine = pulled or result.request_id not in handed.foreign
        delivery_id = result.delivery_id if mine else None
        if result.request_id in handed.open and custom_id is not None and not sink.has(custom_id):
            new[custom_id] = New(custom_id, result.result, delivery_id)
        if delivery_id is not None and custom_id is not None and (custom_id in new or sink.has(custom_id)):
            safe.append(delivery_id)
    sink.write(list(new.values()))
    for result in results:
        handed.open.pop(result.request_id, None)
        handed.suspects.discard(result.request_id)
    if safe:
        patience.call(lambda: client.ack(safe))


def _wanted(lines: Iterator[Envelope], sink: ResultSink | None, handed: Handed) -> Iterator[Envelope]:
    for envelope in lines:
        if sink is not None and sink.has(envelope.custom_id):
            handed.skipped += 1
        else:
            yield envelope


def _blocks(lines: Iterator[Envelope]) -> Iterator[list[Envelope]]:
    while True:
        block: list[Envelope] = []
        size = 0
        for envelope in itertools.islice(lines, BLOCK_LINES):
            block.append(envelope)
            size += len(envelope.line)
            if size >= BLOCK_BYTES:
                break
        if not block:
            return
        yield block


def _note(handed: Handed, envelope: Envelope, answer: "LineAnswer") -> None:
    if answer.id is None:
        handed.refused += 1
        if len(handed.refusals) < REFUSALS_SHOWN:
            problem = answer.error or {}
            says = problem.get("detail") or problem.get("title") or "refused"
            handed.refusals.append(f"line {envelope.number} ({envelope.custom_id}): {says}")
        return
    handed.open[answer.id] = envelope.custom_id
    if not answer.duplicate:
        handed.accepted += 1
        return
    handed.known += 1
    handed.suspects.add(answer.id)
    if not envelope.ours:
        handed.foreign.add(answer.id)
