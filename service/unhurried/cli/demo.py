"""``unhurried demo``: the whole way on the embedded simulator, with proof from the other side at the end."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from unhurried.cli.connection import JsonOption
from unhurried.cli.exits import INTERRUPTED, NO, NOT_ALL, OK, TERMINATED, UNREACHABLE, USAGE, CliError
from unhurried.cli.output import json_out, say

if TYPE_CHECKING:
    from unhurried.cli.children import Children
    from unhurried.cli.jobfile import Source, Survey
    from unhurried.cli.progress import Stages
    from unhurried.client import Client

SAMPLE: Final = Path(__file__).parents[1] / "samples" / "requests.jsonl"
SOCKET_PATH_MAX: Final = 107
READY_S: Final = 60.0
LOOK_S: Final = 0.25
STAGES: Final = ("accepted", "in batches", "answered", "handed back")
FAST: Final = {
    "UNHURRIED_FLUSHER__LINGER_S": "60",
    "UNHURRIED_POLLER__INTERVAL_MIN_S": "0.2",
    "UNHURRIED_POLLER__INTERVAL_MAX_S": "0.5",
    "UNHURRIED_POLLER__RETRY_PAUSE_S": "0.5",
    "UNHURRIED_SUBMISSION__SETTLE_GRACE_S": "2",
    "UNHURRIED_UPSTREAM__QUEUE_REQUESTS_MAX": "10000000",
    "UNHURRIED_LOG__FORMAT": "json",
    "UNHURRIED_GRACE_S": "10",
}
"""Settings for an upstream that answers in seconds. What the environment sets already stays as it is.

The linger is long because the demo asks for a flush once everything is handed in: so each model gets one full batch."""


@dataclass(frozen=True)
class Place:
    """The folder of one demo."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "queue.sock"

    @property
    def upstream(self) -> Path:
        return self.folder / "upstream.sock"

    @property
    def database(self) -> Path:
        return self.folder / "unhurried.db"

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def environ(self) -> dict[str, str]:
        """For the daemon: nothing in it can reach Anthropic."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
        return {
            **FAST,
            **inherited,
            "UNHURRIED_SOCKET": str(self.socket),
            "UNHURRIED_DATABASE": str(self.database),
            "UNHURRIED_UPSTREAM__SIMULATOR": "true",
            "UNHURRIED_UPSTREAM__BASE_URL": f"unix:{self.upstream}",
            "UNHURRIED_UPSTREAM__API_KEY": "simulated",
        }


def demo(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Requests, one a line; else a small sample.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Cut or repeat the file to so many requests.")] = None,
    speed: Annotated[float, typer.Option(min=0.01, help="Simulated seconds a second; a batch takes 120.")] = 60.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave daemon and simulator running until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> int:
    """See the main job work on the embedded simulator.

    Nothing leaves this machine and nothing is paid for. A simulator and a daemon start in a temporary folder, the file
    is submitted, and when every request has come back the simulator's ledger shows that each was created once. Exit 0
    only then. The folder stays, to look at.

    \b
    unhurried demo
    unhurried demo requests.jsonl --count 10000 --speed 600
    """
    from unhurried.cli.children import Children
    from unhurried.cli.demo_report import Report, show
    from unhurried.cli.jobfile import Options, survey

    signal.signal(signal.SIGHUP, _end)  # a closed terminal must not leave the two processes behind
    source, name = _source(file, count)
    found = survey(source, name, Options(collect=True))
    place = Place(_folder())
    say(f"demo in {place.folder}")
    with Children(place.folder) as children:
        try:
            report = _run(place, children, source, found, name, speed)
        except KeyboardInterrupt:
            say(f"\nunhurried: interrupted; everything so far is in {place.folder}")
            return INTERRUPTED
        json_out(report.as_json()) if json else show(report, place, keep=keep)
        if keep:
            _stay(children, place)
    assert isinstance(report, Report)
    if not report.proved:
        return NO
    return OK if report.all_succeeded else NOT_ALL


def _run(place: Place, children: "Children", source: "Source", found: "Survey", name: str, speed: float) -> Any:
    from unhurried.cli.demo_report import ledger, report_of
    from unhurried.cli.progress import Stages
    from unhurried.client import Client

    started = time.monotonic()
    arguments = ["simulate", "--socket", str(place.upstream), "--speed", str(speed), "--queue-limit", "1000000000"]
    children.start("simulator", [*arguments, "--log-format", "json"], place.environ())
    children.start("daemon", ["serve"], place.environ())
    with Client(place.socket) as client, Stages() as stages:
        _await_ready(client, children)
        ready = time.monotonic()
        handed, kinds = _transfer(place, client, children, source, found, name, stages)
        done = time.monotonic()
        return report_of(
            name=name,
            lines=found.lines,
            handed=handed,
            kinds=kinds,
            batches=client.batches(limit=1000),
            status=client.status(),
            ledger=ledger(place.upstream),
            speed=speed,
            start_s=ready - started,
            wall_s=done - ready,
        )


def _transfer(
    place: Place,
    client: "Client",
    children: "Children",
    source: "Source",
    found: "Survey",
    name: str,
    stages: "Stages",
) -> tuple[Any, dict[str, int]]:
    """Hand everything in, ask for a flush, and bring all results back."""
    from unhurried.cli.jobfile import Options, envelopes
    from unhurried.cli.resultfile import ResultFile
    from unhurried.cli.transfer import Patience, collect, hand_in

    def sleep(seconds: float) -> None:
        children.check()  # rather than wait for a daemon that is gone
        time.sleep(seconds)

    def progress(stage: str, done: int, total: int) -> None:
        children.check()
        watching.saw(stage, done)

    sink = ResultFile(place.results, run=found.destination, ids=found.ids, source=name)
    patience = Patience(stages.say, sleep=sleep)
    watching = _Watching(place, stages, found.lines)
    with closing(sink), watching:
        lines = envelopes(source, found.destination, Options(collect=True))
        handed = hand_in(client, lines, found.lines, sink, patience, progress)
        patience.call(client.flush)
        watching.all_in.set()
        collect(client, handed, found.destination, sink, patience, progress)
    return handed, dict(sink.kinds)


class _Watching:
    """Shows what the daemon says of itself while the work goes on; sends along what was put back into the queue."""

    def __init__(self, place: Place, stages: "Stages", total: int) -> None:
        self._place = place
        self._stages = stages
        self._total = total
        self.all_in = threading.Event()
        """To be set once everything has been handed in."""
        self._seen = dict.fromkeys(STAGES, 0)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watching", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def saw(self, stage: str, done: int) -> None:
        """``done`` requests have reached ``stage``, and so every stage before it, whatever was seen there."""
        with self._lock:
            for reached in STAGES[: STAGES.index(stage) + 1]:
                self._seen[reached] = max(self._seen[reached], done)
            self._stages.show({name: (count, self._total) for name, count in self._seen.items()})

    def _watch(self) -> None:
        from unhurried.client import Client, DaemonUnreachable, QueueError

        with Client(self._place.socket) as client:
            while not self._stop.wait(LOOK_S):
                try:
                    queued, under_way, finished = _counts(client.status())
                    if queued and self.all_in.is_set():
                        client.flush()
                except (DaemonUnreachable, QueueError):
                    continue  # the main thread sees it too, and decides
                self.saw("in batches", under_way + finished)
                self.saw("answered", finished)


def _counts(status: dict[str, Any]) -> tuple[int, int, int]:
    queued = under_way = finished = 0
    for by_state in status["requests"].values():
        for state, count in by_state.items():
            if state == "queued":
                queued += count
            elif state in ("assigned", "submitted"):
                under_way += count
            else:
                finished += count
    return queued, under_way, finished


def _await_ready(client: "Client", children: "Children") -> None:
    """Until it takes requests and can send them too: importing the SDK takes seconds, which belong to the start."""
    from unhurried.client import DaemonUnreachable

    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        children.check()
        try:
            if "submission" in client.status()["daemon"]["loops"]:
                return
        except DaemonUnreachable:
            pass  # it has not come so far
        time.sleep(0.05)
    raise CliError(f"the daemon was not ready within {READY_S:.0f} s", UNREACHABLE)


def _source(file: Path | None, count: int | None) -> "tuple[Source, str]":
    from unhurried.cli.jobfile import Options, file_source, survey

    path = file or SAMPLE
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", USAGE) from None
    source, name = file_source(path), str(file) if file else "the sample"
    if count is None:
        return source, name
    there = survey(source, name, Options()).lines
    return repeated(source, count, rename=count > there), name


def repeated(source: "Source", count: int, *, rename: bool) -> "Source":
    """The first ``count`` requests, going round as often as needed; then each gets a custom_id of its own."""
    from unhurried.cli.jobfile import custom_id_and_params

    def endless() -> Iterator[tuple[str, bytes]]:
        while True:
            yield from custom_id_and_params(source)

    def lines() -> Iterator[bytes]:
        for number, (custom_id, params) in zip(range(1, count + 1), endless(), strict=False):
            unique = f"{number}-{custom_id}"[:64] if rename else custom_id
            yield b'{"custom_id":"%s","params":%s}\n' % (unique.encode(), params)

    return lines


def _folder() -> Path:
    """A new folder for which socket paths stay below the limit of the operating system."""
    longest = "/unhurried-demo-xxxxxxxx/upstream.sock"
    short_enough = len(os.fsencode(tempfile.gettempdir() + longest)) <= SOCKET_PATH_MAX
    return Path(tempfile.mkdtemp(prefix="unhurried-demo-", dir=None if short_enough else "/tmp"))  # noqa: S108


def _stay(children: "Children", place: Place, sleep: Callable[[float], None] = time.sleep) -> None:
    say("\ndaemon and simulator keep running; Ctrl-C stops them")
    try:
        while True:
            children.check()
            sleep(0.5)
    except KeyboardInterrupt:
        say(f"\nstopped; everything is in {place.folder}")


def _end(*_: object) -> None:
    raise SystemExit(TERMINATED)
