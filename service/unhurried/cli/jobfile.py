"""A file of requests, one ``{"custom_id", "params"}`` a line, read twice: once to check it, once to send it.

The first pass finds what is wrong before anything is sent, and the digest that names the run. The second adds to each
line what makes the run safe to repeat: an idempotency key and a destination of its own. ``params`` stay the bytes they
are; new fields are put in behind the last one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from unhurried.cli.exits import USAGE, CliError

CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
PROBLEMS_SHOWN: Final = 10

Source = Callable[[], Iterator[bytes]]
"""Gives the raw lines, from the start, each time it is called."""


class Entry(msgspec.Struct):
    """What we need to know of a line; the daemon checks all the rest."""

    params: msgspec.Raw
    custom_id: str | None = None
    idempotency_key: str | None = None
    queue: str | None = None
    deliver_to: str | None = None
    deadline: str | None = None
    max_wait: float | None = None
    priority: int | None = None
    anthropic_version: str | None = None
    anthropic_beta: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says for lines that do not say it themselves."""

    queue: str | None = None
    deadline: str | None = None
    max_wait: float | None = None
    priority: int | None = None
    again: str = ""
    collect: bool = False
    """Results are waited for here, so no line may send its own elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The file after its first pass. ``ids`` holds a digest of each custom_id."""

    lines: int
    destination: str
    ids: frozenset[bytes]


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A line as it is sent. ``ours``: its key was made here, so its delivery can only be one of ``submit``."""

    number: int
    custom_id: str
    line: bytes
    ours: bool


_entry: Final = msgspec.json.Decoder(Entry)


def file_source(path: Path) -> Source:
    def lines() -> Iterator[bytes]:
        with path.open("rb", buffering=1 << 20) as file:
            yield from file

    return lines


def handle_source(file: BinaryIO) -> Source:
    """For a file that has no name, such as a copy of stdin."""

    def lines() -> Iterator[bytes]:
        file.seek(0)
        yield from file

    return lines


def survey(source: Source, name: str, options: Options) -> Survey:
    """Read all lines and check what can be checked here. Raises ``CliError`` that names the lines which are wrong."""
    seal = sha256()
    ids: set[bytes] = set()
    keys: set[bytes] = set()
    problems: list[str] = []
    wrong = lines = 0
    for number, raw in enumerate(source(), start=1):
        seal.update(raw)
        if not raw.strip():
            continue
        lines += 1
        problem = _problem(raw, number, options, ids, keys)
        if problem is not None:
            wrong += 1
            if len(problems) < PROBLEMS_SHOWN:
                problems.append(f"{name}:{number}: {problem}")
    if wrong:
        more = f"\n(and {wrong - len(problems):,} more lines)" if wrong > len(problems) else ""
        raise CliError("\n".join(problems) + more + "\nunhurried: nothing was sent; mend the file and try again", USAGE)
    if not lines:
        raise CliError(f'{name} has no requests: each line is {{"custom_id": …, "params": {{…}}}}', USAGE)
    seal.update(f"\n{options.again}\n{options.queue or ''}".encode())
    return Survey(lines=lines, destination=f"pull:submit-{seal.hexdigest()[:20]}", ids=frozenset(ids))


def envelopes(source: Source, destination: str, options: Options) -> Iterator[Envelope]:
    """The lines of a file that passed ``survey``, ready to be sent."""
    for number, raw in enumerate(source(), start=1):
        line = raw.strip()
        if line:
            yield _envelope(line, number, destination, options)


def custom_id_and_params(source: Source) -> Iterator[tuple[str, bytes]]:
    """The two fields of each line of a checked file."""
    for number, raw in enumerate(source(), start=1):
        if raw.strip():
            entry = _entry.decode(raw)
            yield _custom_id(entry, number), bytes(entry.params)


def digest(custom_id: str) -> bytes:
    return blake2b(custom_id.encode(), digest_size=16).digest()


def _problem(raw: bytes, number: int, options: Options, ids: set[bytes], keys: set[bytes]) -> str | None:
    """What is wrong with a line, or None. ``ids`` and ``keys`` are those of the lines before; this line's are added."""
    try:
        entry = _entry.decode(raw)
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except msgspec.ValidationError as error:
        return str(error)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"not JSON: {error}"
    return _misfit(entry, _custom_id(entry, number), options) or _repeat(entry, _custom_id(entry, number), ids, keys)


def _misfit(entry: Entry, custom_id: str, options: Options) -> str | None:
    if not CUSTOM_ID.fullmatch(custom_id):
        return f"custom_id has {len(custom_id)} characters; it must be 1 to 64 of a-z A-Z 0-9 _ -"
    if bytes(entry.params)[:1] != b"{":
        return "params must be an object"
    if entry.deliver_to is not None and options.collect:
        return "deliver_to sends its result elsewhere: take it out, or leave out --wait and --output"
    return None


def _repeat(entry: Entry, custom_id: str, ids: set[bytes], keys: set[bytes]) -> str | None:
    """Only digests are kept: a file may have millions of lines."""
    mark = digest(custom_id)
    if mark in ids:
        return f"custom_id {custom_id!r} stands in an earlier line; it must be unique in the file"
    ids.add(mark)
    if entry.idempotency_key is None:
        return None
    mark = digest(f"{entry.queue}\n{entry.idempotency_key}")
    if mark in keys:
        return f"idempotency_key {entry.idempotency_key[:60]!r} stands in an earlier line"
    keys.add(mark)
    return None


def _envelope(line: bytes, number: int, destination: str, options: Options) -> Envelope:
    entry = _entry.decode(line)
    custom_id = _custom_id(entry, number)
    added: dict[str, str | float | int] = {}
    if entry.custom_id is None:
        added["custom_id"] = custom_id
    if entry.idempotency_key is None:
        added["idempotency_key"] = f"file:{options.again}:{custom_id}:{_seal(entry)}"
    if entry.deliver_to is None:
        added["deliver_to"] = destination
    if entry.queue is None and options.queue is not None:
        added["queue"] = options.queue
    if entry.deadline is None and entry.max_wait is None:
        if options.deadline is not None:
            added["deadline"] = options.deadline
        if options.max_wait is not None:
            added["max_wait"] = options.max_wait
    if entry.priority is None and options.priority is not None:
        added["priority"] = options.priority
    spliced = b"%s,%s" % (line[:-1].rstrip(), msgspec.json.encode(added)[1:]) if added else line
    return Envelope(number=number, custom_id=custom_id, line=spliced, ours=entry.idempotency_key is None)


def _custom_id(entry: Entry, number: int) -> str:
    return entry.custom_id if entry.custom_id is not None else f"line-{number}"


def _seal(entry: Entry) -> str:
    """32 hex digits over what is to be done: another text under the same custom_id is another request."""
    seal = sha256(entry.params)
    seal.update(f"\n{entry.anthropic_version or ''}\n".encode())
    seal.update(entry.anthropic_beta)
    if entry.deliver_to is not None:
        seal.update(f"\n{entry.deliver_to}".encode())
    return seal.hexdigest()[:32]
