"""Processes that are forked from one in which everything is imported already.

A daemon of ours spends two seconds importing before it does anything. Tests that start hundreds of them fork each from
the standard library's fork server instead: a process of its own all the same, killed like any other, ready in a tenth
of the time. What is measured in memory or in start-up time wants a process from scratch (``subprocess``).
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PRELOAD: Final = ["anthropic", "fastapi", "pydantic.v1", "typer", "unhurried.app", "unhurried.cli.commands",
                  "unhurried.cli.serve", "unhurried.simulator.app", "unhurried.simulator.server",
                  "tests.whole.nursery"]  # fmt: skip

_context: Final = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)


class Child:
    """A process that runs one command of ours; it is used as a ``subprocess.Popen`` is."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self._process = _context.Process(target=_run, args=(tuple(arguments), dict(environ), str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises ``subprocess.TimeoutExpired``."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("unhurried", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: Sequence[str], environ: Mapping[str, str], log: str) -> None:
    from unhurried.cli import main

    os.environ.clear()
    os.environ.update(environ)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.exit(main(arguments))
