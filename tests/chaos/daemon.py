"""The daemon through its lives: started, killed as the plan says, and examined after each death."""

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.chaos.evidence import Notes
from tests.chaos.plan import Life
from tests.whole.nursery import Child
from unhurried.failpoints import VARIABLE
from unhurried.store.sqlite.doctor import examine

READY_S: Final = 60.0
LOOK_S: Final = 0.02
TERM_S: Final = 15.0
PROBE_S: Final = 5.0
WORKS: Final = b'"daemon.upstream"'
"""The event that tells in the log that the loops run."""
KILLED: Final = -signal.SIGKILL


@dataclass
class Daemon:
    """``kills`` counts ends by SIGKILL, our own or a failpoint's; ``stops`` ends by SIGTERM alone."""

    folder: Path
    environment: Mapping[str, str]
    notes: Notes
    kills: int = 0
    at_failpoints: int = 0
    stops: int = 0
    halts: int = 0
    """SIGSTOP."""
    child: Child | None = None
    _read_to: int = 0
    """Where the log of this life begins."""

    @property
    def database(self) -> Path:
        return self.folder / "u.db"

    @property
    def socket(self) -> Path:
        return self.folder / "s.sock"

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    def live(self, life: Life) -> None:
        """One life from its start to its end."""
        if not self.start(life.arm):
            self.buried(life)
            return
        self.examine("after a start")
        child = self._child()
        if life.works:
            until(lambda: child.poll() is not None or self._works(), READY_S, LOOK_S)
        began = time.monotonic()
        halted = life.stopped_at < 0
        while child.poll() is None and (passed := time.monotonic() - began) < life.lasts:
            if not halted and passed >= life.stopped_at:
                halted = True
                self._halt(child, life.stopped_for)
            time.sleep(LOOK_S)
        if child.poll() is None:
            self._end(child, life)
        self.buried(life)

    def start(self, arm: str = "") -> bool:
        """Start it and wait until it takes requests. False when it has died before."""
        environment = {**self.environment, **({VARIABLE: arm} if arm else {})}
        self._read_to = self.log.stat().st_size if self.log.exists() else 0
        self.child = Child(["serve"], environment, self.log)
        deadline = time.monotonic() + READY_S
        while self.child.poll() is None:
            if self._ready():
                return True
            if time.monotonic() > deadline:
                self.notes.complain(f"the daemon was not ready within {READY_S:g} s")
                self.child.kill()
                self.child.wait(TERM_S)
            time.sleep(LOOK_S)
        return False

    def examine(self, when: str) -> None:
        """What ``unhurried doctor`` finds."""
        for complaint in asyncio.run(examine(self.database)):
            self.notes.complain(f"doctor {when}: {complaint}")

    def buried(self, life: Life | None = None) -> None:
        """Count how it ended, and complain if nobody had asked for that."""
        child = self._child()
        code = child.wait(TERM_S)
        self.child = None
        if code == KILLED and life is not None:
            self.kills += 1
            self.at_failpoints += bool(life.arm)
        elif code == 0 and (life is None or life.end != "kill"):
            self.stops += 1
        else:
            self.notes.complain(f"the daemon ended with {code}, and was asked for {life}")

    def terminate(self) -> None:
        """SIGTERM, and nothing else: the end of a world."""
        child = self._child()
        child.terminate()
        try:
            self.buried()
        except subprocess.TimeoutExpired:
            self.notes.complain(f"the daemon did not stop within {TERM_S:g} s")
            child.kill()
            child.wait(TERM_S)

    def _end(self, child: Child, life: Life) -> None:
        if life.end == "kill":
            child.kill()
            self._count_own(life)
            return
        child.terminate()
        patience_s = life.gap if life.end == "term_kill" else TERM_S
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            if life.end == "term":
                self.notes.complain(f"the daemon did not stop within {TERM_S:g} s")
            child.kill()

    def _count_own(self, life: Life) -> None:
        """The failpoint was not reached in time: this kill is ours."""
        self.at_failpoints -= bool(life.arm)

    def _halt(self, child: Child, seconds: float) -> None:
        child.send_signal(signal.SIGSTOP)
        self.halts += 1
        time.sleep(seconds)
        child.send_signal(signal.SIGCONT)

    def _works(self) -> bool:
        with self.log.open("rb") as log:
            log.seek(self._read_to)
            return WORKS in log.read()

    def _ready(self) -> bool:
        """By hand: a client costs too much to be made so often, and one that is kept might hang on the last life."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PROBE_S)
                connection.connect(str(self.socket))
                connection.sendall(b"GET /readyz HTTP/1.1\r\nhost: u\r\nconnection: close\r\n\r\n")
                return connection.recv(100).startswith(b"HTTP/1.1 200 ")
        except OSError:
            return False

    def _child(self) -> Child:
        assert self.child is not None, "no daemon runs"
        return self.child


def until(reached: Callable[[], bool], patience_s: float, pause_s: float = 0.1) -> bool:
    """Whether ``reached`` became true in time."""
    deadline = time.monotonic() + patience_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
