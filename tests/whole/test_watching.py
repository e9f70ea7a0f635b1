"""An operator's screen and an orchestrator's probes, on a daemon that works, stops and comes back."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.whole.stage import PATIENCE_S, Stage
from unhurried.cli.asking import get

ROWS, COLUMNS = 14, 70
IN_CONTROL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal the one whose Ctrl-C the command hears."""


@dataclass
class Terminal:
    """A command on a terminal of ``COLUMNS`` × ``ROWS``."""

    process: "subprocess.Popen[bytes]"
    file: int
    shown: str = ""

    def until(self, text: str) -> str:
        """What was shown since the last time, up to and with ``text``."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was not shown:\n{self.shown[-3000:]}"
            self._read()
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def press(self, key: bytes) -> None:
        os.write(self.file, key)

    def ended(self) -> int:
        """The exit code."""
        code = self.process.wait(PATIENCE_S)
        self._read()
        return code

    def _read(self) -> None:
        while select.select([self.file], [], [], 0.1)[0]:
            self.shown += os.read(self.file, 65_536).decode(errors="replace")


@contextmanager
def terminal(scene: Stage, *arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", IN_CONTROL, sys.executable, "-m", "unhurried", *arguments],
        env={**scene.environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)  # kept until here: without it what was shown last could not be read
        os.close(ours)


def test_top_goes_on_while_the_daemon_restarts_and_q_ends_it(scene: Stage) -> None:
    scene.start()
    scene.submit(20, "labels")
    with terminal(scene, "top", "--interval", "0.2") as screen:
        screen.until("labels")
        screen.until("accepted 0.0/s")
        scene.kill()
        screen.until("no daemon answers")
        scene.start()
        screen.until("labels")
        screen.press(b"q")
        assert screen.ended() == 0
    assert "\x1b[?25h" in screen.shown  # the cursor is there again
    scene.kill()  # it may be importing the SDK, which a stop in order would wait for


def test_top_ends_in_order_at_ctrl_c(scene: Stage) -> None:
    with terminal(scene, "top", "--interval", "0.2") as screen:
        screen.until("waiting for it")
        screen.press(b"\x03")
        assert screen.ended() == 130
    assert "Traceback" not in screen.shown
    assert "\x1b[?25h" in screen.shown


def test_on_a_pipe_top_prints_its_frames_and_ends(shared: Stage) -> None:
    assert shared.run("top").stdout.count("accepted –/s") == 1
    told = shared.run("top", "--frames", "3", "--interval", "0.1").stdout
    assert told.count("/s   finished ") == 3
    assert told.count("accepted 0.0/s") == 2
    assert "\x1b" not in told


def test_status_probes_and_metrics_of_a_daemon_at_work(shared: Stage) -> None:
    scene = shared
    scene.submit(30, "labels")
    scene.wait_finished()
    assert "pull:labels" in scene.run("status").stdout
    assert scene.run("health").stdout == "healthy\n"
    assert scene.run("health", "--ready").stdout == "ready\n"
    told = metrics(scene)
    assert told['unhurried_requests{queue="labels",state="succeeded"}'] == 30
    assert told['unhurried_creates_total{outcome="created"}'] >= 1
    assert told['unhurried_upstream_calls_total{call="create",status="2xx"}'] >= 1
    assert told['unhurried_result_lines_total{outcome="succeeded"}'] == 30
    assert told['unhurried_tokens_total{kind="output",model="claude-haiku-4-5"}'] > 0
    assert told["unhurried_commit_seconds_count"] > 0
    assert {f'unhurried_loop_steps_total{{loop="{name}"}}' for name in LOOPS} <= told.keys()


LOOPS = (
    "flusher", "submission", "settlement", "tracker", "collector", "dispatcher", "keeper", "waiters", "writer",
)  # fmt: skip


def metrics(scene: Stage) -> dict[str, float]:
    with scene.client() as client:
        text = client._http.get("/metrics").text
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(number) for name, _, number in rows}


def answers(scene: Stage) -> bool:
    try:
        return get(scene.socket, "/healthz", 1.0)[0] == 200
    except OSError:
        return False


def test_a_disk_that_is_nearly_full_makes_the_daemon_unready_and_not_unhealthy(scene: Stage) -> None:
    scene.settings["UNHURRIED_STORE__DISK_FREE_BYTES_MIN"] = str(10**18)
    scene.launch()
    scene.until(lambda: answers(scene), "the daemon answers")
    assert "nearly full" in scene.run("health", "--ready", expect=1).stderr
    assert scene.run("health", "--live").stdout == "healthy\n"
    scene.kill()  # as above
