"""A simulator and a daemon, each a process of its own, and the means to kill them and to look at what they did."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.whole.nursery import Child
from unhurried.client import Client
from unhurried.store.sqlite.doctor import examine

PATIENCE_S: Final = 60.0
SPEED: Final = 60.0
FAST: Final = {
    "UNHURRIED_UPSTREAM__SIMULATOR": "true",
    "UNHURRIED_UPSTREAM__QUEUE_REQUESTS_MAX": "1000000",
    "UNHURRIED_FLUSHER__LINGER_S": "0.2",
    "UNHURRIED_POLLER__INTERVAL_MIN_S": "0.1",
    "UNHURRIED_POLLER__INTERVAL_MAX_S": "0.5",
    "UNHURRIED_POLLER__RETRY_PAUSE_S": "0.2",
    "UNHURRIED_POLLER__NOT_FOUND_GRACE_S": "1.5",
    "UNHURRIED_SUBMISSION__SETTLE_GRACE_S": "0.5",
    "UNHURRIED_SUBMISSION__SETTLE_ABSENT_S": "1.5",
    "UNHURRIED_SUBMISSION__PAUSE_S": "0.5",
    "UNHURRIED_SUBMISSION__UNREACHABLE_PAUSE_S": "0.2",
    "UNHURRIED_SUBMISSION__PAUSE_MAX_S": "1",
    "UNHURRIED_SUBMISSION__SWEEP_S": "1",
    "UNHURRIED_GRACE_S": "5",
    "UNHURRIED_STORE__RESERVE_BYTES": "1000000",
}


@dataclass
class Simulator:
    process: Child
    http: httpx2.Client

    def call(self, method: str, path: str, /, **body: Any) -> Any:
        answer = self.http.request(method, f"/simulator{path}", json=body if method in ("POST", "PUT") else None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def reset(self, **settings: Any) -> None:
        self.call("POST", "/reset", **{"speed": SPEED, "turnaround_s": 20.0, "queue_limit": 10_000_000, **settings})

    def fault(self, name: str, /, **parameters: Any) -> None:
        self.call("PUT", f"/faults/{name}", **parameters)

    def hold(self, point: str, **parameters: Any) -> None:
        self.call("PUT", f"/holds/{point}", **parameters)

    def wait_held(self, point: str) -> None:
        held = self.call("GET", f"/holds/{point}?wait=30")["held"]
        assert held, f"nobody came to {point}"

    def release(self, point: str) -> None:
        self.call("DELETE", f"/holds/{point}")

    def ledger(self) -> Any:
        return self.call("GET", "/ledger")

    def created(self) -> list[dict[str, Any]]:
        """Every request of ours that was ever created upstream."""
        return [json.loads(line) for line in self.http.get("/simulator/ledger/requests").text.splitlines()]


@dataclass
class Stage:
    """A folder with the sockets, the database and the logs of both processes."""

    folder: Path
    simulator: Simulator
    settings: dict[str, str] = field(default_factory=dict)
    daemon: "Child | subprocess.Popen[bytes] | None" = None
    fresh: Mapping[str, str] | None = None
    """Variables for a daemon that is a process from scratch, as LD_PRELOAD wants it. None: it is forked, which is
    faster."""
    program: Sequence[str] = (sys.executable, "-m", "unhurried")
    """What such a process runs."""

    @property
    def database(self) -> Path:
        return Path(self.settings.get("UNHURRIED_DATABASE", self.folder / "u.db"))

    @property
    def socket(self) -> Path:
        return self.folder / "s.sock"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("UNHURRIED_", "ANTHROPIC_"))
        }
        return {
            **inherited,
            **FAST,
            "UNHURRIED_SOCKET": str(self.socket),
            "UNHURRIED_DATABASE": str(self.database),
            "UNHURRIED_UPSTREAM__BASE_URL": f"unix:{self.folder / 'sim.sock'}",
            **self.settings,
        }

    def start(self) -> None:
        """Start the daemon and wait until it takes requests; the upstream room may still be on its way."""
        self.launch()
        self.until(self._answers, "the daemon took requests")

    def launch(self) -> None:
        """Start the daemon."""
        log = self.folder / "serve.log"
        if self.fresh is None:
            self.daemon = Child(["serve"], self.environment, log)
            return
        with log.open("ab") as output:
            self.daemon = subprocess.Popen(
                [*self.program, "serve"], env={**self.environment, **self.fresh}, stdout=output, stderr=output
            )

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()
        self.daemon = None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.daemon is None:
            return 0
        self.daemon.send_signal(signal.SIGTERM)
        try:
            return self.daemon.wait(20)
        finally:
            self.daemon.kill()
            self.daemon = None

    def client(self) -> Client:
        return Client(self.socket)

    def run(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "unhurried", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
        return done

    def until(self, reached: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """What ``reached`` returns once it is true. Fails with the end of the log when it takes too long."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if self.daemon is not None and self.daemon.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.daemon.returncode}:\n{self.tail()}")
            if result := reached():
                return result
            time.sleep(0.05)
        raise AssertionError(f"not within {patience_s:g} s: {what}\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        return "\n".join((self.folder / "serve.log").read_text().splitlines()[-lines:])

    def submit(self, count: int, queue: str = "default", **envelope: Any) -> list[str]:
        """Hand in ``count`` requests in one call; their ids."""
        with self.client() as client:
            answers = list(client.submit_many(lines(count, queue, **envelope)))
        assert not [answer for answer in answers if answer.error], answers[:3]
        ids = [answer.id for answer in answers]
        assert all(ids)
        return [id for id in ids if id is not None]

    def open_requests(self) -> int:
        with self.client() as client:
            counts = client.status()["requests"]
        return sum(n for of_queue in counts.values() for state, n in of_queue.items() if state in OPEN)

    def wait_finished(self, patience_s: float = PATIENCE_S) -> None:
        self.until(lambda: self.open_requests() == 0, "every request has its outcome", patience_s)

    def pull_all(self, queue: str = "default") -> dict[str, dict[str, Any]]:
        """Fetch and confirm everything: request id to result. Fails when one comes twice under two delivery ids."""
        found: dict[str, dict[str, Any]] = {}
        with self.client() as client:
            while batch := client.pull(f"pull:{queue}", limit=500, wait=0):
                for result in batch:
                    assert result.request_id not in found
                    found[result.request_id] = json.loads(bytes(result.result))
                client.ack([result.delivery_id for result in batch if result.delivery_id])
        return found

    def assert_sound(self) -> None:
        """What ``unhurried doctor`` runs finds nothing, the daemon at work beside it."""
        assert asyncio.run(examine(self.database)) == []

    def assert_paid_once(self) -> None:
        """Upstream billed no request of ours twice."""
        ledger = self.simulator.ledger()
        assert ledger["requests_billed_more_than_once"]["by_custom_id"]["count"] == 0, ledger

    def assert_created_once(self) -> None:
        ledger = self.simulator.ledger()
        assert ledger["requests_created_more_than_once"]["by_custom_id"]["count"] == 0, ledger

    def _answers(self) -> bool:
        if not listens(self.socket):  # asked first: httpcore2 leaves the socket of a refused connect open
            return False
        with self.client() as client:
            return client.ready()[0]


OPEN: Final = frozenset({"queued", "assigned", "submitted"})


def lines(
    count: int, queue: str, *, model: str = "claude-haiku-4-5", text: str = "Hello", **envelope: Any
) -> Iterator[bytes]:
    for n in range(count):
        params = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": f"{text} {queue} {n}"}]}
        yield json.dumps({"custom_id": f"{queue}-{n}", "queue": queue, "params": params, **envelope}).encode()


def listens(address: Path) -> bool:
    """Whether somebody takes connections there: the file is there a little earlier."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


@contextmanager
def stage(folder: Path, settings: Iterable[tuple[str, str]] = (), *, speed: float = SPEED) -> Iterator[Stage]:
    """A running simulator and a daemon that is not started yet; both are gone afterwards."""
    address = folder / "sim.sock"
    arguments = ["simulate", "--socket", str(address), "--speed", str(speed), "--turnaround", "20"]
    process = Child(arguments, os.environ, folder / "simulate.log")
    http = httpx2.Client(base_url="http://simulator", transport=httpx2.HTTPTransport(uds=str(address)), timeout=60)
    scene = Stage(folder, Simulator(process, http), dict(settings))
    try:
        scene.until(lambda: listens(address), "the simulator listens")
        yield scene
    finally:
        scene.stop()
        http.close()
        process.terminate()
        process.wait(10)
