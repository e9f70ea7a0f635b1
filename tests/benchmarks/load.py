"""The load on a socket: ``load.c`` where there is a compiler, else the same in Python at six times its cost.

``python -m tests.benchmarks.load`` takes the arguments that ``load.c`` explains.
"""

import json
import os
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

MARK: Final = b"@" * 10
HERE: Final = Path(__file__).parent


class Loaded(msgspec.Struct):
    """What one run of the load saw."""

    answered: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float
    failure: str

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.answered - self.failed) / self.seconds


@dataclass(frozen=True)
class Load:
    """The program, and where its messages may lie."""

    folder: Path
    program: tuple[str, ...]

    def run(self, address: Path, connections: int, seconds: float, message: bytes, lines: int = 0) -> Loaded:
        """Send ``message`` over and over. ``lines``: how many lines an answer has; 0: it is HTTP.

        Fails when an answer was not a good one: what is refused is not measured.
        """
        at = self.folder / "message"
        at.write_bytes(message)
        done = subprocess.run(
            [*self.program, str(address), str(connections), str(seconds), str(at), str(lines or "http")],
            capture_output=True,
            text=True,
            timeout=seconds + 120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the load ended with {done.returncode}: {done.stderr}")
        loaded = msgspec.json.decode(done.stdout, type=Loaded)
        if loaded.failed:
            raise RuntimeError(f"{loaded.failed} of {loaded.answered} answers were not good: {loaded.failure}")
        return loaded


def prepare(folder: Path) -> Load:
    """Compile the program if that can be done."""
    if compiler := shutil.which("gcc") or shutil.which("cc"):
        program = folder / "load"
        subprocess.run([compiler, "-O2", "-o", program, HERE / "load.c"], check=True, timeout=60)
        return Load(folder, (str(program),))
    return in_python(folder)


def in_python(folder: Path) -> Load:
    """Clients as most users have them."""
    return Load(folder, (sys.executable, "-m", "tests.benchmarks.load"))


@dataclass
class _Connection:
    socket: socket.socket
    since: float = 0.0
    unsent: bytes = b""
    head: bytes = b""
    left: int = -1
    """Bytes of the answer's body, or its lines, still to come; -1: the head is not complete."""


class _Sender:
    def __init__(self, address: str, connections: int, seconds: float, message: bytes, lines: int) -> None:
        self._parts = message.split(MARK)
        self._lines = lines
        self._number = time.time_ns() // 1000 % 10**10
        self._selector = selectors.DefaultSelector()
        self._under_way = 0
        self._times_ms: list[float] = []
        self._failures: list[bytes] = []
        self._seconds = seconds
        self._all = []
        for _ in range(connections):
            connection = _Connection(socket.socket(socket.AF_UNIX))
            connection.socket.connect(address)
            connection.socket.setblocking(False)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._all.append(connection)

    def run(self) -> Loaded:
        start = time.monotonic()
        self._deadline = start + self._seconds
        for connection in self._all:
            self._begin(connection)
        while self._under_way:
            for key, events in self._selector.select(30) or self._give_up():
                if events & selectors.EVENT_WRITE:
                    self._selector.modify(key.data.socket, selectors.EVENT_READ, key.data)
                    self._push(key.data)
                if events & selectors.EVENT_READ:
                    self._take(key.data)
        took = time.monotonic() - start
        times = sorted(self._times_ms)
        return Loaded(
            answered=len(times),
            failed=len(self._failures),
            seconds=took,
            p50_ms=statistics.median(times),
            p99_ms=times[len(times) * 99 // 100],
            cpu_s=time.process_time(),
            failure=self._failures[0][:300].decode("latin-1") if self._failures else "",
        )

    def _give_up(self) -> list[tuple[selectors.SelectorKey, int]]:
        raise SystemExit("no answer for 30 s")

    def _begin(self, connection: _Connection) -> None:
        message = self._parts[0]
        for part in self._parts[1:]:
            message += b"%010d" % (self._number % 10**10) + part
            self._number += 1
        connection.unsent, connection.head = message, b""
        connection.left = self._lines or -1
        connection.since = time.monotonic()
        self._under_way += 1
        self._push(connection)

    def _push(self, connection: _Connection) -> None:
        with suppress(BlockingIOError):
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        if connection.unsent:
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _take(self, connection: _Connection) -> None:
        data = connection.socket.recv(262_144)
        if not data:
            raise SystemExit(f"a connection was closed before its answer: {connection.head[:300]!r}")
        if self._lines:
            connection.head = connection.head or data[:1]
            connection.left -= data.count(b"\n")
        elif connection.left >= 0:
            connection.left -= len(data)
        else:
            connection.head += data
            head, blank, body = connection.head.partition(b"\r\n\r\n")
            if blank:
                length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
                connection.left = int(length or 0) - len(body)
        if connection.left == 0:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        self._times_ms.append((time.monotonic() - connection.since) * 1000)
        self._under_way -= 1
        good = connection.head[:1] == b":" if self._lines else connection.head[9:10] == b"2"
        if not good:
            self._failures.append(connection.head)
        if time.monotonic() < self._deadline:
            self._begin(connection)


if __name__ == "__main__":
    address, connections, seconds, message, kind = sys.argv[1:]
    sender = _Sender(
        address, int(connections), float(seconds), Path(message).read_bytes(), 0 if kind == "http" else int(kind)
    )
    print(json.dumps(msgspec.to_builtins(sender.run())), flush=True)
    os._exit(0)
