"""The processes that are measured: a daemon, a simulator, Redis, and the HTTP stack that stores nothing."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.benchmarks import machine
from tests.benchmarks.load import HERE, Load
from unhurried.client import Client

PATIENCE_S: Final = 60.0
QUIET: Final = {
    "UNHURRIED_UPSTREAM__SIMULATOR": "true",
    "UNHURRIED_UPSTREAM__QUEUE_REQUESTS_MAX": "1000000000",
    "UNHURRIED_INGEST__QUEUE_REQUESTS_MAX": "10000000",
    "UNHURRIED_LOG__FORMAT": "json",
}
"""What differs from the defaults in every measured daemon: no limit is in the way."""


@dataclass
class Process:
    """A process of ours, from its start until ``stop``."""

    popen: subprocess.Popen[bytes]
    socket: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu_s(self) -> float:
        return machine.cpu_s(self.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            try:
                self.popen.wait(30)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


@dataclass
class Daemon(Process):
    database: Path
    fsyncs_at: Path | None = None

    def client(self) -> Client:
        return Client(self.socket)

    def status(self) -> Any:
        with self.client() as client:
            return client.status()

    def grown_mb(self) -> float:
        """Peak resident size minus the size when ready, in MB."""
        memory = self.status()["daemon"]["memory"]
        return float(memory["rss_peak_bytes"] - memory["rss_ready_bytes"]) / 1e6

    def fsyncs(self) -> int:
        assert self.fsyncs_at is not None
        count: int = struct.unpack("l", self.fsyncs_at.read_bytes())[0]
        return count


@dataclass
class Simulator(Process):
    def call(self, method: str, path: str, /, **body: Any) -> Any:
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        with httpx2.Client(base_url="http://simulator", transport=transport, timeout=60) as http:
            answer = http.request(method, f"/simulator{path}", json=body if method in ("POST", "PUT") else None)
        answer.raise_for_status()
        return answer.json()


@dataclass
class Stage:
    """A folder on the disk that is measured, and how much is wanted of each benchmark."""

    folder: Path
    load: Load
    rounds: int = 5
    quick: bool = False

    @cached_property
    def fsync_counter(self) -> Path | None:
        """The library that counts, where there is a compiler."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            return None
        library = self.folder / "fsyncs.so"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / "fsyncs.c"], check=True, timeout=60)
        return library

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    @contextmanager
    def daemon(
        self, name: str, settings: Mapping[str, str] | None = None, *, count_fsyncs: bool = False, keep: bool = False
    ) -> Iterator[Daemon]:
        """A daemon on an empty database (``keep``: on the one that lies there), ready and with its upstream room in."""
        folder = self.folder / name if keep else self.fresh(name)
        daemon = self.start(folder, settings, count_fsyncs=count_fsyncs)
        try:
            _until(lambda: ready(daemon), f"the daemon in {folder} is ready")
            _until(lambda: daemon.status()["daemon"]["memory"]["rss_ready_bytes"] > 0, "its upstream room is in")
            yield daemon
        finally:
            daemon.stop()

    def start(self, folder: Path, settings: Mapping[str, str] | None = None, *, count_fsyncs: bool = False) -> Daemon:
        """A daemon on what lies in ``folder``; it is not waited for."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("UNHURRIED_", "ANTHROPIC_"))
        }
        daemon = Daemon(None, folder / "s", folder / "u.db")  # type: ignore[arg-type]  # in a moment
        environment = {
            **inherited,
            **QUIET,
            "UNHURRIED_SOCKET": str(daemon.socket),
            "UNHURRIED_DATABASE": str(daemon.database),
            "UNHURRIED_UPSTREAM__BASE_URL": f"unix:{self.folder / 'simulator' / 's'}",
            **(settings or {}),
        }
        if count_fsyncs and self.fsync_counter is not None:
            daemon.fsyncs_at = folder / "fsyncs"
            environment |= {"LD_PRELOAD": str(self.fsync_counter), "FSYNCS": str(daemon.fsyncs_at)}
        with (folder / "log").open("ab") as log:
            daemon.popen = subprocess.Popen(
                [sys.executable, "-m", "unhurried", "serve"], env=environment, stdout=log, stderr=log
            )
        return daemon

    @contextmanager
    def simulator(self, *, speed: float = 1.0, turnaround_s: float = 2.0) -> Iterator[Simulator]:
        """Where the daemons of this stage send their batches; ``turnaround_s`` by the simulator's clock."""
        folder = self.fresh("simulator")
        command = [sys.executable, "-m", "unhurried", "simulate", "--socket", str(folder / "s"), "--speed", str(speed)]
        with self._process([*command, "--turnaround", str(turnaround_s)], folder) as (popen, address):
            yield Simulator(popen, address)

    @contextmanager
    def answering(self) -> Iterator[Process]:
        """The HTTP stack of the daemon, checks included, which stores nothing (H)."""
        folder = self.fresh("answering")
        command = [sys.executable, "-m", "tests.benchmarks.answering", str(folder)]
        with self._process(command, folder) as (popen, address):
            yield Process(popen, address)

    @contextmanager
    def redis(self) -> Iterator[Process | None]:
        """Redis with ``appendfsync always`` on the same disk; None where there is none."""
        program = shutil.which("redis-server")
        if program is None:
            yield None
            return
        folder = self.fresh("redis")
        options = {"unixsocket": folder / "s", "dir": folder, "port": 0, "save": "", "appendonly": "yes",
                   "appendfsync": "always", "auto-aof-rewrite-percentage": 0, "maxclients": 1000}  # fmt: skip
        command = [program, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        with self._process(command, folder) as (popen, address):
            yield Process(popen, address)

    @contextmanager
    def _process(self, command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        with (folder / "log").open("ab") as log:
            popen = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _until(lambda: _listens(folder / "s"), f"{command[0]} listens", popen)
            yield popen, folder / "s"
        finally:
            popen.terminate()
            popen.wait(30)


def _until(reached: Callable[[], bool], what: str, popen: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        if time.monotonic() > deadline or (popen is not None and popen.poll() is not None):
            raise RuntimeError(f"not reached: {what}")
        time.sleep(0.01)


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


def ready(daemon: Daemon) -> bool:
    """Whether it takes requests. Fails when it has ended."""
    if daemon.popen.poll() is not None:
        raise RuntimeError(f"the daemon ended with {daemon.popen.returncode}; see {daemon.database.parent / 'log'}")
    if not _listens(daemon.socket):
        return False
    with daemon.client() as client:
        return client.ready()[0]
