"""``unhurried submit``: hand in a file of requests, and fetch its results."""

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from unhurried.cli.connection import JsonOption, SocketOption, socket_path
from unhurried.cli.exits import INTERRUPTED, NOT_ALL, OK, USAGE, CliError
from unhurried.cli.output import json_line, json_out, say

if TYPE_CHECKING:
    from unhurried.cli.jobfile import Options, Source, Survey

AGAIN: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")


def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Requests, one a line; `-` reads stdin.")],
    queue: Annotated[str | None, typer.Option(help="Queue of lines that name none.")] = None,
    deadline: Annotated[str | None, typer.Option(help="Wanted by this time, such as 2026-11-23T06:00:00Z.")] = None,
    max_wait: Annotated[float | None, typer.Option(min=0, help="Wanted within so many seconds.")] = None,
    priority: Annotated[int | None, typer.Option(min=-9, max=9, help="Higher ones are sent first.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results and print them on stdout.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Wait, and append the results to this file.")
    ] = None,
    flush: Annotated[bool, typer.Option("--flush", help="Send them now instead of letting them linger.")] = False,
    again: Annotated[str, typer.Option(metavar="NAME", help="A new run of lines that were sent before.")] = "",
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Hand in a file of requests, and fetch its results.

    The file is in the form of the Message Batches API: {"custom_id": …, "params": {…}}, one a line. A line may also
    carry queue, deadline, priority and so on, as /queue/requests takes them; the options are for lines that do not.

    After a kill or Ctrl-C run the same command again: nothing is sent twice within 30 days, and the output becomes
    complete. Exit 0 if all succeeded, 3 if some did not, 2 if the file is wrong (then nothing was sent).

    \b
    unhurried submit requests.jsonl --output results.jsonl
    cat requests.jsonl | unhurried submit - --queue labels --max-wait 3600
    """
    from unhurried.cli.jobfile import Options, survey

    _check(deadline, max_wait, again)
    options = Options(
        queue=queue,
        deadline=deadline,
        max_wait=max_wait,
        priority=priority,
        again=again,
        collect=wait or output is not None,
    )
    path = socket_path(socket)
    name = "stdin" if file == "-" else file
    with _source(file) as source:
        found = survey(source, name, options)
        try:
            summary, refusals = _run(path, source, found, options, output=output, flush=flush, name=name)
        except KeyboardInterrupt:
            say(f"\nunhurried: interrupted; what was accepted stays accepted. To go on: {_same_command()}")
            return INTERRUPTED
    _tell(summary, refusals, json=json, to_stderr=wait and output is None, collected=options.collect)
    return NOT_ALL if summary["refused"] or summary["not_succeeded"] else OK


def _run(
    path: Path, source: "Source", found: "Survey", options: "Options", *, output: Path | None, flush: bool, name: str
) -> tuple[dict[str, Any], list[str]]:
    """Hand in, and collect if that is wanted. Returns the summary and the first refusals."""
    from unhurried.cli.jobfile import envelopes
    from unhurried.cli.progress import Stages
    from unhurried.cli.resultfile import ResultFile, ResultStream
    from unhurried.cli.transfer import Patience, collect, hand_in
    from unhurried.client import Client

    with ExitStack() as closing:
        sink: ResultFile | ResultStream | None = None
        if output is not None:
            sink = ResultFile(output, run=found.destination, ids=found.ids, source=name)
            closing.callback(sink.close)
        elif options.collect:
            sink = ResultStream()
        client, stages = closing.enter_context(Client(path)), closing.enter_context(Stages())
        patience = Patience(lambda text: stages.say(f"unhurried: {text}"), socket=path)
        lines = envelopes(source, found.destination, options)
        handed = hand_in(client, lines, found.lines, sink, patience, stages.at)
        if flush:
            patience.call(lambda: client.flush(queue=options.queue))
        if sink is not None:
            collect(client, handed, found.destination, sink, patience, stages.at)
    outcomes = dict(sink.kinds) if sink is not None else {}
    return {
        "file": name,
        "lines": found.lines,
        "accepted": handed.accepted,
        "known": handed.known,
        "answered_before": handed.skipped,
        "refused": handed.refused,
        "destination": found.destination,
        "output": str(output) if output is not None else None,
        "outcomes": outcomes,
        "not_succeeded": sum(count for kind, count in outcomes.items() if kind != "succeeded"),
    }, handed.refusals


def _check(deadline: str | None, max_wait: float | None, again: str) -> None:
    if deadline is not None and max_wait is not None:
        raise CliError("give --deadline or --max-wait, not both", USAGE)
    if again and not AGAIN.fullmatch(again):
        raise CliError("--again NAME: letters, digits and _ . -, at most 64", USAGE)
    if deadline is None:
        return
    try:
        moment = datetime.fromisoformat(deadline)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CliError(f"--deadline {deadline!r} is not a time such as 2026-11-23T06:00:00Z", USAGE)


@contextmanager
def _source(file: str) -> Iterator["Source"]:
    """The lines of the file, readable twice: stdin is copied to a temporary file first."""
    from unhurried.cli.jobfile import file_source, handle_source

    if file == "-":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy, 1 << 20)
            yield handle_source(copy)
        return
    path = Path(file)
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}", USAGE) from None
    yield file_source(path)


def _tell(summary: Mapping[str, Any], refusals: list[str], *, json: bool, to_stderr: bool, collected: bool) -> None:
    for refusal in refusals:
        say(f"unhurried: {summary['file']}, {refusal}")
    if summary["refused"] > len(refusals):
        say(f"unhurried: … and {summary['refused'] - len(refusals):,} more lines were refused")
    if json and to_stderr:
        import msgspec

        say(msgspec.json.encode({**summary, "refusals": refusals}).decode())
        return
    if json:
        (json_out if sys.stdout.isatty() else json_line)({**summary, "refusals": refusals})
        return
    out = say if to_stderr else print
    out(_sentence(summary))
    if summary["known"]:
        out("  a line that was known is not sent a second time; `--again NAME` makes it a new run")
    if collected:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(summary["outcomes"].items()))
        out(f"  outcomes: {kinds or 'none'}" + (f"; in {summary['output']}" if summary["output"] else ""))
    else:
        out(f"  results: unhurried submit {shlex.quote(summary['file'])} --output results.jsonl")


def _sentence(summary: Mapping[str, Any]) -> str:
    parts = [f"{summary['accepted']:,} accepted"]
    if summary["known"]:
        parts.append(f"{summary['known']:,} known already")
    if summary["answered_before"]:
        parts.append(f"{summary['answered_before']:,} answered before")
    if summary["refused"]:
        parts.append(f"{summary['refused']:,} refused")
    return f"{summary['lines']:,} requests in {summary['file']}: {', '.join(parts)}"


def _same_command() -> str:
    return shlex.join(["unhurried", *sys.argv[1:]])
