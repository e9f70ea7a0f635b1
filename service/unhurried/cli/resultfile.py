"""Where results are written: a line each, in the form of upstream's result lines with the caller's ``custom_id``.

A result is acknowledged only when its line is on disk. After ``kill -9`` the file holds whole lines and at most one
torn one, which is cut off; what its lines say is what need not be fetched again. Beside it lies a note,
``.NAME.submit``: which run the file belongs to, and the deliveries that were being written, which may be written and
not acknowledged.
"""

import contextlib
import fcntl
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

import msgspec

from unhurried.cli.exits import CANNOT_CREATE, USAGE, CliError
from unhurried.cli.jobfile import digest

TAIL_STEP: Final = 1 << 16


class New(NamedTuple):
    """A result on its way to a sink."""

    custom_id: str
    result: msgspec.Raw
    delivery_id: str | None


class ResultSink(Protocol):
    """Takes results, each once."""

    kinds: Counter[str]
    """Result type → how many lines, those of earlier runs among them."""
    unconfirmed: list[str]
    """Deliveries that an earlier run wrote and perhaps did not acknowledge."""

    def has(self, custom_id: str) -> bool: ...

    def write(self, results: Sequence[New]) -> None:
        """Append a line each. When it returns they are safe."""
        ...


class _Kind(msgspec.Struct):
    type: str = "unknown"


class _Line(msgspec.Struct):
    custom_id: str
    result: _Kind


_line: Final = msgspec.json.Decoder(_Line)
_kind: Final = msgspec.json.Decoder(_Kind)


class ResultFile:
    """Results in a file that can be continued after a kill. One process at a time has it."""

    def __init__(self, path: Path, *, run: str, ids: frozenset[bytes], source: str) -> None:
        """Open or create ``path`` for the run called ``run``, whose custom_ids (as digests) are ``ids``.

        Raises ``CliError`` when it holds the results of another run: they would be mixed up.
        """
        self.path = path
        self.kinds: Counter[str] = Counter()
        self.unconfirmed: list[str] = []
        self._done: set[bytes] = set()
        self._run = run
        self._note = path.with_name(f".{path.name}.submit")
        try:
            self._file = _open(path)
            with self._closed_on_error():
                self._take(ids, source)
                self._take_note()
        except OSError as error:
            raise CliError(f"{path}: {error.strerror}; choose another --output", CANNOT_CREATE) from None

    def has(self, custom_id: str) -> bool:
        return digest(custom_id) in self._done

    def write(self, results: Sequence[New]) -> None:
        if not results:
            return
        self._write_note(results)
        self._file.write(b"".join([_rendered(new) for new in results]))
        self._file.flush()
        os.fsync(self._file.fileno())
        for new in results:
            self._count(new.custom_id, _kind.decode(new.result).type)

    def __len__(self) -> int:
        return len(self._done)

    def close(self) -> None:
        self._file.close()

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _take(self, ids: frozenset[bytes], source: str) -> None:
        _cut_torn_line(self._file)
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            try:
                read = _line.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise CliError(f"{self.path}:{number} is not a result line; choose another --output", USAGE) from None
            if digest(read.custom_id) not in ids:
                raise CliError(
                    f"{self.path} holds the result of {read.custom_id!r}, which is not in {source}: it belongs to"
                    " another run; choose another --output",
                    USAGE,
                )
            self._count(read.custom_id, read.result.type)

    def _take_note(self) -> None:
        """Refuse the results of another run of the same custom_ids; learn what was written and not acknowledged."""
        if not self._done:
            self._write_note(())
            _sync_folder(self.path.parent)
            return
        run, *deliveries = self._note.read_text().splitlines() if self._note.exists() else [""]
        if run and run != self._run:
            raise CliError(
                f"{self.path} belongs to another run: the file, --again or --queue was different then; choose another"
                " --output (what is known is not sent again)",
                USAGE,
            )
        for delivery in deliveries:
            delivery_id, _, custom_id = delivery.partition(" ")
            if self.has(custom_id):
                self.unconfirmed.append(delivery_id)

    def _write_note(self, results: Sequence[New]) -> None:
        """Replaced whole, and not synced: after a power cut it only takes a lease longer until all is acknowledged."""
        lines = [self._run, *[f"{new.delivery_id} {new.custom_id}" for new in results if new.delivery_id], ""]
        fresh = self._note.with_name(self._note.name + ".new")
        fresh.write_text("\n".join(lines))
        fresh.replace(self._note)

    def _count(self, custom_id: str, kind: str) -> None:
        self._done.add(digest(custom_id))
        self.kinds[kind] += 1


class ResultStream:
    """Results on stdout. A reader that goes away loses nothing: the next run prints all of them again."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.unconfirmed: list[str] = []
        self._done: set[bytes] = set()

    def has(self, custom_id: str) -> bool:
        return digest(custom_id) in self._done

    def write(self, results: Sequence[New]) -> None:
        sys.stdout.buffer.write(b"".join([_rendered(new) for new in results]))
        sys.stdout.buffer.flush()
        for new in results:
            self._done.add(digest(new.custom_id))
            self.kinds[_kind.decode(new.result).type] += 1


def _rendered(new: New) -> bytes:
    return b'{"custom_id":"%s","result":%s}\n' % (new.custom_id.encode(), bytes(new.result))


def _open(path: Path) -> BinaryIO:
    new = not path.exists()
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        says = f"another `unhurried submit` is writing {path}; wait for it, or choose another --output"
        raise CliError(says, USAGE) from None
    if new:
        _sync_folder(path.parent)
    return file


def _cut_torn_line(file: BinaryIO) -> None:
    """Drop what stands behind the last newline: the line a kill interrupted."""
    end = file.seek(0, os.SEEK_END)
    at = end
    while at > 0:
        start = max(0, at - TAIL_STEP)
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            at = start + found + 1
            break
        at = start
    if at < end:
        file.truncate(at)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
